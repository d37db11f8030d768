"""The trials of a tuning, as tuning.csv has them: the file that a study names, and the one of its records."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repro import csv_files, files
from repro.errors import UserError
from repro.schema import TUNING


@dataclass(frozen=True)
class Trial:
    """A row at one of its points (0: as it is) with one tuning seed."""

    method: str  # the row
    point: int
    settings: dict[str, Any]  # hyper-parameters of the point, on top of the row's own
    seed: int
    flops: int  # spent
    score: float | None  # on the validation split, as a fraction; None: the run failed
    chosen: bool  # whether this is the row's point

    def line(self) -> dict[str, Any]:
        """As a line of :data:`repro.schema.TUNING`."""
        score = "" if self.score is None else f"{self.score:.6f}"
        settings = json.dumps(self.settings, sort_keys=True)
        return asdict(self) | {"settings": settings, "score": score, "chosen": int(self.chosen)}


def write(path: Path, trials: Iterable[Trial]) -> None:
    files.write_text(path, csv_files.text(TUNING, (trial.line() for trial in trials)))


def read(path: Path, mend: str) -> list[Trial]:
    """The trials of a file. Raises UserError naming file and line where one is malformed, and where a row has
    no trial as it is, or not one point that was chosen."""
    key = ("method", "point", "seed")
    found: list[Trial] = []
    chosen: dict[str, dict[int, int]] = {}
    for line in csv_files.read(path, TUNING, mend, key=key, unknown=("score",)):
        try:
            settings = json.loads(line["settings"])
        except (ValueError, RecursionError):
            settings = None
        first = chosen.setdefault(line["method"], {}).setdefault(line["point"], line["chosen"])
        if not isinstance(settings, dict) or line["chosen"] not in (0, 1) or first != line["chosen"]:
            raise UserError(
                f"{path}, line {line['line']}: the settings are no mapping, or `chosen` is not 0 or 1 for "
                f"all seeds of the point; {mend}"
            )
        values = {name: line[name] for name in TUNING}
        found.append(Trial(**values | {"settings": settings, "chosen": bool(line["chosen"])}))
    for method, points in chosen.items():
        if 0 not in points or sum(points.values()) != 1:
            raise UserError(
                f"{path}: of the trials of {method} none is the row as it is, or not one point is chosen; "
                f"{mend}"
            )
    return found
