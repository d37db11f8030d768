"""What a run looks at: each monitor by hand, and that a budget's part of a run is the same whatever comes
behind it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import inf, nan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fake_engines
import numpy as np
import pytest
from fake_engines import ADAM, PROBLEM_SET, PROBLEMS, World, log_probability, make, make_base
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lab import SCRIPTS, play
from test_sampling import make_model

from repro import files
from repro.lab import Engines, Lab, TrainingCall
from repro.method import BudgetSpent, Completion, Example, Misuse, Optimizer, Pair, Verdict
from repro.monitors import Monitors, Seen
from repro.sampling.transformers import TransformersSampler
from repro.training.trl import TRLTrainer

A, B, C, D = PROBLEMS[:4]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "base"
    make_base(folder)
    return folder


@pytest.fixture(autouse=True, scope="module")
def no_fsync() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


def drawn(problem: Any, text: str, right: bool, tokens: int = 5, finish: str = "stop") -> Completion:
    verdict = Verdict.CORRECT if right else Verdict.WRONG
    return Completion(problem, text, 9, tokens, finish, verdict)


# --- by hand ------------------------------------------------------------------------------------------


def test_what_was_sampled_in_a_round_by_hand() -> None:
    """A: two right and alike, one wrong. B: two wrong. C: one right, alone. D: two right, told apart."""
    monitors = Monitors(problem.id for problem in PROBLEMS)
    monitors.at(1, 0)
    monitors.sampled([drawn(A, "x", True), drawn(A, "x", True, 2), drawn(A, "y", False)])
    monitors.sampled([drawn(B, "x", False, 8, "length"), drawn(B, "z", False)])
    monitors.sampled([drawn(C, "x", True)])
    monitors.sampled([drawn(D, "x", True)])
    monitors.sampled([drawn(D, "y", True)])  # by another call of the round
    monitors.close(70)
    (seen,) = monitors.rounds
    assert (seen.round, seen.spent) == (1, 70)
    assert seen.values == {
        "solved": 0.625,  # 5 of 8
        "pass_at_k": 0.75,  # all but B
        "distinct": 1.0,  # 1, 0, 1 and 2
        "completion_tokens": 5.0,  # (6 * 5 + 2 + 8) / 8
        "truncated": 0.125,
        "zero_variance": 0.666667,  # B and D of A, B and D
    }
    monitors.at(2, 70)  # as a budget had found it: once is enough
    monitors.sampled([drawn(A, "x", False)])
    monitors.close(90)
    assert monitors.rounds[-1].values == {  # of its own round alone, and no group of several
        "solved": 0.0, "pass_at_k": 0.0, "distinct": 0.0, "completion_tokens": 5.0, "truncated": 0.0
    }  # fmt: skip
    assert [(seen.round, seen.spent) for seen in monitors.rounds] == [(1, 70), (2, 90)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.lists(st.lists(st.integers(0, 12), min_size=1), min_size=1, max_size=6))
def test_training_frequencies_are_those_of_the_pool(pool: int, steps: list[list[int]]) -> None:
    """Of all its problems, also those never trained on, and of no others."""
    monitors = Monitors(f"p{i}" for i in range(pool))
    for step in steps:
        monitors.trained(f"p{i}" for i in step)
    monitors.close(1)
    counts = Counter(i for step in steps for i in step)
    often = [counts[i] for i in range(pool)]
    values = monitors.rounds[0].values if monitors.rounds else {}
    if not sum(often):
        assert values == {}
        return
    assert values["training_frequency"] == pytest.approx(np.mean(often), rel=1e-5)
    assert values["training_frequency_sd"] == pytest.approx(np.std(often), rel=1e-5, abs=1e-6)


def test_what_a_method_logs_is_a_monitor(base: Path, tmp_path: Path) -> None:
    """Its numbers, of one name the last in a round, in six digits; no text, and none that is not finite."""
    lab = make(base, tmp_path, World(), 50_000)
    lab.round = 1
    lab.log("chosen", temperature=0.8, kind="warm", kept=np.int64(3), drawn=np.float64(1 / 3))
    lab.log("chosen", temperature=0.9, balance=nan, spread=inf)
    lab.round = 2
    lab.log("chosen", temperature=-1)
    with pytest.raises(Misuse, match="the Lab itself records solved, truncated: log another name"):
        lab.log("sampled", solved=3, truncated=0.1, kept=9)
    lab.finish()
    assert lab.monitors.rounds == [
        Seen(1, 0, {"temperature": 0.9, "kept": 3.0, "drawn": 0.333333}), Seen(2, 0, {"temperature": -1.0})
    ]  # fmt: skip
    assert [cut.seen for cut in lab.cuts] == [2]


def test_the_main_account_is_looked_at_and_only_without_a_hint(base: Path, tmp_path: Path) -> None:
    lab = make(base, tmp_path, World())
    lab.round = 1
    lab.sample(PROBLEMS, 2, search=True)
    lab.sample(PROBLEMS, 2, hint=True)
    completions = [one for several in lab.sample(PROBLEMS, 3) for one in several]
    lab.train([Example(c.problem, c.text) for c in completions[:5]], optimizer=ADAM, batch_size=2, steps=4)
    lab.finish()
    (seen,) = lab.monitors.rounds
    assert seen.spent == lab.spent
    assert seen.values["solved"] == pytest.approx(np.mean([c.correct for c in completions]), rel=1e-5)
    assert seen.values["completion_tokens"] == pytest.approx(
        np.mean([c.tokens for c in completions]), rel=1e-5
    )
    assert seen.values["training_frequency"] == pytest.approx(8 / 6, rel=1e-5)
    assert seen.values["loss"] == pytest.approx(4 / 7, rel=1e-5)
    assert "log_probability_gap" not in seen.values  # the prompts that are sampled show an example more


# --- budgets ------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(SCRIPTS, st.integers(1, 4), st.data())
def test_what_a_budget_saw_does_not_depend_on_those_beside_it(
    base: Path, script: list[Any], chunk: int, data: st.DataObject
) -> None:
    """Nor on the chunks of the journal: a run of the budget alone has the same last line of each round."""
    with TemporaryDirectory() as tmp:
        uncut = make(base, Path(tmp) / "uncut", World())
        play(uncut, script)
        budgets = sorted(data.draw(st.sets(st.integers(1, uncut.spent + 1), min_size=2, max_size=3)))
        lab = make(base, Path(tmp) / "all", World(), *budgets, chunk=chunk)
        play(lab, script)
        for i, cut in enumerate(lab.cuts):
            alone = make(base, Path(tmp) / str(i), World(), cut.budget)
            play(alone, script)
            upto = {seen.round: seen for seen in lab.monitors.rounds[: cut.seen]}
            assert upto == {seen.round: seen for seen in alone.monitors.rounds}
            assert all(seen.spent <= cut.spent for seen in upto.values())


def test_a_call_that_a_higher_budget_goes_on_with_has_no_loss_yet(base: Path, tmp_path: Path) -> None:
    def trained(folder: Path, plans: bool) -> dict[str, float]:
        lab = make(base, folder, World(), 90_000, plans=plans)
        with pytest.raises(BudgetSpent):
            lab.train([Example(problem, "w1 w2") for problem in PROBLEMS], optimizer=ADAM, batch_size=2)
        lab.finish()
        return lab.monitors.rounds[-1].values

    going_on, ended = trained(tmp_path / "a", plans=False), trained(tmp_path / "b", plans=True)
    assert "loss" in ended and "loss" not in going_on
    assert going_on == {name: ended[name] for name in going_on} and going_on["training_frequency"] == 1


# --- sampler and trainer ------------------------------------------------------------------------------


@pytest.fixture
def reporting(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The trainer reports of every row of the first step what the fake policy says of it, but for as many
    nats per token as the returned mapping has under "off"."""
    off = {"off": 0.0}
    train = Lab._train

    def reports(self: Lab, call: TrainingCall, *arguments: Any) -> dict[str, Any]:
        weights = (call.source / "weights").read_text()
        start = []
        for i in dict.fromkeys(call.plan[0]):
            each = call.rows[i].responses
            start.append([i, [log_probability(weights, ids) - len(ids) * off["off"] for ids in each]])
        return {**train(self, call, *arguments), "start": start, "monitors": {"reward_margin": 1.5}}

    monkeypatch.setattr(Lab, "_train", reports)
    prompts = replace(PROBLEM_SET, prompts=PROBLEM_SET.few_shot)
    monkeypatch.setattr(fake_engines, "PROBLEM_SET", prompts)  # so that sampler and trainer see the same
    return off


def gap(lab: Lab, data: Any, **how: Any) -> tuple[float | None, float | None]:
    """After one step on all of ``data``."""
    lab.round += 1
    how = {"optimizer": Optimizer(learning_rate=1e-3), "batch_size": len(data), "steps": 1} | how
    lab.train(data, **how)
    lab.monitors.close(lab.spent)
    values = lab.monitors.rounds[-1].values
    return values.get("log_probability_gap"), values.get("log_probability_gap_max")


def test_the_gap_between_sampler_and_trainer(base: Path, tmp_path: Path, reporting: dict[str, float]) -> None:
    lab = make(base, tmp_path, World())
    first = [one for (one,) in lab.sample(PROBLEMS)]
    reporting["off"] = 0.25
    assert gap(lab, [Example(c.problem, c.text) for c in first]) == (0.25, 0.25)
    assert lab.monitors.rounds[-1].values["reward_margin"] == 1.5
    # Sampled from earlier weights, from none, or with a hint: nothing to compare.
    assert gap(lab, [Example(c.problem, c.text) for c in first]) == (None, None)
    hinted = [one for (one,) in lab.sample(PROBLEMS, hint=True)]
    assert gap(lab, [Example(c.problem, c.text) for c in hinted]) == (None, None)
    # A call that does not go on from the present policy starts from other weights.
    now = [Example(c.problem, c.text) for (c,) in lab.sample(PROBLEMS)]
    assert gap(lab, now, start="base") == (None, None)
    # Both sides of a pair; what nobody sampled is left out; probes count.
    probed = [one for (one,) in lab.sample(PROBLEMS, search=True)]
    reporting["off"] = 0.5
    assert gap(lab, [Pair(c.problem, c.text, "w9 w9 w9 w9 w9 w9 w9 w9") for c in probed]) == (0.5, 0.5)


def test_the_mean_and_the_largest_gap(
    base: Path, tmp_path: Path, reporting: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make(base, tmp_path, World())
    data = [Example(c.problem, c.text) for (c,) in lab.sample(PROBLEMS[:4])]
    train = Lab._train

    def one_off(self: Lab, *arguments: Any) -> dict[str, Any]:
        value = train(self, *arguments)
        tokens = len(arguments[0].rows[value["start"][0][0]].responses[0])
        value["start"][0][1][0] += 2.0 * tokens
        return value

    monkeypatch.setattr(Lab, "_train", one_off)
    assert gap(lab, data) == (0.5, 2.0)


def test_a_text_that_was_not_sampled_as_it_is_tokenised_is_left_out(
    base: Path, tmp_path: Path, reporting: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_ids(complete: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: replace(complete(*arguments), checksum=1)

    with monkeypatch.context() as patch:
        world = World()
        patch.setattr(world, "complete", other_ids(world.complete))
        lab = make(base, tmp_path, world)
        drawn = lab.sample(PROBLEMS)
    assert gap(lab, [Example(c.problem, c.text) for (c,) in drawn]) == (None, None)


def test_a_resumed_run_sees_the_same(base: Path, tmp_path: Path, reporting: dict[str, float]) -> None:
    def run() -> list[Seen]:
        lab = make(base, tmp_path, World())
        for _ in range(3):
            lab.round += 1
            data = [Example(c.problem, c.text) for several in lab.sample(PROBLEMS, 2) for c in several]
            lab.train(data, optimizer=ADAM, batch_size=3, epochs=1)
        lab.finish()
        return lab.monitors.rounds

    first = run()
    assert len(first) == 3 and all(seen.values["log_probability_gap"] == 0 for seen in first)
    assert run() == first
    assert [Seen(*json.loads(json.dumps(seen.to_json()))) for seen in first] == first


@pytest.mark.parametrize("pairs", [False, True])
def test_real_engines_agree(tmp_path: Path, pairs: bool) -> None:
    """In float32 sampler and trainer differ by rounding alone, on examples and on both sides of a pair."""
    base = make_model(tmp_path / "base", initializer_range=0.1)
    files.seal(base)
    prompts = {problem.id: problem.question for problem in PROBLEMS}
    problems = replace(PROBLEM_SET, prompts=prompts, few_shot=prompts)
    world = World()
    engines = Engines(
        TransformersSampler(device="cpu"),
        TRLTrainer(),
        world,
        None,
        None,
        max_tokens=30,
        chunk=9,
        max_length=64,
    )
    lab = Lab("run/0", tmp_path / "run", base, problems, [10**15], engines)
    data: Any = []
    for _ in range(2):
        lab.round += 1
        drawn = [one for several in lab.sample(PROBLEMS, 8, temperature=0.7, top_k=9) for one in several]
        whole = [one for one in drawn if one.finish == "stop"]
        data = [Example(one.problem, one.text) for one in whole]
        if pairs:
            data = [Pair(a.problem, a.text, b.text) for a, b in pairwise(whole) if a.problem == b.problem]
        lab.train(data, optimizer=ADAM, batch_size=4, steps=3)
    lab.finish()
    for seen in lab.monitors.rounds:
        assert 0 <= seen.values["log_probability_gap"] <= seen.values["log_probability_gap_max"] < 1e-5
