"""CSV files whose columns are known: written, and read with suspicion."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from repro.errors import UserError


def text(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """The file's text, of rows that have just these columns."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def read(
    path: Path,
    columns: Mapping[str, type],
    mend: str,
    *,
    key: Sequence[str] = (),
    unknown: Sequence[str] = (),
    signed: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The lines of a CSV file as built-ins, each with the number of its ``line``; integers are exact at any
    size. No two lines may share the values of ``key``; a blank is None in the columns ``unknown``; only in
    the columns ``signed`` a number may be below 0.

    Raises UserError naming the file, and the line and column where there is one.
    """
    reader = csv.reader(io.StringIO(content(path, mend), newline=""), strict=True)
    rows: list[dict[str, Any]] = []
    seen: dict[tuple[Any, ...], int] = {}
    try:
        header = next(reader, [])
        for name in columns:
            if name not in header:
                raise UserError(f"{path} lacks the column '{name}'; {mend}")
        if header != list(columns):
            raise UserError(f"{path}, line 1: the columns are not {', '.join(columns)}; {mend}")
        line = reader.line_num + 1
        for fields in reader:
            where = f"{path}, line {line}"
            if len(fields) != len(columns):
                raise UserError(f"{where}: {len(fields)} fields where {len(columns)} are due; {mend}")
            row: dict[str, Any] = {"line": line}
            for (name, kind), text in zip(columns.items(), fields, strict=True):
                blank = not text and name in unknown
                row[name] = value = None if blank else _value(text, kind, name in signed)
                if value is None and not blank:
                    due = "number" if name in signed else "count"
                    raise UserError(f"{where}: column '{name}' holds '{text}', which is no {due}; {mend}")
            values = tuple(row[name] for name in key)
            if key and values in seen:
                same = ", ".join(f"{name} {row[name]}" for name in key)
                raise UserError(f"{where} repeats line {seen[values]} ({same}); {mend}")
            seen[values] = line
            rows.append(row)
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not CSV ({error}); {mend}") from None
    return rows


def content(path: Path, mend: str) -> str:
    """The text of a file that cannot be empty. Raises UserError naming it, and the line that is no UTF-8."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {mend}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {mend}") from None
    if not data:
        raise UserError(f"{path} is empty; {mend}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text; {mend}") from None


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
