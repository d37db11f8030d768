"""What the machine takes: seconds always, joules where something counts them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from repro import machine
from repro.machine import Meter


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    machine._handles.cache_clear()
    yield
    machine._handles.cache_clear()


class Nvml(ModuleType):
    """NVML with three GPUs, of which each has used ten joules more at every look."""

    class NVMLError(Exception):
        pass

    def __init__(self, broken: bool = False) -> None:
        super().__init__("pynvml")
        self.broken, self.looks = broken, dict.fromkeys(["0", "1", "2"], 0)

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return 3

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return str(index)

    def nvmlDeviceGetHandleByUUID(self, name: str) -> str:
        return name.removeprefix("GPU-")

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        if self.broken:
            raise self.NVMLError
        self.looks[handle] += 1
        return 10_000 * self.looks[handle]


@pytest.mark.parametrize(("visible", "gpus"), [(None, 3), ("1", 1), ("0,GPU-2", 2), ("", 0), ("-1", 0)])
def test_joules_are_of_the_gpus_that_are_seen(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, gpus: int
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    meter = Meter()
    for account in ("train", "sample", "train"):
        with meter.clock(account):
            pass
    taken = meter.take()
    assert taken["joules"] == ({"train": 20.0 * gpus, "sample": 10.0 * gpus} if gpus else {})
    assert set(taken["seconds"]) == {"train", "sample"} and taken["device"]
    assert meter.take() == {**taken, "seconds": {}, "joules": {}}  # what was taken is taken once


@pytest.mark.parametrize("nvml", [None, Nvml(broken=True)])
def test_what_nothing_counts_is_left_out(monkeypatch: pytest.MonkeyPatch, nvml: ModuleType | None) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)  # None: as if it were not installed
    meter = Meter()
    with meter.clock("train"):
        pass
    assert meter.take()["joules"] == {}
