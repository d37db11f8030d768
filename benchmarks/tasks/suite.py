"""The functions that the task files name: problems in, verdicts out."""

from __future__ import annotations

import atexit
import json
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from datasets import Dataset

from repro.errors import UserError
from repro.records import Verdict
from repro.verify import Verifier

FIELDS = ("id", "tier", "answer", "prompt")


def load(problems: str | None = None, **metadata: Any) -> dict[str, Dataset]:
    """The problems of a JSONL file, as the split ``test``. lm-eval passes its metadata as keywords.

    Raises UserError naming the file and the line of a malformed row or an unreadable gold answer.
    """
    if not problems:
        raise UserError("No problems are named; add --metadata problems=path/to/test.jsonl.")
    try:
        text = Path(problems).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{problems} does not exist; prepare the study's problems first.") from None
    return {"test": Dataset.from_list(_rows(problems, text))}


def verify(answers: Sequence[Sequence[str]], problems: Sequence[dict[str, str]]) -> list[list[Verdict]]:
    """The verdict on each of the k answers to each problem; a filter, so that all are checked in one call."""
    golds = [problem["answer"] for problem, texts in zip(problems, answers, strict=True) for _ in texts]
    verdicts = iter(_verifier().verify([text for texts in answers for text in texts], golds))
    return [[next(verdicts) for _ in texts] for texts in answers]


def score(problem: dict[str, str], verdicts: Sequence[Sequence[Verdict]]) -> dict[str, float]:
    """The share of correct answers among all k: lm-eval's own metrics look at the first only."""
    (found,) = verdicts
    return {"avg@k": found.count(Verdict.CORRECT) / len(found)}


@cache
def _verifier() -> Verifier:
    verifier = Verifier()
    atexit.register(verifier.close)
    return verifier


@lru_cache(maxsize=1)  # the tasks of one evaluation share a file; golds are checked once
def _rows(path: str, text: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    lines: dict[str, int] = {}  # by problem id
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not JSON ({error.msg}); prepare the problems anew.") from None
        for field in FIELDS:
            if not isinstance(row, dict) or not isinstance(row.get(field), str) or not row[field]:
                raise UserError(
                    f"{where}: `{field}` must be a text, and not empty; prepare the problems anew."
                )
        if first := lines.get(row["id"]):
            raise UserError(f"{where}: problem {row['id']} is already on line {first}; remove one of them.")
        lines[row["id"]] = number
        rows.append({field: row[field] for field in FIELDS})
    if not rows:
        raise UserError(f"{path} holds no problems; prepare the problems anew.")
    places = [f"{path}, line {number}" for number in lines.values()]
    _verifier().check_golds([row["answer"] for row in rows], places)
    return rows
