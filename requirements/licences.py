"""The licences of what the lock installs, from the packages' own metadata: ``make licences``."""

from __future__ import annotations

from importlib.metadata import metadata
from pathlib import Path

LOCK = Path(__file__).with_name("lock-cpu.txt")
HEAD = """# Licences

Of what [lock-cpu.txt](lock-cpu.txt) installs, in the packages' own words. `make licences` writes this page.

| package | licence |
|---|---|"""


def licence(package: str) -> str:
    """As an expression of SPDX, else as classifiers, else the first line of the text; newer forms first."""
    found = metadata(package)
    classes = [c.split(" :: ")[-1] for c in found.get_all("Classifier", []) if c.startswith("License ::")]
    text = (found.get("License") or "").strip().split("\n")[0]
    return found.get("License-Expression") or "; ".join(classes) or text or "not said"


if __name__ == "__main__":
    print(HEAD)
    for line in LOCK.read_text().splitlines():
        print(f"| {line.replace('==', ' ')} | {licence(line.split('==')[0]).replace('|', '/')} |")
