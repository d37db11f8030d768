"""The baselines against their papers' arithmetic, and every baseline against the contract of a method.

What a method asks of the Lab, call by call, is in golden/ (see test_golden.py).
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import count, cycle
from typing import Any

import numpy as np
import pytest
from fake_lab import (
    ACCURACIES,
    MODULES,
    NAMES,
    PROMPT,
    RESPONSE,
    ROOT,
    FakeLab,
    fake_lab,
    method_class,
    play,
    run,
)

from repro.method import SFT, BudgetSpent, Completion, Optimizer, Pair, Problem, Role, Verdict

METHODS = [name for name in NAMES if not name.startswith("_")]


SOME = Problem("p", "?", "1")


def completion(text: str, correct: bool, tokens: int = RESPONSE, problem: Problem = SOME) -> Completion:
    verdict = Verdict.CORRECT if correct else Verdict.WRONG
    return Completion(problem, text, PROMPT, tokens, "stop", verdict)


def ids(problems: Sequence[Problem]) -> list[str]:
    return [problem.id for problem in problems]


# --- the contract: every file, every role -----------------------------------------------------------


@pytest.mark.parametrize("process_rewards", [False, True], ids=["verifier", "process"])
@pytest.mark.parametrize("accuracy", ACCURACIES)
@pytest.mark.parametrize("name", NAMES)
def test_ends_with_its_budget_spent_and_is_deterministic(
    name: str, accuracy: str, process_rewards: bool
) -> None:
    def once() -> FakeLab:
        settings = {"accuracy": ACCURACIES[accuracy], "process_rewards": process_rewards}
        return run(name, fake_lab(name, limit=60_000, **settings))

    first, second = once(), once()
    assert first.calls == second.calls
    if method_class(name).role is Role.BASE:
        assert first.calls == [] and first.spent == 0
    else:
        assert first.spent == first.limit
        assert first.made("train") or accuracy != "mixed"  # with nothing, or no contrast, to learn from


@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_one_round_says_so(name: str) -> None:
    """With a budget that pays for several rounds of any other."""
    cls = method_class(name)
    lab = run(name, fake_lab(name, accuracy=ACCURACIES["mixed"], limit=400_000))
    assert (lab.round == 1) <= (cls.one_round or cls.role is Role.BASE)


@pytest.mark.parametrize("name", ["star", "rft", "adastar", "star_acc_lazy", "b_star", "_template"])
def test_supervised_methods_train_on_correct_solutions_only(name: str) -> None:
    lab = run(name, fake_lab(name, accuracy=ACCURACIES["mixed"], limit=60_000))
    assert lab.made("train")
    for call in lab.made("train"):
        assert all(
            int(example.response.split("#### ")[1]) == int(example.problem.id[1:]) for example in call["data"]
        )


@pytest.mark.parametrize("name", ["hs_star", "sai_dpo"])
def test_preference_methods_pair_correct_with_wrong(name: str) -> None:
    lab = run(name, fake_lab(name, accuracy=ACCURACIES["mixed"], limit=60_000))
    assert lab.made("train")
    for call in lab.made("train"):
        assert all(pair.chosen.endswith(f"= {int(pair.problem.id[1:])} #### {int(pair.problem.id[1:])}")
                   and pair.rejected.startswith("guess") for pair in call["data"])  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_file_imports_the_public_api_only_and_says_what_differs(name: str) -> None:
    text = (ROOT / "baselines" / f"{name}.py").read_text()
    tree = ast.parse(text)
    imported = {
        module
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    ours = {str(module) for module in imported if str(module).startswith(("repro", "baselines"))}
    foreign = {str(module).split(".")[0] for module in imported} - {"repro", "numpy", "sklearn"}
    assert ours == {"repro.method"}
    assert foreign <= set(sys.stdlib_module_names)
    cls = method_class(name)
    assert cls.role is not Role.METHOD or "Differences from the paper" in (ast.get_docstring(tree) or "")
    assert len(text.splitlines()) <= 170


def test_titles_are_distinct() -> None:
    titles = [method_class(name).title for name in METHODS]
    assert len(set(titles)) == len(titles)


def test_the_library_names_no_baseline() -> None:
    for path in sorted((ROOT / "repro").rglob("*.py")):
        tree = ast.parse(path.read_text())
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                named = set(re.findall(r"\w+", node.value)) & set(METHODS)
                assert not named, f"{path}:{node.lineno} names the method {named}"


def test_hyperparameters_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValueError, match="learning_rat"):
        method_class("star")(learning_rat=1e-3)
    with pytest.raises(ValueError, match="batch_size"):
        method_class("star")(batch_size="many")


def test_the_fake_lab_refuses_what_the_lab_refuses() -> None:
    lab = fake_lab("sai_dpo")
    with pytest.raises(ValueError, match="plan"):
        _ = lab.remaining
    assert lab.affords(lab.limit + 1)  # there is no last round
    with pytest.raises(ValueError, match="SFT"):
        lab.train([Pair(SOME, "a", "b")], optimizer=Optimizer(learning_rate=1), batch_size=1, objective=SFT())
    assert not fake_lab("star").affords(lab.limit + 1)


# --- STaR -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["star", "adastar", "star_acc_lazy"])
def test_step_schedule(name: str) -> None:
    method: Any = method_class(name)()
    assert [method.steps(t) for t in range(1, 9)] == [40, 48, 57, 69, 82, 99, 119, 143]


def test_star_growth_stops_at_the_thirtieth_round() -> None:
    star: Any = method_class("star")()
    assert star.steps(30) == star.steps(31) == 7_912  # paper sec. 4.5


def test_star_last_round_rule() -> None:
    is_last = MODULES["star"].is_last_round
    # This training 40 * 10, sampling again 100, next training 48 * 10: 980 in all.
    assert is_last(remaining=979, sampling=100, step=10, steps=40, next_steps=48)
    assert not is_last(remaining=980, sampling=100, step=10, steps=40, next_steps=48)


@pytest.mark.parametrize(("limit", "last"), [(5_039, True), (5_040, False)])
def test_star_asks_whether_the_next_round_fits(limit: int, last: bool) -> None:
    # Sampling 60 * 20 = 1,200, twice; 5 steps of 4 * 3 * 20 = 240 now and 6 in the next round: 5,040.
    lab = fake_lab("star", accuracy=ACCURACIES["always"], limit=limit)
    with pytest.raises(BudgetSpent):
        play("star", lab, rounds=2, n_problems=60)
    assert lab.made("train")[0]["steps"] == (None if last else 5)


def test_star_rationalises_failures_from_the_base_model() -> None:
    lab = fake_lab("star", accuracy=lambda problem, hinted: float(hinted or int(problem.id[1:]) < 20))
    play("star", lab, n_problems=60)
    plain, hinted = lab.made("sample")
    assert sorted(ids(plain["problems"])) == ids(lab.problems) and not plain["hint"]
    assert sorted(ids(hinted["problems"])) == ids(lab.problems[20:]) and hinted["hint"]
    (training,) = lab.made("train")
    assert len(training["data"]) == 60 and training["steps"] == 5 and training["start"] == "base"


def test_star_trains_its_last_round_to_the_end() -> None:
    lab = run("star", fake_lab("star", limit=20_000), growth_rounds=30)
    steps = [call["steps"] for call in lab.made("train")]
    assert steps[:-1] == [5, 6, 7, 8, 10, 12, 14][: len(steps) - 1] and steps[-1] is None
    assert len(steps) > 2


def test_star_without_hints_and_with_fewer_problems() -> None:
    lab = fake_lab("star")
    play("star", lab, rounds=2, rationalise=False, n_problems=10)
    first, second = lab.made("sample")
    assert len(first["problems"]) == len(second["problems"]) == 10 and first["problems"] != second["problems"]


# --- RFT --------------------------------------------------------------------------------------------


def test_rft_plans_k_from_what_is_left() -> None:
    further = MODULES["rft"].further
    # 1,000 left, one more sample of all costs 100, training 300 now and so 100 more per sample of three.
    assert further(remaining=1_000, k=3, one_more=100, training=300, k_max=100) == 3  # 3.5, at most 3
    assert further(remaining=700, k=3, one_more=100, training=300, k_max=100) == 2
    assert further(remaining=499, k=3, one_more=100, training=300, k_max=100) == 0
    assert further(remaining=10**9, k=64, one_more=100, training=300, k_max=100) == 36
    assert further(remaining=100, k=1, one_more=10, training=300, k_max=100) == 0


def test_rft_spends_more_samples_of_a_bigger_budget_and_trains_once() -> None:
    ks = []
    for limit in (10_000, 40_000, 400_000):
        lab = run("rft", fake_lab("rft", limit=limit), n_problems=60, k_max=8)
        (training,) = lab.made("train")
        assert training["steps"] is training["epochs"] is None and training["start"] == "base"
        ks.append(sum(call["n"][0] for call in lab.made("sample")))
    assert ks == sorted(ks) and ks[0] < ks[1] and ks[-1] == 8


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("7 + 5 = 12 ; 12 / 4 = 3 #### 3", True),
        ("7 + 5 = 13 ; 13 / 4 = 3 #### 3", False),
        ("She has 48/2 = <<48/2=24>>24 clips.", True),
        ("She has 48/2 = <<48/2=25>>25 clips.", False),
        ("It costs $1,200 * 3 = $3,600.", True),
        ("2 + 3 * 4 = 14", True),
        ("-3 * 2 + 10 = 4", True),
        ("10 / 3 = 3.33", False),  # the released code's tolerance is 0.001
        ("10 / 3 = 3.3333", True),
        ("1 / 0 = 5", False),
        ("17 mod 5 = 2 and 17 % 5 = 2", True),
        ("6 x 7 = 42, $6 \\times 7 = 43$", False),
        ("10 - 4 = 2 * 3", True),  # an equation of two expressions is not judged
        ("(3 + 4) * 2 + 1 = 15", True),  # nor is the tail of a bracketed one
        ("no equation at all", True),
        ("9" * 5_000 + " + 1 = 3", False),
        ("__import__('os') + 1 = 2", True),
    ],
)
def test_rft_equation_check(text: str, holds: bool) -> None:
    assert MODULES["rft"].equations_hold(text) is holds


def test_rft_paths() -> None:
    path = MODULES["rft"].path
    assert path("a <<2*3=6>> b << 6+1 = 7 >>") == "2*3=6|6+1=7"
    assert path("3 + 4 = 7 ; 7 * 2 = 14") == path("so 3+4 = 7, then 7*2=14!") == "3+4=7|7*2=14"
    assert path("3 + 4 = 7") != path("4 + 3 = 7")  # order matters
    assert path("The  Answer") == path("the answer\n") != path("an answer")


def test_rft_keeps_of_two_texts_with_one_path_the_farther_one() -> None:
    distinct = MODULES["rft"].distinct
    base, near, far = "1 + 2 = 3", "2 + 1 = 3", "well then , 2 + 1 = 3"
    assert distinct([base, near, far]) == [base, far]
    assert distinct([base, far, near]) == [base, far]
    assert distinct([base, base]) == [base]
    assert distinct([near, far]) == [near]  # nothing else to be far from: the first stays
    assert distinct([]) == []


def test_rft_edit_distance_equals_the_textbook_table() -> None:
    def table(a: str, b: str) -> int:
        row = list(range(len(b) + 1))
        for i, x in enumerate(a, 1):
            before, row = row, [i]
            for j, y in enumerate(b, 1):
                row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y)))
        return row[-1]

    distance = MODULES["rft"].edit_distance
    assert distance("kitten", "sitting") == 3 and distance("", "abc") == distance("abc", "") == 3
    random = np.random.default_rng(0)
    for _ in range(300):
        a, b = ("".join(random.choice(list("abc"), size=random.integers(12))) for _ in range(2))
        assert distance(a, b) == table(a, b)


def test_rft_trains_on_what_adds_up() -> None:
    lab, texts = (
        fake_lab("rft"),
        cycle(["2 + 2 = 4", "2 + 2 = 5", "by hand"]),
    )  # the answer is right each time
    lab.complete = lambda problem, hint, random: completion(next(texts), True, problem=problem)  # type: ignore[method-assign]
    run("rft", lab)
    (training,) = lab.made("train")
    assert {example.response for example in training["data"]} == {"2 + 2 = 4", "by hand"}


# --- AdaSTaR ----------------------------------------------------------------------------------------


def test_adastar_order_is_last_then_win_rate_then_rank() -> None:
    statistics = MODULES["adastar"].Statistics(
        last=[2, 0, 1, 1, 0, 2], wins=[0.0, 0.0, 1.0, 0.5, 0.0, 0.0], rank=[5, 4, 3, 2, 1, 0]
    )
    assert statistics.order() == [4, 1, 3, 2, 5, 0]


def test_adastar_pop_count() -> None:
    pops = MODULES["adastar"].pops
    assert pops(100, 0.5) == 25 and pops(10, 0.75) == 5 and pops(10, 1.0) == 10 and pops(10, 0.0) == 0
    assert all(pops(m, s / m) == s * s // m for m in range(1, 200) for s in range(m + 1))


def test_adastar_stops_when_full_and_dates_only_the_popped() -> None:
    # B_t = 4 steps * 4 = 16. Even problems are solved at once, odd ones never.
    lab = fake_lab("adastar", accuracy=lambda problem, hinted: float(int(problem.id[1:]) % 2 == 0))
    state = play("adastar", lab)
    visited = sum(len(call["problems"]) for call in lab.made("sample")[::2])  # every first attempt
    retried = sum(len(call["problems"]) for call in lab.made("sample")[1::2])
    order = MODULES["adastar"].Statistics([0] * 60, [0.0] * 60, state.rank).order()
    solved = sum(i % 2 == 0 for i in order[:visited])
    assert solved >= 16 and sum(i % 2 == 0 for i in order[: visited - 8]) < 16  # lazy, in chunks of 8
    assert visited - retried == solved
    (training,) = lab.made("train")
    assert len(training["data"]) == 16 and training["steps"] == 4 and training["start"] == "current"

    popped = order[: solved**2 // visited]  # floor(m alpha^2)
    assert [i for i in range(60) if state.last[i] == 1] == sorted(popped)
    assert all(state.wins[i] == float(i % 2 == 0) for i in popped)
    assert state.order()[-1] in popped and state.order()[0] == order[len(popped)]


@pytest.mark.parametrize("name", ["adastar", "star_acc_lazy"])
def test_a_last_round_that_is_planned_trains_until_the_budget_ends(name: str) -> None:
    lab = run(name, fake_lab(name, limit=12_000), plans=True)
    *before, last = [call["steps"] for call in lab.made("train")]
    assert len(before) > 2 and None not in before and last is None
    assert not any(call["start"] == "base" for call in lab.made("train"))


def test_adastar_second_attempt_counts_half() -> None:
    lab = fake_lab("adastar", accuracy=lambda problem, hinted: float(hinted))
    state = play("adastar", lab, rationalise=True, chunk=60)
    assert {call["hint"] for call in lab.made("sample")} == {False, True}
    assert state.wins == [0.5] * 60 and state.last == [1] * 60


@pytest.mark.parametrize("name", ["star_acc_lazy", "control_unverified", "control_gold", "control_continued"])
def test_settings_that_are_said_to_be_adastars_are(name: str) -> None:
    adastar, other = method_class("adastar")().model_dump(), method_class(name)().model_dump()
    assert {field: value for field, value in other.items() if field != "rows"} == {
        field: adastar[field] for field in other if field != "rows"
    }
    if name == "star_acc_lazy":
        assert set(adastar) - set(other) == {"power"}  # of what this row is without


# --- HS-STaR ----------------------------------------------------------------------------------------


def test_hs_star_shares() -> None:
    shares = MODULES["hs_star"].shares
    random = np.random.default_rng(0)
    assert shares((8 - 3) * 7_500, 2_500, random) == [15] * 2_500
    uneven = shares((8 - 3) * 7_500, 2_600, random)  # 37,500 = 14 * 2,600 + 1,100
    assert Counter(uneven) == {15: 1_100, 14: 1_500} and sum(uneven) == 37_500
    assert uneven != sorted(uneven, reverse=True)  # the remainder falls at random
    assert shares(3, 5, random).count(1) == 3


@pytest.mark.parametrize(
    ("accuracy", "quality", "boundary"),
    [
        (1.0, 0.66, False),
        (1.0, 0.65, True),  # all correct, but poor reasoning
        (0.0, 0.14, False),
        (0.0, 0.15, True),  # all wrong, but decent reasoning
        (1 / 3, 0.0, True),
        (1.0, None, False),
        (0.0, None, False),
        (0.5, None, True),
    ],
)
def test_hs_star_classes(accuracy: float, quality: float | None, boundary: bool) -> None:
    assert MODULES["hs_star"].is_boundary(accuracy, quality, low=0.15, high=0.65) is boundary


def test_hs_star_pairs_the_best_rewarded_of_both_sides() -> None:
    rated = [
        (reward, completion(text, text.startswith("right")))
        for reward, text in [(0.2, "right c"), (0.9, "right a"), (0.5, "right b"), (0.1, "wrong b")]
    ] + [(0.8, completion("wrong a", False))]
    pairs = MODULES["hs_star"].pair_up(rated, np.random.default_rng(0))
    assert {chosen for chosen, _ in pairs} == {"right a", "right b"}
    assert {rejected for _, rejected in pairs} == {"wrong a", "wrong b"} and len(pairs) == 2
    assert MODULES["hs_star"].pair_up(rated[:3], np.random.default_rng(0)) == []


@pytest.mark.parametrize(("process_rewards", "n_pre"), [(True, 3), (False, 4)])
def test_hs_star_spends_n_samples_per_problem(process_rewards: bool, n_pre: int) -> None:
    lab = fake_lab("hs_star", process_rewards=process_rewards)
    play("hs_star", lab)
    pre, again = lab.made("sample")
    assert pre["n"] == [n_pre] * 25 and sum(pre["n"]) + sum(again["n"]) == 8 * 25
    assert set(again["problems"]) <= set(pre["problems"])


def test_hs_star_pairs_its_pre_samples_too() -> None:
    lab = fake_lab("hs_star")
    turns = count()

    def complete(problem: Problem, hint: bool, random: np.random.Generator) -> Completion:
        right = len(lab.made("sample")) == 1 and next(turns) % 4 == 0  # one of four, and never again
        return completion("right" if right else "wrong", right, problem=problem)

    lab.complete = complete  # type: ignore[method-assign]
    play("hs_star", lab)
    (training,) = lab.made("train")
    assert ids(lab.made("sample")[1]["problems"]) == [pair.problem.id for pair in training["data"]]
    assert {(pair.chosen, pair.rejected) for pair in training["data"]} == {("right", "wrong")}


@pytest.mark.parametrize(("how", "reward"), [("min", 0.25), ("mean", 0.5), ("last", 0.75)])
def test_step_rewards_are_aggregated_as_the_study_says(how: str, reward: float) -> None:
    lab = fake_lab("hs_star", process_rewards=True)
    lab.score = lambda completions: [(0.5, 0.25, 0.75) for _ in completions]  # type: ignore[method-assign]
    (drawn,) = lab.sample(lab.problems[:1], 4)
    (rated,) = method_class("hs_star")(aggregation=how).rate(lab, np.random.default_rng(0), [drawn])
    assert [s for s, _ in rated] == [reward] * 4
    (rated,) = method_class("b_star")(aggregation=how).rate(lab, [drawn])
    assert [r for r, _ in rated] == [c.correct + 2 * reward - 1 for c in drawn]


def test_hs_star_walks_the_pool_in_disjoint_slices() -> None:
    lab = fake_lab("hs_star", accuracy=ACCURACIES["never"])
    play("hs_star", lab, rounds=6)
    slices = [ids(call["problems"]) for call in lab.made("sample")]
    assert [len(s) for s in slices] == [25, 25, 10, 25, 25, 10]
    first, second = ([i for s in part for i in s] for part in (slices[:3], slices[3:]))
    assert sorted(first) == sorted(second) == [p.id for p in lab.problems]
    assert first != second


# --- SAI-DPO ----------------------------------------------------------------------------------------


def test_sai_dpo_cluster_weights() -> None:
    weights = MODULES["sai_dpo"].weights
    assert weights([0.7, 0.2, 0.0], epsilon=0.1) == pytest.approx([8 / 12, 3 / 12, 1 / 12])
    assert weights([0.0, 0.0], epsilon=0.01) == pytest.approx([0.5, 0.5])


def test_sai_dpo_draws_by_weight_without_repetition() -> None:
    draw = MODULES["sai_dpo"].draw
    clusters = [list(range(1_000)), list(range(1_000, 2_000)), [2_000, 2_001]]
    drawn = draw(clusters, [0.6, 0.2, 0.2], 500, np.random.default_rng(0))
    assert len(set(drawn)) == 500 and {2_000, 2_001} <= set(drawn)
    first = sum(i < 1_000 for i in drawn)
    assert 340 < first < 410  # 0.75 of what the small cluster leaves: 373, standard deviation 10
    assert sorted(draw(clusters, [0.6, 0.2, 0.2], 9_999, np.random.default_rng(0))) == list(range(2_002))


def test_sai_dpo_difficulty_order() -> None:
    method: Any = method_class("sai_dpo")()
    right, wrong = completion("a", True), completion("a", False)
    hard = [right, wrong, wrong, wrong]
    steps = [right, wrong, wrong, completion("a\n\nb\n \nc", False)]
    longer = [right, wrong, wrong, completion("a", False, tokens=99)]
    easy = [right, right, right, wrong]
    order = sorted([easy, hard, longer, steps], key=method.difficulty)
    assert order == [steps, longer, hard, easy]


def test_sai_dpo_random_pairs() -> None:
    tries = [completion(f"right {i}", True) for i in range(3)] + [
        completion(f"wrong {i}", False) for i in range(5)
    ]
    pairs = MODULES["sai_dpo"].random_pairs(tries, 2, np.random.default_rng(0))
    assert len(pairs) == len(dict(pairs)) == 2
    assert all(a.startswith("right") and b.startswith("wrong") for a, b in pairs)
    assert len(MODULES["sai_dpo"].random_pairs(tries, 9, np.random.default_rng(0))) == 3


def test_sai_dpo_probes_every_cluster_reuses_probes_and_favours_failure() -> None:
    knows = {"gain": 1.0, "loss": 0.9, "share": 0.2}
    lab = fake_lab("sai_dpo", size=600, accuracy=lambda problem, hinted: knows[problem.knowledge[0]])
    state = play("sai_dpo", lab, rounds=2, n_clusters=20, n_candidates=120, n_selected=20, epsilon=0.01)
    assert [call["texts"] for call in lab.made("embed")] == [["gain", "loss", "share"]]
    assert sorted(map(len, state.clusters)) == [200, 200, 200]
    probe, main, probe_again, _ = lab.made("sample")
    assert probe["search"] and not main["search"] and set(probe["n"] + main["n"]) == {8}
    probed, drawn, probed_again = (set(call["problems"]) for call in (probe, main, probe_again))
    assert not probed & drawn and not probed & probed_again
    kind = {p.id: p.knowledge[0] for p in lab.problems}
    assert Counter(kind[i] for i in ids(probe["problems"])) == {"gain": 4, "loss": 4, "share": 4}
    kinds = Counter(kind[i] for i in ids(main["problems"]))
    assert kinds["share"] > 4 * kinds["loss"]
    training, _ = lab.made("train")
    assert training["epochs"] == 2 and training["start"] == "current"
    assert len({pair.problem.id for pair in training["data"]}) <= 20 and len(training["data"]) <= 40


# --- B-STaR -----------------------------------------------------------------------------------------


def test_b_star_balance_score() -> None:
    score = MODULES["b_star"].balance_score
    rated = [
        (2.0, completion("right a", True)),
        (1.5, completion("right b", True)),
        (1.2, completion("right b", True)),
        (0.4, completion("wrong", False)),
        (-0.6, completion("worse", False)),
    ]
    assert score(rated, 0.0, n_star=4) == pytest.approx(2 / 4 * 2 / 4)  # four pass, two differ and are right
    assert score(rated, 0.5, n_star=2) == pytest.approx(1 * 2 / 3)
    assert score(rated, 1.3, n_star=4) == pytest.approx(2 / 4 * 1)
    assert score(rated, -1.0, n_star=1) == pytest.approx(2 / 5)  # the first factor is at most one
    assert score(rated, 2.0, n_star=4) == 0.0  # strictly above: nothing passes


def test_b_star_paper_settings() -> None:
    method: Any = method_class("b_star")()
    assert -(-method.n_wanted // method.n_queries) == 6  # n* in the paper
    assert method.temperatures == (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
    assert len(method.thresholds) == 21 and method.thresholds[0] == -1.0 and method.thresholds[-1] == 1.0


def test_b_star_cap_grows_until_enough_are_kept() -> None:
    cap = MODULES["b_star"].smallest_cap
    assert cap([5, 1, 3], 3) == 1  # 1 + 1 + 1
    assert cap([5, 1, 3], 4) == cap([5, 1, 3], 5) == 2  # 2 + 1 + 2
    assert cap([5, 1, 3], 6) == 3 and cap([5, 1, 3], 8) == 4 and cap([5, 1, 3], 100) == 5
    assert cap([0, 0], 3) == cap([], 3) == 0


def test_b_star_keeps_distinct_texts_best_first() -> None:
    rated = [(0.1, completion("b", True)), (0.9, completion("a", True)), (0.4, completion("b", True)),
             (0.0, completion("z", True))]  # fmt: skip
    assert MODULES["b_star"].distinct_above(rated, 0.0) == ["a", "b"]


@pytest.mark.parametrize("process_rewards", [False, True])
def test_b_star_chooses_the_best_temperature_and_carries_the_optimizer(process_rewards: bool) -> None:
    lab = fake_lab("b_star", process_rewards=process_rewards)
    plain = lab.sample

    def sample(problems: Sequence[Problem], n: Any = 1, **how: Any) -> list[list[Completion]]:
        lab.accuracy = lambda problem, hinted: 0.9 if how["temperature"] == 0.8 else 0.2
        return plain(problems, n, **how)

    lab.sample = sample  # type: ignore[method-assign]
    play("b_star", lab, rounds=2)
    first = lab.made("sample")[: len(lab.made("sample")) // 2]
    assert [call["temperature"] for call in first] == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 0.8]
    assert [call["search"] for call in first] == [True] * 8 + [False]
    carried = {(call["steps"], call["inherit_optimizer"], call["horizon"]) for call in lab.made("train")}
    assert carried == {(10, True, 4_500)}
    probed = {tuple(call["problems"]) for call in lab.made("sample") if call["search"]}
    assert len(probed) == 1  # one probe set for the run


def test_b_star_by_hand_without_process_rewards() -> None:
    # 50 wanted of 40 queries: n* = 2. At 0.5 one of four is right, so one passes: min(1/2, 1) * 1/1. At 1.0
    # all are, and three differ: 1 * 3/4. (Were n* 1, the first would win.) Of each query one text makes 40,
    # too few; two make 80.
    texts = {0.5: ["right", "w", "w", "w"], 1.0: ["right a", "right b", "right c", "right a"]}
    lab, turns = fake_lab("b_star"), count()

    def complete(problem: Problem, hint: bool, random: np.random.Generator) -> Completion:
        text = texts[lab.made("sample")[-1]["temperature"]][next(turns) % 4]
        return completion(text, text.startswith("right"), problem=problem)

    lab.complete = complete  # type: ignore[method-assign]
    play("b_star", lab, temperatures=(0.5, 1.0), n_wanted=50)
    assert [call["temperature"] for call in lab.made("sample")] == [0.5, 1.0, 1.0]
    (training,) = lab.made("train")
    kept = Counter(example.problem.id for example in training["data"])
    assert len(kept) == 40 and set(kept.values()) == {2}


def test_b_star_by_hand_with_process_rewards() -> None:
    # r = correct + 2 * reward - 1: good 1.8, slick (which is wrong) 0.72, poor 0.64. With n* = 1 the
    # thresholds from 0.8 on score 1 * 1/1, 0.7 scores 1 * 1/2, and all below score 1 * 2/3. Half of the
    # queries have nothing that passes, so more would be taken of the others if more passed there.
    rewards = {"good": 0.9, "slick": 0.86, "poor": 0.32, "bad": 0.25}
    lab, texts = fake_lab("b_star", process_rewards=True), cycle(["good", "slick", "poor"])

    def complete(problem: Problem, hint: bool, random: np.random.Generator) -> Completion:
        text = "bad" if int(problem.id[1:]) % 2 else next(texts)
        return completion(text, text in ("good", "poor"), problem=problem)

    lab.complete = complete  # type: ignore[method-assign]
    lab.score = lambda completions: [(rewards[c.text],) for c in completions]  # type: ignore[method-assign]
    play("b_star", lab, k=3, n_wanted=40)
    (training,) = lab.made("train")
    solvable = {problem for problem in lab.made("sample")[-1]["problems"] if int(problem.id[1:]) % 2 == 0}
    assert {example.problem for example in training["data"]} == solvable
    assert len(training["data"]) == len(solvable) and {e.response for e in training["data"]} == {"good"}


# --- controls ---------------------------------------------------------------------------------------


def test_unverified_trains_on_everything_it_samples() -> None:
    lab = fake_lab("control_unverified", accuracy=ACCURACIES["mixed"])
    play("control_unverified", lab)
    (sampling,), (training,) = lab.made("sample"), lab.made("train")
    assert [example.problem for example in training["data"]] == sampling["problems"]
    assert len(sampling["problems"]) == 16
    assert any(example.response.startswith("guess") for example in training["data"])


def test_continued_is_one_uninterrupted_training() -> None:
    lab = run("control_continued", fake_lab("control_continued", limit=500_000))
    assert not lab.made("sample") and len(lab.made("train")) > 1
    assert all(call["inherit_optimizer"] and call["start"] == "current" for call in lab.made("train"))


def test_gold_trains_once_on_every_solution() -> None:
    lab = run("control_gold", fake_lab("control_gold"))
    (training,) = lab.made("train")
    assert len(training["data"]) == lab.size and training["steps"] is training["epochs"] is None


def test_roles() -> None:
    roles = Counter(method_class(name).role for name in METHODS)
    assert roles[Role.METHOD] >= 6
    assert roles[Role.ABLATION] >= 1
    assert all(roles[role] == 1 for role in set(Role) - {Role.METHOD, Role.ABLATION})


# --- notice of the last round -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adastar", "star_acc_lazy"])
def test_a_last_round_that_is_planned_trains_on_what_was_sampled(name: str) -> None:
    for limit in range(3_000, 9_000, 500):
        planned = run(name, fake_lab(name, limit=limit, plans=True), plans=True)
        *_, last = [call for call in planned.calls if call.what in ("sample", "train")]
        assert last.what == "train" and last["steps"] is None and planned.spent == limit
        plain = run(name, fake_lab(name, limit=limit))
        sampled = [call.arguments for call in plain.calls if call.what == "sample"]
        first = [call.arguments for call in planned.calls if call.what == "sample"]
        assert first == sampled[: len(first)]  # until then the same run
