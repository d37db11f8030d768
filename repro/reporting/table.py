"""A table as Markdown, CSV, LaTeX and HTML, and how numbers are written in it.

The cells shown are short texts, in lines; every writer escapes them in its own way, so that a title is shown
as it is, whatever it holds. The CSV holds the plain numbers instead: fractions, FLOPs, p-values.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from tabulate import tabulate

from repro.records import Role
from repro.reporting.analysis import Analysis, Estimate
from repro.reporting.results import ENOUGH_SEEDS, Row, Study, X, one_line
from repro.reporting.statistics import POWER

MINUS, DASH, TIMES, DAGGER = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{MULTIPLICATION SIGN}", "\N{DAGGER}"
_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", **{mark: f"\\{mark}" for mark in "%&#_{}$"},
    "Δ": r"$\Delta$", "≥": r"$\ge$", "∞": r"$\infty$", MINUS: "$-$", TIMES: r"$\times$", DASH: "--",
    DAGGER: r"$\dagger$",
})  # fmt: skip
# What could be mark-up: a bracket, `<` and `&` only where it begins, as intervals and p-values have them too.
_MARKDOWN = re.compile(r"[\\`*_|~$]|\](?=[(\[:])|<(?=[A-Za-z/!?])|&(?=[#A-Za-z])")
_MARKDOWN_START = re.compile(r"^(\d*)([#>+=\[-]|(?<=\d)[.)])")  # a heading, quotation, list, box to tick
_ESCAPED = r"\1\\\2"
# The lines of a cell below each other, the first the larger.
_STACKED = r"\providecommand{\stacked}[2]{\begin{tabular}[t]{@{}r@{}}#1\\[-1pt]{\tiny #2}\end{tabular}}"
_COLUMN = 66  # characters of a column of a page, in \scriptsize
_LEFT = (  # columns of text
    "Benchmark", "Against", "Method", "Kind", "Objective", "Device", "Claim", "Paper", "Published", "Verdict",
    "Model", "Data", "Control", "Account", "Setting", "State", "Note", "Study",
)  # fmt: skip


class Bold(str):
    """A cell whose first line is bold."""


@dataclass(frozen=True)
class Table:
    """``cells`` is what is shown, ``data`` the plain numbers behind it, ``notes`` go below."""

    name: str  # file stem
    title: str
    cells: pd.DataFrame
    data: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    study: str = ""  # whose it is, for labels

    def markdown(self) -> str:
        def show(cell: object) -> str:
            return _lines(cell, markdown_text, "**{}**", "<br>")

        cells = [[show(cell) for cell in row] for row in self._values()]
        head = [show(name) for name in self.cells.columns]
        table = tabulate(cells, head, tablefmt="pipe", disable_numparse=True, colalign=self._align())
        notes = "".join(f"\n- {paragraph(note)}" for note in self.notes)
        return f"**{markdown_text(self.title)}**\n\n{table}\n" + (notes + "\n" if notes else "")

    def text(self) -> str:
        """For a terminal."""
        side = self._align()
        table = tabulate(self._values(), list(self.cells.columns), disable_numparse=True, colalign=side)
        return "\n".join([one_line(self.title), "", table, *(f"- {one_line(note)}" for note in self.notes)])

    def csv(self) -> str:
        """Six significant digits for measured numbers, every digit for counts; blank where there is none."""
        return self.data.map(_exact).to_csv(index=False, lineterminator="\n")

    def latex(self) -> str:
        """A float with booktabs rules: of one column, or of both where it is wide, and never larger."""

        def show(cell: object) -> str:
            first, *rest = _lines(cell, latex_text, r"\textbf{{{}}}", "\n").split("\n")
            return rf"\stacked{{{first}}}{{{' '.join(rest)}}}" if rest else first

        def line(cells: Iterable[object]) -> str:
            shown = " & ".join(map(show, cells))
            return re.sub(r"^[\[*]", r"{\g<0>}", shown) + r" \\"  # else an option of the \\ before

        columns = "".join(side[0] for side in self._align())
        kind = "table*" if self._width() > _COLUMN else "table"
        notes = [rf"\par {latex_text(note)}" for note in self.notes]
        return "\n".join([
            r"% \usepackage{booktabs,adjustbox}", _STACKED,
            rf"\begin{{{kind}}}", r"\centering\scriptsize", rf"\caption{{{latex_text(self.title)}}}",
            rf"\label{{tab:{'-'.join(filter(None, (self.study, self.name)))}}}\par\smallskip",
            r"\begin{adjustbox}{max width=\linewidth, max totalheight=0.7\textheight}",
            rf"\begin{{tabular}}{{{columns}}}", r"\toprule", line(self.cells.columns), r"\midrule",
            *map(line, self._values()), r"\bottomrule", r"\end{tabular}", r"\end{adjustbox}",
            *([r"\par\medskip\raggedright\tiny", *notes] if notes else []), rf"\end{{{kind}}}", "",
        ])  # fmt: skip

    def _width(self) -> float:
        """About how many characters side by side, as `latex` sets them."""

        def of(cell: object) -> float:
            first, *rest = str(cell).split("\n")
            return max(len(first), 0.8 * len(" ".join(rest)))

        return sum(
            2 + max(map(of, column)) for column in zip(self.cells.columns, *self._values(), strict=True)
        )

    def html(self) -> str:
        names = list(self.cells.columns)
        frozen = names.index("Method") if "Method" in names else 0  # stays where the others scroll
        kinds = [side + " frozen" * (i == frozen) for i, side in enumerate(self._align())]

        def line(tag: str, values: Sequence[object]) -> str:
            cells = (
                f'<{tag} class="{kind}">{_lines(value, _html, "<b>{}</b>", "<br>")}</{tag}>'
                for kind, value in zip(kinds, values, strict=True)
            )
            return f"<tr>{''.join(cells)}</tr>"

        head = line("th", names)
        body = "\n".join(line("td", row) for row in self._values())
        notes = "".join(f"<li>{_html(note)}</li>" for note in self.notes)
        return (
            f'<div class="scroll" tabindex="0">\n<table id="{self.name}">\n'
            f"<caption>{_html(self.title)}</caption>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>\n"
            + (f'<ul class="notes">{notes}</ul>\n' if notes else "")
        )

    def _values(self) -> list[list[Any]]:
        return [list(row) for row in self.cells.itertuples(index=False, name=None)]

    def _align(self) -> list[str]:
        return ["left" if c in _LEFT else "right" for c in self.cells.columns]


def table_of(
    study: Study,
    name: str,
    title: str,
    cells: list[dict[str, str]],
    data: list[dict[str, Any]],
    notes: list[str],
) -> Table:
    """A table whose notes end with what its rows lack."""
    missing = [f"X {row.title}: {lack}" for row in study.rows for lack in lacks(study, row)]
    # Kept as objects: pandas would turn the integers of a column that has a blank into floats.
    frames = (pd.DataFrame(cells, dtype=object), pd.DataFrame(data, dtype=object))
    return Table(name, title, *frames, notes + missing, study.facts.name)


def lacks(study: Study, row: Row) -> list[str]:
    """What a row lacks, one sentence for each reason with the budgets it holds for."""
    found: dict[str, list[int]] = {}
    for budget in study.budgets:
        lack = study.incomplete(row.method, budget)
        if lack:
            found.setdefault(one_line(lack.reason), []).append(budget)
    return [
        reason if len(budgets) == len(study.budgets) else f"{reason} (at {', '.join(map(flops, budgets))})"
        for reason, budgets in found.items()
    ]


def caveat(study: Study) -> str:
    """What a study of few seeds rests on; nothing for one of enough."""
    seeds = len(study.seeds)
    if not study.preliminary:
        return ""
    return (
        f"Preliminary: {seeds} training seed{'s' * (seeds > 1)}, where a ranking wants {ENOUGH_SEEDS} or "
        f"more. Other seeds{' or settings' * (not study.tuning)} may well order the rows otherwise."
    )


def settings_note(study: Study) -> str:
    """How hyper-parameters were chosen, and for which rows not so."""
    if not study.tuning:
        return "Hyper-parameters were set by hand and not tuned evenly over the rows."
    rows = [row for row in study.rows if row.role is not Role.BASE]
    trials = max(len(study.trials(row.method)) for row in rows)
    untried = [row.title for row in rows if not study.trials(row.method)]
    return (
        f"Hyper-parameters: of {trials} trials of each row on the validation split, at the top budget of the "
        "study that was tuned." + f" Not tuned: {', '.join(untried)}." * bool(untried)
    )


def stem(name: str, analysis: Analysis) -> str:
    """File stem of what a study has of each benchmark: the plain name where it has only one benchmark."""
    return name if len(analysis.study.benchmarks) == 1 else f"{name}_{analysis.benchmark.name}"


def marked(study: Study, row: Row, budget: int, text: str) -> str:
    """``text`` about a row's checkpoints of a budget, its first line marked where one is the base model."""
    first, *rest = text.split("\n")
    return "\n".join([first + DAGGER * untrained(study, row, budget), *rest])


def untrained(study: Study, row: Row, budget: int) -> bool:
    """Whether a checkpoint of a row that trains is still the base model, in some seed."""
    if row.role is Role.BASE or study.incomplete(row.method, budget):
        return False
    return any(study.run(row.method, seed, budget)["steps"] == 0 for seed in study.seeds)


def dagger_note(cells: Sequence[dict[str, str]]) -> list[str]:
    """What the mark says, where any of the cells has it."""
    there = any(DAGGER in text.split("\n")[0] for cell in cells for text in cell.values())
    note = "no optimizer step within this budget in a training seed: this is the base model, not the method."
    return [f"{DAGGER} {note}"] * there


def detectable_note(analyses: Sequence[Analysis]) -> list[str]:
    """What difference a study can find, where it has two rows to compare."""
    found = [(analysis, analysis.detectable) for analysis in analyses]
    named = [
        f"{percent(least)} points{f' on {analysis.benchmark.title}' if len(analyses) > 1 else ''}"
        for analysis, least in found
        if not isinstance(least, X)
    ]
    return [
        f"Detectable: between two typical methods or ablations, a true difference of {', '.join(named)} at "
        f"the top budget would be found {percent(POWER, 0)} % of the time after Holm's correction, a smaller "
        "one less often."
    ] * bool(named)


def titled(title: str, analysis: Analysis) -> str:
    """The title of what a study has of each benchmark."""
    return title if len(analysis.study.benchmarks) == 1 else f"{title}, {analysis.benchmark.title}"


def of_benchmark(analysis: Analysis) -> dict[str, str]:
    """The first cell of a row of a table over all benchmarks; none where there is only one."""
    return {"Benchmark": analysis.benchmark.title} if len(analysis.study.benchmarks) > 1 else {}


def all_rows(analyses: Sequence[Analysis]) -> list[tuple[Analysis, Row]]:
    """The rows of a table over all benchmarks: those of each, best first."""
    return [(analysis, row) for analysis in analyses for row in analysis.by_score]


def plain_of(name: str, value: Estimate | X | None) -> dict[str, float | None]:
    """A number with its interval as three data, blank where there is none."""
    found = isinstance(value, Estimate)
    return {f"{name}{end}": getattr(value, part) if found else None
            for end, part in (("", "mean"), ("_low", "low"), ("_high", "high"))}  # fmt: skip


# -------------------------------------------------------------------------------------------- escaping


def _lines(cell: object, escape: Callable[[str], str], bold: str, joint: str) -> str:
    first, *rest = [escape(line) for line in str(cell).split("\n")]
    return joint.join([bold.format(first) if isinstance(cell, Bold) else first, *rest])


def markdown_text(text: str) -> str:
    return _MARKDOWN.sub(r"\\\g<0>", one_line(text))


def paragraph(text: str) -> str:
    """Text as Markdown where a line begins."""
    return _MARKDOWN_START.sub(_ESCAPED, markdown_text(text))


def latex_text(text: str) -> str:
    return one_line(text).translate(_LATEX)


def _html(text: str) -> str:
    return html.escape(one_line(text))


def _exact(value: object) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        # A spreadsheet would take such a text for a formula.
        text = one_line(value)
        return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# --------------------------------------------------------------------------------------------- formats


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}"


def signed(value: float) -> str:
    """A difference in percentage points, with a true minus sign and no negative zero."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", MINUS)


def significant(value: float) -> str:
    """Three significant digits, without an exponent where a person would write none."""
    if value == 0:
        return "0"
    if not 0.001 <= abs(value) < 999.5:
        return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.1g}"
    return f"{value:#.3g}".rstrip(".")


def flop_unit(flops: float) -> tuple[float, str]:
    """The largest unit in which ``flops`` is at least 1."""
    for exponent, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M")):
        if flops >= 10**exponent:
            return float(10**exponent), f"{prefix}FLOP"
    return 1.0, "FLOP"


def flops(value: float) -> str:
    """FLOPs for people: ``2.50 TFLOP``."""
    unit, name = flop_unit(value)
    return f"{significant(value / unit)} {name}"


def budget_titles(study: Study) -> dict[int, str]:
    """The heading of each budget's column; every digit where three would make two of them alike."""
    titles = {budget: flops(budget) for budget in study.budgets}
    if len(set(titles.values())) < len(titles):
        return {budget: f"{budget:,} FLOP" for budget in study.budgets}
    return titles


def span(values: Iterable[str]) -> str:
    """From the lowest to the highest of some numbers."""
    ordered = sorted(set(values), key=lambda text: float(text.replace(",", "")))
    return DASH.join(ordered[:: max(1, len(ordered) - 1)])


def p_text(p: float) -> str:
    return "p < .001" if p < 0.001 else f"p {p:.3f}".replace("0.", ".", 1)


def interval(e: Estimate, show: Callable[[float], str] = percent) -> str:
    return f"{show(e.mean)}\n[{show(e.low)}, {show(e.high)}]"
