"""What a study costs, before it costs anything: FLOPs, GPU-hours, disk, memory, and what it could then see.

Budgets are exact, so the totals of the runs are. How a method divides a budget among accounts, and how many
rounds and steps it gets out of it, is decided while it runs; here it is *rehearsed*: every method plays the
study on a scripted model (:mod:`repro.planning.rehearsal`), at lengths measured where the problem files are
there. docs/plan.md derives every formula; the printed plan names every assumption. Loads no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import comb
from pathlib import Path
from typing import Any

from tabulate import tabulate

from repro import profiles
from repro.benchmarks import BENCHMARKS, OWN, Text
from repro.config import (
    BenchmarkName,
    Forgetting,
    HubModel,
    JsonlProblems,
    LadderProblems,
    Study,
    WarmStart,
)
from repro.discovery import load_methods
from repro.flops import FORWARD_PASSES, Tally, flops, sample_tally
from repro.layout import Layout
from repro.method import DPO, Method
from repro.planning import shapes
from repro.planning.hardware import GIB, GPUS
from repro.planning.power import detectable
from repro.planning.rehearsal import WORDINGS, Play, Script, Stage, Standing, rehearse
from repro.records import Role
from repro.schema import FORGETTING, INSIDE, Account
from repro.shapes import Decoder
from repro.training.accelerate import processes

OWN_ROWS = 1000  # of a user's own problems, where their file is not there yet

CHARACTERS = 3.5  # per token, of questions and solutions of mathematics
SOLUTION_BYTES = 4.5  # per sampled token, in the journal

MFU = 0.30  # of the GPU's peak, in training and scoring
SAMPLING_USE = 0.10  # the same in sampling and evaluation, which wait for memory
ACCURACY = 0.35  # of the models, on problems that are trained on and on those of benchmarks
VLLM, LAUNCH, LOAD = (
    60,
    30,
    5,
)  # seconds to start an engine of vLLM, processes that train, and to load weights
SEED_NOISE = 0.2  # spread of a model's log-odds from training seed to training seed: two points of accuracy

MASTER, GRADIENT, MOMENTS = 4, 4, 8  # bytes per trained weight: float32, and Adam's two
CAST = 2  # bytes per weight of autocast's bfloat16 copy
RESERVED = 3 * GIB // 2  # of a GPU: CUDA itself, kernels' workspace, fragmentation
SEQUENCES = 16  # longest sequences whose keys and values must fit at once for vLLM to be worth its while


@dataclass(frozen=True)
class Run:
    """A method's runs, over all seeds. ``flops`` are exact; their shares are those of its play."""

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
    samples: int  # beside the greedy one
    prompt: int
    completion: int
    max_tokens: int  # of a completion
    flops: int  # of one checkpoint
    power: dict[int, float]  # by gain in percentage points; none of what ranks nothing


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
    budgets: list[int]
    runs: list[Run]
    benchmarks: list[Benchmark]
    memory: list[Need]
    disk: list[Place]
    plays: dict[str, Play]  # by method: its rounds, steps and accounts at each budget
    prefill: float  # share of sampling's FLOPs that reads prompts, which is as fast as training
    starting: float  # seconds in which a job's GPUs wait for engines, over all jobs
    assumptions: list[str]

    def total(self, account: str) -> float:
        return sum(getattr(run, account) for run in self.runs)

    def hours(self, gpu: str, mfu: float = MFU, sampling_use: float = SAMPLING_USE) -> dict[str, float]:
        """GPU-hours of the whole study on one of :data:`repro.planning.hardware.GPUS`, by account."""
        uses = {"train": mfu, "reward": mfu, "evaluate": sampling_use}
        uses["sample"] = 1 / (self.prefill / mfu + (1 - self.prefill) / sampling_use)
        hours = {name: self.total(name) / (GPUS[gpu].flops * use) / 3600 for name, use in uses.items()}
        return hours | {"start": self.starting * max(1, self.gpus) / 3600}


def make(study: Study, layout: Layout, file: Path) -> Plan:
    """The plan of the study in ``file``. Raises UserError where methods or models' sizes cannot be read."""
    return Planner(study, layout, file).plan()


class Planner:
    """What a plan is made of. Raises UserError where methods or models' sizes cannot be read."""

    def __init__(self, study: Study, layout: Layout, file: Path) -> None:
        self.study, self.layout, self.file = study, layout, file
        self.model, self.found = shapes.base_model(study, file)
        self.shape = self.model.shape
        if study.training.lora:
            self.shape = self.shape.with_lora(study.training.lora.rank)
        rewards = study.process_rewards
        self.scorer = None if rewards is None or rewards == "ladder" else rewards
        self.scorer_model = shapes.reward_model(self.scorer, file)[0] if self.scorer else None
        self.methods = load_methods(study)
        self.assumptions: list[str] = []

    def plan(self) -> Plan:
        study = self.study
        benchmarks = [self._benchmark(name) for name in study.evaluation.benchmarks]
        if study.evaluation.forgetting:
            benchmarks.append(self._forgetting(study.evaluation.forgetting))
        runs = [self._run(name, method, benchmarks) for name, method in self.methods.items()]
        memory = [self._training(), self._sampling(benchmarks)]
        if self.scorer:
            memory.append(self._scoring())
        if study.prompt.thinking:
            self._assume("completions of models that do not think; thoughts are several times as long")
        model = f"{self._name()}, {self.shape.parameters / 1e6:,.0f} million parameters ({self.found})"
        disk = self._disk(runs, benchmarks)
        self._assume(
            f"power: accuracies near {ACCURACY:.0%}, differences paired by problem, two-sided t-tests at 5 % "
            f"in the first of Holm's steps for {self._comparisons} comparisons (all pairs of methods and "
            f"ablations); training seeds spread the log-odds by {SEED_NOISE:g}, some two points "
            "(repro.planning.power)"
        )
        return Plan(
            f"{study.title} ({study.name})", model, study.gpus, study.budgets, runs, benchmarks, memory, disk,
            self.plays, self._prefill(), self._starting(), self.assumptions,
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
        source = self.study.problems.source
        return BENCHMARKS[source].text if source in BENCHMARKS else OWN

    @cached_property
    def questions(self) -> list[int]:
        """Characters of the prepared training questions; none before there are."""
        return [len(row["question"]) for row in _rows(self.layout.problems / "train.jsonl")]

    @cached_property
    def training_problems(self) -> int:
        """How many there are to train on; near-duplicates of tests are left out when they are prepared."""
        spec = self.study.problems
        if self.questions:
            return len(self.questions)
        if isinstance(spec.train, int):
            return spec.train
        if isinstance(spec, JsonlProblems):
            total = len(list(_rows(spec.file))) or OWN_ROWS
        else:
            total = BENCHMARKS[spec.source].train or 0
        return max(1, total - spec.validation - self.study.prompt.shots)

    @cached_property
    def prompts(self) -> tuple[int, int, int]:
        """Mean tokens of a training problem's prompt: trained on; sampled from, with worked examples; the
        first of these, with which all prompts begin."""
        spec, source = self.study.prompt, self.study.problems.source
        if self.questions:
            characters = sum(self.questions) / len(self.questions)
            question = max(1, round(characters / CHARACTERS))
            self._assume(
                f"train.jsonl: {characters:.0f} characters a question, {CHARACTERS:g} of them a token"
            )
        else:
            question = self.training_text.question
            self._assume(f"{source}: questions of {question} tokens (no problem file yet)")
        prompt = question + self._wording + self._system
        example = self.training_text.question + self._wording + self.training_text.solution
        shots = spec.shots * example
        shown = f", {spec.shots} worked examples of {example}" if shots else ""
        self._assume(f"training prompts of {prompt} tokens ({self._wording} of wording){shown}")
        if shared := shots + self._system:
            self._assume(
                f"all prompts begin with the same {shared} tokens, read once for each call of the Lab"
            )
        return prompt, prompt + shots, shared

    @cached_property
    def _wording(self) -> int:
        """Tokens that a prompt puts around its question."""
        from repro.problems.prompts import fill, templates

        template, _ = templates(self.study.prompt)
        return round(len(fill(template, "")) / CHARACTERS)

    @property
    def _system(self) -> int:
        return round(len(self.study.prompt.system or "") / CHARACTERS)

    # -- FLOPs -----------------------------------------------------------------------------------------

    @cached_property
    def plays(self) -> dict[str, Play]:
        """Every method's play of the study, by name."""
        budgets = self.study.budgets
        return {name: rehearse(method, self.stage, budgets) for name, method in self.methods.items()}

    @cached_property
    def stage(self) -> Stage:
        """What they are played on."""
        study, text, (prompt, asked, shared) = self.study, self.training_text, self.prompts
        script = Script(
            self.shape, self.scorer_model.shape if self.scorer_model else None,
            study.process_rewards is not None,
            isinstance(study.base_model, WarmStart), self.training_problems, prompt, asked, shared,
            text.completion, study.sampling.max_tokens, text.solution, study.training.max_length, ACCURACY,
        )  # fmt: skip
        self._assume(
            f"plays: {script.problems:,} problems, the chance to solve one is Beta({ACCURACY:g}, "
            f"{1 - ACCURACY:g}) and does not change; a hint halves what it lacks"
        )
        self._assume(
            f"plays: completions of 5/8 to 11/8 of {text.completion} tokens, at most {script.max_tokens}; "
            f"{WORDINGS} different correct solutions of a problem and as many wrong ones; gold solutions of "
            f"{text.solution}"
        )
        if script.rewards:
            self._assume("plays: process rewards are 1 for a correct completion and 0 for another")
        return Stage(script)

    def _runs(self) -> list[Standing]:
        """Where all runs of one seed end."""
        return [standing for play in self.plays.values() for standing in play.runs]

    def _prefill(self) -> float:
        runs = self._runs()
        sampled = sum(run.accounts.get(name, 0) for run in runs for name in (Account.SAMPLE, Account.SEARCH))
        return sum(run.prefill for run in runs) / sampled if sampled else 0.0

    def _starting(self) -> float:
        study, seeds, runs = self.study, len(self.study.seeds), self._runs()
        vllm = study.sampling.engine == "vllm"
        sample = LOAD if study.sampling.reuse or not vllm else VLLM
        score = VLLM if self.scorer and self.scorer.kind == "pooling" else LOAD
        train = LAUNCH if study.training.accelerate else LOAD
        self._assume(
            f"engine starts, guesses: {sample} s each time that sampling follows other work, {score} s for "
            f"the reward model, {train} s for training"
        )
        each = {Account.SAMPLE: sample, Account.REWARD: score, Account.TRAIN: train}
        started = seeds * sum(each[of] * run.starts.get(of, 0) for run in runs for of in each)
        # A job evaluates a run where its checkpoints then go, else those of all seeds of a row.
        jobs = len(self.methods) * (seeds if study.training.keep == "nothing" else 1)
        checkpoints = seeds * len(study.budgets) * sum(play.spends for play in self.plays.values())
        return started + jobs * (VLLM if vllm else LOAD) + checkpoints * sample

    def _run(self, name: str, method: Method, benchmarks: Sequence[Benchmark]) -> Run:
        study, seeds, play = self.study, len(self.study.seeds), self.plays[name]
        checkpoint = seeds * sum(benchmark.flops for benchmark in benchmarks)
        if not play.spends:
            base = method.role is Role.BASE
            note = "the untouched base model" if base else play.reason
            return Run(name, seeds, 0, 0, 0, 0, base * checkpoint, note)
        spent = {of: seeds * sum(run.accounts.get(of, 0) for run in play.runs) for of in INSIDE}
        return Run(
            name, seeds * len(play.runs), seeds * sum(run.budget for run in play.runs), spent[Account.TRAIN],
            spent[Account.SAMPLE] + spent[Account.SEARCH], spent[Account.REWARD],
            len(study.budgets) * checkpoint, "one run per budget" if method.plans else "",
        )  # fmt: skip

    @property
    def _comparisons(self) -> int:
        """The pairs of rows that are ranked."""
        ranked = sum(method.role in (Role.METHOD, Role.ABLATION) for method in self.methods.values())
        return max(1, comb(ranked, 2))

    def _benchmark(self, name: BenchmarkName) -> Benchmark:
        study, own = self.study, self.study.evaluation.benchmarks[name]
        row, settings = study.evaluation.row(name), profiles.settings(study, name)
        question = row.text.question
        if own.file:
            asked = [len(line["question"]) for line in _rows(own.file)]
            total = len(asked) or OWN_ROWS
            question = round(sum(asked) / len(asked) / CHARACTERS) if asked else question
            self._assume(f"{name}: {total:,} problems of {question} tokens; completions are a guess")
        else:
            made = study.problems.test if isinstance(study.problems, LadderProblems) else 0
            total = row.rows or made
        problems = min(total, own.limit or total)
        prompt = question + self._wording + self._system
        completion = min(row.text.completion, settings.max_tokens)
        tally = Tally.zero()
        for samples in (settings.samples, 1):
            tally += sample_tally(prompt, [completion] * samples, window=self.shape.window)
        seen = {
            gain: detectable(
                problems,
                settings.samples,
                gain=gain / 100,
                accuracy=ACCURACY,
                seeds=len(study.seeds),
                seed_noise=SEED_NOISE,
                budgets=len(study.budgets),
                comparisons=self._comparisons,
            )
            for gain in (2, 5)
        }
        cost = problems * flops(self.shape, tally, FORWARD_PASSES)
        return Benchmark(
            name, problems, settings.samples, prompt, completion, settings.max_tokens, cost, seen
        )

    def _forgetting(self, spec: Forgetting) -> Benchmark:
        """The task that is watched for forgetting, one greedy completion a document."""
        from repro.forgetting import describe  # brings in lm-eval, which takes seconds

        asked = describe(spec)
        documents = spec.limit * len(asked.tasks)
        prompt = OWN.question + asked.shots * (OWN.question + OWN.solution)
        completion = min(OWN.completion, asked.max_tokens)
        self._assume(
            f"{FORGETTING}: {documents:,} documents of {spec.task}, the most that the limit allows; prompts "
            f"of {prompt} tokens with {asked.shots} worked examples, and completions, are a guess"
        )
        cost = documents * flops(
            self.shape, sample_tally(prompt, [completion], window=self.shape.window), FORWARD_PASSES
        )
        return Benchmark(FORGETTING, documents, 0, prompt, completion, asked.max_tokens, cost, {})

    # -- disk ------------------------------------------------------------------------------------------

    def _disk(self, runs: Sequence[Run], benchmarks: Sequence[Benchmark]) -> list[Place]:
        study, spec = self.study, self.study.base_model
        weights, moments = MASTER * self.shape.parameters, MOMENTS * self.trained_weights
        runs_kept = sum(play.spends for play in self.plays.values()) * len(study.seeds)
        if study.training.keep == "nothing":  # of one run, until it is evaluated
            runs_kept = min(runs_kept, 1)
        kept = weights * len(study.budgets) * runs_kept
        call = weights + moments  # what a training call leaves
        going = 3 * call  # the call before, this one's, and the last save of it
        # A run that a budget cut in training: the model that the call began with, and the call's state.
        grow = weights + MASTER * self.trained_weights + moments if study.training.keep == "moments" else 0
        grown = sum(run.runs for run in runs if run.flops and not self.methods[run.method].plans) * grow
        drawn = len(study.seeds) * sum(run.completions for run in self._runs())
        texts = drawn * min(self.training_text.completion, study.sampling.max_tokens) * SOLUTION_BYTES
        rows = sum(b.problems * (b.samples + 1) for b in benchmarks)
        parquet = rows * len(study.budgets) * sum(run.runs for run in runs) * 64
        text, asked = self.training_text, self.prompts[1]
        problems = self.training_problems + sum(b.problems for b in benchmarks)
        places = [
            Place("weights of every budget", kept, "work"),
            Place("last weights and moments, to go on from", grown, "work"),
            Place("checkpoints of the job that runs", going, "work"),
            Place("sampled texts in journals", texts, "work"),
            Place("evaluated samples (parquet)", parquet, "work and results"),
            Place(
                "problem files",
                problems * CHARACTERS * (3 * asked + 2 * text.question + text.solution),
                "work",
            ),
        ]
        if isinstance(spec, HubModel):
            places.append(Place("base model (bfloat16)", 2 * self.shape.parameters, "hub cache"))
        elif spec.source != "folder":
            places.append(Place("base model", weights, "work"))
        if self.scorer and self.scorer_model and self.scorer.name:
            size = 2 * self.scorer_model.shape.parameters
            places.append(Place("reward model (bfloat16)", size, "hub cache"))
        self._assume("disk: one job at a time")
        return places

    # -- memory ----------------------------------------------------------------------------------------

    def _training(self) -> Need:
        training, s = self.study.training, self.shape
        started = processes(training.accelerate)
        number, divided = started.number, started.divided
        half = training.dtype == "bfloat16"
        states: float = (MASTER + CAST * half) * s.parameters + (GRADIENT + MOMENTS) * self.trained_weights
        states += MASTER * s.adapter + GRADIENT * self.trained_weights * (number > 1 and not divided)
        states /= number if divided else 1
        rows = max(
            (
                (1 + _prefers(method)) * (training.micro_batch or -(-_batch(method) // number))
                for name, method in self.methods.items()
                if self.plays[name].spends
            ),
            default=1,
        )
        model, layer = self.model, activation_bytes(self.model, 2 if half else 4)
        # With checkpointing only each layer's input stays, and what the layer at work needs.
        checkpointed = layer + 4 * model.hidden * model.layers
        per_token = checkpointed if training.gradient_checkpointing else layer * model.layers
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
        tested = [b.max_tokens + b.prompt for b in benchmarks]
        longest = max(self.prompts[1] + sampling.max_tokens, *tested)
        per_token = self.model.cache * size
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
        logits = sampling.batch_size * self.model.vocab * 4
        detail = (
            f"{_gib(weights)} of weights, {_gib(cache)} of keys and values for {sampling.batch_size} "
            f"sequences of {longest} tokens"
        )
        mends = [f"a sampling.batch_size below {sampling.batch_size}", smaller]
        return Need("sampling", weights + cache + logits + RESERVED, 1.0, detail, _either(mends))

    def _scoring(self) -> Need:
        assert self.scorer and self.scorer_model
        model, size = self.scorer_model, 2 if self.scorer.dtype == "bfloat16" else 4
        head = 4 * model.vocab * (self.scorer.kind == "causal")
        tokens = self.scorer.batch_size * (self.prompts[0] + self.study.sampling.max_tokens)
        weights = size * model.shape.parameters
        passing = tokens * (activation_bytes(model, size) + head)
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


def activation_bytes(model: Decoder, size: int) -> int:
    """Bytes per token that one layer keeps for its backward pass, ``size`` being those of a number.

    Both norms keep their float32 input and its normalised value (16 bytes per number of the width in all). Of
    ``size`` bytes each are two normed inputs, query and key before and after the rotary embedding, the value,
    the attention's result, gate, up, their activation and product. Attention itself is fused. All that is not
    attention is taken for a gated MLP of as many weights as a token meets.
    """
    width, queries, keys = model.hidden, model.queries, model.cache // (2 * model.layers)
    mlp = (model.shape.body // model.layers - 2 * width * (queries + keys)) // (3 * width)
    return 16 * width + size * (2 * width + 3 * queries + 3 * keys + 4 * max(0, mlp))


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
            "In a rehearsal, at each budget: rounds | optimizer steps | share that is not in the checkpoint",
            ["method", *map(_flops, plan.budgets), "calls of the Lab", ""],
            [_play_row(name, play, plan) for name, play in plan.plays.items()],
        ),
        _section(
            "Evaluation of one checkpoint, and the power to see a true gain of 2 and of 5 points",
            ["benchmark", "problems", "samples", "prompt", "completion", "FLOPs", "+2", "+5"],
            [
                [b.name, b.problems, f"{b.samples} + greedy" if b.samples else "greedy"]
                + [b.prompt, b.completion, _flops(b.flops)]
                + [_percent(b.power[gain]) if b.power else "" for gain in (2, 5)]
                for b in plan.benchmarks
            ],
        ),
        _section(
            f"GPU-hours of the study, and hours on {max(1, plan.gpus)} of them",
            ["GPU", "train", "sample", "reward", "evaluate", "start", "GPU-hours", "hours", "memory"],
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
        f"GPU-hours: bfloat16 at {mfu:.0%} of the peak in training, scoring and reading prompts (--mfu), "
        f"{sampling_use:.0%} in sampling and evaluation (--sampling-utilisation); verification, which is "
        "the CPU's, comes on top",
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
    accounts = [_number(hours[account]) for account in ("train", "sample", "reward", "evaluate", "start")]
    return [name, *accounts, _number(total), _number(total / max(1, plan.gpus)), fits]


def _play_row(name: str, play: Play, plan: Plan) -> list[Any]:
    if not play.spends:
        return [name, *[""] * len(plan.budgets), "", play.reason or "spends nothing"]
    cells = [f"{one.rounds:,} | {one.steps:,} | {_percent(one.stranded)}" for one in play.standings]
    calls = sum(run.calls for run in play.runs)
    return [name, *cells, f"{calls:,}", "" if play.standings[0].steps else "untrained at the lowest"]


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
