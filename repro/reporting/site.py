"""All studies of a folder on one page, which a static host serves: what each found, and one table of their
rows. The same bytes of the same records."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from repro.errors import UserError
from repro.files import write_text
from repro.reporting import page_data
from repro.reporting.analysis import Analysis
from repro.reporting.bundle import is_bundle
from repro.reporting.deposit import devices, read
from repro.reporting.page import provenance as provenance_of
from repro.reporting.page import template
from repro.reporting.results import Study, X, load
from repro.reporting.table import DASH, Table, dagger_note, flops, plain_of
from repro.reporting.tables import KIND, headline, score_cell, spent_cell

CONTRIBUTED = "contributed"  # the folder of bundles that others sent
_APART = (
    "Scores of different studies are not comparable: models, problems and budgets differ. A study compares "
    "its rows in its own report; the table of all rows ranks nothing."
)


@dataclass(frozen=True)
class Entry:
    """A study on the page."""

    folder: str  # within the results
    analyses: Sequence[Analysis]
    authors: str  # of a bundle, else blank

    @property
    def study(self) -> Study:
        return self.analyses[0].study

    @property
    def headlines(self) -> list[str]:
        return [headline(analysis) for analysis in self.analyses]

    @property
    def about(self) -> dict[str, str]:
        study = self.study
        ran = provenance_of(study)
        known = study.provenance.processes
        return {
            **({"Contributed by": self.authors} if self.authors else {}),
            "Model": f"{study.facts.model.description} ({study.facts.model.parameters:,} parameters)",
            "Score": "; ".join(f"{one.title}: {one.metric}" for one in study.benchmarks),
            "Budgets": ", ".join(map(flops, study.budgets)),
            "Training seeds": ", ".join(map(str, study.seeds)),
            "Machines": ran["Hardware"] if known else ", ".join(devices(study)) or "not recorded",
            "Jobs ended": ran["Jobs ended"],
            "Records": f"digest {study.facts.digest}",
        }

    @property
    def links(self) -> dict[str, str]:
        """Title -> address, relative to the page."""
        files = {"Report": "report.html", "Leaderboard (CSV)": "tables/leaderboard.csv",
                 "Settings": "records/study.json"}  # fmt: skip
        files |= {"Bundle": "README.md"} if self.authors else {}
        return {title: quote(f"{self.folder}/{file}") for title, file in files.items()}


def build(results: Path) -> Path:
    """Write ``results/index.html``, and return its path. Raises UserError where there is no study, or one
    that cannot be read."""
    entries = list(_entries(results))
    if not entries:
        raise UserError(f"{results} holds no study; name a folder that has some, as NAME/records")
    board = _board(entries)
    page = template("site.html").render(
        entries=entries,
        apart=_APART,
        board=board,
        copies=base64.b64encode(page_data.copies([board])).decode(),
    )
    write_text(results / "index.html", page)
    return results / "index.html"


def _entries(results: Path) -> Iterator[Entry]:
    """The folder's own studies, then those of others."""
    for above in (results, results / CONTRIBUTED):
        for path in sorted(above.glob("*/records/study.json")):
            folder, study = path.parents[1], load(path.parent)
            creators = read(folder).creators if above != results or is_bundle(folder) else []
            authors = ", ".join(one.name for one in creators)
            analyses = [Analysis(study, one.name) for one in study.benchmarks]
            yield Entry(folder.relative_to(results).as_posix(), analyses, authors)


def _board(entries: Sequence[Entry]) -> Table:
    """Every row of every study at its top budget, study by study, best row first."""
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    for entry in entries:
        study, top = entry.study, entry.study.top
        for analysis in entry.analyses:
            for row in analysis.by_score:
                score, spent = analysis.accuracy(row.method, top), study.spent(row.method, top)
                cells.append({
                    "Method": row.title, "Study": study.title + " (preliminary)" * study.preliminary,
                    "Score": score_cell(study, row, top, score), "Budget": flops(top),
                    "Spent\n(use)": spent_cell(row, spent, top), "Kind": KIND[row.role],
                    "Objective": row.objective or DASH,
                    "Benchmark": analysis.benchmark.title, "Seeds": str(len(study.seeds)),
                })  # fmt: skip
                data.append({
                    "study": entry.folder, "method": row.method, "title": row.title, "role": str(row.role),
                    "objective": row.objective,
                    "benchmark": analysis.benchmark.name, **plain_of("accuracy", score), "budget": top,
                    "spent": None if isinstance(spent, X) else round(spent), "seeds": len(study.seeds),
                })  # fmt: skip
    notes = [
        _APART,
        "Score: at the top budget of its study, in percent, mean over training seeds, with its 95 % "
        "interval. X: the row is incomplete there; its report says why.",
        *dagger_note(cells),
    ]
    frames = (pd.DataFrame(cells, dtype=object), pd.DataFrame(data, dtype=object))
    return Table("all-rows", "All rows of all studies", *frames, notes)
