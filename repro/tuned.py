"""The hyper-parameters that a study takes from a tuning."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from repro import files
from repro.config import Study
from repro.errors import UserError
from repro.trials import Trial, read

MEND = "name the file that `repro tune` wrote, and its digest"


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
    return read(path, MEND)


def chosen(study: Study, row: str) -> dict[str, Any]:
    """What a study's tuning changes in the hyper-parameters of a row."""
    return next((trial.settings for trial in trials(study) if trial.method == row and trial.chosen), {})
