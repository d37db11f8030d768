"""The tables of whole curves, every budget, every seed and the papers' FLOPs: numbers by hand, refusals,
coverage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic import run_line, study_of

from repro.records import Role
from repro.reporting.analysis import Analysis
from repro.reporting.comparisons import (
    best_row,
    curves_of,
    differences,
    improvement,
    iso_accuracy,
    papers,
    scaling,
    seeds,
    targets,
)
from repro.reporting.curves import area, fit_sigmoid, flop_ratio, flops_to, percentile_interval
from repro.reporting.figures import accuracy, all_figures, gains, profiles
from repro.reporting.results import Study
from repro.reporting.table import DASH, TIMES, Table
from repro.reporting.tables import all_tables

G = 10**9  # the lowest budget of :func:`study_of`; each is twice the one before


def flat(curves: list[list[float]], roles: dict[int, Role] | None = None, seeds: int = 1) -> Study:
    """A study of rows whose score is the same on each of eight problems, in every seed: no draw differs."""
    scores = np.array(curves)[:, None, :, None] * np.ones((1, seeds, 1, 8))
    return study_of(scores, k=100, roles=roles or {})


def one(study: Study) -> Analysis:
    return Analysis(study)


def line(table: Table, **where: object) -> dict[str, object]:
    """The only line of a table's data that has these values."""
    data = table.data
    for column, value in where.items():
        data = data[data[column] == value]
    assert len(data) == 1
    return dict(data.iloc[0])


# ------------------------------------------------------------------------------------ FLOPs to a score


def test_flops_to_a_target_by_hand() -> None:
    """Targets .45, .6, .99. From .2 at 1 G to .7 at 2 G, half of the way to .45: 2^.5 G; .6 at .8 of it."""
    study = flat([[0.2, 0.7, 0.7], [0.5, 0.6, 0.99], [0.45] * 3], {2: Role.BASE})
    table = targets([curves_of(one(study))])
    assert line(table, method="0", target=0.45)["flops"] == pytest.approx(2**0.5 * G)
    assert line(table, method="0", target=0.6)["flops"] == pytest.approx(2**0.8 * G)
    assert line(table, method="1", target=0.99)["flops"] == pytest.approx(4 * G)
    shown = table.cells.set_index("Method")
    assert shown.loc["Row 0"].tolist() == [
        "1.41 GFLOP\n[1.41 GFLOP, 1.41 GFLOP]", "1.74 GFLOP\n[1.74 GFLOP, 1.74 GFLOP]", "not reached"
    ]  # fmt: skip
    assert shown.loc["Row 1"].iloc[0] == "< 1.00 GFLOP"
    assert shown.loc["Row 2"].tolist() == ["0", "not reached", "not reached"]  # the base model spends nothing
    assert [line(table, method="1", target=t)["reached"] for t in (0.45, 0.99)] == ["yes", "yes"]
    assert line(table, method="1", target=0.45)["flops"] is None  # less than the lowest budget, however much


def test_an_interval_says_where_it_goes_beyond_the_budgets() -> None:
    """Half of the draws of a row that ends at the target are below it; none are of one far below."""
    rng = np.random.default_rng(0)
    chance = np.array([[0.3, 0.38, 0.45], [0.3, 0.38, 0.46], [0.1, 0.1, 0.1]])
    scores = rng.binomial(4, chance[:, None, :, None], (3, 5, 3, 60)) / 4
    table = targets([curves_of(one(study_of(scores, k=4)))])
    shown = table.cells.set_index("Method")["≥ 45.0 %"]
    assert shown["Row 1"].endswith(", > 4.00 GFLOP]") and shown["Row 2"] == "not reached"
    at = line(table, method="1", target=0.45)
    assert at["flops_high"] is None and 1 * G < at["flops_low"] < 4 * G  # type: ignore[operator]


# -------------------------------------------------------------------------------------- ratios of FLOPs


def test_the_ratio_of_flops_by_hand() -> None:
    """Row 0 ends at .6 and is the best; row 1 ends at .4, which row 0 has half of the way from 1 to 2 G:
    it needs 4 / 2^.5 times as much. Row 2 ends at .3, which row 0 has at the lowest budget: more than 4 times
    as much. Row 3 ends where the base model is."""
    study = flat(
        [[0.3, 0.5, 0.6], [0.2, 0.3, 0.4], [0.1, 0.2, 0.3], [0.1] * 3, [0.1] * 3, [0.15, 0.2, 0.3]],
        {4: Role.BASE, 5: Role.CONTINUED},
    )
    table = iso_accuracy([curves_of(one(study))])
    found = line(table, method="1", against="0")
    assert (found["ratio"], found["score"]) == (pytest.approx(4 / 2**0.5), 0.4)
    assert found["ratio_low"] == found["ratio_high"] == pytest.approx(found["ratio"])
    shown = table.cells.set_index("Method")[f"{TIMES} best"]
    assert shown["Row 0"] == DASH
    assert shown["Row 1"] == "2.83\n[2.83, 2.83]\nat 40.0 %"
    assert shown["Row 2"] == "> 4.00\n[4.00, ∞]\nat 30.0 %"
    assert shown["Row 3"] == "no gain"
    assert line(table, method="3", against="0")["reason"] == "no gain over the base model"
    assert line(table, method="0", against="5")["ratio_high"] == pytest.approx(1 / 4)
    assert table.cells.set_index("Method")[f"{TIMES} Row 5"]["Row 0"] == "< 0.250\n[0, 0.250]\nat 30.0 %"
    assert "Row 4" not in shown.index and f"{TIMES} Row 4" not in table.cells  # the base model spends nothing


def test_no_ratio_at_a_score_that_the_base_model_may_well_have() -> None:
    """Row 1 solves 3 of 20 problems that the base model does not, and lacks 2 that it solves: many draws say
    otherwise. Row 0 is far above both; it is the lower of two scores that counts."""
    alike = np.tile([1.0, 0.0], 8)[:15]
    ours, base = np.append(alike, [1, 1, 1, 0, 0]), np.append(alike, [0, 0, 0, 1, 1])
    scores = np.stack([np.full((2, 20), 0.9), [base, ours], [base, base]])[:, None]
    analysis = one(study_of(scores, k=1, roles={1: Role.CONTINUED, 2: Role.BASE}))
    table = iso_accuracy([curves_of(analysis)])
    for method, against in (("0", "1"), ("1", "0")):
        found = line(table, method=method, against=against)
        assert found["score"] == pytest.approx(ours.mean()) and ours.mean() > base.mean()
        assert found["reason"] == "no gain over the base model"


def test_no_ratio_where_both_rows_are_there_at_the_lowest_budget() -> None:
    table = iso_accuracy([curves_of(one(flat([[0.5, 0.5, 0.6], [0.5, 0.4, 0.45]])))])
    assert table.cells.set_index("Method")[f"{TIMES} best"]["Row 1"] == "both < 1.00 GFLOP\nat 45.0 %"
    assert line(table, method="1", against="0")["reason"] == "both reach it at the lowest budget"


# ------------------------------------------------------------------------------- the whole curve, seeds


def test_area_and_probability_of_improvement_by_hand() -> None:
    """Weights 1/4, 1/2, 1/4 of three budgets. At the top row 0 is ahead on every problem of both others."""
    study = flat([[0.2, 0.4, 0.8], [0.4, 0.4, 0.4], [0.4, 0.4, 0.4]], {2: Role.BASE})
    table = improvement([curves_of(one(study))])
    assert line(table, method="0")["area"] == pytest.approx(0.45)
    assert line(table, method="0")["better_than_2"] == 1
    assert line(table, method="1")["better_than_2"] == 0.5
    assert line(table, method="1")["better_than_best"] == 0
    assert table.cells.set_index("Method").loc["Row 0"].tolist() == [
        "45.0\n[45.0, 45.0]", "1.00\n[1.00, 1.00]", DASH
    ]  # fmt: skip
    assert best_row(one(study)).method == "0"  # type: ignore[union-attr]


def test_tiers_weigh_alike_in_the_probability_of_improvement() -> None:
    """Ahead on the only problem of one tier, behind on all three of the other: a half, not a quarter."""
    scores = np.array([[1.0, 0, 0, 0], [0.0, 1, 1, 1]])[:, None, None]
    study = study_of(scores, k=1, tier_of=np.array([0, 1, 1, 1]), roles={1: Role.BASE})
    assert line(improvement([curves_of(one(study))]), method="0")["better_than_1"] == pytest.approx(0.5)


def test_draws_weigh_problems_as_the_score_does() -> None:
    scores = np.random.default_rng(0).random((2, 1, 2, 8))
    curves = curves_of(one(study_of(scores, k=1, tier_of=np.array([0, 0, 1, 1, 1, 1, 1, 1]))))
    assert curves.problems.sum(1) == pytest.approx(1)
    assert curves.problems.mean(0) == pytest.approx([1 / 4] * 2 + [1 / 12] * 6, rel=0.1)


def test_seeds_stand_one_by_one() -> None:
    """Scores .3, .5 and .7: their standard deviation is .2."""
    scores = np.array([0.3, 0.5, 0.7])[None, :, None, None] * np.ones((1, 1, 2, 10))
    analysis = one(study_of(scores, k=10))
    table = seeds([analysis])
    found = line(table, method="0")
    assert [found[f"seed_{i}"] for i in range(3)] == pytest.approx([0.3, 0.5, 0.7])
    assert found["sd"] == pytest.approx(0.2) and found["sd_of_intervals"] == analysis.seed_sd("0", 2 * G)
    assert table.cells.iloc[0].tolist()[:5] == ["Row 0", "30.0", "50.0", "70.0", "20.0"]
    alone = seeds([one(flat([[0.5, 0.6]]))])
    assert list(alone.cells) == ["Method", "Seed 0"] and alone.cells.iloc[0].tolist() == ["Row 0", "60.0"]


def test_differences_are_those_of_the_analysis_at_every_budget() -> None:
    rng = np.random.default_rng(3)
    scores = rng.binomial(4, [[[[0.3]], [[0.4]]], [[[0.5]], [[0.4]]], [[[0.3]], [[0.3]]]], (3, 2, 2, 40)) / 4
    analysis = one(study_of(scores, k=4, roles={2: Role.BASE}))
    table = differences([analysis])
    best = best_row(analysis).method  # type: ignore[union-attr]
    assert set(table.data.against) == {"2", best} and len(table.data) == 2 * 2 * 2
    for budget in (G, 2 * G):
        for method, (wanted, p) in analysis.differences(best, budget).items():
            found = line(table, method=method, against=best, budget=budget)
            assert (found["difference"], found["difference_low"]) == (wanted.mean, wanted.low)  # type: ignore[union-attr]
            assert (found["p"], found["p_holm"]) == (wanted.p, p)  # type: ignore[union-attr]
    assert any(note.startswith("Detectable: ") for note in table.notes)


# -------------------------------------------------------------------------------------------- sigmoids


def test_a_sigmoid_where_it_is_identified_and_a_reason_where_not() -> None:
    """.2 + .4 / (1 + (4 / C)^2) at 1 to 16 G, and a row that doubles its gain with every budget."""
    budgets = np.array([1, 2, 4, 8, 16])
    study = flat(
        [
            list(0.2 + 0.4 / (1 + (4 / budgets) ** 2.0)),
            [0.21, 0.22, 0.24, 0.28, 0.36],
            [0.2] * 5,
        ],
        {2: Role.BASE},
    )
    table = scaling([curves_of(one(study))])
    found = line(table, method="0")
    assert found["asymptote"] == pytest.approx(0.6, abs=1e-3)
    assert found["exponent"] == pytest.approx(2, rel=1e-2)
    assert found["midpoint"] == pytest.approx(4 * G, rel=1e-2)
    assert found["asymptote_low"] <= found["asymptote"] <= found["asymptote_high"]  # type: ignore[operator]
    assert table.cells.set_index("Method").loc["Row 1"].tolist() == ["not identified"] * 3
    assert line(table, method="1")["reason"] == "not identified"
    assert "Row 2" not in set(table.cells["Method"])


def test_a_sigmoid_is_not_identified_by_a_measured_curve_that_its_draws_deny() -> None:
    """The measured curve has an asymptote; of 20 problems many draws have none."""
    rng = np.random.default_rng(1)
    chance = 0.2 + 0.4 / (1 + (4 / np.array([1, 2, 4, 8, 16])) ** 1.5)
    scores = rng.binomial(1, np.stack([chance, np.full(5, 0.2)])[:, None, :, None], (2, 1, 5, 20)) * 1.0
    curves = curves_of(one(study_of(scores, k=1, roles={1: Role.BASE})))
    fitted = fit_sigmoid(curves.means[:1], curves.means[1:, -1], curves.budgets)
    assert fitted.bounded.all()
    assert line(scaling([curves]), method="0")["reason"] == "not identified"


@pytest.mark.parametrize(("budgets", "base", "there"), [(5, True, True), (4, True, False), (5, False, False)])
def test_sigmoids_are_for_five_budgets_and_a_base_model(budgets: int, base: bool, there: bool) -> None:
    study = flat([[0.3] * budgets, [0.2] * budgets], {1: Role.BASE} if base else {})
    assert ("scaling" in {table.name for table in _tables(study)}) == there


def _tables(study: Study) -> list[Table]:
    """All tables of a study in memory, which has no rates of its completions."""
    shape = study.benchmarks[0].scores["sampled"].shape[:3]
    rates = dict.fromkeys(("truncated", "unparsable", "timeout", "distinct", "tokens"), np.zeros(shape))
    return all_tables([Analysis(replace(study, benchmarks=(replace(study.benchmarks[0], rates=rates),)))])


# ---------------------------------------------------------------------------------- papers' convention


def spending(study: Study, factors: dict[str, float]) -> Study:
    """With every row's papers' FLOPs such a multiple of its budget."""
    runs = [
        run_line(run["method"], run["seed"], run["budget"], role=run["role"], spent=run["budget"],
                 papers_flops=round(factors.get(run["method"], 0) * run["budget"]))
        for run in study.runs
    ]  # fmt: skip
    return replace(study, runs=runs)


def test_the_papers_flops_can_turn_places_round() -> None:
    """Row 0 is charged twice by the papers. The most that both reach is the 4 G of row 1; there row 0 is at
    its middle budget, .5, and row 1 at its top, .55. Row 2 has spent 5 G by its lowest budget."""
    study = flat([[0.4, 0.5, 0.6], [0.4, 0.5, 0.55], [0.1, 0.2, 0.3], [0.1] * 3], {3: Role.BASE})
    table = papers([curves_of(one(spending(study, {"0": 2.0, "1": 1.0, "2": 5.0})))])
    first, second, third = (line(table, method=method) for method in "102")
    assert (first["score"], second["score"]) == (pytest.approx(0.55), pytest.approx(0.5))
    assert [(row["place"], row["place_ours"]) for row in (first, second)] == [(1, 2), (2, 1)]
    assert (third["score"], third["place"]) == (None, None)
    assert table.cells["Method"].tolist() == ["Row 1", "Row 0", "Row 2"]
    assert table.cells["Score"].tolist()[2] == "over"
    assert second["ratio"] == 2 and second["papers_flops_at"] == 4 * G
    assert table.cells.iloc[0].tolist()[0] == "1\n[1, 1]"


def test_a_spend_that_falls_from_budget_to_budget_has_no_score_between_them() -> None:
    study = spending(flat([[0.4, 0.5, 0.6], [0.4, 0.5, 0.6]]), {"0": 1.0, "1": 1.0})
    falling = [
        run | {"papers_flops": {1: 2, 2: 1, 4: 4}[run["budget"] // G] * G} if run["method"] == "1" else run
        for run in study.runs
    ]
    table = papers([curves_of(one(replace(study, runs=falling)))])
    assert line(table, method="1")["score"] is None and line(table, method="0")["score"] == 0.6
    assert table.cells.set_index("Method").loc["Row 1"].tolist()[1] == "falls"


def test_a_control_that_spends_less_has_no_place() -> None:
    study = flat([[0.4, 0.5, 0.6], [0.2, 0.3, 0.3]], {1: Role.CONTINUED})
    table = papers([curves_of(one(spending(study, {"0": 2.0, "1": 1.0})))])
    assert table.cells.set_index("Method").loc["Row 1"].tolist()[:2] == [DASH, "not reached"]


# --------------------------------------------------------------------------------------------- figures


def test_every_row_has_a_panel_with_its_seeds() -> None:
    rng = np.random.default_rng(0)
    study = study_of(rng.random((5, 3, 2, 12)), k=4, roles={4: Role.BASE})
    analysis = one(study)
    panels = accuracy(analysis).axes
    trained = [row.title for row in analysis.by_score if row.role is not Role.BASE]
    assert [axes.get_title() for axes in panels] == trained
    for axes, title in zip(panels, trained, strict=True):
        circles = [li for li in axes.lines if li.get_marker() == "o"]
        each = study.benchmarks[0].scores["sampled"][int(title.split()[1])].mean(-1)  # [seed, budget]
        assert np.array([li.get_ydata() for li in circles]) == pytest.approx(100 * each)
    assert [axes.get_title() for axes in gains(analysis).axes] == trained


def test_performance_profiles_want_five_cells() -> None:
    """Each tier of each benchmark is a cell. Of .2, .4, .4, .6 and .9, three fifths are above .3."""
    tier_of = np.arange(5)
    scores = np.array([0.2, 0.4, 0.4, 0.6, 0.9])[None, None, None] * np.ones((2, 1, 1, 1))
    few, enough = (study_of(scores[..., :n], k=10, tier_of=tier_of[:n]) for n in (4, 5))
    assert "profiles" not in all_figures([one(few)])
    drawn = profiles([one(enough)]).axes[0].lines[-1]
    share = dict(zip(np.round(drawn.get_xdata(), 6), drawn.get_ydata(), strict=True))
    assert (share[0], share[30], share[40], share[100]) == (100, pytest.approx(80), pytest.approx(40), 0)


# -------------------------------------------------------------------------------------------- coverage

GAIN = np.array([0.0, 0.6, 0.9, 1.2, 1.5, 2.0])  # of each row in logits, far beyond the top budget
MIDDLE = np.array([0, 1.0, 1.5, 0.5, 2.0, 1.0])  # budget at which half of it is there
SPREAD = np.array([0, 0.05, 0.1, 0.1, 0.2, 0.3])  # of its seeds, in logits


def drawn(rng: np.random.Generator, seeds: int, problems: int) -> np.ndarray:
    """[row, seed, budget, problem] avg@4 on new problems by new seeds; row 0 is the base model."""
    at = np.arange(5)
    gain = GAIN[:, None] / (1 + np.exp(-1.2 * (at - MIDDLE[:, None])))
    luck = np.sqrt(0.7) * rng.normal(size=(6, seeds, 1)) + np.sqrt(0.3) * rng.normal(size=(6, seeds, 5))
    logit = gain[:, None] + SPREAD[:, None, None] * luck
    return rng.binomial(4, 1 / (1 + np.exp(-logit[..., None] - rng.normal(-0.8, 1.3, problems)))) / 4


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "least"), [(5, 0.93), (3, 0.90)])
def test_intervals_of_curves_cover_the_truth(seeds: int, least: float) -> None:
    """The ratios of all pairs of trained rows, FLOPs to a score and areas, in 60 studies of 300 problems."""
    rng = np.random.default_rng(0)
    truth = np.mean([drawn(rng, 20, 3000).mean((1, 3)) for _ in range(20)], axis=0)
    budgets = G * 2.0 ** np.arange(5)
    pairs = [(a, b) for a in range(1, 6) for b in range(1, a)]
    hits: dict[str, list[bool]] = {"ratio": [], "flops": [], "area": []}
    for study in range(60):
        rng = np.random.default_rng([1, study])
        curves = curves_of(one(study_of(drawn(rng, seeds, 300), k=4, roles={0: Role.BASE}))).draws

        def covers(kind: str, low: np.ndarray, high: np.ndarray, true: np.ndarray) -> None:
            ends = percentile_interval(low, high)
            hits[kind].append(bool(ends[0] <= true * (1 + 1e-9) and true <= ends[1] * (1 + 1e-9)))

        for a, b in pairs:
            ratio = flop_ratio(curves[:, a], curves[:, b], budgets)
            covers("ratio", ratio.low, ratio.high, flop_ratio(truth[a], truth[b], budgets).low)
        for a in range(1, 6):
            target = truth[a].mean()
            to = flops_to(curves[:, a], budgets, target)
            covers("flops", to.low, to.high, flops_to(truth[a], budgets, target).low)
            whole = area(curves[:, a], budgets)
            covers("area", whole, whole, area(truth[a], budgets))
    assert all(np.mean(found) >= least for found in hits.values()), {k: np.mean(v) for k, v in hits.items()}
