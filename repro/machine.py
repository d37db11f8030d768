"""What the machine takes: seconds, and joules where NVML counts them. Facts of a machine, not of a method."""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any


class Meter:
    """Seconds and joules by account, since they were last taken."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._joules: dict[str, float] = defaultdict(float)

    @contextmanager
    def clock(self, account: str) -> Iterator[None]:
        """Count what happens inside to ``account``."""
        started, energy = perf_counter(), joules()
        yield
        self._seconds[account] += perf_counter() - started
        if energy is not None and (now := joules()) is not None:
            self._joules[account] += now - energy

    def take(self) -> dict[str, Any]:
        """``device``, and ``seconds`` and ``joules`` by account (these only where they are measured)."""
        taken = {"device": device(), "seconds": _rounded(self._seconds), "joules": _rounded(self._joules)}
        self._seconds.clear()
        self._joules.clear()
        return taken


def _rounded(amounts: dict[str, float]) -> dict[str, float]:
    return {account: round(amount, 3) for account, amount in amounts.items()}


@cache
def device() -> str:
    """The GPUs this process sees, by name, else the processor."""
    return gpus() or processor()


@cache
def gpus() -> str:
    """The GPUs this process sees, by name; "" for none."""
    import torch

    if not torch.cuda.is_available():
        return ""
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return " + ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def joules() -> float | None:
    """Energy that the visible GPUs have used since their driver was loaded; None where nothing counts it."""
    handles = _handles()
    if not handles:
        return None
    import pynvml

    try:
        return sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles) / 1000
    except pynvml.NVMLError:  # a GPU older than Volta
        return None


@cache
def _handles() -> list[Any]:
    """NVML's handles of the GPUs that this process sees."""
    try:
        import pynvml  # of nvidia-ml-py, in the extra `gpu`

        pynvml.nvmlInit()
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        if named is None:
            return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        devices = [device.strip() for device in named.split(",") if device.strip() not in ("", "-1")]
        return [
            pynvml.nvmlDeviceGetHandleByIndex(int(one)) if one.isdigit()
            else pynvml.nvmlDeviceGetHandleByUUID(one)
            for one in devices
        ]  # fmt: skip
    except Exception:  # not installed, no driver, no GPU: there is nothing to count with
        return []
