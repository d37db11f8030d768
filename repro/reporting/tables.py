"""The tables of a study, each from the same numbers as Markdown, CSV, LaTeX and HTML.

The cells shown are short strings: ``**bold**`` and line breaks are the only mark-up, and every writer
renders them in its own way. The CSV holds the plain numbers instead: fractions, FLOPs, p-values.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from repro.records import Role
from repro.reporting.analysis import Analysis, Difference, Estimate
from repro.reporting.results import Benchmark, Row, X
from repro.schema import INSIDE, OUTSIDE

KIND = {
    Role.METHOD: "method",
    Role.ABLATION: "ablation",
    Role.BASE: "base model",
    Role.CONTINUED: "control: continued",
    Role.NEGATIVE: "control: negative",
    Role.UPPER: "control: gold",
}
MINUS, DASH, TIMES = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
_LATEX = {
    "Δ": r"$\Delta$", "≥": r"$\ge$", MINUS: "$-$", TIMES: r"$\times$", DASH: "--", "<": r"\textless{}",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """``cells`` is what is shown, ``data`` the plain numbers behind it, ``notes`` go below."""

    name: str  # file stem
    title: str
    cells: pd.DataFrame
    data: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        cells = [[str(c).replace("|", r"\|").replace("\n", "<br>") for c in row] for row in self._values()]
        head = [h.replace("|", r"\|").replace("\n", "<br>") for h in self.cells.columns]
        table = tabulate(cells, head, tablefmt="pipe", disable_numparse=True, colalign=self._align())
        notes = "".join(f"\n- {note}" for note in self.notes)
        return f"**{self.title}**\n\n{table}\n" + (notes + "\n" if notes else "")

    def csv(self) -> str:
        """Six significant digits for measured numbers, every digit for counts; blank where there is none."""
        return self.data.map(_exact).to_csv(index=False, lineterminator="\n")

    def latex(self) -> str:
        """A booktabs tabular with its caption and notes as comments."""
        cells = [[str(c).replace("\n", " ") for c in row] for row in self._values()]
        head = [h.replace("\n", " ") for h in self.cells.columns]
        text = tabulate(cells, head, tablefmt="latex_booktabs", disable_numparse=True, colalign=self._align())
        text = re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", text)
        for character, command in _LATEX.items():
            text = text.replace(character, command)
        return "".join(f"% {line}\n" for line in (self.title, *self.notes)) + text + "\n"

    def html(self) -> str:
        def show(text: object) -> str:
            text = html.escape(str(text)).replace("\n", "<br>")
            return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)

        sides = self._align()

        def line(tag: str, values: Sequence[object]) -> str:
            cells = (f'<{tag} class="{s}">{show(v)}</{tag}>' for s, v in zip(sides, values, strict=True))
            return f"<tr>{''.join(cells)}</tr>"

        head, body = (
            line("th", list(self.cells.columns)),
            "\n".join(line("td", row) for row in self._values()),
        )
        notes = "".join(f"<li>{show(note)}</li>" for note in self.notes)
        return (
            f'<table id="{self.name}">\n<caption>{show(self.title)}</caption>\n<thead>{head}</thead>\n'
            f"<tbody>\n{body}\n</tbody>\n</table>\n" + (f'<ul class="notes">{notes}</ul>\n' if notes else "")
        )

    def _values(self) -> list[list[Any]]:
        return [list(row) for row in self.cells.itertuples(index=False, name=None)]

    def _align(self) -> list[str]:
        return [
            "left" if c in ("Benchmark", "Method", "Kind", "Paper") else "right" for c in self.cells.columns
        ]


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


def _exact(value: object) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def p_text(p: float) -> str:
    return "p < .001" if p < 0.001 else f"p {p:.3f}".replace("0.", ".", 1)


def interval(e: Estimate, show: Callable[[float], str] = percent) -> str:
    return f"{show(e.mean)}\n[{show(e.low)}, {show(e.high)}]"


# ---------------------------------------------------------------------------------------------- tables


def references(analysis: Analysis) -> list[Row]:
    """The rows that the others are compared with: the base, then continued training."""
    return [r for role in (Role.BASE, Role.CONTINUED) for r in analysis.study.rows if r.role is role]


def by_score(analysis: Analysis) -> list[Row]:
    """Rows by their score at the top budget, best first; rows without one last."""

    def key(row: Row) -> tuple[float, str]:
        score = analysis.accuracy(row.method, analysis.study.top)
        return (1.0 if isinstance(score, X) else -score.mean, row.title.casefold())

    return sorted(analysis.study.rows, key=key)


def all_tables(analyses: Sequence[Analysis]) -> list[Table]:
    """The tables of a study, given the analysis of each of its benchmarks; the first is the leaderboard."""
    boards = [leaderboard(analysis) for analysis in analyses]
    if len(analyses) > 1:
        boards.insert(0, overview(analyses))
    splits = [tiers(analysis) for analysis in analyses]
    return [*boards, *splits, targets(analyses), costs(analyses[0]), quality(analyses), use(analyses[0])]


def stem(name: str, analysis: Analysis) -> str:
    """File stem of what a study has of each benchmark: the plain name where it has only one benchmark."""
    return name if len(analysis.study.benchmarks) == 1 else f"{name}_{analysis.benchmark.name}"


def overview(analyses: Sequence[Analysis]) -> Table:
    """Score on every benchmark at the top budget. There is no mean over benchmarks: points are not alike."""
    study, top = analyses[0].study, analyses[0].study.top
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    for row in by_score(analyses[0]):
        spent = study.spent(row.method, top)
        cell = {"Method": row.title, "Kind": KIND[row.role]}
        plain: dict[str, Any] = {"method": row.method, "title": row.title, "role": str(row.role)}
        for analysis in analyses:
            score, rank = analysis.accuracy(row.method, top), analysis.ranks.get(row.method)
            cell[analysis.benchmark.title] = _score(score, bold=rank is not None and rank[0] == 1)
            plain |= _plain(f"accuracy_{analysis.benchmark.name}", score)
        cell["Spent\n(use)"] = _spent(row, spent, top)
        plain |= {"spent": None if isinstance(spent, X) else round(spent), "use": _use(row, spent, top)}
        cells.append(cell)
        data.append(plain)
    notes = [
        f"{a.benchmark.title}: {a.benchmark.metric}, over {len(a.benchmark.tier_of):,} problems."
        for a in analyses
    ]
    notes += [
        f"At {flops(top)}, in percent, {_with_interval(analyses[0])}. Bold: none of the methods and "
        "ablations is significantly better (all pairs, Holm within the benchmark).",
        *_seed_note(analyses[0]),
    ]
    notes += [f"{row.title}: {row.note}" for row in study.rows if row.note]
    return _table(analyses[0], "leaderboard", f"{study.facts['title']}: leaderboard", cells, data, notes)


def _score(score: Estimate | X, bold: bool) -> str:
    if isinstance(score, X):
        return "X"
    text = interval(score)
    return "**" + text.replace("\n", "**\n", 1) if bold else text


def _with_interval(analysis: Analysis) -> str:
    seeds = len(analysis.study.seeds)
    return (
        f"mean over {seeds} training seed{'s' * (seeds > 1)}, "
        f"with its 95 % interval over problems, samples{' and training seeds' * (seeds > 1)}"
    )


def _seed_note(analysis: Analysis) -> list[str]:
    if len(analysis.study.seeds) > 1:
        return []
    return ["One training seed: intervals and tests cover problems and samples, not training."]


def _titled(title: str, analysis: Analysis) -> str:
    return title if len(analysis.study.benchmarks) == 1 else f"{title}, {analysis.benchmark.title}"


def _of(analysis: Analysis) -> dict[str, str]:
    """The first cell of a row of a table over all benchmarks; none where there is only one."""
    return {"Benchmark": analysis.benchmark.title} if len(analysis.study.benchmarks) > 1 else {}


def leaderboard(analysis: Analysis) -> Table:
    """Score at each budget, rank interval, paired differences and spend, best row first."""
    study, top = analysis.study, analysis.study.top
    against = {r: analysis.differences(r.method, top) for r in references(analysis)}
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    for row in by_score(analysis):
        rank = analysis.ranks.get(row.method)
        cell: dict[str, str] = {"Rank": _rank(rank), "Method": row.title, "Kind": KIND[row.role]}
        plain: dict[str, Any] = {
            "method": row.method, "title": row.title, "role": str(row.role),
            "rank_low": rank[0] if rank else None, "rank_high": rank[1] if rank else None,
        }  # fmt: skip
        for budget in study.budgets:
            score = analysis.accuracy(row.method, budget)
            cell[flops(budget)] = _score(score, bold=budget == top and rank is not None and rank[0] == 1)
            plain |= _plain(f"accuracy_{budget}", score)
        for reference, family in against.items():
            difference, p = family.get(row.method, (None, np.nan))
            cell[f"Δ {reference.title}"] = _difference(difference, p)
            plain |= _plain(f"vs_{reference.method}", difference) | {f"vs_{reference.method}_p_holm": p}
        spent = study.spent(row.method, top)
        cell["Spent\n(use)"] = _spent(row, spent, top)
        plain |= {"spent": None if isinstance(spent, X) else round(spent), "use": _use(row, spent, top)}
        plain |= {"note": row.note, "missing": "; ".join(_lacks(analysis, row))}
        cells.append(cell)
        data.append(plain)

    notes = [
        f"Score: {analysis.benchmark.metric}, in percent, {_with_interval(analysis)}.",
        "Δ: paired difference at the top budget in percentage points, with its 95 % interval and the p-value "
        "of a sign-flip test after Holm's correction within the column.",
        "Rank: 1 + the number of methods significantly better, up to the last place not excluded (methods "
        "and ablations, all pairs, Holm); bold: none is significantly better.",
        *_seed_note(analysis),
    ]
    notes += [f"{row.title}: {row.note}" for row in study.rows if row.note]
    title = _titled(f"{study.facts['title']}: leaderboard", analysis)
    return _table(analysis, stem("leaderboard", analysis), title, cells, data, notes)


def tiers(analysis: Analysis) -> Table:
    """Sampled and greedy score in each tier, at the top budget."""
    top, benchmark = analysis.study.top, analysis.benchmark
    split = benchmark.tiers if len(benchmark.tiers) > 1 else ()
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    for row in by_score(analysis):
        cell = {"Method": row.title}
        for tier in (*split, None):
            sampled = analysis.accuracy(row.method, top, "sampled", tier)
            greedy = analysis.accuracy(row.method, top, "greedy", tier)
            shown = "X" if isinstance(sampled, X) else interval(sampled)
            if not isinstance(sampled, X):
                shown += "\n" + (DASH if isinstance(greedy, X) else percent(greedy.mean))
            cell["All" if tier is None else tier_title(tier).capitalize()] = shown
            at: dict[str, Any] = {
                "method": row.method,
                "title": row.title,
                "tier": "all" if tier is None else tier,
            }
            data.append(at | _plain("sampled", sampled) | _plain("greedy", greedy))
        cells.append(cell)
    notes = [
        f"At {flops(top)}, in percent: sampled avg@{benchmark.k}, its 95 % interval, and greedy decoding."
    ]
    return _table(analysis, stem("tiers", analysis), _titled("Score by tier", analysis), cells, data, notes)


def tier_title(tier: str) -> str:
    """A tier as people call it: "tier 3", but "Level 3" as it is."""
    return f"tier {tier}" if len(tier) < 3 else tier


def targets(analyses: Sequence[Analysis]) -> Table:
    """The smallest budget that reaches each target score."""
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    for analysis, row in _all_rows(analyses):
        cell = {**_of(analysis), "Method": row.title}
        for target in analysis.study.facts["target_accuracies"]:
            found = analysis.flops_to(row.method, target)
            plain = found if isinstance(found, int) else None
            shown = "X" if isinstance(found, X) else "not reached" if found is None else flops(found)
            cell[f"≥ {percent(target)} %"] = shown
            reached = "X" if isinstance(found, X) else "no" if found is None else "yes"
            data.append({**_of(analysis), "method": row.method, "title": row.title, "target": target,
                         "reached": reached, "budget": plain})  # fmt: skip
        cells.append(cell)
    notes = [
        "The smallest budget whose checkpoint was measured at the target or above; nothing is interpolated."
    ]
    return _table(analyses[0], "flops_to_target", "FLOPs to reach a score", cells, data, notes)


def _all_rows(analyses: Sequence[Analysis]) -> list[tuple[Analysis, Row]]:
    return [(analysis, row) for analysis in analyses for row in by_score(analysis)]


def costs(analysis: Analysis) -> Table:
    """Where the FLOPs of the top budget went, in the suite's convention and in the papers'."""
    study, top = analysis.study, analysis.study.top
    unit, name = flop_unit(top)
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    for row in by_score(analysis):
        lack = study.incomplete(row.method, top)
        cell = {"Method": row.title}
        columns = [*(a.capitalize() for a in INSIDE), "Total", "Papers'\nconvention",
                   *(f"({a.replace('_', ' ')})" for a in OUTSIDE)]  # fmt: skip
        if lack:
            cells.append(cell | dict.fromkeys(columns, "X"))
            continue
        spend = account_means(analysis, row.method)
        total = sum(spend[a][0] for a in INSIDE)
        papers = sum(spend[a][1] for a in INSIDE)
        for account in (*INSIDE, *OUTSIDE):
            amount, papers_amount, tokens = spend[account]
            inside = account in INSIDE
            share = amount / total if inside and total else None
            shown = f"{significant(amount / unit)}" if amount else DASH
            if inside and amount:
                shown += f"\n{percent(share or 0, 0)} %"
            cell[account.capitalize() if inside else f"({account.replace('_', ' ')})"] = shown
            data.append({"method": row.method, "title": row.title, "account": account,
                         "flops": round(amount), "share": share, "papers_flops": round(papers_amount),
                         "tokens": round(tokens)})  # fmt: skip
        cell["Total"] = significant(total / unit) if total else DASH
        ratio = f"\n{TIMES} {papers / total:.2f}" if total else ""
        cell["Papers'\nconvention"] = (significant(papers / unit) if papers else DASH) + ratio
        cells.append({"Method": row.title} | {c: cell[c] for c in columns})
    notes = [
        f"{name} at the top budget of {flops(top)}, mean over seeds, with the share of the total.",
        "Papers' convention: 2 FLOPs per parameter and sampled token, the padded prompt counted for "
        f"every sample, and 6 per parameter and padded training token; {TIMES} is its ratio to the total.",
        "Accounts in brackets are outside the budget.",
    ]
    return _table(analysis, "costs", "Spend by account", cells, data, notes)


def quality(analyses: Sequence[Analysis]) -> Table:
    """pass@k, maj@k and what the sampled completions look like, at the top budget."""
    top = analyses[0].study.top
    most = max(analysis.benchmark.k for analysis in analyses)
    ks = sorted({k for analysis in analyses for k in _powers(analysis.benchmark)})
    rates = {"truncated": "Truncated", "unparsable": "Unparsable", "timeout": "Verifier\ntimeout",
             "distinct": "Distinct\nsamples"}  # fmt: skip
    # With one k the column says which; with several, "k" is the benchmark's own.
    votes = f"maj@{most}" if len({analysis.benchmark.k for analysis in analyses}) == 1 else "maj@k"
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    for analysis, row in _all_rows(analyses):
        found: dict[str, float | X | None] = {
            f"pass@{k}": analysis.pass_at(row.method, top, k) if k <= analysis.benchmark.k else None
            for k in ks
        }
        found[votes] = analysis.majority(row.method, top)
        found |= {name: analysis.rate(row.method, top, name) for name in (*rates, "tokens")}
        cell = {**_of(analysis), "Method": row.title}
        plain: dict[str, Any] = {**_of(analysis), "method": row.method, "title": row.title}
        for name, value in found.items():
            digits = 2 if name in ("truncated", "timeout") else 1
            if value is None:
                text = DASH
            elif isinstance(value, X):
                text = "X"
            else:
                text = significant(value) if name == "tokens" else percent(value, digits)
            cell[rates.get(name, name.capitalize() if name == "tokens" else name)] = text
            plain[name] = None if isinstance(value, X) else value
        cells.append(cell)
        data.append(plain)
    counts = ", ".join(
        f"{a.benchmark.k} on {a.benchmark.title}" if len(analyses) > 1 else str(a.benchmark.k)
        for a in analyses
    )
    notes = [
        f"Over the sampled completions of each problem ({counts}) at {flops(top)}; rates in percent, tokens "
        "per completion. A verifier timeout counts as not correct. maj@k: the answer that most completions "
        "give is right; of equals, the one given first."
    ]
    return _table(analyses[0], "quality", "Completions", cells, data, notes)


def _powers(benchmark: Benchmark) -> list[int]:
    """The k of pass@k that are shown: powers of 4 (of 2 where few), and all samples."""
    step = 1 if benchmark.k <= 8 else 2
    return [2**i for i in range(0, benchmark.k.bit_length(), step) if 2**i < benchmark.k] + [benchmark.k]


def use(analysis: Analysis) -> Table:
    """Whether every run spent what its budget allows, to within 1 %, and whether its ledger adds up."""
    study = analysis.study
    ledger: Counter[tuple[str, int, int]] = Counter()
    for line in study.ledger:
        if line["account"] in INSIDE:
            ledger[line["method"], line["seed"], line["budget"]] += line["flops"]
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    for row in study.rows:
        if row.role is Role.BASE:
            continue
        cell = {"Method": row.title}
        for budget in study.budgets:
            runs = [r for r in study.runs if r["method"] == row.method and r["budget"] == budget]
            valid = True
            for run in sorted(runs, key=lambda r: r["seed"]):
                agrees = ledger[row.method, run["seed"], budget] == run["spent"]
                fine = run["status"] == "ok" and 0.99 <= run["spent"] / budget <= 1 and agrees
                valid &= fine
                kept = ("seed", "budget", "status", "spent", "rounds", "steps", "reason")
                plain = {"method": row.method, "title": row.title} | {name: run[name] for name in kept}
                plain |= {"use": run["spent"] / budget, "ledger_agrees": agrees, "valid": fine}
                data.append(plain)
            if study.incomplete(row.method, budget):
                cell[flops(budget)] = "X"
            else:
                shown = sorted({percent(run["spent"] / budget, 2) for run in runs}, key=float)
                cell[flops(budget)] = DASH.join(shown[:: max(1, len(shown) - 1)]) + " !" * (not valid)
        cells.append(cell)
    notes = [
        "Spent FLOPs in percent of the budget, lowest to highest training seed. A run is cut at its budget "
        "to within one optimizer step; ! marks a run outside 99 to 100 %, or whose ledger does not add up to "
        "what it spent."
    ]
    return _table(analysis, "use", "Use of the budgets", cells, data, notes)


def account_means(analysis: Analysis, method: str) -> dict[str, tuple[float, ...]]:
    """Mean over seeds of (FLOPs, papers' FLOPs, tokens) of each account at the top budget."""
    study = analysis.study
    sums = {account: np.zeros(3) for account in (*INSIDE, *OUTSIDE)}
    for line in study.ledger:
        if (line["method"], line["budget"]) == (method, study.top) and line["seed"] in study.seeds:
            sums[line["account"]] += [line["flops"], line["papers_flops"], line["tokens"]]
    return {account: tuple(map(float, total / len(study.seeds))) for account, total in sums.items()}


def _rank(rank: tuple[int, int] | None) -> str:
    if rank is None:
        return DASH
    return str(rank[0]) if rank[0] == rank[1] else f"{rank[0]}{DASH}{rank[1]}"


def _difference(difference: Difference | X | None, p: float) -> str:
    if difference is None:
        return DASH
    return "X" if isinstance(difference, X) else f"{interval(difference, signed)}\n{p_text(p)}"


def _use(row: Row, spent: float | X, budget: int) -> float | None:
    return None if isinstance(spent, X) or row.role is Role.BASE else spent / budget


def _spent(row: Row, spent: float | X, budget: int) -> str:
    if isinstance(spent, X):
        return "X"
    return "0" if row.role is Role.BASE else f"{flops(spent)}\n{percent(spent / budget)} %"


def _plain(name: str, value: Estimate | X | None) -> dict[str, float | None]:
    found = isinstance(value, Estimate)
    return {f"{name}{end}": getattr(value, part) if found else None
            for end, part in (("", "mean"), ("_low", "low"), ("_high", "high"))}  # fmt: skip


def _lacks(analysis: Analysis, row: Row) -> list[str]:
    """What a row lacks, one sentence for each reason with the budgets it holds for."""
    study = analysis.study
    found: dict[str, list[int]] = {}
    for budget in study.budgets:
        lack = study.incomplete(row.method, budget)
        if lack:
            found.setdefault(" ".join(lack.reason.split()), []).append(budget)
    return [
        reason if len(budgets) == len(study.budgets) else f"{reason} (at {', '.join(map(flops, budgets))})"
        for reason, budgets in found.items()
    ]


def _missing(analysis: Analysis) -> list[str]:
    return [f"X {row.title}: {lack}" for row in analysis.study.rows for lack in _lacks(analysis, row)]


def _table(
    analysis: Analysis,
    name: str,
    title: str,
    cells: list[dict[str, str]],
    data: list[dict[str, Any]],
    notes: list[str],
) -> Table:
    # Kept as objects: pandas would turn the integers of a column that has a blank into floats.
    frames = (pd.DataFrame(cells, dtype=object), pd.DataFrame(data, dtype=object))
    return Table(name, title, *frames, notes + _missing(analysis))
