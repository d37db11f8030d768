"""The Lab's promises, kept before engines that live in memory.

The oracle of every budget is the same script played with a budget that cuts nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from fake_engines import (
    ADAM,
    JUDGE,
    PLENTY,
    PROBLEM_SET,
    PROBLEMS,
    SHAPE,
    SHARED,
    Crash,
    Judge,
    World,
    cost_of_scoring,
    judged,
    make,
    make_base,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from repro import files
from repro.errors import UserError
from repro.flops import (
    FORWARD_PASSES,
    TRAINING_PASSES,
    Tally,
    flops,
    sequence_tally,
)
from repro.lab import Lab
from repro.ledger import Entry
from repro.method import (
    DPO,
    SFT,
    BudgetSpent,
    Example,
    Misuse,
    Optimizer,
    Pair,
    PolicyGradient,
    Unavailable,
)
from repro.records import Verdict
from repro.rewards.ladder import LadderScorer
from repro.sampling import SamplingParams
from repro.schema import INSIDE, Account


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "base"
    make_base(folder)
    return folder


@pytest.fixture(autouse=True, scope="module")
def no_fsync() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)  # nobody cuts the power here
        yield


def test_thoughts_that_were_cut_off_state_no_answer(base: Path, tmp_path: Path) -> None:
    checked: list[str] = []

    class Thinks(World):
        def verify(self, texts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
            checked.extend(texts)
            return super().verify(texts, answers)

    told: dict[bool, list[str]] = {}
    for thinking in (False, True):
        checked.clear()
        lab = make(base, tmp_path / str(thinking), Thinks(), thinking=thinking)
        told[thinking] = [c.text for cs in lab.sample(lab.problems[:2], 2, temperature=1.0) for c in cs]
        assert checked == [text + "</think>" * thinking for text in told[thinking]]
    assert told[False] == told[True]  # what is trained on is what was said


# --- scripts: methods that do not look at their budget ----------------------------------------------

Call = tuple[Any, ...]
SAMPLINGS = st.tuples(
    st.just("sample"),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=6),  # problem, count
    st.booleans(),  # hint
    st.booleans(),  # search
)
TRAININGS = st.tuples(
    st.sampled_from(["sft", "dpo"]),
    st.integers(1, 4),  # batch size
    st.integers(1, 6),  # steps
    st.sampled_from(["base", "current"]),
    st.booleans(),  # inherit the optimizer
)
SCORINGS = st.just(("score",))  # all that was sampled so far
# Begins with something to train on.
SCRIPTS = st.lists(SAMPLINGS | TRAININGS | SCORINGS, min_size=1, max_size=5).map(
    lambda calls: [("sample", [(0, 2), (3, 1)], False, False), *calls]
)


def play(lab: Lab, script: Sequence[Call]) -> list[Any]:
    """Make the calls until the budget is spent; what they returned."""
    seen: list[Any] = []
    pool: list[Any] = []
    try:
        for kind, *call in script:
            lab.round += 1
            lab.log("begun", pool=len(pool), kind=kind)
            if kind == "sample":
                asked, hint, search = call
                lab._engines.sampler.fresh = True  # type: ignore[attr-defined]
                problems = [PROBLEMS[i] for i, _ in asked]
                seen.append(lab.sample(problems, [n for _, n in asked], hint=hint, search=search))
                pool += [completion for drawn in seen[-1] for completion in drawn]
                continue
            if kind == "score":
                seen.append(lab.score(pool))
                continue
            size, steps, start, inherit = call
            data: Any = [Example(c.problem, c.text) for c in pool]
            if kind == "dpo":
                data = [Pair(c.problem, c.text, pool[0].text) for c in pool]
            seen.append(
                lab.train(
                    data, optimizer=ADAM, batch_size=size, steps=steps, start=start, inherit_optimizer=inherit
                )
            )
    except BudgetSpent:
        pass
    lab.finish()
    return seen


def cut_facts(lab: Lab) -> list[tuple[Any, ...]]:
    return [
        (
            c.budget, c.spent, c.entries, c.round, c.steps, (c.model / "weights").read_text(),
            lab.monitors.rounds[: c.seen],
        )
        for c in lab.cuts
    ]  # fmt: skip


@pytest.mark.promise(
    "Budgets and FLOPs", "No run spends more than its budget: it is cut before the first part that would."
)
@settings(max_examples=60, deadline=None)
@given(SCRIPTS, st.integers(1, 5), st.data())
def test_every_budget_is_cut_at_the_last_part_that_it_holds(
    base: Path, script: list[Call], chunk: int, data: st.DataObject
) -> None:
    with TemporaryDirectory() as tmp:
        oracle = World()
        uncut = make(base, Path(tmp) / "uncut", oracle, chunk=chunk)
        play(uncut, script)
        parts = oracle.parts
        sums = list(accumulate((part.cost for part in parts), initial=0))
        assert uncut.spent == sums[-1]
        # Budgets anywhere, and now and then exactly at a part's end or one FLOP to a side of it.
        anywhere = st.integers(1, sums[-1] + 10)
        beside = st.tuples(st.sampled_from(sums), st.integers(-1, 1)).map(lambda p: max(1, p[0] + p[1]))
        budgets = sorted(data.draw(st.sets(anywhere | beside, min_size=1, max_size=3)))

        lab = make(base, Path(tmp) / "cut", World(), *budgets, chunk=chunk)
        play(lab, script)

        assert [cut.budget for cut in lab.cuts] == budgets
        for cut in lab.cuts:
            held = sum(total <= cut.budget for total in sums) - 1  # parts within the budget
            assert cut.spent == sums[held]
            assert cut.steps == sum(part.step for part in parts[:held])
            weights = [part.weights for part in parts[:held]]
            assert (cut.model / "weights").read_text() == (weights[-1] if weights else "base")
            entries = lab.ledger[: cut.entries]
            assert sum(entry.flops for entry in entries) == cut.spent
            assert {entry.account for entry in entries} <= set(INSIDE)
        assert lab.spent == sum(entry.flops for entry in lab.ledger) <= budgets[-1]
        assert [
            Entry.from_json(json.loads(json.dumps(entry.to_json()))) for entry in lab.ledger
        ] == lab.ledger


@pytest.mark.promise(
    "Runs that are killed", "A killed run goes on where it was and ends as if nothing had been, bit for bit."
)
@settings(max_examples=40, deadline=None)
@given(SCRIPTS, st.integers(1, 4), st.integers(0, 3), st.data())
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    base: Path, script: list[Call], chunk: int, save_every: int, data: st.DataObject
) -> None:
    with TemporaryDirectory() as tmp:
        total = make(base, Path(tmp) / "uncut", World(), chunk=chunk)
        play(total, script)
        budgets = sorted(data.draw(st.sets(st.integers(1, total.spent + 1), min_size=1, max_size=2)))

        clean = World()
        lab = make(base, Path(tmp) / "clean", clean, *budgets, chunk=chunk)
        seen, cuts, visits = play(lab, script), cut_facts(lab), dict(lab.visits)
        if not clean.entries:
            return

        folder = Path(tmp) / "killed"
        finished = 0
        for _ in range(2):  # killed twice
            world = World(crash=data.draw(st.integers(1, clean.entries)), save_every=save_every)
            killed = make(base, folder, world, *budgets, chunk=chunk)
            with suppress(Crash):
                play(killed, script)
            finished += world.finished
        world = World(save_every=save_every)
        again = make(base, folder, world, *budgets, chunk=chunk)
        assert play(again, script) == seen
        assert cut_facts(again) == cuts
        assert again.ledger == lab.ledger and again.spent == lab.spent and dict(again.visits) == visits
        assert finished + world.finished == clean.finished  # no finished engine call was made twice


# --- training to the end of the budget --------------------------------------------------------------


def trained(base: Path, folder: Path, *budgets: int) -> Lab:
    """A run that trains on six examples until its budget ends."""
    lab = make(base, folder, World(), *budgets)
    data = [Example(problem, "w1 w2") for problem in PROBLEMS]
    with pytest.raises(BudgetSpent):
        lab.train(data, optimizer=ADAM, batch_size=2)
    return lab


@pytest.mark.promise("Budgets and FLOPs", "A training to the end fills its budget to within one step.")
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 300_000), st.integers(1, 300_000))
def test_training_to_the_end_fills_the_budget_to_within_one_step(base: Path, one: int, two: int) -> None:
    low, high = sorted({one, two, one + 1})[:2]
    with TemporaryDirectory() as tmp:
        both = trained(base, Path(tmp) / "both", low, high)
        alone = trained(base, Path(tmp) / "alone", low)
        assert both.finish() == both.cuts and len(both.cuts) == 2
        step = max(flops(SHAPE, sequence_tally([(7, 3)]), TRAINING_PASSES) * 2, 1)  # the dearest batch
        for cut in both.cuts:
            assert 0 <= cut.budget - cut.spent < step
        assert both.cuts[0].steps <= both.cuts[1].steps  # more FLOPs never give fewer steps
        assert cut_facts(alone) == cut_facts(both)[:1]  # a greater budget above changes nothing below


@pytest.mark.promise("Budgets and FLOPs", "Once the budget is spent, nothing more can be done with it.")
def test_once_spent_every_metered_call_is_refused(base: Path, tmp_path: Path) -> None:
    lab = trained(base, tmp_path, 50_000)
    with pytest.raises(BudgetSpent):
        lab.sample(PROBLEMS)
    with pytest.raises(BudgetSpent):
        lab.train([Example(PROBLEMS[0], "w1")], optimizer=ADAM, batch_size=1, steps=1)
    with pytest.raises(BudgetSpent):
        make(base, tmp_path / "other", World(), 1).sample(PROBLEMS)


def test_a_snapshot_is_the_checkpoint_of_a_budget_that_ends_within_a_call(base: Path, tmp_path: Path) -> None:
    lab = trained(base, tmp_path, 40_000, 90_000)
    first, second = lab.cuts
    assert 0 < first.steps < second.steps
    assert first.model.name == f"step-{first.steps:06d}" and first.model.parent == second.model.parent
    assert files.sealed(first.model) and files.sealed(second.model)


# --- what is sampled --------------------------------------------------------------------------------


def test_requests_are_cut_in_the_order_of_the_call(base: Path, tmp_path: Path) -> None:
    order = [PROBLEMS[i] for i in (4, 0, 5, 2)]
    costs = World()
    make(base, tmp_path / "a", costs).sample(order, 2)
    budget = costs.parts[0].cost + costs.parts[1].cost
    lab = make(base, tmp_path / "b", World(), budget)
    with pytest.raises(BudgetSpent):
        lab.sample(order, 2)
    (entry,) = lab.ledger
    assert lab.spent == budget and entry.tally.sequences == 4
    assert entry.tally.prompt_tokens == 2 * (7 + 3)  # problems 4 and 0, though 0 and 2 are shorter


@pytest.mark.promise(
    "A fair comparison", "No two samplings draw by the same seed, within a run or between runs."
)
def test_seeds_are_distinct_within_a_run_and_between_runs(base: Path, tmp_path: Path) -> None:
    world = World()
    lab = make(base, tmp_path / "a", world)
    for _ in range(2):
        lab.sample([*PROBLEMS, PROBLEMS[0]], [3, 1, 0, 2, 5, 1, 4])  # the first problem twice
    make(base, tmp_path / "b", world, name="run/1").sample(PROBLEMS, 3)
    seeds = [seed for request in world.requests for seed in request.seeds]
    assert len(seeds) == 2 * 16 + 18 == len(set(seeds))


def test_completions_come_in_order_with_exact_counts(base: Path, tmp_path: Path) -> None:
    drawn = make(base, tmp_path, World(), chunk=2).sample(PROBLEMS, [1, 0, 3, 0, 2, 1])
    assert [len(completions) for completions in drawn] == [1, 0, 3, 0, 2, 1]
    for problem, completions in zip(PROBLEMS, drawn, strict=True):
        for completion in completions:
            assert completion.problem == problem
            assert completion.prompt_tokens == 1 + len(problem.question.split())  # a shot's word comes first
            assert completion.tokens == len(completion.text.split()) + 1 and not completion.hinted


@pytest.mark.promise("A fair comparison", "A hint is seen by the sampler and never trained on.")
def test_a_hint_is_seen_by_the_sampler_and_never_by_the_trainer(base: Path, tmp_path: Path) -> None:
    world = World()
    lab = make(base, tmp_path, world)
    drawn = lab.sample(PROBLEMS, 2, hint=True)
    assert [request.prompt for request in world.requests] == list(PROBLEM_SET.hinted.values())
    assert all(completion.hinted for completions in drawn for completion in completions)
    data = [Example(c.problem, c.text) for completions in drawn for c in completions]
    lab.train(data, optimizer=ADAM, batch_size=4, epochs=1)
    tokenizer = AutoTokenizer.from_pretrained(base)
    plain = {tuple(tokenizer(problem.question)["input_ids"]) for problem in PROBLEMS}
    assert len(world.rows) == len(data) and {row.prompt for row in world.rows} == plain


@pytest.mark.promise(
    "Budgets and FLOPs", "Searches, reward models and references of an objective are charged too."
)
def test_search_has_an_account_of_its_own(base: Path, tmp_path: Path) -> None:
    lab = make(base, tmp_path, World())
    lab.sample(PROBLEMS, search=True)
    probed = lab.spent
    lab.sample(PROBLEMS)
    assert spent_on(lab, Account.SEARCH) == probed and spent_on(lab, Account.SAMPLE) == lab.spent - probed


def spent_on(lab: Lab, account: Account) -> int:
    return sum(entry.flops for entry in lab.ledger if entry.account is account)


# --- what a method may not see, and what it may ------------------------------------------------------


@pytest.mark.promise(
    "A fair comparison", "Gold answers and the corpus never reach a method that does not declare them."
)
def test_gold_and_corpus_are_for_those_that_declare_them(base: Path, tmp_path: Path) -> None:
    def rows(n: int, seed: int) -> list[tuple[str, str]]:
        return [(f"w{seed % 30} w{i}", "w1") for i in range(n)]

    shy = make(base, tmp_path / "a", World(), corpus=rows)
    with pytest.raises(Unavailable, match="uses_gold"):
        shy.gold(PROBLEMS)
    with pytest.raises(Unavailable, match="uses_corpus"):
        shy.corpus(3)
    lab = make(base, tmp_path / "b", World(), corpus=rows, uses_gold=True, uses_corpus=True)
    assert [example.response for example in lab.gold(PROBLEMS[:2])] == ["w0", "w1"]
    first, second = lab.corpus(3), lab.corpus(3)
    assert len({example.problem.question for example in first + second}) == 6  # never the same rows again
    lab.train(first + second, optimizer=ADAM, batch_size=2, epochs=1)
    with pytest.raises(Unavailable, match="not warm-started"):
        make(base, tmp_path / "c", World(), uses_corpus=True).corpus(1)


def test_process_rewards_are_there_or_refused(base: Path, tmp_path: Path) -> None:
    without = make(base, tmp_path / "a", World(), scorer=None)
    assert without.has_process_rewards is False and without.mode == "verifier only"
    with pytest.raises(Unavailable, match="process_rewards"):
        without.score([])
    lab = make(base, tmp_path / "b", World(), scorer=LadderScorer())
    (drawn,) = lab.sample(PROBLEMS[:1], 3)
    assert lab.has_process_rewards and lab.mode == "process rewards: ladder rules"
    spent = lab.spent
    assert len(lab.score(drawn)) == 3 and lab.spent == spent  # rules cost nothing
    # A model of the policy's size would read question and completion; and no LM head.
    read = sequence_tally([(2, completion.tokens) for completion in drawn], logits=0)
    noted = lab.ledger[-1]
    assert (noted.account, noted.shape, noted.tally, noted.passes) == (Account.RULES, SHAPE, read, 1)


@pytest.mark.promise(
    "Budgets and FLOPs", "Searches, reward models and references of an objective are charged too."
)
def test_scoring_is_charged_with_the_reward_models_shape(base: Path, tmp_path: Path) -> None:
    world = World()
    lab = make(base, tmp_path, world)
    assert lab.has_process_rewards and lab.mode == "process rewards: judge-7b"
    (drawn,) = lab.sample(PROBLEMS[:1], 6)
    spent = lab.spent
    rewards = lab.score(drawn)
    assert rewards == [judged(completion).rewards for completion in drawn]
    assert lab.spent - spent == sum(cost_of_scoring(judged(completion)) for completion in drawn) > 0
    entries = [entry for entry in lab.ledger if entry.account == "reward"]
    assert len(entries) == 2 and {(entry.shape, entry.passes) for entry in entries} == {(JUDGE, 1)}  # chunks
    assert spent_on(lab, Account.REWARD) == lab.spent - spent


def test_a_second_lab_has_the_rewards_from_the_journal(base: Path, tmp_path: Path) -> None:
    seen = []
    for calls in (2, 0):  # of the scorer, which takes four at a time
        world = World()
        judge = Judge(world)
        lab = make(base, tmp_path, world, scorer=judge)
        (drawn,) = lab.sample(PROBLEMS[:1], 6)
        seen.append((lab.score(drawn), lab.spent, lab.ledger))
        assert judge.scored == ([c.text for c in drawn] if calls else [])
    assert seen[0] == seen[1]


def test_a_budget_is_cut_within_a_scoring(base: Path, tmp_path: Path) -> None:
    world = World()
    whole = make(base, tmp_path / "whole", world)
    whole.score(whole.sample(PROBLEMS[:1], 6)[0])
    costs = [part.cost for part in world.parts]  # of the sampling, and of each completion scored
    last = max(i for i, cost in enumerate(costs) if cost)
    assert last > 4 and sum(costs[1:last])  # in the second chunk, and not the first to cost something
    lab = make(base, tmp_path / "cut", World(), sum(costs) - 1)
    (drawn,) = lab.sample(PROBLEMS[:1], 6)
    for _ in range(2):
        with pytest.raises(BudgetSpent):
            lab.score(drawn)
    assert [cut.spent for cut in lab.cuts] == [sum(costs[:last])]


def test_the_reward_model_makes_room_for_the_policy(base: Path, tmp_path: Path) -> None:
    judge = Judge(World())
    lab = make(base, tmp_path, World(), scorer=judge)
    (drawn,) = lab.sample(PROBLEMS[:1], 2)
    lab.score(drawn)
    for work in (
        lambda: lab.sample(PROBLEMS[:1]),
        lambda: lab.train([Example(PROBLEMS[0], "w1")], optimizer=ADAM, batch_size=1, steps=1),
    ):
        closed = judge.closed
        work()
        assert judge.closed > closed


def test_random_streams_have_names(base: Path, tmp_path: Path) -> None:
    lab = make(base, tmp_path / "a", World())
    other = make(base, tmp_path / "b", World(), name="run/1")

    def draw(lab: Lab, name: str) -> int:
        return int(lab.rng(name).integers(2**60))

    lab.round = other.round = 1
    first = draw(lab, "select")
    assert draw(lab, "select") == first
    lab.round = 2
    draws = {first, draw(lab, "select"), draw(lab, "shuffle"), draw(other, "select")}
    assert len(draws) == 4


@pytest.mark.parametrize("how", [{"steps": 0}, {"epochs": 0}, {"steps": 1, "epochs": 1}])
def test_impossible_trainings_are_errors_of_the_method(
    base: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    with pytest.raises(ValueError):
        make(base, tmp_path, World()).train([Example(PROBLEMS[0], "w1")], optimizer=ADAM, batch_size=1, **how)


def test_impossible_samplings_are_errors_of_the_method(base: Path, tmp_path: Path) -> None:
    lab = make(base, tmp_path, World())
    with pytest.raises(ValueError, match="6 problems need as many counts"):
        lab.sample(PROBLEMS, [1, 2])
    with pytest.raises(ValueError, match="no training data"):
        lab.train([], optimizer=ADAM, batch_size=1, steps=1)


def test_a_training_starts_where_it_is_told_to(base: Path, tmp_path: Path) -> None:
    world = World()
    lab = make(base, tmp_path, world)
    ways: list[dict[str, Any]] = [{}, {}, {"start": "base"}, {"inherit_optimizer": True}]
    for way in ways:
        lab.train([Example(PROBLEMS[0], "w1")], optimizer=ADAM, batch_size=1, steps=2, **way)
    after = [part.weights for part in world.parts][1::2]
    assert world.starts == [("base", ""), (after[0], ""), ("base", ""), (after[2], "000003")]


def test_step_cost_is_the_mean_of_a_pass(base: Path, tmp_path: Path) -> None:
    world = World()
    lab = make(base, tmp_path, world)
    pairs = [Pair(problem, "w1 w2", "w3") for problem in PROBLEMS]
    planned = lab.step_cost(pairs, 2)
    report = lab.train(pairs, optimizer=ADAM, batch_size=2, epochs=1)
    assert report.steps == 3 and report.sequences == 6 and lab.spent // 3 == planned


# --- state on disk ----------------------------------------------------------------------------------


@pytest.mark.promise("Runs that are killed", "What a killed run had computed in vain is noted, once.")
def test_what_a_killed_training_had_done_is_noted_beside_the_ledger(base: Path, tmp_path: Path) -> None:
    data = [Example(problem, "w1") for problem in PROBLEMS]
    with pytest.raises(Crash):
        make(base, tmp_path, World(crash=3)).train(data, optimizer=ADAM, batch_size=1, steps=4)
    world = World()
    lab = make(base, tmp_path, world)
    lab.train(data, optimizer=ADAM, batch_size=1, steps=4)
    assert lab.machine[0]["wasted"] == sum(part.cost for part in world.parts[:2])
    assert lab.spent == sum(part.cost for part in world.parts)
    again = make(base, tmp_path, World())
    again.train(data, optimizer=ADAM, batch_size=1, steps=4)
    assert again.machine == lab.machine  # what the machine took outlives the process


def test_only_what_a_killed_training_had_not_saved_is_lost(base: Path, tmp_path: Path) -> None:
    data = [Example(problem, "w1") for problem in PROBLEMS]
    uncut = make(base, tmp_path / "uncut", World())
    uncut.train(data, optimizer=ADAM, batch_size=1, steps=9)
    steps = World()
    make(base, tmp_path / "steps", steps).train(data, optimizer=ADAM, batch_size=1, steps=9)
    budgets = [sum(part.cost for part in steps.parts[:3]), PLENTY]  # with a snapshot after the third
    for crash in (6, 2):  # dies in the sixth step; then, from the fourth on, in the second
        with pytest.raises(Crash):
            make(base, tmp_path / "killed", World(crash=crash, save_every=4), *budgets).train(
                data, optimizer=ADAM, batch_size=1, steps=9
            )
    world = World(save_every=4)
    lab = make(base, tmp_path / "killed", world, *budgets)
    lab.train(data, optimizer=ADAM, batch_size=1, steps=9)
    assert lab.machine[0]["wasted"] == 2 * steps.parts[4].cost  # the fifth step, twice
    assert [part.weights for part in world.parts] == [part.weights for part in steps.parts[4:]]
    assert [(cut.model / "weights").read_text() for cut in lab.cuts] == [steps.parts[2].weights]
    assert lab.ledger[-1].tally + lab.ledger[0].tally == uncut.ledger[0].tally
    assert not list((tmp_path / "killed" / "unfinished").iterdir())


@pytest.mark.promise("Runs that are killed", "What a killed run had computed in vain is noted, once.")
@pytest.mark.parametrize("crash", [1, 2, 3, 4, 5])  # sampler, verifier, sampler, verifier, scorer
def test_every_lost_chunk_is_noted_once(base: Path, tmp_path: Path, crash: int) -> None:
    def work(lab: Lab) -> None:
        lab.score(lab.sample(PROBLEMS[:2], 4)[0])

    clean = World()
    work(make(base, tmp_path / "clean", clean))
    costs = [clean.parts[0].cost, clean.parts[1].cost, sum(part.cost for part in clean.parts[2:])]
    for _ in range(2):  # two processes die at the same place, and one before it has begun
        with pytest.raises(Crash):
            work(make(base, tmp_path / "killed", World(crash=crash)))
        crash = 1 if crash % 2 else 2  # of what is then left
    with pytest.raises(BudgetSpent):
        make(base, tmp_path / "killed", World(), 1).train(
            [Example(PROBLEMS[0], "w1")], optimizer=ADAM, batch_size=1, steps=1
        )
    lab = make(base, tmp_path / "killed", World())
    work(lab)
    lost = [call["wasted"] for call in lab.machine]
    assert sorted(lost)[:2] == [0, 0] and sum(lost) in [2 * cost for cost in costs]


# --- runs that grow -----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(SCRIPTS, st.booleans(), st.booleans(), st.data())
def test_a_finished_run_goes_on_when_budgets_change(
    base: Path, script: list[Call], keep_moments: bool, schedule: bool, data: st.DataObject
) -> None:
    with TemporaryDirectory() as tmp:
        total = make(base, Path(tmp) / "uncut", World())
        play(total, script)
        some = st.sets(st.integers(1, total.spent + 1), min_size=1, max_size=3).map(sorted)
        before, after = data.draw(some), data.draw(some)

        clean = World()
        direct = make(base, Path(tmp) / "direct", clean, *after)
        seen, cuts, visits = play(direct, script), cut_facts(direct), dict(direct.visits)

        first, then = World(), World()
        play(make(base, Path(tmp) / "grown", first, *before, keep_moments=keep_moments), script)
        grown = make(base, Path(tmp) / "grown", then, *after, keep_moments=keep_moments)
        assert play(grown, script) == seen and cut_facts(grown) == cuts
        assert grown.ledger == direct.ledger and dict(grown.visits) == visits
        # Nothing is sampled twice, and what the first budgets paid for is not sampled for the second ones.
        assert sorted(map(repr, [*first.requests, *then.requests])) == sorted(
            map(repr, max(first.requests, clean.requests, key=len))
        )
        if keep_moments and before[-1] <= after[-1] and set(before) >= set(after[:-1]):
            # Only the top has risen: what was trained is not trained again.
            trained = sum(part.step for part in (*first.parts, *then.parts))
            assert trained == sum(part.step for part in clean.parts)
        third = World()
        play(make(base, Path(tmp) / "grown", third, *after, keep_moments=keep_moments), script)
        assert not third.requests and not third.rows  # and the same again does nothing


def test_a_call_that_a_budget_cut_goes_on_where_it_ended(base: Path, tmp_path: Path) -> None:
    def run(folder: Path, budget: int) -> World:
        world = World()
        lab = make(base, folder, world, budget)
        data = [Example(problem, "w1 w2") for problem in PROBLEMS]
        lab.train(data, optimizer=ADAM, batch_size=2, steps=2)
        with pytest.raises(BudgetSpent):
            lab.train(data, optimizer=ADAM, batch_size=2)
        lab.finish()
        return world

    whole, cut, grown = (
        run(tmp_path / "a", 400_000),
        run(tmp_path / "b", 200_000),
        run(tmp_path / "b", 400_000),
    )
    assert 2 < len(cut.parts) < len(whole.parts)
    # Not from its beginning, nor the call before it, whose weights no budget asks for.
    assert cut.parts + grown.parts == whole.parts


def test_a_run_cut_in_training_keeps_the_schedule_of_the_whole_call(base: Path, tmp_path: Path) -> None:
    world = World()
    lab = make(base, tmp_path, world, 50_000)
    data = [Example(problem, "w1 w2") for problem in PROBLEMS]
    cosine = Optimizer(learning_rate=1e-3, schedule="cosine")
    with pytest.raises(BudgetSpent):
        lab.train(data, optimizer=cosine, batch_size=2, steps=1_000)
    ((objective, optimizer, horizon, _),) = world.trainings
    assert (objective, optimizer, horizon) == (SFT(), cosine, 1_000)
    assert 0 < lab.steps < 1_000


@pytest.mark.promise("A fair comparison", "Only a method that plans sees its budget.")
def test_only_a_method_that_plans_sees_its_budget(base: Path, tmp_path: Path) -> None:
    data = [Example(problem, "w1 w2") for problem in PROBLEMS]
    cosine = Optimizer(learning_rate=1e-3, schedule="cosine")
    lab = make(base, tmp_path / "a", World(), 50_000)
    for look in (lambda: lab.budget, lambda: lab.remaining):
        with pytest.raises(Misuse, match="plans"):
            look()
    assert lab.affords(10**18)  # its run has no last round
    with pytest.raises(Misuse, match="schedule that ends there"):
        lab.train(data, optimizer=cosine, batch_size=2)
    planner = make(base, tmp_path / "b", World(), 50_000, plans=True)
    planner.sample(PROBLEMS)
    left = 50_000 - planner.spent
    assert planner.budget == 50_000 and planner.remaining == left
    assert planner.affords(left) and not planner.affords(left + 1)
    with pytest.raises(BudgetSpent):
        planner.train(data, optimizer=cosine, batch_size=2)


def test_an_objective_trains_on_its_own_data(base: Path, tmp_path: Path) -> None:
    world = World()
    lab = make(base, tmp_path, world)
    pairs = [Pair(PROBLEMS[0], "w1", "w2")]
    with pytest.raises(Misuse, match="SFT trains on Examples, and these are Pairs"):
        lab.train(pairs, optimizer=ADAM, batch_size=1, steps=1, objective=SFT())
    with pytest.raises(Misuse, match="DPO trains on Pairs, and these are Examples"):
        lab.train([Example(PROBLEMS[0], "w1")], optimizer=ADAM, batch_size=1, steps=1, objective=DPO())
    chosen = DPO(beta=0.3, nll_weight=2.0)
    slow = Optimizer(learning_rate=1e-6, warmup_steps=3)
    lab.train(pairs, optimizer=slow, batch_size=1, steps=2, objective=chosen, horizon=9)
    lab.train(pairs, optimizer=ADAM, batch_size=1, steps=2)
    (first, second) = world.trainings
    assert first[:3] == (chosen, slow, 9) and second[:3] == (DPO(), ADAM, 2)
    assert first[3] != second[3]  # dropout's seed


def test_a_pairs_reference_is_charged_once_however_often_it_is_visited(base: Path, tmp_path: Path) -> None:
    lab = make(base, tmp_path, World())
    pairs = [Pair(problem, "w1 w2", "w3") for problem in PROBLEMS[:2]]
    lab.train(pairs, optimizer=ADAM, batch_size=2, steps=5)
    both = sequence_tally([(2, 3), (2, 2), (3, 3), (3, 2)])
    training, reference = lab.ledger
    assert training.passes == 3 and training.flops == 5 * flops(SHAPE, both, TRAINING_PASSES)
    assert reference.passes == 1 and reference.flops == flops(SHAPE, both, FORWARD_PASSES)
    assert reference.tally.sequences == 4 and training.tally.sequences == 20
    assert lab.spent == training.flops + reference.flops
    assert dict(lab.visits) == {"p0": 5, "p1": 5}


@pytest.mark.promise(
    "Budgets and FLOPs", "Searches, reward models and references of an objective are charged too."
)
@pytest.mark.parametrize(
    ("objective", "references"),
    [
        (PolicyGradient(), 0),
        (PolicyGradient(clip_low=0.2, clip_high=0.3), 1),
        (PolicyGradient(kl=0.1), 1),
        (PolicyGradient(clip_low=0.2, clip_high=0.3, kl=0.1), 2),
    ],
    ids=["neither", "clip", "kl", "both"],
)
def test_each_reference_of_a_policy_gradient_is_charged_once_per_row(
    base: Path, tmp_path: Path, objective: PolicyGradient, references: int
) -> None:
    world = World()
    lab = make(base, tmp_path, world)
    data = [Example(problem, "w1 w2", 1 - 2 * i) for i, problem in enumerate(PROBLEMS[:2])]
    lab.train(data, optimizer=ADAM, batch_size=2, steps=5, objective=objective)
    once = sequence_tally([(2, 3), (3, 3)])
    training, *others = lab.ledger
    assert training.passes == 3 and training.flops == 5 * flops(SHAPE, once, TRAINING_PASSES)
    assert [(entry.passes, entry.flops) for entry in others] == [
        (FORWARD_PASSES, references * flops(SHAPE, once, FORWARD_PASSES))
    ] * (references > 0)
    assert lab.spent == sum(part.cost for part in world.parts)
    first = flops(SHAPE, once, TRAINING_PASSES + references * FORWARD_PASSES)
    assert lab.step_cost(data, 2, objective) == first
    assert lab.step_cost(data, 2) == flops(SHAPE, once, TRAINING_PASSES)


def test_weights_reach_the_trainer_and_tell_rows_apart(base: Path, tmp_path: Path) -> None:
    world = World()
    lab = make(base, tmp_path, world)
    data = [Example(PROBLEMS[0], "w1", weight) for weight in (0.5, -0.5, 0.0, 0.5)]
    objective = PolicyGradient(clip_low=0.2, clip_high=0.3)
    lab.train(data, optimizer=ADAM, batch_size=4, steps=1, objective=objective)
    assert sorted(row.weight for row in world.rows) == [-0.5, 0.0, 0.5, 0.5]
    training, reference = lab.ledger
    assert (training.tally.sequences, reference.tally.sequences) == (4, 3)  # the same example twice
    with pytest.raises(Misuse, match="SFT trains on examples of weight 1"):
        lab.train(data, optimizer=ADAM, batch_size=4, steps=1)
    again = make(base, tmp_path, World())
    other = [replace(example, weight=1.0) for example in data]
    with pytest.raises(UserError, match="records `train"):  # another call: its weights are other ones
        again.train(other, optimizer=ADAM, batch_size=4, steps=1, objective=objective)


def test_what_a_training_reports_is_in_the_journal(base: Path, tmp_path: Path) -> None:
    lab = make(base, tmp_path, World())
    data = [Example(problem, "w1 w2") for problem in PROBLEMS]
    lab.train(data, optimizer=ADAM, batch_size=4, steps=2)
    value = json.loads((tmp_path / "journal" / "000001.json").read_text())["value"]
    assert value["monitors"] == {"steps": 2.0} and value["loss"] == 2 / 7
    assert [found for _, found in value["start"]] == [[-3.0], [-3.0]]  # of World: minus the tokens
    assert len({number for number, _ in value["start"]} & {*range(6)}) == 2


def test_prompts_of_a_call_share_what_all_prompts_begin_with(base: Path, tmp_path: Path) -> None:
    chunked, whole = (make(base, tmp_path / str(n), World(), chunk=n) for n in (1, 100))
    for lab in (chunked, whole):
        lab.sample(PROBLEMS[2:4], 2)
        lab.sample(PROBLEMS[2:3], 1, hint=True, temperature=0.5, top_p=0.9, top_k=7)
    counts = [sum((entry.tally for entry in lab.ledger), Tally.zero()) for lab in (chunked, whole)]
    assert counts[0] == counts[1]  # how a call is split up changes none
    first, hinted = whole.ledger
    assert first.tally.prompt_tokens == 2 * 5 + 2 * 6
    decoded = first.tally.completion_tokens - 4
    assert first.tally.tokens == 5 + (6 - SHARED[False]) + decoded
    assert first.tally.padded == 4 * 6 + first.tally.completion_tokens  # the papers pad to the call's longest
    assert hinted.tally.tokens == 8 + hinted.tally.completion_tokens - 1  # the first of its call pays for all
    params = whole._engines.sampler.params  # type: ignore[attr-defined]
    assert params == [SamplingParams(max_tokens=8), SamplingParams(0.5, 0.9, 7, 8)]


# --- faults of the machine ----------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["sample", "verify", "score", "train"])
def test_a_fault_of_an_engine_is_no_result(base: Path, tmp_path: Path, engine: str) -> None:
    def breaks(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("CUDA error: an illegal\nmemory access")

    world = World()
    lab = make(base, tmp_path, world)
    (drawn,) = lab.sample(PROBLEMS[:1], 2)
    setattr(lab._engines.scorer if engine == "score" else world, engine, breaks)
    with pytest.raises(
        UserError, match=r"broke down \(RuntimeError: CUDA error: an illegal memory access; .*fault"
    ):
        lab.score(drawn)
        lab.sample(PROBLEMS[:1])
        lab.train([Example(PROBLEMS[0], "w1")], optimizer=ADAM, batch_size=1, steps=1)
    assert "illegal" in (tmp_path / "fault.txt").read_text()
    assert not list(tmp_path.rglob(".*.tmp"))


def test_lora_is_charged_in_training_and_nowhere_else(base: Path, tmp_path: Path) -> None:
    full, adapted = make(base, tmp_path / "a", World()), make(base, tmp_path / "b", World(), lora_rank=2)
    data = [Example(problem, "w1") for problem in PROBLEMS]
    for lab in (full, adapted):
        lab.round = 1
        lab.sample(PROBLEMS)
        lab.train(data, optimizer=ADAM, batch_size=2, steps=3)
    assert full.ledger[:-1] == adapted.ledger[:-1]
    before, after = full.ledger[-1], adapted.ledger[-1]
    assert before.tally == after.tally and after.shape == SHAPE.with_lora(2)
    assert after.flops == flops(SHAPE.with_lora(2), after.tally, TRAINING_PASSES) != before.flops
    assert after.papers_flops == before.papers_flops
    assert adapted.step_cost(data, 2) * 3 == after.flops


def test_a_damaged_checkpoint_is_named_and_not_used(base: Path, tmp_path: Path) -> None:
    lab = make(base, tmp_path, World())
    lab.train([Example(PROBLEMS[0], "w1")], optimizer=ADAM, batch_size=1, steps=1)
    (tmp_path / "models" / "000001" / "step-000001" / "weights").write_text("others")
    with pytest.raises(UserError, match=r"models/000001/step-000001 is damaged, or another"):
        lab.sample(PROBLEMS)


@pytest.mark.parametrize("keep", [True, False])
def test_only_checkpoints_that_are_needed_stay_on_disk(base: Path, tmp_path: Path, keep: bool) -> None:
    lab = make(base, tmp_path, World(), 60_000, 150_000, keep_moments=keep)
    with suppress(BudgetSpent):
        for _ in range(20):
            lab.train(
                [Example(PROBLEMS[0], "w1")], optimizer=ADAM, batch_size=2, steps=3, inherit_optimizer=True
            )
    first, second = lab.finish()
    kept = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("models/*/*")}
    source = (
        {f"models/{int(second.model.parent.name) - 1:06d}/step-000003"} if keep else set()
    )  # of the last call
    assert kept == {str(cut.model.relative_to(tmp_path)) for cut in (first, second)} | source
    assert all(files.sealed(cut.model) for cut in (first, second))
    assert not (first.model / "optimizer").exists() and not (second.model / "optimizer").exists()
    moments = [path.parent.name for path in tmp_path.glob("models/*/step-000003/optimizer")]
    assert len(moments) == keep  # which the last call inherited
    assert bool(list((tmp_path / "unfinished").glob("*/*"))) is keep  # the last call was cut
