"""What ran a job: its commit above all, which no other test can see, as most run outside of a checkout."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from repro import identity, provenance
from repro.provenance import commit
from repro.schema import Process


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    commit.cache_clear()
    yield
    commit.cache_clear()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout with one commit, in place of the suite's."""
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    for name in ("code.py", "results/table.md"):
        (tmp_path / name).write_text("1")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "One"]):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
        subprocess.run(["git", *who, *command], cwd=tmp_path, check=True)
    return tmp_path


def test_a_job_says_what_ran_it() -> None:
    facts = provenance.Process().facts("vllm")
    job = {"kind": "train", "method": "star", "seed": 3}
    job |= {name: facts.pop(name) for name in ("ended", "seconds")}
    found = Process.model_validate(facts | {"jobs": [job]})
    assert found.cpu and found.cores >= 1 and found.jobs[0].seconds < 100
    assert identity.libraries("vllm").items() < found.libraries.items()
    assert {"lm-eval", "math-verify"} < set(found.libraries)


def test_the_commit_is_told_and_whether_files_differ_from_it(checkout: Path) -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True).stdout
    assert commit() == (head.strip(), False)
    for name, changed in (("results/table.md", False), ("results/new.md", False), ("new.py", True)):
        (checkout / name).write_text("2")
        commit.cache_clear()
        assert commit() == (head.strip(), changed)


def test_a_job_is_of_the_commit_that_it_began_with(checkout: Path) -> None:
    process = provenance.Process()
    (checkout / "code.py").write_text("2")
    commit.cache_clear()
    assert process.facts()["changed"] is False


def test_where_git_cannot_say_nothing_is_told(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = checkout / "inside"  # of another repository
    inside.mkdir()
    monkeypatch.setattr(provenance, "ROOT", inside)
    assert commit() == (None, None)
    (inside / ".git").write_text("nonsense")
    commit.cache_clear()
    assert commit() == (None, None)
    monkeypatch.setattr(provenance, "ROOT", checkout)
    monkeypatch.setenv("PATH", "")
    commit.cache_clear()
    assert commit() == (None, None)
