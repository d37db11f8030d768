"""The Lab: the one gate between a method and the world. It meters, seeds, journals and logs every call.

Budgets are cut here. The checkpoint of a budget b is the weights after the last optimizer step whose
cumulative spend is at most b, and what was spent by then: a training call stops at (or is snapshotted after)
that step, a sampling call is cut in request order, never in the order of completion.
"""

from __future__ import annotations

import json
import logging
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
from transformers import AutoTokenizer

from repro import files, rewards
from repro.errors import UserError, out_of_memory
from repro.flops import (
    FORWARD_PASSES,
    TRAINING_PASSES,
    ModelShape,
    Tally,
    batch_tally,
    flops,
    sample_tally,
    sequence_tally,
)
from repro.journal import PROGRESS, Journal, Progress
from repro.ledger import Entry
from repro.machine import Meter
from repro.method import (
    BudgetSpent,
    Completion,
    Example,
    Misuse,
    Objective,
    Optimizer,
    Pair,
    Problem,
    TrainReport,
    Unavailable,
)
from repro.monitors import Monitors
from repro.objectives import SFT, default_objective, steps_of
from repro.problems import ProblemSet
from repro.problems.prompts import answer_line
from repro.records import Verdict
from repro.rewards import ProcessScorer
from repro.sampling import Request, Sampler, SamplingParams, checksum, prompt_ids
from repro.schema import SEEN, Account
from repro.seeds import generator, stream_seed
from repro.shapes import shape_of
from repro.training import Row, Trainer, encode, newest_state
from repro.training.batches import batches
from repro.verify import Verifier, closed

Data = Sequence[Example] | Sequence[Pair]
Log = logging.getLogger("repro.run")


@dataclass(frozen=True)
class Cut:
    """Where a run stood at a budget."""

    budget: int
    spent: int
    entries: int  # ledger entries up to here
    seen: int  # rounds of monitors up to here
    model: Path
    round: int
    steps: int


@dataclass(frozen=True)
class Engines:
    """What the Lab works with; a study chooses them."""

    sampler: Sampler
    trainer: Trainer
    verifier: Verifier
    scorer: ProcessScorer | None
    corpus: Callable[[int, int], list[tuple[str, str]]] | None  # (rows, seed) -> (prompt, response)
    max_tokens: int
    chunk: int  # completions per journal entry, sampled or scored
    max_length: int
    stop: tuple[str, ...] = ()  # texts that end a completion
    thinking: bool = False  # whether completions begin with thoughts, which state no answer
    lora_rank: int = 0  # of the adapters that the trainer trains; 0: it trains all weights
    keep_moments: bool = True  # of a finished run, so that a higher budget goes on without training anew


@dataclass(frozen=True)
class TrainingCall:
    """All that a training call's weights follow from: they can be made again after any of its steps."""

    folder: Path  # holds `step-...`, a model folder each
    states: Path | None  # what a call that is not over, or that a budget cut, goes on from
    source: Path
    inherit: Path | None  # model folder whose moments carry over
    rows: Sequence[Row]
    plan: Sequence[Sequence[int]]  # the rows of each step
    objective: Objective
    optimizer: Optimizer
    horizon: int
    seed: int

    def model(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"


class Lab:
    """:class:`repro.method.Lab` of one run. ``name`` keys its random streams, ``folder`` holds its state."""

    def __init__(
        self,
        name: str,
        folder: Path,
        base: Path,
        problems: ProblemSet,
        budgets: Sequence[int],
        engines: Engines,
        uses_gold: bool = False,
        uses_corpus: bool = False,
        plans: bool = False,
    ) -> None:
        self.problems: Sequence[Problem] = problems.problems
        self.round = 0
        self.objectives: set[str] = set()  # names of those that the run trained by
        self.mode = ""  # how the run went about process rewards, if its method asked for any
        self.ledger: list[Entry] = []
        self.cuts: list[Cut] = []
        self.visits: Counter[str] = Counter()  # problem id -> training sequences consumed
        self.steps = 0
        self._name = name
        self._folder = folder
        self._base = base
        self.monitors = Monitors(problem.id for problem in problems.problems)
        self._set = problems
        self._budgets = list(budgets)
        self._engines = engines
        self._uses_gold = uses_gold
        self._uses_corpus = uses_corpus
        self._plans = plans
        self._meter = Meter()
        self._journal = Journal(folder / "journal")
        self._tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        self._shape = shape_of(base)
        self._trained_shape = self._shape.with_lora(engines.lora_rank)
        self._model = base
        self._loaded: Path | None = None
        self._trained: Path | None = None  # the last training call's model, which holds its moments
        self._chain = 0  # optimizer steps behind these moments
        self._inherited = False  # whether any call went on from moments
        self._open: TrainingCall | None = None  # one that a budget cut, and a higher one would go on with
        self._trainings: dict[Path, TrainingCall] = {}  # by their folders
        self._calls = 0
        self._spent = 0
        self._corpus_rows = 0
        self._encoded: dict[tuple[str, tuple[str, ...]], Row] = {}
        self._drawn: dict[tuple[str, int], float] = {}  # by the present policy: see `_gap`
        self._prompt_tokens: dict[str, int] = {}
        self._prefixes: dict[bool, int] = {}  # tokens that all prompts begin with; hinted or not

    # -- what a method reads ---------------------------------------------------------------------------

    @property
    def spent(self) -> int:
        return self._spent

    @property
    def budget(self) -> int:
        if not self._plans:
            raise Misuse("only a method that plans from its budget may read it: set `plans: true`")
        return self._budgets[-1]

    @property
    def remaining(self) -> int:
        return self.budget - self._spent

    def affords(self, cost: int) -> bool:
        return not self._plans or cost <= self.remaining

    @property
    def machine(self) -> list[dict[str, Any]]:
        """What the machine took, call by call, in all processes that worked on the run."""
        return self._journal.machine

    @property
    def has_process_rewards(self) -> bool:
        scorer = self._engines.scorer
        self.mode = f"process rewards: {scorer.name}" if scorer else "verifier only"
        return scorer is not None

    def rng(self, name: str) -> np.random.Generator:
        return generator(self._name, "method", self.round, name)

    def log(self, message: str, **values: Any) -> None:
        if taken := SEEN.keys() & values.keys():
            raise Misuse(f"the Lab itself records {', '.join(sorted(taken))}: log another name")
        self.monitors.at(self.round, self._spent)
        self.monitors.say(values)
        self._log(message, **values)

    def _log(self, message: str, **values: Any) -> None:
        """A line that is no monitor: how a call goes on, which a replay does not see."""
        numbers = "  ".join(f"{key} {_short(value)}" for key, value in values.items())
        Log.info("%s  round %d  %s  %s", _tera(self._spent), self.round, message, numbers)

    # -- sampling --------------------------------------------------------------------------------------

    def sample(
        self,
        problems: Sequence[Problem],
        n: int | Sequence[int] = 1,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        hint: bool = False,
        search: bool = False,
    ) -> list[list[Completion]]:
        self._begin()
        counts = [n] * len(problems) if isinstance(n, int) else list(n)
        if len(counts) != len(problems) or min(counts, default=1) < 0:
            raise Misuse(f"{len(problems)} problems need as many counts of 0 or more, not {counts[:5]}")
        params = SamplingParams(temperature, top_p, top_k, self._engines.max_tokens, self._engines.stop)
        account = Account.SEARCH if search else Account.SAMPLE
        prompts = self._set.hinted if hint else self._set.few_shot
        wanted: list[tuple[Problem, Request]] = []
        asked: Counter[str] = Counter()  # a problem that is named again goes on with new seeds
        for problem, count in zip(problems, counts, strict=True):
            if count:
                seeds = self._seeds(problem, range(asked[problem.id], asked[problem.id] + count))
                wanted.append((problem, Request(prompts[problem.id], seeds)))
                asked[problem.id] += count
        drawn: list[list[Completion]] = []
        longest = max((self._tokens(request.prompt) for _, request in wanted), default=0)
        for chunk in _chunks(wanted, self._engines.chunk):
            how = [temperature, top_p, top_k, params.max_tokens, params.stop]
            arguments = [how, [(request.prompt, request.seeds) for _, request in chunk]]

            def tallies(value: Any, first: bool = not drawn) -> list[Tally]:
                shared = [0 if first and i == 0 else self._prefix(hint) for i in range(len(value))]
                return [
                    sample_tally(
                        prompt_tokens, [tokens for _, tokens, *_ in samples], longest, known,
                        self._shape.window,
                    )
                    for (prompt_tokens, samples), known in zip(value, shared, strict=True)
                ]  # fmt: skip

            value = self._next(
                "sample",
                arguments,
                partial(self._sample, chunk, params, account),
                price=lambda value, *_, tallies=tallies: flops(  # type: ignore[misc]
                    self._shape, sum(tallies(value), Tally.zero()), FORWARD_PASSES
                ),
            )
            found = [
                [
                    Completion(problem, text, prompt_tokens, tokens, finish, Verdict(verdict), hint)
                    for text, tokens, finish, verdict, *_ in samples
                ]
                for (problem, _), (prompt_tokens, samples) in zip(chunk, value, strict=True)
            ]
            for (problem, request), (_, samples) in zip(chunk, value, strict=True):
                if request.prompt == self._set.prompts[problem.id]:
                    self._drawn |= {
                        (problem.id, ids): log_probability for *_, log_probability, ids in samples
                    }

            def paid(part: int, found: list[list[Completion]] = found) -> None:
                if account is Account.SAMPLE and not hint:
                    self.monitors.sampled(found[part])

            parts = [[(FORWARD_PASSES, tally)] for tally in tallies(value)]
            self._charge(account, self._shape, parts, lambda _: self._model, paid)
            drawn += found
        answers = iter(drawn)
        return [next(answers) if count else [] for count in counts]

    def _tokens(self, prompt: str) -> int:
        if prompt not in self._prompt_tokens:
            self._prompt_tokens[prompt] = len(prompt_ids(self._tokenizer, prompt))
        return self._prompt_tokens[prompt]

    def _prefix(self, hint: bool) -> int:
        """Tokens that all prompts of the problem set begin with, hinted ones or the others: worked examples,
        a system message. The shortest prompt keeps one of its own, which yields the first of a completion."""
        if hint not in self._prefixes:
            prompts = (self._set.hinted if hint else self._set.few_shot).values()
            rows = [prompt_ids(self._tokenizer, prompt) for prompt in prompts]
            low, high = min(rows), max(rows)  # what these two begin with, all between them do
            same = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
            self._prefixes[hint] = min(same, min(map(len, rows)) - 1)
        return self._prefixes[hint]

    def _next(self, kind: str, arguments: Any, work: Callable[[Progress], Any], **more: Any) -> Any:
        """The value of the journal's next call."""
        made = self._journal.made
        value = self._journal.next(kind, arguments, work, machine=self._meter.take, **more)
        if made < self._journal.made and (lost := self.machine[-1]["wasted"]):
            self._log(f"{_tera(lost)} were lost when the run was killed")
        return value

    def _begin(self) -> None:
        """A metered call begins. Raises BudgetSpent where the top budget is already cut."""
        if len(self.cuts) == len(self._budgets):
            raise BudgetSpent
        self.monitors.at(self.round, self._spent)
        self._calls += 1

    def _seeds(self, problem: Problem, samples: range) -> tuple[int, ...]:
        return tuple(stream_seed(self._name, "sample", self._calls, problem.id, k) for k in samples)

    def _sample(
        self,
        chunk: Sequence[tuple[Problem, Request]],
        params: SamplingParams,
        account: Account,
        progress: Progress,
    ) -> list[Any]:
        """Sample and verify: ``[prompt tokens, [[text, tokens, finish, verdict, log-probability, checksum of
        its ids], ...]]`` for each request."""
        with self._engine("sampling"):
            self._close_scorer()
            if self._loaded != self._model:
                self._restore(self._model)
                self._engines.sampler.load(self._model)
                self._loaded = self._model
            progress(len(chunk))
            with self._meter.clock(account):
                drawn = self._engines.sampler.sample([request for _, request in chunk], params)
        texts = [sample.text for sampled in drawn for sample in sampled.samples]
        if self._engines.thinking:
            texts = [closed(text) for text in texts]
        answers = [self._set.golds[problem.id].answer for problem, request in chunk for _ in request.seeds]
        with self._engine("verification"), self._meter.clock("verify"):
            verdicts = iter(self._engines.verifier.verify(texts, answers))
        return [
            [
                d.prompt_tokens,
                [
                    [s.text, s.tokens, s.finish, str(next(verdicts)), round(s.log_probability, 5), s.checksum]
                    for s in d.samples
                ],
            ]
            for d in drawn
        ]

    @contextmanager
    def _engine(self, work: str) -> Iterator[None]:
        """What goes wrong inside is the machine's fault, not the method's: the run stops, to be run again."""
        try:
            yield
        except Exception as error:
            if isinstance(error, UserError | OSError) or out_of_memory(error):
                raise
            files.write_text(self._folder / "fault.txt", traceback.format_exc())
            said = " ".join(str(error).split())[:300]
            raise UserError(
                f"{work} broke down ({type(error).__name__}: {said}; all of it in "
                f"{self._folder / 'fault.txt'}); mend the cause and run again, finished calls are kept"
            ) from error

    def _free_sampler(self) -> None:
        self._engines.sampler.close()
        self._loaded = None

    # -- rewards and embeddings ------------------------------------------------------------------------

    def score(self, completions: Sequence[Completion]) -> list[tuple[float, ...]]:
        scorer = self._engines.scorer
        if scorer is None:
            raise Unavailable("the study has no process rewards (key `process_rewards`)")
        if scorer.shape is None:  # rules cost nothing, and are done sooner than written to the journal
            self._note_rules(completions)
            return [scored.rewards for scored in scorer.score(completions)]
        self._begin()
        found: list[tuple[float, ...]] = []
        for start in range(0, len(completions), self._engines.chunk):
            chunk = completions[start : start + self._engines.chunk]
            arguments = [scorer.name, [(c.problem.id, c.text) for c in chunk]]
            value = self._next(
                "score",
                arguments,
                partial(self._score, scorer, chunk),
                price=lambda value, *_, shape=scorer.shape: flops(  # type: ignore[misc]
                    shape, sum(_scored(value, shape), Tally.zero()), FORWARD_PASSES
                ),
            )
            parts = [[(FORWARD_PASSES, tally)] for tally in _scored(value, scorer.shape)]
            self._charge(Account.REWARD, scorer.shape, parts, lambda _: self._model)
            found += [tuple(rewards) for rewards, *_ in value]
        self._log("scored", completions=len(found), steps=sum(map(len, found)))
        return found

    def _score(self, scorer: ProcessScorer, chunk: Sequence[Completion], progress: Progress) -> list[Any]:
        """``[rewards, prompt tokens, completion tokens, logits]`` for each completion."""
        with self._engine("scoring"):
            self._free_sampler()
            progress(len(chunk))
            with self._meter.clock(Account.REWARD):
                return [[s.rewards, s.prompt_tokens, s.tokens, s.logits] for s in scorer.score(chunk)]

    def _note_rules(self, completions: Sequence[Completion]) -> None:
        """What these rewards would have cost with a reward model of the policy's size: one pass over question
        and completion, whose head reads a few positions. It is shown beside the row, outside the budget."""
        lengths = [(self._tokens(self._set.prompts[c.problem.id]), c.tokens) for c in completions]
        if lengths:
            tally = sequence_tally(lengths, logits=0, window=self._shape.window)
            self.ledger.append(
                Entry(Account.RULES, self.round, self._calls, FORWARD_PASSES, self._shape, tally)
            )

    def _close_scorer(self) -> None:
        """Give the reward model's memory to the policy."""
        if self._engines.scorer is not None:
            self._engines.scorer.close()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return rewards.embed(texts)

    # -- training --------------------------------------------------------------------------------------

    def train(
        self,
        data: Data,
        *,
        optimizer: Optimizer,
        batch_size: int,
        objective: Objective | None = None,
        start: Literal["base", "current"] = "current",
        steps: int | None = None,
        epochs: float | None = None,
        inherit_optimizer: bool = False,
        horizon: int | None = None,
    ) -> TrainReport:
        self._begin()
        if not data:
            raise Misuse("no training data; check before calling lab.train")
        if steps is not None and epochs is not None:
            raise Misuse("give steps or epochs, not both")
        if epochs is not None:
            steps = steps_of(epochs, len(data), batch_size)
        if steps is not None and steps < 1:
            raise Misuse(f"a training call needs at least one step, not {steps}")
        objective = objective or default_objective(data)
        if not isinstance(data[0], objective.data):
            wanted, found = objective.data.__name__, type(data[0]).__name__
            raise Misuse(f"{type(objective).__name__} trains on {wanted}s, and these are {found}s")
        weights = {datum.weight for datum in data if isinstance(datum, Example)}
        if isinstance(objective, SFT) and weights != {1}:
            raise Misuse("SFT trains on examples of weight 1; those of other weights are PolicyGradient's")
        if steps is None and not self._plans and _ends(optimizer):
            raise Misuse(
                "training to the end of the budget with a schedule that ends there is planning: "
                "give steps, use a constant schedule, or set `plans: true`"
            )
        self.objectives.add(type(objective).__name__)
        rows = self._rows(data)
        parts, plan = self._planned(rows, batch_size, objective, steps)
        truncated = steps is None or len(plan) < steps
        cost_after = list(accumulate(map(self._training_cost, parts)))

        if plan:
            before = self._chain if inherit_optimizer else 0
            call = TrainingCall(
                self._folder / "models" / f"{self._calls:06d}",
                self._states,
                self._base if start == "base" else self._model,
                self._trained if inherit_optimizer else None,
                rows,
                plan,
                objective,
                optimizer,
                horizon or before + (steps or len(plan)),
                stream_seed(self._name, "train", self._calls),
            )
            # Settings at their defaults are left out: a later version may have more of them.
            arguments = [
                start, files.digest([_told(row) for row in rows]), type(objective).__name__,
                objective.model_dump(exclude_defaults=True), optimizer.model_dump(exclude_defaults=True),
                batch_size, steps, inherit_optimizer, horizon,
            ]  # fmt: skip
            self._trainings[call.folder] = call
            snapshots, took, began = self._snapshot_steps(cost_after), self._took(), perf_counter()

            def work(progress: Progress) -> dict[str, Any]:
                def done(step: int) -> None:
                    progress(step)
                    self._tell(self._spent + cost_after[step - 1], took + perf_counter() - began)

                return self._train(call, len(plan), snapshots, truncated, done)

            value = self._next(
                "train",
                arguments,
                work,
                saved=lambda: int(state.name) if (state := newest_state(self._states)) else 0,
                price=lambda _, first, last: _between(cost_after, first, last),
                enough=lambda value: value["steps"] >= len(plan),
            )
            policy = self._model
            self._trained = self._model = call.model(len(plan))
            self._chain = before + len(plan)
            self._inherited |= inherit_optimizer
            gap = self._gap(data, rows, value.get("start", [])) if call.source == policy else {}
            self._drawn.clear()

            def paid(step: int) -> None:
                problems = [data[i].problem.id for i in plan[step]]
                self.visits.update(problems)
                self.monitors.trained(problems)
                self.monitors.say(gap)

            self._charge(
                Account.TRAIN,
                self._trained_shape,
                parts,
                lambda step: call.model(step) if step else policy,
                paid,
                steps=True,
            )
            if not truncated or self._plans:  # one that a higher budget goes on with has no mean yet
                self.monitors.say({**value.get("monitors", {}), "loss": value["loss"]})
            self._open = call if truncated else None
            self._forget()
            self._log("trained", steps=len(plan), loss=value["loss"])
            report = TrainReport(steps=len(plan), sequences=sum(map(len, plan)), loss=value["loss"])
        if truncated:
            self._close()
            raise BudgetSpent
        return report

    def _gap(
        self, data: Data, rows: Sequence[Row], start: Sequence[tuple[int, Sequence[float]]]
    ) -> dict[str, float]:
        """How far sampler and trainer are apart on what the present policy sampled, in nats per token.
        ``start``: some of the rows, each with the trainer's log-probabilities of its responses before the
        first step. A text that was not sampled as it is tokenised for training is left out."""
        gaps = []
        for i, sums in start:
            for response, trainers in zip(rows[i].responses, sums, strict=True):
                samplers = self._drawn.get((data[i].problem.id, checksum(response)))
                if samplers is not None:
                    gaps.append(abs(samplers - trainers) / len(response))
        if not gaps:
            return {}
        return {"log_probability_gap": sum(gaps) / len(gaps), "log_probability_gap_max": max(gaps)}

    def _planned(
        self, rows: Sequence[Row], batch_size: int, objective: Objective, steps: int | None
    ) -> tuple[list[list[tuple[int, Tally]]], list[list[int]]]:
        """The steps that the budget allows: what each is charged, and its rows. References read
        a distinct row in the step that first needs it."""
        tallies = [row.tally(self._shape.window) for row in rows]
        shuffle = generator(self._name, "batches", self._calls)
        order = batches([tally.tokens for tally in tallies], batch_size, shuffle)
        parts: list[list[tuple[int, Tally]]] = []
        plan: list[list[int]] = []
        known: set[Row] = set()
        left = self._budgets[-1] - self._spent
        while steps is None or len(plan) < steps:
            batch = next(order)
            part = [(TRAINING_PASSES, batch_tally([tallies[i] for i in batch]))]
            new = {rows[i]: tallies[i] for i in batch if rows[i] not in known}
            if new:
                part += [(FORWARD_PASSES, batch_tally(list(new.values())))] * objective.references
            left -= self._training_cost(part)
            if left < 0:
                break
            known |= new.keys()
            parts.append(part)
            plan.append(batch)
        return parts, plan

    def _training_cost(self, part: Sequence[tuple[int, Tally]]) -> int:
        return sum(flops(self._trained_shape, tally, passes) for passes, tally in part)

    def _snapshot_steps(self, cost_after: Sequence[int]) -> list[int]:
        """The steps of a call after which a lower budget's checkpoint is due."""
        due = {
            sum(self._spent + cost <= budget for cost in cost_after)
            for budget in self._budgets
            if self._spent <= budget and cost_after and self._spent + cost_after[-1] > budget
        }
        return sorted(due - {0, len(cost_after)})

    def _train(
        self, call: TrainingCall, steps: int, snapshots: Sequence[int], truncated: bool, progress: Progress
    ) -> dict[str, Any]:
        """The model after these steps of a call, and after each of ``snapshots``; what training reports, its
        rows by their numbers in the call."""
        each = max(1, steps // 20)

        def on_step(step: int, loss: float) -> None:
            progress(step)
            if step % each == 0:
                self._log(f"training, step {step} of {steps}", loss=loss)

        with self._engine("training"):
            self._restore(call.source)
            if call.inherit:
                self._restore(call.inherit, moments=True)
            self._free_sampler()  # training wants the memory
            self._close_scorer()
            if call.states and (state := newest_state(call.states)) and int(state.name) > steps:
                shutil.rmtree(call.states)  # of a higher budget than there now is
            with self._meter.clock(Account.TRAIN), files.building(call.model(steps)) as folder:
                trained = self._engines.trainer.train(
                    call.source,
                    [[call.rows[i] for i in batch] for batch in call.plan[:steps]],
                    call.objective,
                    call.optimizer,
                    folder,
                    snapshots={step: call.model(step) for step in snapshots},
                    inherit=call.inherit,
                    horizon=call.horizon,
                    seed=call.seed,
                    on_step=on_step,
                    states=call.states,
                    keep_state=truncated and self._grows,
                    base=self._base,
                )
            for model in map(call.model, (*snapshots, steps)):
                if model.is_dir():  # one that a budget, new since a killed try, asks for is made later
                    files.sign(model, self._signature(model))
        start = [[call.rows.index(row), list(values)] for row, values in trained.start]
        return {"steps": steps, "loss": trained.loss, "monitors": trained.monitors, "start": start}

    def _signature(self, model: Path) -> str:
        return f"{self._folder.name}/{model.relative_to(self._folder / 'models')}"

    @property
    def _states(self) -> Path:
        """Where the training call under way saves itself, and one that a budget cut its end."""
        return self._folder / "unfinished" / f"{self._calls:06d}"

    @property
    def _grows(self) -> bool:
        """Whether a higher budget would go on with this run, and what it then needs is kept."""
        return self._engines.keep_moments and not self._plans

    def step_cost(self, data: Data, batch_size: int, objective: Objective | None = None) -> int:
        if not data:
            raise Misuse("no training data; check before calling lab.step_cost")
        tallies = [row.tally(self._shape.window) for row in self._rows(data)]
        references = (objective or default_objective(data)).references
        parts = [[(TRAINING_PASSES, tally), *[(FORWARD_PASSES, tally)] * references] for tally in tallies]
        return sum(map(self._training_cost, parts)) * batch_size // len(tallies)

    def gold(self, problems: Sequence[Problem], *, answers_only: bool = False) -> list[Example]:
        if not self._uses_gold:
            raise Unavailable("gold solutions are for methods that declare `uses_gold` or have an SFT stage")
        golds = [(problem, self._set.golds[problem.id]) for problem in problems]
        if answers_only:
            return [Example(problem, answer_line(gold)) for problem, gold in golds]
        if any(gold.solution is None for _, gold in golds):
            raise Unavailable("the problem set has no gold solutions")
        return [Example(problem, gold.solution) for problem, gold in golds if gold.solution is not None]

    def corpus(self, n: int) -> list[Example]:
        if not self._uses_corpus:
            raise Unavailable("the warm-start corpus is for methods that declare `uses_corpus`")
        if self._engines.corpus is None:
            raise Unavailable("the base model was not warm-started from a corpus that more could be drawn of")
        self._corpus_rows += 1
        seed = stream_seed(self._name, "corpus", self._corpus_rows) % 2**31
        rows = self._engines.corpus(n, seed)
        examples = []
        for i, (prompt, response) in enumerate(rows):
            problem = Problem(f"corpus-{self._corpus_rows}-{i:06d}", prompt, "corpus")
            self._set.prompts[problem.id] = prompt
            examples.append(Example(problem, response))
        return examples

    # -- the ledger and the budgets --------------------------------------------------------------------

    def _charge(
        self,
        account: Account,
        shape: ModelShape,
        parts: Sequence[Sequence[tuple[int, Tally]]],
        model_after: Callable[[int], Path],
        paid: Callable[[int], object] = lambda part: None,
        steps: bool = False,
    ) -> None:
        """Charge the parts of one call in order, cutting at each budget that the next part would cross. A
        part is whole or not: tallies with the passes that a model of ``shape`` made over each.

        ``model_after(i)`` is the policy once ``i`` parts are done, and ``paid(i)`` is called once part ``i``
        is charged. Raises BudgetSpent at the top budget.
        """
        pending: dict[int, Tally] = {}

        def book() -> None:
            for passes, tally in pending.items():
                self.ledger.append(Entry(account, self.round, self._calls, passes, shape, tally))
            pending.clear()

        for done, part in enumerate(parts):
            cost = sum(flops(shape, tally, passes) for passes, tally in part)
            while self._spent + cost > self._budgets[len(self.cuts)]:
                book()
                self._cut(model_after(done))
                if len(self.cuts) == len(self._budgets):
                    raise BudgetSpent
            for passes, tally in part:
                if tally != Tally.zero():
                    pending[passes] = pending.get(passes, Tally.zero()) + tally
            self._spent += cost
            self.steps += steps
            paid(done)
        book()
        if self._journal.made:  # a replay tells nothing
            self._tell(self._spent, self._took())

    def _took(self) -> float:
        """Seconds of the machine, in all finished calls."""
        return sum(seconds for call in self.machine for seconds in call["seconds"].values())

    def _tell(self, spent: int, seconds: float) -> None:
        """Leave where the run stands, for those who look at it from outside."""
        stands = {"spent": spent, "seconds": round(seconds, 2), "round": self.round}
        files.write_lightly(self._folder / PROGRESS, json.dumps(stands))

    def _cut(self, model: Path) -> None:
        budget = self._budgets[len(self.cuts)]
        self.monitors.close(self._spent)
        seen = len(self.monitors.rounds)
        self.cuts.append(Cut(budget, self._spent, len(self.ledger), seen, model, self.round, self.steps))
        self._log(f"budget {_tera(budget)} reached")

    def _close(self) -> None:
        """Cut the budgets not reached at what was spent."""
        while len(self.cuts) < len(self._budgets):
            self._cut(self._model)

    def finish(self) -> list[Cut]:
        """Close the run: one cut per budget, each of a checkpoint that is whole."""
        self._close()
        for cut in self.cuts:
            self._restore(cut.model)
        self.machine.append({**self._meter.take(), "wasted": 0})  # for weights that were made again
        self._free_sampler()
        self._close_scorer()
        self._forget()
        return self.cuts

    # -- state on disk ---------------------------------------------------------------------------------

    def _restore(self, model: Path, moments: bool = False) -> None:
        """See that a checkpoint is what was written. One that an earlier process removed, because no budget
        asked for it then, is made again from the journal: nothing is sampled anew.

        Raises UserError where it is damaged.
        """
        lacks_moments = moments and not (model / "optimizer").is_dir()
        if (model / files.COMPLETE).exists() and not lacks_moments:
            if not files.sealed(model, None if model == self._base else self._signature(model)):
                raise UserError(f"checkpoint {model} is damaged, or another's; delete it and run again")
            return
        call = self._trainings.get(model.parent)
        if call is None:
            raise UserError(f"checkpoint {model} is missing; delete {self._folder} and run again")
        step = int(model.name.removeprefix("step-"))
        self._log(f"making the weights after step {step} of an earlier training call again")
        self._train(replace(call, states=None), step, [], False, lambda step: None)

    def _forget(self) -> None:
        """Remove what nothing will read again: of earlier calls all but budgets' checkpoints, and of those
        the moments. At the end of a run what it would go on from stays, where a higher budget may come."""
        finished = len(self.cuts) == len(self._budgets)
        weights = {cut.model for cut in self.cuts}
        whole = {self._trained, self._model} if not finished else set()  # with moments
        if self._open and self._grows:
            weights.add(self._open.source)
            whole.add(self._open.inherit)
        else:
            shutil.rmtree(self._states, ignore_errors=True)
            whole |= {self._trained} if self._grows and self._inherited else set()
        for model in (self._folder / "models").glob("[0-9]*/step-*"):
            number = model.parent.name  # others are nobody's: a copy that somebody made
            if model in whole or not number.isdigit() or int(number) > self._calls - (not finished):
                continue
            if model in weights:
                files.prune(model, _is_weights)
            else:
                files.discard(model)
                with suppress(OSError):  # not empty
                    model.parent.rmdir()

    def _rows(self, data: Data) -> list[Row]:
        rows = [self._encode(datum.problem, datum.responses) for datum in data]
        return [
            replace(row, weight=datum.weight) if isinstance(datum, Example) else row
            for row, datum in zip(rows, data, strict=True)
        ]

    def _encode(self, problem: Problem, responses: tuple[str, ...]) -> Row:
        key = (problem.id, responses)
        if key not in self._encoded:
            prompt = self._set.prompts[problem.id]
            self._encoded[key] = encode(self._tokenizer, prompt, responses, self._engines.max_length)
        return self._encoded[key]


def _ends(optimizer: Optimizer) -> bool:
    """Whether the schedule depends on the number of steps."""
    return optimizer.schedule != "constant" or optimizer.warmup_ratio > 0


def _told(row: Row) -> list[Any]:
    """A row in a journal's arguments: its weight is left out where it is 1, as settings at defaults are."""
    return [row.prompt, row.responses, row.weight] if row.weight != 1 else [row.prompt, row.responses]


def _between(cost_after: Sequence[int], first: int, last: int) -> int:
    """The cost of the steps after the first ``first``, up to ``last``."""
    costs = [0, *cost_after]
    return costs[min(last, len(cost_after))] - costs[min(first, len(cost_after))]


def _scored(value: Sequence[Any], shape: ModelShape) -> list[Tally]:
    """The tally of each completion that a reward model of ``shape`` scored; one that it had no room for costs
    nothing."""
    return [
        sequence_tally([(prompt_tokens, tokens)], logits, shape.window) if logits else Tally.zero()
        for _, prompt_tokens, tokens, logits in value
    ]


def _is_weights(file: Path) -> bool:
    """Whether a file of a model folder is of its weights and not of its moments."""
    return file.parts[0] != "optimizer"


def _chunks(wanted: Sequence[tuple[Problem, Request]], size: int) -> Iterator[list[tuple[Problem, Request]]]:
    """Consecutive requests of about ``size`` completions together."""
    chunk: list[tuple[Problem, Request]] = []
    count = 0
    for item in wanted:
        chunk.append(item)
        count += len(item[1].seeds)
        if count >= size:
            yield chunk
            chunk, count = [], 0
    if chunk:
        yield chunk


def _tera(value: int) -> str:
    return f"{value / 1e12:.3f} TFLOP"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
