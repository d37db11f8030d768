"""Two records, or two rows of one, side by side: what differs, by how much, and nothing where all is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic import BUDGETS, Made, seal, write_records
from test_replication import copied, first, runs_of
from typer.testing import CliRunner

from repro import cli
from repro.errors import UserError
from repro.method import Role
from repro.reporting.analysis import Analysis, Difference
from repro.reporting.compare import Comparison, Score, compare
from repro.reporting.results import X, load
from repro.reporting.statistics import holm

BROKEN = {(s, b): ("failed", "it broke") for s in (0, 1, 2) for b in BUDGETS}
ROWS = (
    Made("base", Role.BASE),
    Made("good", gain=1.5),
    Made("same", gain=0.5),
    Made("crashed", broken=BROKEN),
)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("made") / "records", ROWS)


def scores_of(found: Comparison, row: str) -> list[Score]:
    return [one for one in found.scores if one.row.method == row]


def test_a_study_and_itself_differ_in_nothing(records: Path) -> None:
    found = compare(records, records)
    told = [one.difference for one in found.scores if isinstance(one.difference, Difference)]
    assert [one.mean for one in told] == [0.0] * 3 * 4
    assert found.nothing and not found.settings and not found.differing_costs and not found.left_out
    assert found.sentence == (
        "Nothing differs: every difference of scores (12) is exactly 0, and settings and costs are the same."
    )
    assert all(isinstance(one.difference, X) for one in scores_of(found, "crashed"))
    assert "CRASHED at 1.00 GFLOP: failed: it broke" in found.text()


def test_one_thing_that_differs_is_seen(records: Path, tmp_path: Path) -> None:
    def key(frame: pd.DataFrame) -> None:
        frame.loc[(frame["method"] == "good") & (frame["seed"] == 1), "key"] = "other"

    found = compare(records, copied(records, tmp_path / "key", "runs.csv", key))
    assert found.settings == [
        ("GOOD: key of seed 1 (method, settings, code or libraries)", "good-1", "other")
    ]
    assert not found.nothing and all(one.same for one in found.scores)

    def slower(frame: pd.DataFrame) -> None:
        frame.loc[(frame["method"] == "good") & (frame["account"] == "train"), "seconds"] = 5.5

    found = compare(records, copied(records, tmp_path / "time", "machine.csv", slower))
    assert not found.nothing and not found.settings
    (cost,) = found.differing_costs
    assert (cost.row.method, cost.account, cost.seconds) == ("good", "train", (10.0, 22.0))
    assert cost.flops[0] == cost.flops[1] > 0

    def wrong(frame: pd.DataFrame) -> None:
        at = first(frame[frame["correct"] & (frame["mode"] == "sampled")])
        frame["verdict"] = frame["verdict"].astype(str)
        frame.loc[at, ["correct", "verdict"]] = [False, "wrong"]

    found = compare(records, copied(records, tmp_path / "score", "samples.parquet", wrong))
    assert [one.same for one in scores_of(found, "good")] == [False, True, True, True]
    assert all(one.same for one in scores_of(found, "same"))
    changed = scores_of(found, "good")[0].difference
    assert isinstance(changed, Difference) and changed.mean > 0 and changed.low < changed.mean < changed.high


def test_differences_are_those_of_the_statistics_with_one_correction_over_all(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    a = runs_of(tmp_path / "a", range(5), {"a": 0.40, "b": 0.40, "c": 0.45}, 0.02, rng)
    b = runs_of(tmp_path / "b", range(10, 14), {"a": 0.40, "b": 0.52, "d": 0.4}, 0.02, rng)
    found = compare(a, b)
    ours, theirs = Analysis(load(a)), Analysis(load(b))
    assert [(one.row.method, one.budget) for one in found.scores] == [
        (row, budget) for row in "ab" for budget in (10**9, 4 * 10**9)
    ]
    wanted = [ours.replication(theirs, one.row.method, one.budget) for one in found.scores]
    assert [one.difference for one in found.scores] == wanted
    assert [one.p_holm for one in found.scores] == holm(
        [one.p for one in wanted if isinstance(one, Difference)]
    )
    assert "2 of 4 differences are significant" in found.sentence
    mean = found.scores[2].difference
    assert isinstance(mean, Difference) and -0.2 < mean.high < 0  # A less B
    assert {"rows of A alone: c", "rows of B alone: d", "seeds of B alone: 10, 11, 12, 13"} <= {
        *found.left_out
    }
    assert ("seeds", [0, 1, 2, 3, 4], [10, 11, 12, 13]) in found.settings


def test_two_rows_of_one_study_are_paired_as_in_its_tables(records: Path) -> None:
    found = compare(records, row="good", against="base")
    analysis = Analysis(load(records))
    assert [one.difference for one in found.scores] == [
        analysis.difference("good", "base", budget) for budget in BUDGETS
    ]
    assert ("GOOD against BASE: role", "method", "base") in found.settings
    assert [one.difference for one in compare(records, records, "good", "base").scores] == [
        one.difference for one in found.scores
    ]
    assert compare(records, row="good").nothing  # against itself
    assert compare(records, records, "good").nothing


def test_a_row_against_another_of_another_study(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    a = runs_of(tmp_path / "a", range(5), {"a": 0.4, "b": 0.6}, 0.02, rng)
    b = runs_of(tmp_path / "b", range(5), {"a": 0.6, "c": 0.4}, 0.02, rng)
    (one, _), (other, _) = (compare(a, b, row, "c").scores for row in "ab")
    assert isinstance(one.difference, Difference) and one.p_holm > 0.05
    assert isinstance(other.difference, Difference) and other.difference.low > 0.1
    whole = np.mean([one.a.mean, one.b.mean])  # type: ignore[union-attr]
    assert 0.3 < whole < 0.5
    single = (
        runs_of(tmp_path / "one", range(1), {"c": 0.4}, 0.0, rng),
        runs_of(tmp_path / "two", range(1), {"a": 0.4}, 0.0, rng),
    )
    lacking = compare(*single, "c", "a").scores[0].difference
    assert isinstance(lacking, X) and "one training seed" in lacking.reason


def test_other_problems_are_refused_or_left_out(records: Path, tmp_path: Path) -> None:
    fewer = write_records(tmp_path / "fewer", ROWS, per_tier=19)
    with pytest.raises(UserError, match=r"of no benchmark they have the same problems .* cannot be paired"):
        compare(records, fewer)

    facts = json.loads((records / "study.json").read_text())
    facts["benchmarks"][0]["content"] = "others of the same names"
    other = copied(records, tmp_path / "content", "runs.csv", lambda frame: None)
    with pytest.raises(UserError, match="of no benchmark"):
        compare(records, seal(other, facts))

    two = write_records(tmp_path / "two", ROWS, benchmarks=("ladder", "amc"))
    one = write_records(tmp_path / "one", ROWS, benchmarks=("ladder",))
    assert compare(two, two).problems == {"LADDER": 60, "AMC": 60}
    found = compare(one, two)
    assert found.problems == {"LADDER": 60}
    assert any(text.startswith("AMC is not compared") for text in found.left_out)
    assert any(text.startswith("AMC is not compared") for text in compare(two, one).left_out)


def test_budgets_and_rows_that_only_one_has(records: Path, tmp_path: Path) -> None:
    fewer = write_records(tmp_path / "fewer", ROWS[:2], budgets=BUDGETS[1:3])
    found = compare(records, fewer)
    assert {one.budget for one in found.scores} == {*BUDGETS[1:3]} and found.budget == BUDGETS[2]
    assert "rows of A alone: crashed, same" in found.left_out
    none = write_records(tmp_path / "none", ROWS[:2], budgets=(3 * 10**9,))
    with pytest.raises(UserError, match="no budget in common"):
        compare(records, none)
    with pytest.raises(UserError, match="no row in common; name one of each"):
        compare(records, write_records(tmp_path / "else", (Made("else"),)))
    with pytest.raises(UserError, match="has no row `what`; its rows are"):
        compare(records, row="what")
    with pytest.raises(UserError, match="alone is nothing to compare"):
        compare(records)
    with pytest.raises(UserError, match="name a row of A with --row"):
        compare(records, records, against="good")


def test_settings_that_a_tuning_chose_are_named(records: Path, tmp_path: Path) -> None:
    def tuned(frame: pd.DataFrame) -> None:
        chosen = (frame["method"] == "good") & (frame["chosen"] == 1)
        frame.loc[chosen, "settings"] = '{"rate": 0.2}'

    found = compare(records, copied(records, tmp_path / "tuned", "tuning.csv", tuned))
    assert found.settings == [("GOOD: hyper-parameters by tuning.rate", 0.1, 0.2)]


def test_the_command_prints_a_page_and_json(records: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    rows = (Made("base", Role.BASE), Made("good", gain=1.0, title="<b>Good & bad</b>"))
    other = write_records(tmp_path / "other", rows, seeds=(3, 4))
    result = CliRunner().invoke(cli.app, ["compare", str(other), str(other), "--html", str(page)])
    assert result.exit_code == 0 and "Nothing differs" in result.output
    text = page.read_text()
    assert "Nothing differs" in text and "&lt;b&gt;Good &amp; bad&lt;/b&gt;" in text
    assert "<b>Good" not in text and "http" not in text and "<script" not in text
    result = CliRunner().invoke(cli.app, ["compare", str(records), str(other), "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.output)
    assert found["paired_by"] == {"LADDER": 60} and not found["nothing_differs"]
    assert {one["row"] for one in found["differences"]} == {"base", "good"}
    assert {one["setting"] for one in found["settings"]} == {"seeds"}
    assert {one["account"] for one in found["costs"] if one["row"] == "good"} >= {
        "train",
        "sample",
        "evaluate",
    }
