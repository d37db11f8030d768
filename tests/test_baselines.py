"""The baselines against their papers' arithmetic, and every baseline against the contract of a method.

The Lab here is a fake: it lives in memory, its model answers by a script, and a token costs one FLOP.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from repro.method import DPO, SFT, BudgetSpent, Method, Optimizer, Role, TrainReport, Unavailable
from repro.records import Completion, Example, Pair, Problem, Verdict
from repro.seeds import generator, stream_seed

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "baselines").glob("*.py"))
IDS = [path.stem for path in FILES if not path.stem.startswith("_")]


def load(name: str) -> ModuleType:
    path = ROOT / "baselines" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"baseline_under_test_{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


MODULES = {path.stem: load(path.stem) for path in FILES}


def method_class(name: str) -> type[Method]:
    module = MODULES[name]
    here = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Method)]
    classes = [c for c in here if c.__module__ == module.__name__]
    assert len(classes) == 1, f"{name} defines {len(classes)} methods"
    return classes[0]


# --- the fake lab -----------------------------------------------------------------------------------

Accuracy = Callable[[Problem, bool], float]  # (problem, hinted) -> probability of a correct sample
PROMPT = RESPONSE = 10  # tokens, so FLOPs


@dataclass
class FakeLab:
    accuracy: Accuracy = lambda problem, hinted: 0.5
    budget: int = 1_000_000
    size: int = 60
    has_process_rewards: bool = False
    gold_allowed: bool = False
    corpus_allowed: bool = False
    seed: int = 0
    round: int = 0
    spent: int = 0
    calls: list[tuple[Any, ...]] = field(default_factory=list)  # (what, details...)

    def __post_init__(self) -> None:
        knowledge = ("gain", "loss", "share")
        self.problems = [
            Problem(f"p{i:03d}", f"How many are {i} ?", "1", (knowledge[i % 3],)) for i in range(self.size)
        ]

    @property
    def remaining(self) -> int:
        return self.budget - self.spent

    def spend(self, flops: int) -> None:
        self.spent = min(self.budget, self.spent + flops)
        if self.spent == self.budget:
            raise BudgetSpent

    def sample(
        self,
        problems: Sequence[Problem],
        n: int | Sequence[int] = 1,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        hint: bool = False,
        search: bool = False,
    ) -> list[list[Completion]]:
        assert len(problems) > 0, "sampled nothing"
        assert temperature >= 0 and 0 < top_p <= 1 and top_k >= 0
        counts = [n] * len(problems) if isinstance(n, int) else list(n)
        assert len(counts) == len(problems) and all(count >= 0 for count in counts)
        self.calls.append(("sample", [p.id for p in problems], counts, temperature, hint, search))
        random = generator("sample", self.seed, len(self.calls))
        drawn = []
        for problem, count in zip(problems, counts, strict=True):
            self.spend(PROMPT + count * RESPONSE)
            drawn.append([self.complete(problem, hint, random) for _ in range(count)])
        return drawn

    def complete(self, problem: Problem, hint: bool, random: np.random.Generator) -> Completion:
        correct = random.random() < self.accuracy(problem, hint)
        a, b = int(random.integers(4)), int(problem.id[1:])
        total = b if correct else b + 1 + int(random.integers(5))
        text = f"{b - a} + {a} = {b} #### {total}" if correct else f"guess {total} #### {total}"
        verdict = Verdict.CORRECT if correct else Verdict.WRONG
        return Completion(problem, text, PROMPT, RESPONSE, "stop", verdict, hinted=hint)

    def score(self, completions: Sequence[Completion]) -> list[tuple[float, ...]]:
        if not self.has_process_rewards:
            raise Unavailable("no process scorer")
        self.calls.append(("score", len(completions)))
        self.spend(len(completions) * RESPONSE)
        # Two steps that depend on the text only; correct texts score higher on average.
        draws = [stream_seed(c.text) / 2**64 for c in completions]
        return [(0.9, 0.5 * c.correct + 0.5 * draw) for c, draw in zip(completions, draws, strict=True)]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.calls.append(("embed", list(texts)))
        vectors = np.array([generator("embed", text).normal(size=8) for text in texts])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def train(
        self,
        data: Sequence[Example] | Sequence[Pair],
        *,
        optimizer: Optimizer,
        batch_size: int,
        objective: SFT | DPO | None = None,
        start: str = "current",
        steps: int | None = None,
        epochs: float | None = None,
        inherit_optimizer: bool = False,
        horizon: int | None = None,
    ) -> TrainReport:
        assert len(data) > 0, "trained on nothing"
        assert len({type(row) for row in data}) == 1
        assert isinstance(optimizer, Optimizer) and batch_size >= 1
        assert steps is None or epochs is None
        assert not (isinstance(data[0], Example) and isinstance(objective, DPO))
        self.calls.append(("train", list(data), steps, epochs, start, inherit_optimizer, horizon))
        cost = self.step_cost(data, batch_size, objective)
        if steps is None and epochs is None:
            self.spend(self.remaining)
        done = steps if steps is not None else max(1, round((epochs or 0) * len(data) / batch_size))
        for _ in range(done):
            self.spend(cost)
        return TrainReport(steps=done, sequences=done * batch_size, loss=1.0)

    def step_cost(
        self, data: Sequence[Example] | Sequence[Pair], batch_size: int, objective: SFT | DPO | None = None
    ) -> int:
        sides = 8 if isinstance(data[0], Pair) else 3
        return batch_size * sides * (PROMPT + RESPONSE)

    def gold(self, problems: Sequence[Problem]) -> list[Example]:
        assert self.gold_allowed, "read gold without declaring it"
        return [Example(p, f"#### {int(p.id[1:])}") for p in problems]

    def corpus(self, n: int) -> list[Example]:
        assert self.corpus_allowed, "read the corpus without declaring it"
        return [Example(self.problems[i % self.size], "text") for i in range(n)]

    def rng(self, name: str) -> np.random.Generator:
        return generator("run", self.seed, self.round, name)

    def log(self, message: str, **values: Any) -> None:
        assert all(isinstance(value, int | float | str) for value in values.values())

    def trainings(self) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] == "train"]

    def samplings(self) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] == "sample"]


SMALL = {  # the paper's scale brought down to sixty problems
    "star": {"first_steps": 5, "batch_size": 4},
    "rft": {"batch_size": 4, "k_max": 8},
    "adastar": {"first_steps": 4, "batch_size": 4, "chunk": 8},
    "star_acc_lazy": {"first_steps": 4, "batch_size": 4, "chunk": 8},
    "hs_star": {"problems_per_round": 25, "batch_size": 8},
    "sai_dpo": {"n_candidates": 30, "n_selected": 20, "probe_per_cluster": 4, "batch_size": 8},
    "b_star": {"n_queries": 40, "n_wanted": 80, "k": 4, "n_probe": 10, "steps": 10, "batch_size": 8},
    "control_unverified": {"first_steps": 4, "batch_size": 4},
}


def fake_lab(name: str, **settings: Any) -> FakeLab:
    cls = method_class(name)
    return FakeLab(gold_allowed=cls.uses_gold, corpus_allowed=cls.uses_corpus, **settings)


def run(name: str, lab: FakeLab, rounds: int = 300, **overrides: Any) -> FakeLab:
    """Rounds until the budget ends; fails if it does not within ``rounds``."""
    method = method_class(name)(**{**SMALL.get(name, {}), **overrides})
    state = method.start(lab)
    try:
        for lab.round in range(1, rounds + 1):
            method.round(lab, state)
    except BudgetSpent:
        return lab
    raise AssertionError(f"{name} did not spend its budget within {rounds} rounds")


def play(name: str, lab: FakeLab, rounds: int = 1, **overrides: Any) -> Any:
    """So many rounds, whatever is left; returns the state."""
    method = method_class(name)(**{**SMALL.get(name, {}), **overrides})
    state = method.start(lab)
    for lab.round in range(1, rounds + 1):
        method.round(lab, state)
    return state


def completion(text: str, correct: bool, tokens: int = RESPONSE) -> Completion:
    verdict = Verdict.CORRECT if correct else Verdict.WRONG
    return Completion(Problem("p", "?", "1"), text, PROMPT, tokens, "stop", verdict)


# --- the contract: every file, every role -----------------------------------------------------------

ACCURACIES: dict[str, Accuracy] = {
    "never": lambda problem, hinted: 0.0,
    "always": lambda problem, hinted: 1.0,
    "mixed": lambda problem, hinted: 0.9 if hinted else stream_seed(problem.id) % 100 / 100,
}


@pytest.mark.parametrize("process_rewards", [False, True], ids=["verifier", "process"])
@pytest.mark.parametrize("accuracy", ACCURACIES)
@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_ends_with_its_budget_spent_and_is_deterministic(
    name: str, accuracy: str, process_rewards: bool
) -> None:
    def once() -> FakeLab:
        settings = {"accuracy": ACCURACIES[accuracy], "has_process_rewards": process_rewards}
        return run(name, fake_lab(name, budget=60_000, **settings))

    first, second = once(), once()
    assert first.calls == second.calls
    if method_class(name).role is Role.BASE:
        assert first.calls == [] and first.spent == 0
    else:
        assert first.spent == first.budget
        assert first.trainings() or accuracy != "mixed"  # with nothing, or no contrast, to learn from


@pytest.mark.parametrize("name", ["star", "rft", "adastar", "star_acc_lazy", "b_star", "_template"])
def test_supervised_methods_train_on_correct_solutions_only(name: str) -> None:
    lab = run(name, fake_lab(name, accuracy=ACCURACIES["mixed"], budget=60_000))
    assert lab.trainings()
    for _, data, *_ in lab.trainings():
        assert all(int(example.response.split("#### ")[1]) == int(example.problem.id[1:]) for example in data)


@pytest.mark.parametrize("name", ["hs_star", "sai_dpo"])
def test_preference_methods_pair_correct_with_wrong(name: str) -> None:
    lab = run(name, fake_lab(name, accuracy=ACCURACIES["mixed"], budget=60_000))
    assert lab.trainings()
    for _, data, *_ in lab.trainings():
        assert all(pair.chosen.endswith(f"= {int(pair.problem.id[1:])} #### {int(pair.problem.id[1:])}")
                   and pair.rejected.startswith("guess") for pair in data)  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_imports_the_public_api_only_and_says_what_differs(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    ours = {str(name) for name in imported if str(name).startswith(("repro", "baselines"))}
    foreign = {str(name).split(".")[0] for name in imported} - {"repro", "numpy", "sklearn"}
    assert ours == {"repro.method"}
    assert foreign <= set(sys.stdlib_module_names)
    cls = method_class(path.stem)
    assert cls.role is not Role.METHOD or "Differences from the paper" in (ast.get_docstring(tree) or "")
    assert len(path.read_text().splitlines()) <= 170


def test_titles_are_distinct() -> None:
    titles = [method_class(name).title for name in IDS]
    assert len(set(titles)) == len(titles)


def test_the_library_names_no_baseline() -> None:
    for path in sorted((ROOT / "repro").rglob("*.py")):
        tree = ast.parse(path.read_text())
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                named = set(re.findall(r"\w+", node.value)) & set(IDS)
                assert not named, f"{path}:{node.lineno} names the method {named}"


def test_hyperparameters_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValueError, match="learning_rat"):
        method_class("star")(learning_rat=1e-3)
    with pytest.raises(ValueError, match="batch_size"):
        method_class("star")(batch_size="many")


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


def test_star_rationalises_failures_from_the_base_model() -> None:
    lab = fake_lab("star", accuracy=lambda problem, hinted: float(hinted or int(problem.id[1:]) < 20))
    play("star", lab)
    plain, hinted = lab.samplings()
    assert sorted(plain[1]) == [p.id for p in lab.problems] and not plain[4]
    assert sorted(hinted[1]) == [p.id for p in lab.problems[20:]] and hinted[4]
    (training,) = lab.trainings()
    assert len(training[1]) == 60 and training[2] == 5 and training[4] == "base"


def test_star_trains_its_last_round_to_the_end() -> None:
    lab = run("star", fake_lab("star", budget=20_000))
    steps = [call[2] for call in lab.trainings()]
    assert steps[:-1] == [5, 6, 7, 8, 10, 12, 14][: len(steps) - 1] and steps[-1] is None
    assert len(steps) > 2


def test_star_without_hints_and_with_fewer_problems() -> None:
    lab = fake_lab("star")
    play("star", lab, rounds=2, rationalise=False, n_problems=10)
    first, second = lab.samplings()
    assert len(first[1]) == len(second[1]) == 10 and first[1] != second[1]


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
    for budget in (10_000, 40_000, 400_000):
        lab = run("rft", fake_lab("rft", budget=budget))
        (training,) = lab.trainings()
        assert training[2] is training[3] is None and training[4] == "base"
        ks.append(sum(call[2][0] for call in lab.samplings()))
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
    visited = sum(len(call[1]) for call in lab.samplings()[::2])  # every first attempt
    retried = sum(len(call[1]) for call in lab.samplings()[1::2])
    order = MODULES["adastar"].Statistics([0] * 60, [0.0] * 60, state.rank).order()
    solved = sum(i % 2 == 0 for i in order[:visited])
    assert solved >= 16 and sum(i % 2 == 0 for i in order[: visited - 8]) < 16  # lazy, in chunks of 8
    assert visited - retried == solved
    (training,) = lab.trainings()
    assert len(training[1]) == 16 and training[2] == 4 and training[4] == "current"

    popped = order[: solved**2 // visited]  # floor(m alpha^2)
    assert [i for i in range(60) if state.last[i] == 1] == sorted(popped)
    assert all(state.wins[i] == float(i % 2 == 0) for i in popped)
    assert state.order()[-1] in popped and state.order()[0] == order[len(popped)]


def test_adastar_second_attempt_counts_half() -> None:
    lab = fake_lab("adastar", accuracy=lambda problem, hinted: float(hinted))
    state = play("adastar", lab, rationalise=True, chunk=60)
    assert {call[4] for call in lab.samplings()} == {False, True}
    assert state.wins == [0.5] * 60 and state.last == [1] * 60


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
    lab = fake_lab("hs_star", has_process_rewards=process_rewards)
    play("hs_star", lab)
    pre, again = lab.samplings()
    assert pre[2] == [n_pre] * 25 and sum(pre[2]) + sum(again[2]) == 8 * 25
    assert set(again[1]) <= set(pre[1])


@pytest.mark.parametrize(("how", "reward"), [("min", 0.25), ("mean", 0.5), ("last", 0.75)])
def test_step_rewards_are_aggregated_as_the_study_says(how: str, reward: float) -> None:
    lab = fake_lab("hs_star", has_process_rewards=True)
    lab.score = lambda completions: [(0.5, 0.25, 0.75) for _ in completions]  # type: ignore[method-assign]
    (drawn,) = lab.sample(lab.problems[:1], 4)
    (rated,) = method_class("hs_star")(aggregation=how).rate(lab, np.random.default_rng(0), [drawn])
    assert [s for s, _ in rated] == [reward] * 4
    (rated,) = method_class("b_star")(aggregation=how).rate(lab, [drawn])
    assert [r for r, _ in rated] == [c.correct + 2 * reward - 1 for c in drawn]


def test_hs_star_walks_the_pool_in_disjoint_slices() -> None:
    lab = fake_lab("hs_star", accuracy=ACCURACIES["never"])
    play("hs_star", lab, rounds=6)
    slices = [call[1] for call in lab.samplings()]
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
    state = play("sai_dpo", lab, rounds=2, n_candidates=120)
    assert [call[1] for call in lab.calls if call[0] == "embed"] == [["gain", "loss", "share"]]
    assert sorted(map(len, state.clusters)) == [200, 200, 200]
    probe, main, probe_again, _ = lab.samplings()
    assert probe[5] and not main[5] and set(probe[2] + main[2]) == {8}
    assert not set(probe[1]) & set(main[1]) and not set(probe[1]) & set(probe_again[1])
    kind = {p.id: p.knowledge[0] for p in lab.problems}
    assert Counter(kind[i] for i in probe[1]) == {"gain": 4, "loss": 4, "share": 4}
    drawn = Counter(kind[i] for i in main[1])
    assert drawn["share"] > 4 * drawn["loss"]
    (_, pairs, _, epochs, start, *_), _ = lab.trainings()
    assert epochs == 2 and start == "current"
    assert len({pair.problem.id for pair in pairs}) <= 20 and len(pairs) <= 40


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
    lab = fake_lab("b_star", has_process_rewards=process_rewards)
    plain = lab.sample

    def sample(problems: Sequence[Problem], n: Any = 1, **how: Any) -> list[list[Completion]]:
        lab.accuracy = lambda problem, hinted: 0.9 if how["temperature"] == 0.8 else 0.2
        return plain(problems, n, **how)

    lab.sample = sample  # type: ignore[method-assign]
    play("b_star", lab, rounds=2)
    first = lab.samplings()[: len(lab.samplings()) // 2]
    assert [call[3] for call in first] == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 0.8]
    assert [call[5] for call in first] == [True] * 8 + [False]
    assert all(call[2] == 10 and call[5] and call[6] == 4_500 for call in lab.trainings())
    assert len({tuple(call[1]) for call in lab.samplings() if call[5]}) == 1  # one probe set for the run


# --- controls ---------------------------------------------------------------------------------------


def test_unverified_trains_on_everything_it_samples() -> None:
    lab = fake_lab("control_unverified", accuracy=ACCURACIES["mixed"])
    play("control_unverified", lab)
    (sampling,), (training,) = lab.samplings(), lab.trainings()
    assert [example.problem.id for example in training[1]] == sampling[1] and len(sampling[1]) == 16
    assert any(example.response.startswith("guess") for example in training[1])


def test_continued_is_one_uninterrupted_training() -> None:
    lab = run("control_continued", fake_lab("control_continued", budget=500_000))
    assert not lab.samplings() and len(lab.trainings()) > 1
    assert all(call[5] and call[4] == "current" for call in lab.trainings())


def test_gold_trains_once_on_every_solution() -> None:
    lab = run("control_gold", fake_lab("control_gold"))
    (training,) = lab.trainings()
    assert len(training[1]) == lab.size and training[2] is training[3] is None


def test_roles() -> None:
    roles = Counter(method_class(name).role for name in IDS)
    assert roles[Role.METHOD] >= 6
    assert roles[Role.ABLATION] >= 1
    assert all(roles[role] == 1 for role in set(Role) - {Role.METHOD, Role.ABLATION})
