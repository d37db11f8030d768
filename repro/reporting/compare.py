"""Two records folders, or two rows of one, side by side: where scores differ and by how much, in which
settings, and at what cost. Importing it loads no torch."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from repro import files
from repro.errors import UserError
from repro.reporting.analysis import Analysis, Difference, Estimate
from repro.reporting.costs import account_means, mean_of
from repro.reporting.document import document
from repro.reporting.replication import differences, drawn_by_run, paired
from repro.reporting.results import Row, Study, X, load
from repro.reporting.settings import ABSENT, differing, shown
from repro.reporting.statistics import ALPHA, holm
from repro.reporting.table import DASH, Table, flops, p_text, percent, plain_of, signed, significant
from repro.schema import MACHINE_ACCOUNTS

NAMES = ("name", "title", "command", "files", "digest")  # keys of study.json that are no settings
OF_A_ROW = ("role", "plans", "note")  # settings among what a row is


@dataclass(frozen=True)
class Score:
    """Two scores at a budget and the first less the second. ``same`` where they are of the same runs, bit for
    bit: then there is nothing to estimate, and the difference is 0."""

    benchmark: str
    row: Row
    against: Row
    budget: int
    a: Estimate | X
    b: Estimate | X
    difference: Difference | X
    same: bool
    p_holm: float = np.nan


@dataclass(frozen=True)
class Cost:
    """What an account of two rows took up to the highest common budget, mean over seeds; None where there was
    none of it, or where it was not measured."""

    row: Row
    against: Row
    account: str
    flops: tuple[float | None, float | None]
    seconds: tuple[float | None, float | None]
    joules: tuple[float | None, float | None]

    @property
    def differs(self) -> bool:
        return any(one != other for one, other in (self.flops, self.seconds, self.joules))


@dataclass(frozen=True)
class Comparison:
    """``settings`` are those that differ, with what A and B have."""

    a: str
    b: str
    problems: dict[str, int]  # benchmark -> how many problems it is paired by
    scores: list[Score]
    settings: list[tuple[str, Any, Any]]
    costs: list[Cost]
    budget: int  # of the costs
    left_out: list[str]

    @property
    def family(self) -> list[Score]:
        return [one for one in self.scores if not np.isnan(one.p_holm)]

    @property
    def nothing(self) -> bool:
        return all(one.same for one in self.scores) and not self.settings and not self.differing_costs

    @property
    def differing_costs(self) -> list[Cost]:
        return [cost for cost in self.costs if cost.differs]

    @cached_property
    def sentence(self) -> str:
        """What was found, in words."""
        unknown = sum(isinstance(one.difference, X) for one in self.scores)
        if self.nothing:
            return (
                f"Nothing differs: every difference of scores ({len(self.scores) - unknown}) is exactly 0, "
                "and settings and costs are the same."
            )
        same = sum(one.same and not isinstance(one.difference, X) for one in self.scores)
        found = [one for one in self.family if one.p_holm < ALPHA]
        parts = [f"{len(found)} of {len(self.family)} differences are significant (Holm, at 5 %)"]
        parts += [f"{same} are of the same runs and exactly 0"] * bool(same)
        parts += [f"{unknown} cannot be told"] * bool(unknown)
        parts.append(f"settings that differ: {len(self.settings)}")
        return "; ".join(parts) + "."

    def tables(self) -> list[Table]:
        found = [self._scores(), self._settings(), self._costs()]
        return [table for table in found if len(table.cells)]

    def text(self) -> str:
        of = f"A: {self.a}\nB: {self.b}"
        left_out = ["\n".join(self.left_out)] * bool(self.left_out)
        return "\n\n".join([of, *(table.text() for table in self.tables()), *left_out, self.sentence])

    def html(self) -> str:
        texts = (f"A: {self.a}", f"B: {self.b}", *self.left_out)
        said = "".join(f"<p>{html.escape(text)}</p>\n" for text in texts)
        sections = "".join(f"<section>\n{table.html()}</section>\n" for table in self.tables())
        lead = f'<p class="banner" role="note">{html.escape(self.sentence)}</p>\n'
        return document("Two records compared", f"{lead}{said}{sections}")

    def to_json(self) -> str:
        scores = [
            {
                "benchmark": one.benchmark, "row": one.row.method, "against": one.against.method,
                "budget": one.budget, **plain_of("a", one.a), **plain_of("b", one.b),
                **plain_of("difference", one.difference), "same_runs": one.same,
                "p": one.difference.p if isinstance(one.difference, Difference) and not one.same else None,
                "p_holm": None if np.isnan(one.p_holm) else one.p_holm,
                "reason": one.difference.reason if isinstance(one.difference, X) else None,
            }
            for one in self.scores
        ]  # fmt: skip
        costs = [
            {**asdict(cost), "row": cost.row.method, "against": cost.against.method} for cost in self.costs
        ]
        settings = [{"setting": where, "a": one, "b": other} for where, one, other in self.settings]
        return files.json_text(
            {"a": self.a, "b": self.b, "paired_by": self.problems, "differences": scores,
             "settings": settings, "budget_of_costs": self.budget, "costs": costs,
             "left_out": self.left_out, "nothing_differs": self.nothing, "summary": self.sentence}
        )  # fmt: skip

    def _scores(self) -> Table:
        several = len(self.problems) > 1
        cells = [
            {
                **({"Benchmark": one.benchmark} if several else {}), "Method": _named(one.row, one.against),
                "Budget": flops(one.budget), "A": _percent(one.a), "B": _percent(one.b),
                "A less B": _signed(one), "95 % interval": _interval(one),
                "p (Holm)": DASH if np.isnan(one.p_holm) else p_text(one.p_holm),
            }
            for one in self.scores
        ]  # fmt: skip
        by = ", ".join(f"{count:,} of {title}" for title, count in self.problems.items())
        lacks = dict.fromkeys(
            f"X {_named(one.row, one.against)} at {flops(one.budget)}: {one.difference.reason}"
            for one in self.scores
            if isinstance(one.difference, X)
        )
        notes = [
            f"Paired by problem ({by}, the same in both), in percentage points; p-values after Holm's "
            f"correction over all {len(self.family)} of them.",
            *["the same runs: bit for bit, so that the difference is 0 and nothing is estimated."]
            * any(one.same for one in self.scores),
            *lacks,
        ]
        return _table("differences", "Differences", cells, notes)

    def _settings(self) -> Table:
        cells = [
            {"Setting": where, "A": shown(one), "B": shown(other)} for where, one, other in self.settings
        ]
        return _table("settings", "Settings that differ", cells, [])

    def _costs(self) -> Table:
        cells = [
            {
                "Method": _named(cost.row, cost.against), "Account": cost.account,
                **{
                    f"{what}\n{which}": _number(value, show)
                    for what, values, show in (
                        ("FLOPs", cost.flops, flops), ("Seconds", cost.seconds, significant),
                        ("Joules", cost.joules, significant),
                    )
                    for which, value in zip("AB", values, strict=True)
                },
            }
            for cost in self.costs
        ]  # fmt: skip
        notes = [f"Up to the budget of {flops(self.budget)}, mean over seeds; blank: not measured, or none."]
        return _table("costs", "Costs", cells, notes)


def compare(a: Path, b: Path | None = None, row: str | None = None, against: str | None = None) -> Comparison:
    """Compare the rows that both records have, by name; or ``row`` of A with ``against`` of B, which is A
    itself where it is not named.

    Raises UserError where there is nothing to compare, or no benchmark whose problems are the same.
    """
    if b is None and row is None:
        raise UserError(
            f"{a} alone is nothing to compare; name a second records folder, or --row and --against"
        )
    ours = load(a)
    theirs = load(b) if b else ours
    one_study = b is None or (row is not None and ours.facts.digest == theirs.facts.digest)
    rows = _rows(a, b or a, ours, theirs, row, against)
    budgets = [budget for budget in ours.budgets if budget in theirs.budgets]
    if not budgets:
        raise UserError(f"{a} and {b} have no budget in common: their scores are at other FLOPs")
    pairs, unpaired = paired(ours, theirs)
    there = {benchmark.name for benchmark in theirs.benchmarks}
    unpaired += [benchmark.title for benchmark in ours.benchmarks if benchmark.name not in there]
    if not pairs:
        raise UserError(
            f"{a} and {b} cannot be compared: of no benchmark they have the same problems with the same "
            "number of samples, and scores of other problems cannot be paired"
        )
    drawn = (drawn_by_run(a), drawn_by_run(b)) if b and not one_study else None
    scores = []
    for one, other in rows:
        for budget in budgets:
            same = one_study and one == other
            if drawn and one.method == other.method and ours.seeds == theirs.seeds:
                runs = [(one.method, seed, budget) for seed in ours.seeds]
                same = all(_has(study, run) for study in (ours, theirs) for run in runs)
                same = same and next(differences(ours, theirs, drawn, runs), None) is None
            scores += [_score(pair, one, other, budget, same, one_study) for pair in pairs]
    scores.sort(key=lambda score: [pair[0].benchmark.title for pair in pairs].index(score.benchmark))
    return Comparison(
        _label(a, ours),
        _label(b or a, theirs),
        {pair[0].benchmark.title: len(pair[0].benchmark.problems) for pair in pairs},
        _adjusted(scores),
        list(_differing(ours, theirs, rows, budgets, one_study)),
        [cost for one, other in rows for cost in _costs_of(ours, theirs, one, other, budgets[-1])],
        budgets[-1],
        [
            f"{title} is not compared: its problems or their number of samples are others."
            for title in unpaired
        ]
        + list(_alone(ours, theirs, row)),
    )


def _rows(
    a: Path, b: Path, ours: Study, theirs: Study, row: str | None, against: str | None
) -> list[tuple[Row, Row]]:
    if row is None:
        if against is not None:
            raise UserError(f"--against {against} has nothing to stand against; name a row of A with --row")
        found = [
            (one, theirs.rows[theirs.index[one.method]]) for one in ours.rows if one.method in theirs.index
        ]
        if not found:
            raise UserError(f"{a} and {b} have no row in common; name one of each with --row and --against")
        return found
    named = []
    for folder, study, name in ((a, ours, row), (b, theirs, against or row)):
        if name not in study.index:
            raise UserError(f"{folder} has no row `{name}`; its rows are {', '.join(study.index)}")
        named.append(study.rows[study.index[name]])
    return [(named[0], named[1])]


def _has(study: Study, run: tuple[str, int, int]) -> bool:
    return any((line["method"], line["seed"], line["budget"]) == run for line in study.runs)


def _score(
    pair: tuple[Analysis, Analysis], one: Row, other: Row, budget: int, same: bool, one_study: bool
) -> Score:
    ours, theirs = pair
    a, b = ours.accuracy(one.method, budget), theirs.accuracy(other.method, budget)
    if same and isinstance(a, Estimate):
        difference: Difference | X = Difference(0.0, 0.0, 0.0, 1.0)
    elif one_study:
        difference = ours.difference(one.method, other.method, budget)
    else:
        difference = ours.replication(theirs, one.method, budget, other.method)
    return Score(ours.benchmark.title, one, other, budget, a, b, difference, same)


def _adjusted(scores: list[Score]) -> list[Score]:
    """With p-values corrected over all that are estimated."""
    told = [i for i, one in enumerate(scores) if isinstance(one.difference, Difference) and not one.same]
    adjusted = dict(zip(told, holm([scores[i].difference.p for i in told]), strict=True))  # type: ignore[union-attr]
    return [
        Score(**{**vars(one), "p_holm": adjusted[i]}) if i in adjusted else one
        for i, one in enumerate(scores)
    ]


def _differing(
    ours: Study, theirs: Study, rows: list[tuple[Row, Row]], budgets: list[int], one_study: bool
) -> Iterator[tuple[str, Any, Any]]:
    """The settings that differ: of the studies, of their rows and of those a tuning chose; and where runs of
    the same seed have other keys, which says that some setting, code or library is another."""
    a, b = (
        {key: value for key, value in study.facts.model_dump().items() if key not in NAMES}
        for study in (ours, theirs)
    )
    yield from differing(a, b)
    for one, other in rows:
        both = [{name: getattr(row, name) for name in OF_A_ROW} for row in (one, other)]
        for study, row, found in zip((ours, theirs), (one, other), both, strict=True):
            chosen = next((trial.settings for trial in study.trials(row.method) if trial.chosen), None)
            found["hyper-parameters by tuning"] = ABSENT if chosen is None else chosen
        for where, first, second in differing(both[0], both[1]):
            yield f"{_named(one, other)}: {where}", first, second
        if one_study or one.method != other.method:
            continue
        keys = [
            {(run["seed"], run["budget"]): run["key"] for run in study.runs if run["method"] == one.method}
            for study in (ours, theirs)
        ]
        for seed in ours.seeds:
            first, second = (found.get((seed, budgets[-1])) for found in keys)
            if first and second and first != second:
                yield f"{one.title}: key of seed {seed} (method, settings, code or libraries)", first, second


def _costs_of(ours: Study, theirs: Study, one: Row, other: Row, budget: int) -> Iterator[Cost]:
    sides = ((ours, one), (theirs, other))
    if any(study.incomplete(row.method, budget) for study, row in sides):
        return
    spent = [account_means(study, row.method, budget) for study, row in sides]
    clocked = [[study.clocked(row.method, seed, budget) for seed in study.seeds] for study, row in sides]
    for account in MACHINE_ACCOUNTS:
        amounts = tuple(found[account][0] or None if account in found else None for found in spent)
        seconds, joules = (
            tuple(mean_of(runs, account, column) for runs in clocked) for column in ("seconds", "joules")
        )
        if any(value is not None for value in (*amounts, *seconds, *joules)):
            yield Cost(one, other, str(account), amounts, seconds, joules)  # type: ignore[arg-type]


def _alone(ours: Study, theirs: Study, row: str | None) -> Iterator[str]:
    """What only one of them has."""
    for what, both in (
        ("rows", ([] if row else [*ours.index], [] if row else [*theirs.index])),
        ("seeds", ([*map(str, ours.seeds)], [*map(str, theirs.seeds)])),
        ("budgets", ([*map(flops, ours.budgets)], [*map(flops, theirs.budgets)])),
    ):
        for side, (own, others) in (("A", both), ("B", both[::-1])):
            if only := [name for name in own if name not in others]:
                yield f"{what} of {side} alone: {', '.join(only)}"


def _label(folder: Path, study: Study) -> str:
    return f"{folder} ({study.title}, digest {study.facts.digest})"


def _named(one: Row, other: Row) -> str:
    return one.title if one.title == other.title else f"{one.title} against {other.title}"


def _table(name: str, title: str, cells: list[dict[str, str]], notes: list[str]) -> Table:
    frame = pd.DataFrame(cells, dtype=object)
    return Table(name, title, frame, frame, notes)


def _percent(score: Estimate | X) -> str:
    return "X" if isinstance(score, X) else percent(score.mean)


def _signed(one: Score) -> str:
    return "X" if isinstance(one.difference, X) else signed(one.difference.mean)


def _interval(one: Score) -> str:
    if isinstance(one.difference, X):
        return DASH
    if one.same:
        return "the same runs"
    return f"[{signed(one.difference.low)}, {signed(one.difference.high)}]"


def _number(value: float | None, show: Any) -> str:
    return "" if value is None else str(show(value))
