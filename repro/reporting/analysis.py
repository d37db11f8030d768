"""From a study's records to numbers with their uncertainty. Importing it loads no torch.

The score of a row at a budget on a benchmark is the mean over problems of avg@k, over training seeds; on the
ladder the mean over tiers of that. It has two sources of error, and both go into every interval and every
p-value:

- *problems and samples*: problems are resampled with replacement, within their tier where tiers count alike.
  A problem's avg@k carries its own sampling noise, so resampling the samples as well would count that noise
  twice.
- *training seeds*: two or three seeds say next to nothing about the spread of one row, so the variance
  between seeds is pooled over all trained rows of a budget (the variance components of a one-way layout,
  two-way for paired differences) and enters as a Student-t variate with the pooled degrees of freedom.

Nothing is pooled over benchmarks: each has its own intervals, families of tests and ranks.

A row that lacks a seed at a budget has no number there but an :class:`X` with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from repro.records import Role
from repro.reporting.results import Mode, Row, Study, X
from repro.reporting.statistics import (
    ALPHA,
    Resampler,
    exact,
    holm,
    macro_mean,
    pass_at_k,
    rank_intervals,
    seed_variance,
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


class Analysis:
    """Every statistic of one benchmark of a study, the first unless it is named. Results depend on the
    records alone, not on the order of calls."""

    def __init__(self, study: Study, benchmark: str | None = None, seed: int = 0) -> None:
        self.study = study
        named = {one.name: one for one in study.benchmarks}
        self.benchmark = named[benchmark] if benchmark else study.benchmarks[0]
        # Tables and figures ask for the same numbers, which take time where there are thousands of problems.
        self._accuracies: dict[tuple[str, int, Mode, str | None], Estimate | X] = {}
        self._differences: dict[tuple[str, str, int], Difference | X] = {}
        self._resamplers: dict[str | None, Resampler] = {}
        self._variances: dict[tuple[int, Mode, str | None, bool], tuple[float, int]] = {}
        self._seed = seed

    def accuracy(
        self, method: str, budget: int, mode: Mode = "sampled", tier: str | None = None
    ) -> Estimate | X:
        """Score at a budget, over all problems or in one tier."""
        key = method, budget, mode, tier
        if key not in self._accuracies:
            self._accuracies[key] = self._accuracy(*key)
        return self._accuracies[key]

    def _accuracy(self, method: str, budget: int, mode: Mode, tier: str | None) -> Estimate | X:
        y = self._scores(method, budget, mode, tier)
        if isinstance(y, X):
            return y
        variance, df = self._seed_variance(budget, mode, tier, paired=False)
        resampler = self._resampler(tier)
        each = y.mean(0)
        bounds = resampler.interval(each, variance * self._trained(method) / len(y), df)
        return Estimate(exact(macro_mean(each, resampler.tier_of)), *bounds)

    def difference(self, method: str, reference: str, budget: int) -> Difference | X:
        """Score of ``method`` less that of ``reference``, paired by problem and seed."""
        key = method, reference, budget
        if key not in self._differences:
            self._differences[key] = self._difference(*key)
        return self._differences[key]

    def _difference(self, method: str, reference: str, budget: int) -> Difference | X:
        ours, theirs = (self._scores(m, budget, "sampled", None) for m in (method, reference))
        if isinstance(ours, X):
            return ours
        if isinstance(theirs, X):
            return X(f"{self._title(reference)}: {theirs.reason}")
        each = (ours - theirs).mean(0)
        variance, df = self._seed_variance(budget, "sampled", None, paired=True)
        variance *= (self._trained(method) + self._trained(reference)) / len(ours)
        resampler = self._resampler(None)
        bounds = resampler.interval(each, variance, df)
        mean = exact(macro_mean(each, resampler.tier_of))
        return Difference(mean, *bounds, p=resampler.p_value(each, variance, df))

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
        y = self._scores(method, budget, "sampled", None)
        if isinstance(y, X):
            return y
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

    def flops_to(self, method: str, target: float) -> int | X | None:
        """The smallest budget whose score reaches ``target``, None where none does. Only checkpoints that
        were evaluated count: nothing is interpolated. The untouched base needs 0."""
        for budget in self.study.budgets:
            score = self.accuracy(method, budget)
            if isinstance(score, X):
                return score
            if score.mean >= target - 1e-9:
                return budget if self._trained(method) else 0
        return None

    def _title(self, method: str) -> str:
        return self.study.rows[self.study.index[method]].title

    def _trained(self, method: str) -> bool:
        return self.study.rows[self.study.index[method]].role is not Role.BASE

    def _scores(self, method: str, budget: int, mode: Mode, tier: str | None) -> np.ndarray | X:
        """[seed, problem], complete or X."""
        lack = self.study.incomplete(method, budget)
        if lack:
            return lack
        y = self.benchmark.scores[mode][self.study.index[method], :, self.study.budgets.index(budget)]
        y = y[:, self._chosen(tier)]
        return X(f"no {mode} evaluation") if not y.size or np.isnan(y).any() else y

    def _chosen(self, tier: str | None) -> np.ndarray:
        tier_of = self.benchmark.tier_of
        return np.full(len(tier_of), True) if tier is None else tier_of == self.benchmark.tiers.index(tier)

    def _resampler(self, tier: str | None) -> Resampler:
        if tier not in self._resamplers:
            self._resamplers[tier] = Resampler(self.benchmark.strata[self._chosen(tier)], self._seed)
        return self._resamplers[tier]

    def _seed_variance(self, budget: int, mode: Mode, tier: str | None, paired: bool) -> tuple[float, int]:
        key = (budget, mode, tier, paired)
        if key not in self._variances:
            trained = [row.method for row in self.study.rows if self._trained(row.method)]
            found = [self._scores(method, budget, mode, tier) for method in trained]
            complete = [y for y in found if not isinstance(y, X)]
            self._variances[key] = (
                seed_variance(np.stack(complete), self.benchmark.strata[self._chosen(tier)], paired)
                if complete
                else (0.0, 1)
            )
        return self._variances[key]
