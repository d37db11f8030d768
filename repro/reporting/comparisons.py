"""The tables of how rows compare beyond their scores at the top budget: over whole curves, at every budget,
in FLOPs to a score, seed by seed and by the papers' FLOPs. docs/statistics.md says what each number means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from repro.records import Role
from repro.reporting.analysis import Analysis, Difference, Estimate
from repro.reporting.curves import (
    BEYOND,
    STEEPEST,
    area,
    common_score,
    fit_sigmoid,
    flop_ratio,
    flops_to,
    percentile_interval,
    places,
    probability_of_improvement,
    score_at,
    seed_weights,
)
from repro.reporting.results import Row, Study, X
from repro.reporting.statistics import DRAWS, LEVEL, bootstrap, exact, macro_mean, shares
from repro.reporting.table import (
    DASH,
    TIMES,
    Table,
    all_rows,
    budget_titles,
    dagger_note,
    detectable_note,
    flops,
    interval,
    marked,
    of_benchmark,
    p_text,
    percent,
    plain_of,
    signed,
    significant,
    table_of,
)

_FITS = 400  # draws that a sigmoid is fitted to


@dataclass(frozen=True)
class Curves:
    """The measured score curves of the rows that are complete at every budget, and their joint draws."""

    analysis: Analysis
    index: dict[str, int]
    means: np.ndarray  # [row, budget]
    draws: np.ndarray  # [draw, row, budget]

    @property
    def budgets(self) -> np.ndarray:
        return np.array(self.analysis.study.budgets, float)

    def of(self, row: Row) -> tuple[np.ndarray, np.ndarray] | None:
        """([budget], [draw, budget]) of a row, None where it is incomplete."""
        at = self.index.get(row.method)
        return None if at is None else (self.means[at], self.draws[:, at])

    @cached_property
    def problems(self) -> np.ndarray:
        """[draw, problem] Weights of the problems, as the draws of the curves have them."""
        strata = self.analysis.benchmark.strata
        return shares(strata) * (1 + bootstrap(strata))

    @property
    def base(self) -> tuple[float, np.ndarray] | None:
        """(score, [draw]) of the base model, None where the study has none."""
        rows = [row for row in self.analysis.references if row.role is Role.BASE]
        found = self.of(rows[0]) if rows else None
        return None if found is None else (float(found[0][-1]), found[1][:, -1])


def curves_of(analysis: Analysis) -> Curves:
    """Draw the curves of a benchmark, all rows at once."""
    study = analysis.study
    methods = [
        row.method
        for row in study.rows
        if not any(isinstance(analysis.accuracy(row.method, b), X) for b in study.budgets)
    ]
    means = [[_mean(analysis, method, budget) for budget in study.budgets] for method in methods]
    # Rounded, so that what is counted (who is ahead, what is reached) does not hang on the last bits.
    draws = np.round(analysis.curves(methods), 9)
    shape = len(methods), len(study.budgets)
    return Curves(analysis, {m: i for i, m in enumerate(methods)}, np.reshape(means, shape), draws)


def _mean(analysis: Analysis, method: str, budget: int) -> float:
    score = analysis.accuracy(method, budget)
    return score.mean if isinstance(score, Estimate) else np.nan


def _estimate(value: float | np.ndarray, draws: np.ndarray) -> Estimate:
    """A number with the percentile interval of its draws [draw]."""
    return Estimate(*map(exact, (value, *percentile_interval(draws, draws))))


def best_row(analysis: Analysis) -> Row | None:
    """The method or ablation with the highest score at the top budget."""
    found = [row for row in analysis.by_score if row.method in analysis.ranks]
    return found[0] if found else None


def opponents(analysis: Analysis) -> list[Row]:
    """The rows that the others are compared with: the references, and the best method or ablation."""
    best = best_row(analysis)
    return [*analysis.references, *([best] if best else [])]


def _best_note(analyses: Sequence[Analysis]) -> str:
    best = [(analysis, best_row(analysis)) for analysis in analyses]
    named = [
        f"{row.title}{f' on {analysis.benchmark.title}' if len(analyses) > 1 else ''}"
        for analysis, row in best
        if row
    ]
    return (
        f"Best: {', '.join(named)}, with the highest score of the methods and ablations at the top budget; "
        "as these scores chose it, what it is ahead by is flattered."
    )


# ------------------------------------------------------------------------------------- FLOPs to a score


def targets(curves: Sequence[Curves]) -> Table:
    """FLOPs at which each row reaches each target score."""
    study = curves[0].analysis.study
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    for one, row in _rows(curves):
        analysis, found = one.analysis, one.of(row)
        cell = {**of_benchmark(analysis), "Method": row.title}
        for target in study.facts.target_accuracies:
            plain: dict[str, Any] = {**of_benchmark(analysis), "method": row.method, "title": row.title,
                                     "target": target}  # fmt: skip
            numbers: dict[str, Any] = {"reached": "X"}
            if found is None:
                shown = "X"
            elif row.role is Role.BASE:
                there = bool(found[0][-1] >= target - 1e-9)
                shown = "0" if there else "not reached"
                numbers = {"reached": _yes(there), "flops": 0 if there else None}
            else:
                shown, numbers = _reached(study, row, found, one.budgets, target)
            cell[f"≥ {percent(target)} %"] = shown
            data.append(plain | dict.fromkeys(("reached", "flops", "flops_low", "flops_high")) | numbers)
        cells.append(cell)
    notes = [
        "FLOPs at which the score first reaches the target, straight over the logarithm of FLOPs between the "
        f"budgets on either side, with the {percent(LEVEL, 0)} % interval. <: it is there at the lowest "
        "budget already; >: beyond the top budget.",
        *dagger_note(cells),
    ]
    return table_of(study, "flops_to_target", "FLOPs to reach a score", cells, data, notes)


def _reached(
    study: Study, row: Row, found: tuple[np.ndarray, np.ndarray], budgets: np.ndarray, target: float
) -> tuple[str, dict[str, Any]]:
    """The cell and the data of FLOPs to a target."""
    measured, drawn = (flops_to(scores, budgets, target) for scores in found)
    low, high = percentile_interval(drawn.low, drawn.high)
    lowest, top = budgets[0], budgets[-1]
    below, beyond = f"< {flops(lowest)}", f"> {flops(top)}"
    known = bool(measured.low == measured.high)
    if np.isinf(measured.high):
        text = "not reached"
    else:
        at = study.budgets[int(np.searchsorted(budgets, measured.high))]
        text = marked(study, row, at, flops(float(measured.low)) if known else below)
    if low < top and high > lowest:  # else it says no more
        ends = below if low == 0 else flops(low), beyond if np.isinf(high) else flops(high)
        text += f"\n[{ends[0]}, {ends[1]}]"
    return text, {
        "reached": _yes(bool(np.isfinite(measured.high))),
        "flops": float(measured.low) if known else None,
        "flops_low": low,
        "flops_high": None if np.isinf(high) else high,
    }


def _yes(value: bool) -> str:
    return "yes" if value else "no"


# -------------------------------------------------------------------------------------- ratios of FLOPs


def iso_accuracy(curves: Sequence[Curves]) -> Table:
    """FLOPs that a row needs for the score that it and another both reach, as a multiple of the other's."""
    study = curves[0].analysis.study
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    for one, row in _rows(curves):
        if row.role is Role.BASE:
            continue
        cell = {**of_benchmark(one.analysis), "Method": row.title}
        for name, other in _named(one.analysis):
            if other.role is Role.BASE:
                continue
            shown, numbers = _ratio(one, row, other)
            cell[f"{TIMES} {name}"] = shown
            plain = {"method": row.method, "title": row.title, "against": other.method}
            blank = dict.fromkeys(("score", "ratio", "ratio_low", "ratio_high", "reason"))
            data.append({**of_benchmark(one.analysis), **plain, **blank, **numbers})
        cells.append(cell)
    notes = [
        "FLOPs of the row as a multiple of those of the other to the same score, with the "
        f"{percent(LEVEL, 0)} % interval: the lower of the two rows' scores at the top budget, which stands "
        "below. Less than 1: the row is the cheaper. 0 and ∞: one is there at the lowest budget already, so "
        "that nothing bounds the ratio on that side.",
        "No gain: the lower of the two is not above the base model's, which costs nothing, in "
        f"{percent((1 + LEVEL) / 2)} % of draws.",
        _best_note([one.analysis for one in curves]),
    ]
    return table_of(study, "iso_accuracy", "FLOPs to the same score", cells, data, notes)


def _ratio(curves: Curves, row: Row, other: Row) -> tuple[str, dict[str, Any]]:
    ours, theirs = curves.of(row), curves.of(other)
    if row is other:
        return DASH, {"reason": "itself"}
    if ours is None or theirs is None:
        return "X", {"reason": "incomplete"}
    score = exact(common_score(ours[0], theirs[0]))
    numbers: dict[str, Any] = {"score": score}
    base = curves.base
    if base is not None:
        gain = common_score(ours[1], theirs[1]) - base[1]
        if percentile_interval(gain, gain)[0] <= 0:
            return "no gain", numbers | {"reason": "no gain over the base model"}
    measured, drawn = (flop_ratio(a, b, curves.budgets) for a, b in zip(ours, theirs, strict=True))
    at = f"at {percent(score)} %"
    if measured.low == 0 and np.isinf(measured.high):
        lowest = flops(curves.budgets[0])
        return f"both < {lowest}\n{at}", numbers | {"reason": "both reach it at the lowest budget"}
    low, high = percentile_interval(drawn.low, drawn.high)
    known = measured.low == measured.high
    first = (
        significant(float(measured.low)) if known
        else f"< {significant(float(measured.high))}" if measured.low == 0
        else f"> {significant(float(measured.low))}"
    )  # fmt: skip
    ends = f"[{significant(low)}, {'∞' if np.isinf(high) else significant(high)}]"
    return f"{first}\n{ends}\n{at}", numbers | {
        "ratio": float(measured.low) if known else None,
        "ratio_low": low,
        "ratio_high": None if np.isinf(high) else high,
    }


def _named(analysis: Analysis) -> list[tuple[str, Row]]:
    """The rows that the others are compared with, by the headings of their columns."""
    best = best_row(analysis)
    return [(row.title, row) for row in analysis.references] + ([("best", best)] if best else [])


# ------------------------------------------------------------------------------------- the whole curve


def improvement(curves: Sequence[Curves]) -> Table:
    """Mean score over the range of budgets, and how likely one training does better than another's."""
    study = curves[0].analysis.study
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    for one, row in _rows(curves):
        found, analysis = one.of(row), one.analysis
        cell = {**of_benchmark(analysis), "Method": row.title}
        plain: dict[str, Any] = {**of_benchmark(analysis), "method": row.method, "title": row.title}
        if len(study.budgets) > 1:
            mean: Estimate | X = X("incomplete")
            if found is not None:
                mean = _estimate(*(area(scores, one.budgets) for scores in found))
            cell["Mean over\nlog FLOPs"] = "X" if isinstance(mean, X) else interval(mean)
            plain |= plain_of("area", mean)
        for name, other in _named(analysis):
            better = None if row is other else _improvement(one, row, other)
            cell[f"P(> {name})"] = (
                DASH if better is None
                else "X" if isinstance(better, X)
                else marked(study, row, study.top, interval(better, probability))
            )  # fmt: skip
            plain |= plain_of(f"better_than_{'best' if name == 'best' else other.method}", better)
        cells.append(cell)
        data.append(plain)
    notes = [
        f"Mean over log FLOPs: area under the score from {flops(study.budgets[0])} to {flops(study.top)}, in "
        f"percent, with its {percent(LEVEL, 0)} % interval."
    ] * (len(study.budgets) > 1)
    notes += [
        f"P(> ...): probability that a training of the row does better than one of the other on a problem at "
        f"{flops(study.top)}, ties as a half, over problems and pairs of training seeds."
        + " Its interval draws from so few seeds again, and is too short for that."
        * study.preliminary,
        _best_note([one.analysis for one in curves]),
        *dagger_note(cells),
    ]
    return table_of(study, "improvement", "Over all budgets, and training by training", cells, data, notes)


def probability(value: float) -> str:
    return f"{value:.2f}"


def _improvement(curves: Curves, row: Row, other: Row) -> Estimate | X:
    """Probability of improvement at the top budget."""
    study, benchmark = curves.analysis.study, curves.analysis.benchmark
    ours, theirs = (_top_scores(curves.analysis, each) for each in (row, other))
    if ours is None or theirs is None:
        return X("incomplete")
    seeds = len(study.seeds)
    even = np.full((1, seeds), 1 / seeds)
    mean = probability_of_improvement(ours, theirs, shares(benchmark.strata)[None], even, even)
    drawn = (seed_weights(seeds, DRAWS, study.index[each.method]) for each in (row, other))
    return _estimate(mean[0], probability_of_improvement(ours, theirs, curves.problems, *drawn))


def _top_scores(analysis: Analysis, row: Row) -> np.ndarray | None:
    """[seed, problem] at the top budget, None where the row is incomplete."""
    study = analysis.study
    if isinstance(analysis.accuracy(row.method, study.top), X):
        return None
    return np.asarray(analysis.benchmark.scores["sampled"][study.index[row.method], :, -1])


# --------------------------------------------------------------------------------------------- sigmoids


def scaling(curves: Sequence[Curves]) -> Table:
    """A sigmoid of the score over log FLOPs for each row, where there are budgets enough to tell."""
    study = curves[0].analysis.study
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    names = ("asymptote", "exponent", "midpoint")
    for one, row in _rows(curves):
        found, base = one.of(row), one.base
        if row.role is Role.BASE:
            continue
        plain: dict[str, Any] = {**of_benchmark(one.analysis), "method": row.method, "title": row.title}
        shown, estimates, reason = ["X"] * 3, dict.fromkeys(names), "incomplete"
        if found is not None and base is not None:
            estimates, reason = _sigmoid(one, found, base)
            shown = [reason] * 3
        if estimates["asymptote"] and estimates["exponent"] and estimates["midpoint"]:
            steep = estimates["exponent"]
            most = f"> {STEEPEST:g}" if steep.high > STEEPEST - 1e-6 else significant(steep.high)
            shown = [
                interval(estimates["asymptote"]),
                f"{significant(steep.mean)}\n[{significant(steep.low)}, {most}]",
                interval(estimates["midpoint"], flops),
            ]
        heads = ("Asymptote A", "Exponent B", "Midpoint C")
        cells.append(
            {**of_benchmark(one.analysis), "Method": row.title} | dict(zip(heads, shown, strict=True))
        )
        for name in names:
            plain |= plain_of(name, estimates[name])
        data.append(plain | {"reason": reason})
    notes = [
        "Least squares of R0 + (A - R0) / (1 + (C / FLOPs)^B) to the scores at all budgets, R0 the base "
        f"model's (Khatri et al. 2025, arXiv:2510.13786), with {percent(LEVEL, 0)} % intervals from fits to "
        f"{_FITS} draws. Not identified: in more than {percent((1 - LEVEL) / 2)} % of them the asymptote is "
        f"at 100 %, the curve is level, or its midpoint lies more than a factor of {BEYOND:g} outside the "
        "budgets."
    ]
    return table_of(study, "scaling", "Sigmoids over log FLOPs", cells, data, notes)


def _sigmoid(
    curves: Curves, of_row: tuple[np.ndarray, np.ndarray], base: tuple[float, np.ndarray]
) -> tuple[dict[str, Estimate | None], str]:
    """The three parameters, or the reason why there are none."""
    scores = np.concatenate([of_row[0][None], of_row[1][:_FITS]])
    fit = fit_sigmoid(scores, np.append(base[0], base[1][:_FITS]), curves.budgets)
    named = {"asymptote": fit.asymptote, "exponent": fit.exponent, "midpoint": fit.midpoint}
    if not fit.bounded[0] or 1 - fit.bounded[1:].mean() > (1 - LEVEL) / 2:
        return dict.fromkeys(named), "not identified"
    return {name: _estimate(values[0], values[1:]) for name, values in named.items()}, ""


# ---------------------------------------------------------------------------- differences at every budget


def differences(analyses: Sequence[Analysis]) -> Table:
    """Every row against the references and the best, at every budget."""
    study = analyses[0].study
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    for analysis in analyses:
        for other in opponents(analysis):
            families = {budget: analysis.differences(other.method, budget) for budget in study.budgets}
            for row in analysis.by_score:
                if row is other:
                    continue
                cell = {**of_benchmark(analysis), "Against": other.title, "Method": row.title}
                for budget, title in budget_titles(study).items():
                    found, p = families[budget][row.method]
                    cell[title] = (
                        marked(study, row, budget, f"{interval(found, signed)}\n{p_text(p)}")
                        if isinstance(found, Difference)
                        else "X"
                    )
                    plain = {"method": row.method, "title": row.title, "against": other.method,
                             "budget": budget, **plain_of("difference", found)}  # fmt: skip
                    p_raw = found.p if isinstance(found, Difference) else None
                    data.append({**of_benchmark(analysis), **plain, "p": p_raw, "p_holm": p})
                cells.append(cell)
    notes = [
        f"Paired differences in percentage points, with their {percent(LEVEL, 0)} % intervals and p-values "
        "after Holm's correction over the rows against one other at one budget.",
        *detectable_note(analyses),
        _best_note(analyses),
        *dagger_note(cells),
    ]
    return table_of(study, "differences", "Differences at every budget", cells, data, notes)


# -------------------------------------------------------------------------------------- training seeds


def seeds(analyses: Sequence[Analysis]) -> Table:
    """The score of every training seed at the top budget, and how far they spread."""
    study, top = analyses[0].study, analyses[0].study.top
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    for analysis, row in all_rows(analyses):
        found = _top_scores(analysis, row)
        each = None if found is None else macro_mean(found, analysis.benchmark.strata)
        cell = {**of_benchmark(analysis), "Method": row.title}
        cell |= {
            f"Seed {seed}": "X" if each is None else marked(study, row, top, percent(each[i]))
            for i, seed in enumerate(study.seeds)
        }
        plain: dict[str, Any] = {**of_benchmark(analysis), "method": row.method, "title": row.title}
        plain |= {
            f"seed_{seed}": None if each is None else exact(each[i]) for i, seed in enumerate(study.seeds)
        }
        if len(study.seeds) > 1:
            measured = None if each is None else exact(each.std(ddof=1))
            supposed = analysis.seed_sd(row.method, top)
            cell["SD"] = "X" if measured is None else percent(measured)
            cell["SD of\nintervals"] = "X" if isinstance(supposed, X) else percent(supposed)
            plain |= {"sd": measured, "sd_of_intervals": None if isinstance(supposed, X) else supposed}
        cells.append(cell)
        data.append(plain)
    notes = [f"Score of each training seed at {flops(top)}, in percent."]
    notes += [
        "SD: standard deviation of these scores, which holds the luck of training and of the samples. SD of "
        "intervals: what the intervals and tests suppose of the row, from its seeds at all budgets; the base "
        "model has no training."
    ] * (len(study.seeds) > 1)
    return table_of(study, "seeds", "Training seeds", cells, data, [*notes, *dagger_note(cells)])


# ---------------------------------------------------------------------------------- papers' convention


def papers(curves: Sequence[Curves]) -> Table:
    """Scores at equal FLOPs of the papers' convention, and the places that they make."""
    study = curves[0].analysis.study
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    levels = []
    for one in curves:
        spent, level = _papers_flops(one)
        scores, draws = _scores_at(one, spent, level)
        levels.append(flops(level) + (f" on {one.analysis.benchmark.title}" if len(curves) > 1 else ""))
        placed = [m for m in one.analysis.ranks if m in one.index and not np.isnan(scores[one.index[m]])]
        at = [one.index[m] for m in placed]
        theirs = _places(placed, scores[at], draws[:, at])
        ours = _places(placed, one.means[at, -1], one.draws[:, at, -1])
        score_of = {m: -np.nan_to_num(scores[i], nan=-1.0) for m, i in one.index.items()}
        for row in sorted(one.analysis.by_score, key=lambda row: score_of.get(row.method, 2.0)):
            if row.role is Role.BASE:
                continue
            plain: dict[str, Any] = {**of_benchmark(one.analysis), "method": row.method, "title": row.title}
            blank = (DASH, (None, None, None))
            (shown, place), (shown_ours, place_ours) = (by.get(row.method, blank) for by in (theirs, ours))
            i = one.index.get(row.method)
            score: Estimate | None = None
            if i is None:
                text, ratio = "X", None
            else:
                ours_spent = study.spent(row.method, study.top)
                ratio = None if isinstance(ours_spent, X) or not ours_spent else spent[i, -1] / ours_spent
                text = "over" if spent[i, 0] > level else "not reached" if spent[i, -1] < level else "falls"
                if not np.isnan(scores[i]):
                    score = _estimate(scores[i], draws[:, i])
                    reached = study.budgets[int(np.searchsorted(spent[i], level))]
                    text = marked(study, row, reached, interval(score))
            cells.append({
                **of_benchmark(one.analysis), "Place": shown, "Method": row.title, "Score": text,
                "Place by\nour FLOPs": shown_ours,
                "Papers' FLOPs\nfor one of ours": "X" if ratio is None else significant(ratio),
            })  # fmt: skip
            for name, (first, low, high) in (("place", place), ("place_ours", place_ours)):
                plain |= {name: first, f"{name}_low": low, f"{name}_high": high}
            data.append(plain | plain_of("score", score) | {"papers_flops_at": level, "ratio": ratio})
    notes = [
        f"Score at {', '.join(levels)} of the papers' convention (2 FLOPs per parameter and sampled token, 6 "
        "per parameter and training token, padding counted), the most that all methods and ablations "
        f"reach: straight over its logarithm between budgets, in percent, with the {percent(LEVEL, 0)} % "
        "interval. Over: the row has spent more by its lowest budget. Falls: it spends less at a larger one.",
        "Place: by this score, and by that at the top budget, among the methods and ablations that have "
        f"both, with the places that {percent(LEVEL, 0)} % of joint draws give it.",
    ]
    notes += dagger_note(cells)
    return table_of(study, "papers", "Leaderboard by the papers' FLOPs", cells, data, notes)


def _papers_flops(curves: Curves) -> tuple[np.ndarray, float]:
    """([row, budget], FLOPs) Papers' FLOPs of each row, mean over seeds, and the most that all methods and
    ablations have spent; 0 where there are none."""
    study = curves.analysis.study
    spent = np.array([
        [np.mean([study.run(m, s, b)["papers_flops"] for s in study.seeds]) for b in study.budgets]
        for m in curves.index
    ]).reshape(curves.means.shape)  # fmt: skip
    ranked = [spent[curves.index[m], -1] for m in curves.analysis.ranks if m in curves.index]
    return spent, float(min(ranked, default=0.0))


def _scores_at(curves: Curves, spent: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """([row], [draw, row]) Scores at so many of the FLOPs ``spent`` [row, budget], NaN for a row that has
    spent more at its lowest budget or less at the top, or whose spend does not grow from budget to budget."""
    scores, draws = np.full(len(spent), np.nan), np.full(curves.draws.shape[:2], np.nan)
    for i, flops_of_row in enumerate(spent):
        if flops_of_row[0] <= level <= flops_of_row[-1] and (np.diff(flops_of_row) > 0).all():
            scores[i] = score_at(curves.means[i], flops_of_row, level)
            draws[:, i] = score_at(curves.draws[:, i], flops_of_row, level)
    return scores, draws


def _places(
    methods: Sequence[str], scores: np.ndarray, draws: np.ndarray
) -> dict[str, tuple[str, tuple[int, int, int]]]:
    """The place of each method by ``scores`` [row], with its interval by ``draws`` [draw, row]."""
    found = {}
    drawn = places(draws)
    for i, (method, place) in enumerate(zip(methods, places(scores), strict=True)):
        low, high = map(int, percentile_interval(drawn[:, i], drawn[:, i]))
        found[method] = f"{place}\n[{low}, {high}]", (int(place), low, high)
    return found


def _rows(curves: Sequence[Curves]) -> list[tuple[Curves, Row]]:
    return [(one, row) for one in curves for row in one.analysis.by_score]
