"""Which rows make up each pass of a training call, in each of its processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from repro.objectives import Optimizer
from repro.training import Row

REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")  # columns of DPO's rows


@dataclass
class Plan:
    """One call to ``train``, as the overridden trainers read it.

    A step's rows are split into micro-batches, which go to the processes in turn. All processes must pass
    the same number of rows at a time; where they have not as many, ``filler`` is added: a row without a
    response, which gives no gradient.
    """

    rows: list[dict[str, Any]]  # the distinct rows, as TRL's collators want them
    filler: dict[str, Any]
    steps: list[list[list[int]]]  # of each step: micro-batches of indices of rows
    processes: int
    optimizer: Optimizer
    seed: int
    before: int  # steps of earlier calls
    horizon: int
    losses: list[float] = field(default_factory=list)  # of each step that is done
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
        reference: bool = False,
    ) -> Plan:
        """The plan of a call; ``micro_batch`` is the number of rows in a pass, at most, and ``reference``
        whether rows will have the reference's log-probabilities."""
        size = max(map(len, batches))
        parts = math.ceil(size / (micro_batch or size) / processes) * processes
        index: dict[Row, int] = {}
        steps = [
            [[index.setdefault(row, len(index)) for row in part] for part in split(batch, parts)]
            for batch in batches
        ]
        filler = columns(Row((pad, pad), ((),) * len(batches[0][0].responses)))
        if reference:
            filler |= dict.fromkeys(REFERENCE, 0.0)
        rows = [columns(row) for row in index]
        return cls(rows, filler, steps, processes, optimizer, seed, before, horizon)

    @property
    def accumulation(self) -> int:
        """Micro-batches of one process in a step."""
        return len(self.steps[0]) // self.processes

    @property
    def micro_batch(self) -> int:
        """Rows in a pass, at most."""
        return max(len(part) for step in self.steps for part in step)

    def reference(self) -> list[list[float]]:
        """The reference's log-probabilities of each row that has them."""
        return [[row[side] for side in REFERENCE] for row in self.rows if REFERENCE[0] in row]

    def first_visits(self) -> Iterator[list[dict[str, Any]]]:
        """Of each step the rows that no step before it has."""
        seen: set[int] = set()
        for step in self.steps:
            new = dict.fromkeys(i for part in step for i in part if i not in seen)
            seen.update(new)
            yield [self.rows[i] for i in new]

    def resume(self, losses: list[float], reference: list[list[float]]) -> None:
        """Go on after the steps of these losses."""
        self.losses, self.resumed = losses, len(losses)
        for row, sides in zip(self.rows, reference, strict=False):
            row.update(zip(REFERENCE, sides, strict=True))

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
        """For each of :meth:`chunks` of pairs: what its rows (filler included), its filler, and its chosen
        tokens are of the step's rows and tokens, times the number of micro-batches, over which the Trainer
        takes the mean. As weights they make a step independent of how it is split."""

        def tokens(chunk: Sequence[int]) -> int:
            return sum(len(self.rows[i]["chosen_ids"]) for i in chunk)

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


def columns(row: Row) -> dict[str, Any]:
    """A row as TRL's collators read it: of an example, of a pair."""
    prompt, responses = list(row.prompt), [list(response) for response in row.responses]
    if len(responses) == 1:
        return {"input_ids": prompt + responses[0], "labels": [-100] * len(prompt) + responses[0]}
    return {"prompt_ids": prompt, "chosen_ids": responses[0], "rejected_ids": responses[1]}
