"""A method in a package of its own, from its wheel to its row: in a study that names it, and in no other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from test_end_to_end import MICRO, Project

pytestmark = pytest.mark.slow

STUDY = "benchmarks/studies/packaged.yaml"
ROWS = """
methods:
  control_base:
  fancy:
  fancy_once: {method: fancy, n: 1, role: ablation}
  crashing: {title: Crashing}
  broken: {n: 3}
"""
FILES = {
    "pyproject.toml": """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "fancy-methods"
version = "1.2"
[project.entry-points."repro.methods"]
fancy = "fancy_methods.fancy:Fancy"
crashing = "fancy_methods.crashing:Crashing"
broken = "fancy_broken:Broken"
""",
    "fancy_methods/__init__.py": "import os, pathlib\npathlib.Path(os.environ['IMPORTED']).touch()\n",
    "fancy_methods/choice.py": """
def correct(drawn):
    return [c for found in drawn for c in found if c.correct]
""",
    "fancy_methods/fancy.py": """
from typing import ClassVar
from repro.method import Example, Method, Optimizer
from .choice import correct

class Fancy(Method):
    title: ClassVar[str] = "Fancy"
    paper: ClassVar[str] = "Nobody 2026"
    n: int = 2
    optimizer: Optimizer = Optimizer(learning_rate=1e-3)

    def round(self, lab, state):
        data = [Example(c.problem, c.text) for c in correct(lab.sample(lab.problems, self.n))]
        if data:
            lab.train(data, epochs=1, batch_size=4, optimizer=self.optimizer)
""",
    "fancy_methods/crashing.py": """
from fancy_methods.fancy import Fancy
import fancy_methods.choice

class Crashing(Fancy):
    def round(self, lab, state):
        lab.sample(lab.problems[:4])
        fancy_methods.choice.correct([5])
""",
    "fancy_broken.py": "import nowhere_to_be_found\n",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed from its wheel."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name, text in FILES.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text)
    with (source / "pyproject.toml").open("a") as file:
        file.write('[tool.setuptools]\npackages = ["fancy_methods"]\npy-modules = ["fancy_broken"]\n')
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    offline = ["--no-index", "--no-deps"]
    built = ["wheel", *offline, "--no-build-isolation", "--wheel-dir", str(source), str(source)]
    subprocess.run([*pip, *built], check=True)
    (wheel,) = source.glob("*.whl")
    subprocess.run([*pip, "install", *offline, "--target", str(site), str(wheel)], check=True)
    return site


@pytest.mark.promise(
    "Files and code of others", "An installed package of methods is imported only where a study names it."
)
def test_a_package_becomes_rows_and_its_faults_leave_the_others(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = tmp_path / "imported"
    monkeypatch.setenv("IMPORTED", str(imported))
    project = Project.make(tmp_path / "project")
    listed = project.run("repro.cli", "methods", "benchmarks/studies/micro.yaml", first_on_path=site)
    assert "iterative_dpo" in listed and "fancy" not in listed.lower() and not imported.exists()

    (project.root / STUDY).write_text(MICRO.replace("name: micro", "name: packaged") + ROWS)
    command = ["snakemake", "-j", "2", "--config", f"study={STUDY}"]
    project.run(*command, first_on_path=site)
    assert imported.exists()
    results = project.root / "results/packaged"
    runs = pd.read_csv(results / "records/runs.csv").fillna("").drop_duplicates("method").set_index("method")
    assert dict(runs["status"]) == {
        "control_base": "ok", "fancy": "ok", "fancy_once": "ok", "crashing": "failed", "broken": "failed",
    }  # fmt: skip
    assert dict(runs["title"]) == {
        "control_base": "Base model", "fancy": "Fancy", "fancy_once": "Fancy (n 1)", "crashing": "Crashing",
        "broken": "broken",
    }  # fmt: skip
    assert list(runs["role"]) == ["base", "method", "ablation", "method", "method"]
    assert list(runs["paper"])[1:4] == ["Nobody 2026"] * 3
    assert runs["reason"]["crashing"] == "TypeError in round 1: 'int' object is not iterable"
    assert runs["reason"]["broken"].startswith(
        "the method `broken` of fancy-methods 1.2 cannot be imported: "
    )
    assert runs["spent"]["fancy"] > 0

    versions = json.loads((results / "records/study.json").read_text())["versions"]
    outside = {name: text for name, text in versions.items() if name.startswith("method ")}
    assert set(outside) == {f"method {name}" for name in ("fancy", "fancy_once", "crashing", "broken")}
    assert outside["method fancy"] == outside["method fancy_once"] != outside["method crashing"]
    assert outside["method fancy"].startswith("fancy-methods 1.2, code ")
    manifest = json.loads((project.root / "work/packaged/runs/fancy-0.json").read_text())
    assert manifest["origin"] == outside["method fancy"]
    report = (results / "report.html").read_text()
    assert "method fancy fancy-methods 1.2" in report and "Fancy (n 1)" in report

    # What one row imports is changed: it runs anew, with those that import it too, and nothing else does.
    helper = site / "fancy_methods/fancy.py"
    helper.write_text(helper.read_text().replace("epochs=1", "epochs=2"))
    wanted = project.run(*command, "--dry-run", first_on_path=site)
    assert {name for name in runs.index if f"output: work/packaged/runs/{name}-0.json" in wanted} == {
        "fancy", "fancy_once", "crashing",
    }  # fmt: skip
