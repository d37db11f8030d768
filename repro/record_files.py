"""A records folder as it is written, whoever writes it: the bytes of its samples, and study.json with the
hash of every file. Importing it loads no torch."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from repro import files
from repro.schema import FILES, SAMPLE_KEY

CATEGORIES = ["method", "benchmark", "mode", "tier", "problem", "verdict", "answer", "finish", "text_hash"]

OF_A_JOB = ("ended", "seconds")  # of what is known of a process


def samples(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All samples as samples.parquet has them, whichever tables they come in."""
    filled = [one for one in tables if len(one)] or tables[:1]  # an empty one knows no types
    table = pd.concat([one.astype(dict.fromkeys(CATEGORIES, object)) for one in filled], ignore_index=True)
    table = table.sort_values(list(SAMPLE_KEY), kind="stable")
    return table.astype(dict.fromkeys(CATEGORIES, "category"))


def parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False, compression="zstd")
    return buffer.getvalue()


def text_parquet(columns: Sequence[str], lines: Iterable[Sequence[str | None]]) -> bytes:
    """A file whose columns are all text."""
    schema = pa.schema([(name, pa.string()) for name in columns])
    table = pa.Table.from_pylist([dict(zip(columns, line, strict=True)) for line in lines], schema)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", use_dictionary=True)
    return buffer.getvalue()


def provenance(jobs: Iterable[tuple[dict[str, Any], dict[str, Any]]]) -> bytes:
    """provenance.json, of jobs and what is known of their processes: their common facts once."""
    processes: dict[str, dict[str, Any]] = {}
    for job, facts in jobs:
        own = {name: facts[name] for name in OF_A_JOB}
        shared = {name: value for name, value in facts.items() if name not in own}
        processes.setdefault(files.digest(shared), {**shared, "jobs": []})["jobs"].append({**job, **own})
    return files.json_text({"processes": list(processes.values())}).encode()


def whole(contents: Mapping[str, bytes], facts: Mapping[str, Any]) -> dict[str, bytes]:
    """A folder's files: those of :data:`FILES`, and study.json with ``facts``, their hashes, and a digest of
    all that. It is last, so that a folder that has it has all."""
    found = {name: contents[name] for name in FILES}
    hashed = {**facts, "files": {name: files.sha256_of(data) for name, data in found.items()}}
    return found | {"study.json": files.json_text({**hashed, "digest": files.digest(hashed)}).encode()}


def write(folder: Path, whole: Mapping[str, bytes]) -> None:
    for name, data in whole.items():
        files.write_bytes(folder / name, data)
