"""The files of a records folder, read with suspicion: whatever is not as it was written is named. Importing
it loads no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from repro import csv_files
from repro.errors import UserError
from repro.files import digest, json_text, parse_json, sha256
from repro.schema import FILES, PROBLEMS, SAMPLE_KEY, SAMPLES, TEXTS, Facts, Provenance

MEND = "restore it, or collect the study's records again."
_WHOLE = ("seed", "budget", "sample", "tokens")
M = TypeVar("M", bound=BaseModel)


def read_facts(path: Path) -> Facts:
    """study.json. Raises UserError where it is missing, malformed, or not as it was written."""
    text = csv_files.content(path, MEND)
    value, facts = _json(path, text, Facts)
    rest = {key: content for key, content in value.items() if key != "digest"}
    # The text too: what JSON reads alike (spaces, a key that is there twice) was changed all the same.
    if facts.digest != digest(rest) or text != json_text(value):
        raise UserError(f"{path} was changed after it was written: its digest differs; {MEND}")
    return facts


def read_provenance(path: Path) -> Provenance:
    """provenance.json. Raises UserError where it is missing or malformed."""
    return _json(path, csv_files.content(path, MEND), Provenance)[1]


def _json(path: Path, text: str, model: type[M]) -> tuple[dict[str, Any], M]:
    """The value of a file's text, as it is and as the model that it must be of."""
    value = parse_json(text, path, MEND)
    try:
        return value, model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise UserError(f"{path} lacks the key '{key}'; {MEND}") from None
        raise UserError(f"{path}: the key '{key}' is wrong ({first['msg']}); {MEND}") from None


def changed(records: Path, facts: Facts) -> list[str]:
    """A sentence for each file that is not the one that study.json was written with."""
    found = []
    for name in FILES:
        path = records / name
        if name not in facts.files:
            found.append(f"{records / 'study.json'} holds no SHA-256 of {name}; {MEND}")
        elif not path.is_file():
            found.append(f"{path} is missing; {MEND}")
        elif sha256(path) != facts.files[name]:
            found.append(f"{path} is not the file that study.json names: its SHA-256 differs; {MEND}")
    return found


def read_samples(path: Path) -> pd.DataFrame:
    """samples.parquet: one row for each completion, text as categories. ``answer`` is blank where it was not
    recorded, nothing else is. Raises UserError naming the file and the column."""
    text = [name for name in SAMPLES if name not in (*_WHOLE, "correct")]
    with _parquet(path):
        _has(path, SAMPLES)
        table = pq.read_table(path, columns=list(SAMPLES), read_dictionary=text)
        for name in SAMPLES if len(table) else ():
            kind = table.schema.field(name).type
            right = (
                pa.types.is_boolean(kind) if name == "correct"
                else pa.types.is_integer(kind) if name in _WHOLE
                else pa.types.is_dictionary(kind)
            )  # fmt: skip
            if not right or (table[name].null_count and name != "answer"):
                raise UserError(f"{path}: column '{name}' has blanks, or is not of its type; {MEND}")
        frame = table.to_pandas(ignore_metadata=True)
    twins = frame.duplicated(list(SAMPLE_KEY))
    if twins.any():
        twin = frame[twins].iloc[0]
        same = ", ".join(f"{name} {twin[name]}" for name in SAMPLE_KEY)
        raise UserError(f"{path} has two samples of {same}; {MEND}")
    return frame


def check_text(path: Path, columns: Sequence[str]) -> None:
    """Raise UserError unless a parquet file has these columns, all of text. Its content is not read."""
    with _parquet(path):
        schema = _has(path, columns)
        for name in columns:
            if not pa.types.is_string(schema.field(name).type):
                raise UserError(f"{path}: column '{name}' is not of its type; {MEND}")


def read_texts(path: Path) -> dict[str, str]:
    """texts.parquet: completions by their hashes. Raises UserError naming the file and the column."""
    found: dict[str, str] = {}
    for name, text in _lines(path, TEXTS):
        if name in found:
            raise UserError(f"{path}: column 'text_hash' holds '{name}' twice; {MEND}")
        found[name] = text
    return found


def read_problems(path: Path) -> dict[tuple[str, str], tuple[str, str | None, str | None]]:
    """problems.parquet: tier, question and answer, these None where they are not recorded, by benchmark and
    problem. Raises UserError naming the file and the column."""
    found: dict[tuple[str, str], tuple[str, str | None, str | None]] = {}
    for benchmark, problem, tier, question, answer in _lines(path, PROBLEMS, blank=("question", "answer")):
        if (benchmark, problem) in found:
            raise UserError(f"{path}: column 'problem' holds '{problem}' of {benchmark} twice; {MEND}")
        if (question is None) != (answer is None):
            raise UserError(f"{path}: column 'answer' and the question of '{problem}' disagree; {MEND}")
        found[benchmark, problem] = tier, question, answer
    return found


def _lines(path: Path, columns: Sequence[str], blank: Sequence[str] = ()) -> Iterator[tuple[Any, ...]]:
    check_text(path, columns)
    with _parquet(path):
        table = pq.read_table(path, columns=list(columns))
    for name in columns:
        if table[name].null_count and name not in blank:
            raise UserError(f"{path}: column '{name}' has blanks; {MEND}")
    yield from zip(*(table[name].to_pylist() for name in columns), strict=True)


def _has(path: Path, columns: Sequence[str]) -> pa.Schema:
    schema = pq.read_schema(path)
    for name in columns:
        if name not in schema.names:
            raise UserError(f"{path} lacks the column '{name}'; {MEND}")
    return schema


@contextmanager
def _parquet(path: Path) -> Iterator[None]:
    """What cannot be read becomes one sentence."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {MEND}") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as parquet ({reason}); {MEND}") from None
