"""Trainers: batches of token ids in, a model folder out. Records and the protocol; the engine is ``trl``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, cos, pi
from pathlib import Path
from typing import Any, Protocol

from repro import files
from repro.config import Training
from repro.errors import UserError
from repro.flops import Tally, sequence_tally
from repro.objectives import Objective, Optimizer
from repro.sampling import prompt_ids


@dataclass(frozen=True, slots=True)
class Row:
    """What one example or pair is to a trainer, in token ids: a prompt with its response, or with the chosen
    and the rejected one. The last token of a response is end-of-text unless it was cut. ``weight`` is of
    its example; rows that differ in it alone are two."""

    prompt: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]
    weight: float = 1.0

    @property
    def tokens(self) -> int:
        """Of one pass: each response behind a prompt of its own."""
        return len(self.prompt) * len(self.responses) + sum(map(len, self.responses))

    def tally(self, window: int) -> Tally:
        """Of one pass by a model with this window."""
        lengths = [(len(self.prompt), len(response)) for response in self.responses]
        return sequence_tally(lengths, window=window)


def encode(tokenizer: Any, prompt: str, responses: Sequence[str], max_length: int) -> Row:
    """The row of ``prompt`` and ``responses``, tokenised apart so that the prompt has the ids it was sampled
    from, with end-of-text at the end of each.

    A response that ends beyond ``max_length`` loses its end, and with it end-of-text, so that the model does
    not learn to stop there. Raises :class:`~repro.errors.UserError` where the prompt alone fills it.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(f"The tokenizer in {tokenizer.name_or_path} has no end-of-text token: set eos_token.")
    before = prompt_ids(tokenizer, prompt)
    if len(before) >= max_length:
        raise UserError(
            f"A prompt has {len(before)} tokens and the trainer's max_length is {max_length}: raise it "
            f"or leave the problem out (it begins {prompt[:60]!r})."
        )
    after = [
        [*tokenizer(response, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        for response in responses
    ]
    return Row(tuple(before), tuple(tuple(ids[: max_length - len(before)]) for ids in after))


@dataclass(frozen=True)
class Trained:
    """What a training call reports.

    ``loss`` is the mean over its steps. ``monitors`` are of its last step, before that step is taken. DPO:
    the mean over pairs of the log-probability of the chosen and of the rejected response, the drift of
    either from what the reference gave it, and the margin and accuracy of the implicit reward.
    PolicyGradient: the share of tokens that were clipped, and the divergence from the base model per token.
    ``start`` holds, for up to 8 distinct rows of the first step, the log-probability of each response (sum
    over its tokens) under the weights the call starts from.
    """

    loss: float
    monitors: dict[str, float]
    start: list[tuple[Row, tuple[float, ...]]]


class Trainer(Protocol):
    """An engine that trains one model folder into another."""

    def train(
        self,
        model_dir: Path,
        batches: Sequence[Sequence[Row]],
        objective: Objective,
        optimizer: Optimizer,
        out_dir: Path,
        *,
        snapshots: Mapping[int, Path] | None = None,
        inherit: Path | None = None,
        horizon: int | None = None,
        seed: int = 0,
        on_step: Callable[[int, float], None] | None = None,
        states: Path | None = None,
        keep_state: bool = False,
        base: Path | None = None,
    ) -> Trained:
        """Train on ``batches``, one optimizer step each, exactly in this order.

        ``out_dir`` receives the model folder and ``optimizer/`` (Adam moments and step count).
        ``snapshots[s]`` receives the model folder as it is after ``s`` steps of this call, sealed.
        ``inherit`` is a folder that an earlier call wrote: its moments and step count carry over, so that the
        schedule goes on where it was. ``horizon`` is the schedule's number of steps, earlier calls
        included; by default it ends with this call. ``on_step(s, loss)`` is called after each step. The
        reference of DPO, and of a policy gradient that clips, is the model in ``model_dir``; of its ``kl`` it
        is the one in ``base``.

        With LoRA a model folder holds merged weights and, in ``adapter/``, what was merged into them. A call
        goes on with the adapter in ``model_dir``; where there is none, it begins a new one.

        ``states`` is a folder that outlives a killed call. A trainer may save itself there now and then (see
        :func:`newest_state`), and does so after the last step with ``keep_state``; the same call, made again
        or with more batches, goes on from the newest state, and expects to find the snapshots that it had
        written. On one thread (or one GPU in deterministic mode) the result is a
        function of the other arguments, bit for bit.

        Raises :class:`~repro.errors.RunFailed` for a loss or gradient that is not finite (before the step is
        taken), :class:`~repro.errors.UserError` for an ``inherit`` folder without fitting moments or a
        schedule that is over too early.
        """


def trainer_for(settings: Training) -> Trainer:
    """The trainer that a study asks for: in this process, or in those that ``accelerate launch`` starts."""
    if settings.accelerate is not None:
        from repro.training.launch import LaunchedTrainer

        return LaunchedTrainer(settings)
    from repro.training.trl import TRLTrainer

    return TRLTrainer(**{name: getattr(settings, name) for name in TRLTrainer.__dataclass_fields__})


def newest_state(states: Path) -> Path | None:
    """The newest whole state of a call that was killed, in the folder it was given; named by its step."""
    return next((state for state in sorted(states.glob("[0-9]*"), reverse=True) if files.sealed(state)), None)


def learning_rate_factor(step: int, optimizer: Optimizer, horizon: int) -> float:
    """What the learning rate is multiplied by at ``step`` (from 0) of ``horizon``: the rules of transformers'
    schedules of the same names. Warm-up rises from 0, ``linear`` and ``cosine`` end at 0."""
    by_ratio = min(ceil(optimizer.warmup_ratio * horizon), horizon - 1)  # which leaves a step to learn in
    warmup = optimizer.warmup_steps + by_ratio
    if step < warmup:
        return step / warmup
    if optimizer.schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, horizon - warmup))
    return 1.0 - progress if optimizer.schedule == "linear" else (1.0 + cos(pi * progress)) / 2
