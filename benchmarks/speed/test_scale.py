"""What grows and must not: the page of a million samples, commands before they begin, rounds of long runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_engines import ADAM, PLENTY, WORDS, World, make_base
from matplotlib.figure import Figure
from synthetic import BUDGETS, Made, seal, write_records

from repro.discovery import ROOT
from repro.lab import Engines, Lab
from repro.method import Example, Problem, Role
from repro.problems import ProblemSet
from repro.record_files import parquet, samples, text_parquet
from repro.records import Gold
from repro.reporting.analysis import Analysis
from repro.reporting.results import load
from repro.reporting.tables import all_tables
from repro.schema import TEXTS

Show = Callable[[str, float, float], None]  # the fixtures of conftest.py
Plot = Callable[[str, Figure], None]

TABLES_S, PAGE_S, PAGE_GIB = 10.0, 20.0, 2.0  # what a million samples may take
HELP_MS, DRY_RUN_MS = 500.0, 4000.0
POOLS = (1_000, 10_000, 100_000, 1_000_000)  # problems
ROUNDS = 500


def million(folder: Path) -> Path:
    """Records of 1,052,100 completions with texts of their own, of which a twentieth is kept."""
    rows = (
        Made("base", Role.BASE),
        Made("continued", Role.CONTINUED),
        *(Made(f"m{i}", gain=0.2 * i) for i in range(12)),
    )
    write_records(folder, rows, seeds=(0, 1, 2, 3, 4), budgets=BUDGETS[:3], per_tier=334, k=4)
    frame = pd.read_parquet(folder / "samples.parquet")
    random = np.random.default_rng(0)
    number = random.integers(0, 2**63, len(frame))
    frame["text_hash"] = [f"{n:016x}" for n in number]
    frame["answer"] = [
        None if v == "unparsable" else str(n % 997) for v, n in zip(frame["verdict"], number, strict=True)
    ]
    kept = frame["problem"].isin(sorted(set(frame["problem"]))[::20])
    texts = {
        name: " ".join(f"w{n}" for n in random.integers(0, 3000, 60)) for name in frame["text_hash"][kept]
    }
    (folder / "samples.parquet").write_bytes(parquet(samples([frame])))
    (folder / "texts.parquet").write_bytes(text_parquet(TEXTS, sorted(texts.items())))
    return seal(folder)


def test_tables_and_page_of_a_million_samples(show: Show, tmp_path: Path) -> None:
    records = million(tmp_path / "records")
    started = perf_counter()
    study = load(records)
    tables = all_tables([Analysis(study, benchmark.name) for benchmark in study.benchmarks])
    assert all([table.markdown(), table.csv(), table.latex()] for table in tables)
    show("tables of a million samples, s of those allowed", perf_counter() - started, TABLES_S)
    command = [sys.executable, "-m", "repro.cli", "tables", str(records)]
    code = (
        "import resource, subprocess, sys\n"
        f"subprocess.run({command!r}, check=True, stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_maxrss)"
    )
    started = perf_counter()
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    show("page of a million samples, s of those allowed", perf_counter() - started, PAGE_S)
    show("page of a million samples, MiB of those allowed", int(told.stdout) / 1024, 1024 * PAGE_GIB)
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("command", "allowed"),
    [
        (["repro", "--help"], HELP_MS),
        (["snakemake", "-n", "--quiet"], DRY_RUN_MS),
    ],
)
def test_commands_before_they_begin(command: list[str], allowed: float, show: Show) -> None:
    program = str(Path(sys.executable).with_name(command[0]))
    took = []
    for _ in range(5):
        started = perf_counter()
        subprocess.run([program, *command[1:]], cwd=ROOT, check=True, capture_output=True)
        took.append(1000 * (perf_counter() - started))
    show(f"{' '.join(command)}, ms of those allowed", min(took), allowed)


def pool(size: int) -> ProblemSet:
    found = [Problem(f"p{i}", " ".join(WORDS[i >> 5 * k & 31] for k in range(4)), "1") for i in range(size)]
    prompts = {problem.id: problem.question for problem in found}
    gold = Gold("1", "w1")
    return ProblemSet(found, dict.fromkeys(prompts, gold), prompts, prompts, prompts)


class Quiet(World):
    """Engines that take next to no time, and keep nothing."""

    def sample(self, *args: Any) -> Any:
        drawn = super().sample(*args)
        for kept in (self.parts, self.requests, self.params):
            kept.clear()
        return drawn

    def train(self, *args: Any, **kwargs: Any) -> Any:
        trained = super().train(*args, **kwargs)
        for kept in (self.parts, self.rows, self.starts, self.trainings):
            kept.clear()
        return trained


def rounds(problems: ProblemSet, base: Path, folder: Path, count: int) -> list[float]:
    """Milliseconds of each round of sampling 16 problems twice and training two steps on what is right."""
    world = Quiet()
    engines: Any = Engines(world, world, world, None, None, max_tokens=8, chunk=64, max_length=64)
    lab = Lab("run/0", folder, base, problems, [PLENTY], engines)
    marks = [perf_counter()]
    for number in range(count):
        lab.round += 1
        start = 16 * number % (len(lab.problems) - 16)
        drawn = lab.sample(lab.problems[start : start + 16], 2, temperature=1.0)
        data = [Example(each[0].problem, each[0].text) for each in drawn[:8]]
        lab.train(data, optimizer=ADAM, batch_size=4, steps=2)
        marks.append(perf_counter())
    return [1000 * (after - before) for before, after in pairwise(marks)]


def test_rounds_cost_the_same_in_large_pools_and_long_runs(show: Show, plot: Plot, tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    by_pool = {
        size: median(rounds(pool(size), tmp_path / "base", tmp_path / str(size), 20)[5:]) for size in POOLS
    }
    show(f"a round, ms with {POOLS[-1]:,} problems, of {POOLS[0]:,}", by_pool[POOLS[-1]], by_pool[POOLS[0]])
    long = rounds(pool(POOLS[0]), tmp_path / "base", tmp_path / "long", ROUNDS)
    early, late = median(long[5:15]), median(long[-10:])
    show(f"a round, ms of the last of {ROUNDS}, of the first", late, early)

    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.plot(list(by_pool), list(by_pool.values()), "o-")
    left.set(xscale="log", xlabel="problems in the pool", ylabel="a round outside its engines (ms)")
    right.plot(range(1, ROUNDS + 1), long, lw=0.6)
    right.set(xlabel="round", ylim=(0, 2 * max(*by_pool.values(), median(long))))
    plot("speed-rounds", figure)
