"""The tables of a study that show its scores, and the list of all its tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from repro.records import Role
from repro.reporting.analysis import Analysis, Difference, Estimate
from repro.reporting.costs import costs, machine, stranded, use
from repro.reporting.results import ENOUGH_SEEDS, Benchmark, Row, Study, X
from repro.reporting.table import (
    DAGGER,
    DASH,
    Bold,
    Table,
    budget_titles,
    caveat,
    flops,
    interval,
    lacks,
    p_text,
    percent,
    signed,
    significant,
    table_of,
)

KIND = {
    Role.METHOD: "method",
    Role.ABLATION: "ablation",
    Role.BASE: "base model",
    Role.CONTINUED: "control: continued",
    Role.NEGATIVE: "control: negative",
    Role.UPPER: "control: gold",
}


def all_tables(analyses: Sequence[Analysis]) -> list[Table]:
    """The tables of a study, given the analysis of each of its benchmarks; the first is the leaderboard."""
    boards = [leaderboard(analysis) for analysis in analyses]
    if len(analyses) > 1:
        boards.insert(0, overview(analyses))
    splits = [tiers(analysis) for analysis in analyses]
    first = analyses[0]
    return [
        *boards, *splits, targets(analyses), costs(first), stranded(first), quality(analyses), use(first),
        machine(first),
    ]  # fmt: skip


def stem(name: str, analysis: Analysis) -> str:
    """File stem of what a study has of each benchmark: the plain name where it has only one benchmark."""
    return name if len(analysis.study.benchmarks) == 1 else f"{name}_{analysis.benchmark.name}"


def overview(analyses: Sequence[Analysis]) -> Table:
    """Score on every benchmark at the top budget. There is no mean over benchmarks: points are not alike."""
    study, top = analyses[0].study, analyses[0].study.top
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    for row in analyses[0].by_score:
        spent = study.spent(row.method, top)
        cell = {"Method": row.title, "Kind": KIND[row.role]}
        plain: dict[str, Any] = {"method": row.method, "title": row.title, "role": str(row.role)}
        for analysis in analyses:
            score, rank = analysis.accuracy(row.method, top), analysis.ranks.get(row.method)
            cell[analysis.benchmark.title] = _score(study, row, top, score, rank)
            plain |= _plain(f"accuracy_{analysis.benchmark.name}", score)
        cell["Spent\n(use)"] = _spent(row, spent, top)
        plain |= {"spent": None if isinstance(spent, X) else round(spent), "use": _use(row, spent, top)}
        cells.append(cell)
        data.append(plain)
    notes = [caveat(study)] * study.preliminary
    notes += [
        f"{a.benchmark.title}: {a.benchmark.metric}, over {len(a.benchmark.tier_of):,} problems."
        for a in analyses
    ]
    notes += [
        f"At {flops(top)}, in percent, {_with_interval(study)}."
        + " Bold: none of the methods and ablations is significantly better (all pairs, Holm within the "
        "benchmark)." * (not study.preliminary),
        *_dagger_note(cells),
        *_row_notes(study),
    ]
    return table_of(study, "leaderboard", _headline(study), cells, data, notes)


def _score(
    study: Study, row: Row, budget: int, score: Estimate | X, rank: tuple[int, int] | None = None
) -> str:
    """A score with its interval. Bold for the first ``rank``, of which a preliminary study makes nothing."""
    if isinstance(score, X):
        return "X"
    text = _marked(study, row, budget, interval(score))
    return Bold(text) if rank and rank[0] == 1 and not study.preliminary else text


def _marked(study: Study, row: Row, budget: int, text: str) -> str:
    """``text`` about a row's checkpoints of a budget, its first line marked where one is the base model."""
    first, *rest = text.split("\n")
    return "\n".join([first + DAGGER * _untrained(study, row, budget), *rest])


def _untrained(study: Study, row: Row, budget: int) -> bool:
    """Whether a checkpoint of a row that trains is still the base model, in some seed."""
    if row.role is Role.BASE or study.incomplete(row.method, budget):
        return False
    return any(study.run(row.method, seed, budget)["steps"] == 0 for seed in study.seeds)


def _dagger_note(cells: Sequence[dict[str, str]]) -> list[str]:
    """What the mark says, where any of the cells has it."""
    marked = any(DAGGER in text.split("\n")[0] for cell in cells for text in cell.values())
    note = "no optimizer step within this budget in a training seed: this is the base model, not the method."
    return [f"{DAGGER} {note}"] * marked


def _headline(study: Study) -> str:
    return f"{study.title}: leaderboard" + " (preliminary)" * study.preliminary


def _with_interval(study: Study) -> str:
    seeds = len(study.seeds)
    return f"mean over {seeds} training seed{'s' * (seeds > 1)}, with its 95 % interval over problems" + (
        ", samples and training seeds" if seeds > 1 else " and samples"
    )


def _row_notes(study: Study) -> list[str]:
    """What is to be known of a leaderboard's rows, and of all of them together."""
    one = "One training seed: intervals and tests cover problems and samples, not training."
    return [one] * (len(study.seeds) == 1) + [f"{row.title}: {row.note}" for row in study.rows if row.note]


def _spread_notes(analysis: Analysis) -> list[str]:
    """What intervals suppose of the spread between seeds, whether it holds, and what the study can find."""
    seeds, budgets = len(analysis.study.seeds), len(analysis.study.budgets)
    notes = []
    if seeds > 1:
        few = f"; with fewer than {ENOUGH_SEEDS} seeds, at least what those of all rows make likely"
        notes.append(
            "Between seeds: each row's own variance"
            + ", pooled over its budgets along a profile that all rows share" * (budgets > 1)
            + few * (seeds < ENOUGH_SEEDS)
            + "."
        )
    looks = zip(("rows", "their profiles over budgets"), analysis.homogeneity, strict=True)
    told = [f"of {what}: {p_text(p)}" for what, p in looks if not np.isnan(p)]
    if told:
        notes.append(
            f"Homogeneity of the variance between seeds, {', '.join(told)}. A small p of rows says that they "
            "spread unalike; one of profiles, that pooling over budgets may mislead."
        )
    least = analysis.detectable
    if not isinstance(least, X):
        notes.append(
            f"A true difference of {percent(least)} points at the top budget between two typical methods is "
            "found with a power of 80 % (all pairs, Holm)."
        )
    return notes


def _titled(title: str, analysis: Analysis) -> str:
    return title if len(analysis.study.benchmarks) == 1 else f"{title}, {analysis.benchmark.title}"


def _of(analysis: Analysis) -> dict[str, str]:
    """The first cell of a row of a table over all benchmarks; none where there is only one."""
    return {"Benchmark": analysis.benchmark.title} if len(analysis.study.benchmarks) > 1 else {}


def leaderboard(analysis: Analysis) -> Table:
    """Score at each budget, rank interval, paired differences and spend, best row first."""
    study, top = analysis.study, analysis.study.top
    against = {r: analysis.differences(r.method, top) for r in analysis.references}
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    for row in analysis.by_score:
        rank = analysis.ranks.get(row.method)
        cell: dict[str, str] = {"Rank": _rank(rank), "Method": row.title, "Kind": KIND[row.role]}
        plain: dict[str, Any] = {
            "method": row.method, "title": row.title, "role": str(row.role),
            "rank_low": rank[0] if rank else None, "rank_high": rank[1] if rank else None,
        }  # fmt: skip
        for budget, title in budget_titles(study).items():
            score = analysis.accuracy(row.method, budget)
            cell[title] = _score(study, row, budget, score, rank if budget == top else None)
            plain |= _plain(f"accuracy_{budget}", score)
        for reference, family in against.items():
            difference, p = family.get(row.method, (None, np.nan))
            shown = _difference(difference, p)
            cell[f"Δ {reference.title}"] = (
                _marked(study, row, top, shown) if isinstance(difference, Difference) else shown
            )
            plain |= _plain(f"vs_{reference.method}", difference) | {f"vs_{reference.method}_p_holm": p}
        spent = study.spent(row.method, top)
        cell["Spent\n(use)"] = _spent(row, spent, top)
        plain |= {"spent": None if isinstance(spent, X) else round(spent), "use": _use(row, spent, top)}
        plain |= {"note": row.note, "missing": "; ".join(lacks(study, row))}
        cells.append(cell)
        data.append(plain)

    notes = [
        *[caveat(study)] * study.preliminary,
        f"Score: {analysis.benchmark.metric}, in percent, {_with_interval(study)}.",
        "Δ: difference at the top budget in percentage points, paired by problem, with its 95 % interval and "
        "the p-value of a sign-flip test after Holm's correction within the column.",
        "Rank: 1 + the number of methods significantly better, up to the last place not excluded (methods "
        "and ablations, all pairs, Holm)"
        + "; bold: none is significantly better" * (not study.preliminary)
        + ".",
        *_spread_notes(analysis),
        *_dagger_note(cells),
        *_row_notes(study),
    ]
    title = _titled(_headline(study), analysis)
    return table_of(study, stem("leaderboard", analysis), title, cells, data, notes)


def tiers(analysis: Analysis) -> Table:
    """Sampled and greedy score in each tier, at the top budget."""
    study, top, benchmark = analysis.study, analysis.study.top, analysis.benchmark
    split = benchmark.tiers if len(benchmark.tiers) > 1 else ()
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    for row in analysis.by_score:
        cell = {"Method": row.title}
        for tier in (*split, None):
            sampled = analysis.accuracy(row.method, top, "sampled", tier)
            greedy = analysis.accuracy(row.method, top, "greedy", tier)
            shown = _score(study, row, top, sampled)
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
        f"At {flops(top)}, in percent: sampled avg@{benchmark.k}, its 95 % interval, and greedy decoding.",
        *_dagger_note(cells),
    ]
    return table_of(study, stem("tiers", analysis), _titled("Score by tier", analysis), cells, data, notes)


def tier_title(tier: str) -> str:
    """A tier as people call it: "tier 3", but "Level 3" as it is."""
    return f"tier {tier}" if len(tier) < 3 else tier


def targets(analyses: Sequence[Analysis]) -> Table:
    """The smallest budget that reaches each target score."""
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    for analysis, row in _all_rows(analyses):
        cell = {**_of(analysis), "Method": row.title}
        for target in analysis.study.facts.target_accuracies:
            found = analysis.flops_to(row.method, target)
            plain = found if isinstance(found, int) else None
            shown = "X" if isinstance(found, X) else "not reached" if plain is None else flops(plain)
            if plain:  # 0: the base model's
                shown = _marked(analysis.study, row, plain, shown)
            cell[f"≥ {percent(target)} %"] = shown
            reached = "X" if isinstance(found, X) else "no" if found is None else "yes"
            data.append({**_of(analysis), "method": row.method, "title": row.title, "target": target,
                         "reached": reached, "budget": plain})  # fmt: skip
        cells.append(cell)
    notes = [
        "The smallest budget whose checkpoint was measured at the target or above; nothing is interpolated.",
        *_dagger_note(cells),
    ]
    return table_of(analyses[0].study, "flops_to_target", "FLOPs to reach a score", cells, data, notes)


def _all_rows(analyses: Sequence[Analysis]) -> list[tuple[Analysis, Row]]:
    return [(analysis, row) for analysis in analyses for row in analysis.by_score]


def quality(analyses: Sequence[Analysis]) -> Table:
    """pass@k, maj@k and what the sampled completions look like, at the top budget."""
    study, top = analyses[0].study, analyses[0].study.top
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
        cell = {**_of(analysis), "Method": _marked(study, row, top, row.title)}
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
        "give is right; of equals, the one given first.",
        *_dagger_note(cells),
    ]
    return table_of(study, "quality", "Completions", cells, data, notes)


def _powers(benchmark: Benchmark) -> list[int]:
    """The k of pass@k that are shown: powers of 4 (of 2 where few), and all samples."""
    step = 1 if benchmark.k <= 8 else 2
    return [2**i for i in range(0, benchmark.k.bit_length(), step) if 2**i < benchmark.k] + [benchmark.k]


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
