"""A study that is given away: what its records do not know (who gives it, when, under which licence), and
how it is described where it is deposited."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from repro.errors import UserError
from repro.files import read_json
from repro.reporting.analysis import Analysis
from repro.reporting.results import Study, one_line
from repro.reporting.table import caveat, flops, lacks, latex_text, settings_note
from repro.reporting.tables import headline
from repro.schema import Process, Provenance

ZENODO = ".zenodo.json"
SUITE = "self-taught-reasoners"  # the software that bundles are made and checked by
KEYWORDS = ("language models", "reasoning", "self-training", "compute-matched comparison", "reproducibility")
_ORCID = re.compile(r"(?:https://orcid\.org/)?((?:\d{4}-){3}\d{3}[\dX])")
_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True)


class Author(_Said):
    name: str = Field(min_length=1)
    affiliation: str | None = None
    orcid: str | None = None


class Deposit(_Said):
    """As :data:`ZENODO` has it."""

    creators: list[Author] = Field(min_length=1)
    license: str  # an identifier of SPDX
    publication_date: date


def author(text: str) -> Author:
    """Of "Name; affiliation; ORCID", where the last two may be left out. Raises UserError."""
    name, *more = [one_line(part) for part in text.split(";")]
    told: dict[str, str] = {}
    for part in filter(None, more):
        found = _ORCID.fullmatch(part)
        if found and not _checks(found[1]):
            raise UserError(f"--author {text}: {part} is no ORCID, its last digit does not fit; look it up")
        key, value = ("orcid", found[1]) if found else ("affiliation", part)
        if key in told:
            raise UserError(f'--author {text}: more than one {key}; write "Name; affiliation; ORCID"')
        told[key] = value
    if not name:
        raise UserError(f'--author {text}: there is no name; write "Name; affiliation; ORCID"')
    return Author(name=name, **told)


def _checks(orcid: str) -> bool:
    """Whether the last digit is that of ISO 7064 (MOD 11-2)."""
    total = 0
    for digit in orcid.replace("-", "")[:-1]:
        total = (total + int(digit)) * 2
    return orcid[-1] == "0123456789X"[(12 - total % 11) % 11]


def spdx(name: str) -> str:
    """A licence's identifier as SPDX writes it. Raises UserError where it has none."""
    try:
        known = canonicalize_license_expression(name)
        if " " not in known:  # else an expression of several
            return known
    except InvalidLicenseExpression:
        pass
    raise UserError(
        f"--license {name} is no licence that SPDX lists; take one of https://spdx.org/licenses, such as "
        "CC-BY-4.0"
    )


def day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UserError(f"--date {text} is no day; write it as 2026-12-31") from None


def read(bundle: Path) -> Deposit:
    """What was said of a bundle. Raises UserError where its file is missing or malformed."""
    path = bundle / ZENODO
    if not path.is_file():
        raise UserError(
            f"{bundle} is no bundle, it has no {ZENODO}; make one of its records by `repro publish`"
        )
    try:
        found = Deposit.model_validate(read_json(path))
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"])) or "all of it"
        raise UserError(f"{path}: '{key}' is missing or wrong; publish the records again") from None
    return found.model_copy(update={"license": spdx(found.license)})


class File(NamedTuple):
    """A file of a bundle, as it is described."""

    size: int  # bytes
    sha256: str
    kind: str  # its media type
    about: str


@dataclass(frozen=True)
class Subject:
    """A study with what is said of it, as all files of a bundle describe it."""

    analyses: Sequence[Analysis]
    deposit: Deposit

    @property
    def study(self) -> Study:
        return self.analyses[0].study

    @property
    def title(self) -> str:
        return f"{self.study.title}: records" + " (preliminary)" * self.study.preliminary

    @property
    def version(self) -> str:
        """The day of publication as a semantic version."""
        day = self.deposit.publication_date
        return f"{day.year}.{day.month}.{day.day}"

    @property
    def licence_url(self) -> str:
        return f"https://spdx.org/licenses/{self.deposit.license}"

    @cached_property
    def headlines(self) -> list[str]:
        return [headline(analysis) for analysis in self.analyses]

    @cached_property
    def description(self) -> str:
        study = self.study
        budgets, seeds = ", ".join(map(flops, study.budgets)), ", ".join(map(str, study.seeds))
        return " ".join([
            f"Records of a study of {len(study.rows)} rows, trained at matched budgets of {budgets} with the "
            f"training seeds {seeds}, and the tables, figures and report made from them.",
            *self.headlines,
        ])  # fmt: skip

    @cached_property
    def limitations(self) -> list[str]:
        """What the records know of their own limits."""
        study = self.study
        trained_on = (
            f"{one_line(study.facts.model.description)} ({study.facts.model.parameters:,} parameters)"
        )
        tested_on = ", ".join(one.title for one in study.benchmarks)
        missing = [f"{row.title} is incomplete: {lack}" for row in study.rows for lack in lacks(study, row)]
        return [
            *[caveat(study)] * study.preliminary,
            f"One base model, {trained_on}, and one evaluation, {tested_on}.",
            settings_note(study),
            *missing,
        ]

    @cached_property
    def doubts(self) -> list[str]:
        """What keeps others from running the same code again; nothing where its commits are known."""
        processes = self.study.provenance.processes
        if not processes:
            return ["The records do not say what ran: no commit of the suite, no library, no machine."]
        changed = [one.commit or "unknown" for one in processes if one.changed]
        unknown = sum(one.commit is None for one in processes)
        return [
            f"Files of the suite differed from its commit {commit} when it ran: they were not committed."
            for commit in dict.fromkeys(changed)
        ] + ["No commit of the suite is known of a part of the jobs."] * bool(unknown)

    @cached_property
    def papers(self) -> dict[str, str]:
        """The papers of the rows, by their addresses."""
        found = ((_ARXIV.search(row.paper), row.paper) for row in self.study.rows)
        return {f"https://arxiv.org/abs/{match[1]}": paper for match, paper in found if match}

    def zenodo(self) -> dict[str, Any]:
        said = self.deposit
        return {
            "upload_type": "dataset",
            "title": self.title,
            "description": f"<p>{html.escape(self.description)}</p>",  # which is shown as HTML
            "creators": [one.model_dump(exclude_none=True) for one in said.creators],
            "license": said.license,
            "access_right": "open",
            "publication_date": said.publication_date.isoformat(),
            "version": self.version,
            "keywords": list(KEYWORDS),
            "related_identifiers": [
                {"identifier": address, "relation": "cites", "scheme": "url"} for address in self.papers
            ],
        }

    def bibtex(self) -> str:
        said = self.deposit
        names = " and ".join(f"{{{latex_text(one.name)}}}" for one in said.creators)
        key = f"{SUITE}-{self.study.facts.digest}"
        return (
            f"@misc{{{key}, title={{{{{latex_text(self.title)}}}}}, author={{{names}}}, "
            f"year={{{said.publication_date.year}}}}}"
        )


def last_day(provenance: Provenance) -> date | None:
    """The day (UTC) on which the last job ended, where that is known."""
    ended = [job.ended for process in provenance.processes for job in process.jobs]
    return date.fromisoformat(max(ended)[:10]) if ended else None


def spans(process: Process) -> tuple[str, str]:
    """When the first of its jobs began and the last ended (UTC, ISO 8601)."""
    ends = [(datetime.fromisoformat(job.ended), job.seconds) for job in process.jobs]
    begun = min(end - timedelta(seconds=seconds) for end, seconds in ends)
    ended = max(end for end, _ in ends)
    minutes = "%Y-%m-%dT%H:%M:00+00:00"  # are what is known
    return f"{begun:{minutes}}", f"{ended:{minutes}}"


def devices(study: Study) -> Iterator[str]:
    """What machine.csv says that computed."""
    yield from dict.fromkeys(one_line(line["device"]) for line in study.machine if line["device"])
