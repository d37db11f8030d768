"""Training with TRL's ``SFTTrainer``, ``DPOTrainer`` and ``GRPOTrainer``.

TRL owns the losses and the step. What is overridden is what a reproducible suite decides itself: which rows
make a step, how moments and schedule carry over, what is written, and that a loss must be finite.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.utils import is_flash_attn_2_available
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer
from trl.models import prepare_fsdp
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
from trl.trainer.utils import add_fused_lm_head, pad

from repro import files
from repro.config import LoRA
from repro.errors import RunFailed, UserError
from repro.objectives import DPO, Objective, Optimizer, PolicyGradient
from repro.seeds import stream_seed
from repro.training import Row, Trained, checkpoints, learning_rate_factor
from repro.training.plan import BASE, DPO_REFERENCE, OLD, STARTS, Plan, references


@dataclass
class Output:
    """Where a call writes, and for whom."""

    tokenizer: Any
    base: Path  # what an adapter adapts
    reference: Path | None  # the run's base model
    snapshots: Mapping[int, Path]
    states: Path | None
    save_every: int | None
    keep_state: bool
    on_step: Callable[[int, float], None] | None


class PlannedTrainer(Trainer):
    """What all of TRL's trainers do otherwise here, in each of the processes."""

    model: Any
    optimizer: Any
    _metrics: Any  # TRL's: mode -> name -> a value for each micro-batch

    def __init__(
        self, plan: Plan, output: Output, inherit: Path | None, resumed: Path | None, **kwargs: Any
    ) -> None:
        self.plan, self.output, self.inherit, self.resumed = plan, output, inherit, resumed
        super().__init__(**kwargs)
        self.remove_callback(PrinterCallback)
        self.add_callback(Hooks(self))
        self.processing_class = None  # else `train` rewrites the model's special tokens after the tokenizer's

    def _send_telemetry(self) -> None:
        """Nothing leaves the machine."""

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # the ledger's business

    def get_train_dataloader(self) -> DataLoader:
        rows = [*self.plan.rows, self.plan.filler]
        chunks = self.plan.chunks(self.accelerator.process_index)
        return DataLoader(rows, batch_sampler=chunks, collate_fn=self.data_collator)  # type: ignore[arg-type]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        plan = self.plan
        done = plan.before + plan.resumed
        self.lr_scheduler = LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(done + step, plan.optimizer, plan.horizon)
        )
        return self.lr_scheduler

    @property
    def step(self) -> int:
        """Steps of this call that are done."""
        return self.plan.resumed + self.state.global_step

    def begin(self) -> None:
        """What comes before the first step, once model and optimizer are where they will be trained: the
        log-probabilities under models that stay as they are, too."""
        self.model.eval()
        plan = self.plan
        if not plan.start:
            first = next(plan.first_visits())[:STARTS]
            found = self.scored(self.model_wrapped, first)
            plan.start = [[sum(values) for values in responses] for _, responses in found]
        self.refer()
        if self.resumed is not None:
            checkpoints.load_trained(self.model, self.resumed / checkpoints.STATE_WEIGHTS)
        if moments := self.resumed or self.inherit:
            checkpoints.load_moments(moments, self.model, self.optimizer)

    def refer(self) -> None:
        """Give the plan's rows their columns of :func:`repro.training.plan.references`."""

    def log_probabilities(self, model: Any, rows: list[dict[str, Any]]) -> Sequence[torch.Tensor]:
        """Of each response of the rows: ``[rows, tokens]``, or ``[rows, 1]`` where only sums are needed."""
        raise NotImplementedError

    def scored(
        self, model: Any, rows: list[dict[str, Any]]
    ) -> Iterator[tuple[dict[str, Any], list[list[float]]]]:
        """The rows with the log-probabilities of their responses, in passes that all processes share."""
        size, process = self.plan.micro_batch, self.accelerator.process_index
        together = size * self.plan.processes
        for start in range(0, len(rows), together):
            part = rows[start : start + together]
            own = part[process * size : (process + 1) * size]
            if together > size:
                own = own + [self.plan.filler] * (size - len(own))
            with torch.no_grad(), self.accelerator.autocast():
                found = self.log_probabilities(model, own)
            padded = [self.accelerator.pad_across_processes(each, dim=1) for each in found]
            responses = [self.accelerator.gather(each).tolist() for each in padded]
            yield from zip(part, map(list, zip(*responses, strict=True)), strict=False)  # filler comes last

    def unvisited(self, model: Any, column: str) -> Iterator[tuple[dict[str, Any], list[list[float]]]]:
        """:meth:`scored` of the rows that have no such column, others came with the state: those that a step
        is the first to visit together, so that a longer call computes the same."""
        for new in self.plan.first_visits():
            yield from self.scored(model, [row for row in new if column not in row])

    def watch(self, monitor: str, metric: str, share: float) -> None:
        """Add to a monitor of this step what TRL measured on the micro-batch; ``share`` as the plan's."""
        part = self._metrics["train"][metric][-1] * share / self.plan.accumulation
        self.plan.monitors[monitor] = self.plan.monitors.get(monitor, 0.0) + part

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if len(self.plan.losses) == self.step:
            self.plan.losses.append(0.0)
            self.plan.monitors = {}
        loss = super().training_step(*args, **kwargs)
        self.plan.losses[self.step] += loss.item()
        self._require_finite("loss", self.plan.losses[self.step])
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        self._require_finite("gradient norm", float(norm))
        return norm

    def _require_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise RunFailed(
                f"The {what} is {value} at step {self.step + 1} of this training call: "
                "lower the learning rate, or check the starting weights."
            )

    def end_step(self) -> None:
        plan, output, step = self.plan, self.output, self.step
        if plan.processes > 1:
            loss = torch.tensor(plan.losses[-1], device=self.accelerator.device)
            plan.losses[-1] = self.accelerator.reduce(loss, "mean").item()
        if step in output.snapshots:
            with self.building(output.snapshots[step]) as folder:
                self.save(folder)
        last = step == len(plan.steps)
        due = output.keep_state if last else output.save_every and step % output.save_every == 0
        if output.states and due:
            self.save_state(output.states)
        if output.on_step and self.accelerator.is_main_process:
            output.on_step(step, plan.losses[-1])

    # All processes take part in what the first one writes: they may hold shards of it.

    @contextmanager
    def building(self, folder: Path) -> Iterator[Path]:
        """A folder that the first process seals once all have filled it."""
        if self.accelerator.is_main_process:
            with files.building(folder) as unfinished:
                yield unfinished
        else:
            yield folder
        self.accelerator.wait_for_everyone()

    def save(self, folder: Path, moments: bool = False) -> None:
        """Write a model folder."""
        main = self.accelerator.is_main_process
        model = self.accelerator.unwrap_model(self.model)
        weights = checkpoints.gathered(model.named_parameters(), main)
        optimizer = checkpoints.moments(model, self.optimizer, main) if moments else {}
        if main:
            checkpoints.save_model(folder, model, self.output.tokenizer, weights, self.output.base)
        if main and moments:
            checkpoints.save_moments(folder, optimizer, self.plan.before + self.step)
        self.accelerator.wait_for_everyone()

    def save_state(self, folder: Path) -> None:
        """Write what a call needs to go on from here."""
        main = self.accelerator.is_main_process
        model = self.accelerator.unwrap_model(self.model)
        weights = checkpoints.gathered(checkpoints.trained(model), main)
        optimizer = checkpoints.moments(model, self.optimizer, main)
        if main:
            steps = self.plan.before + self.step
            checkpoints.save_state(folder, self.step, weights, optimizer, steps, self.plan.facts())
        self.accelerator.wait_for_everyone()


class Hooks(TrainerCallback):
    def __init__(self, trainer: PlannedTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.begin()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # So that dropout does not depend on what this process did before
        process = self.trainer.accelerator.process_index
        torch.manual_seed(stream_seed(self.trainer.plan.seed, self.trainer.step, process) % 2**63)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.end_step()


class PlannedSFT(PlannedTrainer, SFTTrainer):
    def log_probabilities(self, model: Any, rows: list[dict[str, Any]]) -> Sequence[torch.Tensor]:
        inputs = self._prepare_inputs(DataCollatorForLanguageModeling(self.plan.pad)(rows))
        return [model(**inputs, use_cache=False, fused_lm_head=True).log_probs.sum(dim=1, keepdim=True)]


class PlannedDPO(PlannedTrainer, DPOTrainer):
    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        return dataset  # token ids already

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        return dataset  # see `refer`; TRL goes through a file that outlives the call

    def begin(self) -> None:
        self._shares = iter(self.plan.shares(self.accelerator.process_index))
        self._terms = list(zip(self.loss_types, self.loss_weights, strict=True))
        super().begin()

    def refer(self) -> None:
        for row, sides in self.unvisited(self.model_wrapped, DPO_REFERENCE[0]):
            row.update(zip(DPO_REFERENCE, (value for (value,) in sides), strict=True))

    def log_probabilities(self, model: Any, rows: list[dict[str, Any]]) -> Sequence[torch.Tensor]:
        missing = dict.fromkeys(DPO_REFERENCE, 0.0)  # which the collator wants of all rows or of none
        inputs = self._prepare_inputs(self.data_collator([missing | row for row in rows]))
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100),
            use_cache=False,
            fused_lm_head=True,
        )
        return outputs.log_probs.sum(dim=1, keepdim=True).chunk(2)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        rows, filler, tokens = next(self._shares)
        # TRL's "sft" is a mean over tokens, of which a micro-batch of nothing but filler has none.
        terms = [
            (kind, weight * (tokens if kind == "sft" else rows))
            for kind, weight in self._terms
            if tokens or kind != "sft"
        ]
        self.loss_types, self.loss_weights = map(list, zip(*terms, strict=True))
        seen = []

        def watched(**kwargs: Any) -> Any:
            seen.append(model(**kwargs))
            return seen[-1]

        loss = super().compute_loss(watched, inputs, *args, **kwargs)
        objective: Any = self.plan.objective
        if objective.nll_normalization == "sequence":  # which TRL does not have
            chosen = seen[0].log_probs.chunk(2)[0].sum(dim=1)
            lengths = inputs["completion_mask"].chunk(2)[0].sum(dim=1).clamp(min=1)
            loss = loss - objective.nll_weight * rows * (chosen / lengths).mean()
        self.watch("chosen_log_probability", "logps/chosen", rows)
        self.watch("rejected_log_probability", "logps/rejected", rows)
        self.watch("chosen_drift", "rewards/chosen", rows / self.beta)
        self.watch("rejected_drift", "rewards/rejected", rows / self.beta)
        self.watch("reward_margin", "rewards/margins", rows)
        self.watch("reward_accuracy", "rewards/accuracies", rows)
        return loss - filler * math.log(2)  # which is the loss of a pair without a margin


class PlannedPolicyGradient(PlannedTrainer, GRPOTrainer):
    """TRL's loss on completions that the call is given; it samples and rewards none itself."""

    objective: Any

    def __init__(self, data_collator: Any, **kwargs: Any) -> None:
        super().__init__(reward_funcs=_no_reward, **kwargs)
        self.data_collator = data_collator
        self.objective = self.plan.objective
        self.beta = self.objective.kl  # not before: TRL would load a reference of its own

    def _prepare_inputs(self, inputs: Any) -> Any:
        return Trainer._prepare_inputs(self, inputs)  # and nothing is sampled

    def begin(self) -> None:
        processes = range(self.plan.processes)
        self._shares = iter(zip(*map(self.plan.shares, processes), strict=True))
        super().begin()

    def refer(self) -> None:
        if self.objective.clips:
            self._write(self.model_wrapped, OLD)
        if self.objective.kl and any(BASE not in row for row in self.plan.rows):
            assert self.output.reference is not None
            model, _ = checkpoints.load_model(self.output.reference)
            add_fused_lm_head(model, outputs=("log_probs", "entropy"))
            if self.is_fsdp_enabled:
                model = prepare_fsdp(model, self.accelerator)
            else:
                model = self.accelerator.prepare_model(model, evaluation_mode=True)
            self._write(model.eval(), BASE)

    def _write(self, model: Any, name: str) -> None:
        for row, (values,) in self.unvisited(model, name):
            row[name] = values[: len(row["completion_ids"])]

    def log_probabilities(self, model: Any, rows: list[dict[str, Any]]) -> Sequence[torch.Tensor]:
        inputs = self._prepare_inputs(collate(rows, self.plan.pad))
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        width = inputs["completion_ids"].size(1)
        return [self._get_per_token_logps_and_entropies(model, ids, mask, width)[0]]

    def compute_loss(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        shares = next(self._shares)
        rows, _, tokens = shares[self.accelerator.process_index]
        loss = super().compute_loss(*args, **kwargs)
        together = sum(tokens for _, _, tokens in shares) / len(shares)
        self.watch("clipped", "clip_ratio/region_mean", together)
        if self.objective.kl:
            self.watch("kl", "kl", together)
        # Of TRL's normalisations by the micro-batch, what they are by the step's rows or tokens
        return loss * (tokens if self.objective.normalization == "token" else rows)


def _no_reward(**kwargs: Any) -> list[float]:
    raise NotImplementedError("the weights of examples are their advantages")


def collate(rows: list[dict[str, Any]], token: int, columns: Sequence[str] = ()) -> dict[str, torch.Tensor]:
    """A batch as ``GRPOTrainer`` makes it: prompts are padded on the left, completions and ``columns`` of a
    number for each of their tokens on the right."""

    def padded(name: str, value: int, side: str) -> torch.Tensor:
        return pad([torch.tensor(row[name]) for row in rows], padding_value=value, padding_side=side)

    return {
        "prompt_ids": padded("prompt_ids", token, "left"),
        "prompt_mask": padded("prompt_mask", 0, "left"),
        "completion_ids": padded("completion_ids", token, "right"),
        "completion_mask": padded("completion_mask", 0, "right"),
        "advantages": torch.tensor([row["advantages"] for row in rows]),
        **{name: padded(name, 0, "right") for name in columns},
    }


@dataclass(frozen=True)
class TRLTrainer:
    """:class:`repro.training.Trainer` in this process, or, under ``accelerate launch``, in several alike.

    Fields as in :class:`repro.config.Training`. Weights and moments are always float32; ``bfloat16``
    autocasts the passes. ``micro_batch``, ``gradient_checkpointing``, ``padding_free`` and the number of
    processes bound memory and leave the result unchanged, up to rounding. Only SFT has padding-free passes
    (TRL 1.16 pads pairs, and what it weighs) and dropout of adapters.
    """

    micro_batch: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    padding_free: bool = False
    lora: LoRA | None = None
    save_every: int | None = None

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
        """See :class:`repro.training.Trainer`."""
        _spare_libraries()
        snapshots = snapshots or {}
        if not batches or not all(batches) or any(not 1 <= step <= len(batches) for step in snapshots):
            raise ValueError(
                "a training call needs batches, rows in each of them, and snapshots at its own steps"
            )
        if isinstance(objective, PolicyGradient) and objective.kl and base is None:
            raise ValueError("a policy gradient with kl needs the base model")
        before = checkpoints.steps_done(inherit) if inherit else 0
        horizon = horizon or before + len(batches)
        if optimizer.schedule != "constant" and before + len(batches) > horizon:
            raise UserError(
                f"The {optimizer.schedule} schedule is over after {horizon} steps, but this training call "
                f"would go on to step {before + len(batches)}: raise its horizon."
            )

        adapted = (self.lora and checkpoints.base_of(model_dir)) or model_dir
        varlen = self.padding_free and self.dtype == "bfloat16" and is_flash_attn_2_available()
        model, tokenizer = checkpoints.load_model(adapted, "flash_attention_2" if varlen else None)
        filling = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
        processes = PartialState(cpu=not torch.cuda.is_available()).num_processes
        plan = Plan.of(
            batches, self.micro_batch, processes, filling, optimizer, seed, before, horizon, objective
        )
        state, facts = checkpoints.load_state(states)
        if state and processes > 1 and len(facts["losses"]) == len(batches):
            state = None  # nothing would divide the model among the processes: the call is made again
        if state:
            plan.resume(**facts)
        parts: dict[str, Any] = {
            "plan": plan,
            "output": Output(
                tokenizer, adapted, base, snapshots, states, self.save_every, keep_state, on_step
            ),
            "inherit": inherit,
            "resumed": state,
            "model": model,
            "peft_config": self._adapter(),
            "train_dataset": Dataset.from_list(plan.rows[:1]),  # for TRL's checks; the rows are in the plan
            "processing_class": tokenizer,
        }
        settings = self._settings(plan, out_dir)
        trainer: PlannedTrainer
        if isinstance(objective, DPO):
            trainer = PlannedDPO(
                args=DPOConfig(
                    **settings, **dpo_settings(objective), max_length=None, precompute_ref_log_probs=True
                ),
                data_collator=DataCollatorForPreference(filling),
                **parts,
            )
        elif isinstance(objective, PolicyGradient):
            trainer = PlannedPolicyGradient(
                args=GRPOConfig(**settings, **grpo_settings(objective, plan)),
                data_collator=partial(collate, token=filling, columns=references(objective)),
                **parts,
            )
        else:
            trainer = PlannedSFT(
                args=SFTConfig(**settings, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}),
                data_collator=DataCollatorForLanguageModeling(filling, padding_free=self.padding_free),
                **parts,
            )
        if adapted != model_dir:  # the adapter of an earlier call goes on
            checkpoints.load_trained(
                trainer.model, model_dir / checkpoints.ADAPTER / checkpoints.ADAPTER_WEIGHTS
            )
        if plan.resumed < len(plan.steps):
            trainer.train()
        else:  # killed after its last step: all that is left is to write the model
            trainer.create_optimizer()
            trainer.begin()
        trainer.save(out_dir, moments=True)
        start = [(row, tuple(values)) for row, values in zip(plan.distinct, plan.start, strict=False)]
        return Trained(sum(plan.losses) / len(plan.losses), plan.monitors, start)

    def _adapter(self) -> LoraConfig | None:
        if self.lora is None:
            return None
        return LoraConfig(
            task_type="CAUSAL_LM",
            target_modules="all-linear",  # but for the LM head
            r=self.lora.rank,
            lora_alpha=self.lora.alpha,  # type: ignore[arg-type]
            lora_dropout=self.lora.dropout,
        )

    def _settings(self, plan: Plan, out_dir: Path) -> dict[str, Any]:
        """The Trainer's settings. What it must not do is said as well, for it does much by default."""
        return {
            "output_dir": str(out_dir),
            "per_device_train_batch_size": plan.micro_batch,
            "gradient_accumulation_steps": plan.accumulation,
            "num_train_epochs": 1,
            "learning_rate": plan.optimizer.learning_rate,
            "weight_decay": plan.optimizer.weight_decay,
            "adam_beta1": plan.optimizer.beta1,
            "adam_beta2": plan.optimizer.beta2,
            "max_grad_norm": plan.optimizer.max_grad_norm,
            "router_aux_loss_coef": 0.0,  # an objective is its paper's: none balances experts
            "bf16": self.dtype == "bfloat16",
            "gradient_checkpointing": self.gradient_checkpointing,
            "use_cpu": not torch.cuda.is_available(),
            "ddp_find_unused_parameters": False,
            "dataloader_pin_memory": False,
            "remove_unused_columns": False,
            "save_strategy": "no",
            "logging_strategy": "no",
            "logging_nan_inf_filter": False,
            "report_to": "none",
            "disable_tqdm": True,
            "seed": plan.seed % 2**32,
        }


@cache
def _spare_libraries() -> None:
    """Leave what this process has loaded by now out of garbage collections: going through it is most of what
    a call of one step costs, of which some methods make hundreds."""
    gc.collect()
    gc.freeze()


def dpo_settings(objective: DPO) -> dict[str, Any]:
    """The objective in TRL's terms.

    TRL's "sigmoid" loss A ignores label smoothing e. The smoothed loss is (1-e) A + e B, where B is A with
    the sides exchanged. TRL's "robust" loss is R = ((1-e) A - e B) / (1-2e), so ours is
    2 (1-e) A - (1-2e) R.
    """
    e = objective.label_smoothing
    kinds, weights = (["sigmoid", "robust"], [2 * (1 - e), -(1 - 2 * e)]) if e else (["sigmoid"], [1.0])
    if objective.nll_weight and objective.nll_normalization == "token":
        kinds, weights = [*kinds, "sft"], [*weights, objective.nll_weight]
    return {"beta": objective.beta, "label_smoothing": e, "loss_type": kinds, "loss_weights": weights}


def grpo_settings(objective: PolicyGradient, plan: Plan) -> dict[str, Any]:
    """The objective in TRL's terms. Without clipping TRL's ratio is to the policy itself: it is 1, and its
    gradient that of the log-probability.

    TRL wants whole groups of generations to sample; as nothing is sampled, any number will do.
    """
    kinds = {"sequence": "grpo", "token": "bnpo", "constant": "dr_grpo"}
    low, high = (objective.clip_low, objective.clip_high) if objective.clips else (math.inf, math.inf)
    return {
        "loss_type": kinds[objective.normalization],
        "max_completion_length": objective.max_tokens,
        "epsilon": low,
        "epsilon_high": high,
        "beta": 0.0,
        "use_bias_correction_kl": False,  # of the ratio, which GRPO does not have
        "disable_dropout": True,
        "num_generations": 2,
        "generation_batch_size": 2 * plan.micro_batch * plan.processes,
    }
