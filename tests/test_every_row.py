"""Every row there is, from the study that has them all to its tables: half an hour of two cores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from repro.config import load_study
from repro.discovery import BASELINES, load_methods, rows

ROOT = Path(__file__).resolve().parent.parent
STUDY = ROOT / "benchmarks" / "studies" / "pocket-all.yaml"


def test_the_study_of_all_rows_has_every_method_and_many_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = load_study(STUDY)
    used = {row.method for row in rows(study).values()}
    assert used == {path.stem for path in BASELINES.glob("[!_]*.py")}
    assert len(load_methods(study)) >= 40 and len(study.budgets) == 2 and len(study.seeds) == 1


@pytest.mark.hours
def test_every_row_runs_to_the_tables() -> None:
    """In the working tree, where `make reproduce` runs it too: what is finished is not run again."""
    command = [sys.executable, "-m", "snakemake", "--config", f"study={STUDY.relative_to(ROOT)}"]
    subprocess.run(command, cwd=ROOT, check=True)
    runs = pd.read_csv(ROOT / "results" / "pocket-all" / "records" / "runs.csv")
    assert set(runs["method"]) == set(rows(load_study(STUDY))) and set(runs["status"]) == {"ok"}
    assert (runs[runs["role"] != "base"]["steps"] > 0).all()
    table = (ROOT / "results" / "pocket-all" / "tables" / "leaderboard.md").read_text()
    assert all(title in table for title in runs["title"])
