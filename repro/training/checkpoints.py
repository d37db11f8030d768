"""What trainers read and write: model folders, adapters, Adam's moments, and the state of a call under way.

A model folder is always whole: with LoRA it holds the merged weights, so that samplers and evaluators need
not know. Beside them, out of the sight of engines that load every safetensors file at the top, lie

- ``optimizer/moments.safetensors``: Adam's moments under the names of their weights, and the step count;
- ``adapter/``: the adapter in peft's format. Its ``base_model_name_or_path`` leads, relative to ``adapter/``,
  to the model folder that it adapts, so that a work folder can be moved as one.

Parameters may be shards of several processes (FSDP2): what is written is gathered first.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from repro import files
from repro.errors import UserError
from repro.models import loading, pretrained
from repro.training import newest_state

MOMENTS = "optimizer/moments.safetensors"
ADAPTER, ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter", "adapter_model.safetensors", "adapter_config.json"
STATE, STATE_WEIGHTS = "state.json", "weights.safetensors"
KINDS = ("exp_avg", "exp_avg_sq")  # Adam's two moments
Tensors = dict[str, torch.Tensor]


def load_model(folder: Path, attention: str | None = None) -> tuple[Any, Any]:
    """Model, in float32, and tokenizer of a folder."""
    with loading(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = pretrained(AutoModelForCausalLM, folder, dtype=torch.float32, attn_implementation=attention)
    return model, tokenizer


# -- tensors ---------------------------------------------------------------------------------------------


def gathered(tensors: Iterator[tuple[str, torch.Tensor]], keep: bool) -> Tensors:
    """The tensors, whole; all processes take part, and those that do not ``keep`` them get none."""
    found = {}
    for name, tensor in tensors:
        if isinstance(tensor, DTensor):
            tensor = tensor.full_tensor().cpu()
        if keep:
            found[name] = tensor.detach().contiguous()
    return found


def like(weight: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """``value`` where ``weight`` is, and sharded as it."""
    value = value.to(weight.device)
    return (
        distribute_tensor(value, weight.device_mesh, weight.placements)
        if isinstance(weight, DTensor)
        else value
    )


def trained(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters that are trained, under the names they are stored by (of an adapter: peft's)."""
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            yield name.replace(".default.", "."), weight


def load_trained(model: torch.nn.Module, path: Path) -> None:
    """Set the parameters that are trained to what is stored."""
    with safe_open(path, framework="pt") as file, torch.no_grad():
        names = set(file.keys())
        for name, weight in trained(model):
            if name not in names or (value := file.get_tensor(name)).shape != weight.shape:
                raise UserError(f"{path} belongs to another model: it has no fitting {name}.")
            weight.copy_(like(weight, value))


# -- Adam's moments --------------------------------------------------------------------------------------


def moments(model: torch.nn.Module, optimizer: Any, keep: bool) -> Tensors:
    """Adam's moments, gathered."""
    return gathered(
        (
            (f"{kind}.{name}", optimizer.state[weight][kind])
            for name, weight in trained(model)
            for kind in KINDS
            if weight in optimizer.state
        ),
        keep,
    )


def save_moments(folder: Path, tensors: Tensors, steps: int) -> None:
    """Write :func:`moments` with the number of steps behind them."""
    (folder / MOMENTS).parent.mkdir(exist_ok=True)
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


def load_moments(folder: Path, model: torch.nn.Module, optimizer: Any) -> None:
    """Set the state of ``optimizer`` to what :func:`save_moments` wrote."""
    step = torch.tensor(float(steps_done(folder)))
    with safe_open(folder / MOMENTS, framework="pt") as file:
        names = set(file.keys())
        for name, weight in trained(model):
            state = {}
            for kind in KINDS:
                key = f"{kind}.{name}"
                if key not in names or (value := file.get_tensor(key)).shape != weight.shape:
                    raise UserError(f"{folder / MOMENTS} belongs to another model: it has no fitting {key}.")
                state[kind] = like(weight, value)
            optimizer.state[weight] = {"step": step.clone().to(weight.device), **state}


# -- model folders ---------------------------------------------------------------------------------------


def base_of(folder: Path) -> Path | None:
    """The model folder that the adapter in ``folder`` adapts; None where there is no adapter."""
    path = folder / ADAPTER / ADAPTER_CONFIG
    if not path.is_file():
        return None
    config = files.read_json(path, keys=("base_model_name_or_path",))
    base = (path.parent / config["base_model_name_or_path"]).resolve()
    if not (base / "config.json").is_file():
        raise UserError(f"{path} adapts the model in {base}, which is not there: put it back, or train anew.")
    return base


def save_model(
    folder: Path, model: Any, tokenizer: Any, weights: Mapping[str, torch.Tensor], base: Path
) -> None:
    """Write a model folder of gathered ``weights``; with LoRA merged, and with the adapter of ``base``."""
    tokenizer.save_pretrained(folder)
    if not hasattr(model, "peft_config"):
        model.save_pretrained(folder, state_dict=dict(weights))
        return
    config = model.peft_config["default"]
    model.get_base_model().save_pretrained(folder, state_dict=merged(weights, config.lora_alpha / config.r))
    adapter = folder / ADAPTER
    adapter.mkdir(exist_ok=True)
    lora = {name.replace(".default.", "."): weight for name, weight in weights.items() if ".lora_" in name}
    save_file(lora, adapter / ADAPTER_WEIGHTS)
    facts = {name: sorted(v) if isinstance(v, set) else v for name, v in config.to_dict().items()}
    files.write_json(
        adapter / ADAPTER_CONFIG,
        facts | {"base_model_name_or_path": os.path.relpath(base.resolve(), adapter.resolve())},
    )


def merged(weights: Mapping[str, torch.Tensor], scale: float) -> Tensors:
    """The weights of the model without adapters, W + scale * B A, under its own names."""
    found = {}
    for name, weight in weights.items():
        if ".lora_" in name:
            continue
        if name.endswith(".base_layer.weight"):
            layer = name.removesuffix(".base_layer.weight")
            a, b = (weights[f"{layer}.lora_{side}.default.weight"].cpu() for side in "AB")
            weight = weight.cpu() + scale * (b @ a)
        found[name.removeprefix("base_model.model.").replace(".base_layer.", ".")] = weight
    return found


# -- a call under way ------------------------------------------------------------------------------------


def save_state(folder: Path, step: int, weights: Tensors, optimizer: Tensors, steps: int, facts: Any) -> None:
    """Write the state of a call after ``step`` of its steps, in place of earlier ones. ``steps``: in all."""
    with files.building(folder / f"{step:06d}") as state:
        save_file(weights, state / STATE_WEIGHTS)
        save_moments(state, optimizer, steps)
        files.write_json(state / STATE, facts)
    for old in folder.glob("[0-9]*"):
        if int(old.name) < step:
            shutil.rmtree(old, ignore_errors=True)


def load_state(folder: Path | None) -> tuple[Path | None, Any]:
    """The newest whole state in ``folder``, if any, and its facts."""
    state = newest_state(folder) if folder else None
    return state, files.read_json(state / STATE) if state else {}
