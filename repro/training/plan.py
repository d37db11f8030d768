"""Which rows make up each pass of a training call, in each of its processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from repro.objectives import DPO, Objective, Optimizer, PolicyGradient
from repro.training import Row

# Columns of log-probabilities under models that do not change in a call, as TRL's losses want them. DPO's
# are of whole responses, a policy gradient's of each token: of the policy that the call starts from, and of
# the base model.
DPO_REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
OLD, BASE = "old_per_token_logps", "ref_per_token_logps"
STARTS = 8  # rows whose log-probabilities at the start of a call are reported


@dataclass
class Plan:
    """One call to ``train``, as the overridden trainers read it.

    A step's rows are split into micro-batches, which go to the processes in turn. All processes must pass
    the same number of rows at a time; where they have not as many, ``filler`` is added: a row without a
    response, which gives no gradient.
    """

    distinct: list[Row]
    rows: list[dict[str, Any]]  # the same, as TRL's collators want them
    filler: dict[str, Any]
    pad: int  # the token that fills up
    steps: list[list[list[int]]]  # of each step: micro-batches of indices of rows
    processes: int
    objective: Objective
    optimizer: Optimizer
    seed: int
    before: int  # steps of earlier calls
    horizon: int
    losses: list[float] = field(default_factory=list)  # of each step that is done
    monitors: dict[str, float] = field(default_factory=dict)  # of the last step that is done
    start: list[list[float]] = field(
        default_factory=list
    )  # of the first rows, each response's log-probability
    resumed: int = 0  # steps that this call had done when it was killed

    @classmethod
    def of(
        cls,
        batches: Sequence[Sequence[Row]],
        micro_batch: int | None,
        processes: int,
        pad: int,
        optimizer: Optimizer,
        seed: int,
        before: int,
        horizon: int,
        objective: Objective,
    ) -> Plan:
        """The plan of a call; ``micro_batch`` is the number of rows in a pass, at most."""
        size = max(map(len, batches))
        parts = math.ceil(size / (micro_batch or size) / processes) * processes
        index: dict[Row, int] = {}
        steps = [
            [[index.setdefault(row, len(index)) for row in part] for part in split(batch, parts)]
            for batch in batches
        ]
        filler = columns(Row((pad, pad), ((),) * len(batches[0][0].responses), 0.0), objective)
        filler |= dict.fromkeys(references(objective), 0.0)
        if isinstance(objective, PolicyGradient):  # TRL's metrics take one column for a value per sequence
            filler |= {"completion_ids": [pad] * 2, "completion_mask": [0] * 2}
            filler |= {name: [0.0] * 2 for name in references(objective)}
        rows = [columns(row, objective) for row in index]
        return cls([*index], rows, filler, pad, steps, processes, objective, optimizer, seed, before, horizon)

    @property
    def accumulation(self) -> int:
        """Micro-batches of one process in a step."""
        return len(self.steps[0]) // self.processes

    @property
    def micro_batch(self) -> int:
        """Rows in a pass, at most."""
        return max(len(part) for step in self.steps for part in step)

    def facts(self) -> dict[str, Any]:
        """What a call that goes on cannot compute again, as :meth:`resume` takes it."""
        names = references(self.objective)
        known = [[row[name] for name in names] for row in self.rows if {*names} <= {*row}]
        return {"losses": self.losses, "monitors": self.monitors, "start": self.start, "known": known}

    def first_visits(self) -> Iterator[list[dict[str, Any]]]:
        """Of each step the rows that no step before it has."""
        seen: set[int] = set()
        for step in self.steps:
            new = dict.fromkeys(i for part in step for i in part if i not in seen)
            seen.update(new)
            yield [self.rows[i] for i in new]

    def resume(
        self,
        losses: list[float],
        monitors: dict[str, float],
        start: list[list[float]],
        known: list[list[Any]],
    ) -> None:
        """Go on after the steps of these losses; ``known`` are the first rows' columns of references."""
        self.losses, self.resumed = losses, len(losses)
        self.monitors, self.start = monitors, start
        for row, values in zip(self.rows, known, strict=False):
            row.update(zip(references(self.objective), values, strict=True))

    def chunks(self, process: int) -> list[list[int]]:
        """The micro-batches of one process still to do; the filler has the index after the last row's."""
        filled = []
        for step in self.steps[self.resumed :]:
            for start in range(0, len(step), self.processes):
                together = step[start : start + self.processes]
                width = max(1, *map(len, together))
                filled.append(together[process] + [len(self.rows)] * (width - len(together[process])))
        return filled

    def shares(self, process: int) -> list[tuple[float, float, float]]:
        """For each of :meth:`chunks`: what its rows (filler included), its filler, and its tokens (of the
        first response: a pair's chosen one) are of the step's rows and tokens, times the number of
        micro-batches, over which the Trainer takes the mean. As weights they make a step independent of how
        it is split."""

        def tokens(chunk: Sequence[int]) -> int:
            return sum(len(self.distinct[i].responses[0]) for i in chunk)

        found = []
        chunks = iter(self.chunks(process))
        for step in self.steps[self.resumed :]:
            rows, total, scale = sum(map(len, step)), sum(map(tokens, step)), len(step)
            for part in step[process :: self.processes]:
                width = len(next(chunks))
                found.append(
                    (scale * width / rows, scale * (width - len(part)) / rows, scale * tokens(part) / total)
                )
        return found


def split(batch: Sequence[Any], parts: int) -> list[Sequence[Any]]:
    """``batch`` in ``parts`` consecutive pieces of nearly equal length."""
    return [batch[len(batch) * k // parts : len(batch) * (k + 1) // parts] for k in range(parts)]


def references(objective: Objective) -> tuple[str, ...]:
    """The columns of log-probabilities that all rows are to have."""
    if isinstance(objective, DPO):
        return DPO_REFERENCE
    if isinstance(objective, PolicyGradient):
        return (OLD,) * objective.clips + (BASE,) * (objective.kl > 0)
    return ()


def columns(row: Row, objective: Objective) -> dict[str, Any]:
    """A row as the objective's collator reads it."""
    prompt, (first, *others) = list(row.prompt), map(list, row.responses)
    if isinstance(objective, DPO):
        return {"prompt_ids": prompt, "chosen_ids": first, "rejected_ids": others[0]}
    if isinstance(objective, PolicyGradient):
        masks = {"prompt_mask": [1] * len(prompt), "completion_mask": [1] * len(first)}
        return {"prompt_ids": prompt, "completion_ids": first, "advantages": row.weight, **masks}
    return {"input_ids": prompt + first, "labels": [-100] * len(prompt) + first}
