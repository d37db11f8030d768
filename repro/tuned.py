"""What a tuning found: the table of its trials, and the hyper-parameters that a study takes from it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from repro import files
from repro.config import Study
from repro.errors import UserError
from repro.schema import TUNING

MEND = "name the file that `repro tune` wrote, and its digest"


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
    text = io.StringIO()
    writer = csv.DictWriter(text, list(TUNING), lineterminator="\n")
    writer.writeheader()
    writer.writerows(trial.line() for trial in trials)
    files.write_text(path, text.getvalue())


def read(path: Path) -> list[Trial]:
    """The trials of a file. Raises UserError naming file and line."""
    rows = csv.DictReader(io.StringIO(files.read_text(path, MEND), newline=""), strict=True)
    if list(rows.fieldnames or ()) != list(TUNING):
        raise UserError(f"{path}, line 1: the columns are not {', '.join(TUNING)}; {MEND}")
    found = []
    try:
        lines = list(rows)
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: not CSV ({error}); {MEND}") from None
    for number, row in enumerate(lines, 2):
        try:
            settings = json.loads(row["settings"])
            assert isinstance(settings, dict)
            score = float(row["score"]) if row["score"] else None
            point, seed, flops = (int(row[name]) for name in ("point", "seed", "flops"))
            found.append(Trial(row["method"], point, settings, seed, flops, score, row["chosen"] == "1"))
        except (ValueError, TypeError, AssertionError):
            raise UserError(f"{path}, line {number}: no trial; {MEND}") from None
    return found


def trials(study: Study) -> list[Trial]:
    """The trials that a study names; none where it names none. Raises UserError where the file is missing or
    not the one that the study means."""
    if study.tuned is None:
        return []
    path = study.tuned.file
    if not path.is_file():
        raise UserError(f"study {study.name}, tuned.file: {path} does not exist; {MEND}")
    found = files.sha256(path)
    if found != study.tuned.digest.lower():
        raise UserError(
            f"study {study.name}, tuned.digest: {path} has the digest {found}, and the study names "
            f"{study.tuned.digest}; {MEND}"
        )
    return _read(path, found)


@cache
def _read(path: Path, digest: str) -> list[Trial]:
    return read(path)


def chosen(study: Study, row: str) -> dict[str, Any]:
    """What a study's tuning changes in the hyper-parameters of a row."""
    return next((trial.settings for trial in trials(study) if trial.method == row and trial.chosen), {})
