"""Where a model's shape comes from: from a table of well-known models, else from the model itself, which is
built without weights and admitted only where torch counts the same FLOPs (:mod:`repro.shapes.counting`).

What a run is charged is counted with the model at hand. The table serves those who ask before (plans,
downloads, ``repro flops``) and needs no torch; a test counts it again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from repro import files
from repro.errors import UserError
from repro.flops import ModelShape

TABLE = Path(__file__).with_name("known.json")


@dataclass(frozen=True, slots=True)
class Decoder:
    """A model's shape, and the sizes that memory is estimated from."""

    shape: ModelShape
    layers: int  # calls of attention in a pass
    hidden: int  # width
    queries: int  # numbers of a token's queries, in the layer that has most
    cache: int  # numbers of a token's keys and values, over all layers

    @property
    def vocab(self) -> int:
        return self.shape.head // self.hidden

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Decoder:
        return cls(**{**row, "shape": ModelShape.from_json(row["shape"])})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@cache
def known() -> dict[str, tuple[dict[str, Any], Decoder]]:
    """The well-known models by name: the sizes in their configs, and what was counted for them."""
    table: dict[str, dict[str, Any]] = files.read_json(TABLE)
    return {name: (row.pop("config"), Decoder.from_json(row)) for name, row in table.items()}


def named(model: str) -> Decoder | None:
    """The well-known model of this name: a copy keeps the name, and a tuned one has the sizes of its base."""
    row = known().get(re.sub("-(Instruct|Base|it|pt)$", "", model.split("/")[-1]))
    return row[1] if row else None


def decoder(config: Mapping[str, Any], where: str) -> Decoder:
    """The decoder that a transformers config describes: by the table, if it has the sizes of a well-known
    model, else counted as by :func:`counted`."""
    for sizes, found in known().values():
        if sizes.items() <= config.items():
            return found
    return counted(config, where)


def counted(config: Mapping[str, Any], where: str) -> Decoder:
    """The decoder that a transformers config describes, as torch counts it now.

    Raises :class:`~repro.errors.UserError`, naming ``where`` and the module, where its FLOPs cannot be
    counted exactly or no model can be built of it.
    """
    try:
        return _counted(json.dumps(config, sort_keys=True))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


@cache
def _counted(config: str) -> Decoder:
    from repro.shapes.counting import read

    return read(json.loads(config))


def shape_of(folder: Path) -> ModelShape:
    """The shape of the model in a folder, which a base model has beside it. Raises as :func:`counted`."""
    origin = files.read_json(folder / files.ORIGIN) if (folder / files.ORIGIN).is_file() else {}
    if "shape" in origin:
        return ModelShape.from_json(origin["shape"])
    path = folder / "config.json"
    return counted(files.read_json(path, keys=("model_type",)), str(path)).shape


def written_shape(of: Mapping[str, Any], path: Path) -> ModelShape:
    """The shape in a row of the manifest ``path``. Raises UserError where an earlier version wrote it."""
    try:
        return ModelShape.from_json(of["shape"])
    except TypeError:
        raise UserError(
            f"{path} has a model's sizes as an earlier version wrote them; delete it and run `snakemake`: it "
            "is written anew from what is kept, and nothing is trained or sampled again"
        ) from None
