"""Statistics of scores: pure functions of arrays. What the numbers of a study mean is in
:mod:`repro.reporting.analysis`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaincinv, comb, ndtri, stdtr, stdtrit
from scipy.stats import nct

LEVEL = 0.95  # of every interval
ALPHA = 0.05  # of every test, after Holm's correction
POWER = 0.8  # to find what is called detectable
DRAWS = 4_000  # of the bootstrap
FINE = 16  # steps of a sign-flip test for each that a sample makes, where tiers differ in size


def macro_mean(y: np.ndarray, tier_of: np.ndarray) -> np.ndarray:
    """Mean over tiers of the mean over problems; ``y`` is [..., problem]."""
    return np.mean([y[..., tier_of == t].mean(-1) for t in np.unique(tier_of)], axis=0)


def shares(tier_of: np.ndarray) -> np.ndarray:
    """[problem] The weight of each problem in the macro mean."""
    _, at, sizes = np.unique(tier_of, return_inverse=True, return_counts=True)
    return np.asarray(1 / (len(sizes) * sizes[at]))


def problem_variance(y: np.ndarray, tier_of: np.ndarray) -> np.ndarray:
    """The variance of the macro mean of ``y`` [..., problem] from problems to other problems of their tiers.
    What the samples of a problem add to its own score is in it. 0 for a tier of one problem."""
    return np.asarray((within_tiers(y, tier_of) ** 2).sum(-1))


def within_tiers(y: np.ndarray, tier_of: np.ndarray) -> np.ndarray:
    """Deviations of ``y`` [..., problem] from the means of their tiers, scaled so that their sum of squares
    is the :func:`problem_variance`."""
    found = np.empty(y.shape)
    tiers, sizes = np.unique(tier_of, return_counts=True)
    for t, n in zip(tiers, sizes, strict=True):
        part = y[..., tier_of == t]
        scale = len(tiers) * np.sqrt(max(1, n - 1) * n)
        found[..., tier_of == t] = (part - part.mean(-1, keepdims=True)) / scale
    return found


def sample_covariance(y: np.ndarray, tier_of: np.ndarray) -> np.ndarray:
    """What of the covariance between seeds of macro means of ``y`` [..., score, seed, problem] is one of
    problems within seeds: [..., score, score]. That is samples, and seeds that are better at some problems
    than at others. A mean over seeds has it in its problem variance too, divided by their number."""
    seeds = y.shape[-2]
    within = within_tiers(y - y.mean(-2, keepdims=True), tier_of).reshape(*y.shape[:-2], -1)
    return np.asarray(within @ within.swapaxes(-1, -2) / max(1, seeds - 1))


# ---------------------------------------------------------------------------------------------- draws


def bootstrap(tier_of: np.ndarray) -> np.ndarray:
    """[draw, problem] How often each problem is drawn, less 1, where as many as there are of each tier are
    drawn with replacement. The same draws for as many problems of the same tiers."""
    rng = np.random.default_rng(0)
    drawn = np.empty((DRAWS, len(tier_of)))
    for t, n in zip(*np.unique(tier_of, return_counts=True), strict=True):
        drawn[:, tier_of == t] = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS) - 1
    return drawn


def without_samples(within: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Deviations :func:`within_tiers` [score, problem] moved as little as makes their covariance smaller by
    ``noise`` [score, score], what of it is due to samples."""
    covariance = within @ within.T
    kept = _root(covariance - noise)
    return np.asarray(kept @ np.linalg.pinv(_root(covariance), rcond=1e-9, hermitian=True) @ within)


def _root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric root of the nearest matrix that is a covariance."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)


def t_draws(df: float, budgets: int, correlation: float, seed: int) -> np.ndarray:
    """[draw, budget] Multivariate Student t, of which all pairs of budgets correlate alike."""
    rng = np.random.default_rng([1, seed])
    shared, own = rng.standard_normal((DRAWS, 1)), rng.standard_normal((DRAWS, budgets))
    normal = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    return np.asarray(normal / np.sqrt(rng.chisquare(df, (DRAWS, 1)) / df))


# ------------------------------------------------------------------------------------------ intervals


def half_problems(mean: float, ends: tuple[float, float], problems: int) -> float:
    """What half a problem at either of the ``ends`` of a scale would add to the variance of a mean. It stands
    for what the problems at hand cannot show of others where they hardly differ: none right, all right, two
    rows alike on all of them (Jeffreys' prior; Agresti and Min 2005, doi:10.1002/sim.1781)."""
    return sum((end - mean) ** 2 for end in ends) / 2 / (problems * (problems + 1))


def score_interval(mean: float, variance: float, df: float, problems: int) -> tuple[float, float]:
    """The 95 % interval of a score between 0 and 1 from its variance and the degrees of freedom of that:
    Jeffreys' of a proportion, of as many independent answers as have this variance (Korn and Graubard 1998,
    with Student's t). It reaches 0 where none is right, 1 where all are."""
    share = (problems * mean + 0.5) / (problems + 1)
    normal = ndtri((1 + LEVEL) / 2) / stdtrit(df, (1 + LEVEL) / 2)
    answers = share * (1 - share) / variance * normal**2
    ends = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = betaincinv(answers * mean + 0.5, answers * (1 - mean) + 0.5, ends)
    return float(low if mean > 0 else 0.0), float(high if mean < 1 else 1.0)


def difference_interval(mean: float, variance: float, df: float) -> tuple[float, float]:
    """The 95 % interval of a difference of scores, by Student's t."""
    half = float(np.sqrt(variance) * stdtrit(df, (1 + LEVEL) / 2))
    return max(-1.0, mean - half), min(1.0, mean + half)


# ---------------------------------------------------------------------------------------------- tests


def sign_flip_p(
    difference: np.ndarray, tier_of: np.ndarray, samples: int, shrink: float, variance: float, df: float
) -> float:
    """Two-sided p-value of a score difference [problem], a mean over ``samples`` samples, against none.

    The null flips the sign of each problem's difference with probability 1/2; ``shrink`` of its variance
    counts; then comes a Student t of the ``variance`` between seeds. All sign patterns are counted, by the
    distribution of their sum over steps of one sample (of a sixteenth, rounded, where tiers differ in size).
    """
    share = shares(tier_of)
    step = share.min() / samples / (1 if share.min() == share.max() else FINE)
    steps = np.rint(difference * share / step).astype(int)
    sizes = np.sort(np.abs(steps[steps != 0]))
    # 2 * (the sum of a random half) - (the sum of all) is the sum with random signs.
    mass = np.ones(1)
    for size in sizes:
        longer = np.zeros(len(mass) + size)
        longer[: len(mass)] = mass
        longer[size:] += mass
        mass = longer / 2
    null = 2 * np.arange(len(mass)) - sizes.sum()
    seen = abs(int(steps.sum()))
    if variance == 0:
        return float(mass[np.abs(null) >= seen].sum())
    apart = step * (seen - np.sqrt(shrink) * null)
    return float(min(1.0, 2 * mass @ stdtr(df, -apart / np.sqrt(variance))))


def satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of independent estimates, given each (variance, degrees of freedom);
    infinite where all are 0."""
    below = sum(variance**2 / df for variance, df in parts)
    return float(sum(variance for variance, _ in parts) ** 2 / below) if below else np.inf


def detection(gain: float, variance: float, df: float, alpha: float = ALPHA) -> float:
    """The power of a two-sided t-test of ``gain``, whose estimate has a variance with ``df`` degrees of
    freedom, to find it with its right sign."""
    return float(nct.sf(stdtrit(df, 1 - alpha / 2), df, gain / np.sqrt(variance)))


def smallest_detectable(variance: float, df: float, alpha: float = ALPHA) -> float:
    """The gain that :func:`detection` finds with the power :data:`POWER`."""
    scale = np.sqrt(variance)
    above = 4 * scale * (stdtrit(df, 1 - alpha / 2) + 1)
    return float(brentq(lambda gain: detection(gain, variance, df, alpha) - POWER, 0, above))


def exact(value: float | np.ndarray) -> float:
    # So that the last bits, which depend on the machine's linear algebra, never reach a file.
    return round(float(value), 9)


def significant_digits(value: float) -> float:
    return float(f"{value:.6g}")


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
