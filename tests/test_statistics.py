"""Statistics on records made here: coverage, false positives, pairing, Holm, ranks, X rows."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from repro.errors import UserError
from repro.method import Role
from repro.statistics import (
    Analysis,
    Difference,
    Estimate,
    Resampler,
    X,
    holm,
    load,
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
) -> Path:
    """A records folder as the pipeline writes it, deterministic in its arguments."""
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
                solve = 1 / (1 + np.exp(-(hard + wobble + row.gain * (b + 1) / len(budgets))))
                for sample in range(-1, k):
                    correct = rng.random(problems) < (solve if sample >= 0 else solve + 0.1)
                    for i in range(problems):
                        text = hashlib.sha256(f"{i} {int(rng.integers(3))}".encode()).hexdigest()[:16]
                        verdict = "correct" if correct[i] else ("unparsable" if i % 17 == 0 else "wrong")
                        mode, finish = (
                            "sampled" if sample >= 0 else "greedy",
                            "length" if i % 29 == 0 else "stop",
                        )
                        samples.append((row.method, seed, budget, mode, TIERS[i // per_tier], f"p{i:04d}"))
                        samples[-1] += (max(sample, 0), bool(correct[i]), verdict, 20 + i % 9, finish, text)
            for t, tier in enumerate(TIERS):
                if row.role is not Role.BASE:
                    visits.append((row.method, seed, tier, 900 - 250 * t, 380 - 90 * t, 400))
    folder.mkdir(parents=True, exist_ok=True)

    def frame(lines: list[tuple], columns: str) -> pd.DataFrame:  # type: ignore[type-arg]
        return pd.DataFrame(lines, columns=columns.split())

    frame(
        samples, "method seed budget mode tier problem sample correct verdict tokens finish text_hash"
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
        "tiers": list(TIERS), "metric": f"sampled avg@{k}", "samples_per_problem": k,
        "target_accuracies": [0.45, 0.6, 0.99], "model": {"description": "none", "parameters": 800_000},
        "versions": {"torch": "2.13"}, "task_version": {"t": 1}, "command": "snakemake tables",
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
        ("samples.parquet", lambda f: f.assign(tier="9"), "column 'tier' holds '9'"),
        ("samples.parquet", lambda f: f.assign(budget=5), "column 'budget' holds '5'"),
        ("samples.parquet", lambda f: f.iloc[:-1], "method .* has 3 to 4 sampled rows per problem.*says 4"),
    ],
)
def test_malformed_records_are_named(records: Path, tmp_path: Path, name: str, change, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=says):
        load(_spoil(records, tmp_path, name, change))


def test_rebuilding_needs_no_torch() -> None:
    code = (
        "import sys, repro.statistics, repro.tables, repro.figures, repro.report;"
        "print([m for m in ('torch', 'transformers', 'trl', 'lm_eval') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
