"""How to train: objectives and optimizer settings, as studies and methods name them."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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

    @property
    def references(self) -> int:
        """How many models that the call does not change it compares the policy with: each makes one forward
        pass over every distinct row of the call, charged in the step that first needs it."""
        return 0


class SFT(Objective):
    """Mean negative log-likelihood of the response tokens (end-of-text token included). Examples of a weight
    other than 1 are refused."""

    data: ClassVar[type[Example]] = Example


class DPO(Objective):
    """Direct preference optimisation, sigmoid loss; the reference is the policy the call starts from."""

    data: ClassVar[type[Pair]] = Pair

    beta: float = Field(default=0.1, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    nll_weight: float = Field(default=0.0, ge=0)  # weight of an added NLL term on the chosen side
    # Of that term: the mean over all chosen tokens of the batch, or over each response's, then over responses
    nll_normalization: Literal["token", "sequence"] = "token"

    @property
    def references(self) -> int:
        return 1


class PolicyGradient(Objective):
    """Signed-weight likelihood: minus the sum over tokens of weight times log-probability, normalised.

    ``normalization`` is the mean over each response's tokens and then over responses (``sequence``, as in
    GRPO), the mean over all tokens of the batch (``token``, as in DAPO), or the sum divided by the number of
    responses and ``max_tokens`` (``constant``, as in Dr. GRPO).

    With ``clip_low`` and ``clip_high`` the probability of each token is taken relative to the policy that the
    call starts from, and PPO's clipped surrogate keeps that ratio within [1 - clip_low, 1 + clip_high]: for
    calls of several steps. ``kl`` weighs a penalty on the divergence from the run's base model, estimated
    per token by k3, exp(d) - d - 1 with d the base model's log-probability minus the policy's.
    """

    data: ClassVar[type[Example]] = Example

    normalization: Literal["sequence", "token", "constant"] = "sequence"
    max_tokens: int | None = Field(default=None, ge=1)  # of a response; for, and only for, "constant"
    clip_low: float | None = Field(default=None, gt=0, lt=1)
    clip_high: float | None = Field(default=None, gt=0)  # both or none
    kl: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> PolicyGradient:
        if (self.clip_low is None) != (self.clip_high is None):
            raise ValueError("clip_low and clip_high go together: give both, or none")
        if (self.max_tokens is not None) != (self.normalization == "constant"):
            raise ValueError('max_tokens goes with normalization "constant": give both, or none')
        return self

    @property
    def clips(self) -> bool:
        return self.clip_low is not None

    @property
    def references(self) -> int:
        return self.clips + (self.kl > 0)


def steps_of(epochs: float, rows: int, batch_size: int) -> int:
    """Optimizer steps of so many passes over the rows; the last may go on into the next pass."""
    return ceil(round(epochs * rows / batch_size, 9))  # 1.1 * 100 / 10 is 11, in floating point a little more


OBJECTIVES: dict[str, type[Objective]] = {
    objective.__name__: objective for objective in (SFT, DPO, PolicyGradient)
}


def default_objective(data: Sequence[Example] | Sequence[Pair]) -> Objective:
    """The objective for data of this kind, with its defaults."""
    return next(objective() for objective in OBJECTIVES.values() if isinstance(data[0], objective.data))
