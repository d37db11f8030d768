"""What a run looked at, round by round: what can be seen of every method, and what each says of itself.

Running sums alone, all of what a budget's part of a run did: a round takes the memory of what it sampled, and
gives it back. docs/monitors.md defines every monitor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, sqrt
from numbers import Real
from typing import Any

from repro.records import Completion


@dataclass(frozen=True)
class Seen:
    """The monitors of one round, or of the part of it that a budget left."""

    round: int
    spent: int  # FLOPs of the run up to its end
    values: dict[str, float]

    def to_json(self) -> list[Any]:
        return [self.round, self.spent, self.values]


@dataclass
class _Group:
    """What was sampled of one problem."""

    completions: int = 0
    correct: int = 0
    texts: set[str] = field(default_factory=set)  # that are right


class Monitors:
    """The monitors of a run whose training problems are ``pool``."""

    def __init__(self, pool: Iterable[str]) -> None:
        self.rounds: list[Seen] = []  # that are over, or as a budget found them
        self._visits = dict.fromkeys(pool, 0)
        self._sequences = self._squares = 0  # sums over the pool of visits, and of their squares
        self._begin(0)

    def _begin(self, round: int) -> None:
        self._round = round
        self._groups: dict[str, _Group] = {}
        self._tokens = self._truncated = 0
        self._said: dict[str, float] = {}

    def at(self, round: int, spent: int) -> None:
        """What follows belongs to this round: one before it is over, at ``spent``."""
        if round != self._round:
            self.close(spent)
            self._begin(round)

    def close(self, spent: int) -> None:
        """Record the round as it is: it is over, or a budget is, beyond which it may go on."""
        found = Seen(self._round, spent, self._values())
        if found.values and self.rounds[-1:] != [found]:
            self.rounds.append(found)

    def sampled(self, completions: Sequence[Completion]) -> None:
        """Completions without a hint, of the main account, that were paid for."""
        for one in completions:
            group = self._groups.setdefault(one.problem.id, _Group())
            group.completions += 1
            self._tokens += one.tokens
            self._truncated += one.finish == "length"
            if one.correct:
                group.correct += 1
                group.texts.add(one.text)

    def trained(self, problems: Iterable[str]) -> None:
        """The problems of one step, each as often as it is in its batch. Others than the pool's do not
        count."""
        for problem in problems:
            if problem in self._visits:
                self._squares += 2 * self._visits[problem] + 1
                self._sequences += 1
                self._visits[problem] += 1

    def say(self, values: Mapping[str, Any]) -> None:
        """Note the numbers among ``values``; the last of a name in a round holds."""
        self._said |= {
            name: float(value)
            for name, value in values.items()
            if isinstance(value, Real) and isfinite(float(value))
        }

    def _values(self) -> dict[str, float]:
        found: dict[str, float] = {}
        if groups := self._groups.values():
            drawn = sum(group.completions for group in groups)
            several = [group for group in groups if group.completions > 1]
            found = {
                "solved": sum(group.correct for group in groups) / drawn,
                "pass_at_k": sum(group.correct > 0 for group in groups) / len(groups),
                "distinct": sum(len(group.texts) for group in groups) / len(groups),
                "completion_tokens": self._tokens / drawn,
                "truncated": self._truncated / drawn,
            }
            if several:
                alike = sum(group.correct in (0, group.completions) for group in several)
                found["zero_variance"] = alike / len(several)
        if self._sequences:
            mean = self._sequences / len(self._visits)
            found["training_frequency"] = mean
            found["training_frequency_sd"] = sqrt(max(0.0, self._squares / len(self._visits) - mean**2))
        found |= self._said
        return {name: float(f"{value:.6g}") for name, value in found.items()}
