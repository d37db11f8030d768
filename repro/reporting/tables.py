"""The tables of a study that show its scores, and the list of all its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from repro.records import Role
from repro.reporting.analysis import Analysis, Difference, Estimate
from repro.reporting.claims import claims_table
from repro.reporting.comparisons import (
    curves_of,
    differences,
    improvement,
    iso_accuracy,
    papers,
    scaling,
    seeds,
    targets,
)
from repro.reporting.costs import costs, machine, stranded, tuning, use
from repro.reporting.curves import FEWEST_BUDGETS
from repro.reporting.published import published_table
from repro.reporting.results import ENOUGH_SEEDS, Benchmark, Row, Study, X
from repro.reporting.statistics import ALPHA
from repro.reporting.table import (
    DASH,
    Bold,
    Table,
    all_rows,
    budget_titles,
    caveat,
    dagger_note,
    detectable_note,
    flops,
    interval,
    lacks,
    marked,
    of_benchmark,
    p_text,
    percent,
    plain_of,
    settings_note,
    signed,
    significant,
    stem,
    table_of,
    titled,
)
from repro.schema import FORGETTING

SHOWN = 6  # rows that a headline names
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
    boards = all_boards(analyses)
    splits = [tiers(analysis) for analysis in analyses]
    first = analyses[0]
    curves = [curves_of(analysis) for analysis in analyses]
    several = len(first.study.budgets) > 1
    fitted = len(first.study.budgets) >= FEWEST_BUDGETS and bool(curves[0].base)
    said = [table for table in (claims_table(curves), published_table(analyses)) if table]
    return [
        *boards, *said, differences(analyses), seeds(analyses), *splits, targets(curves),
        *[make(curves) for make in (iso_accuracy, papers) if several], improvement(curves),
        *[make(curves) for make in (scaling,) if fitted], costs(first),
        *[make(first) for make in (tuning,) if first.study.tuning], stranded(first), quality(analyses),
        use(first), machine(first),
    ]  # fmt: skip


def all_boards(analyses: Sequence[Analysis]) -> list[Table]:
    """The leaderboard; of several benchmarks an overview of them, and one of each."""
    boards = [leaderboard(analysis) for analysis in analyses]
    return boards if len(boards) == 1 else [overview(analyses), *boards]


def overview(analyses: Sequence[Analysis]) -> Table:
    """Score on every benchmark at the top budget. There is no mean over benchmarks: points are not alike."""
    study, top = analyses[0].study, analyses[0].study.top
    forgotten = _forgotten(study)
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    for row in analyses[0].by_score:
        spent = study.spent(row.method, top)
        cell = {"Method": row.title, "Kind": KIND[row.role]}
        plain: dict[str, Any] = {"method": row.method, "title": row.title, "role": str(row.role)}
        for analysis in analyses:
            score, rank = analysis.accuracy(row.method, top), analysis.ranks.get(row.method)
            cell[analysis.benchmark.title] = score_cell(study, row, top, score, rank)
            plain |= plain_of(f"accuracy_{analysis.benchmark.name}", score)
        _add_forgotten(forgotten, row, cell, plain)
        cell["Spent\n(use)"] = spent_cell(row, spent, top)
        plain |= {"spent": None if isinstance(spent, X) else round(spent), "use": _use(row, spent, top)}
        cells.append(cell)
        data.append(plain)
    notes = [*[caveat(study)] * study.preliminary, settings_note(study)]
    notes += [
        f"{a.benchmark.title}: {a.benchmark.metric}, over {len(a.benchmark.tier_of):,} problems."
        for a in analyses
    ]
    notes += [
        f"At {flops(top)}, in percent, {_with_interval(study)}."
        + " Bold: none of the methods and ablations is significantly better (all pairs, Holm within the "
        "benchmark)." * (not study.preliminary),
        *_forgotten_notes(forgotten),
        *dagger_note(cells),
        *_content_notes(study, *(one.benchmark for one in analyses)),
        *_row_notes(study),
    ]
    return table_of(study, "leaderboard", _headline(study), cells, data, notes)


def score_cell(
    study: Study, row: Row, budget: int, score: Estimate | X, rank: tuple[int, int] | None = None
) -> str:
    """A score with its interval. Bold for the first ``rank``, of which a preliminary study makes nothing."""
    if isinstance(score, X):
        return "X"
    text = marked(study, row, budget, interval(score))
    return Bold(text) if rank and rank[0] == 1 and not study.preliminary else text


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


def _content_notes(study: Study, *benchmarks: Benchmark) -> list[str]:
    """By which others can tell whether they have the same problems, where the suite does not see to it."""
    watched = study.facts.forgetting
    facts = [*study.facts.benchmarks, *([watched] if watched else [])]
    content = {one.name: one.content for one in facts}
    return [
        f"{one.title}: the suite does not pin these problems; their digest is {content[one.name]}."
        for one in benchmarks
        if content.get(one.name)
    ]


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
    return notes + detectable_note([analysis])


def _forgotten(study: Study) -> tuple[Analysis, Row] | None:
    """The task that is watched for forgetting, and the row that it is measured against."""
    base = [row for row in study.rows if row.role is Role.BASE]
    return (Analysis(study, FORGETTING), base[0]) if study.forgetting and base else None


def _add_forgotten(
    forgotten: tuple[Analysis, Row] | None, row: Row, cell: dict[str, str], plain: dict[str, Any]
) -> None:
    """The column of what a row forgot, where the study watches for it."""
    if forgotten is None:
        return
    analysis, base = forgotten
    study, top = analysis.study, analysis.study.top
    change = None if row is base else analysis.difference(row.method, base.method, top, "greedy")
    shown = DASH if change is None else "X"
    if isinstance(change, Difference):
        shown = marked(study, row, top, interval(change, signed))
    cell[f"Δ {analysis.benchmark.title}\n(forgetting)"] = shown
    plain |= plain_of(FORGETTING, change)


def _forgotten_notes(forgotten: tuple[Analysis, Row] | None) -> list[str]:
    if forgotten is None:
        return []
    analysis, base = forgotten
    task, score = analysis.benchmark, analysis.accuracy(base.method, analysis.study.top, "greedy")
    reached = "has no score" if isinstance(score, X) else f"has {percent(score.mean)} %"
    return [
        f"Forgetting: change of {task.metric}, on {len(task.tier_of):,} documents of the task {task.title} "
        f"against {base.title}, which {reached}, at the top budget in percentage points, paired by document, "
        "with its 95 % interval. It ranks nothing.",
        *_content_notes(analysis.study, task),
    ]


def leaderboard(analysis: Analysis) -> Table:
    """Score at each budget, rank interval, paired differences and spend, best row first."""
    study, top = analysis.study, analysis.study.top
    forgotten = None if len(study.benchmarks) > 1 else _forgotten(study)  # else it is in the overview
    against = {r: analysis.differences(r.method, top) for r in analysis.references}
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    for row in analysis.by_score:
        rank = analysis.ranks.get(row.method)
        cell: dict[str, str] = {
            "Rank": _rank(rank), "Method": row.title, "Kind": KIND[row.role],
            "Objective": row.objective or DASH,
        }  # fmt: skip
        plain: dict[str, Any] = {
            "method": row.method, "title": row.title, "role": str(row.role), "objective": row.objective,
            "rank_low": rank[0] if rank else None, "rank_high": rank[1] if rank else None,
        }  # fmt: skip
        for budget, title in budget_titles(study).items():
            score = analysis.accuracy(row.method, budget)
            cell[title] = score_cell(study, row, budget, score, rank if budget == top else None)
            plain |= plain_of(f"accuracy_{budget}", score)
        for reference, family in against.items():
            difference, p = family.get(row.method, (None, np.nan))
            shown = _difference(difference, p)
            cell[f"Δ {reference.title}"] = (
                marked(study, row, top, shown) if isinstance(difference, Difference) else shown
            )
            plain |= plain_of(f"vs_{reference.method}", difference) | {f"vs_{reference.method}_p_holm": p}
        _add_forgotten(forgotten, row, cell, plain)
        spent = study.spent(row.method, top)
        cell["Spent\n(use)"] = spent_cell(row, spent, top)
        plain |= {"spent": None if isinstance(spent, X) else round(spent), "use": _use(row, spent, top)}
        plain |= {"note": row.note, "missing": "; ".join(lacks(study, row))}
        cells.append(cell)
        data.append(plain)

    notes = [
        *[caveat(study)] * study.preliminary,
        settings_note(study),
        f"Score: {analysis.benchmark.metric}, in percent, {_with_interval(study)}.",
        "Δ: difference at the top budget in percentage points, paired by problem, with its 95 % interval and "
        "the p-value of a sign-flip test after Holm's correction within the column.",
        "Rank: 1 + the number of methods significantly better, up to the last place not excluded (methods "
        "and ablations, all pairs, Holm)"
        + "; bold: none is significantly better" * (not study.preliminary)
        + ".",
        *_forgotten_notes(forgotten),
        *_content_notes(study, analysis.benchmark),
        *_spread_notes(analysis),
        *dagger_note(cells),
        *_row_notes(study),
    ]
    title = titled(_headline(study), analysis)
    return table_of(study, stem("leaderboard", analysis), title, cells, data, notes)


def headline(analysis: Analysis) -> str:
    """What the leaderboard says, in words: how many methods and ablations beat the references at the top
    budget, and which of them no other beats."""
    study, top, ranks = analysis.study, analysis.study.top, analysis.ranks
    on = f" on {analysis.benchmark.title}" * (len(study.benchmarks) > 1)
    if not ranks:
        return f"No method or ablation has a score at {flops(top)}{on}."
    seeds = f"{len(study.seeds)} training seed" + "s" * (len(study.seeds) > 1)
    beaten = []
    for reference in analysis.references:
        found = analysis.differences(reference.method, top)
        better = 0
        for name in ranks:
            difference, p = found[name]
            better += isinstance(difference, Difference) and difference.mean > 0 and p < ALPHA
        verb = "scores" if better < 2 else "score"
        beaten.append(f"{better or 'none'} {verb} significantly higher than {reference.title}")
    first = [row for row in analysis.by_score if ranks.get(row.method, (0, 0))[0] == 1]
    named = [f"{row.title} ({_plain_score(analysis, row)})" for row in first[:SHOWN]]
    rest = f" and {len(first) - SHOWN} more" * (len(first) > SHOWN)
    lead = f"At {flops(top)}{on}, over {seeds}, of {len(ranks)} methods and ablations "
    said = f"none is significantly better than {', '.join(named)}{rest}."
    return lead + "; ".join([*beaten, said]) + f" {caveat(study)}" * study.preliminary


def _plain_score(analysis: Analysis, row: Row) -> str:
    score = analysis.accuracy(row.method, analysis.study.top)
    return "X" if isinstance(score, X) else percent(score.mean)


def summary(analyses: Sequence[Analysis]) -> str:
    """For a README, as Markdown: the headlines, and the leaderboard without its ablations."""
    board = all_boards(analyses)[0]
    kept = board.cells["Kind"] != KIND[Role.ABLATION]
    note = ["Without ablations, which the report has; they are among those that are ranked and compared."]
    short = replace(board, cells=board.cells[kept], notes=[*note * (not kept.all()), *board.notes])
    return "\n\n".join([*map(headline, analyses), short.markdown()])


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
            shown = score_cell(study, row, top, sampled)
            if not isinstance(sampled, X):
                shown += "\n" + (DASH if isinstance(greedy, X) else percent(greedy.mean))
            cell["All" if tier is None else tier_title(tier).capitalize()] = shown
            at: dict[str, Any] = {
                "method": row.method,
                "title": row.title,
                "tier": "all" if tier is None else tier,
            }
            data.append(at | plain_of("sampled", sampled) | plain_of("greedy", greedy))
        cells.append(cell)
    notes = [
        f"At {flops(top)}, in percent: sampled avg@{benchmark.k}, its 95 % interval, and greedy decoding.",
        *dagger_note(cells),
    ]
    return table_of(study, stem("tiers", analysis), titled("Score by tier", analysis), cells, data, notes)


def tier_title(tier: str) -> str:
    """A tier as people call it: "tier 3", but "Level 3" as it is."""
    return f"tier {tier}" if len(tier) < 3 else tier


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
    for analysis, row in all_rows(analyses):
        found: dict[str, float | X | None] = {
            f"pass@{k}": analysis.pass_at(row.method, top, k) if k <= analysis.benchmark.k else None
            for k in ks
        }
        found[votes] = analysis.majority(row.method, top)
        found |= {name: analysis.rate(row.method, top, name) for name in (*rates, "tokens")}
        cell = {**of_benchmark(analysis), "Method": marked(study, row, top, row.title)}
        plain: dict[str, Any] = {**of_benchmark(analysis), "method": row.method, "title": row.title}
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
        *dagger_note(cells),
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


def spent_cell(row: Row, spent: float | X, budget: int) -> str:
    if isinstance(spent, X):
        return "X"
    return "0" if row.role is Role.BASE else f"{flops(spent)}\n{percent(spent / budget)} %"
