"""The public API of a method: what a file in ``baselines/`` imports, and all it imports.

A method is a class whose ``round`` reads like the algorithm box of its paper. It touches the world
only through the :class:`Lab`, which meters, seeds, journals and logs every call. Hyper-parameters are
typed fields: the default is the paper's value, the comment beside it says where it comes from, and a
study overrides them by name (unknown names and wrong types are refused).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from repro.objectives import DPO, SFT, Objective, Optimizer, PolicyGradient, Settings
from repro.records import Completion, Example, Pair, Problem, Role, Verdict
from repro.rewards import Aggregation, aggregate

__all__ = [
    "DPO", "SFT", "Aggregation", "BudgetSpent", "Completion", "Example", "Lab", "Method", "Misuse",
    "Objective", "Optimizer", "Pair", "PolicyGradient", "Problem", "Role", "SFTStage", "TrainReport",
    "Unavailable", "Verdict", "aggregate", "is_last_round",
]  # fmt: skip


class BudgetSpent(Exception):
    """The top budget is reached. Raised by Lab calls to end the run; a method never catches it."""


class Misuse(ValueError):
    """A method calls the Lab in a way that it cannot be called: a mistake in the method."""


class Unavailable(Exception):
    """The study lacks what the method needs (a gold solution, a warm-start corpus). The run becomes
    an ``X`` row with this sentence as its reason."""


class TrainReport(Settings):
    """What a training call did. ``loss`` is the mean over its steps."""

    steps: int
    sequences: int
    loss: float


class Lab(Protocol):
    """The one gate. Every call is charged to the run's ledger, seeded from a named stream and journaled."""

    problems: Sequence[Problem]  # the training problems, in a fixed order
    round: int  # 1, 2, ...

    @property
    def has_process_rewards(self) -> bool:
        """Whether :meth:`score` is at hand; else methods run verifier-only."""

    @property
    def spent(self) -> int:
        """FLOPs spent so far."""

    @property
    def budget(self) -> int:
        """The run's budget, in FLOPs. Only for methods that plan from it (``plans``): the run of any other
        serves all budgets, those too that are added when it has ended."""

    @property
    def remaining(self) -> int:
        """``budget - spent``; only for methods that plan."""

    def affords(self, cost: int) -> bool:
        """Notice of the last round: whether the budget still pays for ``cost`` FLOPs. Always true for a
        method that does not plan, as its run has no last round."""

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
        """Verified completions of the current policy, one list per problem, in order.

        ``n`` is the number of completions per problem, or one number for each. ``temperature=0`` is
        greedy; ``top_k=0`` is off. ``hint`` shows the final answer in the prompt (STaR's
        rationalisation). ``search`` charges the ``search`` account instead of ``sample`` (probes, grids).
        """

    def score(self, completions: Sequence[Completion]) -> list[tuple[float, ...]]:
        """Process rewards in [0, 1], one per reasoning step of each completion (at least one). A reward
        model is charged to the ``reward`` account, with its own shape; ``aggregate`` makes one of them.

        Raises :class:`Unavailable` where the study has no process scorer.
        """

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit-length embeddings, shape ``[len(texts), dimensions]``."""

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
        """Train on ``data`` and make the result the current policy.

        ``objective`` defaults to SFT for examples and DPO for pairs; only PolicyGradient takes examples of
        a weight other than 1. Data are shuffled by a named
        stream and passed over again, reshuffled, when ``steps * batch_size`` exceeds them. With neither
        ``steps`` nor ``epochs`` the call trains to the end of the run's budget; a method that does not plan
        from it then needs a constant schedule. ``inherit_optimizer`` carries Adam moments and the schedule
        position over from the previous training call, and ``horizon`` is then the schedule's total number
        of steps over all calls. A call that a budget cuts keeps the schedule of the whole call.
        """

    def step_cost(
        self, data: Sequence[Example] | Sequence[Pair], batch_size: int, objective: Objective | None = None
    ) -> int:
        """Mean FLOPs of one optimizer step of a first pass over ``data``; for planning."""

    def gold(self, problems: Sequence[Problem], *, answers_only: bool = False) -> list[Example]:
        """Gold solutions as examples, or with ``answers_only`` only the line that states the answer. For
        methods that declare ``uses_gold`` or have an :class:`SFTStage`."""

    def corpus(self, n: int) -> list[Example]:
        """``n`` fresh rows of the base model's warm-start corpus. Only with ``uses_corpus``."""

    def rng(self, name: str) -> np.random.Generator:
        """A random stream of this run, round and name: the same name gives the same stream."""

    def log(self, message: str, **values: Any) -> None:
        """A line in the run's log; numbers as keywords. They are monitors of the round too, recorded and
        plotted: of one name the last in a round. Other values go to the log alone.

        Raises :class:`Misuse` for a name that the Lab records itself (:data:`repro.schema.SEEN`).
        """


class SFTStage(Settings):
    """Fine-tuning on the gold solutions of the training problems before the first round, which some papers
    begin with. It is charged like all training."""

    epochs: float = Field(gt=0)
    batch_size: int = Field(ge=1)
    optimizer: Optimizer

    def train(self, lab: Lab) -> None:
        """Make the current policy, which is still the base model, the fine-tuned one."""
        gold = lab.gold(lab.problems)
        lab.train(gold, epochs=self.epochs, batch_size=self.batch_size, optimizer=self.optimizer)


class Method(BaseModel, ABC):
    """Base class of everything in ``baselines/``. Fields are hyper-parameters, class variables facts."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    title: ClassVar[str]
    paper: ClassVar[str] = ""  # citation; empty for controls
    role: ClassVar[Role] = Role.METHOD
    uses_gold: ClassVar[bool] = False
    uses_corpus: ClassVar[bool] = False
    # One round, even a part of it, is a whole run by design; a budget need not pay for a second. No other
    # method shows what it does before its second round.
    one_round: ClassVar[bool] = False

    plans: bool = False  # from its budget, of whose end Lab.affords then gives notice: one run per budget
    rounds: int | None = None  # it ends after so many; default: with its budget

    @property
    def reads_gold(self) -> bool:
        """Whether it may call :meth:`Lab.gold`."""
        return self.uses_gold or any(isinstance(value, SFTStage) for _, value in self)

    def start(self, lab: Lab) -> Any:
        """State carried from round to round (in memory; a resumed run rebuilds it by replay)."""
        return None

    @abstractmethod
    def round(self, lab: Lab, state: Any) -> None:
        """One round. Called again and again until the budget is spent."""


def is_last_round(remaining: int, sampling: int, step: int, steps: int, next_steps: int) -> bool:
    """Whether too little is left (FLOPs) for this round's training, one more sampling and the next training.

    A method that restarts from the base model asks it and trains its last round to the end of the budget: cut
    in the midst of re-training it would be judged by half-trained weights.
    """
    return remaining < steps * step + sampling + next_steps * step
