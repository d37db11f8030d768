"""The suite as its users run it: commands in a copy of the project, killed, repeated and changed.

A micro study (a model of 15 thousand weights, two budgets) is run once without interruption; the others are
compared with it, byte for byte.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from repro.files import lease

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
STUDY = "benchmarks/studies/micro.yaml"
KEPT = ("_template", "_pairs", "control_base", "star", "iterative_dpo")  # one trains by SFT, one by DPO
PATIENCE = 600.0  # seconds until a command counts as hanging; machines may be busy

MICRO = """
name: micro
title: Micro study
seeds: [0]
budgets: [2e9, 4e9]
problems: {source: ladder, train: 96, validation: 8, test: 24}
base_model:
  source: warm_start
  config:
    hidden_size: 32
    num_hidden_layers: 1
    num_attention_heads: 1
    num_key_value_heads: 1
    head_dim: 32
    intermediate_size: 64
    tie_word_embeddings: true
    initializer_range: 0.05
    max_position_embeddings: 256
  hinted: 0.15
  steps: 60
  batch_size: 16
  optimizer: {learning_rate: 1.0e-2, warmup_steps: 5}
process_rewards: ladder
sampling: {batch_size: 128, chunk: 64, max_tokens: 48}
evaluation: {profile: pocket, benchmarks: {ladder: {samples: 2}}}
hyperparameters:
  star: {temperature: 1.0, top_p: 1.0, first_steps: 30, batch_size: 4, optimizer: {learning_rate: 1.0e-3}}
  iterative_dpo:
    {problems_per_round: 48, temperature: 1.0, epochs: 4, batch_size: 2, optimizer: {learning_rate: 1.0e-4}}
"""


@dataclass(frozen=True)
class Project:
    """A copy of the project in a folder of its own, with few methods and the micro study."""

    root: Path

    @classmethod
    def make(cls, root: Path) -> Project:
        copy_tree(root)
        (root / STUDY).write_text(MICRO)
        for path in (root / "baselines").glob("*.py"):
            if path.stem not in KEPT:
                path.unlink()
        return cls(root)

    def copy(self, to: Path) -> Project:
        shutil.copytree(self.root, to, ignore=shutil.ignore_patterns("__pycache__"))
        return Project(to)

    def start(self, *command: str, first_on_path: Path | None = None) -> subprocess.Popen[str]:
        path = [str(folder) for folder in (first_on_path, self.root) if folder]
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def fails(self, *command: str, first_on_path: Path | None = None) -> tuple[int, str]:
        """Exit status and output of a command that may fail."""
        process = self.start(*command, first_on_path=first_on_path)
        output, _ = process.communicate(timeout=PATIENCE)
        return process.returncode, output

    def run(self, *command: str, first_on_path: Path | None = None) -> str:
        status, output = self.fails(*command, first_on_path=first_on_path)
        assert status == 0, output + self.logs()
        return output

    def snakemake(self, *arguments: str, study: str = STUDY) -> str:
        return self.run("snakemake", "-j", "2", *arguments, "--config", f"study={study}")

    def logs(self) -> str:
        return "".join(f"\n== {path}\n{path.read_text()[-2000:]}" for path in self.root.glob("work/*/logs/*"))

    def journal(self, method: str = "*") -> list[Path]:
        return sorted(self.root.glob(f"work/micro/runs/{method}-0-*/journal/[0-9]*.json"))

    def has_journaled(self, count: int, method: str = "*") -> bool:
        return len(self.journal(method)) >= count

    def finished(self, method: str = "*") -> dict[Path, int]:
        """When each finished piece of work was written: journal entries, evaluated checkpoints."""
        parts = self.root.glob(f"work/micro/evaluations/{method}-0/*/COMPLETE.json")
        return {path: path.stat().st_mtime_ns for path in [*self.journal(method), *parts]}

    def trains(self, method: str, since: float) -> bool:
        """Whether the method is some steps into a training call, begun after the time ``since``."""
        for path in self.root.glob(f"work/micro/runs/{method}-0-*/journal/at-work.json"):
            with suppress(FileNotFoundError):  # the call has just ended
                steps = json.loads(path.read_text())["done"]  # or completions, which are 16 and more
                if 3 <= steps < 16 and path.stat().st_mtime > since:
                    return True
        return False


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The micro study, run by one command without interruption; made once for all workers of pytest-xdist."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    project = Project(shared / "reference")
    with lease(shared / "reference-lease", wait=True):
        if not project.root.exists():
            building = Project.make(shared / "reference-unfinished")
            building.snakemake()
            building.root.rename(project.root)
    return project


def copy_tree(to: Path) -> None:
    """The project's files, without work and results."""
    for name in ("repro", "baselines", "benchmarks", "profiles", "requirements"):
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", to)


def content(folder: Path) -> dict[str, bytes]:
    """What the files of a folder hold, by path, but for Snakemake's own marks of declared folders."""
    paths = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".snakemake_timestamp")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def numbers(path: Path) -> dict[str, Any]:
    """A manifest or journal entry, without what the machine took."""
    values: dict[str, Any] = json.loads(path.read_text())
    return {key: value for key, value in values.items() if key not in ("machine", "process", "check")}


def portable(project: Project) -> dict[str, bytes]:
    """The results that are the same on every machine: all but what the machine took."""
    found = content(project.root / "results/micro")
    facts = json.loads(found.pop("records/study.json"))
    del facts["files"]["machine.csv"], facts["files"]["provenance.json"], facts["digest"]
    found["records/study.json"] = json.dumps(facts).encode()
    others = ("records/provenance.json", "report.html")
    return {name: data for name, data in found.items() if "machine" not in name and name not in others}


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Until the condition holds; the process must not end before."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        status = process.poll()
        assert status is None, f"ended too early, with status {status}:\n{process.communicate()[0]}"
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.002)


def kill_group(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def planned(output: str) -> dict[str, set[str]]:
    """The jobs of a dry run: methods by rule, "" for rules without."""
    jobs: dict[str, set[str]] = {}
    for block in re.split(r"^(?:local)?rule ", output, flags=re.M)[1:]:
        method = re.search(r"^ +wildcards: method=(\w+)", block, re.M)
        jobs.setdefault(block.split(":")[0], set()).add(method[1] if method else "")
    return jobs


@pytest.mark.promise(
    "Runs that are killed", "A killed run goes on where it was and ends as if nothing had been, bit for bit."
)
@pytest.mark.parametrize("method", ["star", "iterative_dpo"])
def test_a_killed_run_goes_on_where_it_was(reference: Project, tmp_path: Path, method: str) -> None:
    project = reference.copy(tmp_path / "project")
    manifest = project.root / f"work/micro/runs/{method}-0.json"
    manifest.unlink()
    for folder in project.root.glob(f"work/micro/runs/{method}-0-*"):
        shutil.rmtree(folder)
    command = ("repro.cli", "train", STUDY, "--method", method, "--seed", "0")

    finished: dict[Path, int] = {}
    for in_training in (False, True, False):
        trains = partial(project.trains, method, since=time.time())
        two_more = partial(project.has_journaled, len(project.journal(method)) + 2, method)
        process = project.start(*command)
        wait_for(trains if in_training else two_more, process)
        kill_group(process)
        assert not manifest.exists()
        finished |= project.finished(method)
    project.run(*command)

    assert {path: path.stat().st_mtime_ns for path in finished} == finished  # nothing was done twice
    # What was lost is known; all else, the ledger included, is as if nothing had happened.
    assert sum(row["flops"] for row in json.loads(manifest.read_text())["machine"]) > 0
    runs = reference.root / "work/micro/runs"
    assert numbers(manifest) == numbers(runs / manifest.name)
    done = {str(path.relative_to(manifest.parent)): numbers(path) for path in project.journal(method)}
    assert done == {str(path.relative_to(runs)): numbers(path) for path in reference.journal(method)}
    assert not list(manifest.parent.rglob(".*.tmp"))


@pytest.mark.promise(
    "Runs that are killed", "A killed run goes on where it was and ends as if nothing had been, bit for bit."
)
def test_a_killed_study_goes_on_where_it_was(reference: Project, tmp_path: Path) -> None:
    project = reference.copy(tmp_path / "project")
    for name in ("work/micro/runs", "work/micro/evaluations", "results"):
        shutil.rmtree(project.root / name)
    command = ("snakemake", "-j", "2", "--config", f"study={STUDY}")

    process = project.start(*command)  # first everything is killed, as by a power cut
    wait_for(partial(project.trains, "*star", since=0.0), process)
    kill_group(process)
    finished = project.finished()

    process = project.start(*command)  # then Snakemake alone: its jobs work on while the next one starts
    wait_for(partial(project.has_journaled, len(project.journal()) + 2), process)
    process.kill()
    process.wait()
    finished |= project.finished()

    second = project.start(*command)
    holder = project.root / "work/micro/lease"
    wait_for(lambda: holder.read_text().startswith(f"{second.pid} on"), second)
    status, refusal = project.fails(*command)  # two at once: the later one is refused, by name
    assert status != 0
    assert f"is in use by process {second.pid} on" in refusal and "Traceback" not in refusal
    output, _ = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, output + project.logs()

    assert {path: path.stat().st_mtime_ns for path in finished} == finished  # nothing was done twice
    assert portable(project) == portable(reference)
    for manifest in (reference.root / "work/micro/runs").glob("*.json"):
        assert numbers(project.root / "work/micro/runs" / manifest.name) == numbers(manifest)


@pytest.mark.promise(
    "The same numbers",
    "Only what changed runs again: words in a method's file or titles retrain nothing, another setting does.",
)
def test_only_what_changed_runs_again(reference: Project, tmp_path: Path) -> None:
    project = reference.copy(tmp_path / "project")
    assert "Nothing to be done" in project.snakemake()
    after = {"collect": {""}, "report": {""}, "all": {""}}

    star = project.root / "baselines/star.py"
    star.write_text(star.read_text().replace('"""STaR:', '"""STaR, in other words:') + "\n# A comment.\n")
    assert "Nothing to be done" in project.snakemake("-n")
    star.write_text(star.read_text() + "\nEDITED = True\n")
    assert planned(project.snakemake("-n")) == {"train": {"star"}, "evaluate": {"star"}, **after}
    shutil.copy2(reference.root / "baselines/star.py", star)

    added = project.root / "baselines/added.py"
    shutil.copy(project.root / "baselines/_template.py", added)
    assert planned(project.snakemake("-n")) == {"train": {"added"}, "evaluate": {"added"}, **after}
    added.unlink()

    task = project.root / "benchmarks/tasks/ladder_sampled.yaml"
    task.write_text(task.read_text() + "# Another.\n")
    assert planned(project.snakemake("-n")) == {
        "evaluate": {"control_base", "star", "iterative_dpo"},
        **after,
    }
    shutil.copy2(reference.root / "benchmarks/tasks/ladder_sampled.yaml", task)

    study = yaml.safe_load(MICRO)
    study["sampling"] |= {"batch_size": 64, "chunk": 32, "memory": 0.5}
    study["training"] = {"micro_batch": 2, "save_every": 7}
    study["evaluation"] |= {"texts": 1, "questions": True}
    (project.root / STUDY).write_text(yaml.safe_dump(study))
    assert planned(project.snakemake("-n")) == after  # the records say what is kept, and have all settings
    study["hyperparameters"]["iterative_dpo"]["temperature"] = 0.8
    (project.root / STUDY).write_text(yaml.safe_dump(study))
    assert planned(project.snakemake("-n")) == {
        "train": {"iterative_dpo"},
        "evaluate": {"iterative_dpo"},
        **after,
    }


@pytest.mark.promise("Records and report", "Tables come from the records alone, without torch.")
def test_tables_come_from_the_records_alone(reference: Project, tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project")  # a fresh clone: records, but no work/
    shutil.copytree(reference.root / "results/micro/records", project.root / "results/micro/records")
    blocked = tmp_path / "blocked"
    for name in ("torch", "transformers", "trl", "lm_eval"):
        (blocked / name).mkdir(parents=True)
        (blocked / name / "__init__.py").write_text(f"raise ImportError('{name} is not for tables')")
    project.run("snakemake", "-j", "1", "--config", f"study={STUDY}", "--", "tables", first_on_path=blocked)
    assert content(project.root / "results") == content(reference.root / "results")


def test_conda_gets_the_locked_versions() -> None:
    locked = (ROOT / "requirements/lock-cpu.txt").read_text().split()
    *_, pip = yaml.safe_load((ROOT / "requirements/conda.yaml").read_text())["dependencies"]
    assert set(pip["pip"]) <= set(locked)


def test_the_workflow_is_clean_and_a_typo_is_one_sentence(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project")
    assert "Congratulations" in project.run("snakemake", "--lint", "--config", f"study={STUDY}")

    missing = "process_rewards: {kind: causal, path: /absent}"
    (project.root / STUDY).write_text(MICRO.replace("process_rewards: ladder", missing))
    assert "Traceback" not in project.run("snakemake", "-n", "--config", f"study={STUDY}")

    (project.root / STUDY).write_text(MICRO.replace("budgets:", "budget:"))
    status, output = project.fails("snakemake", "-n", "--config", f"study={STUDY}")
    assert status != 0
    assert "micro.yaml: unknown key `budget`; known here: name, title, seeds, budgets" in output
    assert "Traceback" not in output


def test_real_rows_of_gsm8k_go_through_every_stage(tmp_path: Path) -> None:
    if "REPRO_DATA_DIR" not in os.environ:
        pytest.skip("REPRO_DATA_DIR is not set: no rows of GSM8K")
    project = Project(tmp_path / "project")
    copy_tree(project.root)
    # A row of each kind; tests/test_real_rows.py has a round of every method.
    methods = ["control_base", "control_continued", "star", "sai_dpo"]
    study = yaml.safe_load((project.root / "benchmarks/studies/gsm8k-random.yaml").read_text())
    (project.root / STUDY).write_text(yaml.safe_dump(study | {"methods": methods, "budgets": [4e10]}))
    project.snakemake(study=STUDY)

    work, results = project.root / "work/gsm8k-random", project.root / "results/gsm8k-random"
    source = Path(os.environ["REPRO_DATA_DIR"]) / "gsm8k"
    for split, file, size in (("train", "train", 200), ("test", "test/gsm8k", 100)):
        real = {row["question"].strip(): row["answer"] for row in jsonl(source / f"{split}.jsonl")}
        rows = jsonl(work / f"problems/{file}.jsonl")
        assert len(rows) == size
        for row in rows:
            assert real[row["question"]].endswith(f"#### {row['answer']}") or "," in real[row["question"]]
            assert row["prompt"] == f"Question: {row['question']}\nAnswer:\n"
            assert f"(The answer is {row['answer']}.)" in row["hinted"]

    runs = pd.read_csv(results / "records/runs.csv", keep_default_na=False)
    assert set(runs["method"]) == set(methods)
    reasons = runs[runs["status"] != "ok"].set_index("method")["reason"].to_dict()
    assert list(reasons) == ["control_continued"] and "warm-started" in reasons["control_continued"]
    spending = runs[(runs["status"] == "ok") & (runs["role"] != "base")]
    assert spending["use"].between(0.95, 1.0).all(), spending[["method", "budget", "use"]]

    samples = pd.read_parquet(results / "records/samples.parquet")
    assert set(samples["problem"]) == {row["id"] for row in jsonl(work / "problems/test/gsm8k.jsonl")}
    per_row = samples[samples["mode"] == "sampled"].groupby(["method", "budget"], observed=True).size()
    assert set(per_row) == {100 * 4}
    board = (results / "tables/leaderboard.md").read_text()
    assert all(title in board for title in runs["title"])
    assert "X" in board


def jsonl(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
