"""The tutorial's own files and commands, in a copy of the project; and what else the pages promise."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from test_end_to_end import Project, copy_tree

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = (DOCS / "tutorial.md").read_text()
MODULES = {".venv/bin/repro": "repro.cli", ".venv/bin/snakemake": "snakemake"}


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path) -> None:
    copy_tree(root := tmp_path / "project")
    shutil.copy(DOCS.parent / "pyproject.toml", root)
    project = Project(root)
    for path, text in re.findall(r"```yaml file=(\S+)\n(.*?)```", PAGE, re.S):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(text)
    said = {}
    for command in "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.S)).splitlines():
        program, *arguments = shlex.split(command)
        said[" ".join([program.split("/")[-1], *arguments[:1]])] = project.run(MODULES[program], *arguments)
    assert set(said) == {
        "repro new-method", "repro check-method", "repro plan", "repro doctor", "snakemake --config",
        "repro verify",
    }  # fmt: skip
    assert "GPU-hours" in said["repro plan"] and said["repro verify"].strip().endswith("verified")
    board = pd.read_csv(root / "results/coin/tables/leaderboard.csv")
    assert set(board["title"]) >= {"Mine", "Base model"} and not board["missing"].notna().any()
    runs = pd.read_csv(root / "results/coin/records/runs.csv")
    trained = runs[runs["method"] != "control_base"]
    assert set(runs["status"]) == {"ok"} and (trained["steps"] > 0).all()
    assert "Preliminary" in (root / "results/coin/report.html").read_text()


def test_every_page_is_in_the_site_and_its_links_lead_somewhere() -> None:
    site = yaml.safe_load((DOCS.parent / "mkdocs.yml").read_text())
    listed = [page for entry in site["nav"] for page in entry.values()]
    assert sorted(listed) == sorted(path.name for path in DOCS.glob("*.md"))
    for path in DOCS.glob("*.md"):
        for link in re.findall(r"\]\(([^)#]+)", path.read_text()):
            assert "://" in link or (DOCS / link).exists(), f"{path.name}: {link}"
