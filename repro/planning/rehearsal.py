"""Rehearsals: a method plays its study on a scripted model, in memory and in seconds, which shows what its
budgets buy.

A play is the method's own code on a Lab that charges what the real one would (:mod:`repro.flops`) and cuts
budgets by its rule. What a model would do is supposed: each problem has a chance to be solved, which training
does not change, and completions have a few lengths around a mean. There is no text but what tells solutions
apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from operator import attrgetter, mul
from typing import Any, Literal

import numpy as np

from repro.flops import FORWARD_PASSES, TRAINING_PASSES, ModelShape, flops, sample_tally, sequence_tally
from repro.method import BudgetSpent, Method, Misuse, TrainReport, Unavailable
from repro.objectives import Objective, Optimizer, default_objective, steps_of
from repro.records import Completion, Example, Pair, Problem, Verdict
from repro.schema import Account
from repro.seeds import generator
from repro.training.batches import batches

SPREAD = (5 / 8, 7 / 8, 9 / 8, 11 / 8)  # lengths of completions, of their mean
WORDINGS = 16  # different correct solutions of a problem, and as many wrong ones, all as likely
POINTS = 20  # knowledge points, one a problem
DOUBLINGS = 6  # of a budget that is too low, to find one that is not
SIZES = ("epochs",)  # of rounds, besides all counts
IDLE_ROUNDS = 3  # rounds in a row that spend nothing before a play is given up, as a run is
GOLD, ANSWER = "gold", "answer"  # the text of every worked solution, and of the line that states its answer
ANSWER_TOKENS = 8


@dataclass(frozen=True)
class Script:
    """What plays of a study suppose. Lengths are tokens, and means where they differ from row to row."""

    shape: ModelShape  # of the policy, with adapters where these are trained
    scorer: ModelShape | None  # of the process reward model; None: none, or rules, which cost nothing
    rewards: bool  # whether there are process rewards: 1 for a correct solution, 0 for another
    corpus: bool  # whether there is a warm-start corpus to draw from
    problems: int
    prompt: int  # that is trained on
    asked: int  # that is sampled from, with worked examples
    shared: int  # first tokens of `asked`, with which all prompts begin
    completion: int
    max_tokens: int  # of a completion
    solution: int  # a worked one
    max_length: int  # of a training sequence
    accuracy: float  # a problem's chance is Beta(accuracy, 1 - accuracy); a hint halves what it lacks


@dataclass(frozen=True)
class Standing:
    """Where a play stood at a budget."""

    budget: int
    spent: int
    rounds: int  # with the one that the budget ends in
    completed: int  # of them; a round that trains to the end of the budget is one
    steps: int
    calls: int  # of the Lab, metered ones
    starts: dict[str, int]  # of engines that sample, score or train, each of which ends another's work
    completions: int
    stranded: float  # share of the budget that is not in the checkpoint: spent since, or left over
    accounts: dict[str, int]  # FLOPs
    prefill: int  # FLOPs of sampling that read prompts


@dataclass(frozen=True)
class Play:
    """What a method got out of a study's budgets, ascending; none where it could not be played."""

    standings: list[Standing] = field(default_factory=list)
    planned: bool = False  # each budget has a run of its own
    reason: str = ""  # why it could not be played
    failed: bool = False  # by a fault of its own

    @property
    def runs(self) -> list[Standing]:
        """Where each run ends."""
        return self.standings if self.planned else self.standings[-1:]

    @property
    def iterates(self) -> Standing:
        """Where it is to have completed two rounds: by the lowest budget, or, where each budget has a run of
        its own, in that of the top one. Fewer are what such a method is with a small budget."""
        return self.standings[-1 if self.planned else 0]

    @property
    def spends(self) -> bool:
        """Whether it calls the Lab at all."""
        return any(standing.calls for standing in self.standings)


class Stage:
    """What all plays by a script share: problems with their chances, what can be sampled, prices."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.problems = [
            Problem(str(number), "", "all", (f"point {number % POINTS}",))
            for number in range(script.problems)
        ]
        self.chance = generator("rehearsal").beta(script.accuracy, 1 - script.accuracy, script.problems)
        lengths = [max(1, min(round(share * script.completion), script.max_tokens)) for share in SPREAD]
        # The number of a solution is even for a wrong one and odd for a correct one.
        self.solutions = [
            (f"{kind} {n}", lengths[n % len(lengths)]) for n in range(WORDINGS) for kind in ("wrong", "right")
        ]
        self.completions = _Completions(self)
        self.prices = _Prices(script, dict(self.solutions) | {GOLD: script.solution, ANSWER: ANSWER_TOKENS})


def rehearse(method: Method, stage: Stage, budgets: Sequence[int]) -> Play:
    """Play a method at these budgets, ascending: one by one if it plans from them, else all in one play."""
    standings: list[Standing] = []
    for group in [[budget] for budget in budgets] if method.plans else [list(budgets)]:
        lab = RehearsalLab(stage, group, method)
        try:
            play(method, lab)
        except Unavailable as error:
            return Play(reason=f"unavailable: {error}")
        except Exception as error:  # its run would be a failed row, and not the end of the study
            reason = f"failed in round {lab.round}: {type(error).__name__}: {error}"
            return Play(reason=reason, failed=True)
        standings += lab.standings
    return Play(standings, method.plans)


@dataclass(frozen=True)
class Mend:
    """What helps a method whose budget is too low to show more than the base model or a first round."""

    budget: int | None  # that would do; None: none that was tried
    keys: list[str]  # hyper-parameters that make the rounds smaller


def mend(method: Method, stage: Stage, budget: int) -> Mend:
    """Double the budget until it does, and there see with which sizes halved less of it would."""

    def price(method: Method, budget: int) -> int | None:
        lab = RehearsalLab(stage, [budget], method)
        with suppress(Exception):  # half of a size may be no setting at all
            play(method, lab)
        return lab.shown

    for budget in [budget << doubled for doubled in range(1, DOUBLINGS + 1)]:
        if whole := price(method, budget):
            halves = {
                key: method.model_copy(update={key: type(value)(value / 2)})
                for key, value in method
                if key in SIZES or (type(value) is int and value > 1)
            }
            prices = {key: price(half, budget) for key, half in halves.items()}
            return Mend(budget, [key for key, found in prices.items() if found and found < whole])
    return Mend(None, [])


class Idle(RuntimeError):
    """A method's rounds spend nothing, so that its budget would never end."""


def play(method: Method, lab: RehearsalLab) -> None:
    """Rounds until the top budget is spent. Raises what the method does, and :class:`Idle` if it never is."""
    idle = 0
    try:
        state = method.start(lab)
        while idle < IDLE_ROUNDS and lab.round != method.rounds:
            lab.round += 1
            before = lab.spent
            method.round(lab, state)
            idle = idle + 1 if lab.spent == before else 0
        if idle == IDLE_ROUNDS:
            raise Idle(f"{IDLE_ROUNDS} rounds in a row spent nothing")
    except BudgetSpent:
        pass
    lab.close()


class RehearsalLab:
    """:class:`repro.method.Lab` of one play, to the highest of ``budgets``."""

    def __init__(self, stage: Stage, budgets: Sequence[int], method: Method) -> None:
        self.problems: Sequence[Problem] = stage.problems
        self.round = 0
        self.spent = 0
        self.standings: list[Standing] = []
        self.shown: int | None = None  # what was spent when training had shown what the method does
        self._stage, self._script, self._prices = stage, stage.script, stage.prices
        self._budgets = list(budgets)
        self._method = method
        self._accounts: Counter[str] = Counter()
        self._calls = self._steps = self._drawn = self._prefill = 0
        self._starts: Counter[str] = Counter()
        self._at_work = ""  # what the engine of the last call is for
        self._held = 0  # spent by the end of the last optimizer step
        self._last = False  # whether a call trains to the end of the budget

    # -- what a method reads ---------------------------------------------------------------------------

    @property
    def budget(self) -> int:
        if not self._method.plans:
            raise Misuse("only a method that plans from its budget may read it: set `plans: true`")
        return self._budgets[-1]

    @property
    def remaining(self) -> int:
        return self.budget - self.spent

    def affords(self, cost: int) -> bool:
        return not self._method.plans or cost <= self.remaining

    @property
    def has_process_rewards(self) -> bool:
        return self._script.rewards

    def rng(self, name: str) -> np.random.Generator:
        return generator("rehearsal", self.round, name)

    def log(self, message: str, **values: Any) -> None:
        pass

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.array([generator("embed", text).normal(size=8) for text in texts])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    # -- what it pays for ------------------------------------------------------------------------------

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
        self._start(Account.SAMPLE)
        counts = [n] * len(problems) if isinstance(n, int) else list(n)
        numbers = np.repeat(np.array([int(problem.id) for problem in problems], int), counts)
        chance = self._stage.chance[numbers]
        random = generator("rehearsal", "sample", self._calls)
        right = random.random(len(numbers)) < ((1 + chance) / 2 if hint else chance)
        solutions = 2 * random.integers(WORDINGS, size=len(numbers)) + right
        self._charge_samples(Account.SEARCH if search else Account.SAMPLE, counts, solutions)
        keys = 2 * (numbers * 2 * WORDINGS + solutions) + hint
        found = map(self._stage.completions.__getitem__, keys.tolist())
        return [list(islice(found, count)) for count in counts]

    def _charge_samples(self, account: Account, counts: Sequence[int], solutions: np.ndarray) -> None:
        decoding = [self._prices.decoding(tokens) for _, tokens in self._stage.solutions]
        drawn = [count for count in counts if count]
        reads = [self._prices.prefill(i == 0) for i in range(len(drawn))]
        whole = sum(reads) + sum(map(mul, decoding, np.bincount(solutions, minlength=len(decoding)).tolist()))
        if self._fits(whole):  # nearly always; then nobody asks for the parts
            parts = [(sum(reads), whole, len(solutions))]
        else:
            rest = map(decoding.__getitem__, solutions.tolist())
            parts = [(r, r + sum(islice(rest, count)), count) for r, count in zip(reads, drawn, strict=True)]
        for read, cost, count in parts:
            self._charge(account, cost)
            self._prefill += read
            self._drawn += count

    def score(self, completions: Sequence[Completion]) -> list[tuple[float, ...]]:
        if not self._script.rewards:
            raise Unavailable("the study has no process rewards (key `process_rewards`)")
        if self._script.scorer:
            self._begin()
            self._start(Account.REWARD)
            costs = [self._prices.scored(completion.tokens) for completion in completions]
            for cost in [sum(costs)] if self._fits(sum(costs)) else costs:
                self._charge(Account.REWARD, cost)
        return [(float(completion.correct),) for completion in completions]

    def train(
        self,
        data: Sequence[Example] | Sequence[Pair],
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
        self._start(Account.TRAIN)
        if epochs is not None:
            steps = steps_of(epochs, len(data), batch_size)
        costs = [self._prices.trained(row.responses) for row in data]
        # References pass once over each distinct row, in the step that first needs them.
        references = (objective or default_objective(data)).references
        owed = {row: references * self._prices.passed(row.responses) for row in data if references}
        lengths = [self._prices.length(row.responses) for row in data]
        order = batches(lengths, batch_size, generator("rehearsal", "batches", self._calls))
        done = 0
        while steps is None or done < steps:
            batch = next(order)
            cost = sum([costs[i] for i in batch]) + sum([owed.pop(data[i], 0) for i in batch if owed])
            if self.spent + cost > self._budgets[-1]:
                raise BudgetSpent
            self._charge(Account.TRAIN, cost)
            self._held = self.spent
            self._steps += 1
            self._last = steps is None
            self._see()
            done += 1
        return TrainReport(steps=done, sequences=done * batch_size, loss=1.0)

    def step_cost(
        self, data: Sequence[Example] | Sequence[Pair], batch_size: int, objective: Objective | None = None
    ) -> int:
        references = (objective or default_objective(data)).references
        cost = sum(
            count * (self._prices.trained(responses) + references * self._prices.passed(responses))
            for responses, count in Counter(map(attrgetter("responses"), data)).items()
        )
        return cost * batch_size // len(data)

    def gold(self, problems: Sequence[Problem], *, answers_only: bool = False) -> list[Example]:
        if not self._method.reads_gold:
            raise Unavailable("gold solutions are for methods that declare `uses_gold`")
        return [Example(problem, ANSWER if answers_only else GOLD) for problem in problems]

    def corpus(self, n: int) -> list[Example]:
        if not self._method.uses_corpus:
            raise Unavailable("the warm-start corpus is for methods that declare `uses_corpus`")
        if not self._script.corpus:
            raise Unavailable("no warm-start corpus")
        return [Example(self.problems[number % len(self.problems)], GOLD) for number in range(n)]

    # -- the budgets -----------------------------------------------------------------------------------

    @property
    def _completed(self) -> int:
        return self.round if self._last else self.round - 1

    def _see(self) -> None:
        if self.shown is None and self._steps and self._completed >= (0 if self._method.one_round else 2):
            self.shown = self.spent

    def _begin(self) -> None:
        self._see()
        if len(self.standings) == len(self._budgets):
            raise BudgetSpent
        self._calls += 1

    def _start(self, account: Account) -> None:
        if self._at_work != account:
            self._starts[account] += 1
        self._at_work = account

    def _fits(self, cost: int) -> bool:
        """Whether no budget is cut within this cost."""
        return self.spent + cost <= self._budgets[len(self.standings)]

    def _charge(self, account: Account, cost: int) -> None:
        """Charge a part of a call, cutting at each budget that it would cross; BudgetSpent at the top."""
        while not self._fits(cost):
            self._cut()
            if len(self.standings) == len(self._budgets):
                raise BudgetSpent
        self.spent += cost
        self._accounts[account] += cost

    def _cut(self) -> None:
        budget = self._budgets[len(self.standings)]
        self.standings.append(
            Standing(
                budget, self.spent, self.round, self._completed, self._steps, self._calls,
                dict(self._starts), self._drawn, 1 - self._held / budget,
                {str(account): cost for account, cost in self._accounts.items()}, self._prefill,
            )
        )  # fmt: skip

    def close(self) -> None:
        """Cut the budgets not reached at what was spent."""
        while len(self.standings) < len(self._budgets):
            self._cut()


class _Completions(dict[int, Completion]):
    """All that can be sampled, each made when it first is. The key of the s-th of S solutions of the p-th
    problem is 2 (p S + s), and 1 more where a hint was shown."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def __missing__(self, key: int) -> Completion:
        number, solution = divmod(key // 2, len(self._stage.solutions))
        problem, (text, tokens) = self._stage.problems[number], self._stage.solutions[solution]
        verdict = Verdict.CORRECT if solution % 2 else Verdict.WRONG
        asked = self._stage.script.asked
        found = self[key] = Completion(problem, text, asked, tokens, "stop", verdict, bool(key % 2))
        return found


class _Prices:
    """FLOPs by the ledger's rules. Responses are given as texts, whose lengths are ``tokens``."""

    def __init__(self, script: Script, tokens: dict[str, int]) -> None:
        def sampled(generated: int, shared: int = 0) -> int:
            tally = sample_tally(script.asked, [generated], shared=shared, window=script.shape.window)
            return flops(script.shape, tally, FORWARD_PASSES)

        @cache
        def prefill(first: bool) -> int:
            """Of a prompt, with the first token of each completion; a call's first reads what all share."""
            return sampled(1, 0 if first else script.shared)

        @cache
        def decoding(generated: int) -> int:
            """Of the rest of a completion: the tally of a request is the sum over its completions."""
            return sampled(generated) - sampled(1)

        def row(responses: Sequence[str], passes: int) -> int:
            room = script.max_length - script.prompt
            sides = [(script.prompt, max(1, min(tokens[text], room))) for text in responses]
            return flops(script.shape, sequence_tally(sides, window=script.shape.window), passes)

        @cache
        def scored(generated: int) -> int:
            assert script.scorer  # whose head reads a few positions only
            tally = sequence_tally([(script.prompt, generated)], logits=0, window=script.scorer.window)
            return flops(script.scorer, tally, FORWARD_PASSES)

        self.prefill, self.decoding, self.scored = prefill, decoding, scored
        self.trained = cache(lambda responses: row(responses, TRAINING_PASSES))
        self.passed = cache(lambda responses: row(responses, FORWARD_PASSES))
        self.length = cache(lambda responses: sum(tokens[text] for text in responses))
