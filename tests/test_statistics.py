"""Statistics on records made here: coverage, false positives, pairing, Holm, ranks, X rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import BUDGETS, ONE_TIER, ROWS, Made, facts_of, run_line, seal, solved, write, write_records

from repro.method import Role
from repro.planning.power import detectable
from repro.reporting.analysis import Analysis, Difference, Estimate
from repro.reporting.results import X, load, majority_correct
from repro.reporting.statistics import (
    Resampler,
    holm,
    macro_mean,
    pass_at_k,
    rank_intervals,
    seed_variance,
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
    # gain 2.209 of them: 1 - Phi(1.960 - 2.209) = Phi(.249) = .598
    assert detectable(100, 5, gain=0.05, accuracy=0.5) == pytest.approx(0.598, abs=0.001)
    # Seed noise .2, 4 seeds: (2/8/20 + .00125) / 100 + 2 * (.2/8)^2 / 4 = .0001375 + .0003125, error .02121
    power = detectable(100, 5, gain=0.05, accuracy=0.5, seeds=4, seed_noise=0.2)
    assert power == pytest.approx(0.654, abs=0.001)  # Phi(.05 / .02121 - 1.96) = Phi(.397)
    assert detectable(100, 5, gain=0.0) == pytest.approx(0.025)  # no gain: one false alarm in forty


@pytest.mark.parametrize(
    ("problems", "k", "power"),
    [(30, 1, 0.11), (30, 4, 0.27), (30, 16, 0.60), (30, 64, 0.99), (40, 1, 0.10), (40, 4, 0.24),
     (40, 16, 0.77), (40, 64, 1.0), (500, 1, 0.67), (500, 4, 0.99), (1319, 1, 0.97), (1319, 4, 1.0)],
)  # fmt: skip
def test_power_agrees_with_simulations_of_real_benchmarks(problems: int, k: int, power: float) -> None:
    """AIME24, AMC23, MATH-500 and GSM8K, simulated with the same assumptions but a standard error that is
    estimated from the problems, which matters where they are few."""
    assert detectable(problems, k, gain=0.05) == pytest.approx(power, abs=0.07)


def test_power_agrees_with_a_simulation() -> None:
    """MATH-500, 2 samples, 3 seeds whose log-odds spread by .1; the difference against its true spread."""
    rng = np.random.default_rng(5)
    n, k, seeds, studies = 500, 2, 3, 2000
    p = np.clip(rng.beta(0.35, 0.65, (studies, n)), 1e-9, 1 - 1e-9)
    logit = np.log(p / (1 - p))
    shift = 0.05 / (p * (1 - p)).mean()

    def score(gain: float) -> np.ndarray:
        noise = rng.normal(0, 0.1, (seeds, studies, 1))
        return rng.binomial(k, 1 / (1 + np.exp(-(logit + gain + noise)))).mean((0, 2)) / k

    difference = score(shift) - score(0.0)
    found = (difference > 1.96 * difference.std()).mean()
    assert detectable(n, k, gain=0.05, seeds=seeds, seed_noise=0.1) == pytest.approx(found, abs=0.05)


# -------------------------------------------------------------------- intervals and tests, simulated


def _simulate(rng: np.random.Generator, rows: int, seeds: int, between: float) -> np.ndarray:
    """[row, seed, problem] avg@4 of rows with equal expected score; ``between`` is seed noise in logits."""
    hard = np.repeat([1.0, -1.0], 60) + rng.normal(0, 1.2, 120)
    logits = hard + rng.normal(0, between, (rows, seeds, 1)) + rng.normal(0, 0.3, (rows, seeds, 120))
    return rng.binomial(4, 1 / (1 + np.exp(-logits))) / 4


@pytest.mark.parametrize(("seeds", "between"), [(1, 0.0), (3, 0.0), (3, 0.25), (2, 0.15)])
def test_interval_covers_and_test_keeps_its_level(seeds: int, between: float) -> None:
    """Of two rows alike among eight, the 95 % interval of their difference holds 0 about 95 % of the time."""
    rng = np.random.default_rng(1)
    tier_of = np.repeat([0, 1], 60)
    resampler = Resampler(tier_of)
    studies, covered, rejected = 250, 0, 0
    for _ in range(studies):
        y = _simulate(rng, 8, seeds, between)
        variance, df = seed_variance(y, tier_of, paired=True)
        difference = (y[0] - y[1]).mean(0)
        low, high = resampler.interval(difference, 2 * variance / seeds, df)
        covered += low <= 0 <= high
        rejected += resampler.p_value(difference, 2 * variance / seeds, df) < 0.05
    assert 0.91 <= covered / studies <= 0.985
    assert rejected / studies <= 0.09


def test_interval_of_a_score_covers_the_truth() -> None:
    rng = np.random.default_rng(2)
    tier_of = np.repeat([0, 1], 60)
    resampler = Resampler(tier_of)
    truth = float(np.mean([_simulate(rng, 50, 3, 0.2).mean() for _ in range(200)]))
    studies, covered = 250, 0
    for _ in range(studies):
        y = _simulate(rng, 8, 3, 0.2)
        variance, df = seed_variance(y, tier_of, paired=False)
        low, high = resampler.interval(y[0].mean(0), variance / 3, df)
        covered += low <= truth <= high
    assert 0.91 <= covered / studies <= 0.985


def test_seed_variance_finds_what_was_put_in() -> None:
    rng = np.random.default_rng(3)
    tier_of = np.repeat([0, 1], 60)
    shared = rng.normal(0, 0.05, (1, 200, 1))  # of a seed, the same for all rows
    own = rng.normal(0, 0.02, (4, 200, 1))
    y = 0.5 + shared + own + rng.normal(0, 0.2, (4, 200, 120))
    assert seed_variance(y, tier_of, paired=False)[0] == pytest.approx(0.05**2 + 0.02**2, rel=0.3)
    paired, df = seed_variance(y, tier_of, paired=True)
    assert paired == pytest.approx(0.02**2, rel=0.3)
    assert df == 3 * 199
    assert seed_variance(y[:, :1], tier_of, paired=True)[0] == 0  # one seed: unknown


# --------------------------------------------------------------------------- worked examples, by hand


def analysed(folder: Path, solved_of: dict[str, list[list[int]]]) -> Analysis:
    """The analysis of methods at one budget, given how many of 4 samples each solves: [seed][problem]."""
    seeds = range(len(next(iter(solved_of.values()))))
    facts = facts_of(budgets=[1000], seeds=list(seeds), benchmarks=[ONE_TIER])
    runs = [run_line(method, seed, 1000) for method in solved_of for seed in seeds]
    samples = [
        sample
        for method, counts in solved_of.items()
        for seed, problems in enumerate(counts)
        for sample in solved(method, seed, 1000, problems)
    ]
    return Analysis(load(write(folder, facts, runs=runs, samples=samples)))


def test_variance_between_seeds_is_that_of_their_mean(tmp_path: Path) -> None:
    """Five rows, each with 1, 2 and 3 of 4 samples right on every problem in seeds 0, 1 and 2. Problems do
    not differ, so all there is is the spread between seeds: the variance of (.25, .5, .75) is 1/16, pooled
    over 5 * (3 - 1) = 10 degrees of freedom; that of their mean is 1/48. t(.975, 10) = 2.228, so the interval
    is .5 +- 2.228 * .1443 = .5 +- .3216; with 1/16 it would be +- .557."""
    found = analysed(tmp_path, {name: [[n] * 4 for n in (1, 2, 3)] for name in "abcde"}).accuracy("a", 1000)
    assert isinstance(found, Estimate) and found.mean == 0.5
    # Drawn, not computed: each end is within a tenth of the width.
    assert found.high - 0.5 == pytest.approx(0.3216, rel=0.1)
    assert 0.5 - found.low == pytest.approx(0.3216, rel=0.1)


def test_a_difference_is_paired_by_problem_and_by_seed(tmp_path: Path) -> None:
    """Problems are of every difficulty and seed 1 is better than seed 0 by half, but b solves one sample more
    than a everywhere: their difference is .25 whatever is drawn. Of the 2^8 sign patterns of 8 problems two
    are as extreme: p = 1/128 = .0078."""
    a = [[0, 0, 0, 0, 1, 1, 1, 1], [2, 2, 2, 2, 3, 3, 3, 3]]
    analysis = analysed(tmp_path, {"a": a, "b": [[n + 1 for n in seed] for seed in a]})
    found = analysis.difference("b", "a", 1000)
    assert isinstance(found, Difference)
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)
    assert found.p == pytest.approx(1 / 128, abs=0.003)
    alone = analysis.accuracy("b", 1000)
    assert isinstance(alone, Estimate) and alone.high - alone.low > 1  # two seeds, half a point apart


def test_a_difference_has_the_noise_of_both_rows(tmp_path: Path) -> None:
    """Seeds on which a and b swap places: scores .25 and .75, .75 and .25 on every problem. Less what the
    rows of a seed share (.5), each is -.25 and .25, or the reverse: squares 4/16 over (2 - 1) * (2 - 1) = 1
    degree of freedom give a variance of 1/4 a row and seed; of the difference of two means of two seeds
    2 * 1/4 / 2 = 1/4. t(.975, 1) = 12.71: the interval is 0 +- 6.35, and nothing is found."""
    found = analysed(tmp_path, {"a": [[1] * 6, [3] * 6], "b": [[3] * 6, [1] * 6]}).difference("a", "b", 1000)
    assert isinstance(found, Difference) and found.mean == 0
    assert found.high == pytest.approx(6.35, rel=0.2)
    assert found.p == 1.0


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
    assert mirrored.mean == pytest.approx(-both.mean) and abs(mirrored.p - both.p) < 0.02


def test_a_real_difference_is_found_and_twins_are_not(analysis: Analysis) -> None:
    family = analysis.differences("continued", BUDGETS[3])
    assert family["good"][1] < 0.01
    assert analysis.ranks["good"][0] == analysis.ranks["twin"][0] == 1
    assert analysis.ranks["weak"] == (3, 3)
    assert set(analysis.ranks) == {"good", "twin", "weak"}  # no controls, no incomplete rows


def test_an_incomplete_row_is_x_with_its_reason_and_never_a_partial_mean(analysis: Analysis) -> None:
    assert analysis.accuracy("crashed", BUDGETS[3]) == X("seed 1 failed: loss is not finite at step 31")
    assert isinstance(analysis.accuracy("crashed", BUDGETS[2]), Estimate)  # all seeds got that far
    assert analysis.accuracy("absent", BUDGETS[0]) == X("unavailable: the study has no process scorer")
    assert isinstance(analysis.difference("crashed", "base", BUDGETS[3]), X)
    assert isinstance(analysis.difference("good", "crashed", BUDGETS[3]), X)
    assert isinstance(analysis.pass_at("crashed", BUDGETS[3], 1), X)
    assert isinstance(analysis.flops_to("crashed", 0.99), X)


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


def test_flops_to_a_target_is_a_measured_budget(analysis: Analysis) -> None:
    reached = analysis.flops_to("good", 0.5)
    assert reached in BUDGETS
    for budget in BUDGETS:
        score = analysis.accuracy("good", budget)
        assert isinstance(score, Estimate)
        assert (score.mean >= 0.5) == (budget >= reached)  # type: ignore[operator]
    assert analysis.flops_to("good", 0.99) is None
    assert analysis.flops_to("base", 0.01) == 0


def test_order_of_calls_and_of_records_does_not_matter(
    records: Path, analysis: Analysis, tmp_path: Path
) -> None:
    copied = shutil.copytree(records, tmp_path / "records")
    shuffled = pd.read_parquet(records / "samples.parquet").sample(frac=1, random_state=0)
    shuffled.to_parquet(copied / "samples.parquet")
    other = Analysis(load(seal(copied)))
    late = other.accuracy("twin", BUDGETS[0]), other.difference("good", "base", BUDGETS[3])
    assert late == (analysis.accuracy("twin", BUDGETS[0]), analysis.difference("good", "base", BUDGETS[3]))
