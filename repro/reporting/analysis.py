"""From a study's records to numbers with their uncertainty. Importing it loads no torch.

The score of a row at a budget on a benchmark is the mean over problems of avg@k, over training seeds; on the
ladder the mean over tiers of that. It has two sources of error, and both go into every interval and every
p-value:

- *training seeds*: a row's own variance between seeds (:mod:`repro.reporting.spread`), with the luck of
  the samples in it, enters as a Student-t variate. Of two rows the variances add, with Satterthwaite's
  degrees of freedom: their seeds are trainings apart. The base row alone has no training, and none.
- *problems*: the variance from problem to problem, within their tier where tiers count alike, less what the
  samples and seeds add to it, as the variance between seeds has that already. With one seed all of it counts,
  and the spread between seeds is unknown.

Together they are the two-way layout of problems and seeds, both random.

Nothing is pooled over benchmarks: each has its own intervals, families of tests and ranks.

A row that lacks a seed at a budget has no number there but an :class:`X` with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from scipy.special import stdtr, stdtrit

from repro.records import Role
from repro.reporting.results import ENOUGH_SEEDS, Mode, Row, Study, X
from repro.reporting.spread import Spread, homogeneity, seed_spread
from repro.reporting.statistics import (
    ALPHA,
    DRAWS,
    bootstrap,
    difference_interval,
    exact,
    half_problems,
    holm,
    macro_mean,
    pass_at_k,
    problem_variance,
    rank_intervals,
    sample_covariance,
    satterthwaite,
    score_interval,
    sign_flip_p,
    significant_digits,
    smallest_detectable,
    t_draws,
    within_tiers,
    without_samples,
)


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval, as fractions."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Estimate):
    """A paired difference of two rows; ``p`` is the two-sided p-value before any correction."""

    p: float


@dataclass(frozen=True)
class _Scores:
    """The scores of all rows in one mode and tier, NaN where they are incomplete."""

    tier_of: np.ndarray  # [problem]
    each: np.ndarray  # [row, budget, problem], mean over seeds
    of_seeds: np.ndarray  # [row, seed, budget], of trained rows
    samples: np.ndarray  # [row, budget] what samples and seeds add to the variance from problem to problem
    spread: Spread  # between seeds

    @property
    def df(self) -> int:
        """Degrees of freedom of a variance from problem to problem."""
        return max(1, len(self.tier_of) - len(np.unique(self.tier_of)))


@dataclass(frozen=True)
class _Error:
    """The variance of a score or of a difference, by its sources."""

    kept: float  # share of the variance from problem to problem that is not of samples
    problems: float  # that share, and a little for what they cannot show
    problems_df: int
    spreads: list[tuple[float, float]]  # between seeds, of one row or of two, each with degrees of freedom

    @property
    def seeds(self) -> float:
        """0 for the base row, and where a single seed leaves it unknown."""
        return sum(variance for variance, _ in self.spreads)

    @property
    def seeds_df(self) -> float:
        return satterthwaite(self.spreads)

    @property
    def variance(self) -> float:
        return self.problems + self.seeds

    @property
    def df(self) -> float:
        return satterthwaite([(self.problems, self.problems_df), *self.spreads])


class Analysis:
    """Every statistic of one benchmark of a study, the first unless it is named; of the task that is watched
    for forgetting only what is asked of greedy scores. Results depend on the records alone, not on the order
    of calls."""

    def __init__(self, study: Study, benchmark: str | None = None) -> None:
        self.study = study
        named = {one.name: one for one in (*study.benchmarks, study.forgetting) if one}
        self.benchmark = named[benchmark] if benchmark else study.benchmarks[0]
        # Tables and figures ask for the same numbers, which take time where there are thousands of problems.
        self._accuracies: dict[tuple[str, int, Mode, str | None], Estimate | X] = {}
        self._differences: dict[tuple[str, str, int, Mode], Difference | X] = {}
        self._found: dict[tuple[Mode, str | None], _Scores] = {}

    def accuracy(
        self, method: str, budget: int, mode: Mode = "sampled", tier: str | None = None
    ) -> Estimate | X:
        """Score at a budget, over all problems or in one tier."""
        key = method, budget, mode, tier
        if key not in self._accuracies:
            self._accuracies[key] = self._accuracy(*key)
        return self._accuracies[key]

    def _accuracy(self, method: str, budget: int, mode: Mode, tier: str | None) -> Estimate | X:
        lack = self._lacks(method, budget, mode)
        if lack:
            return lack
        found = self._scores(mode, tier)
        each = found.each[self._at(method, budget)]
        mean = float(macro_mean(each, found.tier_of))
        error = self._error(found, each, (0, 1), budget, method)
        low, high = score_interval(mean, error.variance, error.df, each.size)
        return Estimate(exact(mean), exact(low), exact(high))

    def difference(self, method: str, reference: str, budget: int, mode: Mode = "sampled") -> Difference | X:
        """Score of ``method`` less that of ``reference``, paired by problem."""
        key = method, reference, budget, mode
        if key not in self._differences:
            self._differences[key] = self._difference(*key)
        return self._differences[key]

    def _difference(self, method: str, reference: str, budget: int, mode: Mode) -> Difference | X:
        for row, whose in ((method, ""), (reference, f"{self._title(reference)}: ")):
            lack = self._lacks(row, budget, mode)
            if lack:
                return X(whose + lack.reason)
        found = self._scores(mode)
        each, error = self._difference_of(found, method, reference, budget)
        mean = float(macro_mean(each, found.tier_of))
        low, high = difference_interval(mean, error.variance, error.df)
        samples = (self.benchmark.k if mode == "sampled" else 1) * len(self.study.seeds)
        p = sign_flip_p(each, found.tier_of, samples, error.kept, error.seeds, error.seeds_df)
        return Difference(exact(mean), exact(low), exact(high), significant_digits(p))

    def replication(
        self, other: Analysis, method: str, budget: int, reference: str | None = None
    ) -> Difference | X:
        """Score of a row less that of the same row (or of ``reference``) in another study with the same
        problems, paired by problem; each has its own training seeds. Its p-value is that of Student's t."""
        both = ((self, method), (other, reference or method))
        for analysis, row in both:
            if lack := analysis._lacks(row, budget):
                return lack
        ours, theirs = self._scores(), other._scores()
        each = ours.each[self._at(method, budget)] - theirs.each[other._at(reference or method, budget)]
        errors = [
            analysis._error(found, each, (-1, 1), budget, row)
            for (analysis, row), found in zip(both, (ours, theirs), strict=True)
        ]
        kept = max(0.0, sum(error.kept for error in errors) - 1)  # each takes out its own samples
        unseen = errors[0].problems - errors[0].kept * float(problem_variance(each, ours.tier_of))
        problems = kept * float(problem_variance(each, ours.tier_of)) + unseen
        spreads = [*errors[0].spreads, *errors[1].spreads]
        if len(spreads) < sum(analysis._trained(row) for analysis, row in both):
            # One seed tells no spread: the other's stands for it.
            if not spreads:
                return X("one training seed in both says nothing of the spread between seeds")
            seeds = [len(self.study.seeds), len(other.study.seeds)]
            spreads.append((spreads[0][0] * max(seeds), spreads[0][1]))
        error = _Error(kept, problems, ours.df, spreads)
        mean = float(macro_mean(each, ours.tier_of))
        low, high = difference_interval(mean, error.variance, error.df)
        p = 2 * stdtr(error.df, -abs(mean) / np.sqrt(error.variance)) if mean else 1.0
        return Difference(exact(mean), exact(low), exact(high), significant_digits(p))

    def _difference_of(
        self, found: _Scores, method: str, reference: str, budget: int
    ) -> tuple[np.ndarray, _Error]:
        each = found.each[self._at(method, budget)] - found.each[self._at(reference, budget)]
        return each, self._error(found, each, (-1, 1), budget, method, reference)

    def seed_sd(self, method: str, budget: int) -> float | X:
        """Standard deviation of the score of one training seed, as intervals suppose it: that of the row's
        seeds, over its budgets."""
        lack = self._lacks(method, budget)
        if lack:
            return lack
        if not self._trained(method):
            return 0.0
        if len(self.study.seeds) == 1:
            return X("one training seed")
        return exact(np.sqrt(self._scores().spread.variance[self._at(method, budget)]))

    @cached_property
    def homogeneity(self) -> tuple[float, float]:
        """p-values of whether all trained rows spread alike from seed to seed, and of whether their variances
        keep one profile over budgets, as their pooling over budgets supposes; NaN where it cannot be told."""
        if not self.benchmark.tier_of.size:  # nothing was evaluated
            return np.nan, np.nan
        found = self._scores()
        return homogeneity(found.of_seeds, found.samples * len(self.study.seeds), found.spread)

    @cached_property
    def detectable(self) -> float | X:
        """The smallest true difference at the top budget that this study finds with a power of 80 %, between
        two typical rows among those that are ranked, in the first step of Holm's correction for all pairs."""
        pairs = list(combinations(self.ranks, 2))
        if not pairs:
            return X("there are no two rows to rank")
        alpha = ALPHA / len(pairs)
        errors = [self._difference_of(self._scores(), *pair, self.study.top)[1] for pair in pairs]
        errors.sort(key=lambda error: float(np.sqrt(error.variance) * stdtrit(error.df, 1 - alpha / 2)))
        typical = errors[len(errors) // 2]
        return exact(smallest_detectable(typical.variance, typical.df, alpha))

    def curves(self, methods: Sequence[str]) -> np.ndarray:
        """[draw, method, budget]: draws of the scores of rows at all budgets, NaN where a row is incomplete.

        All share the problems that are drawn, with what samples add to a problem's score taken out; each row
        has its own training seeds, a multivariate Student t over budgets. The same draws every time.
        """
        found, seeds = self._scores(), len(self.study.seeds)
        rows = [self.study.index[method] for method in methods]
        trained = [seeds > 1 and self._trained(method) for method in methods]
        each = found.each[rows]
        noise = np.zeros((len(rows), each.shape[1]) * 2)
        for i in np.flatnonzero(trained):
            y = self._raw("sampled", None)[rows[i]].swapaxes(0, 1)
            noise[i, :, i] = sample_covariance(y, found.tier_of) / seeds
        whole = ~np.isnan(each).any(-1)
        kept = without_samples(within_tiers(each[whole], found.tier_of), noise[whole][:, whole])
        draws = np.full((DRAWS, *whole.shape), np.nan)
        draws[:, whole] = macro_mean(each[whole], found.tier_of) + self._drawn @ kept.T
        for i in np.flatnonzero(trained):
            scale = np.sqrt(found.spread.variance[rows[i]] / seeds)
            df = np.nanmax(found.spread.df[rows[i]], initial=1)
            draws[:, i] += scale * t_draws(df, len(scale), found.spread.correlation[rows[i]], rows[i])
        return draws

    @cached_property
    def _drawn(self) -> np.ndarray:
        return bootstrap(self.benchmark.strata)

    def differences(self, reference: str, budget: int) -> dict[str, tuple[Difference | X, float]]:
        """Every other row less ``reference``, each with its p-value adjusted by Holm within this family."""
        found = {
            row.method: self.difference(row.method, reference, budget)
            for row in self.study.rows
            if row.method != reference
        }
        family = [m for m, d in found.items() if isinstance(d, Difference)]
        adjusted = dict(zip(family, holm([found[m].p for m in family]), strict=True))  # type: ignore[union-attr]
        return {m: (d, adjusted.get(m, np.nan)) for m, d in found.items()}

    @cached_property
    def ranks(self) -> dict[str, tuple[int, int]]:
        """Rank intervals at the top budget among complete methods and ablations (family: all their pairs)."""
        ranked = [
            row.method
            for row in self.study.rows
            if row.role in (Role.METHOD, Role.ABLATION)
            and not self.study.incomplete(row.method, self.study.top)
        ]
        pairs = [(i, j) for i in range(len(ranked)) for j in range(i)]
        found = [self.difference(ranked[i], ranked[j], self.study.top) for i, j in pairs]
        better = np.zeros((len(ranked), len(ranked)), bool)
        adjusted = holm([d.p for d in found if isinstance(d, Difference)])
        for (i, j), d, p in zip(pairs, found, adjusted, strict=True):
            if p < ALPHA and isinstance(d, Difference):
                better[(i, j) if d.mean > 0 else (j, i)] = True
        return dict(zip(ranked, rank_intervals(better), strict=True))

    @cached_property
    def by_score(self) -> list[Row]:
        """Rows by their score at the top budget, best first; rows without one last."""

        def key(row: Row) -> tuple[float, str]:
            score = self.accuracy(row.method, self.study.top)
            return (1.0 if isinstance(score, X) else -score.mean, row.title.casefold())

        return sorted(self.study.rows, key=key)

    @property
    def references(self) -> list[Row]:
        """The rows that the others are compared with: the base, then continued training."""
        return [row for role in (Role.BASE, Role.CONTINUED) for row in self.study.rows if row.role is role]

    def pass_at(self, method: str, budget: int, k: int) -> float | X:
        """Unbiased pass@k, averaged like the score."""
        lack = self._lacks(method, budget)
        if lack:
            return lack
        row, at = self._at(method, budget)
        y = self.benchmark.scores["sampled"][row, :, at]
        solved, n = np.rint(y * self.benchmark.k), self.benchmark.k
        return float(macro_mean(pass_at_k(n, solved, k).mean(0), self.benchmark.strata))

    def majority(self, method: str, budget: int) -> float | X:
        """maj@k, averaged like the score."""
        lack = self.study.incomplete(method, budget)
        if lack:
            return lack
        y = self.benchmark.majority[self.study.index[method], :, self.study.budgets.index(budget)]
        if not y.size or np.isnan(y).any():
            return X("the answers were not recorded")
        return float(macro_mean(y.mean(0), self.benchmark.strata))

    def rate(self, method: str, budget: int, name: str) -> float | X:
        """Mean over seeds of a rate over the sampled completions (or of their ``tokens``)."""
        lack = self.study.incomplete(method, budget)
        at = self.study.index[method], slice(None), self.study.budgets.index(budget)
        return lack or float(self.benchmark.rates[name][at].mean())

    def _title(self, method: str) -> str:
        return self.study.rows[self.study.index[method]].title

    def _trained(self, method: str) -> bool:
        return self.study.rows[self.study.index[method]].role is not Role.BASE

    def _lacks(self, method: str, budget: int, mode: Mode = "sampled") -> X | None:
        lack = self.study.incomplete(method, budget)
        if lack:
            return lack
        y = self.benchmark.scores[mode][self.study.index[method], :, self.study.budgets.index(budget)]
        return X(f"no {mode} evaluation") if not y.size or np.isnan(y).any() else None

    def _at(self, method: str, budget: int) -> tuple[int, int]:
        return self.study.index[method], self.study.budgets.index(budget)

    def _raw(self, mode: Mode, tier: str | None) -> np.ndarray:
        """[row, seed, budget, problem]"""
        tier_of = self.benchmark.tier_of
        chosen = tier_of == (tier_of if tier is None else self.benchmark.tiers.index(tier))
        return np.asarray(self.benchmark.scores[mode][..., chosen])

    def _scores(self, mode: Mode = "sampled", tier: str | None = None) -> _Scores:
        if (mode, tier) not in self._found:
            y = self._raw(mode, tier)
            tier_of = self.benchmark.strata if tier is None else np.zeros(y.shape[-1], int)
            trained = np.array([self._trained(row.method) for row in self.study.rows], bool)
            of_samples = problem_variance(y - y.mean(1, keepdims=True), tier_of).sum(1)
            samples = np.where(trained[:, None], of_samples / max(1, y.shape[1] - 1), 0.0)
            of_seeds = np.where(trained[:, None, None], macro_mean(y, tier_of), np.nan)
            spread = seed_spread(of_seeds, samples, len(self.study.seeds) < ENOUGH_SEEDS)
            each, noise = y.mean(1), samples / len(self.study.seeds)
            self._found[mode, tier] = _Scores(tier_of, each, of_seeds, noise, spread)
        return self._found[mode, tier]

    def _error(
        self, found: _Scores, each: np.ndarray, ends: tuple[float, float], budget: int, *methods: str
    ) -> _Error:
        """The error of the macro mean of ``each`` [problem], on a scale from end to end: the score of one
        method or the difference of two."""
        seeds = len(self.study.seeds)
        trained = [self._at(method, budget) for method in methods if self._trained(method)]
        spreads = [(found.spread.variance[at] / seeds, found.spread.df[at]) for at in trained if seeds > 1]
        variance, kept = float(problem_variance(each, found.tier_of)), 1.0
        if variance > 0 and spreads:
            kept = max(0.0, 1 - sum(found.samples[at] for at in trained) / variance)
        unseen = half_problems(float(macro_mean(each, found.tier_of)), ends, each.size)
        return _Error(kept, kept * variance + unseen, found.df, spreads)
