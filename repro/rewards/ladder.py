"""A rule-based process scorer for the ladder: it stands where a process reward model stands for real models.

Each step ``a op b = c`` scores 1 if its arithmetic is right and its operands are known (told in the question
or found in an earlier step), one half if only the arithmetic is right, else 0; a text without a step that
can be read scores a single 0. The rules see the question, never the gold. They cost no FLOPs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from repro.problems.ladder import SIGNS
from repro.records import Completion
from repro.rewards import Scored

STEP = re.compile(r"([0-9]{1,9}) ([-+*/%]) ([0-9]{1,9}) = ([0-9]{1,9})")


class LadderScorer:
    """:class:`repro.rewards.ProcessScorer` of the ladder."""

    name = "ladder rules"
    shape = None

    def score(self, completions: Sequence[Completion]) -> list[Scored]:
        return [Scored(self._steps(c.problem.question, c.text)) for c in completions]

    def close(self) -> None:
        pass

    @staticmethod
    def _steps(question: str, text: str) -> tuple[float, ...]:
        known = {int(word) for word in question.split() if word.isdigit()}
        scores = []
        for piece in text.split("####")[0].split(";"):
            step = STEP.fullmatch(piece.strip())
            if step is None:
                scores.append(0.0)
                continue
            left, sign, right, result = int(step[1]), step[2], int(step[3]), int(step[4])
            divides = sign not in "/%" or right > 0
            holds = divides and SIGNS[sign](left, right) == result
            scores.append(0.0 if not holds else 1.0 if {left, right} <= known else 0.5)
            known.add(result)
        return tuple(scores)
