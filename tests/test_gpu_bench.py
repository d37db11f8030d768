"""The benchmark of a GPU, tried where there is none: every measurement runs, or says what it lacks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

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
    done = bench("--device", "cpu", "--shape", "tiny", "--out", str(out))
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    left = re.findall(r"^\| (\w+) \|  \|  \| (.*) \|$", text, re.MULTILINE)
    assert {name for name, _ in left} <= {"vllm_sampler", "fsdp"}, left
    assert "| ledger / kernels, SFT step | 1 |" in text  # torch counts a little more: the rotary table
    assert "| killed and resumed: largest difference of a weight | 0 |" in text
    assert "transformers sampler: roofline" in text and "DPO: speed" in text


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
