"""Statistics on records made here: coverage, false positives, pairing, Holm, ranks, X rows."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from repro.errors import UserError
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

TIERS = ("1", "2", "3")
BUDGETS = (1_000_000_000, 2_000_000_000, 4_000_000_000, 8_000_000_000)


# ------------------------------------------------------------------------------- synthetic records


@dataclass(frozen=True)
class Made:
    """One made-up row: its gain over the base in logits at the top budget, and what breaks."""

    method: str
    role: Role = Role.METHOD
    gain: float = 0.0
    note: str = ""
    broken: dict[tuple[int, int], tuple[str, str]] = field(
        default_factory=dict
    )  # (seed, budget) -> status, reason


def write_records(
    folder: Path,
    rows: tuple[Made, ...],
    *,
    seeds: tuple[int, ...] = (0, 1, 2),
    budgets: tuple[int, ...] = BUDGETS,
    per_tier: int = 20,
    k: int = 4,
    seed_noise: float = 0.05,
    benchmarks: tuple[str, ...] = ("ladder",),
) -> Path:
    """A records folder as the pipeline writes it, deterministic in its arguments. Every benchmark has the
    same problems; each is a little harder than the one before."""
    rng = np.random.default_rng(7)
    problems = len(TIERS) * per_tier
    hard = np.repeat(np.linspace(1.2, -1.5, len(TIERS)), per_tier) + rng.normal(0, 1.0, problems)
    samples, runs, ledger, visits = [], [], [], []
    for row in rows:
        for seed in seeds:
            wobble = rng.normal(0, seed_noise) if row.role is not Role.BASE else 0.0
            for b, budget in enumerate(budgets):
                status, reason = row.broken.get((seed, budget), ("ok", ""))
                ok = status == "ok"
                spent = 0 if row.role is Role.BASE or not ok else budget - budget // 1000 - 7 * seed
                runs.append((row.method, row.method.upper(), str(row.role), "", seed, budget, spent))
                runs[-1] += (spent / budget, spent * 5 // 4, status, reason, b + 1, 10 * (b + 1), row.note)
                if not ok:
                    continue
                parts = {"train": spent * 6 // 10, "search": spent // 20, "reward": 0, "embed": 0}
                parts["sample"] = spent - sum(parts.values())
                for account, flops in (parts | {"evaluate": 10**8, "warm_start": 10**9, "wasted": 0}).items():
                    ledger.append((row.method, seed, budget, account, flops, flops * 5 // 4, flops // 1000))
                logit = hard + wobble + row.gain * (b + 1) / len(budgets)
                for (n, benchmark), sample in product(enumerate(benchmarks), range(-1, k)):
                    solve = 1 / (1 + np.exp(0.5 * n - logit))
                    correct = rng.random(problems) < (solve if sample >= 0 else solve + 0.1)
                    for i in range(problems):
                        choice = int(rng.integers(3))
                        text = hashlib.sha256(f"{i} {choice}".encode()).hexdigest()[:16]
                        verdict = "correct" if correct[i] else ("unparsable" if i % 17 == 0 else "wrong")
                        answer = {"correct": "7", "unparsable": ""}.get(verdict, str(choice))
                        mode, finish = (
                            "sampled" if sample >= 0 else "greedy",
                            "length" if i % 29 == 0 else "stop",
                        )
                        samples.append((row.method, seed, budget, benchmark, mode, TIERS[i // per_tier]))
                        samples[-1] += (f"p{i:04d}", max(sample, 0), bool(correct[i]), verdict, answer)
                        samples[-1] += (20 + i % 9, finish, text)
            for t, tier in enumerate(TIERS):
                if row.role is not Role.BASE:
                    visits.append((row.method, seed, tier, 900 - 250 * t, 380 - 90 * t, 400))
    folder.mkdir(parents=True, exist_ok=True)

    def frame(lines: list[tuple], columns: str) -> pd.DataFrame:  # type: ignore[type-arg]
        return pd.DataFrame(lines, columns=columns.split())

    frame(
        samples,
        "method seed budget benchmark mode tier problem sample correct verdict answer tokens finish "
        "text_hash",
    ).to_parquet(folder / "samples.parquet")
    for name, lines, columns in (
        ("runs", runs, "method title role paper seed budget spent use papers_flops status reason rounds "
                       "steps mode_note"),
        ("ledger", ledger, "method seed budget account flops papers_flops tokens"),
        ("visits", visits, "method seed tier trained problems pool"),
    ):  # fmt: skip
        frame(lines, columns).to_csv(folder / f"{name}.csv", index=False)
    facts = {
        "name": "made", "title": "Made-up study", "budgets": list(budgets), "seeds": list(seeds),
        "benchmarks": [
            {"name": name, "title": name.upper(), "tiers": list(TIERS), "metric": f"sampled avg@{k}",
             "samples_per_problem": k, "max_tokens": 99, "macro": name == "ladder"} for name in benchmarks
        ],
        "evaluation": {"prompt": {"style": "boxed", "digest": "abc"},
                       "engine": {"engine": "transformers", "torch": "2.13"},
                       "tasks": {f"{name}_sampled": 1 for name in benchmarks}},
        "target_accuracies": [0.45, 0.6, 0.99], "model": {"description": "none", "parameters": 800_000},
        "versions": {"torch": "2.13"}, "command": "snakemake tables",
    }  # fmt: skip
    (folder / "study.json").write_text(json.dumps(facts))
    return folder


FAILED = {(1, BUDGETS[3]): ("failed", "loss is not finite at step 31")}
ABSENT = {(s, b): ("unavailable", "the study has no process scorer") for s in (0, 1, 2) for b in BUDGETS}
ROWS = (
    Made("base", Role.BASE),
    Made("continued", Role.CONTINUED, 0.3),
    Made("random", Role.NEGATIVE, -0.2),
    Made("good", gain=1.2),
    Made("twin", gain=1.2),
    Made("weak", Role.ABLATION, 0.2, note="verifier only"),
    Made("crashed", gain=1.0, broken=FAILED),
    Made("absent", broken=ABSENT),
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
    alone = tmp_path / "alone"
    alone.mkdir()
    for file in (tmp_path / "two").iterdir():
        (alone / file.name).write_bytes(file.read_bytes())
    samples = pd.read_parquet(alone / "samples.parquet").query("benchmark == 'ladder'")
    samples.to_parquet(alone / "samples.parquet")
    facts = json.loads((alone / "study.json").read_text())
    (alone / "study.json").write_text(json.dumps(facts | {"benchmarks": facts["benchmarks"][:1]}))
    again = Analysis(load(alone))
    assert again.difference("good", "base", BUDGETS[3]) == ladder.difference("good", "base", BUDGETS[3])
    # a tier with fewer problems counts less on gsm8k, and alike on the ladder
    few = pd.read_parquet(tmp_path / "two" / "samples.parquet").query("tier != '3' or problem < 'p0043'")
    few.to_parquet(tmp_path / "two" / "samples.parquet")
    study = load(tmp_path / "two")
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
    for file in records.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shuffled = pd.read_parquet(records / "samples.parquet").sample(frac=1, random_state=0)
    shuffled.to_parquet(tmp_path / "samples.parquet")
    other = Analysis(load(tmp_path))
    late = other.accuracy("twin", BUDGETS[0]), other.difference("good", "base", BUDGETS[3])
    assert late == (analysis.accuracy("twin", BUDGETS[0]), analysis.difference("good", "base", BUDGETS[3]))


# --------------------------------------------------------------------------------- malformed records


@pytest.mark.parametrize("name", ["samples.parquet", "runs.csv", "ledger.csv", "visits.csv", "study.json"])
def test_a_missing_file_is_named(records: Path, tmp_path: Path, name: str) -> None:
    for file in records.iterdir():
        if file.name != name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=name):
        load(tmp_path)


def _spoil(records: Path, folder: Path, name: str, change) -> Path:  # type: ignore[no-untyped-def]
    for file in records.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    path = folder / name
    if name.endswith("parquet"):
        change(pd.read_parquet(path)).to_parquet(path)
    else:
        change(pd.read_csv(path)).to_csv(path, index=False)
    return folder


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (
            "samples.parquet",
            lambda f: f.drop(columns="verdict"),
            "samples.parquet lacks the column 'verdict'",
        ),
        ("runs.csv", lambda f: f.drop(columns="spent"), "runs.csv lacks the column 'spent'"),
        ("runs.csv", lambda f: f.assign(spent="lots"), "column 'spent'.*lots"),
        ("runs.csv", lambda f: f.assign(role="hero"), "column 'role' of method .*'hero'.*must be one of"),
        ("runs.csv", lambda f: pd.concat([f, f[:1]]), "two rows for method base"),
        ("samples.parquet", lambda f: f.assign(benchmark="amc"), "column 'benchmark' holds 'amc'"),
        ("samples.parquet", lambda f: f.assign(tier="9"), "column 'tier' holds '9'"),
        ("samples.parquet", lambda f: f.assign(budget=5), "column 'budget' holds '5'"),
        ("samples.parquet", lambda f: f.iloc[:-1], "method .* has 3 to 4 sampled rows per problem.*says 4"),
    ],
)
def test_malformed_records_are_named(records: Path, tmp_path: Path, name: str, change, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=says):
        load(_spoil(records, tmp_path, name, change))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"evaluation": {}}, "'evaluation' must hold 'prompt'"),
        ({"evaluation": {"prompt": None, "engine": "vllm", "tasks": {}}}, "'evaluation' must hold 'engine'"),
        ({"benchmarks": []}, "'benchmarks' must be a list that is not empty"),
        ({"benchmarks": [{"name": "gsm8k"}]}, "benchmark 1 lacks the key 'title'"),
    ],
)
def test_malformed_facts_are_named(
    records: Path, tmp_path: Path, change: dict[str, object], says: str
) -> None:
    for file in records.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    facts = json.loads((records / "study.json").read_text())
    (tmp_path / "study.json").write_text(json.dumps(facts | change))
    with pytest.raises(UserError, match=says):
        load(tmp_path)


def test_rebuilding_needs_no_torch() -> None:
    code = (
        "import sys, repro.reporting.page, repro.collect;"
        "print([m for m in ('torch', 'transformers', 'trl', 'lm_eval', 'vllm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
