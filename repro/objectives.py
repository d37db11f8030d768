"""How to train: objectives and optimizer settings, as studies and methods name them."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from repro.records import Example, Pair


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Optimizer(Settings):
    """AdamW and its learning-rate schedule, over the steps of one training call."""

    learning_rate: float = Field(gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1)  # of the call's steps; added to warmup_steps
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    weight_decay: float = Field(default=0.0, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    max_grad_norm: float = Field(default=1.0, ge=0)  # gradients are scaled down to it; 0: never


class Objective(Settings):
    """What a training call minimises. A new one is a subclass, a member of :data:`OBJECTIVES`, and what
    :mod:`repro.training.trl` does for it."""

    data: ClassVar[type[Example] | type[Pair]]  # what it trains on
    reference: ClassVar[bool] = False  # whether it needs the starting policy's log-probabilities


class SFT(Objective):
    """Mean negative log-likelihood of the response tokens (end-of-text token included)."""

    data: ClassVar[type[Example]] = Example


class DPO(Objective):
    """Direct preference optimisation, sigmoid loss; the reference is the policy the call starts from."""

    data: ClassVar[type[Pair]] = Pair
    reference: ClassVar[bool] = True

    beta: float = Field(default=0.1, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    nll_weight: float = Field(default=0.0, ge=0)  # weight of an added NLL term on the chosen side


def steps_of(epochs: float, rows: int, batch_size: int) -> int:
    """Optimizer steps of so many passes over the rows; the last may go on into the next pass."""
    return ceil(round(epochs * rows / batch_size, 9))  # 1.1 * 100 / 10 is 11, in floating point a little more


OBJECTIVES: dict[str, type[Objective]] = {objective.__name__: objective for objective in (SFT, DPO)}


def default_objective(data: Sequence[Example] | Sequence[Pair]) -> Objective:
    """The objective for data of this kind, with its defaults."""
    return next(objective() for objective in OBJECTIVES.values() if isinstance(data[0], objective.data))
