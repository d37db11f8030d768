"""What a run did, in integers. FLOPs are computed from it, under any convention, at any later time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from repro.flops import ModelShape, Tally, flops, papers_flops
from repro.schema import Account


@dataclass(frozen=True, slots=True)
class Entry:
    """One call, or the part of it up to a budget: ``passes`` forward passes over ``tally`` by a model of
    ``shape``."""

    account: Account
    round: int
    call: int  # the Lab call it belongs to, 1, 2, ...
    passes: int
    shape: ModelShape
    tally: Tally

    @property
    def flops(self) -> int:
        return flops(self.shape, self.tally, self.passes)

    @property
    def papers_flops(self) -> int:
        return papers_flops(self.shape, self.tally, self.passes)

    def to_json(self) -> dict[str, Any]:
        return {
            "account": str(self.account),
            "round": self.round,
            "call": self.call,
            "passes": self.passes,
            "shape": self.shape.to_json(),
            "tally": self.tally.to_json(),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Entry:
        return cls(
            Account(row["account"]),
            row["round"],
            row["call"],
            row["passes"],
            ModelShape.from_json(row["shape"]),
            Tally.from_json(row["tally"]),
        )
