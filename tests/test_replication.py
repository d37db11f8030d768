"""Whether fresh records reproduce committed ones: bit for bit, within intervals, or not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic import BUDGETS, Made, facts_of, process, run_line, seal, solved, write, write_records
from typer.testing import CliRunner

from repro import cli
from repro.errors import UserError
from repro.files import write_json
from repro.method import Role
from repro.reporting.replication import Replication, Verdict, replicate
from repro.reporting.results import load

ROWS = (Made("base", Role.BASE), Made("good", gain=1.5), Made("same", gain=0.5))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("committed"), ROWS)


def copied(records: Path, folder: Path, name: str, change: Callable[[pd.DataFrame], Any]) -> Path:
    shutil.copytree(records, folder)
    path = folder / name
    frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, keep_default_na=False)
    change(frame)
    frame.to_parquet(path, index=False) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
    return seal(folder)


def verdicts(found: Replication) -> dict[str, Verdict]:
    return {one.row.method: one.verdict for one in found.rows}


def test_the_same_records_are_the_same_bits(records: Path) -> None:
    found = replicate(records, records)
    assert set(verdicts(found).values()) == {Verdict.BITS} and not found.failed and not found.left_out
    assert {one.runs for one in found.rows} == {3 * 4}


def test_the_order_of_completions_is_nothing(records: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fresh"
    shutil.copytree(records, folder)
    path = folder / "samples.parquet"
    pd.read_parquet(path).sample(frac=1, random_state=1).to_parquet(path, index=False)
    assert set(verdicts(replicate(records, seal(folder))).values()) == {Verdict.BITS}


def test_what_differs_from_machine_to_machine_is_nothing(records: Path, tmp_path: Path) -> None:
    folder = copied(
        records, tmp_path / "fresh", "machine.csv", lambda frame: frame.update(frame["seconds"] + 1)
    )
    facts = {"cpu": "Another", "libraries": {"torch": "2.14"}, "commit": None, "changed": None}
    elsewhere = {"processes": [process([("train", "good", 1)], **facts)]}
    write_json(folder / "provenance.json", elsewhere)
    found = replicate(records, seal(folder))
    assert load(folder).provenance.processes[0].cpu == "Another"
    assert set(verdicts(found).values()) == {Verdict.BITS}


def first(frame: pd.DataFrame, method: str = "good") -> Any:
    return frame.index[(frame["method"] == method) & (frame["seed"] == 1)][0]


@pytest.mark.parametrize(
    ("name", "column", "value", "what"),
    [
        ("runs.csv", "fingerprint", "other", "seed 1 at 1.00 GFLOP: the weights"),
        ("runs.csv", "rounds", 9, "seed 1 at 1.00 GFLOP: rounds"),
        ("ledger.csv", "round", 7, "seed 1 at 1.00 GFLOP: the ledger"),
        ("samples.parquet", "text_hash", "other", "seed 1 at 1.00 GFLOP: the completions"),
        ("ledger.csv", "padded", 10**6, "seed 1 at 1.00 GFLOP: the ledger"),
    ],
)
def test_one_thing_that_differs_is_named_and_no_harm(
    records: Path, tmp_path: Path, name: str, column: str, value: Any, what: str
) -> None:
    def change(frame: pd.DataFrame) -> None:
        frame[column] = frame[column].astype(object)
        frame.loc[first(frame), column] = value

    fresh = copied(records, tmp_path / "fresh", name, change)
    found = replicate(records, fresh)
    assert verdicts(found) == {"base": Verdict.BITS, "good": Verdict.INTERVALS, "same": Verdict.BITS}
    told = next(one.what for one in found.rows if one.row.method == "good")
    assert told.startswith(f"{what}; 0.0 points [")


def runs_of(folder: Path, seeds: range, scores: dict[str, float], sd: float, rng: Any) -> Path:
    """Records of rows whose seeds spread by ``sd`` about their scores, at two budgets."""
    budgets = (10**9, 4 * 10**9)
    runs, samples = [], []
    for method, mean in scores.items():
        for seed in seeds:
            luck = rng.normal(0, sd)
            for budget in budgets:
                runs.append(run_line(method, seed, budget))
                counts = rng.binomial(4, np.clip(HARD + mean + luck, 0, 1))
                samples += solved(method, seed, budget, counts)
    benchmark = facts_of()["benchmarks"][0] | {"tiers": ["1"]}
    facts = facts_of(budgets=list(budgets), seeds=list(seeds), benchmarks=[benchmark])
    return write(folder, facts, runs=runs, samples=samples)


HARD = np.random.default_rng(5).uniform(-0.25, 0.25, 200)


def test_other_seeds_reproduce_within_intervals_and_another_method_does_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    old = runs_of(tmp_path / "old", range(5), {"a": 0.40, "b": 0.40, "c": 0.45}, 0.02, rng)
    new = runs_of(tmp_path / "new", range(10, 14), {"a": 0.40, "b": 0.52, "d": 0.4}, 0.02, rng)
    found = replicate(old, new)
    assert verdicts(found) == {"a": Verdict.INTERVALS, "b": Verdict.NOT} and found.failed
    assert "the seeds are others; +1" in next(one.what for one in found.rows if one.row.method == "b")
    assert "rows of the committed records alone: c" in found.left_out
    assert "rows of the fresh records alone: d" in found.left_out
    assert "seeds of the fresh records alone: 10, 11, 12, 13" in found.left_out


def test_fresh_differences_are_looked_for_in_committed_intervals(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    old = runs_of(tmp_path / "old", range(5), {"a": 0.40, "b": 0.40, "c": 0.40}, 0.02, rng)
    new = runs_of(tmp_path / "new", range(5, 10), {"a": 0.40, "b": 0.40, "c": 0.65}, 0.02, rng)
    found = replicate(old, new)
    assert found.pairs == 3 * 2  # of which a and b alone differ as before, at both budgets
    assert found.held == 2
    assert "2 of 6 committed 95 % intervals (33.3%) hold the fresh difference" in found.table()
    same = replicate(old, old)
    assert same.held == same.pairs == 6
    assert (
        "Differences"
        not in replicate(*[runs_of(tmp_path / x, range(3), {"a": 0.4}, 0.02, rng) for x in "xy"]).table()
    )


@pytest.mark.slow
def test_a_study_that_is_the_same_is_seldom_called_not_reproduced(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    wrong = 0
    for i in range(20):
        scores = {name: 0.4 for name in "abcdefghij"}
        old = runs_of(tmp_path / f"old{i}", range(5), scores, 0.03, rng)
        new = runs_of(tmp_path / f"new{i}", range(5, 10), scores, 0.03, rng)
        wrong += replicate(old, new).failed
    assert wrong <= 4  # of 20, at 5 %: exceeded in 0.3 % of cases


def test_other_settings_are_named_where_something_differs(records: Path, tmp_path: Path) -> None:
    def change(frame: pd.DataFrame) -> None:
        frame["key"] = frame["key"] + "x"
        frame["fingerprint"] = frame["fingerprint"].astype(object)
        frame.loc[first(frame), "fingerprint"] = "other"

    found = replicate(records, copied(records, tmp_path / "fresh", "runs.csv", change))
    assert verdicts(found)["same"] is Verdict.BITS  # another key alone changes no number
    told = next(one.what for one in found.rows if one.row.method == "good")
    assert "the weights (of other settings, code or libraries)" in told


def test_rows_without_numbers_cannot_be_compared(tmp_path: Path) -> None:
    broken = {(0, budget): ("failed", "broken") for budget in BUDGETS}
    rows = (*ROWS, Made("crashed", broken=broken))
    old = write_records(tmp_path / "old", rows)
    assert verdicts(replicate(old, old))["crashed"] is Verdict.UNKNOWN
    new = write_records(tmp_path / "new", (*ROWS, Made("crashed")))
    found = replicate(old, new)
    assert verdicts(found)["crashed"] is Verdict.UNKNOWN and not found.failed


def test_one_seed_leans_on_the_spread_of_the_other_study(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    many = runs_of(tmp_path / "many", range(5), {"a": 0.4, "b": 0.4}, 0.08, rng)
    one = runs_of(tmp_path / "one", range(7, 8), {"a": 0.4, "b": 0.4}, 0.0, rng)
    other = runs_of(tmp_path / "other", range(8, 9), {"a": 0.5, "b": 0.5}, 0.0, rng)
    for pair in ((many, one), (one, many), (many, other)):
        assert set(verdicts(replicate(*pair)).values()) == {Verdict.INTERVALS}
    assert set(verdicts(replicate(one, other)).values()) == {Verdict.UNKNOWN}


def test_records_of_other_studies_and_problems_are_refused(records: Path, tmp_path: Path) -> None:
    other = write_records(tmp_path / "rows", (Made("else", gain=1.0),))
    with pytest.raises(UserError, match="no row or no budget in common"):
        replicate(records, other)
    fewer = write_records(tmp_path / "problems", ROWS, per_tier=19)
    with pytest.raises(UserError, match="evaluated on other problems of LADDER"):
        replicate(records, fewer)


def test_the_command_says_it_by_its_exit_status(records: Path, tmp_path: Path) -> None:
    same = CliRunner().invoke(cli.app, ["verify", str(records), str(records)])
    assert same.exit_code == 0 and same.output.count("reproduced bit for bit") == 3
    rng = np.random.default_rng(3)
    new = runs_of(tmp_path / "new", range(5), {"a": 0.1}, 0.01, rng)
    old = runs_of(tmp_path / "old", range(5), {"a": 0.4}, 0.01, rng)
    result = CliRunner().invoke(cli.app, ["verify", str(old), str(new)])
    assert result.exit_code == 1
