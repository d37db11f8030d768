"""What a curve of scores over budgets says beyond its points: pure functions of arrays.

A curve is the scores of a row at a study's budgets, the last axis of every array here; the axes before it
are draws and rows. Functions of a curve are applied to the measured one and to each of its draws alike, and
the interval is that of the draws. Between two budgets a score runs straight over the logarithm of FLOPs.
What each number means, with formulas and sources, is in docs/statistics.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from repro.reporting.statistics import LEVEL

_ROUNDING = 1e-12  # of a loss: a step that costs no more leads to the same digits on every machine
TOLERANCE = 1e-9  # scores are counts, so exact ties are common: rounding is not to break them
FEWEST_BUDGETS = 5  # that a sigmoid of three parameters is fitted to
STEEPEST = 10.0  # exponent searched; a score then goes from a tenth to nine tenths of its rise within x 1.55
_SHALLOWEST = 0.1
_STEPS = 50
BEYOND = 10.0  # how far below the lowest and above the highest budget a midpoint is searched


@dataclass(frozen=True)
class Bounds:
    """Numbers of which some are known only to within bounds: ``low`` = ``high`` where the number is known,
    0 or infinity where nothing bounds it on that side. Arrays of one shape."""

    low: np.ndarray
    high: np.ndarray


def flops_to(scores: np.ndarray, budgets: np.ndarray, target: np.ndarray | float) -> Bounds:
    """FLOPs at which curves first reach a score.

    ``scores`` is [..., budget], ``budgets`` [budget] FLOPs in ascending order, ``target`` [...] or a number.
    At or above the target at the lowest budget, all that is known is (0, lowest]; never there, (top, inf).
    """
    reached = scores >= np.asarray(target)[..., None] - TOLERANCE
    at, ever = reached.argmax(-1), reached.any(-1)
    before = np.maximum(at - 1, 0)
    start, end = (np.take_along_axis(scores, i[..., None], -1)[..., 0] for i in (before, at))
    part = np.divide(target - start, end - start, out=np.ones_like(end), where=end > start)
    found = budgets[before] * (budgets[at] / budgets[before]) ** part
    found = np.clip(found, budgets[before], budgets[at])  # rounding could leave them
    low = np.where(ever, np.where(at == 0, 0.0, found), budgets[-1])
    high = np.where(ever, np.where(at == 0, budgets[0], found), np.inf)
    return Bounds(low, high)


def common_score(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[...] The score at which two rows are compared: the lower of the two at the top budget, which both
    reach. ``a`` and ``b`` are [..., budget]."""
    return np.asarray(np.minimum(a[..., -1], b[..., -1]))


def flop_ratio(a: np.ndarray, b: np.ndarray, budgets: np.ndarray) -> Bounds:
    """[...] FLOPs that ``a`` needs to reach their common score, as a multiple of those ``b`` needs.

    Both are [..., budget]. Where one has it at the lowest budget already, only a bound is known.
    """
    target = common_score(a, b)
    ours, theirs = flops_to(a, budgets, target), flops_to(b, budgets, target)
    with np.errstate(divide="ignore"):
        return Bounds(ours.low / theirs.high, ours.high / theirs.low)


def area(scores: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """[...] Mean score over the logarithm of FLOPs from the lowest to the top budget, by trapezoids.
    ``scores`` is [..., budget], of two budgets or more."""
    x = np.log(budgets)
    return np.asarray(np.trapezoid(scores, x) / (x[-1] - x[0]))


def score_at(scores: np.ndarray, flops: np.ndarray, at: float) -> np.ndarray:
    """[...] Score at so many FLOPs, between two of ``flops`` [budget], ascending. ``scores`` is
    [..., budget].

    Raises ValueError where ``at`` lies outside ``flops``: nothing is extrapolated.
    """
    if not flops[0] <= at <= flops[-1]:
        raise ValueError(f"{at} is outside {flops[0]} to {flops[-1]}")
    right = max(1, int(np.searchsorted(flops, at)))
    part = np.log(at / flops[right - 1]) / np.log(flops[right] / flops[right - 1])
    return np.asarray((1 - part) * scores[..., right - 1] + part * scores[..., right])


def places(scores: np.ndarray) -> np.ndarray:
    """[..., row] 1 + the number of rows with a higher score. ``scores`` is [..., row]."""
    higher = scores[..., None, :] > scores[..., :, None] + TOLERANCE
    return np.asarray(1 + higher.sum(-1))


def probability_of_improvement(
    a: np.ndarray, b: np.ndarray, problems: np.ndarray, seeds_a: np.ndarray, seeds_b: np.ndarray
) -> np.ndarray:
    """[draw] P(a > b): how likely a training of ``a`` does better than one of ``b`` on a problem, ties as a
    half (Agarwal et al. 2021, arXiv:2108.13264, with problems as tasks).

    ``a`` and ``b`` are [seed, problem] shares of correct samples. The others are weights that sum to 1 in
    each draw: of ``problems`` [draw, problem], and of the seeds of each row [draw, seed].
    """
    wins = (np.sign(np.round(a[:, None] - b[None], 9)) + 1) / 2  # [seed of a, seed of b, problem]
    each = (problems @ wins.reshape(-1, wins.shape[-1]).T).reshape(-1, len(a), len(b))
    return np.asarray(np.einsum("dab,da,db->d", each, seeds_a, seeds_b))


def seed_weights(seeds: int, draws: int, row: int) -> np.ndarray:
    """[draw, seed] Weights of the training seeds of a row in a bootstrap, the same every time: of S seeds
    S - 1 are drawn, so that the variance of their mean is not understated by (S - 1) / S (Rao and Wu 1988,
    doi:10.1080/01621459.1988.10478591). One has weight 1: its spread is unknown."""
    if seeds == 1:
        return np.ones((draws, 1))
    rng = np.random.default_rng([2, row])
    return rng.multinomial(seeds - 1, np.full(seeds, 1 / seeds), size=draws) / (seeds - 1)


def score_distribution(scores: np.ndarray, above: np.ndarray) -> np.ndarray:
    """[..., threshold] Share of ``scores`` [..., cell] greater than each of ``above`` [threshold]: a
    performance profile (Agarwal et al. 2021, arXiv:2108.13264, section 4.2)."""
    return np.asarray((scores[..., None, :] > above[:, None] + TOLERANCE).mean(-1))


def percentile_interval(low: np.ndarray, high: np.ndarray) -> tuple[float, float]:
    """Interval of draws [draw] that lie between ``low`` and ``high``, the same array where they are known."""
    tail = (1 - LEVEL) / 2
    # An order statistic each: infinities have no mean.
    ends = np.quantile(low, tail, method="lower"), np.quantile(high, 1 - tail, method="higher")
    return float(ends[0]), float(ends[1])


# ------------------------------------------------------------------------------------------ the sigmoid


@dataclass(frozen=True)
class Sigmoid:
    """Curves score = base + (asymptote - base) / (1 + (midpoint / FLOPs)^exponent), arrays [fit]. Where not
    ``bounded``, the best curve is level, or its asymptote or midpoint is at the end of what was searched."""

    asymptote: np.ndarray
    exponent: np.ndarray
    midpoint: np.ndarray  # FLOPs at which half of the rise is done
    bounded: np.ndarray


def sigmoid(
    flops: np.ndarray | float, base: np.ndarray | float, asymptote: np.ndarray | float,
    exponent: np.ndarray | float, midpoint: np.ndarray | float,
) -> np.ndarray:  # fmt: skip
    """Score after so many FLOPs (Khatri et al. 2025, arXiv:2510.13786, equation 1)."""
    return np.asarray(base + (asymptote - base) / (1 + (midpoint / np.asarray(flops)) ** exponent))


def fit_sigmoid(scores: np.ndarray, base: np.ndarray, budgets: np.ndarray) -> Sigmoid:
    """Least squares of :func:`sigmoid` to curves ``scores`` [fit, budget] over ``base`` [fit], the score of
    the base model; the asymptote is held between that and 1.

    The best point of a grid is the start of Levenberg-Marquardt steps, which all fits take at once: there are
    hundreds of draws of every row.
    """
    x = np.log(budgets)
    rise = scores - base[:, None]
    # Of log midpoint, log exponent and the rise to the asymptote, [3] and [fit, 3].
    low = np.array([x[0] - np.log(BEYOND), np.log(_SHALLOWEST), 0.0])
    high = np.array([x[-1] + np.log(BEYOND), np.log(STEEPEST), 1.0])
    most = np.column_stack([np.broadcast_to(high[:2], (len(rise), 2)), 1 - base])

    axes = np.linspace(low[:2], high[:2], 31).T
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    shape = _shape(grid, x)[0]
    along, square = rise @ shape.T, (shape**2).sum(-1)
    height = np.clip(along / square, low[2], most[:, 2:])  # the best, given the other two
    at = (height**2 * square - 2 * height * along).argmin(1)
    best = np.column_stack([grid[at], height[np.arange(len(rise)), at]])

    def residuals(found: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape, slopes = _shape(found[:, :2], x)
        rest = found[:, 2:] * shape - rise
        return rest, np.concatenate([found[:, 2:, None] * slopes, shape[..., None]], -1), (rest**2).sum(-1)

    damping = np.full(len(rise), 1e-3)
    rest, jacobian, loss = residuals(best)
    for _ in range(_STEPS):
        normal = np.einsum("fbi,fbj->fij", jacobian, jacobian)
        normal += np.eye(3) * (damping[:, None] * np.einsum("fii->fi", normal) + 1e-15)[:, None]
        step = np.linalg.solve(normal, -np.einsum("fbi,fb->fi", jacobian, rest)[..., None])[..., 0]
        tried = np.clip(best + step, low, most)
        better = residuals(tried)[2] < loss * (1 + _ROUNDING)
        best = np.where(better[:, None], tried, best)
        rest, jacobian, loss = residuals(best)
        damping = np.clip(np.where(better, damping / 3, damping * 4), 1e-9, 1e9)
    inside = np.all(((best > low + TOLERANCE) & (best < most - TOLERANCE))[:, [0, 2]], axis=1)
    return Sigmoid(base + best[:, 2], np.exp(best[:, 1]), np.exp(best[:, 0]), inside)


def _shape(parameters: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([fit, budget], [fit, budget, 2]) Share of the rise at each log budget, and how it changes with the log
    midpoint and the log exponent of ``parameters`` [fit, 2]."""
    exponent, apart = np.exp(parameters[:, 1, None]), x - parameters[:, 0, None]
    share = expit(exponent * apart)
    slope = exponent * share * (1 - share)
    return share, np.stack([-slope, slope * apart], axis=-1)
