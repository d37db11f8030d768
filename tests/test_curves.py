"""Numbers of whole curves, by hand and by their properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.reporting.curves import (
    Bounds,
    area,
    common_score,
    fit_sigmoid,
    flop_ratio,
    flops_to,
    percentile_interval,
    places,
    probability_of_improvement,
    score_at,
    score_distribution,
    seed_weights,
    sigmoid,
)

BUDGETS = np.array([1.0, 4.0, 16.0])
# Counts out of 400, as scores are: differences are nought or at least 1/400.
SCORE = st.integers(0, 400).map(lambda n: n / 400)
CURVE = st.lists(SCORE, min_size=3, max_size=3).map(np.array)


def known(bounds: Bounds) -> float:
    assert bounds.low == bounds.high
    return float(bounds.low)


# ------------------------------------------------------------------------------------ FLOPs to a score


@pytest.mark.parametrize(
    ("scores", "target", "low", "high"),
    [
        ([0.2, 0.4, 0.6], 0.3, 2, 2),  # half of the way from 1 to 4 in logarithms
        ([0.2, 0.4, 0.6], 0.4, 4, 4),
        ([0.2, 0.4, 0.6], 0.55, 4 * 4**0.75, 4 * 4**0.75),
        ([0.2, 0.4, 0.6], 0.6, 16, 16),
        ([0.2, 0.4, 0.6], 0.2, 0, 1),  # at the lowest budget: less may do
        ([0.2, 0.4, 0.6], 0.7, 16, np.inf),
        ([0.2, 0.6, 0.4], 0.5, 1 * 4**0.75, 1 * 4**0.75),  # the first time counts
        ([0.1 + 0.2, 0.5, 0.6], 0.3, 0, 1),  # 0.30000000000000004, and the other way about:
        ([0.3, 0.5, 0.6], 0.1 + 0.2, 0, 1),
    ],
)
def test_flops_to_a_score_by_hand(scores: list[float], target: float, low: float, high: float) -> None:
    found = flops_to(np.array(scores), BUDGETS, target)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_flops_to_takes_draws_with_a_target_each() -> None:
    draws = np.array([[0.2, 0.4, 0.6], [0.2, 0.4, 0.4]])
    found = flops_to(draws, BUDGETS, np.array([0.3, 0.5]))
    assert found.low == pytest.approx([2, 16]) and found.high == pytest.approx([2, np.inf])


@given(CURVE.map(np.sort), SCORE)
def test_flops_to_a_score_lie_between_the_budgets_that_bracket_it(scores: np.ndarray, target: float) -> None:
    found = flops_to(scores, BUDGETS, target)
    at = int(np.searchsorted(scores, target))  # the first at or above
    edges = [0.0, *BUDGETS, np.inf]
    assert edges[at] <= found.low <= found.high <= edges[at + 1]
    assert (found.low == found.high) == (0 < at < 3)
    more = flops_to(scores, BUDGETS, target + 0.1)
    assert more.low >= found.low and more.high >= found.high


# ------------------------------------------------------------------------------------ ratios at a score


def test_the_flop_ratio_by_hand() -> None:
    """a ends at .6, b at .4, which a reached at 4: it needs a quarter of 16. Where a has it at the lowest
    budget, at most a sixteenth is known; where both have, nothing."""
    a, b = np.array([0.2, 0.4, 0.6]), np.array([0.1, 0.2, 0.4])
    assert common_score(a, b) == 0.4
    assert known(flop_ratio(a, b, BUDGETS)) == pytest.approx(1 / 4)
    at_once = flop_ratio(np.array([0.5, 0.5, 0.6]), b, BUDGETS)
    assert (at_once.low, at_once.high) == (0, pytest.approx(1 / 16))
    nothing = flop_ratio(np.array([0.5, 0.5, 0.6]), np.array([0.4, 0.3, 0.4]), BUDGETS)
    assert (nothing.low, nothing.high) == (0, np.inf)


@given(CURVE, CURVE)
def test_the_flop_ratio_turned_round_is_its_inverse(a: np.ndarray, b: np.ndarray) -> None:
    one, other = flop_ratio(a, b, BUDGETS), flop_ratio(b, a, BUDGETS)
    with np.errstate(divide="ignore"):
        assert one.low == pytest.approx(1 / other.high) and one.high == pytest.approx(1 / other.low)
    assert one.low <= one.high


@given(CURVE.map(np.sort), CURVE.map(np.sort))
def test_the_lower_row_needs_no_fewer_flops(a: np.ndarray, b: np.ndarray) -> None:
    ratio = flop_ratio(np.maximum(a, b), np.minimum(a, b), BUDGETS)
    assert ratio.low <= 1 + 1e-9


# --------------------------------------------------------------------------------- area, interpolation


def test_the_area_by_hand() -> None:
    """Budgets a factor apart weigh 1/4, 1/2, 1/4; where the second step is twice the first, 1/6, 1/2, 1/3."""
    assert area(np.array([0.2, 0.4, 0.8]), BUDGETS) == pytest.approx(0.25 * 0.2 + 0.5 * 0.4 + 0.25 * 0.8)
    uneven = area(np.array([[0.6, 0, 0], [0, 0.6, 0], [0, 0, 0.6]]), np.array([1.0, 10.0, 1000.0]))
    assert uneven == pytest.approx([0.1, 0.3, 0.2])


@given(CURVE)
def test_the_area_is_a_mean(scores: np.ndarray) -> None:
    assert scores.min() - 1e-12 <= area(scores, BUDGETS) <= scores.max() + 1e-12


def test_a_score_between_budgets() -> None:
    curves = np.array([[0.2, 0.4, 0.8], [0.0, 0.0, 0.4]])
    assert score_at(curves, BUDGETS, 8.0) == pytest.approx([0.6, 0.2])
    assert score_at(curves, BUDGETS, 1.0) == pytest.approx([0.2, 0.0])
    assert score_at(curves, BUDGETS, 16.0) == pytest.approx([0.8, 0.4])
    for outside in (0.99, 16.01):
        with pytest.raises(ValueError, match="outside"):
            score_at(curves, BUDGETS, outside)


def test_places_share_ties() -> None:
    assert places(np.array([0.3, 0.5, 0.1 + 0.2, 0.1])).tolist() == [2, 1, 2, 4]


# ------------------------------------------------------------------------- probability of improvement

EVEN = np.array([[0.5, 0.5]])
FIRST, SECOND = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])


def test_the_probability_of_improvement_by_hand() -> None:
    """Problem 1: of a's .5 and 1 against b's .5 and 0, half + 1 + 1 + 1 = 3.5 of 4. Problem 2: all equal, 2
    of 4. Even weights give 5.5 / 8; the first problem alone 3.5 / 4, and a's second seed on it 1; a's first
    against b's first is a tie."""
    a, b = np.array([[0.5, 1.0], [1.0, 1.0]]), np.array([[0.5, 1.0], [0.0, 1.0]])
    assert probability_of_improvement(a, b, EVEN, EVEN, EVEN) == pytest.approx([5.5 / 8])
    assert probability_of_improvement(a, b, FIRST, EVEN, EVEN) == pytest.approx([3.5 / 4])
    assert probability_of_improvement(a, b, FIRST, SECOND, EVEN) == pytest.approx([1.0])
    assert probability_of_improvement(a, b, FIRST, FIRST, FIRST) == pytest.approx([0.5])


@given(st.lists(st.integers(0, 4), min_size=20, max_size=20), st.integers(0, 99))
def test_the_probability_of_improvement_turned_round_is_the_rest(counts: list[int], seed: int) -> None:
    a, b = np.array(counts).reshape(2, 2, 5) / 4
    rng = np.random.default_rng(seed)
    problems, ours, theirs = (rng.dirichlet(np.ones(n), 3) for n in (5, 2, 2))
    one = probability_of_improvement(a, b, problems, ours, theirs)
    other = probability_of_improvement(b, a, problems, theirs, ours)
    assert one + other == pytest.approx(1)
    assert ((one >= -1e-12) & (one <= 1 + 1e-12)).all()


def test_seed_weights_have_the_variance_of_a_mean_of_seeds() -> None:
    """Of three scores .1, .2 and .6 the variance is .07, that of their mean .07 / 3."""
    drawn = seed_weights(3, 40_000, 0)
    assert drawn.sum(1) == pytest.approx(1)
    assert (drawn @ [0.1, 0.2, 0.6]).var() == pytest.approx(0.07 / 3, rel=0.03)
    assert (drawn == seed_weights(3, 40_000, 0)).all() and (drawn != seed_weights(3, 40_000, 1)).any()
    assert seed_weights(1, 2, 0).tolist() == [[1.0], [1.0]]


def test_a_score_distribution_by_hand() -> None:
    found = score_distribution(np.array([0.2, 0.4, 0.4, 0.9]), np.array([0.0, 0.2, 0.4, 0.95]))
    assert found == pytest.approx([1, 0.75, 0.25, 0])


# ------------------------------------------------------------------------------------------ intervals


def test_an_interval_is_of_the_draws_and_as_wide_as_their_bounds() -> None:
    draws = np.arange(1, 1002.0)
    assert percentile_interval(draws, draws) == (26, 976)
    few, many = draws.copy(), draws.copy()
    few[-20:], many[-30:] = np.inf, np.inf
    assert percentile_interval(draws, few) == (26, 976) and percentile_interval(draws, many) == (26, np.inf)
    assert percentile_interval(np.where(draws < 50, 0, draws), draws) == (0, 976)


# ---------------------------------------------------------------------------------------- the sigmoid

WIDE = np.array([1.0, 2.0, 4.0, 8.0, 16.0])


def test_a_sigmoid_by_hand() -> None:
    """Half of the rise is done at the midpoint; with an exponent of 2, three midpoints make it .9."""
    assert sigmoid(4.0, 0.2, 0.6, 2.0, 4.0) == pytest.approx(0.4)
    assert sigmoid(12.0, 0.2, 0.6, 2.0, 4.0) == pytest.approx(0.2 + 0.4 * 0.9)


@pytest.mark.parametrize(
    ("asymptote", "exponent", "midpoint"), [(0.6, 1.5, 3.0), (0.9, 0.8, 9.0), (0.3, 4, 2)]
)
def test_a_fit_finds_the_sigmoid_that_made_the_scores(
    asymptote: float, exponent: float, midpoint: float
) -> None:
    scores = sigmoid(WIDE, 0.2, asymptote, exponent, midpoint)[None]
    found = fit_sigmoid(scores, np.array([0.2]), WIDE)
    assert found.bounded.all()
    assert found.asymptote == pytest.approx(asymptote, abs=1e-3)
    assert found.exponent == pytest.approx(exponent, rel=5e-3)
    assert found.midpoint == pytest.approx(midpoint, rel=5e-3)


def test_a_fit_is_least_squares() -> None:
    """As good as scipy's best of many starts, on curves with noise."""
    from scipy.optimize import least_squares

    rng = np.random.default_rng(5)
    clean = sigmoid(WIDE, 0.2, 0.7, 1.5, 4.0)
    scores = clean + rng.normal(0, 0.02, (6, 5))
    found = fit_sigmoid(scores, np.full(6, 0.2), WIDE)
    for i, curve in enumerate(scores):
        ours = sigmoid(WIDE, 0.2, found.asymptote[i], found.exponent[i], found.midpoint[i]) - curve
        best = min(
            least_squares(
                lambda p, curve=curve: sigmoid(WIDE, 0.2, p[0], np.exp(p[1]), np.exp(p[2])) - curve,
                start, bounds=([0.2, np.log(0.1), np.log(0.1)], [1.0, np.log(10), np.log(160)]),
            ).cost
            for start in ((0.5, 0.0, 1.0), (0.9, 1.0, 1.5), (0.7, 0.4, 0.5))
        )  # fmt: skip
        assert (ours**2).sum() / 2 <= best * 1.001 + 1e-9


@pytest.mark.parametrize(
    "scores",
    [
        [0.2, 0.2, 0.2, 0.2, 0.2],  # level
        [0.2, 0.19, 0.18, 0.15, 0.1],  # falls
        [0.21, 0.22, 0.24, 0.28, 0.36],  # doubles its gain with every budget: no end in sight
    ],
)
def test_a_fit_without_an_asymptote_says_so(scores: list[float]) -> None:
    assert not fit_sigmoid(np.array([scores]), np.array([0.2]), WIDE).bounded.any()
