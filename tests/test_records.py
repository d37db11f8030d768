"""Records as they are read: what is damaged is named, and every FLOP in them is counted anew."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic import BUDGETS, Made, entry, process, seal, write_records
from typer.testing import CliRunner

from repro.cli import app
from repro.errors import UserError
from repro.files import write_json
from repro.method import Role
from repro.record_files import text_parquet
from repro.reporting import page
from repro.reporting.recount import recount
from repro.reporting.results import Study, load
from repro.schema import FILES, PARQUET

ROWS = (
    Made("base", Role.BASE),
    Made("good", gain=1.0, rules=True),
    Made("planned", plans=True),
    Made("broken", broken={(1, BUDGETS[3]): ("failed", "loss is not finite")}),
)
ALL = (*FILES, "study.json")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("small") / "records", ROWS, seeds=(0, 1), per_tier=2, k=2)


@pytest.fixture
def copied(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "records"))


# ------------------------------------------------------------------------------------------- damage


@pytest.mark.promise(
    "Runs that are killed", "Any damaged bit of a journal, of a sealed folder or of the records is noticed."
)
@pytest.mark.parametrize("name", ALL)
def test_a_flipped_byte_is_reported_wherever_it_is(copied: Path, name: str) -> None:
    """Every digit of study.json and some hundreds of bytes of each file, one after the other."""
    path = copied / name
    data = path.read_bytes()
    drawn = np.random.default_rng(0).integers(0, len(data), 300).tolist()
    digits = [i for i, byte in enumerate(data) if chr(byte).isdigit()] if name == "study.json" else []
    for position in {*drawn, *digits}:
        byte = data[position]
        flipped = ord(str((byte - 47) % 10)) if chr(byte).isdigit() else byte ^ 1
        path.write_bytes(data[:position] + bytes([flipped]) + data[position + 1 :])
        with pytest.raises(UserError, match=name):
            load(copied)
    path.write_bytes(data)
    load(copied)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("data", [None, b"", b"\xff\xfe\x00", b"method,\n"])
def test_a_missing_empty_or_foreign_file_is_named(copied: Path, name: str, data: bytes | None) -> None:
    path = copied / name
    path.unlink()
    if data is not None:
        path.write_bytes(data)
        if name != "study.json":
            seal(copied)  # even where the hash agrees
    with pytest.raises(UserError, match=name) as raised:
        load(copied)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", FILES)
def test_two_generations_do_not_mix(copied: Path, tmp_path: Path, name: str) -> None:
    rows = (Made("base", Role.BASE), Made("good", gain=0.5))
    other = write_records(tmp_path / "other", rows, seeds=(0, 1), per_tier=3, k=2)
    shutil.copy(other / name, copied / name)
    with pytest.raises(UserError, match=f"{name} is not the file that study.json names"):
        load(copied)


def test_records_that_say_a_thing_twice_are_refused(copied: Path) -> None:
    path = copied / "study.json"
    path.write_text(path.read_text().replace("{", '{"title": "another", ', 1))
    with pytest.raises(UserError, match=r"study\.json, line 1: the key `title` is given twice; restore it"):
        load(copied)


def test_study_json_is_as_it_was_written(copied: Path) -> None:
    path = copied / "study.json"
    text = path.read_text()
    for other in (text.replace('"seeds"', '"seeds" '), json.dumps(json.loads(text)), text + "\n"):
        path.write_text(other)
        with pytest.raises(UserError, match=r"study\.json was changed after it was written"):
            load(copied)


def edit(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def apply(records: Path) -> None:
        path = records / name
        if name.endswith("parquet"):
            change(pd.read_parquet(path)).to_parquet(path, index=False)
        else:
            change(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)

    return apply


def put(name: str, line: int, column: str, value: object) -> Callable[[Path], None]:
    """Write ``value`` into a line of a file as people count them, the header being the first."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[line - 2, column] = str(value)
        return frame

    return edit(name, change)


def said(**changes: object) -> Callable[[Path], None]:
    def apply(records: Path) -> None:
        facts = json.loads((records / "study.json").read_text())
        (records / "study.json").write_text(json.dumps(facts | changes))

    return apply


def ran(*more: dict[str, Any], **changes: Any) -> Callable[[Path], None]:
    """Write a provenance.json of one process with one job, changed, and ``more`` of the same."""

    def apply(records: Path) -> None:
        made = process([("train", "good", 0)])
        for key, value in changes.items():
            (made if key in made else made["jobs"][0])[key] = value
        made["jobs"] += [made["jobs"][0] | changed for changed in more]
        write_json(records / "provenance.json", {"processes": [made]})

    return apply


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (put("runs.csv", 5, "spent", "lots"), "runs.csv, line 5: column 'spent' holds 'lots'"),
        (put("runs.csv", 5, "spent", "-1"), "runs.csv, line 5: column 'spent' holds '-1'"),
        (put("runs.csv", 5, "spent", ""), "runs.csv, line 5: column 'spent' holds ''"),
        (put("runs.csv", 5, "use", "nan"), "runs.csv, line 5: column 'use' holds 'nan'"),
        (put("runs.csv", 5, "use", "1e999"), "runs.csv, line 5: column 'use' holds '1e999'"),
        (
            put("runs.csv", 2, "role", "hero"),
            "runs.csv, line 2: column 'role' holds 'hero'; it must be one of",
        ),
        (put("runs.csv", 2, "seed", 9), "runs.csv, line 2: column 'seed' holds '9'; it must be one of 0, 1"),
        (put("runs.csv", 2, "plans", 2), "runs.csv, line 2: column 'plans' holds '2'"),
        (
            put("runs.csv", 4, "title", "Other"),
            "runs.csv, line 4: title, role, paper or plans of method 'base'",
        ),
        (edit("runs.csv", lambda f: f.drop(columns="spent")), "runs.csv lacks the column 'spent'"),
        (edit("runs.csv", lambda f: f.assign(more=1)), "runs.csv, line 1: the columns are not method, title"),
        (
            edit("runs.csv", lambda f: pd.concat([f, f[:1]])),
            r"runs.csv, line 34 repeats line 2 \(method base,",
        ),
        (edit("visits.csv", lambda f: pd.concat([f, f[:1]])), r"visits.csv, line \d+ repeats line 2"),
        (edit("machine.csv", lambda f: pd.concat([f, f[:1]])), r"machine.csv, line \d+ repeats line 2"),
        (put("ledger.csv", 3, "account", "embed"), "ledger.csv, line 3: column 'account' holds 'embed'"),
        (put("ledger.csv", 3, "shape", "other"), "ledger.csv, line 3: column 'shape' holds 'other'"),
        (put("ledger.csv", 3, "method", "who"), "ledger.csv, line 3: column 'method' holds 'who'"),
        (put("ledger.csv", 3, "budget", 7), "ledger.csv, line 3: column 'budget' holds '7'"),
        (
            put("monitors.csv", 3, "value", "nan"),
            "monitors.csv, line 3: column 'value' holds 'nan', which is no",
        ),
        (
            put("monitors.csv", 3, "value", ""),
            "monitors.csv, line 3: column 'value' holds '', which is no numb",
        ),
        (
            put("monitors.csv", 3, "spent", -1),
            "monitors.csv, line 3: column 'spent' holds '-1', which is no co",
        ),
        (put("monitors.csv", 3, "budget", 7), "monitors.csv, line 3: column 'budget' holds '7'"),
        (put("monitors.csv", 3, "method", "who"), "monitors.csv, line 3: column 'method' holds 'who'"),
        (put("monitors.csv", 3, "monitor", "a b"), "monitors.csv, line 3: column 'monitor' holds 'a b'"),
        (edit("monitors.csv", lambda f: pd.concat([f, f[:1]])), r"monitors.csv, line \d+ repeats line 2"),
        (put("machine.csv", 2, "account", "lunch"), "machine.csv, line 2: column 'account' holds 'lunch'"),
        (edit("samples.parquet", lambda f: f.drop(columns="verdict")), "lacks the column 'verdict'"),
        (edit("samples.parquet", lambda f: f.assign(benchmark="amc")), "'benchmark' holds 'amc'"),
        (edit("samples.parquet", lambda f: f.assign(tier="9")), "column 'tier' holds '9'"),
        (
            edit("samples.parquet", lambda f: f.assign(budget=f.budget.replace(BUDGETS[3], 5))),
            "column 'budget' holds '5'",
        ),
        (edit("samples.parquet", lambda f: f.assign(verdict="good")), "column 'verdict' holds 'good'"),
        (edit("samples.parquet", lambda f: f.assign(correct=~f.correct)), "'correct' and 'verdict' disagree"),
        (edit("samples.parquet", lambda f: f.assign(correct="False")), "column 'correct' .* not of its type"),
        (edit("samples.parquet", lambda f: f.assign(tokens=1.5)), "column 'tokens' .* not of its type"),
        (edit("samples.parquet", lambda f: f.assign(text_hash=None)), "column 'text_hash' has blanks"),
        (edit("samples.parquet", lambda f: f.iloc[:-1]), "method .* has 1 to 2 sampled rows per problem"),
        (edit("samples.parquet", lambda f: pd.concat([f, f[:1]])), "two samples of method base, seed 0"),
        (
            edit("samples.parquet", lambda f: f.drop(f.index[f["mode"] == "greedy"][0])),
            "has 5 greedy rows of ladder where one a problem is due",
        ),
        (edit("texts.parquet", lambda f: f.drop(columns="text")), "texts.parquet lacks the column 'text'"),
        (edit("texts.parquet", lambda f: f.assign(text=7)), "texts.parquet: column 'text' is not of its"),
        (edit("problems.parquet", lambda f: f.drop(columns="tier")), "problems.parquet lacks the column 't"),
        (edit("problems.parquet", lambda f: f.assign(tier=1)), "problems.parquet: column 'tier' is not of"),
        (ran(seed=9), "provenance.json: method 'good', seed 9 is no run of the study"),
        (ran(method="who"), "provenance.json: method 'who', seed 0 is no run of the study"),
        (ran(kind="lunch"), "provenance.json: the key 'processes.0.jobs.0.kind' is wrong"),
        (ran(ended="today"), "provenance.json: the key 'processes.0.jobs.0.ended' is wrong"),
        (ran({}), "provenance.json: a job is there twice"),
        (ran(commit=1), "provenance.json: the key 'processes.0.commit' is wrong"),
        (said(settings=None), "the key 'settings' is wrong"),
        (said(evaluation={}), "lacks the key 'evaluation.prompt'"),
        (said(benchmarks=[]), "the key 'benchmarks' is wrong"),
        (said(benchmarks=[{"name": "gsm8k"}]), "lacks the key 'benchmarks.0.title'"),
        (said(shapes={"policy": {"body": 1}}), "the shape 'policy' lacks a size"),
        (said(shapes={"policy": {"body": -1}}), "the key 'shapes.policy.body' is wrong"),
        (said(budgets=[*BUDGETS, BUDGETS[0]]), "a budget or seed is there twice"),
        (said(target_accuracies=["high"]), "the key 'target_accuracies.0' is wrong"),
    ],
)
def test_what_is_malformed_is_named(copied: Path, change: Callable[[Path], None], says: str) -> None:
    """Even where every hash agrees, as in records of a faulty writer."""
    change(copied)
    with pytest.raises(UserError, match=says) as raised:
        load(seal(copied))
    assert "\n" not in str(raised.value)


def test_a_benchmark_cannot_name_a_file_elsewhere(copied: Path) -> None:
    facts = json.loads((copied / "study.json").read_text())
    facts["benchmarks"][0]["name"] = "../../x"
    with pytest.raises(UserError, match=r"'benchmarks\.0\.name' is wrong"):
        load(seal(copied, facts))


def asked_for(records: Path, **lines: list[tuple[str | None, ...]]) -> Study:
    """The study, with other lines in its files of texts."""
    for name, of in lines.items():
        (records / f"{name}.parquet").write_bytes(text_parquet(PARQUET[f"{name}.parquet"], of))
    return load(seal(records))


def test_texts_and_questions_are_read_when_they_are_asked_for(copied: Path) -> None:
    kept = load(copied).texts
    assert kept and {hashlib.sha256(text.encode()).hexdigest()[:16] for text in kept.values()} == set(kept)
    assert load(copied).questions == {}  # the records have the problems, and not what they ask
    lines = [("ladder", "p1", "1", "1 + 1", "2"), ("ladder", "p2", "1", None, None)]
    assert asked_for(copied, problems=lines).questions == {("ladder", "p1"): ("1 + 1", "2")}


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ({"texts": [("a", "1"), ("a", "2")]}, "texts.parquet: column 'text_hash' holds 'a' twice"),
        ({"texts": [("a", None)]}, "texts.parquet: column 'text' has blanks"),
        (
            {"problems": [("b", "p", "1", None, None)] * 2},
            "problems.parquet: column 'problem' holds 'p' of b",
        ),
        ({"problems": [("b", "p", None, "?", "!")]}, "problems.parquet: column 'tier' has blanks"),
        ({"problems": [("b", "p", "1", "?", None)]}, "problems.parquet: column 'answer' and the question of"),
    ],
)
def test_malformed_texts_are_named_when_they_are_read(
    copied: Path, lines: dict[str, list[tuple[str | None, ...]]], says: str
) -> None:
    study = asked_for(copied, **lines)
    with pytest.raises(UserError, match=says):
        _ = study.texts, study.questions
    assert any(says in one for one in recount(copied).differences)


def test_the_report_says_what_ran_where_it_differs(copied: Path) -> None:
    trained = process([("train", "good", 0), ("train", "good", 1)])
    trained["jobs"][1]["ended"] = "2026-12-03T01:02Z"
    evaluated = process([("evaluate", "good", 0)], gpus="2 x H200", libraries={"torch": "2.14"}, changed=True)
    write_json(copied / "provenance.json", {"processes": [trained, evaluated]})
    study = load(seal(copied))
    assert page.provenance(study) == {
        "Libraries": "torch 2.13, trl 1.16 (train); torch 2.14 (evaluate)",
        "Commit": "c0ffee (train); c0ffee, with changes (evaluate)",
        "Hardware": "2 cores of A processor (train); 2 x H200, 2 cores of A processor (evaluate)",
        "Jobs ended": "2026-12-01T20:43Z to 2026-12-03T01:02Z",
        "System": "Python 3.11.7, Linux",
    }
    told = page._settings(study.facts)
    assert "sampling:\n  max_tokens: 99" in told["Settings of the study"]
    assert told["Hyper-parameters of every row"] == "good:\n  rate: 0.5\n"
    write_json(copied / "provenance.json", {"processes": []})
    assert set(page.provenance(load(seal(copied))).values()) == {"not recorded"}


# ---------------------------------------------------------------------------------------- recounting


def test_spend_at_a_budget_is_the_sum_of_the_lines_up_to_it(small: Path) -> None:
    """One run serves all budgets, but where the method plans: there each has its own."""
    study = load(small)
    sampled = {
        method: [
            sum(e["flops"] for e in study.entries(method, 0, budget) if e["account"] == "sample")
            for budget in BUDGETS
        ]
        for method in ("good", "planned")
    }
    of_lines = {(line["method"], line["budget"]): 0 for line in study.ledger if line["account"] == "sample"}
    for line in study.ledger:
        if line["account"] == "sample" and line["seed"] == 0:
            of_lines[line["method"], line["budget"]] += line["flops"]
    each = [of_lines["good", budget] for budget in BUDGETS]
    assert sampled["good"] == [sum(each[: i + 1]) for i in range(4)]
    assert sampled["planned"] == [of_lines["planned", budget] for budget in BUDGETS]
    for method in ("good", "planned"):
        evaluated = [e for e in study.entries(method, 0, BUDGETS[3]) if e["account"] == "evaluate"]
        assert [e["budget"] for e in evaluated] == [BUDGETS[3]]
    rules = [e["budget"] for e in study.entries("good", 1, BUDGETS[2]) if e["account"] == "rules"]
    assert rules == list(BUDGETS[:3])


def test_what_a_run_looked_at_up_to_a_budget_is_the_last_line_of_each_round(small: Path) -> None:
    """A round that a budget cut is there again at the next; a method that plans has rounds of its own."""
    study = load(small)
    lines = {(one["method"], one["budget"], one["round"]): one["value"] for one in study.monitors
             if one["seed"] == 0 and one["monitor"] == "solved"}  # fmt: skip
    at = {
        (method, budget): {
            round: line["value"] for round, line in study.monitored(method, 0, budget)["solved"].items()
        }
        for method in ("good", "planned") for budget in BUDGETS[:3]
    }  # fmt: skip
    one, two, three = BUDGETS[:3]
    assert lines["good", one, 1] != lines["good", two, 1]
    assert at["good", one] == {1: lines["good", one, 1]}
    assert at["good", two] == {1: lines["good", two, 1], 2: lines["good", two, 2]}
    assert at["good", three] == {
        1: lines["good", two, 1], 2: lines["good", three, 2], 3: lines["good", three, 3]
    }  # fmt: skip
    assert at["planned", two] == {round: lines["planned", two, round] for round in (1, 2)}
    assert {line["value"] for line in study.monitored("good", 1, three)["own_good"].values()} == {-1, -2, -3}
    assert study.monitored("base", 0, three) == {}


@pytest.mark.promise(
    "Budgets and FLOPs",
    "Every FLOP of the records can be counted anew from their token counts, and what differs is listed.",
)
def test_valid_records_are_verified(small: Path) -> None:
    found = recount(small)
    assert found.differences == []
    ledger = pd.read_csv(small / "ledger.csv")
    assert dict(found.lines) == ledger.account.value_counts().to_dict()
    assert dict(found.flops) == ledger.groupby("account").flops.sum().to_dict()
    assert (found.runs, found.samples) == (32, 31 * 6 * 3)  # 6 problems: 2 samples and 1 greedy of each
    shown = CliRunner().invoke(app, ["verify", str(small)])
    assert shown.exit_code == 0 and shown.output.endswith(f"{small}: verified\n")
    assert f"{ledger.flops.sum():,}" in shown.output and "32 runs" in shown.output


@pytest.mark.promise(
    "Budgets and FLOPs",
    "Every FLOP of the records can be counted anew from their token counts, and what differs is listed.",
)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (put("ledger.csv", 3, "flops", 1), "ledger.csv, line 3: flops is 1 and should be "),
        (put("ledger.csv", 3, "papers_flops", 1), "ledger.csv, line 3: papers_flops is 1 and should be "),
        (put("ledger.csv", 3, "tokens", 1), "ledger.csv, line 3: flops is"),
        (put("ledger.csv", 3, "passes", 9), "ledger.csv, line 3: flops is"),
        (put("runs.csv", 12, "spent", 1), "runs.csv, line 12: spent is 1 and should be"),
        (put("runs.csv", 12, "papers_flops", 1), "runs.csv, line 12: papers_flops is 1 and should be"),
        (put("runs.csv", 12, "use", 0.5), "runs.csv, line 12: use is 0.5 and should be 0.99"),
        (put("runs.csv", 12, "steps", 0), "runs.csv, line 12: steps is 0, and the ledger trains some"),
        (put("runs.csv", 2, "steps", 1), "runs.csv, line 2: steps is 1, and the ledger trains none"),
        (put("runs.csv", 12, "steps", 1), "line 12: steps is 1, less than at the budget of 1000000000"),
        (put("runs.csv", 12, "rounds", 1), "runs.csv, line 12: rounds is 1, and the ledger has round 3"),
        (edit("ledger.csv", lambda f: f[f.account != "search"]), "runs.csv, line 10: spent is"),
        (edit("ledger.csv", lambda f: f[f.account != "evaluate"]), "charges 0 of 0 to `evaluate`"),
        (edit("samples.parquet", lambda f: f.assign(tokens=f.tokens + 1)), "line 2: samples.parquet has"),
        (edit("ledger.csv", lambda f: f[::-1]), r"line \d+: budget is 4000000000, after 8000000000"),
        (put("monitors.csv", 3, "spent", 9 * 10**9), "monitors.csv, line 3: spent is 9000000000, and the"),
        (put("monitors.csv", 3, "round", 99), "monitors.csv, line 3: round is 99, and the run ended at 1"),
        (edit("problems.parquet", lambda f: f.fillna("?")[1:]), "p0000 of ladder is .* 1 in .*, and missing"),
        (
            edit("problems.parquet", lambda f: f.fillna("?").assign(tier="2")),
            "p0000 of ladder is of tier 1 in .*, and of tier 2",
        ),
        (put("texts.parquet", 2, "text", "?"), "the text of [0-9a-f]{16} is not the one that was sampled"),
        (put("texts.parquet", 2, "text_hash", "a"), "texts.parquet: no completion has the hash a"),
        (put("visits.csv", 2, "problems", 999), "visits.csv, line 2: more problems than the pool has"),
    ],
)  # fmt: skip
def test_every_difference_is_listed(copied: Path, change: Callable[[Path], None], says: str) -> None:
    """Where the writer was wrong and every hash agrees."""
    change(copied)
    found = "\n".join(recount(seal(copied)).differences)
    assert pd.Series([found]).str.contains(says).all(), found


@pytest.mark.promise(
    "Budgets and FLOPs",
    "Every FLOP of the records can be counted anew from their token counts, and what differs is listed.",
)
def test_a_spend_above_its_budget_is_listed(copied: Path) -> None:
    """Ledger and runs agree with each other here; only the budget is not kept."""
    ledger = pd.read_csv(copied / "ledger.csv", dtype=str, keep_default_na=False)
    more = entry("good", 0, BUDGETS[3], "train", BUDGETS[0], passes=3, round=4, call=99)
    pd.concat([ledger, pd.DataFrame([more]).astype(str)]).to_csv(copied / "ledger.csv", index=False)
    runs = pd.read_csv(copied / "runs.csv")
    at = runs.index[(runs.method == "good") & (runs.seed == 0) & (runs.budget == BUDGETS[3])][0]
    runs.loc[at, "spent"] += more["flops"]
    runs.loc[at, "papers_flops"] += more["papers_flops"]
    runs["use"] = runs.spent / runs.budget
    runs.to_csv(copied / "runs.csv", index=False)
    (found,) = recount(seal(copied)).differences
    assert found.endswith(f"runs.csv, line {at + 2}: spent {runs.spent[at]} of a budget of {BUDGETS[3]}")


def test_verify_lists_the_changed_file_and_the_line(copied: Path) -> None:
    put("ledger.csv", 3, "flops", 1)(copied)
    put("runs.csv", 12, "use", 0.5)(copied)
    shown = CliRunner().invoke(app, ["verify", str(copied)])
    assert shown.exit_code == 1 and "verified" not in shown.output
    for says in ("ledger.csv is not the file", "runs.csv is not the file", "ledger.csv, line 3: flops is 1",
                 "runs.csv, line 12: use is 0.5"):  # fmt: skip
        assert says in shown.output
    (copied / "runs.csv").write_text("?")
    shown = CliRunner().invoke(app, ["verify", str(copied)])
    assert shown.exit_code == 1 and "runs.csv lacks the column" in shown.output


@pytest.mark.promise("Records and report", "Tables come from the records alone, without torch.")
def test_reading_rebuilding_and_recounting_need_no_torch() -> None:
    code = (
        "import sys, repro.cli, repro.reporting.page, repro.reporting.recount, repro.collect;"
        "print([m for m in ('torch', 'transformers', 'trl', 'lm_eval', 'vllm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
