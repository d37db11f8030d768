"""What the papers report, beside what a study finds. Importing it loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from repro import csv_files
from repro.records import Role
from repro.reporting.analysis import Analysis, Difference
from repro.reporting.results import Study, X
from repro.reporting.statistics import LEVEL
from repro.reporting.table import (
    DASH,
    Table,
    flops,
    interval,
    marked,
    of_benchmark,
    percent,
    plain_of,
    signed,
    table_of,
)
from repro.validation import validated

PUBLISHED = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "published.csv"
_MEND = "restore it, or make the tables in a checkout of the suite"


class Figure(BaseModel):
    """One number of a paper: a line of published.csv."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    paper: str = Field(pattern=r", arXiv:\d{4}\.\d{4,5}$")
    table: str = Field(min_length=1)  # or where else it stands
    model: str = Field(min_length=1)
    benchmark: str = Field(min_length=1)
    method: str = Field(min_length=1)  # as the paper calls it
    metric: str = Field(min_length=1)
    value: FiniteFloat
    unit: str
    iterations: str  # that the paper selected; epochs with an e
    train_pflops: str  # that the paper counted up to there; blank where it does not
    note: str
    row: str  # that is this method here; blank where none is
    control: str  # row that it is compared with in reports; blank: no report shows it

    @property
    def setting(self) -> tuple[str, ...]:
        """What two figures share that can be compared."""
        return self.paper, self.model, self.benchmark, self.metric


def read_published(path: Path = PUBLISHED) -> list[Figure]:
    """Every figure. Raises UserError, naming the file, the line and the column, where one is malformed."""
    columns = dict.fromkeys(Figure.model_fields, str)
    return [
        validated(Figure, {name: line[name] for name in columns}, f"{path}, line {line['line']}")
        for line in csv_files.read(path, columns, _MEND)
    ]


def published_table(analyses: Sequence[Analysis], path: Path = PUBLISHED) -> Table | None:
    """The papers' headline figures beside the study's own, for its rows; None where no figure is of any."""
    study = analyses[0].study
    figures = read_published(path)
    shown = [figure for figure in figures if figure.control and figure.row in study.index]
    if not shown:
        return None
    of = {(figure.setting, figure.row): figure for figure in figures if figure.row}
    bases = [row.method for row in study.rows if row.role is Role.BASE][:1]
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    alike = False
    for analysis in analyses:
        for figure in shown:
            row = study.rows[study.index[figure.row]]
            against = of.get((figure.setting, figure.control)) if figure.control != figure.row else None
            theirs = figure.value - against.value if against else None
            same = _same(analysis, figure)
            alike |= all(same)
            ours = analysis.accuracy(row.method, study.top)
            over = {
                name: None if other == row.method or other not in study.index
                else analysis.difference(row.method, other, study.top)
                for name, other in (("base", bases[0] if bases else ""), ("control", figure.control))
            }  # fmt: skip
            cells.append({
                **of_benchmark(analysis), "Method": row.title,
                "Paper": f"{figure.paper.rpartition(', ')[0]}\n{figure.table}",
                "Model": figure.model, "Data": f"{figure.benchmark}\n{figure.metric}",
                "Published": percent(figure.value / 100),
                "Here": "X" if isinstance(ours, X) else marked(study, row, study.top, interval(ours)),
                "Δ base\nhere": _shown(over["base"]),
                "Control": _title(study, figure.control),
                "Δ control\npublished": DASH if theirs is None else signed(theirs / 100),
                "Δ control\nhere": _shown(over["control"]),
                "Same model,\nsame data": ", ".join("yes" if one else "no" for one in same),
            })  # fmt: skip
            data.append({
                **of_benchmark(analysis), "row": row.method, "title": row.title, "paper": figure.paper,
                "table": figure.table, "method": figure.method, "model": figure.model,
                "data": figure.benchmark, "metric": figure.metric, "published": figure.value / 100,
                "control": figure.control,
                "published_vs_control": None if theirs is None else round(theirs / 100, 9),
                **plain_of("accuracy", ours), **plain_of("vs_base", over["base"]),
                **plain_of("vs_control", over["control"]),
                "same_model": int(same[0]), "same_data": int(same[1]),
            })  # fmt: skip
    notes = [
        "Published: as the paper has it, in percent, of its model, data and metric. Here: this study's score "
        f"at {flops(study.top)}, of its own model ({study.facts.model.description}, "
        f"{study.facts.model.parameters:,} parameters) and benchmark, and paired differences in points, each "
        f"with its {percent(LEVEL, 0)} % interval.",
        "Where model and data are the same, the figures themselves can be compared."
        if alike
        else "No figure is of this study's model and data: compare signs and orders, not numbers.",
        "Control: the row on which the paper's family is built, or that it compares with.",
    ]
    return table_of(study, "published", "Published and reproduced", cells, data, notes)


def _same(analysis: Analysis, figure: Figure) -> tuple[bool, bool]:
    """Whether a figure is of the study's model, and of its benchmark."""
    ours = analysis.study.facts.model.description.partition("@")[0].rpartition("/")[2]
    named = {analysis.benchmark.name, analysis.benchmark.title}
    return _plain(ours) == _plain(figure.model), _plain(figure.benchmark) in map(_plain, named)


def _plain(name: str) -> str:
    """A name without what people write differently."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _shown(difference: Difference | X | None) -> str:
    if difference is None:
        return DASH
    return "X" if isinstance(difference, X) else interval(difference, signed)


def _title(study: Study, row: str) -> str:
    return study.rows[study.index[row]].title if row in study.index else row
