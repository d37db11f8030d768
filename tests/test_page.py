"""What the report's script gets: packs that hold the records, whatever order they came in, and titles that
stay texts."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic import BUDGETS, ROWS, Made, write_records

from repro.records import Role
from repro.reporting import page, page_data
from repro.reporting.analysis import Analysis, Estimate
from repro.reporting.results import Study, load
from repro.reporting.tables import all_tables

EVIL = "</script><script>alert(1)</script>"
HOSTILE = (EVIL, "a|b %{x} <b>c</b>", "=cmd()")


def unpack(content: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    raw = gzip.decompress(content)
    end = 4 + int.from_bytes(raw[:4], "little")
    value = json.loads(raw[4:end])
    columns = {}
    for name, (length, width) in value.pop("columns").items():
        planes = np.frombuffer(raw, np.uint8, length * width, end).reshape(width, length).astype(np.uint32)
        columns[name] = sum(plane << (8 * i) for i, plane in enumerate(planes))
        end += length * width
    assert end == len(raw)
    return value, columns


def packs(text: str) -> dict[str, tuple[dict[str, Any], dict[str, np.ndarray]]]:
    found = re.findall(r'<script type="text/plain" id="pack-(\w+)">([A-Za-z0-9+/=]*)</script>', text)
    return {name: unpack(base64.b64decode(content)) for name, content in found}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(
        tmp_path_factory.mktemp("page") / "records", ROWS, benchmarks=("ladder", "sums"), per_tier=5
    )


@pytest.fixture(scope="module")
def study(records: Path) -> Study:
    return load(records)


def test_a_pack_is_read_back_and_has_no_time() -> None:
    columns = {"a": np.array([0, 1, 255]), "b": np.array([[256, 70_000], [0, 2**32 - 1]]), "c": np.array([])}
    packed = page_data.pack({"x": "é</script>", "y": [None, 1.5]}, columns)
    value, found = unpack(packed)
    assert value == {"x": "é</script>", "y": [None, 1.5]}
    assert {name: column.tolist() for name, column in found.items()} == {
        "a": [0, 1, 255], "b": [256, 70_000, 0, 2**32 - 1], "c": [],
    }  # fmt: skip
    assert packed[4:8] == bytes(4) and packed == page_data.pack(
        {"x": "é</script>", "y": [None, 1.5]}, columns
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        page_data.pack({"x": float("nan")})


def test_details_hold_every_completion(records: Path, study: Study) -> None:
    """Read back, they are the lines of samples.parquet."""
    samples = pd.read_parquet(records / "samples.parquet")
    texts = {name: f"text {name}" for name in samples["text_hash"].iloc[::3]}
    about, columns = unpack(page_data.details(study, texts))
    found = []
    for number, (benchmark, one) in enumerate(zip(study.benchmarks, about["benchmarks"], strict=True)):
        shape = len(benchmark.problems), len(one["runs"]), one["slots"]
        outcome, tokens, text = (
            columns[f"{number}.{name}"].reshape(shape) for name in ("outcome", "tokens", "text")
        )
        for problem, run, slot in np.ndindex(shape):
            row, seed, budget = one["runs"][run]
            verdict, answer, finish = one["outcomes"][problem][outcome[problem, run, slot]]
            found.append((
                study.rows[row].method, study.seeds[seed], study.budgets[budget], benchmark.name,
                "sampled" if slot else "greedy", benchmark.problems[problem], max(slot - 1, 0), verdict,
                answer, tokens[problem, run, slot], finish, one["texts"][problem][text[problem, run, slot]],
            ))  # fmt: skip
        assert one["greedy"]
    names = ["method", "seed", "budget", "benchmark", "mode", "problem", "sample", "verdict", "answer",
             "tokens", "finish"]  # fmt: skip
    wanted = samples[names].assign(text=[texts.get(name) for name in samples["text_hash"]])
    assert sorted(found, key=str) == sorted(wanted.itertuples(index=False, name=None), key=str)


def test_counts_are_those_of_the_samples(records: Path, study: Study) -> None:
    samples = pd.read_parquet(records / "samples.parquet").query("mode == 'sampled'")
    questions = {(one.name, "p0003"): ("How many?", "7") for one in study.benchmarks}
    about, columns = unpack(page_data.counts(study, questions))
    keys = ["benchmark", "method", "budget", "problem", "seed"]
    right = samples.groupby(keys)["correct"].sum()
    for number, benchmark in enumerate(study.benchmarks):
        shape = len(study.rows), len(study.budgets), len(benchmark.problems), len(study.seeds)
        for at in np.ndindex(shape):
            key = (benchmark.name, study.rows[at[0]].method, study.budgets[at[1]], benchmark.problems[at[2]],
                   study.seeds[at[3]])  # fmt: skip
            assert columns[str(number)].reshape(shape)[at] == right.get(key, about["none"])
        asked = about["questions"][number]
        assert asked[benchmark.problems.index("p0003")] == ["How many?", "7"]
        assert sum(question is not None for question in asked) == 1


def test_charts_show_what_the_tables_say(study: Study) -> None:
    analyses = [Analysis(study, one.name) for one in study.benchmarks]
    charts, _ = unpack(page_data.charts(analyses, all_tables(analyses)))
    assert [row["title"] for row in charts["rows"]] == [row.title for row in study.rows]
    assert {charts["rows"][i]["id"] for i in charts["shown"]} == {
        "base", "continued", "random", "good", "twin", "crashed", "absent"
    }  # fmt: skip
    for analysis, one in zip(analyses, charts["benchmarks"], strict=True):
        for row, found in zip(study.rows, one["scores"][0], strict=True):
            for budget, point in zip(study.budgets, found, strict=True):
                score = analysis.accuracy(row.method, budget)
                assert (point is not None) == isinstance(score, Estimate)
                if isinstance(score, Estimate) and point:
                    assert point[1:4] == pytest.approx([score.mean, score.low, score.high], rel=1e-4)
                    assert np.mean(point[4:]) == pytest.approx(score.mean, rel=1e-4)
        for against, row, at, mean, *_ in one["differences"]:
            pair = study.rows[row].method, study.rows[against].method
            assert mean == pytest.approx(analysis.difference(*pair, study.budgets[at]).mean, rel=1e-4)  # type: ignore[union-attr]
    spend = {view["title"]: view["bars"] for view in charts["spend"]}
    inside = np.array([values for _, _, values in spend["Within the budget, by account (GFLOP)"]], float)
    good = study.index["good"]
    assert inside[:, good].sum() == pytest.approx(study.spent("good", study.top) / 1e9, rel=1e-3)  # type: ignore[operator]
    assert [bar for bar, _, _ in spend["Outside the budget (GFLOP)"]] == ["rules", "evaluate", "tuning"]
    assert "Energy, by account (kJ)" not in spend  # nobody measured it


@pytest.mark.promise(
    "Files and code of others", "Titles stay texts: in the page, in Markdown, in LaTeX, and in a spreadsheet."
)
def test_hostile_titles_stay_texts(tmp_path: Path) -> None:
    rows = (
        Made("base", Role.BASE), *(Made(f"m{i}", title=text, note=text) for i, text in enumerate(HOSTILE))
    )  # fmt: skip
    page.build(write_records(tmp_path / "records", rows, seeds=(0,), per_tier=2, k=2), tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in text and "<b>c</b>" not in text
    found = packs(text)
    assert {row["title"] for row in found["charts"][0]["rows"]} == {"BASE", *HOSTILE}
    latex, markdown, csv = found["copies"][0]["leaderboard"]
    for made, ending in ((latex, "tex"), (markdown, "md"), (csv, "csv")):
        assert made == (tmp_path / "tables" / f"leaderboard.{ending}").read_text()


def test_a_page_that_would_be_too_large_has_its_completions_beside_it(
    records: Path, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "LIMIT", 10_000)
    page.build(records, tmp_path)
    assert set(packs((tmp_path / "report.html").read_text())) == {"charts", "copies", "monitors", "counts"}
    assert (tmp_path / page.DETAILS).read_bytes() == page_data.details(study, study.texts)
    monkeypatch.undo()
    page.build(records, tmp_path)
    assert "details" in packs((tmp_path / "report.html").read_text())
    assert not (tmp_path / page.DETAILS).exists()


def test_monitors_are_thinned_and_end_where_the_run_does(study: Study) -> None:
    found = dict(unpack(page_data.monitors(study))[0]["monitors"])
    mean, *seeds = found["own_twin"][str(study.index["twin"])]
    assert mean[1] == [-1, -2, -3, -4] and all(seed[1] == mean[1] for seed in seeds)
    assert mean[0][-1] == pytest.approx(BUDGETS[3] / 1e9, rel=0.01)
    assert str(study.index["crashed"]) not in found["correct completions (share)"]
