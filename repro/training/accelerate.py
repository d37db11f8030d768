"""Configurations of ``accelerate launch``, as plans and trainers read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from repro.errors import UserError

KINDS = ("NO", "MULTI_GPU", "FSDP")


@dataclass(frozen=True)
class Processes:
    """What a configuration starts: so many processes, which divide weights, gradients and moments among them
    (FSDP2), or each have a copy."""

    number: int = 1
    divided: bool = False


def processes(config: Path | None) -> Processes:
    """What training with this configuration starts; None is training in one process. Raises UserError where
    it cannot be read, or asks for what training does not work with."""
    if config is None:
        return Processes()
    key = f"training.accelerate: {config}"
    try:
        values = yaml.safe_load(config.read_text())
    except OSError as error:
        raise UserError(
            f"{key} cannot be read ({error.strerror}); name one such as those in benchmarks/accelerate"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{key} is not YAML; mend it, or write it anew with `accelerate config`") from None
    if not isinstance(values, dict):
        raise UserError(f"{key} is not a mapping of keys; write it anew with `accelerate config`")
    number, kind = values.get("num_processes", 1), values.get("distributed_type")
    if type(number) is not int or number < 1:
        raise UserError(f"{key}: num_processes is {number!r}; set it to the number of GPUs of one job")
    sharding = values.get("fsdp_config")
    second = isinstance(sharding, dict) and sharding.get("fsdp_version") == 2
    if kind not in KINDS or (kind == "FSDP" and not second):
        raise UserError(
            f"{key}: distributed_type {kind!r} is not supported; use MULTI_GPU, or FSDP with "
            "fsdp_config.fsdp_version 2, as in benchmarks/accelerate"
        )
    return Processes(number, kind == "FSDP")
