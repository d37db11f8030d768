"""Speed of the suite as ratios within one run: each row does the same work twice, with the suite and without.

Absolute numbers depend on the machine, so nothing is asserted of them. The model is the pocket study's, made
on the spot and trained just enough to end its solutions.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # the unmodified TRL would report each of its trainers

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from tabulate import tabulate

from repro import base_model, files, machine, problems
from repro.config import Study, load_study
from repro.discovery import ROOT
from repro.layout import Layout

sys.path.append(str(ROOT / "tests"))  # fake engines and made-up records

ROWS = pytest.StashKey[list[tuple[str, float, float, float]]]()
HEADERS = ("row", "ours", "reference", "ratio")
WARM_START = 100  # steps; from here on completions end by themselves

Side = Callable[[], int]  # does the work, returns its amount
Compare = Callable[..., tuple[int, int]]  # (row, ours, reference, rounds=3, flops=None)
Show = Callable[[str, float, float], None]
Plot = Callable[[str, Figure], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--out", type=Path, help="folder for the table, speed.md, and the plots")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []
    config.option.benchmark_quiet = True  # its table ranks the rows against each other; -v shows it


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not (rows := config.stash[ROWS]):
        return
    form: dict[str, Any] = {"floatfmt": ("", ",.0f", ",.0f", ".2f"), "disable_numparse": [0]}
    terminalreporter.section("speed")
    terminalreporter.write_line(tabulate(rows, HEADERS, **form))
    if out := config.getoption("out"):
        table = tabulate(rows, HEADERS, tablefmt="pipe", **form)
        on = f"On {len(os.sched_getaffinity(0))} cores of {machine.processor()}, torch {torch.__version__}."
        files.write_text(out / "speed.md", f"`make speed` wrote this table. {on}\n\n{table}\n")


@pytest.fixture(scope="session")
def study() -> Study:
    """The pocket study, with less of everything."""
    study = load_study(ROOT / "benchmarks" / "studies" / "pocket.yaml")
    fewer = study.problems.model_copy(update={"train": 480, "validation": 0, "test": 4})
    short = study.base_model.model_copy(update={"steps": WARM_START})
    less: dict[str, Any] = {
        "problems": fewer,
        "base_model": short,
        "budgets": [60_000_000_000],
        "hyperparameters": {},
        "numerics": "fast",  # as those that it is measured beside
    }
    return study.model_copy(update=less)


@pytest.fixture(scope="session")
def layout(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Where the study's problems and base model are."""
    layout = Layout(tmp_path_factory.mktemp("speed"), study.name)
    problems.prepare(study, layout.problems)
    base_model.prepare(study, layout.problems, layout.base, lambda step, steps, loss: None)
    return layout


@pytest.fixture
def base(layout: Layout) -> Path:
    """The model folder."""
    return layout.base


@pytest.fixture
def show(request: pytest.FixtureRequest) -> Show:
    """Adds a row to the table at the end."""

    def add(row: str, ours: float, reference: float) -> None:
        request.config.stash[ROWS].append((row, ours, reference, ours / reference))

    return add


@pytest.fixture
def plot(request: pytest.FixtureRequest) -> Plot:
    """Keeps a figure where the table goes."""

    def keep(name: str, figure: Figure) -> None:
        if out := request.config.getoption("out"):
            figure.savefig(out / f"{name}.svg", metadata={"Date": None})

    return keep


@pytest.fixture(scope="session")
def matmul() -> float:
    """FLOP/s of this machine's matrix products in one thread, of sizes such as the pocket model's."""
    rows, inner, columns = 1024, 96, 288
    left, right = torch.randn(rows, inner), torch.randn(inner, columns)
    took = []
    for _ in range(20):
        started = perf_counter()
        for _ in range(50):
            left @ right
        took.append(perf_counter() - started)
    return 50 * 2 * rows * inner * columns / min(took)


@pytest.fixture
def compare(benchmark: Any, show: Show, matmul: float) -> Compare:
    """Times two sides and shows the best rate of each, and, given the FLOPs of a unit of work, how much of
    the machine's matrix products ours comes to; returns the work that each did in a round.

    The reference runs before each round of ours, so that a busy neighbour disturbs both alike.
    """

    def run(
        row: str, ours: Side, reference: Side, rounds: int = 3, flops: Callable[[], float] | None = None
    ) -> tuple[int, int]:
        rates: dict[Side, list[float]] = {ours: [], reference: []}
        work: dict[Side, int] = {}

        def timed(side: Side) -> None:
            started = perf_counter()
            work[side] = side()
            rates[side].append(work[side] / (perf_counter() - started))

        benchmark.pedantic(timed, args=(ours,), setup=lambda: timed(reference), rounds=rounds)
        show(row, max(rates[ours]), max(rates[reference]))
        if flops:
            reached = max(rates[ours]) * flops()
            show(
                f"{row.rpartition(',')[0]}, MFLOP/s of the machine's matrix products",
                reached / 1e6,
                matmul / 1e6,
            )
        return work[ours], work[reference]

    return run
