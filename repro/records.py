"""The records that travel through the suite. Everything here is plain data: no torch, no I/O beyond JSON.

A *problem* is what a method may see; its *gold* (answer and worked solution) is kept apart, so that a
method cannot read what it should not know. A *completion* is one sampled answer with its *verdict*.
Training data are *examples* (supervised, or weighted by an advantage) or *pairs* (preference).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """What the verifier says of one completion."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSABLE = "unparsable"  # no final answer could be read
    TIMEOUT = "timeout"  # the check was killed at its time or memory limit; counts as not correct


class Role(StrEnum):
    """What a row is in the comparison. Tables and statistics look at roles, never at names."""

    METHOD = "method"
    ABLATION = "ablation"  # isolates one ingredient of a method
    BASE = "base"  # the untouched starting point; spends nothing
    CONTINUED = "continued"  # the same FLOPs on more of the warm-start corpus
    NEGATIVE = "negative"  # should not help
    UPPER = "upper"  # uses gold solutions


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem as a method sees it: no answer, no solution."""

    id: str  # unique within its problem set
    question: str
    tier: str  # difficulty stratum that tables are split by, e.g. "1".."4" or "Level 5"
    knowledge: tuple[str, ...] = ()  # knowledge points (operations, subjects); may be empty

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Problem:
        return cls(row["id"], row["question"], row["tier"], tuple(row["knowledge"]))


@dataclass(frozen=True, slots=True)
class Gold:
    """What is known of a problem's truth. ``solution`` is None where the source has only answers."""

    answer: str
    solution: str | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled completion of one problem, verified.

    ``prompt_tokens`` and ``tokens`` are exact counts (``tokens`` includes the end-of-text token when
    ``finish == "stop"``); ``finish`` is ``"stop"`` or ``"length"`` (truncated).
    """

    problem: Problem
    text: str
    prompt_tokens: int
    tokens: int
    finish: str
    verdict: Verdict
    hinted: bool = False

    @property
    def correct(self) -> bool:
        return self.verdict is Verdict.CORRECT


@dataclass(frozen=True, slots=True)
class Example:
    """The un-hinted prompt of ``problem`` with ``response`` as target. ``weight`` is an advantage of either
    sign, which a policy gradient multiplies the response's log-probability by."""

    problem: Problem
    response: str
    weight: float = 1.0

    @property
    def responses(self) -> tuple[str, ...]:
        return (self.response,)


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference pair on one problem."""

    problem: Problem
    chosen: str
    rejected: str

    @property
    def responses(self) -> tuple[str, ...]:
        return (self.chosen, self.rejected)
