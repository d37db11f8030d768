"""Tables, figures and report rebuilt from records: a golden table, X rows, the same bytes twice."""

from __future__ import annotations

import hashlib
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from test_statistics import ABSENT, BUDGETS, ROWS, Made, write_records

from repro.method import Role
from repro.reporting.analysis import Analysis
from repro.reporting.page import build
from repro.reporting.results import load
from repro.reporting.tables import all_tables, flops, leaderboard, p_text, signed, significant, use

TABLES = ("leaderboard", "tiers", "flops_to_target", "costs", "quality", "use")
FIGURES = ("accuracy", "differences", "spend", "frequency")


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("made") / "records", ROWS)


@pytest.fixture(scope="session")
def out(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    build(records, folder)
    return folder


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (2.5, "2.50"),
        (50, "50.0"),
        (500, "500"),
        (1234, "1,234"),
        (0.0312, "0.0312"),
        (999.7, "1,000"),
    ],
)
def test_three_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


def test_units_for_people() -> None:
    assert flops(2_500_000_000_000) == "2.50 TFLOP"
    assert flops(750 * 10**18) == "750 EFLOP"
    assert flops(0) == "0 FLOP"
    assert (signed(0.0512), signed(-0.0004), signed(-0.02)) == ("+5.1", "0.0", "\N{MINUS SIGN}2.0")
    assert (p_text(0.0004), p_text(0.0321), p_text(1.0)) == ("p < .001", "p .032", "p 1.000")


GOLDEN = """\
method,title,role,rank_low,rank_high,accuracy_1000,accuracy_1000_low,accuracy_1000_high,vs_base,vs_base_low,\
vs_base_high,vs_base_p_holm,spent,use,note,missing
good,Good,method,1,1,0.75,0.75,0.75,0.25,0.25,0.25,0.132487,995,0.995,,
base,Base,base,,,0.5,0.5,0.5,,,,,0,,,
"""


def test_golden_leaderboard(tmp_path: Path) -> None:
    """Four problems, four samples each, one seed. The base solves 2 of 4 samples of every problem and the
    method 3: problems do not differ, so intervals have no width. Of the 16 sign patterns 2 are as extreme,
    p = .125; the 10,000 random ones give .132."""
    samples = []
    for method, solved in (("base", [1, 0, 1, 0]), ("good", [1, 1, 1, 0])):
        for problem in range(4):
            for sample, correct in enumerate(solved):
                samples.append(
                    (method, 0, 1000, "ladder", "sampled", "1", f"p{problem}", sample, bool(correct), "wrong")
                )
    frame = pd.DataFrame(samples, columns=["method", "seed", "budget", "benchmark", "mode", "tier", "problem",
                                           "sample", "correct", "verdict"])  # fmt: skip
    frame.assign(answer="7", tokens=5, finish="stop", text_hash="a").to_parquet(tmp_path / "samples.parquet")
    (tmp_path / "runs.csv").write_text(
        "method,title,role,paper,seed,budget,spent,use,papers_flops,status,reason,rounds,steps,mode_note\n"
        "base,Base,base,,0,1000,0,0,0,ok,,0,0,\ngood,Good,method,,0,1000,995,0.995,1200,ok,,1,2,\n"
    )
    (tmp_path / "ledger.csv").write_text(
        "method,seed,budget,account,flops,papers_flops,tokens\ngood,0,1000,train,995,1200,7\n"
    )
    (tmp_path / "visits.csv").write_text("method,seed,tier,trained,problems,pool\ngood,0,1,6,3,4\n")
    facts = {
        "name": "g", "title": "Golden", "budgets": [1000], "seeds": [0],
        "benchmarks": [{"name": "ladder", "title": "Ladder", "tiers": ["1"], "metric": "avg@4", "macro": True,
                        "samples_per_problem": 4, "max_tokens": 9}],
        "evaluation": {"prompt": {"digest": "abc"}, "engine": {"engine": "transformers"}, "tasks": {"t": 1}},
        "target_accuracies": [0.6], "versions": {}, "command": "make",
        "model": {"description": "none", "parameters": 1},
    }  # fmt: skip
    (tmp_path / "study.json").write_text(json.dumps(facts))
    table = leaderboard(Analysis(load(tmp_path)))
    assert table.csv() == GOLDEN
    assert "| **75.0**<br>[75.0, 75.0] |" in table.markdown()
    assert any("One training seed" in note for note in table.notes)
    build(tmp_path, tmp_path / "out")  # one budget, one seed, no greedy, no control


def test_several_benchmarks_have_a_leaderboard_each(tmp_path: Path) -> None:
    """And an overview that is the study's leaderboard; what is not about a benchmark is there once."""
    names = ("gsm8k", "math500")
    build(write_records(tmp_path / "records", ROWS, per_tier=6, benchmarks=names), tmp_path / "out")
    found = {path.name for path in (tmp_path / "out" / "tables").glob("*.md")}
    per_benchmark = {f"{kind}_{name}.md" for kind in ("leaderboard", "tiers") for name in names}
    assert found == per_benchmark | {f"{name}.md" for name in TABLES} - {"tiers.md"}
    figures = {path.name for path in (tmp_path / "out" / "figures").glob("*.png")}
    assert figures == {f"{kind}_{name}.png" for kind in ("accuracy", "differences") for name in names} | {
        "spend.png", "frequency.png"
    }  # fmt: skip
    tables = {path.stem: pd.read_csv(path) for path in (tmp_path / "out" / "tables").glob("*.csv")}
    overview = tables["leaderboard"].set_index("method")
    for name in names:
        board = tables[f"leaderboard_{name}"].set_index("method")
        assert overview[f"accuracy_{name}"].equals(board[f"accuracy_{BUDGETS[3]}"].loc[overview.index])
        quality = tables["quality"].query("Benchmark == @name.upper()").set_index("method")
        assert quality["pass@1"].loc["good"] == pytest.approx(overview[f"accuracy_{name}"].loc["good"])
        assert (quality["maj@4"].dropna() <= quality["pass@4"].dropna()).all()
    assert set(tables["flops_to_target"].Benchmark) == {"GSM8K", "MATH500"}
    page = (tmp_path / "out" / "report.html").read_text()
    checker = _Checker()
    checker.feed(page)
    assert checker.open == [] and len(checker.images) == 6
    assert all(f'<table id="{name}">' in page for name in tables)


def test_benchmarks_may_differ_in_their_samples(tmp_path: Path) -> None:
    """aime24 has 4 samples, gsm8k only the first: pass@4 is blank there."""
    records = write_records(tmp_path / "records", ROWS[:4], per_tier=4, benchmarks=("aime24", "gsm8k"))
    samples = pd.read_parquet(records / "samples.parquet")
    samples.query("benchmark == 'aime24' or sample == 0").to_parquet(records / "samples.parquet")
    facts = json.loads((records / "study.json").read_text())
    facts["benchmarks"][1]["samples_per_problem"] = 1
    (records / "study.json").write_text(json.dumps(facts))
    build(records, tmp_path / "out")
    quality = pd.read_csv(tmp_path / "out" / "tables" / "quality.csv").set_index(["Benchmark", "method"])
    assert quality["pass@4"].loc["AIME24"].notna().all() and quality["pass@4"].loc["GSM8K"].isna().all()
    one = quality.loc["GSM8K"]
    assert one["maj@k"].to_numpy() == pytest.approx(one["pass@1"].to_numpy())  # of one sample


def test_every_file_is_written(out: Path) -> None:
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    wanted = {f"tables/{name}.{kind}" for name in TABLES for kind in ("md", "csv", "tex")}
    assert found == wanted | {f"figures/{name}.{kind}" for name in FIGURES for kind in ("png", "svg")} | {
        "report.html"
    }


def test_two_builds_are_the_same_bytes(records: Path, out: Path, tmp_path: Path) -> None:
    """The second from the same samples in another order."""
    copied = shutil.copytree(records, tmp_path / "records")
    samples = pd.read_parquet(copied / "samples.parquet")
    samples.sample(frac=1, random_state=1).to_parquet(copied / "samples.parquet")
    build(copied, tmp_path / "out")

    def hashes(folder: Path) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    assert hashes(tmp_path / "out") == hashes(out)


def test_no_dates_in_figures(out: Path) -> None:
    for name in FIGURES:
        assert b"dc:date" not in (out / "figures" / f"{name}.svg").read_bytes()
        png = (out / "figures" / f"{name}.png").read_bytes()
        assert b"tEXt" not in png and b"tIME" not in png


def test_x_rows_say_why_in_every_format(out: Path) -> None:
    reason = "seed 1 failed: loss is not finite at step 31 (at 8.00 GFLOP)"
    for path in ("tables/leaderboard.md", "tables/leaderboard.tex", "tables/leaderboard.csv", "report.html"):
        assert reason in (out / path).read_text()
        assert "the study has no process scorer" in (out / path).read_text()
    board = pd.read_csv(out / "tables" / "leaderboard.csv").set_index("method")
    assert board.loc[["crashed", "absent"], f"accuracy_{BUDGETS[3]}"].isna().all()
    assert not pd.isna(board.loc["crashed", f"accuracy_{BUDGETS[2]}"])
    lines = (out / "tables" / "leaderboard.md").read_text().splitlines()
    crashed = next(line for line in lines if "| CRASHED" in line)
    assert [cell.strip() for cell in crashed.split("|")[7:-1]] == ["X"] * 4


def test_rows_are_sorted_by_score_with_incomplete_rows_last(out: Path) -> None:
    board = pd.read_csv(out / "tables" / "leaderboard.csv")
    scores = board[f"accuracy_{BUDGETS[3]}"]
    assert scores.dropna().is_monotonic_decreasing
    assert list(board.method[-2:]) == ["absent", "crashed"]


def test_costs_add_up_to_what_was_spent(out: Path) -> None:
    costs = pd.read_csv(out / "tables" / "costs.csv")
    inside = costs[costs.account.isin(["train", "sample", "search", "reward", "embed"])]
    board = pd.read_csv(out / "tables" / "leaderboard.csv").set_index("method")
    for method, total in inside.groupby("method").flops.sum().items():
        assert total == pytest.approx(board.loc[method, "spent"], abs=3)
    assert inside[inside.method == "good"].share.sum() == pytest.approx(1, abs=1e-5)


def test_a_run_outside_its_budget_or_with_a_wrong_ledger_is_flagged(records: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(records, tmp_path / "records")
    runs = pd.read_csv(copied / "runs.csv")
    first = (runs.seed == 0) & (runs.budget == BUDGETS[0])
    runs.loc[first & (runs.method == "good"), "spent"] = BUDGETS[0] * 9 // 10
    runs.loc[first & (runs.method == "twin"), "spent"] -= 1
    runs.to_csv(copied / "runs.csv", index=False)
    table = use(Analysis(load(copied)))
    shown = table.cells.set_index("Method")["1.00 GFLOP"]
    assert shown["GOOD"] == "90.00\N{EN DASH}99.90 !" and shown["TWIN"].endswith("!")
    assert not shown["WEAK"].endswith("!")
    assert table.data.query("not valid and status == 'ok'").method.tolist() == ["good", "twin"]


class _Checker(HTMLParser):
    """Every tag that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_report_is_well_formed_and_self_contained(out: Path) -> None:
    page = (out / "report.html").read_text()
    checker = _Checker()
    checker.feed(page)
    assert checker.open == []
    assert len(checker.images) == len(FIGURES)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in checker.images)
    assert "snakemake tables" in page and "800,000 parameters" in page
    assert "boxed, digest abc" in page and "transformers, torch 2.13" in page and "ladder_sampled 1" in page
    assert all(f'<table id="{name}">' in page for name in TABLES)


def test_marks_in_names_do_not_break_a_table(tmp_path: Path) -> None:
    rows = (Made("base", Role.BASE), Made("a|b_<i>&", gain=1.0))
    tables = all_tables([Analysis(load(write_records(tmp_path, rows, seeds=(0,), per_tier=3, k=2)))])
    for table in tables:
        lines = [line for line in table.markdown().splitlines() if line.startswith("|")]
        assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
        assert "A|B_&lt;I&gt;&amp;" in table.html()
        assert r"\_" in table.latex() and r"\&" in table.latex()


def test_a_study_of_nothing_but_x_still_builds(tmp_path: Path) -> None:
    rows = (Made("base", Role.BASE, broken=ABSENT), Made("absent", broken=ABSENT))
    build(write_records(tmp_path / "records", rows), tmp_path / "out")
    board = (tmp_path / "out" / "tables" / "leaderboard.md").read_text()
    assert "X ABSENT: unavailable: the study has no process scorer" in board
