"""Every row there is, from the study that has them all to its tables: half an hour of two cores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from repro.config import load_study
from repro.discovery import BASELINES, load_methods, rows
from repro.planning import tuning

ROOT = Path(__file__).resolve().parent.parent
STUDY = ROOT / "benchmarks" / "studies" / "atlas.yaml"


def test_the_atlas_has_every_method_and_many_variants_tuned_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = load_study(STUDY)
    used = {row.method for row in rows(study).values()}
    assert used == {path.stem for path in BASELINES.glob("[!_]*.py")}
    assert len(load_methods(study)) >= 40
    assert len(study.seeds) >= 5 and len(study.budgets) >= 5 and study.budgets[-1] >= 16 * study.budgets[0]
    assert {len(points) for points in tuning.points(study).values()} == {4}


@pytest.mark.hours
def test_every_row_runs_to_the_tables(tmp_path: Path) -> None:
    """In the working tree, with the atlas's base model where it has one: one seed, two budgets."""
    few = tmp_path / "few.yaml"
    few.write_text(f"preset: {STUDY}\nname: few\nseeds: [0]\nbudgets: [20.0e9, 40.0e9]\n")
    command = [sys.executable, "-m", "snakemake", "--config", f"study={few}"]
    subprocess.run(command, cwd=ROOT, check=True)
    runs = pd.read_csv(ROOT / "results" / "few" / "records" / "runs.csv")
    assert set(runs["method"]) == set(rows(load_study(STUDY))) and set(runs["status"]) == {"ok"}
    assert (runs[runs["role"] != "base"]["steps"] > 0).all()
    table = (ROOT / "results" / "few" / "tables" / "leaderboard.md").read_text()
    assert all(title in table for title in runs["title"])
