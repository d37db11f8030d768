"""The Lab: the one gate between a method and the world. It meters, seeds, journals and logs every call.

Budgets are cut here. The checkpoint of a budget b is the weights after the last optimizer step whose
cumulative spend is at most b, and what was spent by then: a training call stops at (or is snapshotted after)
that step, a sampling call is cut in request order, never in the order of completion.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from math import ceil
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
from transformers import AutoTokenizer

from repro import files, rewards
from repro.errors import UserError
from repro.flops import (
    DPO_PASSES,
    FORWARD_PASSES,
    TRAINING_PASSES,
    ModelShape,
    Tally,
    flops,
    sample_tally,
    sequence_tally,
)
from repro.journal import Journal
from repro.ledger import Account, Entry
from repro.method import (
    DPO,
    SFT,
    BudgetSpent,
    Completion,
    Example,
    Optimizer,
    Pair,
    Problem,
    TrainReport,
    Unavailable,
)
from repro.problems import ProblemSet
from repro.records import Verdict
from repro.rewards import ProcessScorer, Scored
from repro.sampling import Request, Sampler, SamplingParams
from repro.seeds import generator, stream_seed
from repro.training import PairRow, Row, Trainer, encode, newest_state
from repro.training.batches import batches
from repro.verify import Verifier

Data = Sequence[Example] | Sequence[Pair]
Log = logging.getLogger("repro.run")


@dataclass(frozen=True)
class Cut:
    """Where a run stood at a budget."""

    budget: int
    spent: int
    entries: int  # ledger entries up to here
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
    lora_rank: int = 0  # of the adapters that the trainer trains; 0: it trains all weights


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
    ) -> None:
        self.problems: Sequence[Problem] = problems.problems
        self.round = 0
        self.mode = ""  # how the run went about process rewards, if its method asked for any
        self.ledger: list[Entry] = []
        self.cuts: list[Cut] = []
        self.visits: Counter[str] = Counter()  # problem id -> training sequences consumed
        self.steps = 0
        self.seconds: dict[str, float] = defaultdict(float)  # in each engine, of this process only
        self._name = name
        self._folder = folder
        self._base = base
        self._set = problems
        self._budgets = list(budgets)
        self._engines = engines
        self._uses_gold = uses_gold
        self._uses_corpus = uses_corpus
        self._journal = Journal(folder / "journal")
        self._tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        self._shape = ModelShape.from_config(files.read_json(base / "config.json"), str(base / "config.json"))
        self._trained_shape = self._shape.with_lora(engines.lora_rank)
        self._model = base
        self._loaded: Path | None = None
        self._trained: Path | None = None  # folder of the last training call, which holds its optimizer
        self._calls = 0
        self._spent = 0
        self._corpus_rows = 0
        self._encoded: dict[tuple[str, str], Row] = {}

    # -- what a method reads ---------------------------------------------------------------------------

    @property
    def budget(self) -> int:
        return self._budgets[-1]

    @property
    def spent(self) -> int:
        return self._spent

    @property
    def remaining(self) -> int:
        return self.budget - self._spent

    @property
    def has_process_rewards(self) -> bool:
        scorer = self._engines.scorer
        self.mode = f"process rewards: {scorer.name}" if scorer else "verifier only"
        return scorer is not None

    def rng(self, name: str) -> np.random.Generator:
        return generator(self._name, "method", self.round, name)

    def log(self, message: str, **values: Any) -> None:
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
            raise ValueError(f"{len(problems)} problems need as many counts of 0 or more, not {counts[:5]}")
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
        for chunk in _chunks(wanted, self._engines.chunk):
            arguments = [repr(params), [(request.prompt, request.seeds) for _, request in chunk]]
            value = self._journal.next("sample", arguments, partial(self._sample, chunk, params))
            found = [
                [
                    Completion(problem, text, prompt_tokens, tokens, finish, Verdict(verdict), hint)
                    for text, tokens, finish, verdict in samples
                ]
                for (problem, _), (prompt_tokens, samples) in zip(chunk, value, strict=True)
            ]
            self._charge_samples(account, found)
            drawn += found
        answers = iter(drawn)
        return [next(answers) if count else [] for count in counts]

    def _begin(self) -> None:
        """A metered call begins. Raises BudgetSpent where the top budget is already cut."""
        if len(self.cuts) == len(self._budgets):
            raise BudgetSpent
        self._calls += 1

    def _seeds(self, problem: Problem, samples: range) -> tuple[int, ...]:
        return tuple(stream_seed(self._name, "sample", self._calls, problem.id, k) for k in samples)

    def _sample(self, chunk: Sequence[tuple[Problem, Request]], params: SamplingParams) -> list[Any]:
        """Sample and verify: ``[prompt tokens, [[text, tokens, finish, verdict], ...]]`` for each request."""
        self._close_scorer()
        if self._loaded != self._model:
            self._require(self._model)
            self._engines.sampler.load(self._model)
            self._loaded = self._model
        with self._clock("sample"):
            drawn = self._engines.sampler.sample([request for _, request in chunk], params)
        texts = [sample.text for sampled in drawn for sample in sampled.samples]
        answers = [self._set.golds[problem.id].answer for problem, request in chunk for _ in request.seeds]
        with self._clock("verify"):
            verdicts = iter(self._engines.verifier.verify(texts, answers))
        return [
            [d.prompt_tokens, [[s.text, s.tokens, s.finish, str(next(verdicts))] for s in d.samples]]
            for d in drawn
        ]

    def _charge_samples(self, account: Account, found: Sequence[Sequence[Completion]]) -> None:
        longest = max(completions[0].prompt_tokens for completions in found)
        tallies = [
            sample_tally(completions[0].prompt_tokens, [c.tokens for c in completions], longest)
            for completions in found
        ]
        self._charge(account, 1, self._shape, tallies, lambda _: self._model)

    def _free_sampler(self) -> None:
        self._engines.sampler.close()
        self._loaded = None

    # -- rewards and embeddings ------------------------------------------------------------------------

    def score(self, completions: Sequence[Completion]) -> list[tuple[float, ...]]:
        scorer = self._engines.scorer
        if scorer is None:
            raise Unavailable("the study has no process rewards (key `process_rewards`)")
        if scorer.shape is None:  # rules: nothing to charge, and done sooner than written to the journal
            return [scored.rewards for scored in scorer.score(completions)]
        self._begin()
        found: list[tuple[float, ...]] = []
        for start in range(0, len(completions), self._engines.chunk):
            chunk = completions[start : start + self._engines.chunk]
            arguments = [scorer.name, [(c.problem.id, c.text) for c in chunk]]
            value = self._journal.next("score", arguments, partial(self._score, scorer, chunk))
            scored = [Scored(tuple(rewards), *counts) for rewards, *counts in value]
            tallies = [
                sequence_tally([(s.prompt_tokens, s.tokens)], s.logits) if s.logits else Tally.zero()
                for s in scored
            ]
            self._charge(Account.REWARD, FORWARD_PASSES, scorer.shape, tallies, lambda _: self._model)
            found += [s.rewards for s in scored]
        self.log("scored", completions=len(found), steps=sum(map(len, found)))
        return found

    def _score(self, scorer: ProcessScorer, chunk: Sequence[Completion]) -> list[Any]:
        """``[rewards, prompt tokens, completion tokens, logits]`` for each completion."""
        self._free_sampler()
        with self._clock("reward"):
            return [[s.rewards, s.prompt_tokens, s.tokens, s.logits] for s in scorer.score(chunk)]

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
        objective: SFT | DPO | None = None,
        start: Literal["base", "current"] = "current",
        steps: int | None = None,
        epochs: float | None = None,
        inherit_optimizer: bool = False,
        horizon: int | None = None,
    ) -> TrainReport:
        self._begin()
        if steps is not None and epochs is not None:
            raise ValueError("give steps or epochs, not both")
        if epochs is not None:
            steps = ceil(epochs * len(data) / batch_size)
        if steps is not None and steps < 1:
            raise ValueError(f"a training call needs at least one step, not {steps}")
        objective = objective or (DPO() if data and isinstance(data[0], Pair) else SFT())
        rows = self._rows(data)
        passes, tallies = _costs(rows)
        costs = [flops(self._trained_shape, tally, passes) for tally in tallies]

        plan: list[list[int]] = []
        left = self.remaining
        shuffle = generator(self._name, "batches", self._calls)
        order = batches([tally.tokens for tally in tallies], batch_size, shuffle)
        while steps is None or len(plan) < steps:
            batch = next(order)
            left -= sum(costs[i] for i in batch)
            if left < 0:
                break
            plan.append(batch)
        truncated = steps is None or len(plan) < steps
        cost_after = list(accumulate(sum(costs[i] for i in batch) for batch in plan))
        snapshots = self._snapshot_steps(cost_after)

        if plan:
            source = self._base if start == "base" else self._model
            inherit = self._trained if inherit_optimizer else None
            target = self._folder / "models" / f"{self._calls:06d}"
            arguments = [
                start, files.digest(plan), files.digest([[type(row).__name__, repr(row)] for row in rows]),
                repr(objective), repr(optimizer), inherit_optimizer, horizon,
            ]  # fmt: skip
            self._note_waste(cost_after)
            loss = self._journal.next(
                "train",
                arguments,
                lambda: self._train(
                    source, plan, rows, objective, optimizer, target, snapshots, inherit, horizon
                ),
            )
            before = self._model
            self._trained = self._model = target

            def model_after(step: int) -> Path:
                return before if step == 0 else target / f"step-{step:06d}" if step < len(plan) else target

            for batch in plan:
                self.visits.update(data[i].problem.id for i in batch)
            padded = [_batch_tally([tallies[i] for i in batch]) for batch in plan]
            self._charge(Account.TRAIN, passes, self._trained_shape, padded, model_after, steps=True)
            self._forget()
            self.log("trained", steps=len(plan), loss=loss)
            report = TrainReport(steps=len(plan), sequences=sum(map(len, plan)), loss=loss)
        if truncated:
            self._close()
            raise BudgetSpent
        return report

    def _note_waste(self, cost_after: Sequence[int]) -> None:
        """Account for the steps that a killed process had taken of this call and not saved. They are outside
        the budget and the records, which must not depend on crashes; log and ``wasted.jsonl`` show them."""
        progress = self._folder / "progress"
        if not progress.exists():
            return
        call, _, step = progress.read_text().partition(" ")
        if call == str(self._calls) and step.isdigit():
            state = newest_state(self._unfinished)
            cost = [0, *cost_after]
            saved, taken = int(state.name) if state else 0, min(int(step), len(cost_after))
            if lost := cost[taken] - cost[saved]:
                row = {"call": self._calls, "steps": taken - saved, "flops": lost}
                with open(self._folder / "wasted.jsonl", "a") as file:
                    file.write(json.dumps(row) + "\n")
                self.log(f"{_tera(lost)} were lost when the run was killed")
            progress.unlink()

    @property
    def _unfinished(self) -> Path:
        """Where the training call under way keeps its states and snapshots until it is in the journal."""
        return self._folder / "unfinished" / f"{self._calls:06d}"

    def _snapshot_steps(self, cost_after: Sequence[int]) -> list[int]:
        """The steps of a call after which a lower budget's checkpoint is due."""
        due = {
            sum(self._spent + cost <= budget for cost in cost_after)
            for budget in self._budgets
            if self._spent <= budget and cost_after and self._spent + cost_after[-1] > budget
        }
        return sorted(due - {0, len(cost_after)})

    def _train(
        self,
        source: Path,
        plan: Sequence[Sequence[int]],
        rows: Sequence[Row] | Sequence[PairRow],
        objective: SFT | DPO,
        optimizer: Optimizer,
        target: Path,
        snapshots: Sequence[int],
        inherit: Path | None,
        horizon: int | None,
    ) -> float:
        self._require(source)
        self._free_sampler()  # training wants the memory
        self._close_scorer()
        progress = self._folder / "progress"
        unfinished = {step: self._unfinished / f"step-{step:06d}" for step in snapshots}
        each = max(1, len(plan) // 20)

        def on_step(step: int, loss: float) -> None:
            progress.write_text(f"{self._calls} {step}")
            if step % each == 0:
                self.log(f"training, step {step} of {len(plan)}", loss=loss)

        with self._clock("train"), files.building(target) as folder:
            loss = self._engines.trainer.train(
                source,
                [[rows[i] for i in batch] for batch in plan],  # type: ignore[arg-type]
                objective,
                optimizer,
                folder,
                snapshots=unfinished,
                inherit=inherit,
                horizon=horizon,
                seed=stream_seed(self._name, "train", self._calls),
                on_step=on_step,
                states=self._unfinished,
            )
            for snapshot in unfinished.values():
                shutil.copytree(snapshot, folder / snapshot.name, copy_function=os.link)
        progress.unlink(missing_ok=True)
        return loss

    def step_cost(self, data: Data, batch_size: int, objective: SFT | DPO | None = None) -> int:
        passes, tallies = _costs(self._rows(data))
        costs = sum(flops(self._trained_shape, tally, passes) for tally in tallies)
        return costs * batch_size // len(tallies)

    def gold(self, problems: Sequence[Problem]) -> list[Example]:
        if not self._uses_gold:
            raise Unavailable("gold solutions are for methods that declare `uses_gold`")
        golds = [(problem, self._set.golds[problem.id].solution) for problem in problems]
        if any(solution is None for _, solution in golds):
            raise Unavailable("the problem set has no gold solutions")
        return [Example(problem, solution) for problem, solution in golds if solution is not None]

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
        passes: int,
        shape: ModelShape,
        tallies: Sequence[Tally],
        model_after: Callable[[int], Path],
        steps: bool = False,
    ) -> None:
        """Charge the parts of one call in order, cutting at each budget that the next part would cross.

        ``model_after(i)`` is the policy once ``i`` parts are done; ``shape`` is of the model that worked.
        Raises BudgetSpent at the top budget.
        """
        pending = Tally.zero()

        def book() -> None:
            nonlocal pending
            if pending != Tally.zero():
                self.ledger.append(Entry(account, self.round, self._calls, passes, shape, pending))
            pending = Tally.zero()

        for done, tally in enumerate(tallies):
            cost = flops(shape, tally, passes)
            while self._spent + cost > self._budgets[len(self.cuts)]:
                book()
                self._cut(model_after(done))
                if len(self.cuts) == len(self._budgets):
                    raise BudgetSpent
            pending += tally
            self._spent += cost
            self.steps += steps
        book()

    def _cut(self, model: Path) -> None:
        budget = self._budgets[len(self.cuts)]
        self.cuts.append(Cut(budget, self._spent, len(self.ledger), model, self.round, self.steps))
        self.log(f"budget {_tera(budget)} reached")

    def _close(self) -> None:
        """Cut the budgets not reached at what was spent."""
        while len(self.cuts) < len(self._budgets):
            self._cut(self._model)

    def finish(self) -> list[Cut]:
        """Close the run: one cut per budget, each of a checkpoint that is whole."""
        self._close()
        self._free_sampler()
        self._close_scorer()
        for cut in self.cuts:
            self._require(cut.model)
        self._forget()
        return self.cuts

    # -- state on disk ---------------------------------------------------------------------------------

    def _require(self, model: Path) -> None:
        """Raise UserError unless the checkpoint is what was written; snapshots are sealed with their call."""
        folder = model.parent if model.name.startswith("step-") else model
        if not files.sealed(folder):
            raise UserError(f"checkpoint {folder} is damaged; delete {self._folder} and run again")

    def _forget(self) -> None:
        """Remove what nothing will read again: of earlier calls all but budgets' checkpoints, and of those
        the moments; at the end of a run of the last call too."""
        shutil.rmtree(self._unfinished, ignore_errors=True)
        finished = len(self.cuts) == len(self._budgets)
        in_use = set() if finished else {self._model, self._trained}
        cuts = {cut.model for cut in self.cuts}
        for folder in (self._folder / "models").glob("[0-9]*"):
            if folder in in_use or int(folder.name) > self._calls - (not finished):
                continue
            steps = {model.name for model in cuts if model.parent == folder}
            if folder in cuts or steps:
                files.prune(folder, partial(_is_weights, folder in cuts, steps))
            else:
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _clock(self, what: str) -> Iterator[None]:
        started = perf_counter()
        yield
        self.seconds[what] += perf_counter() - started

    def _rows(self, data: Data) -> list[Row] | list[PairRow]:
        if not data:
            raise ValueError("no training data; check before calling lab.train")
        if isinstance(data[0], Pair):
            sides = [(self._encode(d.problem, d.chosen), self._encode(d.problem, d.rejected)) for d in data]  # type: ignore[union-attr]
            return [PairRow(chosen.prompt, chosen.response, rejected.response) for chosen, rejected in sides]
        return [self._encode(d.problem, d.response) for d in data]  # type: ignore[union-attr]

    def _encode(self, problem: Problem, response: str) -> Row:
        key = (problem.id, response)
        if key not in self._encoded:
            prompt = self._set.prompts[problem.id]
            self._encoded[key] = encode(self._tokenizer, prompt, response, self._engines.max_length)
        return self._encoded[key]


def _is_weights(last: bool, steps: set[str], file: Path) -> bool:
    """Whether a file of a call is of its last weights, if these are wanted, or of one of its snapshots."""
    return file.parts[0] in steps or (last and len(file.parts) == 1)


def _costs(rows: Sequence[Row] | Sequence[PairRow]) -> tuple[int, list[Tally]]:
    """Passes, and the tally of each row or pair."""
    if isinstance(rows[0], PairRow):
        return DPO_PASSES, [
            sequence_tally([(len(r.prompt), len(r.chosen)), (len(r.prompt), len(r.rejected))])  # type: ignore[union-attr]
            for r in rows
        ]
    return TRAINING_PASSES, [sequence_tally([(len(r.prompt), len(r.response))]) for r in rows]  # type: ignore[union-attr]


def _batch_tally(rows: Sequence[Tally]) -> Tally:
    """The tally of one batch, padded as the papers count it: sequences times the longest of the batch."""
    total = sum(rows, Tally.zero())
    longest = max(row.padded // row.sequences for row in rows)
    return replace(total, padded=longest * total.sequences)


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
