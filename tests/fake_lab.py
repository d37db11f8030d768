"""A Lab in memory, for the tests of methods: its model answers by a script, a token costs one FLOP, and every
argument of every call is on record."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from repro import discovery
from repro.method import (
    DPO,
    SFT,
    BudgetSpent,
    Completion,
    Example,
    Method,
    Objective,
    Optimizer,
    Pair,
    Problem,
    TrainReport,
    Unavailable,
    Verdict,
)
from repro.objectives import default_objective
from repro.schema import SEEN
from repro.seeds import generator, stream_seed

ROOT = Path(__file__).resolve().parent.parent
# All methods, and the template; other files that begin with an underscore are what methods share.
NAMES = [*sorted(path.stem for path in (ROOT / "baselines").glob("[!_]*.py")), "_template"]

Accuracy = Callable[[Problem, bool], float]  # (problem, hinted) -> probability of a correct sample
PROMPT = RESPONSE = 10  # tokens, so FLOPs

ACCURACIES: dict[str, Accuracy] = {
    "never": lambda problem, hinted: 0.0,
    "always": lambda problem, hinted: 1.0,
    "mixed": lambda problem, hinted: 0.9 if hinted else stream_seed(problem.id) % 100 / 100,
}

# The papers' scale brought down to sixty problems, and such that every setting makes a difference there: none
# is what the Lab would take anyway.
SMALL: dict[str, dict[str, Any]] = {
    "_template": {"n_problems": 50, "temperature": 0.9},
    "star": {"n_problems": 50, "first_steps": 5, "growth_rounds": 2, "batch_size": 4},
    "star_acc": {"temperature": 0.9, "first_steps": 4, "batch_size": 4},
    "star_acc_full": {"temperature": 0.9},
    "star_acc_full_k": {"temperature": 0.9},
    "star_full": {"temperature": 0.9},
    "rest_em": {"k": 3, "cap": 1, "epochs": 1.0},
    "rft": {"n_problems": 20, "batch_size": 4, "k_max": 6},
    "adastar": {"temperature": 0.9, "first_steps": 4, "batch_size": 4, "chunk": 7},
    "star_acc_lazy": {"temperature": 0.9, "first_steps": 4, "batch_size": 4, "chunk": 8},
    "iterative_dpo": {"problems_per_round": 25, "objective": DPO(beta=0.2), "batch_size": 8},
    "hs_star": {
        "problems_per_round": 25, "n_pre": 6, "tau_low": 0.35, "tau_high": 0.6, "objective": DPO(beta=0.2),
        "batch_size": 8,
    },
    "sai_dpo": {
        "n_clusters": 2, "n_candidates": 30, "n_selected": 12, "probe_per_cluster": 4, "epsilon": 0.5,
        "drop_hardest": 0.3, "temperature": 0.9, "batch_size": 8,
    },
    "iterative_rpo": {"n_problems": 20, "n": 8, "pairs_per_problem": 6, "batch_size": 8},
    "b_star": {"n_queries": 40, "n_wanted": 60, "k": 4, "n_probe": 10, "steps": 10, "batch_size": 8},
    "online_rft": {"n_queries": 40, "n_wanted": 33, "k": 4, "steps": 10, "batch_size": 8},
    "iterative_rft": {"n_queries": 40, "n_wanted": 33, "k": 4, "steps": 10, "batch_size": 8},
    "grpo": {"n_problems": 12, "group_size": 4},
    "raft": {"n_problems": 12, "updates": 2},
    "reinforce_rej": {"n_problems": 12, "updates": 2},
    "greso": {"n_problems": 16, "batch": 24, "least": 12, "group_size": 3, "p_easy": 0.4, "target": 0.6},
    "dart": {"n_problems": 30, "k": 3, "n_pilot": 2, "most_tries": 6, "batch_size": 8},
    "control_continued": {"rows": 64},
    "control_unverified": {"temperature": 0.9, "first_steps": 4, "batch_size": 4},
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One call on the Lab with all its arguments, also those left at their defaults."""

    what: str
    arguments: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]


@dataclass
class FakeLab:
    """:class:`repro.method.Lab`, which also refuses what the real one refuses. ``limit`` is its budget."""

    accuracy: Accuracy = lambda problem, hinted: 0.5
    limit: int = 1_000_000
    size: int = 60
    process_rewards: bool = False
    plans: bool = False
    gold_allowed: bool = False
    corpus_allowed: bool = False
    seed: int = 0
    round: int = 0
    spent: int = 0
    asked: bool = False  # whether there are process rewards
    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        knowledge = ("gain", "loss", "share")
        self.problems = [
            Problem(f"p{i:03d}", f"How many are {i} ?", "1", (knowledge[i % 3],)) for i in range(self.size)
        ]

    @property
    def has_process_rewards(self) -> bool:
        self.asked = True
        return self.process_rewards

    @property
    def budget(self) -> int:
        if not self.plans:
            raise ValueError("the budget is for methods that plan from it")
        return self.limit

    @property
    def remaining(self) -> int:
        return self.budget - self.spent

    def affords(self, cost: int) -> bool:
        self.record("affords", cost=cost)
        return not self.plans or cost <= self.remaining

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
        how = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "hint": hint, "search": search}
        self.record("sample", problems=list(problems), n=counts, **how)
        random = generator("sample", self.seed, len(self.made("sample")))
        drawn = []
        for problem, count in zip(problems, counts, strict=True):
            self._spend(PROMPT + count * RESPONSE)
            drawn.append([self.complete(problem, hint, random) for _ in range(count)])
        return drawn

    def complete(self, problem: Problem, hint: bool, random: np.random.Generator) -> Completion:
        correct = random.random() < self.accuracy(problem, hint)
        a, b = int(random.integers(4)), int(problem.id[1:])
        total = b if correct else b + 1 + int(random.integers(5))
        before = "then\n" * int(random.integers(3))
        text = (
            f"{before}{b - a} + {a} = {b} #### {total}" if correct else f"guess {before}{total} #### {total}"
        )
        verdict = Verdict.CORRECT if correct else Verdict.WRONG
        return Completion(problem, text, PROMPT, RESPONSE, "stop", verdict, hinted=hint)

    def score(self, completions: Sequence[Completion]) -> list[tuple[float, ...]]:
        if not self.process_rewards:
            raise Unavailable("no process scorer")
        self.record("score", completions=list(completions))
        self._spend(len(completions) * RESPONSE)
        # Two steps that depend on the text only; correct texts score higher on average.
        draws = [stream_seed(c.text) / 2**64 for c in completions]
        return [(0.9, 0.2 * c.correct + 0.8 * draw) for c, draw in zip(completions, draws, strict=True)]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.record("embed", texts=list(texts))
        vectors = np.array([generator("embed", text).normal(size=8) for text in texts])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def train(
        self,
        data: Sequence[Example] | Sequence[Pair],
        *,
        optimizer: Optimizer,
        batch_size: int,
        objective: Objective | None = None,
        start: str = "current",
        steps: int | None = None,
        epochs: float | None = None,
        inherit_optimizer: bool = False,
        horizon: int | None = None,
    ) -> TrainReport:
        assert len(data) > 0, "trained on nothing"
        assert len({type(row) for row in data}) == 1
        assert isinstance(optimizer, Optimizer) and batch_size >= 1 and start in ("base", "current")
        assert steps is None or epochs is None
        to_the_end = steps is None and epochs is None
        assert self.plans or not to_the_end or horizon or optimizer.schedule == "constant"
        objective = _fitting(objective, data)
        how = {"start": start, "steps": steps, "epochs": epochs, "inherit_optimizer": inherit_optimizer}
        what = {"optimizer": optimizer, "batch_size": batch_size, "objective": objective}
        self.record("train", data=list(data), **what, **how, horizon=horizon)
        if to_the_end:
            self._spend(self.limit - self.spent)
        done = steps if steps is not None else max(1, round((epochs or 0) * len(data) / batch_size))
        for _ in range(done):
            self._spend(_step(data, batch_size))
        return TrainReport(steps=done, sequences=done * batch_size, loss=1.0)

    def step_cost(
        self, data: Sequence[Example] | Sequence[Pair], batch_size: int, objective: Objective | None = None
    ) -> int:
        how = {"objective": _fitting(objective, data)} if objective else {}
        self.record("step_cost", data=list(data), batch_size=batch_size, **how)
        return _step(data, batch_size)

    def gold(self, problems: Sequence[Problem], *, answers_only: bool = False) -> list[Example]:
        assert self.gold_allowed, "read gold without declaring it"
        self.record("gold", problems=list(problems), answers_only=answers_only)
        return [Example(p, f"{'' if answers_only else 'so '}#### {int(p.id[1:])}") for p in problems]

    def corpus(self, n: int) -> list[Example]:
        assert self.corpus_allowed, "read the corpus without declaring it"
        self.record("corpus", n=n)
        turn = len(self.made("corpus"))
        return [Example(self.problems[i % self.size], f"fresh {turn}") for i in range(n)]

    def rng(self, name: str) -> np.random.Generator:
        self.record("rng", name=name)
        return generator("run", self.seed, self.round, name)

    def log(self, message: str, **values: Any) -> None:
        assert all(isinstance(value, int | float | str) for value in values.values())
        assert not SEEN.keys() & values.keys()
        self.record("log", message=message, **values)

    def record(self, what: str, **arguments: Any) -> None:
        self.calls.append(Call(what, arguments))

    def made(self, what: str) -> list[Call]:
        """The calls of one kind."""
        return [call for call in self.calls if call.what == what]

    def _spend(self, flops: int) -> None:
        self.spent = min(self.limit, self.spent + flops)
        if self.spent == self.limit:
            raise BudgetSpent


def _fitting(objective: Objective | None, data: Sequence[Example] | Sequence[Pair]) -> Objective:
    objective = objective or default_objective(data)
    if not isinstance(data[0], objective.data):
        raise ValueError(f"{type(objective).__name__} does not train on {type(data[0]).__name__}")
    if isinstance(objective, SFT) and any(row.weight != 1 for row in data if isinstance(row, Example)):
        raise ValueError("SFT trains on examples of weight 1")
    return objective


def _step(data: Sequence[Example] | Sequence[Pair], batch_size: int) -> int:
    return batch_size * (8 if isinstance(data[0], Pair) else 3) * (PROMPT + RESPONSE)


# --- methods on it ----------------------------------------------------------------------------------------


def load(name: str) -> ModuleType:
    return sys.modules[discovery.method_class(name).__module__]


MODULES = {name: load(name) for name in NAMES}


def method_class(name: str) -> type[Method]:
    module = MODULES[name]
    here = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Method)]
    classes = [c for c in here if c.__module__ == module.__name__]
    assert len(classes) == 1, f"{name} defines {len(classes)} methods"
    return classes[0]


def fake_lab(name: str, **settings: Any) -> FakeLab:
    """A Lab that allows what the method declares."""
    cls = method_class(name)
    allowed = {"plans": cls().plans, "gold_allowed": cls().reads_gold, "corpus_allowed": cls.uses_corpus}
    return FakeLab(**(allowed | settings))


def rounds_of(name: str, lab: FakeLab, rounds: int, **overrides: Any) -> Iterator[Any]:
    """Start the method and play so many rounds; the state after each. BudgetSpent passes through."""
    method = method_class(name)(**(SMALL.get(name, {}) | overrides))
    lab.plans, lab.gold_allowed = method.plans, method.reads_gold
    state = method.start(lab)
    for lab.round in range(1, rounds + 1):
        method.round(lab, state)
        yield state


def play(name: str, lab: FakeLab, rounds: int = 1, **overrides: Any) -> Any:
    """So many rounds, which the budget must last for; the state after them."""
    *_, state = rounds_of(name, lab, rounds, **overrides)
    return state


def run(name: str, lab: FakeLab, rounds: int = 300, **overrides: Any) -> FakeLab:
    """Rounds until the budget ends; fails if it does not within ``rounds``."""
    try:
        play(name, lab, rounds, **overrides)
    except BudgetSpent:
        return lab
    raise AssertionError(f"{name} did not spend its budget within {rounds} rounds")
