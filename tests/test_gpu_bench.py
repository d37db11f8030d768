"""The benchmark of a GPU, tried where there is none: every measurement runs, or says what it lacks."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from repro.planning.hardware import GPUS

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "benchmarks" / "gpu" / "bench.py"


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # From a bare checkout, with nothing but its path.
    where = {
        "PYTHONPATH": str(ROOT),
        "PATH": "/usr/bin:/bin",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(BENCH), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=where | environment, timeout=900)


@pytest.mark.slow
def test_every_measurement_is_made_without_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.md"
    done = bench("--device", "cpu", "--shape", "tiny", "--minutes", "14", "--out", str(out))
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    left = re.findall(r"^\| (\w+) \|  \|  \| (.*) \|$", text, re.MULTILINE)
    assert {name for name, _ in left} <= {"vllm_sampler", "fsdp"}, left
    assert "| ledger / kernels, forward and backward | 1 |" in text  # but for the rotary table
    assert "| killed and resumed: largest difference of a weight | 0 |" in text
    assert "transformers sampler: roofline" in text and "DPO: speed" in text
    gap = re.search(r"padding-free: first loss against padded \| (\S+) \|", text)
    assert gap and float(gap[1]) < 1e-5  # the same rows


@pytest.mark.slow
def test_what_a_machine_lacks_is_said_and_the_rest_measured(tmp_path: Path) -> None:
    """Without TRL no measurement that trains, and all the others."""
    (tmp_path / "trl.py").write_text('raise ModuleNotFoundError("No module named \'trl\'", name="trl")\n')
    out = tmp_path / "gpu.md"
    path = f"{tmp_path}:{ROOT}"
    done = bench("--device", "cpu", "--shape", "tiny", "--minutes", "14", "--out", str(out), PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    for name in ("sft", "sft_padding_free", "dpo"):
        assert f"| {name} |  |  | left out: needs trl, which is not installed |" in text
    assert "| resume |  |  | not measured: a training process ended with 1: ModuleNotFoundError" in text
    assert "transformers sampler: roofline" in text and "bfloat16, sampler against trainer" in text


@pytest.mark.slow
def test_time_that_is_over_is_said(tmp_path: Path) -> None:
    out = tmp_path / "gpu.md"
    assert bench("--device", "cpu", "--shape", "tiny", "--minutes", "0", "--out", str(out)).returncode == 0
    assert out.read_text().count("left out: the time was over") == 11


@pytest.mark.slow
def test_a_machine_without_a_gpu_is_told_so() -> None:
    done = bench()
    assert (
        done.returncode == 1 and "torch finds no GPU here" in done.stderr and "Traceback" not in done.stderr
    )


@pytest.fixture(scope="module")
def module() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_bench", BENCH)
    assert spec and spec.loader
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


def test_every_gpu_of_the_plan_has_a_peak_to_be_measured_against(module: Any) -> None:
    assert {*module.KNOWN.values()} == {*GPUS}


def test_what_is_said_of_a_failed_process_is_its_last_error(module: Any) -> None:
    said = """[rank0]: Traceback (most recent call last):
[rank0]:     raise ValueError("no")
[rank0]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.
Traceback (most recent call last):
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
"""
    assert module.last_error(said) == "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB."
    assert module.last_error("Killed\n") == ""


def test_a_measurement_that_cannot_be_made_says_why(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def says(error: Exception) -> str:
        def measure(bench: Any) -> None:
            raise error

        return str(module.measured(None, measure, 60))

    assert says(ModuleNotFoundError("x", name="peft")) == "left out: needs peft, which is not installed"
    assert says(TimeoutError("the time was over")) == "left out: the time was over"
    assert (
        says(RuntimeError("CUDA out of memory | 2 GiB\nmore")) == "not measured: CUDA out of memory / 2 GiB"
    )
    assert says(AssertionError()) == "not measured: AssertionError"
    assert module.measured(None, lambda bench: None, 60) == ""
    assert module.measured(None, lambda bench: sleep(60), 0.1) == "left out: the time was over"
