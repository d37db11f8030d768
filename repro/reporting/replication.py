"""Whether another machine, or other seeds, gave what a study's records say: row by row, bit for bit or within
intervals. Importing it loads no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from repro.errors import UserError
from repro.reporting.analysis import Analysis, Difference
from repro.reporting.reading import read_samples
from repro.reporting.results import Row, Study, X, load
from repro.reporting.statistics import ALPHA, holm
from repro.reporting.table import flops, signed
from repro.schema import SAMPLE_KEY

OF_A_RUN = ("status", "reason", "spent", "papers_flops", "rounds", "steps", "fingerprint")
Run = tuple[str, int, int]  # method, seed, budget


class Verdict(StrEnum):
    BITS = "reproduced bit for bit"
    INTERVALS = "reproduced within intervals"
    NOT = "not reproduced"
    UNKNOWN = "not comparable"


@dataclass(frozen=True)
class Compared:
    """A row in two records of a study: the verdict, how many runs both have, and what differs."""

    row: Row
    verdict: Verdict
    runs: int
    what: str


@dataclass(frozen=True)
class Replication:
    """``held`` of the committed 95 % intervals of the difference of two rows, of all ``pairs`` of them at all
    budgets, have the fresh difference in them."""

    rows: list[Compared]
    left_out: list[str]  # what only one of them has
    held: int
    pairs: int

    @property
    def failed(self) -> bool:
        return any(one.verdict is Verdict.NOT for one in self.rows)

    def table(self) -> str:
        shown = [[one.row.title, str(one.verdict), one.runs, one.what] for one in self.rows]
        head = ["row", "verdict", "runs compared", "what differs"]
        text = tabulate(shown, head, disable_numparse=True, colalign=("left", "left", "right", "left"))
        if not self.pairs:
            return text
        return (
            f"{text}\n\nDifferences of two rows: {self.held} of {self.pairs} committed 95 % intervals "
            f"({self.held / self.pairs:.1%}) hold the fresh difference"
        )


def replicate(committed: Path, fresh: Path) -> Replication:
    """Compare the records ``fresh`` with those that are ``committed``, over the rows, seeds and budgets that
    both have. Raises UserError where they have nothing in common, or test problems that differ."""
    ours, theirs = load(committed), load(fresh)
    budgets = [budget for budget in ours.budgets if budget in theirs.budgets]
    names = [row.method for row in ours.rows if row.method in theirs.index]
    if not budgets or not names:
        raise UserError(
            f"{fresh} and {committed} have no row or no budget in common: they are of other studies"
        )
    pairs, unpaired = paired(theirs, ours)
    for title in unpaired:
        raise UserError(
            f"{fresh} and {committed} were evaluated on other problems of {title}, or with another number of "
            "samples: their scores cannot be compared"
        )
    seeds = [seed for seed in ours.seeds if seed in theirs.seeds]
    drawn = drawn_by_run(fresh), drawn_by_run(committed)
    rows = [row for row in ours.rows if row.method in names]
    what: dict[str, str] = {}
    for row in rows:
        runs = [(row.method, seed, budget) for seed in seeds for budget in budgets]
        what[row.method] = (
            next(differences(theirs, ours, drawn, runs), "") if runs else "the seeds are others"
        )
    apart = _apart(pairs, [name for name, found in what.items() if found], budgets)
    held = list(_held(pairs, names, budgets))
    return Replication(
        [_compared(row, len(seeds) * len(budgets), what[row.method], apart, ours) for row in rows],
        list(_left_out(ours, theirs)),
        sum(held),
        len(held),
    )


def paired(one: Study, other: Study) -> tuple[list[tuple[Analysis, Analysis]], list[str]]:
    """The benchmarks of ``other`` that both studies have with the same problems and number of samples, so
    that scores can be paired by problem; and the titles of the others."""
    pairs, unpaired = [], []
    content = [{facts.name: facts.content for facts in study.facts.benchmarks} for study in (one, other)]
    for benchmark in other.benchmarks:
        same = next((found for found in one.benchmarks if found.name == benchmark.name), None)
        name, keys = benchmark.name, (benchmark.problems, benchmark.k, benchmark.macro)
        if (
            same is None
            or (same.problems, same.k, same.macro) != keys
            or content[0][name] != content[1][name]
        ):
            unpaired.append(benchmark.title)
        else:
            pairs.append((Analysis(one, name), Analysis(other, name)))
    return pairs, unpaired


def _compared(
    row: Row, runs: int, what: str, apart: dict[str, tuple[Verdict, str]], committed: Study
) -> Compared:
    if what:
        verdict, score = apart[row.method]
        return Compared(row, verdict, runs, f"{what}; {score}")
    lack = committed.incomplete(row.method, committed.top)
    if lack:  # both lack the same
        return Compared(row, Verdict.UNKNOWN, runs, lack.reason)
    return Compared(row, Verdict.BITS, runs, "")


def drawn_by_run(records: Path) -> dict[Run, pd.DataFrame]:
    """The completions of each run, in the order of their key."""
    samples = read_samples(records / "samples.parquet").astype(str).sort_values(list(SAMPLE_KEY))
    groups = samples.groupby(["method", "seed", "budget"])
    return {
        (str(method), int(str(seed)), int(str(budget))): group.reset_index(drop=True)
        for (method, seed, budget), group in groups  # type: ignore[misc]
    }


def differences(
    fresh: Study, committed: Study, drawn: tuple[dict[Run, pd.DataFrame], ...], runs: list[Run]
) -> Iterator[str]:
    """What differs between the runs of a row, the first first."""
    for method, seed, budget in runs:
        where = f"seed {seed} at {flops(budget)}"
        new, old = fresh.run(method, seed, budget), committed.run(method, seed, budget)
        other = " (of other settings, code or libraries)" * (new["key"] != old["key"])
        for name in OF_A_RUN:
            if new[name] != old[name]:
                yield f"{where}: {name if name != 'fingerprint' else 'the weights'}{other}"
        if _lines(fresh, method, seed, budget) != _lines(committed, method, seed, budget):
            yield f"{where}: the ledger"
        both = [found.get((method, seed, budget)) for found in drawn]
        if (both[0] is None) != (both[1] is None) or (
            both[0] is not None and both[1] is not None and not both[0].equals(both[1])
        ):
            yield f"{where}: the completions"


def _lines(study: Study, method: str, seed: int, budget: int) -> list[dict[str, Any]]:
    found = study.entries(method, seed, budget)
    # Not the budget: where a study has more of them, a line may be a lower one's.
    return [{name: value for name, value in line.items() if name not in ("line", "budget")} for line in found]


def _apart(
    pairs: list[tuple[Analysis, Analysis]], methods: list[str], budgets: list[int]
) -> dict[str, tuple[Verdict, str]]:
    """Of each row, whether its scores are further apart than chance explains, and the difference that is
    furthest. Holm's correction is over all rows, benchmarks and budgets."""
    found: list[tuple[str, str, Difference]] = []
    verdicts: dict[str, tuple[Verdict, str]] = {}
    for method in methods:
        for new, old in pairs:
            for budget in budgets:
                difference = new.replication(old, method, budget)
                where = f"{flops(budget)}" + f" on {new.benchmark.title}" * (len(pairs) > 1)
                if isinstance(difference, X):
                    verdicts[method] = Verdict.UNKNOWN, f"{where}: {difference.reason}"
                else:
                    found.append((method, where, difference))
    adjusted = holm([difference.p for _, _, difference in found])
    # The furthest last, which is the one that stays.
    for at in sorted(range(len(found)), key=lambda i: (-adjusted[i], abs(found[i][2].mean))):
        method, where, difference = found[at]
        if verdicts.get(method, (None,))[0] is Verdict.UNKNOWN:
            continue
        interval = f"[{signed(difference.low)}, {signed(difference.high)}]"
        verdict = Verdict.NOT if adjusted[at] < ALPHA else Verdict.INTERVALS
        verdicts[method] = verdict, f"{signed(difference.mean)} points {interval} at {where}"
    return verdicts


def _held(pairs: list[tuple[Analysis, Analysis]], methods: list[str], budgets: list[int]) -> Iterator[bool]:
    """Of every two rows at every budget, whether the committed interval of their difference holds the fresh
    one, which errs too: where seeds are most of the error, an interval holds it in about 83 % of cases."""
    for new, old in pairs:
        for (one, other), budget in product(combinations(methods, 2), budgets):
            fresh, committed = (analysis.difference(one, other, budget) for analysis in (new, old))
            if isinstance(fresh, Difference) and isinstance(committed, Difference):
                yield committed.low <= fresh.mean <= committed.high


def _left_out(committed: Study, fresh: Study) -> Iterator[str]:
    for name, ours, theirs in (
        ("rows", [row.method for row in committed.rows], [row.method for row in fresh.rows]),
        ("seeds", [*map(str, committed.seeds)], [*map(str, fresh.seeds)]),
        ("budgets", [*map(flops, committed.budgets)], [*map(flops, fresh.budgets)]),
    ):
        for whose, only in (
            ("committed", [one for one in ours if one not in theirs]),
            ("fresh", [one for one in theirs if one not in ours]),
        ):
            if only:
                yield f"{name} of the {whose} records alone: {', '.join(only)}"
