"""How to train: objectives and optimizer settings, as studies and methods name them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Optimizer(Settings):
    """AdamW and its learning-rate schedule, over the steps of one training call."""

    learning_rate: float = Field(gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1)  # of the call's steps; added to warmup_steps
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    weight_decay: float = Field(default=0.0, ge=0)
    beta1: float = 0.9
    beta2: float = 0.999
    max_grad_norm: float = 1.0


class SFT(Settings):
    """Mean negative log-likelihood of the response tokens (end-of-text token included)."""


class DPO(Settings):
    """Direct preference optimisation, sigmoid loss; the reference is the policy the call starts from."""

    beta: float = Field(default=0.1, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    nll_weight: float = Field(default=0.0, ge=0)  # weight of an added NLL term on the chosen side
