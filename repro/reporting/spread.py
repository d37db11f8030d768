"""How far a row's scores spread from training seed to training seed: pure functions of arrays.

The raw variance between the seeds of a row is used: it holds the luck of training, that of the samples drawn
with it, and how both differ from problem to problem. So it is of the size of what it stands for even where
training is all but deterministic, and never a difference of two estimates that may come out at zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import polygamma, psi
from scipy.stats import bartlett

CORRELATION = 0.7  # of a seed's deviations at two budgets, where a study cannot tell
PRIOR = 4  # degrees of freedom that it counts for
ROUNDS = 40  # of fitting levels and profile
SIMULATIONS = 500  # of a homogeneous study


@dataclass(frozen=True)
class Spread:
    """``variance`` of the score of one seed and its degrees of freedom ``df`` are [row, budget], NaN where
    they are unknown; ``correlation`` [row] is that of a seed's deviations at two budgets."""

    variance: np.ndarray
    df: np.ndarray
    correlation: np.ndarray


def seed_spread(scores: np.ndarray, noise: np.ndarray, few: bool) -> Spread:
    """The spread of rows from their ``scores`` [row, seed, budget], NaN where a row has none.

    A row's variances at its budgets have a level that is its own and a shape (:func:`_fit`). A level from B
    budgets whose deviations correlate by rho has B(S-1) / (1 + (B-1) rho^2) degrees of freedom, as the
    covariance of two variances of normal scores is 2 rho^2 / (S-1) of their squares; how uncertain the shared
    profile is goes off that, so that a row that is alone has the S-1 of each budget.

    With ``few`` seeds, and for a row whose seeds are all equal, a level is at least what the levels of all
    rows make likely (:func:`squeeze`), and a variance at least its share from problem to problem, ``noise``
    [row, budget].
    """
    rows, seeds, budgets = scores.shape
    deviations = scores - scores.mean(1, keepdims=True)
    known = ~np.isnan(deviations).any(1)
    if seeds == 1 or not known.any():
        unknown = np.full((rows, budgets), np.nan)
        return Spread(unknown, unknown, np.full(rows, CORRELATION))
    deviations = np.where(known[:, None], deviations, 0.0)
    found = (deviations**2).sum(1) / (seeds - 1)
    level, shape = _fit(found, noise, known)
    count = known.sum(1)
    moved = level > 0

    fitted = level[:, None] * shape
    scale = np.sqrt(fitted)[:, None]
    z = np.divide(deviations, scale, out=np.zeros_like(deviations), where=scale > 0)
    # Summed over pairs of budgets: correlations as found, and as they would be if only training correlated.
    together = ((z.sum(2) ** 2).sum(1) - (z**2).sum((1, 2)))[moved] / (seeds - 1)
    training = 1 - np.where(known, noise, 0).sum(1) / np.maximum(np.where(known, fitted, 0).sum(1), 1e-300)
    training = np.where(moved, np.clip(training, 0, 1), 0.0)
    pairs = count * (count - 1)
    plain = _correlation(together.sum(), pairs[moved], seeds, budgets)
    rho = np.maximum(
        plain, training * _correlation(together.sum(), (pairs * training)[moved], seeds, budgets)
    )

    count = np.maximum(1, count)
    df = count * (seeds - 1) / (1 + (count - 1) * rho**2)
    likely, df_likely = squeeze(level, df)
    raised = (likely >= level) if few else ~moved
    level, df = np.where(raised, likely, level), np.where(raised, df_likely, df)
    variance = level[:, None] * shape
    variance = np.maximum(variance, noise) if few else np.where(variance > 0, variance, noise)
    # What a row says of the profile, and what the profile says of the row, goes by its share of training.
    share = training**2 / max(1, (training**2).sum())
    of_profile = share * (count - 1) / count * (1 - rho**2) / (seeds - 1)
    df = 1 / (1 / df + of_profile)
    return Spread(np.where(known, variance, np.nan), np.where(known, df[:, None], np.nan), rho)


def _correlation(together: float, pairs: np.ndarray, seeds: int, budgets: int) -> float:
    """What ``together`` is of the number of ``pairs`` of budgets of each row, drawn towards what is usual as
    far as there are few. As each row was divided by a level found from itself, it comes out too low, to first
    order by 2 rho (1 - rho) (1 + (B-1) rho) / (B (S-1))."""
    weight = (seeds - 1) * pairs.sum() / max(1, pairs.max(initial=0))
    rho = min(1.0, max(0.0, together / pairs.sum())) if weight else 0.0
    rho += 2 * rho * (1 - rho) * (1 + (budgets - 1) * rho) / (budgets * (seeds - 1))
    return float(min(1.0, (weight * rho + PRIOR * CORRELATION) / (weight + PRIOR)))


def _fit(found: np.ndarray, noise: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The level of each row [..., row] and its shape over budgets [..., row, budget], of mean 1, from the
    variances ``found`` [..., row, budget] where they are ``known``.

    A shape is what the row's samples make, ``noise``, which is known well, and what its training adds: as
    much at each budget as a profile says that all rows share, as runs spread more at some budgets than at
    others. Profile and amounts have the highest likelihood of gamma-distributed variances (multiplicative
    updates; Fevotte, Bertin and Durrieu 2009, doi:10.1162/neco.2008.04-08-771). The level is the mean of what
    was found over that.
    """
    noise, found = np.where(known, noise, 0.0), np.where(known, found, 0.0)
    amount, profile = found.mean(-1, keepdims=True), np.ones_like(found[..., :1, :])
    for _ in range(ROUNDS):
        amount = amount * _update(found, noise + amount * profile, profile, -1)
        profile = profile * _update(found, noise + amount * profile, amount, -2)
        mean = profile.mean(-1, keepdims=True)
        profile = profile / np.where(mean > 0, mean, 1)
    model = noise + amount * profile
    mean = model.mean(-1, keepdims=True)
    shape = np.divide(model, mean, out=np.ones_like(model), where=mean > 0)
    used = known & (shape > 0)
    ratio = np.divide(found, shape, out=np.zeros_like(found), where=used)
    return ratio.sum(-1) / np.maximum(1, used.sum(-1)), shape


def _update(found: np.ndarray, model: np.ndarray, other: np.ndarray, axis: int) -> np.ndarray:
    """What an amount or the profile is to be multiplied by; ``other`` is the one that it multiplies."""
    inverse = np.divide(1, model, out=np.zeros_like(model), where=model > 0)
    above, below = ((other * part).sum(axis, keepdims=True) for part in (found * inverse * inverse, inverse))
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def squeeze(level: np.ndarray, df: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances drawn towards their common scale by what their own spread says of a scaled inverse
    chi-square prior, and their degrees of freedom (Smyth 2004, doi:10.2202/1544-6115.1027, section 6.2).
    Fewer than two variances above zero say nothing of others, and stay as they are."""
    moved = level > 0
    if moved.sum() < 2:
        return level, df
    half = df[moved] / 2
    log = np.log(level[moved]) - psi(half) + np.log(half)
    excess = log.var(ddof=1) - polygamma(1, half).mean()
    most = df[moved].sum()
    if excess <= 0:  # no more than chance makes: all have one variance
        return np.full_like(level, np.average(level[moved], weights=df[moved])), np.full_like(df, most)
    prior = 2 * brentq(lambda x: polygamma(1, x) - excess, 1e-6, 1e9)
    scale = np.exp(log.mean() + psi(prior / 2) - np.log(prior / 2))
    return (prior * scale + df * level) / (prior + df), np.minimum(prior + df, most)


def homogeneity(scores: np.ndarray, noise: np.ndarray, spread: Spread) -> tuple[float, float]:
    """Two p-values about the ``scores`` and ``noise`` that :func:`seed_spread` had: whether rows spread alike
    (Bartlett's test of each seed's mean deviation), and whether all follow one profile over budgets (squared
    relative errors of the fit, against simulated studies of normal scores that do).

    NaN where a test has nothing to look at. Rows that lack a budget, or do not move, are left out.
    """
    deviations = scores - scores.mean(1, keepdims=True)
    used = (deviations != 0).any(1).all(1) & ~np.isnan(deviations).any((1, 2))
    rows, seeds, budgets = deviations[used].shape
    alike = shared = np.nan
    if rows > 1 and seeds > 1:
        variance, noise = (deviations[used] ** 2).sum(1) / (seeds - 1), noise[used]
        level, shape = _fit(variance, noise, variance > 0)
        alike = bartlett(*(deviations[used] / np.sqrt(shape)[:, None]).mean(2)).pvalue
        if budgets > 1:
            rho = spread.correlation[used][:, None, None]
            rng = np.random.default_rng(2)
            common = rng.standard_normal((SIMULATIONS, rows, seeds, 1))
            own = rng.standard_normal((SIMULATIONS, rows, seeds, budgets))
            normal = (np.sqrt(rho) * common + np.sqrt(1 - rho) * own).var(2, ddof=1)
            null = _unexplained(normal * level[:, None] * shape, noise)
            shared = (1 + (null >= _unexplained(variance, noise) - 1e-12).sum()) / (1 + SIMULATIONS)
    return float(alike), float(shared)


def _unexplained(variance: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Squared relative errors of the fit of levels and profile to variances [..., row, budget]."""
    level, shape = _fit(variance, noise, variance > 0)
    return np.asarray(((variance / (level[..., None] * shape) - 1) ** 2).sum((-1, -2)))
