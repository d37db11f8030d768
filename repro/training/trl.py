"""Training with TRL's ``SFTTrainer`` and ``DPOTrainer``.

TRL owns the losses and the step. What is overridden is what a reproducible suite decides itself: which rows
make a step, how moments and schedule carry over, what is written, and that a loss must be finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, Trainer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from repro.errors import RunFailed, UserError
from repro.objectives import DPO, SFT, Optimizer
from repro.training import PairRow, Row, learning_rate_factor

MOMENTS = "optimizer.safetensors"


@dataclass
class Plan:
    """One call to ``train``, as the overridden trainers read it."""

    rows: list[dict[str, Any]]  # the distinct rows, as TRL's collators want them
    chunks: list[list[int]]  # micro-batches, as indices of rows
    accumulation: int  # micro-batches in a step
    optimizer: Optimizer
    inherit: Path | None
    done: int  # steps of earlier calls
    horizon: int
    losses: list[float] = field(default_factory=list)  # of each step

    def shares(self) -> list[tuple[float, float]]:
        """For each pair micro-batch, its share of the step's rows and of the step's chosen tokens, times
        ``accumulation`` (the Trainer divides by it): weights that make a step independent of its chunks."""
        out = []
        for start in range(0, len(self.chunks), self.accumulation):
            step = self.chunks[start : start + self.accumulation]
            tokens = [sum(len(self.rows[i]["chosen_ids"]) for i in chunk) for chunk in step]
            rows = [len(chunk) for chunk in step]
            scale = self.accumulation
            out += [
                (scale * r / sum(rows), scale * t / sum(tokens)) for r, t in zip(rows, tokens, strict=True)
            ]
        return out


class PlannedTrainer(Trainer):
    """What both of TRL's trainers do otherwise here."""

    model: Any
    optimizer: Any

    def __init__(self, plan: Plan, **kwargs: Any) -> None:
        self.plan = plan
        super().__init__(**kwargs)
        self.remove_callback(PrinterCallback)
        self.processing_class = None  # else `train` rewrites the model's special tokens after the tokenizer's

    def _send_telemetry(self) -> None:
        """Nothing leaves the machine."""

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # the ledger's business

    def get_train_dataloader(self) -> DataLoader:
        return DataLoader(self.plan.rows, batch_sampler=self.plan.chunks, collate_fn=self.data_collator)  # type: ignore[arg-type]

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(model)
        if self.plan.inherit is not None:
            load_moments(self.plan.inherit, self.model, optimizer)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        plan = self.plan
        self.lr_scheduler = LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(plan.done + step, plan.optimizer, plan.horizon)
        )
        return self.lr_scheduler

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        step = self.state.global_step
        if len(self.plan.losses) == step:
            self.plan.losses.append(0.0)
        self.plan.losses[step] += loss.item()
        self._require_finite("loss", self.plan.losses[step])
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        self._require_finite("gradient norm", float(norm))
        return norm

    def _require_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise RunFailed(
                f"The {what} is {value} at step {self.state.global_step + 1} of this training call: "
                "lower the learning rate, or check the starting weights."
            )


class PlannedSFT(PlannedTrainer, SFTTrainer):
    pass


class PlannedDPO(PlannedTrainer, DPOTrainer):
    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        return dataset  # token ids already

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Once per distinct pair and in memory, where TRL goes through a file that outlives the call."""
        rows = sorted(self.plan.rows, key=lambda row: len(row["prompt_ids"]) + len(row["chosen_ids"]))
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            sides = self.compute_ref_log_probs(self.model, self._prepare_inputs(self.data_collator(part)))
            for row, chosen, rejected in zip(part, *(side.tolist() for side in sides), strict=True):
                row["ref_chosen_logps"], row["ref_rejected_logps"] = chosen, rejected
        self._shares = iter(self.plan.shares())
        self._weights = list(self.loss_weights)
        return dataset

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        rows, tokens = next(self._shares)
        self.loss_weights = [
            weight * (tokens if kind == "sft" else rows)  # TRL's "sft" is a mean over tokens
            for kind, weight in zip(self.loss_types, self._weights, strict=True)
        ]
        return super().compute_loss(*args, **kwargs)


class AfterStep(TrainerCallback):
    """Snapshots and the caller's callback."""

    def __init__(
        self,
        plan: Plan,
        save: Callable[[Path], None],
        snapshots: Mapping[int, Path],
        on_step: Callable[[int, float], None] | None,
    ) -> None:
        self.plan, self.save, self.snapshots, self.on_step = plan, save, snapshots, on_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in self.snapshots:
            self.save(self.snapshots[state.global_step])
        if self.on_step:
            self.on_step(state.global_step, self.plan.losses[-1])


class TRLTrainer:
    """:class:`repro.training.Trainer` in this process.

    ``micro_batch`` is the number of rows (or pairs) in one forward pass, by default the whole batch. It
    bounds memory and leaves the result unchanged, up to rounding. Weights and moments are always float32;
    ``bfloat16`` autocasts the passes. ``gradient_checkpointing`` trades time for memory.
    """

    def __init__(
        self,
        micro_batch: int | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        gradient_checkpointing: bool = False,
    ) -> None:
        self.micro_batch = micro_batch
        self.dtype = dtype
        self.gradient_checkpointing = gradient_checkpointing

    def train(
        self,
        model_dir: Path,
        batches: Sequence[Sequence[Row]] | Sequence[Sequence[PairRow]],
        objective: SFT | DPO,
        optimizer: Optimizer,
        out_dir: Path,
        *,
        snapshots: Mapping[int, Path] | None = None,
        inherit: Path | None = None,
        horizon: int | None = None,
        seed: int = 0,
        on_step: Callable[[int, float], None] | None = None,
    ) -> float:
        """See :class:`repro.training.Trainer`."""
        snapshots = snapshots or {}
        if not batches or not all(batches) or any(not 1 <= step <= len(batches) for step in snapshots):
            raise ValueError(
                "a training call needs batches, rows in each of them, and snapshots at its own steps"
            )
        done = steps_done(inherit) if inherit else 0
        horizon = horizon or done + len(batches)
        if optimizer.schedule != "constant" and done + len(batches) > horizon:
            raise UserError(
                f"The {optimizer.schedule} schedule is over after {horizon} steps, but this training call "
                f"would go on to step {done + len(batches)}: raise its horizon."
            )

        model, tokenizer = load(model_dir)
        size = max(map(len, batches))
        accumulation = math.ceil(size / (self.micro_batch or size))
        index: dict[Row | PairRow, int] = {}
        chunks = [
            [index.setdefault(row, len(index)) for row in chunk]
            for batch in batches
            for chunk in split(batch, accumulation)
        ]
        pad = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
        plan = Plan([columns(row) for row in index], chunks, accumulation, optimizer, inherit, done, horizon)

        def save(folder: Path) -> None:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

        settings: dict[str, Any] = {
            "output_dir": str(out_dir),
            "per_device_train_batch_size": math.ceil(size / accumulation),
            "gradient_accumulation_steps": accumulation,
            "num_train_epochs": 1,
            "learning_rate": optimizer.learning_rate,
            "weight_decay": optimizer.weight_decay,
            "adam_beta1": optimizer.beta1,
            "adam_beta2": optimizer.beta2,
            "max_grad_norm": optimizer.max_grad_norm,
            "max_length": None,
            "bf16": self.dtype == "bfloat16",
            "gradient_checkpointing": self.gradient_checkpointing,
            "use_cpu": not torch.cuda.is_available(),
            "dataloader_pin_memory": False,
            "remove_unused_columns": False,
            "save_strategy": "no",
            "logging_strategy": "no",
            "logging_nan_inf_filter": False,
            "report_to": "none",
            "disable_tqdm": True,
            "seed": seed % 2**32,
        }
        parts: dict[str, Any] = {
            "plan": plan,
            "model": model,
            "train_dataset": Dataset.from_list(plan.rows[:1]),  # for TRL's checks; the rows are in the plan
            "processing_class": tokenizer,
            "callbacks": [AfterStep(plan, save, snapshots, on_step)],
        }
        trainer: PlannedTrainer
        if isinstance(objective, SFT):
            trainer = PlannedSFT(
                args=SFTConfig(**settings, dataset_kwargs={"skip_prepare_dataset": True}),
                data_collator=DataCollatorForLanguageModeling(pad),
                **parts,
            )
        else:
            trainer = PlannedDPO(
                args=DPOConfig(**settings, **dpo_settings(objective), precompute_ref_log_probs=True),
                data_collator=DataCollatorForPreference(pad),
                **parts,
            )
        trainer.train()
        save(out_dir)
        save_moments(out_dir, model, trainer.optimizer, done + len(batches))
        return sum(plan.losses) / len(plan.losses)


def load(model_dir: Path) -> tuple[Any, Any]:
    """Model, in float32, and tokenizer of a folder."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(model_dir, local_files_only=True, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot load the model in {model_dir}: {error}") from error
    return model, tokenizer


def split(batch: Sequence[Any], parts: int) -> list[Sequence[Any]]:
    """``batch`` in ``parts`` consecutive pieces of nearly equal length."""
    if len(batch) < parts:
        raise ValueError(f"a batch of {len(batch)} rows cannot be accumulated in {parts} micro-batches")
    return [batch[len(batch) * k // parts : len(batch) * (k + 1) // parts] for k in range(parts)]


def columns(row: Row | PairRow) -> dict[str, Any]:
    """A row as TRL's collators read it."""
    prompt = list(row.prompt)
    if isinstance(row, Row):
        return {"input_ids": prompt + list(row.response), "labels": [-100] * len(prompt) + list(row.response)}
    return {"prompt_ids": prompt, "chosen_ids": list(row.chosen), "rejected_ids": list(row.rejected)}


def dpo_settings(objective: DPO) -> dict[str, Any]:
    """The objective in TRL's terms.

    TRL's "sigmoid" loss A ignores label smoothing e. The smoothed loss is (1-e) A + e B, where B is A with
    the sides exchanged. TRL's "robust" loss is R = ((1-e) A - e B) / (1-2e), so ours is
    2 (1-e) A - (1-2e) R.
    """
    e = objective.label_smoothing
    kinds, weights = (["sigmoid", "robust"], [2 * (1 - e), -(1 - 2 * e)]) if e else (["sigmoid"], [1.0])
    if objective.nll_weight:
        kinds, weights = [*kinds, "sft"], [*weights, objective.nll_weight]
    return {"beta": objective.beta, "label_smoothing": e, "loss_type": kinds, "loss_weights": weights}


def save_moments(folder: Path, model: torch.nn.Module, optimizer: Any, steps: int) -> None:
    """Adam's moments under the names of their weights, and the number of steps behind them."""
    tensors = {
        f"{moment}.{name}": optimizer.state[weight][moment].contiguous()
        for name, weight in model.named_parameters()
        if weight in optimizer.state
        for moment in ("exp_avg", "exp_avg_sq")
    }
    save_file(tensors, folder / MOMENTS, metadata={"steps": str(steps)})


def steps_done(folder: Path) -> int:
    """The number of steps behind the moments in ``folder``."""
    try:
        with safe_open(folder / MOMENTS, framework="pt") as file:
            return int(file.metadata()["steps"])
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} has no readable {MOMENTS}: optimizer state can only be inherited from the output of a "
            f"training call ({error})."
        ) from error


def load_moments(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Set the state of ``optimizer`` to what :func:`save_moments` wrote."""
    with safe_open(folder / MOMENTS, framework="pt") as file:
        step = torch.tensor(float(file.metadata()["steps"]))
        names = set(file.keys())
        for name, weight in model.named_parameters():
            state = {}
            for moment in ("exp_avg", "exp_avg_sq"):
                key = f"{moment}.{name}"
                if key not in names or (value := file.get_tensor(key)).shape != weight.shape:
                    raise UserError(f"{folder / MOMENTS} belongs to another model: it has no fitting {key}.")
                state[moment] = value.to(weight.device)
            optimizer.state[weight] = {"step": step.clone().to(weight.device), **state}
