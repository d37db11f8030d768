"""The files of a records folder, read with suspicion: whatever is not as it was written is named. Importing
it loads no torch."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from repro import csv_files
from repro.errors import UserError
from repro.files import digest, json_text, sha256
from repro.schema import FILES, SAMPLE_KEY, SAMPLES, Facts

MEND = "restore it, or collect the study's records again."
_WHOLE = ("seed", "budget", "sample", "tokens")


def read_facts(path: Path) -> Facts:
    """study.json. Raises UserError where it is missing, malformed, or not as it was written."""
    text = csv_files.content(path, MEND)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); {MEND}") from None
    try:
        facts = Facts.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise UserError(f"{path} lacks the key '{key}'; {MEND}") from None
        raise UserError(f"{path}: the key '{key}' is wrong ({first['msg']}); {MEND}") from None
    rest = {key: content for key, content in value.items() if key != "digest"}
    # The text too: what JSON reads alike (spaces, a key that is there twice) was changed all the same.
    if facts.digest != digest(rest) or text != json_text(value):
        raise UserError(f"{path} was changed after it was written: its digest differs; {MEND}")
    return facts


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
    try:
        names = pq.read_schema(path).names
        for name in SAMPLES:
            if name not in names:
                raise UserError(f"{path} lacks the column '{name}'; {MEND}")
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
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {MEND}") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as parquet ({reason}); {MEND}") from None
    twins = frame.duplicated(list(SAMPLE_KEY))
    if twins.any():
        twin = frame[twins].iloc[0]
        same = ", ".join(f"{name} {twin[name]}" for name in SAMPLE_KEY)
        raise UserError(f"{path} has two samples of {same}; {MEND}")
    return frame
