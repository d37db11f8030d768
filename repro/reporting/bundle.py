"""A study as a folder that is given away: records, all that is made from them, and what describes them to
people and machines. Everything in it follows from the records and from what its authors said."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from repro import __version__
from repro.errors import UserError
from repro.files import filling, json_text, read_json, sha256, write_bytes, write_text
from repro.reporting.checklist import checklist
from repro.reporting.crate import CRATE, crate
from repro.reporting.croissant import croissant
from repro.reporting.deposit import SUITE, ZENODO, Author, Deposit, File, Subject, last_day, read
from repro.reporting.page import DETAILS, build, provenance
from repro.reporting.reading import read_facts, read_provenance
from repro.reporting.recount import recount
from repro.reporting.results import one_line
from repro.reporting.table import markdown_text, paragraph
from repro.schema import FILES, PROVENANCE

RECORDS = "records"
_KINDS = {
    ".csv": "text/csv", ".gz": "application/gzip", ".html": "text/html", ".json": "application/json",
    ".md": "text/markdown", ".parquet": "application/x-parquet", ".png": "image/png",
    ".svg": "image/svg+xml", ".tex": "application/x-tex",
}  # fmt: skip
_HOLDS = {
    "README.md": "what this is, how to verify and to regenerate it",
    "records/study.json": "budgets, seeds, settings, hyper-parameters, and the SHA-256 of the others",
    "records/runs.csv": "every run at every budget: what it spent, how it ended",
    "records/ledger.csv": "every entry of every run's ledger, and the integers that FLOPs are counted from",
    "records/monitors.csv": "what could be seen of a run, round by round",
    "records/visits.csv": "what a run trained on, by difficulty tier",
    "records/tuning.csv": "the trials that chose hyper-parameters",
    "records/machine.csv": "what the machine took: seconds and joules",
    "records/samples.parquet": "every completion of every evaluation: verdict, answer, length, text's hash",
    "records/texts.parquet": "completions by that hash",
    "records/problems.parquet": "the problems of the benchmarks and their tiers",
    "records/provenance.json": "what ran each job: when, on which machine, with which libraries and commit",
    "report.html": "all of it to read, in one page",
    DETAILS: "the completions, where the page asks for them",
    "tables/": "the tables of the report as Markdown, CSV and LaTeX",
    "figures/": "its figures as PNG and SVG",
    "summary.md": "headline and leaderboard",
    "neurips-checklist.md": "the NeurIPS paper checklist, as far as records answer it",
    "croissant.json": "the records described for machines: Croissant, every file and column",
    CRATE: "this folder described for machines: RO-Crate, every file with its SHA-256",
    ZENODO: "title, authors and licence for a deposit",
}


@dataclass(frozen=True)
class Published:
    folder: Path
    files: int
    size: int  # bytes
    doubts: list[str]


def is_bundle(folder: Path) -> bool:
    return (folder / CRATE).is_file()


def records_of(folder: Path) -> Path:
    """The records of a bundle; a folder of records itself."""
    return folder / RECORDS if (folder / RECORDS).is_dir() else folder


def publish(
    records: Path, out: Path, authors: Sequence[Author], licence: str | None, when: date | None
) -> Published:
    """Write a bundle of a records folder; one of the same records that is there is made anew, and says what
    it said before where nothing else is given.

    Raises UserError where the records do not verify, where nobody knows an author or a day, and where ``out``
    holds something else.
    """
    found = recount(records)
    if found.differences:
        raise UserError(
            f"{records} does not verify, so it is not published; mend this first:\n"
            + "\n".join(found.differences)
        )
    there = read(out) if is_bundle(out) else None
    if there is None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} holds something else; name a folder that is not there yet, or empty")
    if there and _digest(out / RECORDS) != _digest(records):
        raise UserError(f"{out} is a bundle of other records; name a folder that is not there yet, or empty")
    said = _said(records, there, authors, licence, when)
    if there is None:
        with filling(out) as folder:
            subject = make(records, folder, said)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            fresh = Path(temporary)
            subject = make(records, fresh, said)
            before, now = {*_listed(out)}, paths(fresh)
            for name in now:  # its list of files last, so that a bundle half made anew does not verify
                write_bytes(out / name, (fresh / name).read_bytes())
            for name in before.intersection(paths(out)) - {*now}:
                (out / name).unlink()
    sizes = [(out / name).stat().st_size for name in _listed(out)]
    return Published(out, len(sizes), sum(sizes), subject.doubts)


def differences(bundle: Path) -> list[str]:
    """What in a bundle is not as it was published, or not what its records give: a sentence for each file.
    The records' own sums are :func:`repro.reporting.recount.recount`'s.

    Raises UserError where it is no bundle.
    """
    listed, there = _listed(bundle), paths(bundle)
    found = [
        f"{bundle / name} is a link; put the file itself there"
        for name in there
        if (bundle / name).is_symlink()
    ]
    found += [
        f"{bundle / name} is missing; restore it, or publish again" for name in listed if name not in there
    ]
    found += [
        f"{bundle / name} is no file of the bundle: {CRATE} does not list it; remove it, or publish again"
        for name in there
        if name not in listed and name != CRATE
    ]
    found += [
        f"{bundle / name} was changed after it was published: its SHA-256 differs; restore it, or "
        "publish again"
        for name, digest in listed.items()
        if name in there and sha256(bundle / name) != digest
    ]
    if found:
        return found
    with tempfile.TemporaryDirectory() as temporary:
        fresh = Path(temporary)
        make(bundle / RECORDS, fresh, read(bundle))
        made = paths(fresh)
        return [
            f"{bundle / name} is not what the records give with this suite ({__version__}); if another "
            "version published it, publish it again"
            for name in sorted({*made, *there})
            if name not in made
            or name not in there
            or (fresh / name).read_bytes() != (bundle / name).read_bytes()
        ]


def make(records: Path, folder: Path, said: Deposit) -> Subject:
    """Fill an empty folder: the same bytes of the same records and words."""
    for name in (*FILES, "study.json"):
        write_bytes(folder / RECORDS / name, (records / name).read_bytes())
    subject = Subject(build(folder / RECORDS, folder), said)
    write_text(folder / ZENODO, json_text(subject.zenodo()))
    write_text(folder / "neurips-checklist.md", checklist(subject))
    write_text(folder / "README.md", _readme(subject, paths(folder)))
    write_text(folder / "croissant.json", json_text(croissant(subject, _described(folder))))
    write_text(folder / CRATE, json_text(crate(subject, _described(folder))))
    return subject


def paths(folder: Path) -> list[str]:
    """All files of a folder, by their paths in it; that which lists them last."""
    found = [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() or path.is_symlink()
    ]
    return sorted(found, key=lambda name: (name == CRATE, name))


def _described(folder: Path) -> dict[str, File]:
    found = {}
    for name in paths(folder):
        path = folder / name
        about = _HOLDS[name if name in _HOLDS else f"{name.partition('/')[0]}/"]
        found[name] = File(path.stat().st_size, sha256(path), _KINDS[path.suffix], about)
    return found


def _listed(bundle: Path) -> dict[str, str]:
    """The files that a bundle lists, and their SHA-256. Raises UserError where it lists none."""
    path = bundle / CRATE
    if not path.is_file():
        raise UserError(
            f"{bundle} holds records and is no bundle, it has no {CRATE}; name {bundle / RECORDS}, or make a "
            "bundle by `repro publish`"
        )
    try:
        entities: list[dict[str, Any]] = read_json(path)["@graph"]
        return {str(one["@id"]): str(one["sha256"]) for one in entities if one["@type"] == "File"}
    except (KeyError, TypeError):
        raise UserError(f"{path} lists no files with their SHA-256; publish the records again") from None


def _digest(records: Path) -> str:
    return read_facts(records / "study.json").digest


def _said(
    records: Path, there: Deposit | None, authors: Sequence[Author], licence: str | None, when: date | None
) -> Deposit:
    creators = list(authors) or (there.creators if there else [])
    if not creators:
        raise UserError('nobody is named who publishes this; add --author "Name; affiliation; ORCID"')
    when = when or (there.publication_date if there else last_day(read_provenance(records / PROVENANCE)))
    if when is None:
        raise UserError(
            f"{records / PROVENANCE} does not say when the study ran; name the day of publication, such "
            "as --date 2026-12-31"
        )
    return Deposit(
        creators=creators, license=licence or (there.license if there else "CC-BY-4.0"), publication_date=when
    )


def _readme(subject: Subject, there: Sequence[str]) -> str:
    study, said = subject.study, subject.deposit
    authors = [
        markdown_text(", ".join(filter(None, (one.name, one.affiliation))))
        + (f" ([{one.orcid}](https://orcid.org/{one.orcid}))" if one.orcid else "")
        for one in said.creators
    ]
    files = "\n".join(
        f"| `{name}` | {what} |" for name, what in _HOLDS.items() if name != DETAILS or name in there
    )
    ran = "\n".join(f"- {name}: {markdown_text(text)}" for name, text in provenance(study).items())
    commands = "\n".join(f"    {one_line(line)}" for line in study.facts.command.splitlines())
    return "\n\n".join([
        f"# {markdown_text(subject.title)}",
        *map(paragraph, subject.headlines),
        f"{'; '.join(authors)}. {said.publication_date}, version {subject.version}. Licence: "
        f"[{said.license}]({subject.licence_url}).",
        "## What it is",
        "Records of language models that were trained at matched FLOP budgets, each row by another method, "
        f"and what the suite *{SUITE}* ({__version__}) makes of them, and of nothing else.",
        f"| file | holds |\n|---|---|\n{files}",
        "## Verify",
        "    repro verify .",
        "counts every FLOP of the records anew from their token counts, compares every file with its SHA-256 "
        f"in `{CRATE}`, and makes everything but the records again, which must give the same bytes. It needs "
        "neither torch nor a GPU. It is no signature: whoever rewrites records and hashes is not found.",
        "## Regenerate",
        "From the records, tables, figures and report, in their places here:",
        "    repro tables records",
        "From nothing, with the settings that `records/study.json` has under `settings`:",
        commands,
        "## What ran",
        *[ran] * bool(study.provenance.processes),
        *["\n".join(f"- {paragraph(doubt)}" for doubt in subject.doubts)] * bool(subject.doubts),
        "## Limits",
        "\n".join(f"- {paragraph(limit)}" for limit in subject.limitations),
        "## Cite",
        f"    {subject.bibtex()}",
    ]) + "\n"  # fmt: skip
