"""Records of one study from several machines become one, or are refused in a sentence."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic import ABSENT, BUDGETS, FAILED, Made, write_records
from typer.testing import CliRunner

from repro import cli, csv_files, files, record_files
from repro.errors import UserError
from repro.method import Role
from repro.reporting.merging import HOW, merge
from repro.reporting.recount import recount
from repro.reporting.results import load
from repro.schema import CSV, FILES, MACHINE, PARQUET, PROVENANCE

ROOT = Path(__file__).resolve().parent.parent
ALL = (*FILES, "study.json")
ROWS = (
    Made("base", Role.BASE),
    Made("good", gain=1.2, rules=True),
    Made("twin", gain=1.2, plans=True),
    Made("crashed", gain=1.0, broken=FAILED),
    Made("absent", broken=ABSENT),
)
NAMES = tuple(row.method for row in ROWS)
WHOLE = (*PARQUET, PROVENANCE)
Facts = dict[str, Any]
Contents = dict[str, Any]  # lines of a CSV file as texts, samples as a frame


def contents_of(records: Path) -> tuple[Contents, Facts]:
    found: Contents = {
        name: list(csv.DictReader(io.StringIO((records / name).read_text(), newline=""))) for name in CSV
    }
    found["samples.parquet"] = pd.read_parquet(records / "samples.parquet")
    found |= {name: (records / name).read_bytes() for name in WHOLE}
    facts = json.loads((records / "study.json").read_text())
    return found, {key: value for key, value in facts.items() if key not in ("files", "digest")}


def put(folder: Path, contents: Contents, facts: Facts) -> Path:
    data = {name: csv_files.text(CSV[name], contents[name]).encode() for name in CSV}
    data["samples.parquet"] = record_files.parquet(record_files.samples([contents["samples.parquet"]]))
    data |= {name: contents[name] for name in WHOLE}
    record_files.write(folder, record_files.whole(data, facts))
    return folder


def part(
    records: Path,
    folder: Path,
    *,
    seeds: tuple[int, ...] = (0, 1, 2),
    rows: tuple[str, ...] = NAMES,
    change: Callable[[Contents, Facts], Any] = lambda contents, facts: None,
) -> Path:
    """What of some records a machine would have written that had these seeds and rows alone."""
    contents, facts = contents_of(records)

    def has(name: str, line: dict[str, str]) -> bool:
        alike = not line["method"] or name == "tuning.csv" or int(line["seed"]) in seeds
        return alike and (not line["method"] or line["method"] in rows)

    for name in CSV:
        contents[name] = [line for line in contents[name] if has(name, line)]
    drawn = contents["samples.parquet"]
    contents["samples.parquet"] = drawn[drawn["method"].isin(rows) & drawn["seed"].isin(seeds)]
    told = json.loads(contents[PROVENANCE])
    for process in told["processes"]:
        process["jobs"] = [
            job
            for job in process["jobs"]
            if "method" not in job or (job["method"] in rows and job["seed"] in seeds)
        ]
    told["processes"] = [process for process in told["processes"] if process["jobs"]]
    contents[PROVENANCE] = files.json_text(told).encode()
    facts["seeds"] = list(seeds)
    facts["settings"]["seeds"] = list(seeds)
    facts["rows"] = {row: values for row, values in facts["rows"].items() if row in rows}
    change(contents, facts)
    return put(folder, contents, facts)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    made = write_records(folder / "made", ROWS, per_tier=3, k=2, forgets=True)
    return put(folder / "records", *contents_of(made))


def same(one: Path, other: Path) -> list[str]:
    return [name for name in ALL if (one / name).read_bytes() == (other / name).read_bytes()]


# ------------------------------------------------------------------------------------------ what is merged


def test_every_file_of_the_records_is_merged_in_its_own_way() -> None:
    assert set(HOW) == set(FILES)


@pytest.mark.promise(
    "Records and report",
    "Records that several machines made of one study merge into those of one machine, byte for byte.",
)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_halves_by_seeds_are_the_whole_byte_for_byte(
    whole: Path, tmp_path: Path, order: tuple[int, int]
) -> None:
    halves = part(whole, tmp_path / "a", seeds=(0, 2)), part(whole, tmp_path / "b", seeds=(1,))
    found = merge(tmp_path / "out", [halves[i] for i in order])
    assert same(tmp_path / "out", whole) == list(ALL)
    assert found.runs == 15 and found.shared == 0 and not found.lacking and found.new
    assert not recount(tmp_path / "out").differences


def test_halves_by_rows_are_the_whole_and_what_both_have_is_taken_once(whole: Path, tmp_path: Path) -> None:
    one = part(whole, tmp_path / "a", rows=("base", "good"))
    other = part(whole, tmp_path / "b", rows=("base", "twin", "crashed", "absent"))
    found = merge(tmp_path / "out", [one, other])
    assert same(tmp_path / "out", whole) == list(ALL)
    assert found.shared == 3  # base, with three seeds
    merge(tmp_path / "turned", [other, one])
    names = [line["method"] for line in contents_of(tmp_path / "turned")[0]["runs.csv"]]
    assert list(dict.fromkeys(names)) == ["base", "twin", "crashed", "absent", "good"]


def test_three_parts_and_what_no_machine_ran(whole: Path, tmp_path: Path) -> None:
    parts = [
        part(whole, tmp_path / "a", seeds=(0,)),
        part(whole, tmp_path / "b", seeds=(1,)),
        part(whole, tmp_path / "c", seeds=(2,), rows=("base", "good")),
    ]
    found = merge(tmp_path / "out", parts)
    assert found.lacking == [("twin", 2), ("crashed", 2), ("absent", 2)]
    study = load(tmp_path / "out")
    lack = study.incomplete("twin", BUDGETS[0])
    assert lack is not None and lack.reason == "seed 2 missing"
    assert study.incomplete("good", BUDGETS[0]) is None


def test_each_machine_s_times_stay_its_own_and_in_their_place(whole: Path, tmp_path: Path) -> None:
    def slower(contents: Contents, facts: Facts) -> None:
        for line in contents["machine.csv"]:
            line |= {"seconds": "99.5", "joules": "12", "device": "GPU"}

    one = part(whole, tmp_path / "a", seeds=(0, 1))
    other = part(whole, tmp_path / "b", seeds=(0, 2), rows=("base", "good", "twin"), change=slower)
    merge(tmp_path / "out", [one, other])
    merged, wanted = (contents_of(folder)[0]["machine.csv"] for folder in (tmp_path / "out", whole))
    wanted = [line for line in wanted if line["method"] != "crashed" or line["seed"] != "2"]
    key = ("method", "seed", "budget", "account")
    assert [[line[k] for k in key] for line in merged] == [[line[k] for k in key] for line in wanted]
    assert {line["seed"] for line in merged if line["device"] == "GPU"} == {"2"}  # seed 0 is the first part's
    assert {line["joules"] for line in merged if line["seed"] == "2"} == {"12"}  # and not 12.0
    assert list(merged[0]) == list(MACHINE)


def test_names_and_commands_of_the_parts(whole: Path, tmp_path: Path) -> None:
    def named(contents: Contents, facts: Facts) -> None:
        facts |= {"name": "half-b", "command": "snakemake b"}
        facts["versions"] |= {"method good": "other.py, code 1"}

    one = part(whole, tmp_path / "a", rows=("base",))
    other = part(whole, tmp_path / "b", rows=("good",), change=named)
    facts = merge(tmp_path / "out", [one, other]).study.facts
    assert facts.name == "made" and facts.command == "snakemake tables\nsnakemake b"
    assert facts.versions == {"torch": "2.13", "method good": "other.py, code 1"}


@pytest.mark.promise(
    "Records and report",
    "Records that several machines made of one study merge into those of one machine, byte for byte.",
)
@pytest.mark.slow
def test_the_committed_study_comes_out_of_its_parts(tmp_path: Path) -> None:
    records = ROOT / "results" / "pocket" / "records"
    rows = tuple(row.method for row in load(records).rows)
    halves = [part(records, tmp_path / str(s), seeds=s, rows=rows) for s in ((1,), (0, 2))]
    merge(tmp_path / "out", halves)
    assert same(tmp_path / "out", records) == list(ALL)


# ----------------------------------------------------------------------------------------- what is refused


def set_fact(**facts: Any) -> Callable[[Contents, Facts], Any]:
    return lambda contents, known: known.update(facts)


def set_lines(name: str, method: str, **values: str) -> Callable[[Contents, Facts], Any]:
    def change(contents: Contents, facts: Facts) -> None:
        for line in contents[name]:
            if line["method"] == method:
                line |= values

    return change


def other_problems(contents: Contents, facts: Facts) -> None:
    drawn = contents["samples.parquet"]
    drawn = drawn.assign(problem=drawn["problem"].astype(str).replace("p0003", "q0003"))
    contents["samples.parquet"] = drawn


def of(key: str, **values: Any) -> Callable[[Contents, Facts], Any]:
    return lambda contents, facts: facts.update({key: facts[key] | values})


def benchmark(**values: Any) -> Callable[[Contents, Facts], Any]:
    return lambda contents, facts: facts["benchmarks"][0].update(values)


def other_shape(contents: Contents, facts: Facts) -> None:
    facts["shapes"]["other"] = facts["shapes"]["policy"] | {"parameters": 6}
    for line in contents["ledger.csv"]:
        line["shape"] = "other"


@pytest.mark.promise("Records and report", "Parts that do not belong together are not merged.")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (set_fact(title="Another study"), "title is Another study in the one and Made-up study in the other"),
        (set_fact(target_accuracies=[0.5]), r"target_accuracies is \[0.5\] in the one"),
        (set_fact(numerics="portable"), "numerics is portable in the one and fast in the other"),
        (of("forgetting", content="x"), "forgetting.content is x in the one and d0c5 in the other"),
        (set_fact(new_key=1), "new_key is 1 in the one and nothing in the other"),
        (of("versions", torch="2.12"), "versions.torch is 2.12 in the one and 2.13 in the other"),
        (of("versions", suite="9"), "versions.suite is 9 in the one and nothing in the other"),
        (of("versions", **{"method good": "x.py"}), "versions.method good is x.py in the one"),
        (of("model", parameters=7), "model.parameters is 7 in the one and 800000 in the other"),
        (of("evaluation", engine={"engine": "vllm", "torch": "2.13"}), "evaluation.engine.engine is vllm in"),
        (of("evaluation", prompt={"style": "plain"}), "evaluation.prompt.digest is nothing in the one"),
        (of("evaluation", tasks={"ladder_sampled": 2}), "evaluation.tasks.ladder_sampled is 2 in the one"),
        (benchmark(max_tokens=9), "benchmarks.0.max_tokens is 9 in the one and 99 in the other"),
        (benchmark(content="abc"), "benchmarks.0.content is abc in the one and nothing in the other"),
        (other_problems, "they were evaluated on other problems of LADDER"),
        (other_shape, "the sizes of their base models differ"),
        (set_lines("ledger.csv", "", round="1"), "the warm start of their base models differ"),
        (set_lines("runs.csv", "base", fingerprint="x"), "the weights of their base models differ"),
        (set_lines("visits.csv", "good", pool="401"), "training problems differ in number or tiers"),
        (set_lines("runs.csv", "good", title="Better"), "title of the row good is Better in the one"),
        (set_lines("runs.csv", "good", role="ablation"), "role of the row good is ablation in the one"),
        (set_lines("tuning.csv", "good", settings="{}"), "tuning.csv of the row good differs"),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_refused(
    whole: Path, tmp_path: Path, change: Callable[[Contents, Facts], Any], says: str
) -> None:
    known = set_lines("runs.csv", "base", fingerprint="base")
    one = part(whole, tmp_path / "a", seeds=(0,), change=known)

    def both(contents: Contents, facts: Facts) -> None:
        known(contents, facts)
        change(contents, facts)

    other = part(whole, tmp_path / "b", seeds=(1, 2), change=both)
    with pytest.raises(UserError, match=says) as raised:
        merge(tmp_path / "out", [one, other])
    said = str(raised.value)
    assert "\n" not in said and str(tmp_path / "a") in said and str(tmp_path / "b") in said
    assert not (tmp_path / "out").exists()


def test_other_budgets_are_refused(whole: Path, tmp_path: Path) -> None:
    fewer = write_records(
        tmp_path / "made", ROWS, seeds=(1,), budgets=BUDGETS[:3], per_tier=3, k=2, forgets=True
    )
    with pytest.raises(UserError, match=r"budgets is .* in the one and .* in the other"):
        merge(tmp_path / "out", [part(whole, tmp_path / "a", seeds=(0,)), fewer])


@pytest.mark.parametrize("name", ["runs.csv", "ledger.csv", "monitors.csv", "visits.csv", "samples.parquet"])
def test_a_run_that_two_have_and_that_differs_is_refused(whole: Path, tmp_path: Path, name: str) -> None:
    values = {"runs.csv": ("key", "other"), "ledger.csv": ("call", "9"), "monitors.csv": ("value", "9"),
              "visits.csv": ("trained", "901"), "samples.parquet": ("tokens", 99)}  # fmt: skip

    def change(contents: Contents, facts: Facts) -> None:
        column, value = values[name]
        if name in CSV:
            next(line for line in contents[name] if line["method"] == "good")[column] = value
        else:
            drawn = contents[name].reset_index(drop=True)
            drawn.loc[drawn.index[drawn["method"] == "good"][0], column] = value
            contents[name] = drawn

    one = part(whole, tmp_path / "a", seeds=(0, 1))
    other = part(whole, tmp_path / "b", seeds=(0, 2), change=change)
    with pytest.raises(UserError, match=f"both have the run of good with seed 0, and it differs in {name}"):
        merge(tmp_path / "out", [one, other])


def test_what_is_there_is_not_touched_and_never_half_written(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = [part(whole, tmp_path / str(s), seeds=s) for s in ((0,), (1, 2))]
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    write = files.write_bytes

    def torn(path: Path, data: bytes) -> None:
        if path.name == "machine.csv":
            raise KeyboardInterrupt
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", torn)
        with pytest.raises(KeyboardInterrupt):
            merge(out, halves)
    assert [path.name for path in out.parent.iterdir()] == ["out"] and not any(out.iterdir())
    assert merge(out, halves).new
    assert not merge(out, halves[::-1]).new  # the same again
    (out / "visits.csv").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        merge(out, halves)
    assert (out / "visits.csv").read_text() == "mine"
    with pytest.raises(UserError, match="nothing to be merged with"):
        merge(tmp_path / "one", halves[:1])


def test_the_command_says_what_it_merged(whole: Path, tmp_path: Path) -> None:
    a = part(whole, tmp_path / "a", seeds=(0, 1))
    b = part(whole, tmp_path / "b", seeds=(1, 2), rows=("base", "good"))
    result = CliRunner().invoke(cli.app, ["merge", str(tmp_path / "m" / "records"), str(a), str(b)])
    assert result.exit_code == 0, result.output
    assert "5 rows, seeds 0, 1, 2; 12 runs, 2 of them in several records" in result.output
    assert "no records have twin with seed 2: the row is incomplete" in result.output
