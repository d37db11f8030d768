"""Whether intervals hold the truth and tests keep their level, in simulated studies, through ``Analysis``.

Margins are those of the simulations: with 300 studies the standard error of the coverage of one row, and of
the error rate of a family, is 1.3 points."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr
from synthetic import study_of

from repro.records import Role
from repro.reporting.analysis import Analysis, Difference, Estimate
from repro.reporting.results import Study
from repro.reporting.statistics import holm

SDS = {  # of training, in points: the rows of a study
    "equal": (1, 1, 1, 1, 1, 1),
    "one noisy": (5, 1, 1, 1, 1, 1),
    "profile": (6, 2.7, 2.3, 2, 1.5, 1, 0.7, 0.5, 0.3),
}
GROWING = np.array([0.4, 0.6, 0.9, 1.3, 1.8])  # spread over budgets
BUDGETS, PROBLEMS, K, RHO = 5, 100, 4, 0.7


def simulated(
    rng: np.random.Generator, sds: str, seeds: int, *, tiers: int = 1, profile: np.ndarray | None = None
) -> Study:
    """Rows that all have a true score of .5 at every budget. Problems differ; rows and seeds are better at
    some problems than at others; a seed's training is good or bad luck, which correlates over budgets."""
    of_row = np.array(SDS[sds])[:, None, None] / 100
    rows, tier_of = len(of_row), np.repeat(np.arange(tiers), PROBLEMS // tiers)
    hard = np.linspace(-0.15, 0.15, tiers)[tier_of] * (tiers > 1) + rng.uniform(-0.2, 0.2, PROBLEMS)
    luck = np.sqrt(RHO) * rng.standard_normal((rows, seeds, 1))
    luck = luck + np.sqrt(1 - RHO) * rng.standard_normal((rows, seeds, BUDGETS))
    luck *= of_row * (1 if profile is None else profile)
    solve = 0.5 + hard + luck[..., None] + 0.05 * rng.choice([-1, 1], (rows, 1, 1, PROBLEMS))
    solve = solve + 0.05 * rng.choice([-1, 1], (rows, seeds, 1, PROBLEMS))
    return study_of(rng.binomial(K, np.clip(solve, 0, 1)) / K, k=K, tier_of=tier_of)


def covered(analysis: Analysis, budget: int) -> list[bool]:
    found = [analysis.accuracy(row.method, budget) for row in analysis.study.rows]
    return [isinstance(score, Estimate) and score.low <= 0.5 <= score.high for score in found]


def scores_cover(sds: str, seeds: int, studies: int, **how: Any) -> np.ndarray:
    """[lowest or top budget, row] Coverage of the truth."""
    rng, found = np.random.default_rng(1), []
    for _ in range(studies):
        analysis = Analysis(simulated(rng, sds, seeds, **how))
        found.append([covered(analysis, analysis.study.budgets[at]) for at in (0, -1)])
    return np.mean(found, axis=0)


def rates(sds: str, seeds: int, studies: int) -> tuple[float, float, float]:
    """Type I error of a pair, coverage of its interval, and how often Holm finds any pair of all."""
    rng, wrong, inside, families = np.random.default_rng(2), [], [], []
    for _ in range(studies):
        analysis = Analysis(simulated(rng, sds, seeds))
        names = [row.method for row in analysis.study.rows]
        found = [
            analysis.difference(a, b, analysis.study.top) for i, a in enumerate(names) for b in names[:i]
        ]
        pairs = [d for d in found if isinstance(d, Difference)]
        wrong.append(np.mean([d.p <= 0.05 for d in pairs]))
        inside.append(np.mean([d.low <= 0 <= d.high for d in pairs]))
        families.append(min(holm([d.p for d in pairs])) <= 0.05)
    return float(np.mean(wrong)), float(np.mean(inside)), float(np.mean(families))


# ---------------------------------------------------------------------------------- rows that spread


@pytest.mark.parametrize("seeds", [3, 5])
def test_a_noisy_row_and_its_quiet_neighbours_are_covered(seeds: int) -> None:
    _, top = scores_cover("one noisy", seeds, 150)
    assert top[0] >= 0.9 and top[1:].mean() >= 0.935


def test_two_equal_rows_are_seldom_told_apart() -> None:
    wrong, inside, family = rates("one noisy", 5, 60)
    assert wrong <= 0.075 and inside >= 0.92 and family <= 0.12


@pytest.mark.promise("A fair comparison", "Intervals cover the truth and tests err as often as they say.")
@pytest.mark.slow
@pytest.mark.parametrize("sds", SDS)
@pytest.mark.parametrize(
    ("seeds", "least", "most"), [(2, 0.9, 1), (3, 0.9, 1), (5, 0.93, 0.97), (8, 0.93, 0.97)]
)
def test_every_row_is_covered(sds: str, seeds: int, least: float, most: float) -> None:
    """With fewer than five seeds quiet rows are covered more often: their variance is drawn up to what the
    other rows make likely."""
    for coverage in scores_cover(sds, seeds, 300):
        assert (coverage >= least - 0.03).all() and (coverage <= most + 0.03).all()
        assert least <= coverage.mean() <= most


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"tiers": 4}, {"profile": GROWING}, {"tiers": 4, "profile": GROWING[::-1]}])
def test_tiers_and_budgets_of_unlike_spread(how: dict[str, Any]) -> None:
    """The lowest budget has a fifth of the spread of the top, or the reverse."""
    for coverage in scores_cover("profile", 5, 300, **how):
        assert (coverage >= 0.9).all() and 0.93 <= coverage.mean() <= 0.97


@pytest.mark.promise("A fair comparison", "Intervals cover the truth and tests err as often as they say.")
@pytest.mark.slow
@pytest.mark.parametrize("sds", SDS)
def test_tests_keep_their_level(sds: str) -> None:
    wrong, inside, family = rates(sds, 5, 250)
    assert wrong <= 0.06 and inside >= 0.935 and family <= 0.06 + 0.03


# --------------------------------------------------------------------------- few problems, the ends


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 16])
@pytest.mark.parametrize("alike", [True, False])
def test_thirty_problems_cover_scores_up_to_the_ends(k: int, alike: bool) -> None:
    """One seed; problems are equally hard, or most of them nearly hopeless or nearly sure."""
    rng = np.random.default_rng(4)
    for truth in (0, 0.01, 0.05, 0.3, 0.5, 0.95, 1):
        shape = (250, 1, 1, 30)  # each row is a study of its own
        p = np.full(shape, truth)
        if not alike and 0 < truth < 1:
            p = rng.beta(0.7 * truth, 0.7 * (1 - truth), shape)
        analysis = Analysis(study_of(rng.binomial(k, p) / k, k=k))
        found = [analysis.accuracy(row.method, analysis.study.top) for row in analysis.study.rows]
        assert np.mean([isinstance(e, Estimate) and e.low <= truth <= e.high for e in found]) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 16])
@pytest.mark.parametrize(("p", "q"), [(1, 1), (1, 0.95), (0.95, 0.95), (0.5, 0.3), (0.05, 0.01), (0.05, 0)])
def test_thirty_problems_cover_differences_up_to_the_ends(k: int, p: float, q: float) -> None:
    rng, inside = np.random.default_rng(5), []
    for _ in range(200):
        hard = ndtr(rng.standard_normal(30))  # the same for both rows: Beta is monotonous in it
        solve = [np.where(hard < of, 1, 0) * 0.9 + 0.1 * of for of in (p, q)]
        analysis = Analysis(study_of(rng.binomial(k, np.array(solve)[:, None, None]) / k, k=k))
        found = analysis.difference("0", "1", analysis.study.top)
        assert isinstance(found, Difference)
        inside.append(found.low - 1e-9 <= p - q <= found.high + 1e-9)
    assert np.mean(inside) >= 0.93


# -------------------------------------------------------------------------------------------- curves


def test_curves_have_the_uncertainty_of_scores_and_share_their_problems() -> None:
    analysis = Analysis(simulated(np.random.default_rng(6), "one noisy", 5, tiers=4))
    names = [row.method for row in analysis.study.rows]
    draws = analysis.curves(names)
    assert draws.shape == (4000, 6, BUDGETS)
    for row, name in enumerate(names):
        for at, budget in enumerate(analysis.study.budgets):
            score = analysis.accuracy(name, budget)
            assert isinstance(score, Estimate)
            ends = np.quantile(draws[:, row, at], [0.025, 0.975])
            width = score.high - score.low
            assert draws[:, row, at].mean() == pytest.approx(score.mean, abs=0.005)
            assert ends == pytest.approx([score.low, score.high], abs=0.1 * width)
    # Quiet rows share most of their uncertainty, the problems; budgets of a row more.
    assert np.corrcoef(draws[:, 1, -1], draws[:, 2, -1])[0, 1] > 0.2
    assert np.corrcoef(draws[:, 0, 0], draws[:, 0, -1])[0, 1] > 0.5
    ratios = []
    for one, other in combinations(range(1, 6), 2):
        pair = analysis.difference(names[one], names[other], analysis.study.top)
        assert isinstance(pair, Difference)
        ends = np.quantile(draws[:, one, -1] - draws[:, other, -1], [0.025, 0.975])
        ratios.append(np.ptp(ends) / (pair.high - pair.low))
    assert np.mean(ratios) == pytest.approx(1, abs=0.07)
    assert (analysis.curves(names) == draws).all()


def test_the_base_is_drawn_with_its_problems_only_and_an_incomplete_row_not_at_all() -> None:
    scores = np.random.default_rng(7).binomial(K, 0.5, (3, 5, 2, 40)) / K
    scores[0] = scores[0, :1, :1]
    scores[2, 1, 1] = np.nan
    analysis = Analysis(study_of(scores, k=K, roles={0: Role.BASE}))
    draws = analysis.curves(["0", "1", "2"])
    assert draws[:, 0, 0] == pytest.approx(draws[:, 0, 1]) and draws[:, 0, 0].std() > 0
    assert np.isnan(draws[:, 2, 1]).all() and not np.isnan(draws[:, 2, 0]).any()
