"""A records folder as it is written, whoever writes it: the bytes of its samples, and study.json with the
hash of every file. Importing it loads no torch."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from repro import files
from repro.schema import FILES, SAMPLE_KEY

TEXTS = ["method", "benchmark", "mode", "tier", "problem", "verdict", "answer", "finish", "text_hash"]


def samples(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All samples as samples.parquet has them, whichever tables they come in."""
    filled = [one for one in tables if len(one)] or tables[:1]  # an empty one knows no types
    table = pd.concat([one.astype(dict.fromkeys(TEXTS, object)) for one in filled], ignore_index=True)
    table = table.sort_values(list(SAMPLE_KEY), kind="stable")
    return table.astype(dict.fromkeys(TEXTS, "category"))


def parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False, compression="zstd")
    return buffer.getvalue()


def whole(contents: Mapping[str, bytes], facts: Mapping[str, Any]) -> dict[str, bytes]:
    """A folder's files: those of :data:`FILES`, and study.json with ``facts``, their hashes, and a digest of
    all that. It is last, so that a folder that has it has all."""
    found = {name: contents[name] for name in FILES}
    hashed = {**facts, "files": {name: files.sha256_of(data) for name, data in found.items()}}
    return found | {"study.json": files.json_text({**hashed, "digest": files.digest(hashed)}).encode()}


def write(folder: Path, whole: Mapping[str, bytes]) -> None:
    for name, data in whole.items():
        files.write_bytes(folder / name, data)
