"""The transformers sampler on tiny random models: it must say what ``generate`` says, and draw fairly."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from repro.errors import UserError
from repro.sampling import Request, SamplingParams
from repro.sampling.transformers import TransformersSampler, draw, uniforms

VOCABULARY = 24
PROMPTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10 w11 w12 w13", "w2 w3", "w9 w8 w7 w6 w5", "w4"]
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 1},
    "qwen2": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 4},
    "gemma": {"num_key_value_heads": 4, "head_dim": 8},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8},
}


def make_model(folder: Path, kind: str = "llama", **settings: Any) -> Path:
    """A random model of ``kind`` with a word-level tokenizer (<pad>, <bos>, <eos>, w0, w1, ...)."""
    words = ["<pad>", "<bos>", "<eos>"] + [f"w{i}" for i in range(VOCABULARY - 3)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    ).save_pretrained(folder)
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    torch.manual_seed(5)
    config = CONFIG_MAPPING[kind](**(shape | ARCHITECTURES[kind] | settings))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> TransformersSampler:
    # Softer weights than elsewhere, so that no token is certain and end-of-text comes now and then.
    sampler = TransformersSampler(device="cpu")
    sampler.load(make_model(tmp_path_factory.mktemp("llama"), initializer_range=0.1))
    return sampler


def next_token_probabilities(sampler: TransformersSampler, prompt: str) -> np.ndarray:
    ids = sampler.tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return sampler.model(ids).logits[0, -1].double().softmax(-1).numpy()


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_greedy_equals_generate(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.sampling.transformers.PREFILL", 10)  # two or more passes over the prompts
    sampler = TransformersSampler(batch_size=8, device="cpu")
    sampler.load(make_model(tmp_path, kind))
    # Whatever the folder says, transformers reads qwen2's tokenizer.json as byte pairs.
    sampler.tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    params = SamplingParams(temperature=0, max_tokens=24)
    results = sampler.sample([Request(p, (0, 1)) for p in PROMPTS], params)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path)
    for prompt, result in zip(PROMPTS, results, strict=True):
        ids = sampler.tokenizer(prompt, return_tensors="pt")["input_ids"]
        new = reference.generate(ids, do_sample=False, max_new_tokens=24, pad_token_id=0)[0, ids.shape[1] :]
        assert result.prompt_tokens == ids.shape[1]
        for sample in result.samples:
            assert sample.text == sampler.tokenizer.decode(new, skip_special_tokens=True)
            assert sample.tokens == len(new)
            assert sample.finish == ("stop" if new[-1] == 2 else "length")


def test_a_completion_does_not_depend_on_its_neighbours(sampler: TransformersSampler) -> None:
    params = SamplingParams(max_tokens=20)
    requests = [Request(p, tuple(range(100 * i, 100 * i + 5))) for i, p in enumerate(PROMPTS)]
    together = sampler.sample(requests, params)
    for batch_size in (1, 7):
        sampler.batch_size = batch_size
        assert sampler.sample(requests, params) == together
    sampler.batch_size = 512
    assert sampler.sample(requests[::-1], params)[::-1] == together
    alone = sampler.sample([Request(PROMPTS[2], (203,))], params)
    assert alone[0].samples[0] == together[2].samples[3]


def test_different_seeds_give_different_samples(sampler: TransformersSampler) -> None:
    result = sampler.sample([Request("w1 w2", tuple(range(32)))], SamplingParams(max_tokens=20))[0]
    assert len({sample.text for sample in result.samples}) > 28
    assert len({tuple(uniforms(seed, 4)) for seed in (0, 1, 2**63, 2**64 - 1)}) == 4


def test_counts_and_finish(sampler: TransformersSampler) -> None:
    done: list[int] = []
    result = sampler.sample(
        [Request("w1", tuple(range(600))), Request("w2 w3", ())], SamplingParams(max_tokens=12), done.append
    )
    samples = result[0].samples
    assert result[1].samples == () and result[1].prompt_tokens == 2
    assert sum(done) == 600
    assert {sample.finish for sample in samples} == {"stop", "length"}
    for sample in samples:
        assert "<eos>" not in sample.text
        assert sample.tokens == 12 if sample.finish == "length" else 1 <= sample.tokens <= 12
    assert max(len(sample.text.split()) for sample in samples if sample.finish == "stop") < 12


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_frequencies_match_the_softmax(sampler: TransformersSampler, temperature: float) -> None:
    n = 6000
    params = SamplingParams(temperature=temperature, max_tokens=1)
    samples = sampler.sample([Request("w1 w2 w3", tuple(range(n)))], params)[0].samples
    counts = Counter(sample.text for sample in samples)
    ids = sampler.tokenizer("w1 w2 w3", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        probabilities = (sampler.model(ids).logits[0, -1].double() / temperature).softmax(-1).numpy()
    # The three special tokens all decode to no text: compare their sum.
    observed = [counts[""]] + [counts[f"w{i}"] for i in range(VOCABULARY - 3)]
    expected = n * np.append(probabilities[:3].sum(), probabilities[3:])
    assert sum(observed) == n
    assert chisquare(observed, expected).pvalue > 1e-3


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({"top_k": 2}, {1, 3}),
        ({"top_p": 0.75}, {1, 3}),  # the smallest set that reaches the mass: .5 < .75 <= .8
        ({"top_p": 0.84}, {0, 1, 3}),
        ({"top_p": 0.01}, {1}),
        ({"top_k": 3, "top_p": 0.84}, {1, 3}),  # .8 of the .95 that top_k leaves is .842
        ({"temperature": 0.5, "top_p": 0.7}, {1, 3}),  # .25 : .09 : .0225 : .0025
        ({"temperature": 0.0}, {1}),
        ({}, {0, 1, 2, 3}),
    ],
)
def test_filters(settings: dict[str, Any], allowed: set[int]) -> None:
    logits = torch.tensor([[0.15, 0.5, 0.05, 0.3]]).log().repeat(200, 1)
    drawn = draw(logits, torch.arange(200) / 200, SamplingParams(**settings))
    assert set(drawn.tolist()) == allowed


def test_draw_never_returns_an_impossible_token() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).repeat(3, 1)
    uniform = torch.tensor([0.0, 0.5, 1 - 2.0**-24])
    assert draw(logits, uniform, SamplingParams()).tolist() == [1, 3, 3]


def test_folder_without_a_model_is_a_user_error(tmp_path: Path) -> None:
    sampler = TransformersSampler()
    with pytest.raises(UserError, match="nowhere"):
        sampler.load(tmp_path / "nowhere")
    make_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="Cannot load"):
        sampler.load(tmp_path)


def test_prompt_without_tokens_is_a_user_error(sampler: TransformersSampler) -> None:
    with pytest.raises(UserError, match="no tokens"):
        sampler.sample([Request("", (0,))], SamplingParams())
