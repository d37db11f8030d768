"""The files of a records folder, read with suspicion: whatever is not as it was written is named. Importing
it loads no torch."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from repro.errors import UserError
from repro.files import digest, json_text, sha256
from repro.schema import FILES, SAMPLE_KEY, SAMPLES, Facts

_MEND = "restore it, or collect the study's records again."
_WHOLE = ("seed", "budget", "sample", "tokens")


def read_facts(path: Path) -> Facts:
    """study.json. Raises UserError where it is missing, malformed, or not as it was written."""
    text = _text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); {_MEND}") from None
    try:
        facts = Facts.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise UserError(f"{path} lacks the key '{key}'; {_MEND}") from None
        raise UserError(f"{path}: the key '{key}' is wrong ({first['msg']}); {_MEND}") from None
    rest = {key: content for key, content in value.items() if key != "digest"}
    # The text too: what JSON reads alike (spaces, a key that is there twice) was changed all the same.
    if facts.digest != digest(rest) or text != json_text(value):
        raise UserError(f"{path} was changed after it was written: its digest differs; {_MEND}")
    return facts


def changed(records: Path, facts: Facts) -> list[str]:
    """A sentence for each file that is not the one that study.json was written with."""
    found = []
    for name in FILES:
        path = records / name
        if name not in facts.files:
            found.append(f"{records / 'study.json'} holds no SHA-256 of {name}; {_MEND}")
        elif not path.is_file():
            found.append(f"{path} is missing; {_MEND}")
        elif sha256(path) != facts.files[name]:
            found.append(f"{path} is not the file that study.json names: its SHA-256 differs; {_MEND}")
    return found


def read_table(
    path: Path, columns: Mapping[str, type], key: Sequence[str] = (), unknown: Sequence[str] = (),
    signed: Sequence[str] = (),
) -> list[dict[str, Any]]:  # fmt: skip
    """The lines of a CSV file as built-ins, each with the number of its ``line``; integers are exact at any
    size. No two lines may share the values of ``key``; a blank is None in the columns ``unknown``; only in
    the columns ``signed`` a number may be below 0.

    Raises UserError naming the file, and the line and column where there is one.
    """
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    rows: list[dict[str, Any]] = []
    seen: dict[tuple[Any, ...], int] = {}
    try:
        header = next(reader, [])
        for name in columns:
            if name not in header:
                raise UserError(f"{path} lacks the column '{name}'; {_MEND}")
        if header != list(columns):
            raise UserError(f"{path}, line 1: the columns are not {', '.join(columns)}; {_MEND}")
        line = reader.line_num + 1
        for fields in reader:
            where = f"{path}, line {line}"
            if len(fields) != len(columns):
                raise UserError(f"{where}: {len(fields)} fields where {len(columns)} are due; {_MEND}")
            row: dict[str, Any] = {"line": line}
            for (name, kind), text in zip(columns.items(), fields, strict=True):
                blank = not text and name in unknown
                row[name] = value = None if blank else _value(text, kind, name in signed)
                if value is None and not blank:
                    due = "number" if name in signed else "count"
                    raise UserError(f"{where}: column '{name}' holds '{text}', which is no {due}; {_MEND}")
            values = tuple(row[name] for name in key)
            if key and values in seen:
                same = ", ".join(f"{name} {row[name]}" for name in key)
                raise UserError(f"{where} repeats line {seen[values]} ({same}); {_MEND}")
            seen[values] = line
            rows.append(row)
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not CSV ({error}); {_MEND}") from None
    return rows


def read_samples(path: Path) -> pd.DataFrame:
    """samples.parquet: one row for each completion, text as categories. ``answer`` is blank where it was not
    recorded, nothing else is. Raises UserError naming the file and the column."""
    text = [name for name in SAMPLES if name not in (*_WHOLE, "correct")]
    try:
        names = pq.read_schema(path).names
        for name in SAMPLES:
            if name not in names:
                raise UserError(f"{path} lacks the column '{name}'; {_MEND}")
        table = pq.read_table(path, columns=list(SAMPLES), read_dictionary=text)
        for name in SAMPLES if len(table) else ():
            kind = table.schema.field(name).type
            right = (
                pa.types.is_boolean(kind) if name == "correct"
                else pa.types.is_integer(kind) if name in _WHOLE
                else pa.types.is_dictionary(kind)
            )  # fmt: skip
            if not right or (table[name].null_count and name != "answer"):
                raise UserError(f"{path}: column '{name}' has blanks, or is not of its type; {_MEND}")
        frame = table.to_pandas(ignore_metadata=True)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {_MEND}") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as parquet ({reason}); {_MEND}") from None
    twins = frame.duplicated(list(SAMPLE_KEY))
    if twins.any():
        twin = frame[twins].iloc[0]
        same = ", ".join(f"{name} {twin[name]}" for name in SAMPLE_KEY)
        raise UserError(f"{path} has two samples of {same}; {_MEND}")
    return frame


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {_MEND}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {_MEND}") from None
    if not data:
        raise UserError(f"{path} is empty; {_MEND}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text; {_MEND}") from None


def _value(text: str, kind: type, signed: bool) -> Any:
    """A text as it is, or the number it says; None where it says none, or, unless ``signed``, one below 0."""
    if kind is str:
        return text
    number = r"[0-9]+" if kind is int else r"[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?"
    number = f"-?{number}" if signed else number
    try:
        return kind(text) if re.fullmatch(number, text) and isfinite(float(text)) else None
    except (ValueError, OverflowError):  # thousands of digits
        return None
