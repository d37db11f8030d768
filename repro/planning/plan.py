"""What a study costs, before it costs anything: FLOPs, GPU-hours, disk, memory, and what it could then see.

Budgets are exact, so the totals of the runs are. How a method divides a budget among accounts is decided
while it runs; here that is *estimated*, from lengths of prompts and completions (measured where the problem
files are there) and from how many tokens each method sampled for each that it trained on in the committed
pocket study. docs/plan.md derives every formula; the printed plan names every assumption. Loads no torch.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from repro import profiles
from repro.config import BenchmarkName, HubModel, LadderProblems, Study, WarmStart
from repro.discovery import ROOT, load_method, method_ids
from repro.errors import UserError
from repro.flops import (
    DPO_PASSES,
    FORWARD_PASSES,
    TRAINING_PASSES,
    ModelShape,
    flops,
    sample_tally,
    sequence_tally,
)
from repro.layout import Layout
from repro.method import DPO, Method
from repro.planning import shapes
from repro.planning.hardware import GIB, GPUS
from repro.planning.power import detectable
from repro.records import Role

ROWS = {"gsm8k": 1319, "math": 5000, "math500": 500, "aime24": 30, "amc23": 40}  # of the benchmarks
POCKET = ROOT / "results" / "pocket" / "records"  # where the shares of sampling and training were measured
SAMPLED_PER_TRAINED = 4.0  # tokens, of a method that the pocket study does not have

CHARACTERS = 3.5  # per token, of questions and solutions of mathematics
SOLUTION_BYTES = 4.5  # per sampled token, in the journal

MFU = 0.30  # of the GPU's peak, in training and scoring
SAMPLING_USE = 0.10  # the same in sampling and evaluation, which wait for memory
ACCURACY = 0.35  # of the compared models, for the power
SEED_NOISE = (
    0.1  # spread of a model's log-odds from training seed to training seed: about a point of accuracy
)

MASTER, GRADIENT, MOMENTS = 4, 4, 8  # bytes per trained weight: float32, and Adam's two
CAST = 2  # bytes per weight of autocast's bfloat16 copy
RESERVED = 3 * GIB // 2  # of a GPU: CUDA itself, kernels' workspace, fragmentation
SEQUENCES = 16  # longest sequences whose keys and values must fit at once for vLLM to be worth its while


@dataclass(frozen=True)
class Text:
    """Mean tokens of a problem set: its questions, its worked solutions, a model's completions."""

    question: int
    solution: int
    completion: int


# Questions and solutions: mean characters of the data files / CHARACTERS. Completions: what 0.5 to 8 billion
# parameters write, a little longer than the solutions of GSM8K and MATH; guesses for the competitions.
TEXTS = {
    "ladder": Text(20, 30, 30),
    "gsm8k": Text(68, 82, 200),
    "math": Text(60, 157, 400),
    "math500": Text(56, 152, 400),
    "aime24": Text(96, 152, 1200),
    "amc23": Text(77, 152, 800),
    "jsonl": Text(100, 150, 300),
}


@dataclass(frozen=True)
class Run:
    """A method's runs, over all seeds. ``flops`` are exact; their shares are estimates."""

    method: str
    runs: int
    flops: int
    train: float
    sample: float
    reward: float
    evaluate: float  # outside the budget
    note: str = ""


@dataclass(frozen=True)
class Benchmark:
    """What a checkpoint is evaluated on, and how likely a true gain is seen."""

    name: BenchmarkName
    problems: int
    samples: int
    prompt: int
    completion: int
    flops: int  # of one checkpoint
    power: dict[int, float]  # by gain in percentage points


@dataclass(frozen=True)
class Need:
    """Memory that a phase of a job needs on each of its GPUs. ``share`` is what of the GPU it may take."""

    phase: str
    bytes: float
    share: float
    detail: str
    mend: str  # where it does not fit

    def fits(self, memory: int) -> bool:
        return self.bytes <= self.share * memory


@dataclass(frozen=True)
class Place:
    """Disk that a kind of file needs. ``folder`` is where it lies."""

    what: str
    bytes: float
    folder: str


@dataclass(frozen=True)
class Plan:
    title: str
    model: str
    gpus: int  # of one job; 0: the CPU
    runs: list[Run]
    benchmarks: list[Benchmark]
    memory: list[Need]
    disk: list[Place]
    steps: dict[str, int]  # method -> FLOPs of one optimizer step, estimated
    prefill: float  # share of sampling's FLOPs that reads prompts, which is as fast as training
    assumptions: list[str]

    def total(self, account: str) -> float:
        return sum(getattr(run, account) for run in self.runs)

    def hours(self, gpu: str, mfu: float = MFU, sampling_use: float = SAMPLING_USE) -> dict[str, float]:
        """GPU-hours of the whole study on one of :data:`repro.planning.hardware.GPUS`, by account."""
        uses = {"train": mfu, "reward": mfu, "evaluate": sampling_use}
        uses["sample"] = 1 / (self.prefill / mfu + (1 - self.prefill) / sampling_use)
        return {name: self.total(name) / (GPUS[gpu].flops * use) / 3600 for name, use in uses.items()}


def make(study: Study, layout: Layout, file: Path) -> Plan:
    """The plan of the study in ``file``. Raises UserError where methods or models' sizes cannot be read."""
    return _Planner(study, layout, file).plan()


class _Planner:
    def __init__(self, study: Study, layout: Layout, file: Path) -> None:
        self.study, self.layout, self.file = study, layout, file
        self.shape, self.found = shapes.base_shape(study, file)
        if study.training.lora:
            self.shape = self.shape.with_lora(study.training.lora.rank)
        rewards = study.process_rewards
        self.scorer = None if rewards is None or rewards == "ladder" else rewards
        self.scorer_shape = shapes.reward_shape(self.scorer, file)[0] if self.scorer else None
        self.methods = {name: load_method(study, name) for name in method_ids(study)}
        self.assumptions: list[str] = []

    def plan(self) -> Plan:
        study = self.study
        benchmarks = [self._benchmark(name) for name in study.evaluation.benchmarks]
        runs = [self._run(name, method, benchmarks) for name, method in self.methods.items()]
        spending = {name: m for name, m in self.methods.items() if not self._idle(m)}
        steps = {name: self._step(method) for name, method in spending.items()}
        memory = [self._training(), self._sampling(benchmarks)]
        if self.scorer:
            memory.append(self._scoring())
        model = f"{self._name()}, {self.shape.parameters / 1e6:,.0f} million parameters ({self.found})"
        disk = self._disk(runs, benchmarks)
        self._assume(
            f"power: accuracies near {ACCURACY:.0%}, differences paired by problem, tests at 5 %, two-sided; "
            f"training seeds spread the log-odds by {SEED_NOISE:g} (repro.planning.power)"
        )
        return Plan(
            f"{study.title} ({study.name})", model, study.gpus, runs, benchmarks, memory, disk, steps,
            self._prefill(), self.assumptions,
        )  # fmt: skip

    def _assume(self, sentence: str) -> None:
        self.assumptions.append(sentence)

    def _name(self) -> str:
        spec = self.study.base_model
        return spec.name if isinstance(spec, HubModel) else f"base model from {spec.source}"

    @property
    def trained_weights(self) -> int:
        return self.shape.adapter or self.shape.parameters

    # -- lengths ---------------------------------------------------------------------------------------

    @cached_property
    def training_text(self) -> Text:
        return TEXTS[self.study.problems.source]

    @cached_property
    def prompts(self) -> tuple[int, int]:
        """Mean tokens of a training problem's prompt: sampled from (with worked examples), trained on."""
        prompt = self.study.prompt
        question = self._measured(self.layout.problems / "train.jsonl", "question")
        if question is None:
            question = self.training_text.question
            self._assume(
                f"{self.study.problems.source}: questions of {question} tokens (no problem file yet)"
            )
        alone = question + self._wording
        example = self.training_text.question + self.training_text.solution
        sampled = alone + prompt.shots * example
        shown = f", {prompt.shots} worked examples of {example}" if prompt.shots else ""
        self._assume(
            f"training prompts of {alone} tokens ({self._wording} of wording){shown}; "
            f"completions of {self.completion}"
        )
        return sampled, alone

    @cached_property
    def _wording(self) -> int:
        """Tokens that a prompt puts around its question."""
        from repro.problems.prompts import fill, templates

        template, _ = templates(self.study.prompt)
        return round(len(fill(template, "") + (self.study.prompt.system or "")) / CHARACTERS)

    @property
    def completion(self) -> int:
        return min(self.training_text.completion, self.study.sampling.max_tokens)

    def _measured(self, path: Path, field: str) -> int | None:
        """Mean tokens of a field of a prepared problem file, by its characters; None without the file."""
        rows = list(_rows(path))
        if not rows:
            return None
        characters = sum(len(row[field]) for row in rows) / len(rows)
        tokens = max(1, round(characters / CHARACTERS))
        self._assume(f"{path.name}: {characters:.0f} characters a {field}, {CHARACTERS:g} of them a token")
        return tokens

    # -- FLOPs -----------------------------------------------------------------------------------------

    def _idle(self, method: Method) -> str:
        """Why the method spends nothing, if so."""
        if method.role is Role.BASE:
            return "the untouched base model"
        if method.uses_corpus and not isinstance(self.study.base_model, WarmStart):
            return "unavailable: no warm-start corpus"
        return ""

    @cached_property
    def measured(self) -> dict[str, tuple[float, bool]]:
        """Of each method of the pocket study: tokens sampled per token trained on, and whether it scored."""
        tokens: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for row in _table(POCKET / "ledger.csv"):
            tokens[row["method"]][row["account"]] += int(row["tokens"])
        scored = {r["method"] for r in _table(POCKET / "runs.csv") if "process rewards" in r["mode_note"]}
        return {
            name: ((of["sample"] + of["search"]) / of["train"], name in scored)
            for name, of in tokens.items()
            if of["train"]
        }

    def _costs(self, method: Method) -> tuple[int, int, int]:
        """FLOPs of training on one sequence, of sampling one, of scoring one."""
        sampled, alone = self.prompts
        sequence = sequence_tally([(alone, self.completion)])
        trained = flops(self.shape, sequence, DPO_PASSES if _prefers(method) else TRAINING_PASSES)
        drawn = flops(self.shape, sample_tally(sampled, [self.completion]), FORWARD_PASSES)
        scored = 0
        if self.scorer_shape:  # its head reads a few positions only
            scored = flops(self.scorer_shape, replace(sequence, logits=0), FORWARD_PASSES)
        return trained, drawn, scored

    def _prefill(self) -> float:
        first, whole = (
            flops(self.shape, sample_tally(self.prompts[0], [tokens]), FORWARD_PASSES)
            for tokens in (1, self.completion)
        )
        return first / whole

    def _step(self, method: Method) -> int:
        return self._costs(method)[0] * _batch(method) * (2 if _prefers(method) else 1)

    def _run(self, name: str, method: Method, benchmarks: Sequence[Benchmark]) -> Run:
        study, seeds = self.study, len(self.study.seeds)
        checkpoint = sum(benchmark.flops for benchmark in benchmarks)
        if idle := self._idle(method):
            evaluated = seeds * checkpoint if method.role is Role.BASE else 0
            return Run(name, seeds, 0, 0, 0, 0, evaluated, idle)
        runs = len(study.budgets) if method.per_budget else 1
        spent = seeds * (sum(study.budgets) if method.per_budget else study.budgets[-1])
        ratio, scores = self.measured.get(name, (SAMPLED_PER_TRAINED, False))
        trained, drawn, scored = self._costs(method)
        parts = trained, ratio * drawn, ratio * scored * scores
        train, sample, reward = (spent * part / sum(parts) for part in parts)
        evaluated = seeds * len(study.budgets) * checkpoint
        note = "one run per budget" if method.per_budget else ""
        if name not in self.measured:
            note = f"{note}; " * bool(note) + f"sampling assumed: {ratio:g} tokens per trained one"
        return Run(name, seeds * runs, spent, train, sample, reward, evaluated, note)

    def _benchmark(self, name: BenchmarkName) -> Benchmark:
        study, text = self.study, TEXTS[name]
        settings = profiles.settings(study, name)
        total = study.problems.test if isinstance(study.problems, LadderProblems) else ROWS[name]
        problems = min(total, study.evaluation.benchmarks[name].limit or total)
        prompt, completion = text.question + self._wording, min(text.completion, settings.max_tokens)
        tally = sample_tally(prompt, [completion] * settings.samples) + sample_tally(prompt, [completion])
        seen = {
            gain: detectable(
                problems,
                settings.samples,
                gain=gain / 100,
                accuracy=ACCURACY,
                seeds=len(study.seeds),
                seed_noise=SEED_NOISE,
            )
            for gain in (2, 5)
        }
        cost = problems * flops(self.shape, tally, FORWARD_PASSES)
        return Benchmark(name, problems, settings.samples, prompt, completion, cost, seen)

    # -- disk ------------------------------------------------------------------------------------------

    def _disk(self, runs: Sequence[Run], benchmarks: Sequence[Benchmark]) -> list[Place]:
        study, spec = self.study, self.study.base_model
        weights, moments = MASTER * self.shape.parameters, MOMENTS * self.trained_weights
        call = weights + moments  # what a training call leaves
        kept = 0
        for method in self.methods.values():
            if not self._idle(method):
                kept += len(study.seeds) * len(study.budgets) * weights
        live = call + (call if study.training.save_every else 0)  # the last call's, and the save of this one
        sampled, _ = self.prompts
        drawn = flops(self.shape, sample_tally(sampled, [self.completion]), FORWARD_PASSES)
        texts = sum(run.sample for run in runs) / drawn * self.completion * SOLUTION_BYTES
        rows = sum(b.problems * (b.samples + 1) for b in benchmarks)
        parquet = rows * len(study.budgets) * sum(run.runs for run in runs) * 64
        text = self.training_text
        train = study.problems.train
        problems = (train if isinstance(train, int) else 7500) + sum(b.problems for b in benchmarks)
        places = [
            Place("checkpoints kept: every budget's weights", kept, "work"),
            Place("checkpoints of the job that runs", live, "work"),
            Place("sampled texts in journals", texts, "work"),
            Place("evaluated samples (parquet)", parquet, "work and results"),
            Place(
                "problem files",
                problems * CHARACTERS * (3 * sampled + 2 * text.question + text.solution),
                "work",
            ),
        ]
        if isinstance(spec, HubModel):
            places.append(Place("base model (bfloat16)", 2 * self.shape.parameters, "hub cache"))
        elif spec.source != "folder":
            places.append(Place("base model", weights, "work"))
        if self.scorer and self.scorer_shape and self.scorer.name:
            places.append(Place("reward model (bfloat16)", 2 * self.scorer_shape.parameters, "hub cache"))
        self._assume("disk: one job at a time")
        return places

    # -- memory ----------------------------------------------------------------------------------------

    def _training(self) -> Need:
        training, s = self.study.training, self.shape
        number, divided = processes(training.accelerate)
        half = training.dtype == "bfloat16"
        states: float = (MASTER + CAST * half) * s.parameters + (GRADIENT + MOMENTS) * self.trained_weights
        states += MASTER * s.adapter + GRADIENT * self.trained_weights * (number > 1 and not divided)
        states /= number if divided else 1
        rows = max(
            (
                (1 + _prefers(method)) * (training.micro_batch or -(-_batch(method) // number))
                for method in self.methods.values()
                if not self._idle(method)
            ),
            default=1,
        )
        layer = activation_bytes(s, 2 if half else 4)
        # With checkpointing only each layer's input stays, and what the layer at work needs.
        per_token = layer + 4 * s.hidden * s.layers if training.gradient_checkpointing else layer * s.layers
        activations = rows * training.max_length * per_token
        mends = []
        if activations > states / 4:
            if training.micro_batch != 1:
                mends.append(f"a training.micro_batch below {training.micro_batch or 'the batch'}")
            if not training.gradient_checkpointing:
                mends.append("training.gradient_checkpointing: true")
        if states > activations:
            if not training.lora:
                mends.append("training.lora: {}")
            mends.append("training.accelerate with FSDP over more GPUs")
        shared = f" in {number} processes" if number > 1 else ""
        detail = (
            f"{_gib(states)} of weights, gradients and moments{shared}, {_gib(activations)} of activations "
            f"({rows} sequences of {training.max_length} tokens)"
        )
        return Need("training", states + activations + RESERVED, 1.0, detail, _either(mends))

    def _sampling(self, benchmarks: Sequence[Benchmark]) -> Need:
        sampling, s = self.study.sampling, self.shape
        size = 2 if sampling.dtype == "bfloat16" else 4
        tested = [profiles.settings(self.study, b.name).max_tokens + b.prompt for b in benchmarks]
        longest = max(self.prompts[0] + sampling.max_tokens, *tested)
        per_token = 2 * s.layers * s.kv_heads * s.head_dim * size
        smaller = "sampling.dtype: bfloat16" if size == 4 else ""
        if sampling.engine == "vllm":
            parts = sampling.tensor_parallel
            cache = SEQUENCES * longest * per_token / parts
            weights = size * s.parameters / parts
            detail = (
                f"{_gib(weights)} of weights, {_gib(cache)} of keys and values for {SEQUENCES} sequences of "
                f"{longest} tokens; vLLM takes {sampling.memory:.0%} of the GPU and fills it with more"
            )
            mends = [smaller, f"a sampling.tensor_parallel above {parts}", "a smaller evaluation.max_tokens"]
            return Need("sampling", weights + cache + RESERVED, sampling.memory, detail, _either(mends))
        cache, weights = sampling.batch_size * longest * per_token, size * s.parameters
        logits = sampling.batch_size * s.vocab * 4
        detail = (
            f"{_gib(weights)} of weights, {_gib(cache)} of keys and values for {sampling.batch_size} "
            f"sequences of {longest} tokens"
        )
        mends = [f"a sampling.batch_size below {sampling.batch_size}", smaller]
        return Need("sampling", weights + cache + logits + RESERVED, 1.0, detail, _either(mends))

    def _scoring(self) -> Need:
        assert self.scorer and self.scorer_shape
        s, size = self.scorer_shape, 2 if self.scorer.dtype == "bfloat16" else 4
        head = 4 * s.vocab * (self.scorer.kind == "causal")
        tokens = self.scorer.batch_size * (self.prompts[1] + self.study.sampling.max_tokens)
        weights, passing = size * s.parameters, tokens * (activation_bytes(s, size) + head)
        detail = (
            f"{_gib(weights)} of weights, {_gib(passing)} for {self.scorer.batch_size} completions at once"
        )
        mends = [
            f"a process_rewards.batch_size below {self.scorer.batch_size}"
            if self.scorer.batch_size > 1
            else "",
            "process_rewards.dtype: bfloat16" if size == 4 else "",
            "a smaller reward model",
        ]
        return Need("process rewards", weights + passing + RESERVED, 1.0, detail, _either(mends))


def activation_bytes(shape: ModelShape, size: int) -> int:
    """Bytes per token that one layer keeps for its backward pass, ``size`` being those of a number.

    Both norms keep their float32 input and its normalised value (16 bytes per number of the width in all). Of
    ``size`` bytes each are two normed inputs, query and key before and after the rotary embedding, the value,
    the attention's result, gate, up, their activation and product. Attention itself is fused.
    """
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return 16 * shape.hidden + size * (2 * shape.hidden + 3 * queries + 3 * keys + 4 * shape.mlp)


def processes(config: Path | None) -> tuple[int, bool]:
    """How many processes a config of ``accelerate launch`` starts, and whether they divide weights, gradients
    and moments among them (FSDP) or each have a copy. Raises UserError where it cannot be read."""
    if config is None:
        return 1, False
    key = f"training.accelerate: {config}"
    try:
        values = yaml.safe_load(config.read_text())
    except OSError as error:
        raise UserError(
            f"{key} cannot be read ({error.strerror}); name one such as those in benchmarks/accelerate"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{key} is not YAML; mend it, or write it anew with `accelerate config`") from None
    if not isinstance(values, dict):
        raise UserError(f"{key} is not a mapping of keys; write it anew with `accelerate config`")
    number, kind = values.get("num_processes", 1), values.get("distributed_type", "NO")
    if type(number) is not int or number < 1:
        raise UserError(f"{key}: num_processes is {number!r}; set it to the number of GPUs of one job")
    if kind not in ("NO", "MULTI_GPU", "FSDP"):
        raise UserError(f"{key}: distributed_type {kind!r} is not supported; use MULTI_GPU or FSDP")
    return number, kind == "FSDP"


def _batch(method: Method) -> int:
    return int(getattr(method, "batch_size", 1))


def _prefers(method: Method) -> bool:
    """Whether the method trains on pairs, as a field with DPO's settings says."""
    return any(isinstance(getattr(method, field), DPO) for field in type(method).model_fields)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a prepared problem file; none where it is missing or damaged: that is no business of a plan."""
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                if isinstance(row, dict) and isinstance(row.get("question"), str):
                    yield row
    except (OSError, ValueError):
        return


def _table(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# -- printing ---------------------------------------------------------------------------------------------


def render(plan: Plan, gpus: Sequence[str], mfu: float = MFU, sampling_use: float = SAMPLING_USE) -> str:
    """The plan as text, on the GPUs of these names."""
    rows = [
        [r.method, r.runs, *map(_flops, (r.flops, r.train, r.sample, r.reward, r.evaluate)), r.note]
        for r in plan.runs
    ]
    totals = [_flops(plan.total(account)) for account in ("train", "sample", "reward", "evaluate")]
    rows.append(
        ["total", sum(r.runs for r in plan.runs), _flops(sum(r.flops for r in plan.runs)), *totals, ""]
    )
    parts = [
        f"{plan.title}\n{plan.model}",
        _section(
            "FLOPs of all runs (the budget is exact, the rest estimated; evaluation lies outside the budget)",
            ["method", "runs", "budget", "train", "sample", "reward", "evaluate", ""],
            rows,
        ),
        _section(
            "Evaluation of one checkpoint, and the power to see a true gain of 2 and of 5 points",
            ["benchmark", "problems", "samples", "prompt", "completion", "FLOPs", "+2", "+5"],
            [
                [b.name, b.problems, f"{b.samples} + greedy", b.prompt, b.completion, _flops(b.flops)]
                + [_percent(b.power[gain]) for gain in (2, 5)]
                for b in plan.benchmarks
            ],
        ),
        _section(
            f"GPU-hours of the study, and hours on {max(1, plan.gpus)} of them",
            ["GPU", "train", "sample", "reward", "evaluate", "GPU-hours", "hours", "memory"],
            [_gpu_row(plan, name, mfu, sampling_use) for name in gpus],
        ),
        _section(
            "Memory of one job, on each of its GPUs", ["phase", "needs", ""],
            [[need.phase, _gib(need.bytes), need.detail] for need in plan.memory],
        ),
    ]  # fmt: skip
    for need in plan.memory:
        if small := [name for name in gpus if not need.fits(GPUS[name].memory)]:
            parts.append(f"{need.phase.capitalize()} does not fit {' or '.join(small)}: try {need.mend}.")
    disk = [[place.what, _gb(place.bytes), place.folder] for place in plan.disk]
    disk.append(["total", _gb(sum(place.bytes for place in plan.disk)), ""])
    parts.append(_section("Disk, at most", ["what", "needs", "where"], disk))
    assumed = [
        *plan.assumptions,
        "shares of sampling and training: as in the committed pocket study, each completion paying its own "
        "prompt",
        f"GPU-hours: bfloat16 at {mfu:.0%} of the peak in training, scoring and reading prompts (--mfu), "
        f"{sampling_use:.0%} in sampling and evaluation (--sampling-utilisation); engine starts and "
        "verification, which is the CPU's, come on top",
    ]
    parts.append("Assumptions\n" + "\n".join(f"- {sentence}" for sentence in assumed))
    return "\n\n".join(parts)


def to_json(plan: Plan, gpus: Sequence[str], mfu: float = MFU, sampling_use: float = SAMPLING_USE) -> str:
    """The plan for machines: FLOPs, bytes, hours."""
    hours = {name: plan.hours(name, mfu, sampling_use) for name in gpus}
    return json.dumps({**asdict(plan), "gpu_hours": hours}, indent=1)


def _gpu_row(plan: Plan, name: str, mfu: float, sampling_use: float) -> list[str]:
    hours = plan.hours(name, mfu, sampling_use)
    total = sum(hours.values())
    missing = [need.phase for need in plan.memory if not need.fits(GPUS[name].memory)]
    fits = "fits" if not missing else f"too small for {' and '.join(missing)}"
    accounts = [_number(hours[account]) for account in ("train", "sample", "reward", "evaluate")]
    return [name, *accounts, _number(total), _number(total / max(1, plan.gpus)), fits]


def _section(title: str, headers: list[str], rows: list[list[Any]]) -> str:
    align = ["left", *["right"] * (len(headers) - 2), "left"] if len(headers) > 3 else None
    return f"{title}\n{tabulate(rows, headers, disable_numparse=True, colalign=align)}"


def _either(mends: Sequence[str]) -> str:
    return ", or ".join(mend for mend in mends if mend)


def _number(value: float) -> str:
    return f"{value:.1f}" if 0.05 <= value < 100 else f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _flops(value: float) -> str:
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if value >= size:
            return f"{value / size:.3g} {unit}FLOP"
    return "0" if value == 0 else f"{value:.0f} FLOP"


def _percent(share: float) -> str:
    return f"{share:.0%}"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


def _gb(size: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"
