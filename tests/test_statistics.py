"""Statistics by hand and on records made here: spread, tests, pairing, Holm, ranks, X rows. Whether intervals
cover is in test_coverage.py."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import stdtr
from scipy.stats import beta
from scipy.stats import t as student
from synthetic import BUDGETS, ONE_TIER, ROWS, Made, facts_of, run_line, seal, solved, write, write_records

from repro.method import Role
from repro.planning.power import detectable
from repro.reporting.analysis import Analysis, Difference, Estimate
from repro.reporting.results import X, load, majority_correct
from repro.reporting.spread import homogeneity, seed_spread, squeeze
from repro.reporting.statistics import (
    bootstrap,
    half_problems,
    holm,
    macro_mean,
    pass_at_k,
    problem_variance,
    rank_intervals,
    sample_covariance,
    satterthwaite,
    score_interval,
    shares,
    sign_flip_p,
    smallest_detectable,
    within_tiers,
    without_samples,
)


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("made") / "records", ROWS)


@pytest.fixture(scope="session")
def analysis(records: Path) -> Analysis:
    return Analysis(load(records))


# --------------------------------------------------------------------------------- building blocks


def test_macro_mean_weighs_tiers_equally() -> None:
    assert macro_mean(np.array([1.0, 1.0, 1.0, 0.0]), np.array([0, 0, 0, 1])) == pytest.approx(0.5)


def test_holm_worked_example() -> None:
    # .01*4 = .04; .03*3 = .09; .04*2 = .08 -> .09 (never below the one before); .2*1
    assert holm([0.04, 0.01, 0.2, 0.03]) == pytest.approx([0.09, 0.04, 0.2, 0.09])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_rank_intervals_worked_example() -> None:
    # a beats c and d, b beats d: a and b share rank 1, nobody is certain of a place alone.
    better = np.zeros((4, 4), bool)
    better[0, 2] = better[0, 3] = better[1, 3] = True
    assert rank_intervals(better) == [(1, 2), (1, 3), (2, 4), (3, 4)]


def test_pass_at_k_is_unbiased() -> None:
    assert pass_at_k(4, np.array([0, 1, 2, 4]), 1) == pytest.approx([0, 0.25, 0.5, 1])
    assert pass_at_k(4, np.array([0, 1, 2, 4]), 2) == pytest.approx([0, 1 / 2, 5 / 6, 1])  # 1 - C(4-c,2)/6
    assert pass_at_k(4, np.array([0, 1, 2, 4]), 4) == pytest.approx([0, 1, 1, 1])
    with pytest.raises(ValueError, match="pass@5"):
        pass_at_k(4, np.array([1]), 5)


def test_majority_worked_example() -> None:
    # Cells: 0: "7" twice against "5"; 1: a tie, which the lower sample number wins, here a wrong "5"; 2: the
    # right answer is outvoted; 3: no answer at all; 4: an answer was not recorded; 5: never evaluated.
    lines = [
        (0, 0, "5"), (0, 1, "7"), (0, 2, "7"), (1, 1, "7"), (1, 0, "5"), (1, 2, "7"), (1, 3, "5"),
        (2, 0, "7"), (2, 1, "5"), (2, 2, "5"), (3, 0, ""), (3, 1, ""), (4, 0, "7"), (4, 1, None),
    ]  # fmt: skip
    frame = pd.DataFrame(lines, columns=["cell", "sample", "answer"])
    for seed in range(3):  # in whatever order
        f = frame.sample(frac=1, random_state=seed)
        right = (f.answer == "7").to_numpy()
        found = majority_correct(f.cell.to_numpy(), f["sample"], f.answer.astype("category"), right, 6)
        assert found == pytest.approx([1, 0, 0, 0, np.nan, np.nan], nan_ok=True)


def test_majority_of_nothing() -> None:
    empty = pd.Series([], dtype=object)
    assert np.isnan(majority_correct(np.zeros(0, int), empty, empty, np.zeros(0, bool), 2)).all()


# ----------------------------------------------------------------------------------------------- power


def test_power_by_hand() -> None:
    # a = b = .5: E[p(1-p)] = 1/8, Var[p(1-p)] = .5*1.5*.5*1.5/24 - 1/64 = 1/128. 100 problems, k = 5 and gain
    # .05: variance = (2/8/5 + .4^2/128) / 100 = (.05 + .00125) / 100, so one standard error is .02264 and the
    # gain 2.209 of them; by the normal approximation 1 - Phi(1.984 - 2.209) = .589
    assert detectable(100, 5, gain=0.05, accuracy=0.5) == pytest.approx(0.589, abs=0.003)
    # Seed noise .2, 4 seeds: (2/8/20 + .00125) / 100 + 2 * (.2/8)^2 / 4 = .0001375 + .0003125, error .02121,
    # with .00045^2 / (.0001375^2/99 + .0003125^2/6) = 12.3 degrees of freedom
    power = detectable(100, 5, gain=0.05, accuracy=0.5, seeds=4, seed_noise=0.2)
    assert power == pytest.approx(student.sf(student(12.3).ppf(0.975) - 0.05 / 0.02121, 12.3), abs=0.02)
    assert detectable(100, 5, gain=0.0) == pytest.approx(0.025)  # no gain: one false alarm in forty
    assert detectable(100, 5, gain=0.0, comparisons=10) == pytest.approx(0.0025)
    one, five = (detectable(100, 5, gain=0.1, seeds=2, seed_noise=0.3, budgets=b) for b in (1, 5))
    assert one < 0.85 * five  # a variance of 2 degrees of freedom, and of 2 * 5 / (1 + 4 * .49) = 3.4
    few, many = (detectable(100, 5, gain=0.05, comparisons=c) for c in (990, 1))
    assert few < many / 3


@pytest.mark.parametrize(
    ("problems", "k", "power"),
    [(30, 1, 0.07), (30, 4, 0.19), (30, 16, 0.58), (30, 64, 0.99), (40, 1, 0.09), (40, 4, 0.25),
     (40, 16, 0.72), (40, 64, 1.0), (500, 1, 0.67), (500, 4, 1.0), (1319, 1, 0.97), (1319, 4, 1.0)],
)  # fmt: skip
def test_power_agrees_with_simulations_of_real_benchmarks(problems: int, k: int, power: float) -> None:
    """AIME24, AMC23, MATH-500 and GSM8K, simulated with the same assumptions and tested by Student's t over
    problems."""
    assert detectable(problems, k, gain=0.05) == pytest.approx(power, abs=0.04)


def test_power_agrees_with_a_simulation() -> None:
    """MATH-500, 2 samples, 3 seeds whose log-odds spread by .1; the difference against its spread,
    found with Satterthwaite's degrees of freedom."""
    rng = np.random.default_rng(5)
    n, k, seeds, studies = 500, 2, 3, 2000
    p = np.clip(rng.beta(0.35, 0.65, (studies, n)), 1e-9, 1 - 1e-9)
    logit = np.log(p / (1 - p))
    shift = 0.05 / (p * (1 - p)).mean()

    def score(gain: float) -> np.ndarray:
        noise = rng.normal(0, 0.1, (seeds, studies, 1))
        return rng.binomial(k, 1 / (1 + np.exp(-(logit + gain + noise)))).mean((0, 2)) / k

    difference = score(shift) - score(0.0)
    of_seeds = 2 * (0.1 * 0.35 * 0.65 / 2) ** 2 / seeds
    df = satterthwaite([(difference.var() - of_seeds, n - 1), (of_seeds, 2 * (seeds - 1))])
    error = difference.std() * np.sqrt(rng.chisquare(df, studies) / df)
    found = (difference > student(df).ppf(0.975) * error).mean()
    assert detectable(n, k, gain=0.05, seeds=seeds, seed_noise=0.1) == pytest.approx(found, abs=0.05)


# --------------------------------------------------------------------------------- spread between seeds


def _normal(rng: np.random.Generator, rows: int, seeds: int, budgets: int, rho: float) -> np.ndarray:
    """[row, seed, budget] of variance 1, which correlates by ``rho`` over budgets."""
    shared, own = rng.standard_normal((rows, seeds, 1)), rng.standard_normal((rows, seeds, budgets))
    return np.sqrt(rho) * shared + np.sqrt(1 - rho) * own


def test_a_row_has_its_own_level_and_the_profile_of_all() -> None:
    sds, profile = np.array([5, 1, 0.2])[:, None], np.array([0.5, 1, 2])
    scores = _normal(np.random.default_rng(3), 3, 4000, 3, 0.6) * (sds * profile)[:, None]
    found = seed_spread(scores, np.zeros((3, 3)), few=False)
    assert np.sqrt(found.variance) == pytest.approx(sds * profile, rel=0.05)
    assert found.correlation == pytest.approx([0.6] * 3, abs=0.03)
    scores[1, 7, 2] = np.nan  # a row that lacks a budget has its level from the others
    found = seed_spread(scores, np.zeros((3, 3)), few=False)
    assert np.isnan(found.variance[1, 2]) and np.isnan(found.df[1, 2])
    assert np.sqrt(found.variance[1, :2]) == pytest.approx([0.5, 1], rel=0.05)


def test_a_quiet_row_has_the_shape_of_its_samples_and_a_noisy_one_that_of_training() -> None:
    """Training spreads by a profile; samples add the same everywhere."""
    profile, noise = np.array([0.2, 1, 3]), np.ones((2, 3))
    rng, sds = np.random.default_rng(7), np.array([5, 0.0])[:, None]
    scores = _normal(rng, 2, 4000, 3, 0.6) * (sds * profile)[:, None] + rng.standard_normal((2, 4000, 3))
    found = seed_spread(scores, noise, few=False)
    assert found.variance == pytest.approx((sds * profile) ** 2 + 1, rel=0.1)
    # Budgets of the noisy row correlate by .6 of what is training's in them, those of the quiet one by none.
    share = np.sqrt(25 * profile**2 / (25 * profile**2 + 1))
    wanted = 0.6 * np.mean([share[0] * share[1], share[0] * share[2], share[1] * share[2]])
    assert found.correlation[0] == pytest.approx(wanted, abs=0.03)


def test_degrees_of_freedom_are_those_of_the_variance_found() -> None:
    """The variance of chi-square over df is 2/df: over many studies of 8 rows, 5 seeds and 5 budgets."""
    rng, found = np.random.default_rng(4), []
    for _ in range(400):
        spread = seed_spread(_normal(rng, 8, 5, 5, 0.7), np.zeros((8, 5)), few=False)
        found.append((spread.variance[:, -1], spread.df[:, -1]))
    variance, df = np.array(found).swapaxes(0, 1)
    assert variance.mean() == pytest.approx(1, abs=0.03)
    assert 2 / variance.var() == pytest.approx(np.median(df), rel=0.15)
    # 5 * 4 / (1 + 4 * .49) = 6.76; the profile of 8 rows: 1 / (1/6.76 + 4 * .51 / (5 * 8 * 4)) = 6.22
    assert np.median(df) == pytest.approx(6.22, rel=0.1)
    alone = seed_spread(_normal(rng, 1, 5, 3, 0.7), np.zeros((1, 3)), few=False)
    assert alone.df == pytest.approx(np.full((1, 3), 4))  # one row has no profile but its own


def test_few_seeds_draw_a_quiet_row_up_and_leave_a_noisy_one() -> None:
    scores = np.zeros((6, 3, 1))
    scores[:, 0, 0], scores[:, 1, 0] = [9, 1, 1.2, 0.8, 0, 0.01], [-9, -1, -1.2, -0.8, 0, -0.01]
    own = (scores**2).sum((1, 2)) / 2
    few = seed_spread(scores, np.full((6, 1), 0.001), few=True).variance[:, 0]
    assert few[0] == pytest.approx(own[0]) and (few >= own).all() and few[5] > 10 * own[5]
    assert (seed_spread(scores, np.full((6, 1), 50), few=True).variance == 50).any()
    many = seed_spread(scores, np.full((6, 1), 0.001), few=False)
    assert many.variance[[0, 1, 2, 3, 5], 0] == pytest.approx(own[[0, 1, 2, 3, 5]])
    assert many.variance[4, 0] > 0  # no variance is known to be nothing
    alone = seed_spread(scores[4:5], np.full((1, 1), 0.001), few=False)
    assert alone.variance[0, 0] == 0.001  # but what samples alone make


def test_squeezing_finds_the_prior_that_variances_were_drawn_from() -> None:
    rng = np.random.default_rng(5)
    level = 2.0 * 6 / rng.chisquare(6, 4000) * rng.chisquare(4, 4000) / 4  # 6 degrees of freedom, scale 2
    found, df = squeeze(level, np.full(4000, 4.0))
    assert df == pytest.approx(np.full(4000, 10), rel=0.1)
    assert found == pytest.approx((6 * 2 + 4 * level) / 10, rel=0.1)
    alike, df = squeeze(np.array([1.0, 1.1, 0.9]), np.array([4.0, 4.0, 8.0]))  # no more than chance makes
    assert alike == pytest.approx([0.975] * 3) and (df == 16).all()


def test_rows_and_profiles_that_differ_are_seen() -> None:
    rng, none = np.random.default_rng(6), np.zeros((8, 5))

    def rejected(scale: np.ndarray) -> np.ndarray:
        made = [_normal(rng, 8, 5, 5, 0.5) * scale for _ in range(25)]
        return np.mean(
            [np.array(homogeneity(y, none, seed_spread(y, none, False))) < 0.05 for y in made], axis=0
        )

    assert (rejected(np.ones((8, 1, 1))) <= 0.16).all()
    rows, profile = rejected(np.array([4, 1, 1, 1, 1, 1, 1, 0.3])[:, None, None])
    assert rows > 0.8 and profile <= 0.16
    crossed = np.ones((8, 1, 5))
    crossed[::2, 0, 0] = 12
    assert rejected(crossed)[1] > 0.8
    one = _normal(rng, 1, 5, 5, 0.5)
    assert np.isnan(homogeneity(one, none[:1], seed_spread(one, none[:1], False))).all()


# ------------------------------------------------------------------------------------ tests, by hand


def test_sign_flips_are_counted_one_by_one() -> None:
    """Six problems of two tiers: every one of the 64 sign patterns."""
    rng = np.random.default_rng(8)
    for tier_of in ([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1]):
        tiers, share = np.array(tier_of), shares(np.array(tier_of))
        for _ in range(20):
            difference = rng.integers(-4, 5, 6) / 4
            signs = np.array(list(product((-1, 1), repeat=6)))
            null, seen = signs @ (difference * share), abs(difference @ share)
            counted = (np.abs(null) >= seen - 1e-9).mean()
            assert sign_flip_p(difference, tiers, 4, 1.0, 0.0, np.inf) == pytest.approx(counted)
            noisy = 2 * stdtr(5.0, -(seen - 0.5 * null) / 0.1).mean()
            found = sign_flip_p(difference, tiers, 4, 0.25, 0.01, 5.0)
            assert found == pytest.approx(min(1.0, noisy), rel=0.02)
            assert sign_flip_p(-difference, tiers, 4, 0.25, 0.01, 5.0) == found


def test_a_p_value_has_no_floor() -> None:
    """400 problems, all better: 2 / 2^400, where Holm's correction for 990 pairs asks for .00005."""
    assert sign_flip_p(np.ones(400), np.zeros(400, int), 1, 1.0, 0.0, np.inf) == pytest.approx(2.0**-399)


def test_satterthwaite_by_hand() -> None:
    assert satterthwaite([(1.0, 4.0), (1.0, 4.0)]) == pytest.approx(8)
    assert satterthwaite([(3.0, 6.0), (1.0, 2.0)]) == pytest.approx(16 / (9 / 6 + 1 / 2))
    assert satterthwaite([]) == satterthwaite([(0.0, 3.0)]) == np.inf


def test_jeffreys_interval_of_a_proportion() -> None:
    """Of as many answers as their variance says: 3 of 30 are right, Beta(3.5, 27.5)."""
    share = 3.5 / 31
    low, high = score_interval(0.1, share * (1 - share) / 30, np.inf, 30)
    assert (low, high) == pytest.approx(beta(3.5, 27.5).ppf([0.025, 0.975]))
    low, high = score_interval(0.0, half_problems(0.0, (0, 1), 30), np.inf, 30)
    assert low == 0 and 0.05 < high < 0.12  # the rule of three says .1
    low, high = score_interval(1.0, half_problems(1.0, (0, 1), 30), np.inf, 30)
    assert high == 1 and 0.88 < low < 0.95


def test_what_is_detectable_is_found_four_times_in_five() -> None:
    rng, df, alpha = np.random.default_rng(9), 7, 0.01
    gain = smallest_detectable(4.0, df, alpha)
    t = (gain + 2 * rng.standard_normal(100_000)) / (2 * np.sqrt(rng.chisquare(df, 100_000) / df))
    assert (t > student(df).ppf(1 - alpha / 2)).mean() == pytest.approx(0.8, abs=0.01)


def test_tiers_count_alike_in_every_draw_however_many_problems_they_have() -> None:
    tier_of = np.array([0, 0, 0, 1])
    drawn = bootstrap(tier_of)
    assert (drawn[:, 3] == 0).all()  # its tier has no other problem to draw
    assert (drawn[:, :3].sum(1) == 0).all() and drawn.min() == -1
    assert shares(tier_of) == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    y = np.random.default_rng(1).random((1, 60))
    tier_of = np.repeat([0, 1], [20, 40])
    sd = (bootstrap(tier_of) @ within_tiers(y, tier_of)[0]).std()
    assert sd**2 == pytest.approx(problem_variance(y, tier_of)[0], rel=0.1)
    by_hand = [part.var(ddof=1) / part.size / 4 for part in (y[0, :20], y[0, 20:])]
    assert problem_variance(y, tier_of)[0] == pytest.approx(sum(by_hand))


def test_what_samples_add_is_taken_out_of_problems() -> None:
    rng = np.random.default_rng(10)
    hard, tier_of = rng.normal(0, 0.2, 3000), np.zeros(3000, int)
    y = hard + rng.normal(0, 0.3, (2, 6, 3000))  # two scores of the same problems, six seeds
    noise = np.diag([sample_covariance(one[None], tier_of)[0, 0] / 6 for one in y])
    assert np.diag(noise) * 3000 == pytest.approx([0.09 / 6] * 2, rel=0.1)
    within = without_samples(within_tiers(y.mean(1), tier_of), noise)
    assert within @ within.T * 3000 == pytest.approx(np.full((2, 2), 0.04), rel=0.1)


# --------------------------------------------------------------------------- worked examples, by hand


def analysed(folder: Path, solved_of: dict[str, list[list[int]]]) -> Analysis:
    """The analysis of methods at one budget, given how many of 4 samples each solves: [seed][problem]."""
    seeds = range(len(next(iter(solved_of.values()))))
    facts = facts_of(budgets=[1000], seeds=list(seeds), benchmarks=[ONE_TIER])
    runs = [
        run_line(method, seed, 1000, role="base" if method == "base" else "method")
        for method in solved_of
        for seed in seeds
    ]
    samples = [
        sample
        for method, counts in solved_of.items()
        for seed, problems in enumerate(counts)
        for sample in solved(method, seed, 1000, problems)
    ]
    return Analysis(load(write(folder, facts, runs=runs, samples=samples)))


def test_variance_between_seeds_is_that_of_their_mean(tmp_path: Path) -> None:
    """Of 400 problems, rows have 1, 2 and 3 of 4 samples right on each in seeds 0, 1 and 2. Problems do not
    differ, so all there is is the spread between seeds (and what half a problem adds): the variance of
    (.25, .5, .75) is 1/16, that of their mean 1/48, with 3 - 1 = 2 degrees of freedom. Five rows have the
    same: their common scale raises the degrees of freedom to 10, as all of them say the same."""
    rows = {name: [[n] * 400 for n in (1, 2, 3)] for name in "abcde"}
    alone = analysed(tmp_path / "one", {"a": rows["a"]}).accuracy("a", 1000)
    five = analysed(tmp_path / "five", rows)
    found = five.accuracy("a", 1000)
    assert isinstance(alone, Estimate) and isinstance(found, Estimate)
    assert found.mean == alone.mean == 0.5
    half = {df: student(df).ppf(0.975) / np.sqrt(48) for df in (2, 10)}  # .62 and .32
    assert found.high - 0.5 == pytest.approx(0.5 - found.low) == pytest.approx(half[10], rel=0.12)
    assert 0.4 < alone.high - 0.5 < 0.5  # a score has an end
    assert five.seed_sd("a", 1000) == pytest.approx(1 / 4)


@pytest.mark.promise("A fair comparison", "Differences are paired by problem.")
def test_a_difference_is_paired_by_problem(tmp_path: Path) -> None:
    """Problems are of every difficulty, but b solves one sample more than a everywhere, in the one seed:
    their difference is .25 whatever is drawn, but for half a problem either way. Of the 2^8 sign patterns of
    8 problems two are as extreme: p = 1/128."""
    a = [[0, 0, 0, 0, 1, 1, 3, 3]]
    analysis = analysed(tmp_path, {"a": a, "b": [[n + 1 for n in seed] for seed in a]})
    found = analysis.difference("b", "a", 1000)
    assert isinstance(found, Difference)
    half = student(7).ppf(0.975) * np.sqrt((1.25**2 + 0.75**2) / 2 / 72)
    assert (found.mean, found.low, found.high) == pytest.approx((0.25, 0.25 - half, 0.25 + half))
    assert found.p == pytest.approx(1 / 128)
    alone = analysis.accuracy("b", 1000)
    assert isinstance(alone, Estimate) and alone.high - alone.low > 0.4


def test_a_difference_has_the_noise_of_both_rows(tmp_path: Path) -> None:
    """Scores .25 and .5 on every problem in seeds 0 and 1, of two rows: each has a variance of 1/32 between
    seeds, and of 1/64 of its mean. The two have one variance, so each has the 2 degrees of freedom of both,
    and the difference, of variance 1/32, 4: 0 +- t(.975, 4) / sqrt(32)."""
    counts = {"a": [[1] * 400, [2] * 400], "b": [[2] * 400, [1] * 400], "base": [[2] * 400] * 2}
    analysis = analysed(tmp_path, counts)
    found = analysis.difference("a", "b", 1000)
    assert isinstance(found, Difference) and found.mean == 0
    assert found.high == pytest.approx(student(4).ppf(0.975) / np.sqrt(32), rel=0.01)
    assert found.low == -found.high and found.p == 1.0
    against = analysis.difference("a", "base", 1000)  # which does not train: 1/64, 2
    assert isinstance(against, Difference) and against.mean == -1 / 8
    assert against.high == pytest.approx(student(2).ppf(0.975) / 8 - 1 / 8, rel=0.01)
    assert analysis.seed_sd("a", 1000) == pytest.approx(np.sqrt(1 / 32))
    assert analysis.seed_sd("base", 1000) == 0


def test_one_seed_says_nothing_of_the_spread(tmp_path: Path) -> None:
    analysis = analysed(tmp_path, {"a": [[1, 2, 3, 4]], "base": [[0, 1, 2, 3]]})
    assert analysis.seed_sd("a", 1000) == X("one training seed")
    assert analysis.seed_sd("base", 1000) == 0
    assert analysis.detectable == X("there are no two rows to rank")


def test_a_study_says_what_it_could_have_found(tmp_path: Path) -> None:
    """Two rows alike on 400 problems: fewer seeds, or more rows to compare, want more of a difference."""
    rng = np.random.default_rng(1)
    counts = {name: rng.binomial(4, 0.5, (5, 400)).tolist() for name in "abcdef"}
    least = [
        analysed(tmp_path / f"{seeds} {rows}", {m: counts[m][:seeds] for m in "abcdef"[:rows]}).detectable
        for seeds, rows in ((5, 2), (5, 6), (2, 2))
    ]
    assert all(isinstance(gain, float) for gain in least)
    assert least[0] > 0.02 and 1.3 * least[0] < least[1] < 0.12 and least[0] < least[2]  # type: ignore[operator]


def test_ranks_are_corrected_for_all_their_pairs(tmp_path: Path) -> None:
    """Of 6 problems, a solves 3 of 4 samples, b 2 and c 1, in the one seed: each pair has the p-value of 2 of
    2^6 sign patterns, .031. Alone, a pair is significant; of three, Holm makes it .094, and none is ahead."""
    counts = {"a": [[3] * 6], "b": [[2] * 6], "c": [[1] * 6]}
    two = analysed(tmp_path / "two", {name: counts[name] for name in "ab"})
    assert two.ranks == {"a": (1, 1), "b": (2, 2)}
    three = analysed(tmp_path / "three", counts)
    assert three.ranks == {"a": (1, 3), "b": (1, 3), "c": (1, 3)}
    family = three.differences("c", 1000)  # two comparisons: .0625
    assert [p for _, p in family.values()] == pytest.approx([0.0625, 0.0625], abs=0.01)
    assert [d.p for d, _ in family.values() if isinstance(d, Difference)] == pytest.approx(
        [1 / 32] * 2, abs=0.006
    )


# ------------------------------------------------------------------------------------------ a study


def test_score_is_the_mean_over_tiers_of_avg_at_k(records: Path, analysis: Analysis) -> None:
    samples = pd.read_parquet(records / "samples.parquet")
    rows = samples[
        (samples.method == "good") & (samples.budget == BUDGETS[1]) & (samples["mode"] == "sampled")
    ]
    score = analysis.accuracy("good", BUDGETS[1])
    assert isinstance(score, Estimate)
    assert score.mean == pytest.approx(rows.groupby("tier").correct.mean().mean())
    assert score.low < score.mean < score.high
    tier = analysis.accuracy("good", BUDGETS[1], tier="2")
    assert isinstance(tier, Estimate)
    assert tier.mean == pytest.approx(rows[rows.tier == "2"].correct.mean())


def test_pairing_narrows_the_interval(analysis: Analysis) -> None:
    one, other = (analysis.accuracy(m, BUDGETS[3]) for m in ("good", "twin"))
    both = analysis.difference("good", "twin", BUDGETS[3])
    assert isinstance(one, Estimate) and isinstance(other, Estimate) and isinstance(both, Difference)
    assert both.mean == pytest.approx(one.mean - other.mean)
    assert both.high - both.low < 0.8 * np.hypot(one.high - one.low, other.high - other.low)
    mirrored = analysis.difference("twin", "good", BUDGETS[3])
    assert isinstance(mirrored, Difference)
    assert (mirrored.mean, mirrored.low, mirrored.p) == (-both.mean, -both.high, both.p)


def test_a_real_difference_is_found_and_twins_are_not(analysis: Analysis) -> None:
    family = analysis.differences("continued", BUDGETS[3])
    assert family["good"][1] < 0.01
    assert analysis.ranks["good"][0] == analysis.ranks["twin"][0] == 1
    assert analysis.ranks["weak"] == (3, 3)
    assert set(analysis.ranks) == {"good", "twin", "weak"}  # no controls, no incomplete rows


@pytest.mark.promise(
    "A fair comparison", "A run that failed is an X with its reason, never a mean over what is left."
)
def test_an_incomplete_row_is_x_with_its_reason_and_never_a_partial_mean(analysis: Analysis) -> None:
    assert analysis.accuracy("crashed", BUDGETS[3]) == X("seed 1 failed: loss is not finite at step 31")
    assert isinstance(analysis.accuracy("crashed", BUDGETS[2]), Estimate)  # all seeds got that far
    assert analysis.accuracy("absent", BUDGETS[0]) == X("unavailable: the study has no process scorer")
    assert isinstance(analysis.difference("crashed", "base", BUDGETS[3]), X)
    assert isinstance(analysis.difference("good", "crashed", BUDGETS[3]), X)
    assert isinstance(analysis.pass_at("crashed", BUDGETS[3], 1), X)


def test_pass_at_1_is_the_score_and_pass_at_k_grows(analysis: Analysis) -> None:
    score = analysis.accuracy("good", BUDGETS[3])
    assert isinstance(score, Estimate)
    found = [analysis.pass_at("good", BUDGETS[3], k) for k in (1, 2, 4)]
    assert found[0] == pytest.approx(score.mean)
    assert found == sorted(found)  # type: ignore[type-var]


def test_the_majority_is_right_more_often_than_one_sample(records: Path, analysis: Analysis) -> None:
    samples = pd.read_parquet(records / "samples.parquet")
    rows = samples.query(f"method == 'good' and budget == {BUDGETS[3]} and mode == 'sampled'")

    def right(problem: pd.DataFrame) -> bool:
        votes = problem[problem.answer != ""].sort_values("sample").answer.tolist()
        return bool(votes) and max(votes, key=votes.count) == "7"  # max takes the first of equals

    problems = rows.groupby(["tier", "seed", "problem"])
    wanted = pd.Series({key: right(part) for key, part in problems}).groupby(level=0).mean().mean()
    assert analysis.majority("good", BUDGETS[3]) == pytest.approx(wanted)
    assert isinstance(analysis.majority("crashed", BUDGETS[3]), X)


def test_benchmarks_are_apart(tmp_path: Path) -> None:
    """A benchmark's numbers do not depend on there being others; real ones weigh their problems alike."""
    rows = (Made("base", Role.BASE), Made("good", gain=1.0))
    study = load(write_records(tmp_path / "two", rows, seeds=(0,), benchmarks=("ladder", "gsm8k")))
    ladder, gsm8k = Analysis(study), Analysis(study, "gsm8k")
    alone = shutil.copytree(tmp_path / "two", tmp_path / "alone")
    samples = pd.read_parquet(alone / "samples.parquet").query("benchmark == 'ladder'")
    samples.to_parquet(alone / "samples.parquet")
    facts = json.loads((alone / "study.json").read_text())
    again = Analysis(load(seal(alone, facts | {"benchmarks": facts["benchmarks"][:1]})))
    assert again.difference("good", "base", BUDGETS[3]) == ladder.difference("good", "base", BUDGETS[3])
    # a tier with fewer problems counts less on gsm8k, and alike on the ladder
    few = pd.read_parquet(tmp_path / "two" / "samples.parquet").query("tier != '3' or problem < 'p0043'")
    few.to_parquet(tmp_path / "two" / "samples.parquet")
    study = load(seal(tmp_path / "two"))
    drawn = few.query(f"method == 'good' and budget == {BUDGETS[3]} and mode == 'sampled'")
    for name, macro in (("ladder", True), ("gsm8k", False)):
        part = drawn[drawn.benchmark == name]
        wanted = part.groupby("tier").correct.mean().mean() if macro else part.correct.mean()
        score = Analysis(study, name).accuracy("good", BUDGETS[3])
        assert isinstance(score, Estimate) and score.mean == pytest.approx(wanted)
    assert gsm8k.benchmark.title == "GSM8K"


@pytest.mark.promise(
    "Records and report",
    "The same records give the same tables, figures and report, byte for byte, in whatever order they came.",
)
def test_order_of_calls_and_of_records_does_not_matter(
    records: Path, analysis: Analysis, tmp_path: Path
) -> None:
    copied = shutil.copytree(records, tmp_path / "records")
    shuffled = pd.read_parquet(records / "samples.parquet").sample(frac=1, random_state=0)
    shuffled.to_parquet(copied / "samples.parquet")
    other = Analysis(load(seal(copied)))
    late = other.accuracy("twin", BUDGETS[0]), other.difference("good", "base", BUDGETS[3])
    assert late == (analysis.accuracy("twin", BUDGETS[0]), analysis.difference("good", "base", BUDGETS[3]))
