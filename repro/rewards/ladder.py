"""A rule-based process scorer for the ladder: it stands where a process reward model stands for real models.

A question's words call for steps (``gets 5 more`` for one that adds 5), which may be taken in any order. What
they count with besides is at hand once: the first number, and each result. A step ``a op b = c`` scores 1 if
its arithmetic is right and it is called for, one half if only its arithmetic is right, else 0. The last step
also concludes, and scores 0 where one that is called for is missing, a result is left over, or the answer is
stated as another number than its result. A text without a step that can be read scores a single 0.

The rules see the question, never the gold. They cost no FLOPs. A reward model is seldom as sharp: of wrong
solutions hardly any has full rewards here, only ones that take steps in an order that changes the answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from repro.problems.ladder import PREVIOUS, RUNNING, SIGNS, Step, read
from repro.records import Completion
from repro.rewards import Scored

STEP = re.compile(r"([0-9]{1,9}) ([-+*/%]) ([0-9]{1,9}) = ([0-9]{1,9})")


class LadderScorer:
    """:class:`repro.rewards.ProcessScorer` of the ladder."""

    name = "ladder rules"
    shape = None

    def score(self, completions: Sequence[Completion]) -> list[Scored]:
        return [Scored(_score(c.problem.question, c.text)) for c in completions]

    def close(self) -> None:
        pass


def _score(question: str, text: str) -> tuple[float, ...]:
    start, due = read(question)
    at_hand = Counter([] if start is None else [start])
    reasoning, _, answer = text.partition("####")
    scores: list[float] = []
    result: int | None = None
    for piece in reasoning.split(";"):
        step = STEP.fullmatch(piece.strip())
        if step is None:
            scores.append(0.0)
            continue
        left, sign, right, result = int(step[1]), step[2], int(step[3]), int(step[4])
        called_for, used = False, Counter((left, right))
        for i, (one, again) in enumerate(due):
            sides = _sides(one, left, sign, right)
            if sides is not None and Counter(value for _, value in sides) <= at_hand:
                called_for = True
                used = Counter(value for side, value in sides if not (again and side is RUNNING))
                del due[i]
                break
        at_hand = at_hand - used + Counter([result])
        divides = sign not in "/%" or right > 0
        holds = divides and SIGNS[sign](left, right) == result
        scores.append(0.0 if not holds else 1.0 if called_for else 0.5)
    if due or at_hand != Counter([result]) or answer.strip() != str(result):
        scores[-1] = 0.0
    return tuple(scores)


def _sides(due: Step, left: int, sign: str, right: int) -> list[tuple[int | None, int]] | None:
    """The operands that the question does not tell, each with which of the two it is (:data:`RUNNING`,
    :data:`PREVIOUS`), if this is the step that is due; else None."""
    for pair in [(left, right), (right, left)] if sign in "+*" else [(left, right)]:
        sides = list(zip((due.left, due.right), pair, strict=True))
        if sign == due.sign and all(side in (RUNNING, PREVIOUS, value) for side, value in sides):
            return [(side, value) for side, value in sides if side in (RUNNING, PREVIOUS)]
    return None
