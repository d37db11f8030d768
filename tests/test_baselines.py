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
    rounds_of,
    run,
)

from repro.method import (
    SFT,
    BudgetSpent,
    Completion,
    Optimizer,
    Pair,
    Problem,
    Role,
    SFTStage,
    Verdict,
    is_last_round,
)

PATHS = sys.modules["baselines._paths"]  # which rft.py imports
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


SUPERVISED = [
    "star", "star_acc", "star_acc_full", "star_acc_full_k", "star_full", "rest_em", "rft", "adastar",
    "star_acc_lazy", "b_star", "online_rft", "iterative_rft", "raft", "dart", "_template",
]  # fmt: skip


@pytest.mark.parametrize("name", SUPERVISED)
def test_supervised_methods_train_on_correct_solutions_only(name: str) -> None:
    lab = run(name, fake_lab(name, accuracy=ACCURACIES["mixed"], limit=60_000))
    assert lab.made("train")
    for call in lab.made("train"):
        assert all(
            int(example.response.split("#### ")[1]) == int(example.problem.id[1:]) for example in call["data"]
        )


@pytest.mark.parametrize("name", ["iterative_dpo", "hs_star", "sai_dpo", "iterative_rpo"])
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
    imported, beside = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            (beside if node.level else imported).add(node.module or "")
    ours = {module for module in imported if module.startswith(("repro", "baselines"))}
    foreign = {module.split(".")[0] for module in imported} - {"repro", "numpy", "sklearn"}
    assert ours <= {"repro.method"} and (ours or beside)
    assert foreign <= set(sys.stdlib_module_names)
    docstring = ast.get_docstring(tree) or ""
    if method_class(name).role is Role.METHOD and name != "_template":
        assert "\nDifferences from the paper" in docstring and "\nEvidence: " in docstring
    assert len(text.splitlines()) <= 150


def test_titles_are_distinct() -> None:
    titles = [method_class(name).title for name in METHODS]
    assert len(set(titles)) == len(titles)


LOSSES = {"grpo"}  # names of TRL's, too


@pytest.mark.promise(
    "A fair comparison",
    "No library code knows a method by its name, and methods see the library by one interface.",
)
def test_the_library_names_no_baseline() -> None:
    for path in sorted((ROOT / "repro").rglob("*.py")):
        tree = ast.parse(path.read_text())
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                named = set(re.findall(r"\w+", node.value)) & set(METHODS) - LOSSES
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


@pytest.mark.parametrize("name", ["star", "star_acc", "adastar", "star_acc_lazy"])
def test_step_schedule(name: str) -> None:
    method: Any = method_class(name)()
    kept = [999] * (name == "star")  # which it takes for the schedule of the released code
    assert [method.steps(t, *kept) for t in range(1, 9)] == [40, 48, 57, 69, 82, 99, 119, 143]


def test_star_growth_stops_at_the_thirtieth_round() -> None:
    star: Any = method_class("star")()
    assert star.steps(30, 1) == star.steps(31, 1) == 7_912  # paper sec. 4.5


def test_star_by_epochs_as_its_code_has_it() -> None:
    star: Any = method_class("star")(length="epochs")
    assert [star.steps(t, 4_000) for t in (1, 2, 3, 6)] == [50, 60, 70, 100]  # 4,000 / 80 * (1 + 0.2 (t - 1))
    assert star.steps(1, 79) == 1


def test_last_round_rule() -> None:
    is_last = is_last_round
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
    assert PATHS.equations_hold(text) is holds


def test_rft_paths() -> None:
    path = PATHS.path
    assert path("a <<2*3=6>> b << 6+1 = 7 >>") == "2*3=6|6+1=7"
    assert path("3 + 4 = 7 ; 7 * 2 = 14") == path("so 3+4 = 7, then 7*2=14!") == "3+4=7|7*2=14"
    assert path("3 + 4 = 7") != path("4 + 3 = 7")  # order matters
    assert path("The  Answer") == path("the answer\n") != path("an answer")


def test_rft_keeps_of_two_texts_with_one_path_the_farther_one() -> None:
    distinct = PATHS.distinct
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

    distance = PATHS.edit_distance
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
    assert statistics.order("last, win") == [4, 1, 3, 2, 5, 0]
    assert statistics.order("last") == [4, 1, 3, 2, 5, 0]
    assert statistics.order("win, last") == [4, 1, 5, 0, 3, 2]
    other = MODULES["adastar"].Statistics(last=[1, 1, 0], wins=[1.0, 0.0, 1.0], rank=[0, 1, 2])
    assert other.order("last") == [2, 0, 1] != other.order("last, win") == [2, 1, 0]


def test_adastar_ties_by_id_are_the_code_s_strings() -> None:
    state = play("adastar", fake_lab("adastar", accuracy=ACCURACIES["never"]), ties="id")
    assert state.order("last")[:5] == [0, 1, 10, 11, 12]


def test_adastar_pop_count() -> None:
    pops = MODULES["adastar"].pops
    assert pops(100, 0.5) == 25 and pops(10, 0.75) == 5 and pops(10, 1.0) == 10 and pops(10, 0.0) == 0
    assert all(pops(m, s / m) == s * s // m for m in range(1, 200) for s in range(m + 1))
    assert pops(10, 0.75, how="round") == 6  # 5.625
    assert pops(10, 0.3, power=0) == pops(10, 0.0, power=0) == 10  # without AdaC


def test_adastar_stops_when_full_and_dates_only_the_popped() -> None:
    # B_t = 4 steps * 4 = 16. Even problems are solved at once, odd ones never.
    lab = fake_lab("adastar", accuracy=lambda problem, hinted: float(int(problem.id[1:]) % 2 == 0))
    state = play("adastar", lab)
    visited = sum(len(call["problems"]) for call in lab.made("sample")[::2])  # every first attempt
    retried = sum(len(call["problems"]) for call in lab.made("sample")[1::2])
    order = MODULES["adastar"].Statistics([0] * 60, [0.0] * 60, state.rank).order("last, win")
    solved = sum(i % 2 == 0 for i in order[:visited])
    assert solved >= 16 and sum(i % 2 == 0 for i in order[: visited - 7]) < 16  # lazy, in chunks of 7
    assert visited - retried == solved
    (training,) = lab.made("train")
    assert len(training["data"]) == 16 and training["steps"] == 4 and training["start"] == "current"

    popped = order[: solved**2 // visited]  # floor(m alpha^2)
    assert [i for i in range(60) if state.last[i] == 1] == sorted(popped)
    assert all(state.wins[i] == float(i % 2 == 0) for i in popped)
    assert state.order("last, win")[-1] in popped and state.order("last, win")[0] == order[len(popped)]


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


ADASTARS = [
    "star_acc",
    "star_acc_lazy",
    "control_unverified",
    "control_gold",
    "control_continued",
    "sft_answers",
]


@pytest.mark.parametrize("name", ADASTARS)
def test_settings_that_are_said_to_be_adastars_are(name: str) -> None:
    adastar, other = method_class("adastar")().model_dump(), method_class(name)().model_dump()
    own = {"rows", "priority", "k", "n_problems"}  # what these rows have of their own
    assert {field: value for field, value in other.items() if field not in own} == {
        field: adastar[field] for field in other if field not in own
    }


# --- the rest of AdaSTaR's table ----------------------------------------------------------------------


def test_the_whole_pool_is_walked_and_failures_tried_again() -> None:
    lab = fake_lab("star_acc", accuracy=lambda problem, hinted: float(hinted or int(problem.id[1:]) < 20))
    play("star_acc", lab, rationalise=True)
    first, second = lab.made("sample")
    assert sorted(ids(first["problems"])) == ids(lab.problems) and not first["hint"]
    assert sorted(ids(second["problems"])) == ids(lab.problems[20:]) and second["hint"]
    (training,) = lab.made("train")
    assert len(training["data"]) == 60 and training["start"] == "current" and training["steps"] == 4


@pytest.mark.parametrize(
    ("name", "start", "epochs"), [("star_acc_full", "current", 1.0), ("star_acc_full_k", "current", 1.0)]
)
def test_full_rows_train_on_all_they_solved(name: str, start: str, epochs: float) -> None:
    lab = fake_lab(name, accuracy=ACCURACIES["always"])
    play(name, lab)
    (training,) = lab.made("train")
    samples = sum(lab.made("sample")[0]["n"])
    assert samples == 60 * (5 if name == "star_acc_full_k" else 1)
    assert len(training["data"]) == samples
    assert (training["start"], training["epochs"], training["steps"]) == (start, epochs, None)


@pytest.mark.parametrize("name", ["star_full", "rest_em"])
def test_rows_that_restart_do_so_and_end_with_the_budget(name: str) -> None:
    lab = run(name, fake_lab(name, limit=40_000))
    *before, last = lab.made("train")
    assert {call["start"] for call in lab.made("train")} == {"base"} and last["steps"] is None and before
    for call in before:
        assert call["steps"] == -(-len(call["data"]) // call["batch_size"])


def test_rest_em_caps_different_solutions() -> None:
    lab = fake_lab("rest_em", accuracy=ACCURACIES["always"], limit=400_000)
    play("rest_em", lab, k=12, cap=2)
    (training,) = lab.made("train")
    assert set(Counter(ids([example.problem for example in training["data"]])).values()) == {2}
    assert len(set(training["data"])) == len(training["data"]) == 120


def test_answers_alone_are_trained_on() -> None:
    lab = run("sft_answers", fake_lab("sft_answers"))
    (training,) = lab.made("train")
    assert lab.made("gold")[0]["answers_only"] and len(training["data"]) == lab.size
    assert training["data"][7].response == "#### 7"


# --- an SFT stage before the first round --------------------------------------------------------------

STAGE = SFTStage(epochs=2, batch_size=8, optimizer=Optimizer(learning_rate=1e-4))


@pytest.mark.parametrize("name", ["b_star", "online_rft", "rft", "hs_star", "iterative_dpo"])
def test_an_sft_stage_comes_first_and_is_charged(name: str) -> None:
    without = fake_lab(name)
    assert not method_class(name)().reads_gold and method_class(name)(sft_stage=STAGE).reads_gold
    lab = fake_lab(name, limit=60_000, plans=method_class(name)().plans)
    run(name, lab, sft_stage=STAGE)
    first = next(call for call in lab.calls if call.what in ("sample", "train"))
    assert (
        first.what == "train"
        and len(first["data"]) == 60
        and (first["epochs"], first["batch_size"]) == (2, 8)
    )
    assert first["optimizer"] == STAGE.optimizer
    assert without.spent == 0
    if name == "rft":  # trains on gold and paths together, from the base model
        last = lab.made("train")[-1]
        gold = [example for example in last["data"] if example.response.startswith("so")]
        assert last["start"] == "base" and 0 < len(gold) == 20 < len(last["data"])


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
    found = MODULES["hs_star"].class_of(accuracy, quality, low=0.15, high=0.65)
    assert (found == "boundary") is boundary
    assert boundary or found == ("inlier" if accuracy else "outlier")


@pytest.mark.parametrize(("merge", "boundary"), [(False, False), (True, True)])
def test_hs_star_merges_identical_solutions_as_its_code(merge: bool, boundary: bool) -> None:
    # All correct; twice the text of reward 0.9, once that of 0.3: on average 0.7, of different texts 0.6.
    lab, texts = fake_lab("hs_star", process_rewards=True), cycle(["a", "a", "b"])
    lab.complete = lambda problem, hint, random: completion(next(texts), True, problem=problem)  # type: ignore[method-assign]
    lab.score = lambda completions: [({"a": 0.9, "b": 0.3}[c.text],) for c in completions]  # type: ignore[method-assign]
    play("hs_star", lab, n_pre=3, tau_high=0.65, merge_identical=merge)
    assert (len(lab.made("sample")) == 2) is boundary


def test_hs_star_pairs_the_best_rewarded_of_both_sides() -> None:
    rated = [
        (reward, completion(text, text.startswith("right")))
        for reward, text in [(0.2, "right c"), (0.9, "right a"), (0.5, "right b"), (0.1, "wrong b")]
    ] + [(0.8, completion("wrong a", False))]
    pairs = MODULES["iterative_dpo"].pair_up(rated, np.random.default_rng(0))
    assert {chosen for chosen, _ in pairs} == {"right a", "right b"}
    assert {rejected for _, rejected in pairs} == {"wrong a", "wrong b"} and len(pairs) == 2
    assert MODULES["iterative_dpo"].pair_up(rated[:3], np.random.default_rng(0)) == []


def test_iterative_dpo_samples_all_problems_alike() -> None:
    lab = fake_lab("iterative_dpo")
    play("iterative_dpo", lab)
    (sampling,), (training,) = lab.made("sample"), lab.made("train")
    assert sampling["n"] == [8] * 25 and training["epochs"] == 1 and training["start"] == "current"
    assert {pair.problem for pair in training["data"]} <= set(sampling["problems"])


@pytest.mark.parametrize("name", ["iterative_dpo", "hs_star", "sai_dpo"])
def test_the_chosen_solutions_alone_are_fine_tuned_on(name: str) -> None:
    pairs, chosen = fake_lab(name), fake_lab(name)
    play(name, pairs)
    play(name, chosen, learn="chosen")
    assert pairs.made("sample") == chosen.made("sample")
    (of_pairs,), (of_chosen,) = pairs.made("train"), chosen.made("train")
    assert isinstance(of_chosen["objective"], SFT)
    wanted = [(pair.problem.id, pair.chosen) for pair in of_pairs["data"]]  # texts as often as in pairs
    assert [(example.problem.id, example.response) for example in of_chosen["data"]] == wanted


@pytest.mark.parametrize("name", ["hs_star", "iterative_dpo", "b_star"])
def test_process_rewards_can_be_left_unused(name: str) -> None:
    lab = fake_lab(name, process_rewards=True)
    play(name, lab, process_rewards=False)
    other = fake_lab(name)
    play(name, other)
    assert not lab.made("score") and lab.calls == other.calls


@pytest.mark.parametrize(("process_rewards", "n_pre"), [(True, 3), (False, 4)])
def test_hs_star_spends_n_samples_per_problem(process_rewards: bool, n_pre: int) -> None:
    lab = fake_lab("hs_star", process_rewards=process_rewards)
    play("hs_star", lab, n_pre=3)
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


def test_sai_dpo_with_uniform_weights_does_not_favour_failure() -> None:
    knows = {"gain": 1.0, "loss": 0.9, "share": 0.2}
    counts = {}
    for weighting in ("errors", "uniform"):
        lab = fake_lab("sai_dpo", size=600, accuracy=lambda problem, hinted: knows[problem.knowledge[0]])
        play("sai_dpo", lab, n_clusters=20, n_candidates=120, epsilon=0.01, weighting=weighting)
        drawn = lab.made("sample")[1]["problems"]
        counts[weighting] = Counter(problem.knowledge[0] for problem in drawn)
    assert counts["errors"]["share"] > 3 * counts["errors"]["loss"]
    assert max(counts["uniform"].values()) < 2 * min(counts["uniform"].values())


# --- Iterative RPO ------------------------------------------------------------------------------------


def test_iterative_rpo_pairs_begin_anew_with_the_shorter_side() -> None:
    lab, turns = fake_lab("iterative_rpo"), count()

    def complete(problem: Problem, hint: bool, random: np.random.Generator) -> Completion:
        turn = next(turns) % 8
        return completion(f"{'right' if turn < 2 else 'wrong'} {turn}", turn < 2, problem=problem)

    lab.complete = complete  # type: ignore[method-assign]
    play("iterative_rpo", lab, n_problems=1)
    (training,) = lab.made("train")
    assert Counter(pair.chosen for pair in training["data"]) == {"right 0": 3, "right 1": 3}
    assert Counter(pair.rejected for pair in training["data"]).total() == 6 == len(set(training["data"]))
    objective = training["objective"]
    assert (objective.beta, objective.nll_weight, objective.nll_normalization) == (0.1, 1.0, "sequence")


# --- policy gradients ---------------------------------------------------------------------------------


def test_grpo_advantages() -> None:
    grpo: Any = method_class("grpo")()
    weighted = grpo.weighted([completion(str(i), i < 2) for i in range(8)])
    std = (8 * 0.25 * 0.75 / 7) ** 0.5  # of two ones and six zeros, unbiased
    assert [e.weight for e in weighted] == pytest.approx(
        [0.75 / (std + 1e-4)] * 2 + [-0.25 / (std + 1e-4)] * 6
    )
    assert {e.weight for e in grpo.weighted([completion("a", True)] * 8)} == {0.0}


def test_grpo_makes_one_on_policy_update_a_round() -> None:
    lab = fake_lab("grpo", accuracy=ACCURACIES["mixed"])
    play("grpo", lab, rounds=3)
    assert [call.what for call in lab.calls if call.what in ("sample", "train")] == ["sample", "train"] * 3
    for call in lab.made("train"):
        assert (call["steps"], call["batch_size"], call["inherit_optimizer"]) == (1, 48, True)
        assert len(call["data"]) == 48 and call["start"] == "current"


def test_updates_share_a_rounds_samples() -> None:
    lab = fake_lab("grpo", accuracy=ACCURACIES["mixed"])
    play("grpo", lab, updates=3)
    (training,) = lab.made("train")
    assert (training["steps"], training["batch_size"]) == (3, 16)


def test_raft_keeps_the_correct_and_reinforce_rej_groups_of_both_kinds() -> None:
    both = [completion("a", True), completion("b", False), completion("c", True)]
    raft: Any = method_class("raft")()
    assert [(e.response, e.weight) for e in raft.weighted(both)] == [("a", 1.0), ("c", 1.0)]
    rej: Any = method_class("reinforce_rej")()
    assert [(e.response, e.weight) for e in rej.weighted(both)] == [("a", 1.0), ("b", -1.0), ("c", 1.0)]
    assert rej.weighted(both[:1]) == rej.weighted(both[1:2]) == []


def test_greso_skips_by_streak_and_resamples_until_enough_are_useful() -> None:
    greso: Any = method_class("greso")(p_easy=0.5, p_hard=0.25)
    state = greso.start(fake_lab("greso"))
    state.streak = dict.fromkeys(range(1_000), 2) | dict.fromkeys(range(1_000, 2_000), -1)
    kept = greso.unskipped(3_000, state, np.random.default_rng(0), 10**6)
    easy, hard, other = (sum(low <= i < low + 1_000 for i in kept) for low in (0, 1_000, 2_000))
    assert 200 < easy < 300 and 200 < hard < 300 and other == 1_000  # 0.5^2, 0.25^1
    state.streak, state.ahead = dict.fromkeys(range(1_000), 40), []
    assert 1 <= len(greso.unskipped(1_000, state, np.random.default_rng(0), 10**6)) < 30  # never below 0.01

    lab = fake_lab("greso", accuracy=lambda problem, hinted: (0.0, 0.5, 1.0)[int(problem.id[1:]) % 3])
    state = play("greso", lab)
    drawn, useful = lab.made("sample"), lab.made("log")[0]["useful"]
    assert len(drawn) > 1 and len(drawn[0]["problems"]) == 24
    assert {p.id for call in lab.made("train") for e in call["data"] if (p := e.problem)} <= {
        problem.id for problem in lab.problems[1::3]
    }
    assert all(state.streak[i] == (-1, None, 1)[i % 3] for i in state.streak if i % 3 != 1)
    assert useful <= 20 and state.p_easy == 0.4  # no adaptation in the first pass


def test_greso_counts_how_often_in_a_row() -> None:
    groups = iter([[True] * 3, [True] * 3, [False] * 3, [False] * 3, [True, False, True]])
    lab, greso = fake_lab("greso", size=1), method_class("greso")(p_easy=0.99, p_hard=0.99)
    lab.sample = lambda problems, n, **how: [[completion("", right) for right in next(groups)]]  # type: ignore[method-assign]
    state, counts = greso.start(lab), []
    for lab.round in range(1, 6):
        greso.groups(lab, state)  # type: ignore[attr-defined]
        counts.append(state.streak[0])
    assert counts == [1, 2, -1, -2, 0]


def test_greso_moves_its_probabilities_by_the_wanted_shares() -> None:
    for accuracy, easy, hard in ((1.0, 0.39, 0.51), (0.0, 0.41, 0.49), (0.5, None, None)):
        lab = fake_lab("greso", accuracy=lambda problem, hinted, accuracy=accuracy: accuracy)
        *_, state = rounds_of("greso", lab, 2, n_problems=60)
        if easy is not None:
            assert (state.p_easy, state.p_hard) == pytest.approx((easy, hard))
    # A quarter of the problems are never solved, and half of these are skipped in the second pass: about a
    # seventh of its groups are all wrong, where two thirds of a quarter are wanted. None is all right.
    lab, turns = fake_lab("greso", size=64), count()
    lab.complete = (
        lambda problem, hint, random: completion(  # type: ignore[method-assign]
            "", bool(next(turns) % 2) and int(problem.id[1:]) % 4 > 0, problem=problem
        )
    )
    *_, state = rounds_of("greso", lab, 2, n_problems=64, target=0.25)
    assert (state.p_easy, state.p_hard) == pytest.approx((0.41, 0.51))
    greso: Any = method_class("greso")()
    assert greso.moved(0.05, True) == 0.05 and greso.moved(0.95, False) == 0.95


# --- DART ---------------------------------------------------------------------------------------------


def test_dart_targets_are_in_proportion_to_fail_rates() -> None:
    targets = MODULES["dart"].targets
    assert targets(40, [1.0, 0.5, 0.25, 0.01, 0.0]) == [40, 20, 10, 1, 1]
    assert targets(40, [0.5, 0.25]) == [40, 20]  # the hardest there is has k
    assert targets(3, [0.0, 0.0]) == [1, 1]


@pytest.mark.parametrize("allocation", ["uniform", "prop2diff"])
def test_dart_samples_until_each_problem_has_its_number(allocation: str) -> None:
    chance = [0.25, 0.9]
    lab = fake_lab("dart", size=40, limit=10**6, accuracy=lambda p, hinted: chance[int(p.id[1:]) % 2])
    lab.complete = _numbered(lab.complete)  # type: ignore[method-assign]
    run("dart", lab, n_problems=40, k=12, n_pilot=8, most_tries=500, allocation=allocation)
    (training,) = lab.made("train")
    kept = Counter(int(example.problem.id[1:]) % 2 for example in training["data"])
    assert training["start"] == "base" and training["steps"] is None
    if allocation == "uniform":
        assert kept == {0: 240, 1: 240}
    else:
        assert kept[0] > 4 * kept[1] and max(Counter(e.problem.id for e in training["data"]).values()) == 12


def test_dart_takes_the_number_that_its_budget_pays_for() -> None:
    sizes = []
    for limit in (4_000, 10_000, 30_000):
        lab = fake_lab("dart", limit=limit, accuracy=lambda problem, hinted: 0.5)
        lab.complete = _numbered(lab.complete)  # type: ignore[method-assign]
        run("dart", lab, n_problems=30, k=30, most_tries=500)
        (training,) = lab.made("train")
        sampled = sum(10 * (len(c["problems"]) + sum(c["n"])) for c in lab.made("sample"))
        sizes.append(len(training["data"]))
        assert limit - sampled >= len(training["data"]) / 8 * 8 * 60  # an epoch at least is paid for
    assert sizes == sorted(set(sizes))


def _numbered(complete: Any) -> Any:
    """Completions that all differ."""
    turns = count()

    def made(problem: Problem, hint: bool, random: np.random.Generator) -> Completion:
        plain = complete(problem, hint, random)
        return completion(f"{next(turns)} {plain.text}", plain.correct, problem=problem)

    return made


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
    assert score(rated[:4], n_star=4) == pytest.approx(2 / 4 * 2 / 4)  # four pass, two differ and are right
    assert score(rated[:3], n_star=2) == pytest.approx(1 * 2 / 3)
    assert score(rated[:2], n_star=4) == pytest.approx(2 / 4 * 1)
    assert score(rated, n_star=1) == pytest.approx(2 / 5)  # the first factor is at most one
    assert score([], n_star=4) == 0.0


def test_b_star_paper_settings() -> None:
    method: Any = method_class("b_star")()
    assert -(-method.n_wanted // method.n_queries) == 6  # n* in the paper
    assert method.temperatures == (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
    assert len(method.thresholds) == 21 and method.thresholds[0] == -1.0 and method.thresholds[-1] == 1.0


def test_b_star_cap_grows_until_enough_are_kept() -> None:
    def cap(sizes: list[int], wanted: int) -> list[int]:
        ranked = [[(1.0, completion(str(i), True)) for i in range(size)] for size in sizes]
        return [len(one) for one in MODULES["b_star"].capped(ranked, wanted)]

    assert cap([5, 1, 3], 3) == [1, 1, 1]
    assert cap([5, 1, 3], 4) == cap([5, 1, 3], 5) == [2, 1, 2]
    assert cap([5, 1, 3], 6) == [3, 1, 3] and cap([5, 1, 3], 8) == [4, 1, 3]
    assert cap([5, 1, 3], 100) == [5, 1, 3]
    assert cap([0, 0], 3) == [0, 0] and cap([], 3) == []


def test_b_star_keeps_distinct_texts_best_first() -> None:
    rated = [(0.1, completion("b", True)), (0.9, completion("a", True)), (0.4, completion("b", True)),
             (0.9, completion("c", True)), (0.0, completion("z", True))]  # fmt: skip
    found = MODULES["b_star"].distinct_above(rated, 0.0)
    assert [(reward, c.text) for reward, c in found] == [(0.9, "a"), (0.9, "c"), (0.4, "b")]


@pytest.mark.parametrize(
    ("over", "n_star", "chosen"), [("all", None, 1.0), ("kept", None, 0.5), ("all", 1, 1.0)]
)
def test_b_star_balance_over_what_the_code_keeps(over: str, n_star: int | None, chosen: float) -> None:
    # 40 wanted of 40 queries: n* = 1, one of each probe is kept. At 0.5 half of the probes have four equal
    # right solutions and the others none: over all that passes 1/4 and 0, on average 1/8; of what is kept 1,
    # the others left out. At 1.0 each has two of four right and equal: 1/2; and of what is kept 1, no better.
    lab, turns = fake_lab("b_star"), count()

    def complete(problem: Problem, hint: bool, random: np.random.Generator) -> Completion:
        low, turn = lab.made("sample")[-1]["temperature"] == 0.5, next(turns)
        right = int(problem.id[1:]) % 2 == 0 if low else turn % 4 < 2
        return completion("right" if right else "wrong", right, problem=problem)

    lab.complete = complete  # type: ignore[method-assign]
    play("b_star", lab, temperatures=(0.5, 1.0), n_wanted=40, balance_over=over, n_star=n_star)
    assert lab.made("sample")[-1]["temperature"] == chosen


@pytest.mark.parametrize(("name", "inherits"), [("online_rft", True), ("iterative_rft", False)])
def test_a_grid_of_one_point_is_not_searched(name: str, inherits: bool) -> None:
    lab = fake_lab(name, process_rewards=True)
    play(name, lab, rounds=2)
    assert [(call["temperature"], call["search"]) for call in lab.made("sample")] == [(1.0, False)] * 2
    assert not lab.made("score")
    first, second = lab.made("train")
    assert not first["inherit_optimizer"] and second["inherit_optimizer"] is inherits
    assert {first["horizon"], second["horizon"]} == {4_500 if inherits else None}


def test_online_rft_with_rewards_needs_no_search_either() -> None:
    lab = fake_lab("online_rft", process_rewards=True)
    play("online_rft", lab, process_rewards=True)
    assert len(lab.made("sample")) == 1 and lab.made("score")


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
    assert carried == {(10, False, 4_500), (10, True, 4_500)}  # an SFT stage's moments do not carry over
    assert [call["inherit_optimizer"] for call in lab.made("train")] == [False, True]
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
