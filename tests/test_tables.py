"""Tables, figures and report rebuilt from records: a golden table, X rows, the same bytes twice."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from synthetic import (
    ABSENT,
    BUDGETS,
    ONE_TIER,
    ROWS,
    Made,
    entry,
    facts_of,
    run_line,
    seal,
    solved,
    write,
    write_records,
)

from repro.errors import UserError
from repro.method import Role
from repro.reporting.analysis import Analysis
from repro.reporting.comparisons import curves_of, targets
from repro.reporting.costs import costs, machine, stranded, tuning, use
from repro.reporting.figures import look_of, monitors, thinned
from repro.reporting.page import build, render
from repro.reporting.results import load, one_line
from repro.reporting.table import DASH, Bold, Table, flops, p_text, signed, significant
from repro.reporting.tables import all_tables, headline, leaderboard, overview, summary, tiers
from repro.schema import SEEN

TABLES = (
    "leaderboard", "differences", "seeds", "tiers", "flops_to_target", "iso_accuracy", "papers",
    "improvement", "costs", "tuning", "stranded", "quality", "use", "machine",
)  # fmt: skip
Line = dict[str, object]
FIGURES = ("accuracy", "differences", "gains", "spend", "frequency", "monitors", "logged")


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
method,title,role,objective,rank_low,rank_high,accuracy_1000,accuracy_1000_low,accuracy_1000_high,vs_base,\
vs_base_low,vs_base_high,vs_base_p_holm,spent,use,note,missing
good,Good,method,SFT,1,1,0.75,0.329124,0.963155,0.25,-0.483518,0.983518,0.125,992,0.992,,
base,Base,base,SFT,,,0.5,0.193039,0.806961,,,,,0,,,
"""


def golden(folder: Path, seeds: int = 1) -> Path:
    """Four problems, four samples each. The base solves 2 of 4 samples of every problem and the method 3; 124
    tokens of 8 FLOPs are its spend."""
    counts = {"base": 2, "good": 3}
    each = [(method, seed) for method in counts for seed in range(seeds)]
    return write(
        folder,
        facts_of(budgets=[1000], seeds=list(range(seeds)), benchmarks=[ONE_TIER]),
        runs=[
            run_line("base", seed, 1000, role="base", steps=0) if method == "base"
            else run_line(method, seed, 1000, spent=992, papers_flops=1240) for method, seed in each
        ],
        ledger=[entry("good", seed, 1000, "train", 124) for seed in range(seeds)],
        samples=[s for method, seed in each for s in solved(method, seed, 1000, [counts[method]] * 4)],
    )  # fmt: skip


def test_golden_leaderboard(tmp_path: Path) -> None:
    """Problems do not differ, so intervals are as wide as half a problem at either end makes them. Of the 16
    sign patterns 2 are as extreme, p = .125."""
    records = golden(tmp_path / "records")
    table = leaderboard(Analysis(load(records)))
    assert table.csv() == GOLDEN
    assert "| 75.0<br>[32.9, 96.3] |" in table.markdown()
    assert any("One training seed" in note for note in table.notes)
    build(records, tmp_path / "out")  # one budget, one seed, no greedy, no control


def test_a_leaderboard_tells_the_digest_of_problems_that_the_suite_does_not_pin(tmp_path: Path) -> None:
    records = golden(tmp_path / "records")
    assert not any("pin" in note for note in leaderboard(Analysis(load(records))).notes)
    facts = json.loads((records / "study.json").read_text())
    facts["benchmarks"][0]["content"] = "0123abcd"
    told = [note for note in leaderboard(Analysis(load(seal(records, facts)))).notes if "pin" in note]
    title = facts["benchmarks"][0]["title"]
    assert told == [f"{title}: the suite does not pin these problems; their digest is 0123abcd."]


def test_few_seeds_are_preliminary_and_put_nobody_first(tmp_path: Path) -> None:
    """A study of five seeds has its first ranks in bold; with fewer, all that shows a result says what it
    rests on."""
    for seeds in (4, 5):
        analysis = Analysis(load(golden(tmp_path / str(seeds), seeds)))
        board = leaderboard(analysis).markdown()
        sentence = headline(analysis)
        page = render([analysis], all_tables([analysis]), {}, {}, None)
        said = [
            "Preliminary: 4 training seeds" in sentence,
            "(preliminary)" in board, "Preliminary: 4 training seeds" in board, "or settings" in board,
            '<p class="banner" role="note">At 1,000 FLOP' in page,
        ]  # fmt: skip
        assert all(said) if seeds == 4 else not any(said)
        assert ("**75.0**" in board) == (seeds == 5) and "not tuned evenly" in board


def test_a_headline_counts_what_is_beaten_and_names_the_first(tmp_path: Path) -> None:
    rows = (
        Made("base", Role.BASE), Made("more", Role.CONTINUED, gain=0.6), Made("good", gain=2.4), Made("same"),
        Made("other", Role.ABLATION, gain=2.4),
    )  # fmt: skip
    analysis = Analysis(load(write_records(tmp_path / "records", rows, seeds=(0, 1, 2, 3, 4))))
    scores = {row.method: analysis.accuracy(row.method, BUDGETS[-1]) for row in analysis.study.rows}
    good, other = (f"{100 * scores[name].mean:.1f}" for name in ("good", "other"))  # type: ignore[union-attr]
    one, two = sorted([(good, f"GOOD ({good})"), (other, f"OTHER ({other})")], reverse=True)
    assert headline(analysis) == (
        "At 8.00 GFLOP, over 5 training seeds, of 3 methods and ablations 2 score significantly higher than "
        "BASE; 2 score significantly higher than MORE; none is significantly better than "
        f"{one[1]}, {two[1]}."
    )
    text = summary([analysis])
    assert text.startswith(headline(analysis)) and "| GOOD " in text and "| OTHER " not in text
    assert "Without ablations" in text

    few = Analysis(load(write_records(tmp_path / "few", rows[:2] + rows[3:4], seeds=(0, 1))))
    assert "none scores significantly higher than BASE" in headline(few)


def test_several_benchmarks_have_a_leaderboard_each(tmp_path: Path) -> None:
    """And an overview that is the study's leaderboard; what is not about a benchmark is there once."""
    names = ("gsm8k", "math500")
    build(write_records(tmp_path / "records", ROWS, per_tier=6, benchmarks=names), tmp_path / "out")
    found = {path.name for path in (tmp_path / "out" / "tables").glob("*.md")}
    per_benchmark = {f"{kind}_{name}.md" for kind in ("leaderboard", "tiers") for name in names}
    assert found == per_benchmark | {f"{name}.md" for name in TABLES} - {"tiers.md"}
    figures = {path.name for path in (tmp_path / "out" / "figures").glob("*.png")}
    assert figures == {
        f"{kind}_{name}.png" for kind in ("accuracy", "differences", "gains") for name in names
    } | {
        "profiles.png", "spend.png", "frequency.png", "monitors.png", "logged.png"
    }  # fmt: skip
    tables = {path.stem: pd.read_csv(path) for path in (tmp_path / "out" / "tables").glob("*.csv")}
    overview = tables["leaderboard"].set_index("method")
    for name in names:
        board = tables[f"leaderboard_{name}"].set_index("method")
        assert overview[f"accuracy_{name}"].equals(board[f"accuracy_{BUDGETS[3]}"].loc[overview.index])
        quality = tables["quality"].query("Benchmark == @name.upper()").set_index("method")
        assert quality["pass@1"].loc["good"] == pytest.approx(overview[f"accuracy_{name}"].loc["good"])
        assert (quality["maj@4"].dropna() <= quality["pass@4"].dropna()).all()
    for kind in ("flops_to_target", "iso_accuracy", "papers", "improvement", "differences", "seeds"):
        assert set(tables[kind].Benchmark) == {"GSM8K", "MATH500"}
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
    build(seal(records, facts), tmp_path / "out")
    quality = pd.read_csv(tmp_path / "out" / "tables" / "quality.csv").set_index(["Benchmark", "method"])
    assert quality["pass@4"].loc["AIME24"].notna().all() and quality["pass@4"].loc["GSM8K"].isna().all()
    one = quality.loc["GSM8K"]
    assert one["maj@k"].to_numpy() == pytest.approx(one["pass@1"].to_numpy())  # of one sample


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of two benchmarks and a task that is watched for forgetting."""
    folder = tmp_path_factory.mktemp("watched") / "records"
    return write_records(folder, ROWS, benchmarks=("gsm8k", "math"), forgets=True)


COLUMN = "Δ bbh_cot_fewshot\n(forgetting)"


def test_what_was_forgotten_is_a_column(watched: Path, tmp_path: Path) -> None:
    """Of 40 documents the base knows 30; a row of gain 1.2 forgets 12, its seeds 1 and 2 one and two less:
    minus 11 of 40 in the mean."""
    study = load(watched)
    board = overview([Analysis(study, one.name) for one in study.benchmarks])
    data = board.data.set_index("method")
    assert data.loc["good", "forgetting"] == pytest.approx(-11 / 40)
    assert data.loc["good", "forgetting_low"] < -11 / 40 < data.loc["good", "forgetting_high"] < 0
    assert data.loc["random", "forgetting"] == pytest.approx(3 / 40)
    cells = board.cells.set_index("Method")[COLUMN]
    assert cells["GOOD"].startswith("\N{MINUS SIGN}27.5\n[") and cells["RANDOM"].startswith("+7.5\n[")
    assert (cells["BASE"], cells["CRASHED"], cells["ABSENT"]) == (DASH, "X", "X")
    notes = "\n".join(board.notes)
    assert "exact_match (get-answer), greedy, on 40 documents of the task bbh_cot_fewshot" in notes
    assert "against BASE, which has 75.0 %" in notes and "digest is d0c5" in notes
    build(watched, tmp_path)
    tables = tmp_path / "tables"
    assert "forgetting,forgetting_low,forgetting_high" in (tables / "leaderboard.csv").read_text()
    shown = {"md": "<br>(forgetting)", "tex": "(forgetting)"}
    assert all(text in (tables / f"leaderboard.{kind}").read_text() for kind, text in shown.items())
    page = (tmp_path / "report.html").read_text()
    assert "Δ bbh_cot_fewshot<br>(forgetting)" in page and "<dt>Forgetting</dt>" in page
    assert "documents: 40 (navigate: 20, snarks: 20)" in page


def test_what_was_forgotten_ranks_nothing(watched: Path, tmp_path: Path) -> None:
    """All else is as it would be without the task; it has no table and no figure of its own."""
    build(watched, tmp_path / "with")
    build(write_records(tmp_path / "records", ROWS, benchmarks=("gsm8k", "math")), tmp_path / "without")
    for folder in ("tables", "figures"):
        names = sorted(path.name for path in (tmp_path / "without" / folder).iterdir())
        assert names == sorted(path.name for path in (tmp_path / "with" / folder).iterdir())
        for name in names:
            with_it, without = ((tmp_path / one / folder / name).read_bytes() for one in ("with", "without"))
            evaluation = name.startswith(("costs.", "leaderboard."))  # what it took is told, and the column
            assert evaluation or with_it == without, name
    assert b"orgetting" not in (tmp_path / "without" / "report.html").read_bytes()


def test_of_one_benchmark_the_leaderboard_has_the_column(tmp_path: Path) -> None:
    records = write_records(tmp_path / "records", ROWS, forgets=True)
    board, *others = all_tables([Analysis(load(records))])
    assert COLUMN in board.cells.columns and COLUMN not in {c for one in others for c in one.cells.columns}
    no_base = write_records(tmp_path / "no_base", ROWS[1:], forgets=True)
    assert COLUMN not in leaderboard(Analysis(load(no_base))).cells.columns


def test_a_hole_in_what_was_asked_is_refused(watched: Path, tmp_path: Path) -> None:
    records = shutil.copytree(watched, tmp_path / "records")
    samples = pd.read_parquet(records / "samples.parquet")
    last = samples.index[(samples["benchmark"] == "forgetting") & (samples["method"] == "good")][-1]
    samples.drop(index=last).to_parquet(records / "samples.parquet", index=False)
    with pytest.raises(UserError, match="has 39 greedy rows of forgetting where one a problem is due"):
        load(seal(records))
    other = samples.copy()
    other.loc[last, "mode"] = "sampled"
    other.to_parquet(records / "samples.parquet", index=False)
    with pytest.raises(UserError, match="sampled rows per problem of forgetting where 0 are due"):
        load(seal(records))


def test_every_file_is_written(out: Path) -> None:
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    wanted = {"summary.md"} | {f"tables/{name}.{kind}" for name in TABLES for kind in ("md", "csv", "tex")}
    assert found == wanted | {f"figures/{name}.{kind}" for name in FIGURES for kind in ("png", "svg")} | {
        "report.html"
    }


@pytest.mark.promise(
    "Records and report",
    "The same records give the same tables, figures and report, byte for byte, in whatever order they came.",
)
def test_two_builds_are_the_same_bytes(records: Path, out: Path, tmp_path: Path) -> None:
    """The second from the same samples in another order."""
    copied = shutil.copytree(records, tmp_path / "records")
    samples = pd.read_parquet(copied / "samples.parquet")
    samples.sample(frac=1, random_state=1).to_parquet(copied / "samples.parquet")
    build(seal(copied), tmp_path / "out")
    digests = [json.loads((folder / "study.json").read_text())["digest"] for folder in (copied, records)]

    def hashes(folder: Path) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): hashlib.sha256(
                path.read_bytes().replace(digests[0].encode(), digests[1].encode())  # the page shows it
            ).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    assert hashes(tmp_path / "out") == hashes(out)


def test_no_dates_in_figures(out: Path) -> None:
    for name in FIGURES:
        assert b"dc:date" not in (out / "figures" / f"{name}.svg").read_bytes()
        png = (out / "figures" / f"{name}.png").read_bytes()
        assert b"tEXt" not in png and b"tIME" not in png


def test_no_two_rows_look_alike(tmp_path: Path) -> None:
    """Methods and ablations differ by colour or dashes, several controls of one kind by their markers."""
    roles = [*[Role.METHOD] * 20, *[Role.ABLATION] * 20, Role.BASE, *[Role.NEGATIVE] * 4, Role.UPPER]
    rows = tuple(Made(f"row{i}", role) for i, role in enumerate(roles))
    records = write_records(tmp_path / "records", rows, seeds=(0,), budgets=BUDGETS[:1], per_tier=1, k=1)
    analysis = Analysis(load(records))
    looks = {row.method: look_of(analysis, row) for row in analysis.study.rows}
    main = [(str(look["color"]), str(look["ls"])) for method, look in looks.items() if int(method[3:]) < 40]
    all_of_it = [(look["color"], str(look["ls"]), look["marker"]) for look in looks.values()]
    assert len(set(main)) == 40 and len(set(all_of_it)) == len(rows)
    (legend,) = monitors(analysis, ["solved"]).legends
    assert len(legend.get_lines()) == len(rows) - 1  # the base model looks at nothing


def test_a_panel_has_the_rows_that_have_its_monitor(records: Path) -> None:
    """The mean over seeds of rounds that all of them have, and each seed; incomplete rows are left out."""
    study = load(records)
    both, own = monitors(Analysis(study), ["solved", "own_twin"]).axes
    complete = [row for row in study.rows if not study.incomplete(row.method, study.top)]
    assert (both.get_title(), own.get_title()) == (SEEN["solved"], "own_twin")
    assert len(both.lines) == 4 * sum(row.role is not Role.BASE for row in complete)
    *seeds, mean = own.lines
    assert [list(line.get_ydata()) for line in (*seeds, mean)] == [[-1, -2, -3, -4]] * 4
    runs = [study.monitored("twin", seed, study.top)["own_twin"] for seed in study.seeds]
    spent = [np.mean([run[n]["spent"] for run in runs]) / 1e9 for n in (1, 2, 3, 4)]
    assert list(mean.get_xdata()) == pytest.approx(spent)


def test_of_a_long_run_not_every_round_is_drawn() -> None:
    x, y = thinned([(i, -i) for i in range(1001)])
    assert len(x) <= 50 and (x[-1], y[-1]) == (1000, -1000) and list(x) == sorted(x)
    assert [list(axis) for axis in thinned([(1, 2), (3, 4)])] == [[1, 3], [2, 4]]


@pytest.mark.promise(
    "A fair comparison", "A run that failed is an X with its reason, never a mean over what is left."
)
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
    assert [cell.strip() for cell in crashed.split("|")[8:-1]] == ["X"] * 4


def test_rows_are_sorted_by_score_with_incomplete_rows_last(out: Path) -> None:
    board = pd.read_csv(out / "tables" / "leaderboard.csv")
    scores = board[f"accuracy_{BUDGETS[3]}"]
    assert scores.dropna().is_monotonic_decreasing
    assert list(board.method[-2:]) == ["absent", "crashed"]


def test_costs_add_up_to_what_was_spent(out: Path) -> None:
    costs = pd.read_csv(out / "tables" / "costs.csv")
    inside = costs[costs.account.isin(["train", "sample", "search", "reward"])]
    board = pd.read_csv(out / "tables" / "leaderboard.csv").set_index("method")
    for method, total in inside.groupby("method").flops.sum().items():
        assert total == pytest.approx(board.loc[method, "spent"], abs=3)
    assert inside[inside.method == "good"].share.sum() == pytest.approx(1, abs=1e-5)


def test_what_is_outside_the_budget_stands_beside_it(records: Path) -> None:
    """Rules at every row that uses them, up to the budget; the warm start once, as it is shared."""
    table = costs(Analysis(load(records)))
    shown = table.cells.set_index("Method")["(rules)"]
    assert shown["GOOD"] == "0.0320" and shown["TWIN"] == "\N{EN DASH}"  # 4 budgets * 10^6 tokens * 8 FLOPs
    assert any("warm start, which all rows share, cost 2.40 GFLOP (3.00 GFLOP in" in n for n in table.notes)
    assert table.data.query("account == 'warm_start'").flops.tolist() == [24 * 10**8]


def made(folder: Path, ledger: list[Line], runs: list[Line], **more: list[Line]) -> Analysis:
    """Of one row "good" at the budgets 1000 and 2000, in one seed, that solves half."""
    facts = facts_of(budgets=[1000, 2000], seeds=[0], benchmarks=[ONE_TIER])
    samples = [sample for budget in (1000, 2000) for sample in solved("good", 0, budget, [2, 2])]
    return Analysis(load(write(folder, facts, runs=runs, ledger=ledger, samples=samples, **more)))


def test_stranded_spend_by_hand(tmp_path: Path) -> None:
    """In tokens of 8 FLOPs. Up to 1000: 20 sampled, 10 trained on (3 passes), then 5 probed, 5 sampled and 10
    scored, beside rules that are outside: 20 of 70. Up to 2000: then 17 trained on, and 29 more sampled, of
    150."""
    ledger = [
        entry("good", 0, 1000, "sample", 20), entry("good", 0, 1000, "train", 10, passes=3),
        entry("good", 0, 1000, "search", 5), entry("good", 0, 1000, "sample", 5),
        entry("good", 0, 1000, "reward", 10), entry("good", 0, 1000, "rules", 50),
        entry("good", 0, 2000, "train", 17, passes=3), entry("good", 0, 2000, "sample", 29),
    ]  # fmt: skip
    runs = [
        run_line("good", 0, 1000, spent=560, steps=3),
        run_line("good", 0, 2000, spent=1200, rounds=2, steps=9),
    ]
    table = stranded(made(tmp_path / "one", ledger, runs))
    assert table.data.stranded.tolist() == [20 * 8, 29 * 8]
    assert table.cells.iloc[0].tolist() == ["Good", "28.6 %\nrounds 1\nsteps 3", "19.3 %\nrounds 2\nsteps 9"]
    assert not any("plan" in note for note in table.notes)
    planned = [run | {"plans": 1} for run in runs]  # of 2000 only its own two lines count now
    table = stranded(made(tmp_path / "two", ledger, planned))
    assert table.data.stranded.tolist() == [20 * 8, 29 * 8]
    assert any(note.endswith("to strand nothing: Good.") for note in table.notes)


def test_a_score_without_a_training_step_is_marked(tmp_path: Path) -> None:
    runs = [run_line("good", 0, 1000, steps=0), run_line("good", 0, 2000)]
    analysis = made(tmp_path, [], runs)
    board = leaderboard(analysis)
    first, second = board.cells.iloc[0][["1,000 FLOP", "2,000 FLOP"]]
    assert first.startswith("50.0\N{DAGGER}\n") and "\N{DAGGER}" not in second
    assert any(note.startswith("\N{DAGGER} no optimizer step") for note in board.notes)
    at_top = [overview([analysis]), tiers(analysis)]  # where it has taken steps
    assert not any("\N{DAGGER}" in table.markdown() for table in at_top)
    assert r"50.0$\dagger$" in board.latex()
    reached = targets([curves_of(analysis)])  # with the base model's score, which is no feat of the method
    assert reached.cells.iloc[0, 1].startswith("< 1,000 FLOP\N{DAGGER}")
    assert any(note.startswith("\N{DAGGER} no optimizer step") for note in reached.notes)


def test_whatever_is_said_of_an_untrained_top_budget_is_marked(tmp_path: Path) -> None:
    never = [run_line("good", 0, budget, steps=0) for budget in (1000, 2000)]
    base = [run_line("base", 0, budget, title="Base", role="base", steps=0) for budget in (1000, 2000)]
    facts = facts_of(budgets=[1000, 2000], seeds=[0], benchmarks=[ONE_TIER])
    samples = [
        one for row in ("good", "base") for budget in (1000, 2000) for one in solved(row, 0, budget, [2, 2])
    ]
    analysis = Analysis(load(write(tmp_path, facts, runs=never + base, samples=samples)))
    board = leaderboard(analysis)
    shown = [*all_tables([analysis]), overview([analysis])]
    marked = {table.name for table in shown if "\N{DAGGER}" in table.cells.to_string()}
    wanted = {"leaderboard", "tiers", "flops_to_target", "quality", "differences", "seeds", "improvement"}
    assert marked == wanted
    noted = {table.name for table in shown if any("not the method" in note for note in table.notes)}
    assert noted == marked
    cells = board.cells.set_index("Method")
    assert cells.loc["Good", "Δ Base"].startswith("0.0\N{DAGGER}\n")
    assert "\N{DAGGER}" not in "".join(cells.loc["Base"])


def test_the_base_is_not_marked_for_having_no_step(out: Path) -> None:
    assert "\N{DAGGER}" not in (out / "tables" / "leaderboard.md").read_text()


def test_the_cost_of_the_machine_leaves_blank_what_is_unknown(tmp_path: Path) -> None:
    def line(budget: int, account: str, **numbers: float) -> dict[str, object]:
        blank = {"seconds": "", "joules": "", "flops": 0}
        return {"method": "good", "seed": 0, "budget": budget, "account": account, "device": "CPU | 2 cores",
                **blank, **numbers}  # fmt: skip

    lines = [line(1000, "train", seconds=1.5, joules=300), line(2000, "train", seconds=2, joules=200),
             line(1000, "evaluate", seconds=9), line(2000, "evaluate", seconds=0.25, joules=500),
             line(2000, "verify"), line(2000, "wasted", seconds=0, flops=48)]  # fmt: skip
    runs = [run_line("good", 0, 1000), run_line("good", 0, 2000)]
    shown = machine(made(tmp_path / "one", [], runs, machine=lines)).cells.iloc[0]
    # verify: its seconds are not known; the energy is that of the others
    assert shown.tolist() == ["Good", "3.50", "0.250", "", "1.00", "48.0 FLOP", "CPU | 2 cores"]
    unmeasured = [one | {"joules": "", "flops": ""} for one in lines[:4]]
    shown = machine(made(tmp_path / "two", [], runs, machine=unmeasured)).cells.iloc[0]
    assert shown.tolist() == ["Good", "3.50", "0.250", "", "", "CPU | 2 cores"]
    nothing = machine(made(tmp_path / "three", [], runs)).cells.iloc[0]
    assert nothing.tolist() == ["Good", "", "", ""]


def test_no_mean_is_taken_over_the_machines_that_were_measured(records: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(records, tmp_path / "records")
    lines = pd.read_csv(copied / "machine.csv")
    lines[(lines.method != "good") | (lines.seed != 1)].to_csv(copied / "machine.csv", index=False)
    shown = machine(Analysis(load(seal(copied)))).cells.set_index("Method")["Train\n(s)"]
    assert (shown["GOOD"], shown["WEAK"]) == ("", "10.0")


def test_a_run_outside_its_budget_or_with_a_wrong_ledger_is_flagged(records: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(records, tmp_path / "records")
    runs = pd.read_csv(copied / "runs.csv")
    first = (runs.seed == 0) & (runs.budget == BUDGETS[0])
    runs.loc[first & (runs.method == "good"), "spent"] = BUDGETS[0] * 9 // 10
    runs.loc[first & (runs.method == "twin"), "spent"] -= 1
    runs.to_csv(copied / "runs.csv", index=False)
    table = use(Analysis(load(seal(copied))))
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


@pytest.mark.promise("Records and report", "The report is one file that asks no network for anything.")
def test_report_is_well_formed_and_self_contained(out: Path) -> None:
    page = (out / "report.html").read_text()
    checker = _Checker()
    checker.feed(page)
    assert checker.open == []
    assert len(checker.images) == 3  # accuracy, differences, frequency
    assert all(source.startswith("data:image/svg+xml;base64,") for source in checker.images)
    assert "snakemake tables" in page and "800,000 parameters" in page
    for fact in ("digest abc, style boxed", "engine transformers, torch 2.13", "ladder_sampled 1"):
        assert fact in page
    assert all(f'<table id="{name}">' in page for name in TABLES)


# ---------------------------------------------------------------------------------- what titles may hold


def table(text: str) -> Table:
    """A table that has ``text`` as title, heading, cell, bold cell, note and datum. Of cells, whose lines are
    their own, it is one line, as titles of rows are."""
    line = one_line(text)
    columns = ["Method", f"Δ {line}", "x"]
    cells = pd.DataFrame([[line, f"1\n{line}", Bold(line)]], columns=columns, dtype=object)
    return Table(
        "made", text, cells, pd.DataFrame([[text, -1.5, 7]], columns=list("abc"), dtype=object), [text]
    )


class _Texts(HTMLParser):
    """The texts of a page between its tags, and the names of these."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = [""]
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.texts.append("")

    def handle_data(self, data: str) -> None:
        self.texts[-1] += data

    def shown(self) -> list[str]:
        return [one_line(text) for text in self.texts if text.strip()]


MARKS = st.text(st.sampled_from("a1 |\\`*_<>&$~^%#{}[]()!+-=.:;@'\"\n\r\t\u2028\u202e/b"), min_size=1)
TITLES = (MARKS | st.text(min_size=1)).filter(one_line)
EVIL = ("a|b", "**a**", "a\\|b", "[x](http://a.b)", "![x](y)", "<img src=x>", "&lt;", "`a`", "# a", "1. a",
        "$a$", "\\input{/etc/passwd}", "a\n\\input{x}", "=1+1", "@a", "- a", "[x] a", "~~a~~", "a\\", "[*]",
        "__a__", "[x](javascript:alert(1))", "\\write18{ls}", "a\x1b[2J\u202eb")  # fmt: skip


def evil(test):  # type: ignore[no-untyped-def]
    for text in EVIL:
        test = example(text)(test)
    return given(TITLES)(test)


@pytest.mark.promise(
    "Files and code of others", "Titles stay texts: in the page, in Markdown, in LaTeX, and in a spreadsheet."
)
@evil
def test_any_title_is_itself_in_html(text: str) -> None:
    page = _Texts(table(text).html())
    plain = one_line(text)
    assert page.shown() == [plain, "Method", f"Δ {plain}", "x", plain, "1", plain, plain, plain]
    assert set(page.tags) == {
        "div", "table", "caption", "thead", "tbody", "tr", "th", "td", "br", "b", "ul", "li"
    }  # fmt: skip


@pytest.mark.promise(
    "Files and code of others", "Titles stay texts: in the page, in Markdown, in LaTeX, and in a spreadsheet."
)
@evil
def test_any_title_is_itself_in_markdown(text: str) -> None:
    rendered = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(table(text).markdown())
    page, plain = _Texts(rendered), one_line(text)
    shown = [plain, "Method", f"Δ {plain}", "x", plain, "1", plain, plain, plain]
    assert "".join("".join(page.shown()).split()) == "".join("".join(shown).split())
    assert set(page.tags) == {"p", "strong", "table", "thead", "tbody", "tr", "th", "td", "br", "ul", "li"}
    assert page.tags.count("td") == page.tags.count("th") == 3 and page.tags.count("li") == 1


@pytest.mark.promise(
    "Files and code of others", "Titles stay texts: in the page, in Markdown, in LaTeX, and in a spreadsheet."
)
@evil
def test_any_title_is_itself_in_latex(text: str) -> None:
    """No mark is left that TeX would read, once those that the float is made of are taken away."""
    lines = table(text).latex().splitlines()
    assert lines[0] == r"% \usepackage{booktabs,adjustbox}"
    (caption,) = (line for line in lines if line.startswith(r"\caption"))
    (note,) = (line for line in lines if line.startswith(r"\par "))
    assert _untex(caption[len(r"\caption{") : -1]) == _untex(note[len(r"\par ") :]) == one_line(text)
    first, last = lines.index(r"\begin{tabular}{lrr}"), lines.index(r"\end{tabular}")
    assert [lines[at] for at in (first + 1, first + 3, last - 1)] == [
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
    ]
    assert last == first + 6
    for line in (lines[first + 2], lines[first + 4]):
        assert line.endswith(r" \\") and not line.startswith(("[", "*"))
        cells = re.split(r"(?<!\\) & ", line.removesuffix(r" \\"))
        assert len(cells) == 3
    title, second, third = cells
    second = re.fullmatch(r"\\stacked\{1\}\{(.*)\}", second)[1]  # type: ignore[index]
    third = re.fullmatch(r"\\textbf\{(.*)\}", third)[1]  # type: ignore[index]
    for cell in (re.sub(r"^\{([\[*])\}", r"\1", title), second, third):
        assert _untex(cell) == one_line(text)


def test_a_wide_table_spans_the_columns_and_names_its_study() -> None:
    frames = (pd.DataFrame({name: ["1.5\n[1.0, 2.0]"] for name in names}) for names in ("abc", "abcdefg"))
    narrow, wide = (Table("t", "T", frame, frame, study="atlas") for frame in frames)
    assert r"\begin{table}" in narrow.latex() and r"\end{table}" in narrow.latex()
    assert r"\begin{table*}" in wide.latex() and r"\end{table*}" in wide.latex()
    assert r"\label{tab:atlas-t}" in wide.latex()


@pytest.mark.skipif(not which("pdflatex"), reason="needs pdflatex: apt-get install texlive-latex-extra")
def test_latex_sets_every_table_on_a_page_of_two_columns(tmp_path: Path) -> None:
    tall = write_records(tmp_path / "records", tuple(Made(f"row_{i}") for i in range(60)), per_tier=1, k=1)
    tables = [*all_tables([Analysis(load(tall))]), *map(table, EVIL)]
    text = "\n\\clearpage\n".join(one.latex() for one in tables)
    (tmp_path / "all.tex").write_text(
        "\\documentclass[twocolumn]{article}\\usepackage{booktabs,adjustbox}\n"
        f"\\begin{{document}}\n{text}\n\\end{{document}}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert told.returncode == 0, told.stdout[-2000:]
    assert not re.findall(r"Overfull \\hbox.*|Float too large.*", told.stdout)


def _untex(cell: str) -> str:
    """What TeX would show. Fails on a character that it would not."""
    words = {r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^",
             r"\textless{}": "<", r"\textgreater{}": ">", r"$\Delta$": "Δ", r"$\ge$": "≥",
             "$-$": "\N{MINUS SIGN}", r"$\times$": "\N{MULTIPLICATION SIGN}",
             r"$\dagger$": "\N{DAGGER}", r"$\infty$": "∞"}  # fmt: skip
    words |= {f"\\{mark}": mark for mark in "%&#_{}$"}
    pattern = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    assert not re.search(r"[\\%&#_{}$~^<>]", re.sub(pattern, "", cell)), cell
    return re.sub(pattern, lambda found: words[found[0]], cell)


@pytest.mark.promise(
    "Files and code of others", "Titles stay texts: in the page, in Markdown, in LaTeX, and in a spreadsheet."
)
@evil
def test_no_text_of_a_csv_is_a_formula(text: str) -> None:
    read = list(csv.reader(io.StringIO(table(text).csv(), newline="")))
    ((shown, number, count),) = read[1:]
    assert (number, count) == ("-1.5", "7")
    assert shown.removeprefix("'") == one_line(text).removeprefix("'")
    assert not shown.startswith(("=", "+", "-", "@", "\t", "\r"))


def test_marks_in_names_do_not_break_a_study(tmp_path: Path) -> None:
    """Tables, figures and page of a row whose title and note have it all."""
    name = 'a|b_<i>&"x" $y$\n\\input{z} # %'
    rows = (Made("base", Role.BASE), Made("evil", title=name, note=name, gain=1.0))
    records = write_records(tmp_path / "records", rows, seeds=(0,), per_tier=3, k=2)
    build(records, tmp_path)
    for found in all_tables([Analysis(load(records))]):
        lines = [line for line in found.markdown().splitlines() if line.startswith("|")]
        assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
        assert "\\input" not in re.sub("^%.*", "", found.latex(), flags=re.M)
    assert "a|b_&lt;i&gt;&amp;&quot;x&quot; $y$ \\input{z} # %: " in (tmp_path / "report.html").read_text()


def test_a_study_of_nothing_but_x_still_builds(tmp_path: Path) -> None:
    rows = (Made("base", Role.BASE, broken=ABSENT), Made("absent", broken=ABSENT))
    build(write_records(tmp_path / "records", rows), tmp_path / "out")
    board = (tmp_path / "out" / "tables" / "leaderboard.md").read_text()
    assert "X ABSENT: unavailable: the study has no process scorer" in board


# --- tuning -----------------------------------------------------------------------------------------------


def trial(method: str, point: int, seed: int, score: float | str, **changes: Any) -> dict[str, Any]:
    settings = json.dumps({"optimizer": {"rate": 0.1}, "n": 3} if point else {})
    line = {"method": method, "point": point, "settings": settings, "seed": seed, "flops": 10**9,
            "score": score, "chosen": int(point == 1)}  # fmt: skip
    return line | changes


def tuned(folder: Path, lines: list[dict[str, Any]]) -> Analysis:
    runs = [run_line(method, 0, 10**9) for method in ("a", "b")]
    samples = [row for method in ("a", "b") for row in solved(method, 0, 10**9, [1, 2])]
    facts = facts_of(budgets=[10**9], seeds=[0], benchmarks=[ONE_TIER])
    return Analysis(load(write(folder, facts, runs=runs, samples=samples, tuning=lines)))


def test_what_trials_found_and_what_they_cost(tmp_path: Path) -> None:
    scores = {(0, 7): 0.2, (0, 8): 0.3, (1, 7): 0.4, (1, 8): 0.46}
    lines = [trial("a", point, seed, score) for (point, seed), score in scores.items()]
    kept = [trial("b", point, 7, score, chosen=1 - point) for point, score in ((0, 0.5), (1, ""))]
    analysis = tuned(tmp_path, lines + kept)
    shown = tuning(analysis).cells.set_index("Method")
    assert dict(shown.loc["A"]) == {
        "Trials": "4", "As it is": "25.0", "Chosen": "43.0", "Gain": "+18.0",
        "Settings": "optimizer.rate 0.1, n 3", "FLOPs": "4.00 GFLOP",
    }  # fmt: skip
    assert dict(shown.loc["B"]) == {
        "Trials": "2", "As it is": "50.0", "Chosen": "50.0", "Gain": DASH, "Settings": "as it is",
        "FLOPs": "2.00 GFLOP",
    }  # fmt: skip
    assert "tuning seeds 7, 8" in tuning(analysis).notes[0]
    board = leaderboard(analysis).markdown()
    assert "of 4 trials of each row" in board and "not tuned evenly" not in board and "Not tuned" not in board
    alone = leaderboard(tuned(tmp_path / "alone", lines)).markdown()
    assert "Not tuned: B." in alone and "or settings" not in alone
    assert list(costs(analysis).cells.set_index("Method")["(tuning)"]) == ["4.00", "2.00"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"settings": "[]"}, r"tuning.csv, line 3: the settings are no mapping"),
        ({"settings": "{"}, r"tuning.csv, line 3: the settings are no mapping"),
        (
            {"point": 0, "seed": 9},
            r"tuning.csv, line 3: the settings are no mapping, or `chosen` is not",
        ),
        ({"chosen": 0}, "of the trials of a none is the row as it is, or not one point is chosen"),
    ],
)
def test_trials_that_make_no_sense_are_refused(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        tuned(tmp_path, [trial("a", 0, 7, 0.2), trial("a", 1, 7, 0.3) | changes])
