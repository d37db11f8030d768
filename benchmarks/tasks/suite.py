"""The functions that the task files name: problems in, verdicts and scores out."""

from __future__ import annotations

import atexit
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset

from repro.errors import UserError
from repro.records import Verdict
from repro.verify import Verifier, extract, normalise
from repro.verify.answers import MAX_ANSWER

FIELDS = ("id", "tier", "answer", "prompt")
LONGEST = 48  # characters of an answer that are recorded as they are


class Checked(NamedTuple):
    """What is known of one completion: its verdict, and the answer as votes are counted ("" for none)."""

    verdict: Verdict
    answer: str
    text_hash: str


def load(benchmark: str, problems: str | None = None, **metadata: Any) -> dict[str, Dataset]:
    """The lines of ``<benchmark>.jsonl`` in the folder ``problems``, as the split ``test``. lm-eval passes
    the task's metadata, and that of its command line, as keywords.

    Raises UserError naming the file and the line of a malformed row or an unreadable gold answer.
    """
    if not problems:
        raise UserError(
            "No problems are named; add --metadata problems=FOLDER, such as work/STUDY/problems/test, which "
            "`repro problems` writes."
        )
    path = Path(problems) / f"{benchmark}.jsonl"
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{path} does not exist; name a folder that holds {path.name}, such as `repro problems` writes."
        ) from None
    return {"test": Dataset.from_list(_rows(str(path), text))}


def verify(answers: Sequence[Sequence[str]], problems: Sequence[dict[str, str]]) -> list[list[Checked]]:
    """The k answers to each problem, checked; a filter, so that all are checked in one call."""
    golds = [problem["answer"] for problem, texts in zip(problems, answers, strict=True) for _ in texts]
    verdicts = iter(_verifier().verify([text for texts in answers for text in texts], golds))
    return [[Checked(next(verdicts), stated(text), _hash(text)) for text in texts] for texts in answers]


def score(problem: dict[str, str], checked: Sequence[Sequence[Checked]]) -> dict[str, float]:
    """One problem's metrics over all k completions: lm-eval's own look at the first only.

    ``maj@k`` is whether the answer that most completions give is right; of equals the one given first wins,
    and completions without an answer have no vote.
    """
    (found,) = checked
    verdicts = [one.verdict for one in found]
    votes = Counter(one.answer for one in found if one.answer)
    winner = max(votes, key=votes.__getitem__, default="")  # a Counter remembers who came first
    right = {one.answer for one in found if one.verdict is Verdict.CORRECT}
    return {
        "avg@k": verdicts.count(Verdict.CORRECT) / len(found),
        "pass@k": float(Verdict.CORRECT in verdicts),
        "maj@k": float(winner in right),
        "unparsable": verdicts.count(Verdict.UNPARSABLE) / len(found),
        "timeout": verdicts.count(Verdict.TIMEOUT) / len(found),
        "distinct": len({one.text_hash for one in found}) / len(found),
    }


def stated(text: str) -> str:
    """The final answer of a completion, normalised, or "". A long one keeps its beginning and a digest."""
    answer = extract(text) or ""
    answer = normalise(answer) if len(answer) <= MAX_ANSWER else ""  # as the verifier reads it
    return answer if len(answer) <= LONGEST else f"{answer[: LONGEST - 16]}{_hash(answer)}"


def _hash(text: str) -> str:
    # A completion may hold half of a surrogate pair, which is no Unicode.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


@cache
def _verifier() -> Verifier:
    verifier = Verifier()
    atexit.register(verifier.close)
    return verifier


@lru_cache(maxsize=8)  # the tasks of a benchmark share a file; golds are checked once
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
