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

CORRELATION = 0.7  # of a seed's deviations at two budgets, where a study cannot tell
PRIOR = 4  # degrees of freedom that it counts for
ROUNDS = 50  # of fitting levels and profile; they settle in a few


@dataclass(frozen=True)
class Spread:
    """``variance`` of the score of one seed and its degrees of freedom ``df`` are [row, budget], NaN where
    they are unknown. ``correlation`` is that of a seed's deviations at two budgets."""

    variance: np.ndarray
    df: np.ndarray
    correlation: float


def seed_spread(scores: np.ndarray, noise: np.ndarray, few: bool) -> Spread:
    """The spread of rows from their ``scores`` [row, seed, budget], NaN where a row has none.

    A row's variance is its own level times a profile over budgets that all rows share, as rows spread more at
    some budgets than at others: the fit of a two-way multiplicative model by the likelihood of
    gamma-distributed variances. A level from B budgets whose deviations correlate by rho has
    B(S-1) / (1 + (B-1) rho^2) degrees of freedom (the covariance of two variances of normal scores is
    2 rho^2 / (S-1) of their squares); what the profile of R rows lacks in precision is added, so that a row
    that is alone has the S-1 of each budget.

    With ``few`` seeds, and for a row whose seeds are all equal, a level is at least what the levels of all
    rows make likely (:func:`squeeze`), and a variance at least its share from problem to problem, ``noise``
    [row, budget].
    """
    rows, seeds, budgets = scores.shape
    deviations = scores - scores.mean(1, keepdims=True)
    known = ~np.isnan(deviations).any(1)
    if seeds == 1 or not known.any():
        unknown = np.full((rows, budgets), np.nan)
        return Spread(unknown, unknown, CORRELATION)
    deviations = np.where(known[:, None], deviations, 0.0)
    found = (deviations**2).sum(1) / (seeds - 1)
    level, profile = _levels(found, known)
    count = known.sum(1)
    moved = level > 0

    scale = np.sqrt(np.outer(level, profile))[:, None]
    z = np.divide(deviations, scale, out=np.zeros_like(deviations), where=scale > 0)
    together = ((z.sum(2) ** 2).sum(1) - (z**2).sum((1, 2)))[moved].sum() / (seeds - 1)
    pairs = (count * (count - 1))[moved].sum()
    weight = moved.sum() * (seeds - 1) if pairs else 0
    rho = (weight * together / max(1, pairs) + PRIOR * CORRELATION) / (weight + PRIOR)
    rho = float(np.clip(rho, 0, 1))

    count = np.maximum(1, count)
    df = count * (seeds - 1) / (1 + (count - 1) * rho**2)
    likely, df_likely = squeeze(level, df)
    raised = (likely > level) if few else ~moved
    level, df = np.where(raised, likely, level), np.where(raised, df_likely, df)
    variance = np.outer(level, profile)
    variance = np.maximum(variance, noise) if few else np.where(variance > 0, variance, noise)
    of_profile = (count - 1) * (1 - rho**2) / (count * max(1, moved.sum()) * (seeds - 1))
    df = 1 / (1 / df + of_profile)
    return Spread(np.where(known, variance, np.nan), np.where(known, df[:, None], np.nan), rho)


def _levels(found: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A level for each row and a profile over budgets, of mean 1, whose products fit the variances ``found``
    [row, budget] where they are ``known``."""
    profile = np.ones(found.shape[1])
    for _ in range(ROUNDS):
        level = _ratio(found, profile[None], known, 1)
        profile = _ratio(found, level[:, None], known, 0)
        profile /= profile.mean() or 1.0
    return level, profile


def _ratio(found: np.ndarray, by: np.ndarray, known: np.ndarray, axis: int) -> np.ndarray:
    """The mean of ``found / by`` along an axis, over what is known and where ``by`` is not zero."""
    used = known & (by > 0)
    ratio = np.divide(found, by, out=np.zeros_like(found), where=used)
    return np.asarray(ratio.sum(axis) / np.maximum(1, used.sum(axis)))


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
    if excess <= 0:
        return np.full_like(level, np.exp(log.mean())), np.full_like(df, most)
    prior = 2 * brentq(lambda x: polygamma(1, x) - excess, 1e-6, 1e9)
    scale = np.exp(log.mean() + psi(prior / 2) - np.log(prior / 2))
    return (prior * scale + df * level) / (prior + df), np.minimum(prior + df, most)
