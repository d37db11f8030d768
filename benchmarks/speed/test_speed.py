"""The suite beside plain transformers, bare TRL and bare math-verify, and what it adds around them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from importlib.util import find_spec
from itertools import cycle
from math import sqrt
from pathlib import Path
from statistics import mean, median, variance
from time import perf_counter
from typing import Any

import math_verify
import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from repro import base_model, files, problems, run
from repro.config import Study
from repro.flops import FORWARD_PASSES, TRAINING_PASSES, Tally, batch_tally, flops, sample_tally
from repro.layout import Layout
from repro.objectives import DPO, SFT, Optimizer
from repro.problems import ladder
from repro.records import Verdict
from repro.sampling import Request, SamplingParams, fingerprint, prompt_ids, vllm
from repro.sampling.transformers import TransformersSampler
from repro.seeds import generator, stream_seed
from repro.shapes import shape_of
from repro.training import Row, encode
from repro.training.batches import batches
from repro.training.trl import TRLTrainer
from repro.verify import Verifier

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: `make vllm` has it")

Compare = Callable[..., tuple[int, int]]  # the fixtures of conftest.py
Show = Callable[[str, float, float], None]

PROMPTS, SAMPLES = 64, 8  # completions decoded together: their product, on both sides
SFT_STEPS, DPO_STEPS, BATCH = 16, 8, 16
VLLM_PROMPTS = 16
STARTS, RELOADS = 1, 20  # of vLLM's engine
LARGER = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 16,
          "num_key_value_heads": 4}  # fmt: skip

OPTIMIZER = Optimizer(learning_rate=1e-3, weight_decay=0.1, beta2=0.98)
SETTINGS: dict[str, Any] = {  # the same in TRL's terms, and TRL's defaults but where a CPU cannot bear them
    "learning_rate": OPTIMIZER.learning_rate,
    "weight_decay": OPTIMIZER.weight_decay,
    "adam_beta2": OPTIMIZER.beta2,
    "lr_scheduler_type": "constant",
    "per_device_train_batch_size": BATCH,
    "num_train_epochs": 1,
    "train_sampling_strategy": "sequential",
    "bf16": False,
    "gradient_checkpointing": False,
    "use_cpu": not torch.cuda.is_available(),
    "dataloader_pin_memory": False,
    "save_strategy": "no",
    "report_to": "none",
}


# -- sampling ------------------------------------------------------------------------------------------


class Generate:
    """``transformers.generate`` on prompts, ``SAMPLES`` times each; token counts up to end-of-text."""

    def __init__(self, model_dir: Path, device: torch.device) -> None:
        model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
        self.model = model.to(device).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(model_dir, padding_side="left")
        self.ends = torch.tensor(self.model.generation_config.eos_token_id, device=device).reshape(-1)

    def __call__(self, prompts: list[str], max_tokens: int) -> list[int]:
        inputs = self.tokenizer(prompts, return_tensors="pt", padding=True).to(self.model.device)
        out = self.model.generate(
            **inputs,
            do_sample=True,
            top_k=0,  # else 50
            max_new_tokens=max_tokens,
            num_return_sequences=SAMPLES,
        )
        new = out[:, inputs["input_ids"].shape[1] :]
        self.tokenizer.batch_decode(new, skip_special_tokens=True)
        before_end = torch.isin(new, self.ends).cumsum(1) == 0
        return (before_end.sum(1) + 1).clamp(max=max_tokens).tolist()


def compare_samplers(
    compare: Compare, row: str, model_dir: Path, study: Study, layout: Layout
) -> list[list[int]]:
    """The token counts of the last round's completions, of both sides."""
    training_set = problems.read(layout.problems / "train.jsonl")
    prompts = [training_set.prompts[problem.id] for problem in training_set.problems[:PROMPTS]]
    limit = study.sampling.max_tokens
    seeds = [tuple(stream_seed(i, k) for k in range(SAMPLES)) for i in range(PROMPTS)]
    requests = [Request(prompt, own) for prompt, own in zip(prompts, seeds, strict=True)]
    sampler = TransformersSampler(batch_size=PROMPTS * SAMPLES)
    sampler.load(model_dir)
    generate = Generate(model_dir, sampler.device)
    torch.manual_seed(0)
    lengths: list[list[int]] = [[], []]

    def ours() -> int:
        drawn = sampler.sample(requests, SamplingParams(max_tokens=limit))
        lengths[0] = [sample.tokens for sampled in drawn for sample in sampled.samples]
        return sum(lengths[0])

    def reference() -> int:
        lengths[1] = generate(prompts, limit)
        return sum(lengths[1])

    shape = shape_of(model_dir)

    def per_token() -> float:
        prompt = [len(prompt_ids(sampler.tokenizer, text)) for text in prompts]
        drawn = [lengths[0][i : i + SAMPLES] for i in range(0, len(lengths[0]), SAMPLES)]
        tallies = (sample_tally(n, own, window=shape.window) for n, own in zip(prompt, drawn, strict=True))
        return flops(shape, sum(tallies, Tally.zero()), FORWARD_PASSES) / sum(lengths[0])

    compare(row, ours, reference, flops=per_token)
    return lengths


def test_sampling_to_the_natural_end(compare: Compare, study: Study, layout: Layout, base: Path) -> None:
    ours, reference = compare_samplers(compare, "sampler, tokens/s", base, study, layout)
    assert len(ours) == len(reference) == PROMPTS * SAMPLES
    # The random streams differ, so the work is the same only on average: within six standard errors.
    error = sqrt((variance(ours) + variance(reference)) / len(ours))
    assert abs(mean(ours) - mean(reference)) < 6 * error
    assert mean(ours) < study.sampling.max_tokens


def test_sampling_to_the_limit(
    compare: Compare, study: Study, layout: Layout, base: Path, tmp_path: Path
) -> None:
    endless = shutil.copytree(base, tmp_path / "endless")
    for name in ("config.json", "generation_config.json"):
        config = json.loads((endless / name).read_text())
        config["eos_token_id"] = 2**30  # a token that is never drawn
        (endless / name).write_text(json.dumps(config))
    ours, reference = compare_samplers(compare, "sampler, no early ends, tokens/s", endless, study, layout)
    assert ours == reference == [study.sampling.max_tokens] * (PROMPTS * SAMPLES)


# Bare vLLM in a process like those of the suite's engines: what to draw comes in as a line of JSON; for each
# line after it all is drawn once, and the number of tokens goes out.
BARE_VLLM = """
import json, os, sys
replies = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
from vllm import LLM, SamplingParams
settings, prompts, samples, limit = json.loads(sys.stdin.readline())
llm = LLM(**settings)
params = SamplingParams(n=samples, max_tokens=limit, ignore_eos=True, seed=0)
for line in sys.stdin:
    done = llm.generate(prompts, params, use_tqdm=False)
    print(sum(len(one.token_ids) for each in done for one in each.outputs), file=replies, flush=True)
"""


@needs_vllm
@pytest.mark.parametrize("larger", [False, True])
def test_sampling_with_vllm(
    larger: bool, compare: Compare, study: Study, layout: Layout, tmp_path: Path
) -> None:
    """Completions as long as the study allows, on engines that have started: ours has a seed for each of them
    and the log-probability of each token, and hands both to this process."""
    training_set = problems.read(layout.problems / "train.jsonl")
    prompts = [training_set.prompts[problem.id] for problem in training_set.problems[:VLLM_PROMPTS]]
    folder = vllm_model(layout.base, tmp_path / "model", 0, larger)
    limit = study.sampling.max_tokens
    requests = [
        Request(prompt, tuple(stream_seed(i, k) for k in range(SAMPLES))) for i, prompt in enumerate(prompts)
    ]
    (environment,) = vllm.environments("cpu", 1, 1)
    with vllm.VLLMSampler() as sampler:
        what = [{"model": str(folder), **sampler._settings}, prompts, SAMPLES, limit]
        sampler.load(folder)
        sampler.ends = []  # none ends a completion before the limit
        with subprocess.Popen(
            [sys.executable, "-c", BARE_VLLM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment,
        ) as bare:  # fmt: skip
            commands, replies = bare.stdin, bare.stdout
            assert commands and replies
            print(json.dumps(what), file=commands, flush=True)

            def ours() -> int:
                drawn = sampler.sample(requests, SamplingParams(max_tokens=limit))
                return sum(sample.tokens for sampled in drawn for sample in sampled.samples)

            def reference() -> int:
                print(file=commands, flush=True)
                return int(replies.readline())

            assert ours() == reference()  # once before: engines start
            size = f"{shape_of(folder).parameters / 1e6:.1f}"
            tokens = compare(f"vLLM, {size} million weights, tokens/s", ours, reference, rounds=2)
            assert tokens[0] == tokens[1] == VLLM_PROMPTS * SAMPLES * limit


def vllm_model(base: Path, folder: Path, seed: int, larger: bool) -> Path:
    """A model without training, of the pocket study's shape or a larger one."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns(files.ORIGIN))  # which has the other's sizes
    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(base)
    if larger:
        config.update(LARGER)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@needs_vllm
@pytest.mark.parametrize("larger", [False, True])
def test_new_weights_in_vllm(
    larger: bool, benchmark: Any, show: Show, monkeypatch: pytest.MonkeyPatch, base: Path, tmp_path: Path
) -> None:
    """Wall time of a round outside sampling and training: from saved weights to the first token that an
    engine draws with them, and back to sleep; with one that is kept, beside a new one each round."""
    folders = [vllm_model(base, tmp_path / str(seed), seed, larger) for seed in (0, 1)]
    parts: defaultdict[str, list[float]] = defaultdict(list)

    def timed(name: str, call: Callable[..., Any], *args: Any) -> Any:
        started = perf_counter()
        value = call(*args)
        parts[name].append(perf_counter() - started)
        return value

    def ms(name: str) -> float:
        return 1000 * median(parts[name])

    ask, log_probs = vllm._Engine.ask, fingerprint.log_probs
    monkeypatch.setattr(
        vllm._Engine, "ask", lambda self, command, value: timed(command, ask, self, command, value)
    )
    monkeypatch.setattr(fingerprint, "log_probs", lambda *args: timed("fingerprint", log_probs, *args))
    turn = cycle(folders)

    def use(sampler: vllm.VLLMSampler) -> None:
        sampler.load(next(turn))
        sampler.sample([Request("1", (0,))], SamplingParams(max_tokens=1))
        sampler.close()

    with vllm.VLLMSampler() as sampler:
        for _ in range(STARTS):
            timed("new", use, sampler)
    with vllm.VLLMSampler(reuse=True) as sampler:
        use(sampler)
        engines = list(sampler._engines)
        parts = defaultdict(list, new=parts["new"])
        benchmark.pedantic(timed, args=("kept", use, sampler), rounds=RELOADS)
        assert sampler._engines == engines
    size = f"vLLM, {shape_of(folders[0]).parameters / 1e6:.1f} million weights"
    show(f"{size}: a kept engine's round, ms of a new one's", ms("kept"), ms("new"))
    for name in ("reload", "log_probs", "fingerprint"):
        show(f"{size}: {name}, ms of that", ms(name), ms("kept"))


# -- training ------------------------------------------------------------------------------------------


def text_batches(study: Study, steps: int) -> list[list[tuple[str, str]]]:
    """(prompt, response) rows as the suite batches them: like lengths together."""
    rows = base_model.corpus_rows(study, steps * BATCH, seed=1)
    order = batches([len((p + " " + r).split()) for p, r in rows], BATCH, generator("speed"))
    return [[rows[i] for i in next(order)] for _ in range(steps)]


def finish(trainer: Any, folder: Path) -> tuple[float, int]:
    """Mean loss and tokens of a bare TRL run, whose weights go to ``folder``."""
    loss = trainer.train().training_loss
    trainer.save_model(folder)
    return loss, int(
        [entry["num_tokens"] for entry in trainer.state.log_history if "num_tokens" in entry][-1]
    )


def test_sft(compare: Compare, study: Study, base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    plan = [[encode(tokenizer, p, [r], 256) for p, r in batch] for batch in text_batches(study, SFT_STEPS)]
    losses: list[float] = [0.0, 0.0]

    def ours() -> int:
        losses[0] = TRLTrainer().train(base, plan, SFT(), OPTIMIZER, tmp_path / "ours").loss
        return sum(row.tokens for batch in plan for row in batch)

    def reference() -> int:
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
            processing_class=AutoTokenizer.from_pretrained(base),
            args=SFTConfig(
                output_dir=str(tmp_path / "reference"),
                dataset_kwargs={"skip_prepare_dataset": True},
                **SETTINGS,
            ),
            train_dataset=Dataset.from_list([sft_columns(row) for batch in plan for row in batch]),
        )
        losses[1], tokens = finish(trainer, tmp_path / "reference")
        return tokens

    tokens = compare("trainer, SFT, tokens/s", ours, reference, 2, lambda: per_trained_token(base, plan))
    assert tokens[0] == tokens[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def per_trained_token(base: Path, plan: list[list[Row]]) -> float:
    shape = shape_of(base)
    tally = sum((batch_tally([row.tally(shape.window) for row in batch]) for batch in plan), Tally.zero())
    return flops(shape, tally, TRAINING_PASSES) / sum(row.tokens for batch in plan for row in batch)


def sft_columns(row: Row) -> dict[str, list[int]]:
    (response,) = row.responses
    ids = [*row.prompt, *response]
    return {"input_ids": ids, "labels": [-100] * len(row.prompt) + list(response)}


def test_dpo(compare: Compare, study: Study, base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    pairs = [  # rejected: the response to the next prompt of the batch
        [(p, chosen, batch[k - 1][1]) for k, (p, chosen) in enumerate(batch)]
        for batch in text_batches(study, DPO_STEPS)
    ]
    plan = [
        [encode(tokenizer, prompt, [chosen, rejected], 256) for prompt, chosen, rejected in batch]
        for batch in pairs
    ]
    texts = [
        {"prompt": prompt, "chosen": f" {chosen}", "rejected": f" {rejected}"}
        for batch in pairs
        for prompt, chosen, rejected in batch
    ]
    losses: list[float] = [0.0, 0.0]

    def ours() -> int:
        losses[0] = TRLTrainer().train(base, plan, DPO(), OPTIMIZER, tmp_path / "ours").loss
        return sum(row.tokens for batch in plan for row in batch)

    def reference() -> int:
        trainer = DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
            processing_class=AutoTokenizer.from_pretrained(base),
            args=DPOConfig(
                output_dir=str(tmp_path / "reference"),
                precompute_ref_log_probs=True,
                **SETTINGS,
            ),
            train_dataset=Dataset.from_list(texts),  # it has no way in for token ids
        )
        losses[1], tokens = finish(trainer, tmp_path / "reference")
        return tokens

    tokens = compare("trainer, DPO, tokens/s", ours, reference, rounds=2)
    assert tokens[0] == tokens[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


# -- verifying -----------------------------------------------------------------------------------------


def compare_verifiers(
    compare: Compare, row: str, answers: list[str], golds: list[str], rounds: int = 4
) -> None:
    texts = [f"so the answer is \\boxed{{{answer}}}" for answer in answers]
    correct = [0, 0]
    with Verifier(workers=1) as verifier:
        verifier.verify(texts[:1], golds[:1])  # a worker starts once per run, not per call

        def ours() -> int:
            correct[0] = verifier.verify(texts, golds).count(Verdict.CORRECT)
            return len(texts)

        def reference() -> int:
            parsed = [math_verify.parse(f"\\boxed{{{gold}}}") for gold in golds]
            answers = [math_verify.parse(text) for text in texts]
            correct[1] = sum(map(math_verify.verify, parsed, answers))
            return len(texts)

        compare(row, ours, reference, rounds=rounds)
    assert 0 < correct[0] == correct[1] < len(texts)


def test_verifying_numbers(compare: Compare) -> None:
    rows = list(ladder.corpus(200, seed=1))
    golds = [answer for _, _, answer in rows]
    answers = [str(int(gold) + i % 2) for i, gold in enumerate(golds)]
    compare_verifiers(compare, "verifier, numbers, answers/s", answers, golds)


def test_verifying_fractions(compare: Compare) -> None:
    golds = [f"\\frac{{{n}}}{{{n + 7}}}" for n in range(2, 62)]
    answers = [f"\\frac{{{3 * n}}}{{{3 * n + 21 + n % 2}}}" for n in range(2, 62)]
    compare_verifiers(compare, "verifier, fractions, answers/s", answers, golds)


FORMULAS = [  # a gold of MATH's kinds with the numbers @ and #, an equal answer, and one that is wrong
    (r"@\sqrt{#}", r"\sqrt{#} \cdot @", r"#\sqrt{@}"),
    (r"\frac{@\pi}{#}", r"\frac{@}{#}\pi", r"\frac{#\pi}{@}"),
    (r"x^2+@x-#", r"-#+x^2+@x", r"x^2-@x-#"),
    (r"(x-@)(x+#)", r"(x+#)(x-@)", r"(x-@)(x-#)"),
    (r"\left(@,\frac{1}{#}\right)", r"(@,1/#)", r"(\frac{1}{#},@)"),
    (r"[@,\infty)", r"[ @, \infty )", r"(@,\infty)"),
    (r"@,#", r"#, @", r"@"),
    (r"@+#i", r"#i+@", r"@-#i"),
    (r"\frac{@+\sqrt{#}}{2}", r"\frac{\sqrt{#}+@}{2}", r"\frac{@-\sqrt{#}}{2}"),
    (r"\begin{pmatrix} @ \\ # \end{pmatrix}", r"\begin{pmatrix} @\\# \end{pmatrix}",
    r"\begin{pmatrix} # \\ @ \end{pmatrix}"),
]  # fmt: skip


def test_verifying_formulas(compare: Compare) -> None:
    rows = [
        [form.replace("@", str(2 * n + 1)).replace("#", str(3 * n + 5)) for form in forms]
        for forms in FORMULAS
        for n in range(1, 17)
    ]
    golds = [gold for gold, _, _ in rows]
    answers = [wrong if i % 2 else right for i, (_, right, wrong) in enumerate(rows)]
    # Once: from the second time on, the worker remembers what it has read.
    compare_verifiers(compare, "verifier, formulas, answers/s", answers, golds, rounds=1)


# -- the whole -----------------------------------------------------------------------------------------


def test_overhead(
    benchmark: Any, show: Show, monkeypatch: pytest.MonkeyPatch, study: Study, layout: Layout
) -> None:
    """Wall time of a run outside sampling, verifying and training, as a share of the whole.

    Loading weights into the sampler counts as outside; so do journal, ledger, hashes and snapshots. A short
    run shows an upper bound: much of it is per call or per run.
    """
    labs: list[run.Lab] = []

    class Kept(run.Lab):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            labs.append(self)

    monkeypatch.setattr(run, "Lab", Kept)
    started = perf_counter()
    manifest = benchmark.pedantic(run.train, args=(study, "control_unverified", 0, layout), rounds=1)
    whole = perf_counter() - started
    assert manifest["status"] == "ok"
    assert [lab.spent for lab in labs] == [row["spent"] for row in manifest["budgets"]]
    assert labs[0].steps > 0
    outside = whole - sum(row["seconds"] for row in manifest["machine"])
    show("a run outside its engines, ms of all", 1000 * outside, 1000 * whole)
