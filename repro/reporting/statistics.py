"""Statistics of scores: pure functions of arrays. What the numbers of a study mean is in
:mod:`repro.reporting.analysis`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import comb, stdtrit

LEVEL = 0.95  # of every interval
ALPHA = 0.05  # of every test, after Holm's correction
BOOTSTRAPS = 4_000
FLIPS = 10_000  # sign flips: the smallest p-value is about 1e-4


def macro_mean(y: np.ndarray, tier_of: np.ndarray) -> np.ndarray:
    """Mean over tiers of the mean over problems; ``y`` is [..., problem]."""
    return np.mean([y[..., tier_of == t].mean(-1) for t in np.unique(tier_of)], axis=0)


def seed_variance(y: np.ndarray, tier_of: np.ndarray, paired: bool) -> tuple[float, int]:
    """Variance of a row's score from training seed to training seed, and its degrees of freedom.

    ``y`` is [row, seed, problem]. Pooled over rows; what the finite problems and samples add to it is
    subtracted. ``paired`` takes out what all rows of one seed share, as a paired difference does.
    One seed gives 0: its spread is unknown, and the tables say so.
    """
    rows, seeds, _ = y.shape
    if seeds == 1 or rows == 0:
        return 0.0, 1
    if paired and rows > 1:
        y, rows = y - y.mean(0), rows - 1
    y = y - y.mean(1, keepdims=True)
    df = rows * (seeds - 1)
    between = (macro_mean(y, tier_of) ** 2).sum() / df
    noise = []
    for t in np.unique(tier_of):
        part = y[..., tier_of == t]
        n = part.shape[-1]
        noise.append(((part - part.mean(-1, keepdims=True)) ** 2).sum() / (df * max(1, n - 1) * n))
    return max(0.0, float(between - np.sum(noise) / len(noise) ** 2)), df


class Resampler:
    """Bootstrap and sign-flip draws for one set of problems: made once, by a fixed seed, for all rows."""

    def __init__(self, tier_of: np.ndarray, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        tiers, sizes = np.unique(tier_of, return_counts=True)
        self.tier_of = tier_of
        self.weights = np.zeros((BOOTSTRAPS, len(tier_of)))
        for t, n in zip(tiers, sizes, strict=True):
            drawn = rng.multinomial(n, np.full(n, 1 / n), size=BOOTSTRAPS)
            self.weights[:, tier_of == t] = drawn / (n * len(tiers))
        self.share = np.repeat(1 / (sizes * len(tiers)), sizes)  # of each problem in the macro mean
        self.signs = rng.integers(0, 2, (FLIPS, len(tier_of)), dtype=np.int8) * np.int8(2) - np.int8(1)
        self.uniform = rng.random(FLIPS)
        self._t: dict[int, np.ndarray] = {}

    def _seed_part(self, n: int, variance: float, df: int) -> np.ndarray | float:
        if variance == 0:
            return 0.0
        if df not in self._t:
            self._t[df] = stdtrit(df, self.uniform)  # Student's t by inversion
        return np.asarray(np.sqrt(variance) * self._t[df][:n])

    def interval(self, y: np.ndarray, variance: float, df: int) -> tuple[float, float]:
        """95 % percentile interval of the score of ``y`` [problem] (its mean over seeds), given the
        variance of that mean between training seeds."""
        draws = self.weights @ y + self._seed_part(BOOTSTRAPS, variance, df)
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return exact(low), exact(high)

    def p_value(self, difference: np.ndarray, variance: float, df: int) -> float:
        """Two-sided p-value of a score difference [problem] (mean over seeds) against none.

        The null flips the sign of each problem's difference at random and adds the noise between seeds.
        """
        share = difference * self.share
        null = np.concatenate([signs @ share for signs in np.array_split(self.signs, 10)])
        null += self._seed_part(FLIPS, variance, df)
        # Scores are counts, so exact ties are common: the tolerance keeps rounding from breaking them.
        extreme = np.abs(null) >= abs(share.sum()) - 1e-9
        return (1 + int(extreme.sum())) / (1 + FLIPS)


def exact(value: float | np.ndarray) -> float:
    # So that the last bits, which depend on the machine's linear algebra, never reach a file.
    return round(float(value), 9)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given."""
    adjusted = [0.0] * len(p)
    worst = 0.0
    for step, i in enumerate(np.argsort(p, kind="stable")):
        worst = max(worst, min(1.0, (len(p) - step) * p[i]))
        adjusted[i] = worst
    return adjusted


def rank_intervals(better: np.ndarray) -> list[tuple[int, int]]:
    """Rank intervals from ``better[i, j]``, whether i is significantly better than j.

    The low end, the rank itself, is 1 + the number of rows significantly better: ties share a rank.
    The high end is the number of rows less those significantly worse.
    """
    better = np.asarray(better, bool)
    low, high = 1 + better.sum(0), len(better) - better.sum(1)
    return [(int(a), int(b)) for a, b in zip(low, high, strict=True)]


def pass_at_k(n: int, correct: np.ndarray, k: int) -> np.ndarray:
    """Unbiased pass@k of problems with ``correct`` right answers among ``n`` samples
    (Chen et al. 2021, arXiv:2107.03374, equation 1)."""
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs 1 <= k <= n = {n}")
    return np.asarray(1 - comb(n - np.asarray(correct), k) / comb(n, k))
