"""Portable numerics: that they are settled in time, refused where they cannot be, and the same bits here as
on the machine whose digests are on record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_config import load

from repro import numerics
from repro.config import load_study
from repro.errors import UserError
from repro.identity import libraries

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).with_name("smoke_digests.json")
SMOKE = ROOT / "benchmarks" / "studies" / "smoke.yaml"
METHOD = "sai_dpo"  # samples, clusters, and learns from pairs
# What a machine might say otherwise, and what another processor would choose by itself.
HOSTILE = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "AVX2",
    "OMP_NUM_THREADS": "2",
    "MKL_NUM_THREADS": "2",
}


def python(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    settled = dict.fromkeys(numerics.PORTABLE)
    inherited = {name: value for name, value in os.environ.items() if name not in settled}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=inherited | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
    )


def able() -> bool:
    return numerics.capability() in numerics.CAPABLE


@pytest.mark.skipif(not able(), reason="portable numerics need an x86-64 processor with AVX2")
def test_what_is_settled_before_torch_holds_whatever_the_environment_says() -> None:
    script = (
        "from repro.numerics import capability, check, settle; settle('portable'); check('portable');"
        "import torch; print(capability(), torch.get_num_threads())"
    )
    assert python("-c", script, **HOSTILE).stdout.split() == ["AVX2", "1"]


@pytest.mark.parametrize("said", [{}, numerics.LIBRARIES])
def test_portable_numerics_that_were_not_settled_are_refused(said: dict[str, str]) -> None:
    late = "must be settled before numpy and torch are loaded"
    script = "from repro.numerics import check, settle; {}('portable')"
    assert late in python("-c", script.format("check"), OMP_NUM_THREADS="1", **said).stderr
    assert late in python("-c", "import numpy;" + script.format("settle"), **said).stderr
    assert python("-c", script.format("settle") + "; settle('portable')", **said).returncode == 0


def test_a_processor_without_avx2_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in numerics.PORTABLE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(numerics, "capability", lambda: "DEFAULT")
    with pytest.raises(UserError, match="torch finds DEFAULT here; set `numerics: fast`"):
        numerics.check("portable")
    numerics.check("fast")


@pytest.mark.parametrize(
    "changes",
    [
        {"gpus": 1},
        {"sampling__engine": "vllm"},
        {"sampling__dtype": "bfloat16"},
        {"training": {"dtype": "bfloat16"}},
    ],
)
def test_they_are_of_the_cpu_in_float32(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="numerics portable is for the CPU"):
        load(tmp_path, numerics="portable", **changes)


def command(folder: Path, *arguments: str) -> None:
    result = python("-m", "repro.cli", *arguments, cwd=folder, **HOSTILE)
    assert result.returncode == 0, result.stderr


@pytest.mark.promise("The same numbers", "With portable numerics the smoke study gives the committed bits.")
@pytest.mark.slow
@pytest.mark.skipif(not able(), reason="portable numerics need an x86-64 processor with AVX2")
def test_the_smoke_study_is_the_same_bits_here(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    golden = json.loads(GOLDEN.read_text())
    renewed = pytestconfig.getoption("renew_golden")
    if golden["libraries"] != libraries() and not renewed:
        pytest.skip(f"the digests are of {golden['libraries']}, and here are {libraries()}")
    for stage in (["problems"], ["base-model"], ["train", "--method", METHOD]):
        command(tmp_path, stage[0], str(SMOKE), *stage[1:])
    work = tmp_path / "work" / load_study(SMOKE).name
    run = json.loads((work / "runs" / f"{METHOD}-0.json").read_text())
    found = {
        "libraries": libraries(),
        "base": json.loads((work / "base.json").read_text())["fingerprint"],
        METHOD: {str(row["budget"]): row["fingerprint"] for row in run["budgets"]},
    }
    if renewed:
        GOLDEN.write_text(json.dumps(found, indent=2) + "\n")
    assert found == json.loads(GOLDEN.read_text())
