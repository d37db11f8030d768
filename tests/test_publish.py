"""A study becomes a folder that others can verify; whatever in it was changed is named, and what its records
do not know is not claimed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic import Made, process, seal, write_records
from test_page import EVIL
from typer.testing import CliRunner

from repro import cli
from repro.errors import UserError
from repro.files import json_text, read_json, sha256, write_json, write_text
from repro.records import Role
from repro.reporting import bundle, deposit
from repro.reporting.analysis import Analysis
from repro.reporting.crate import CRATE
from repro.reporting.deposit import Author
from repro.reporting.results import load
from repro.schema import CSV, FILES, PARQUET, SAMPLES

ADA = Author(name="Ada Lovelace", affiliation="Analytical Society", orcid="0000-0002-1825-0097")
BOB = Author(name="B. <b>Ob</b> & *Sons*")
ROWS = (Made("base", Role.BASE), Made("good", gain=1.2, title=EVIL, note="=cmd()"))
TITLE = "# A *study* of </script><b>\n\u202ethings"
SPAN = ["2026-12-01T20:42:00+00:00", "2026-12-01T20:43:00+00:00"]  # of its only process
WRITTEN = {"README.md", "croissant.json", "neurips-checklist.md", ".zenodo.json", CRATE}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_records(tmp_path_factory.mktemp("study") / "records", ROWS, per_tier=2, k=2)
    facts = read_json(folder / "study.json")
    return seal(folder, facts | {"title": TITLE, "command": "snakemake `x`\n# more"})


@pytest.fixture
def copied(records: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(records, tmp_path / "study" / "records"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles without figures, which take long to draw."""

    def build(records: Path, out: Path) -> list[Analysis]:
        study = load(records)
        write_text(out / "tables" / "leaderboard.csv", f"{len(study.rows)}\n")
        write_text(out / "report.html", study.facts.digest)
        return [Analysis(study, one.name) for one in study.benchmarks]

    monkeypatch.setattr(bundle, "build", build)


def publish(records: Path, out: Path, *authors: Author) -> Path:
    return bundle.publish(records, out, authors or (ADA, BOB), None, None).folder


def run(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, list(map(str, arguments)))
    assert done.exception is None or isinstance(done.exception, SystemExit | UserError), done.exception
    return done.exit_code, f"{done.output}{done.exception or ''}"


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in bundle.paths(folder)}


def graph(folder: Path) -> dict[str, dict[str, Any]]:
    return {one["@id"]: one for one in read_json(folder / CRATE)["@graph"]}


# ------------------------------------------------------------------------------------------ what it holds


@pytest.mark.slow
def test_a_bundle_holds_all_of_the_study_and_is_verified(records: Path, tmp_path: Path) -> None:
    out = publish(records, tmp_path / "out")
    names = set(bundle.paths(out))
    assert {f"records/{name}" for name in (*FILES, "study.json")} | WRITTEN <= names
    assert {"report.html", "summary.md", "tables/leaderboard.csv", "figures/accuracy.png"} <= names
    assert all((out / "records" / name).read_bytes() == (records / name).read_bytes() for name in FILES)
    status, said = run("verify", out)
    assert status == 0 and f"{out}: verified\n" in said
    assert run("verify", records, out)[0] == 0  # its records are read like others


@pytest.mark.usefixtures("quick")
def test_a_bundle_is_the_same_bytes_every_time(records: Path, tmp_path: Path) -> None:
    assert files_of(publish(records, tmp_path / "a")) == files_of(publish(records, tmp_path / "deep" / "b"))


@pytest.mark.usefixtures("quick")
def test_the_crate_lists_every_file_and_what_ran(records: Path, tmp_path: Path) -> None:
    out = publish(records, tmp_path / "out")
    found = graph(out)
    listed = {name: one for name, one in found.items() if one["@type"] == "File"}
    assert set(listed) == set(bundle.paths(out)) - {CRATE}
    for name, one in listed.items():
        assert one["sha256"] == sha256(out / name) and one["contentSize"] == str((out / name).stat().st_size)
        assert one["encodingFormat"] and one["description"]
    root = found["./"]
    assert {one["@id"] for one in root["hasPart"]} == set(listed)
    assert root["datePublished"] == "2026-12-01" and root["license"]["@id"].endswith("/CC-BY-4.0")
    assert [found[one["@id"]]["name"] for one in root["author"]] == [ADA.name, BOB.name]
    action = found[root["mentions"]["@id"]]
    assert [action["startTime"], action["endTime"]] == SPAN
    assert found[action["instrument"]["@id"]]["version"] == "c0ffee"
    assert action["name"] == "train: 6, evaluate: 6" and "2 cores of A processor" in action["description"]
    for one in found.values():  # nothing is referred to that is not there
        for value in one.values():
            for reference in value if isinstance(value, list) else [value]:
                known = isinstance(reference, dict) and reference["@id"].startswith(("#", "records/", "./"))
                assert not known or reference["@id"] in found


@pytest.mark.usefixtures("quick")
def test_croissant_describes_every_column(records: Path, tmp_path: Path) -> None:
    out = publish(records, tmp_path / "out")
    found = read_json(out / "croissant.json")
    assert {one["contentUrl"]: one["sha256"] for one in found["distribution"]} == {
        f"records/{name}": sha256(out / "records" / name) for name in (*FILES, "study.json")
    }
    columns = {one["name"]: [field["name"] for field in one["field"]] for one in found["recordSet"]}
    held = {**CSV, "samples.parquet": SAMPLES, **PARQUET}
    assert columns == {name.partition(".")[0]: list(kinds) for name, kinds in held.items()}
    kinds = {field["@id"]: field["dataType"] for one in found["recordSet"] for field in one["field"]}
    assert kinds["runs/spent"] == kinds["ledger/flops"] == kinds["samples/tokens"] == "sc:Integer"
    assert kinds["machine/flops"] == "sc:Float" and kinds["samples/correct"] == "sc:Boolean"
    assert found["rai:dataCollectionTimeFrame"] == SPAN
    assert found["rai:dataCollectionMissingData"] == "No row is incomplete."


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_mlcroissant_reads_every_record_set(tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant", reason="no mlcroissant: pip install mlcroissant pyarrow")
    records = Path(__file__).parents[1] / "results/pocket/records"
    out = bundle.publish(records, tmp_path / "out", [ADA], None, date(2026, 12, 1)).folder
    found = mlcroissant.Dataset(jsonld=out / "croissant.json")
    assert not found.metadata.ctx.issues.errors
    sets = {one.uuid: list(islice(found.records(one.uuid), 200)) for one in found.metadata.record_sets}
    assert {name: len(lines) for name, lines in sets.items()} == dict.fromkeys(sets, 200) | {
        "runs": 108, "visits": 144, "tuning": 0, "texts": 0
    }  # fmt: skip
    assert sets["runs"][0]["runs/budget"] == 20_000_000_000 and sets["samples"][0]["samples/seed"] == 0


@pytest.mark.usefixtures("quick")
def test_hostile_titles_stay_texts(records: Path, tmp_path: Path) -> None:
    out = publish(records, tmp_path / "out")
    said = read_json(out / ".zenodo.json")
    assert said["title"].startswith("# A *study* of </script><b> things: records")
    assert "<" not in said["description"].removeprefix("<p>").removesuffix("</p>")
    assert said["creators"] == [ADA.model_dump(), {"name": BOB.name}]
    for name in ("README.md", "neurips-checklist.md"):
        lines = [line for line in (out / name).read_text().splitlines() if not line.startswith("    ")]
        text = "\n".join(lines)  # without code, where nothing is mark-up
        assert "\u202e" not in text and "*study*" not in text and r"\<b>" in text
        assert "<script>" not in text.replace(r"\<", "") and "</script>" not in text.replace(r"\<", "")
    readme = (out / "README.md").read_text()
    assert r"B. \<b>Ob\</b> & \*Sons\*" in readme
    assert "    snakemake `x`\n    # more\n" in readme  # code, whatever it holds


# ----------------------------------------------------------------------------- what the records do not know


@pytest.mark.usefixtures("quick")
def test_what_is_not_recorded_is_not_claimed(copied: Path, tmp_path: Path) -> None:
    def answers(out: Path) -> dict[str, str]:
        parts = (out / "neurips-checklist.md").read_text().split("\n## ")[1:]
        return {part.split(". ")[1].split("\n")[0]: part.split("**")[1] for part in parts}

    found = answers(publish(copied, tmp_path / "a"))
    assert len(found) == 16 and found["Reproducibility"] == "No"  # the hyper-parameters of a row are missing
    assert found["Claims"] == found["Licences of assets"] == "For the author"
    assert found["Compute resources"] == found["Statistical significance"] == "Yes"

    facts = read_json(copied / "study.json")
    seal(copied, facts | {"rows": {"base": {}, "good": {}}})
    assert answers(publish(copied, tmp_path / "b"))["Reproducibility"] == "Yes"

    ran = read_json(copied / "provenance.json")["processes"][0]
    write_json(copied / "provenance.json", {"processes": [ran | {"changed": True}]})
    made = bundle.publish(seal(copied), tmp_path / "c", [ADA], None, None)
    assert (
        "were not committed" in made.doubts[0] and made.doubts[0] in (made.folder / "README.md").read_text()
    )
    assert answers(made.folder)["Reproducibility"] == "No"
    actions = [one for one in graph(made.folder).values() if one["@type"] == "SoftwareSourceCode"]
    assert actions[0]["version"] == "c0ffee, with uncommitted changes"

    write_json(copied / "provenance.json", {"processes": []})
    made = bundle.publish(seal(copied), tmp_path / "d", [ADA], "MIT", date(2026, 5, 4))
    assert "do not say what ran" in made.doubts[0]
    root = graph(made.folder)["./"]
    assert "mentions" not in root and "conformsTo" not in root and root["version"] == "2026.5.4"
    assert "rai:dataCollectionTimeFrame" not in read_json(made.folder / "croissant.json")


@pytest.mark.usefixtures("quick")
def test_the_day_is_that_of_the_last_job(copied: Path, tmp_path: Path) -> None:
    late = process([("train", "good", 0)])
    late["jobs"][0]["ended"] = "2027-01-02T03:04Z"
    ran = read_json(copied / "provenance.json")["processes"][0]
    ran["jobs"] = [job for job in ran["jobs"] if (job["kind"], job["seed"]) != ("train", 0)]
    write_json(copied / "provenance.json", {"processes": [late, ran]})
    out = publish(seal(copied), tmp_path / "out")
    assert read_json(out / ".zenodo.json")["publication_date"] == "2027-01-02"


def test_authors_are_read_as_they_are_written() -> None:
    assert deposit.author("Ada Lovelace; Analytical Society; 0000-0002-1825-0097") == ADA
    assert deposit.author("Ada Lovelace;https://orcid.org/0000-0002-1694-233X").orcid == "0000-0002-1694-233X"
    assert deposit.author(" Ada ") == Author(name="Ada")


# --------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "nobody is named who publishes this; add --author"),
        (["--author", "Ada; 0000-0002-1825-0098"], "0000-0002-1825-0098 is no ORCID"),
        (["--author", "Ada; a; b"], "more than one affiliation"),
        (["--author", "; a"], "there is no name"),
        (["--author", "Ada", "--license", "CC-BY-40"], "--license CC-BY-40 is no licence that SPDX lists"),
        (["--author", "Ada", "--license", "MIT OR Apache-2.0"], "is no licence that SPDX lists"),
        (["--author", "Ada", "--date", "1.12.2026"], "--date 1.12.2026 is no day"),
        (["--author", "Ada"], "provenance.json does not say when the study ran; name the day"),
    ],
)
@pytest.mark.usefixtures("quick")
def test_what_cannot_be_published_is_refused(
    copied: Path, tmp_path: Path, arguments: list[str], says: str
) -> None:
    write_json(copied / "provenance.json", {"processes": []})
    seal(copied)
    status, said = run("publish", copied, "--out", tmp_path / "out", *arguments)
    assert status and says in said and not (tmp_path / "out").exists()


@pytest.mark.usefixtures("quick")
def test_wrong_records_and_folders_that_are_taken_are_refused(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").touch()
    with pytest.raises(UserError, match="taken holds something else"):
        publish(copied, tmp_path / "taken")
    out = publish(copied, tmp_path / "out")
    ledger = (copied / "ledger.csv").read_text()
    more = pd.read_csv(copied / "ledger.csv")
    more.loc[0, "flops"] += 8
    more.to_csv(copied / "ledger.csv", index=False)
    seal(copied)
    with pytest.raises(UserError, match=r"does not verify, so it is not published(.|\n)*ledger.csv, line"):
        publish(copied, tmp_path / "other")
    write_text(copied / "ledger.csv", ledger)
    facts = read_json(copied / "study.json")
    with pytest.raises(UserError, match="is a bundle of other records"):
        publish(seal(copied, facts | {"title": "Other"}), out)


# ------------------------------------------------------------------------------------------ verification


def rehash(out: Path, name: str) -> None:
    crate = read_json(out / CRATE)
    for one in crate["@graph"]:
        if one["@id"] == name:
            one["sha256"] = sha256(out / name)
    write_json(out / CRATE, crate)


def edit_table(out: Path) -> None:
    write_text(out / "tables" / "leaderboard.csv", "99\n")


def edit_table_and_hash(out: Path) -> None:
    edit_table(out)
    rehash(out, "tables/leaderboard.csv")


def link(out: Path) -> None:
    shutil.move(out / "report.html", out.parent / "elsewhere.html")
    (out / "report.html").symlink_to(out.parent / "elsewhere.html")


def edit_licence(out: Path) -> None:
    said = read_json(out / ".zenodo.json")
    write_json(out / ".zenodo.json", said | {"license": "MIT"})
    rehash(out, ".zenodo.json")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (edit_table, "tables/leaderboard.csv was changed after it was published"),
        (edit_table_and_hash, "tables/leaderboard.csv is not what the records give"),
        (lambda out: write_text(out / "more.md", "x"), "more.md is no file of the bundle"),
        (lambda out: (out / "README.md").unlink(), "README.md is missing"),
        (lambda out: (out / ".zenodo.json").unlink(), ".zenodo.json is missing"),
        (link, "report.html is a link"),
        (edit_licence, "README.md is not what the records give"),
        (
            lambda out: write_text(out / "records" / "visits.csv", "x"),
            "visits.csv is not the file that study",
        ),
    ],
)
@pytest.mark.usefixtures("quick")
def test_what_was_changed_in_a_bundle_is_named(
    records: Path, tmp_path: Path, change: Callable[[Path], Any], says: str
) -> None:
    out = publish(records, tmp_path / "out")
    change(out)
    status, said = run("verify", out)
    assert status == 1 and says in said and "verified" not in said


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (CRATE, "{}", "lists no files with their SHA-256"),
        (CRATE, '{"@graph": [7]}', "lists no files with their SHA-256"),
        (CRATE, None, "holds records and is no bundle"),
        (".zenodo.json", "[]", "'all of it' is missing or wrong"),
        (".zenodo.json", '{"creators": []}', "'creators' is missing or wrong"),
    ],
)
@pytest.mark.usefixtures("quick")
def test_what_is_no_bundle_is_refused_in_a_sentence(
    records: Path, tmp_path: Path, name: str, content: str | None, says: str
) -> None:
    out = publish(records, tmp_path / "out")
    if content is None:
        (out / name).unlink()
    else:
        write_text(out / name, content)
        if name != CRATE:
            rehash(out, name)
    status, said = run("verify", out)
    assert status and says in said


@pytest.mark.usefixtures("quick")
def test_a_bundle_is_made_anew_in_its_place(records: Path, tmp_path: Path) -> None:
    out = publish(records, tmp_path / "out", BOB)
    wanted = files_of(out)
    crate = read_json(out / CRATE)
    write_text(out / "tables" / "old.csv", "of an older suite")
    crate["@graph"].append({"@id": "tables/old.csv", "@type": "File", "sha256": "0"})
    crate["@graph"].append({"@id": "../study.txt", "@type": "File", "sha256": "0"})
    write_text(out / CRATE, json_text(crate))
    write_text(tmp_path / "study.txt", "not of the bundle")
    write_text(out / "notes.txt", "nobody's")
    edit_table(out)
    assert run("publish", out / "records")[0] == 0  # with the author, licence and day that it names
    assert files_of(out) == wanted | {"notes.txt": b"nobody's"}
    assert (tmp_path / "study.txt").exists()
    (out / "notes.txt").unlink()
    publish(out / "records", out, ADA)
    assert read_json(out / ".zenodo.json")["creators"][0]["name"] == ADA.name
    assert run("verify", out)[0] == 0
