"""Rehearsals: prices by hand on a tiny model, and the same run on the real Lab, cut by cut."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from repro import files
from repro.lab import Engines, Lab
from repro.method import BudgetSpent, Example, Method, Optimizer, Pair, PolicyGradient, Role
from repro.planning.rehearsal import Mend, Play, Script, Stage, mend, rehearse
from repro.problems import ProblemSet
from repro.records import Gold, Problem, Verdict
from repro.sampling import Sample, Sampled
from repro.shapes import counted
from repro.training import Trained

CONFIG = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96, "vocab_size": 50,
    "tie_word_embeddings": False,
}  # fmt: skip
SHAPE = counted(CONFIG, "rehearsal").shape
# Every completion has 5 tokens, because more are not allowed; 20 of a prompt's 30 are worked examples.
SCRIPT = Script(
    SHAPE, scorer=None, rewards=False, corpus=False, problems=3, prompt=10, asked=30, shared=20,
    completion=100, max_tokens=5, solution=7, max_length=100, accuracy=0.5,
)  # fmt: skip
ADAM = Optimizer(learning_rate=1e-3)

# ---------------------------------------------------------------------------------------------------------
# By hand, with the weights of tests/test_plan.py: 2 * 61,440 a token, 2 * 3,200 a logit, 512 a pair.
#
#   a call's first request  30 + 2*4 tokens, 1 + 2*4 logits, 465 + 2*(595 - 465) pairs: two completions
#                           4,669,440 + 57,600 + 371,200
#   another                 20 tokens and 210 pairs less: 2,211,840 + 57,600 + 263,680
#   a forward pass          10 + 5 tokens, as many logits, 120 pairs: 1,843,200 + 96,000 + 61,440
FIRST, OTHER, PASS = 5_098_240, 2_533_120, 2_000_640
SAMPLED = FIRST + 2 * OTHER  # 3 problems, 2 completions of each
STEP = 4 * 3 * PASS  # 4 examples
PAIRS = 2 * 2 * 3 * PASS  # 2 pairs have 4 sides
REFERENCE = 2 * PASS  # of one pair
ROUND = SAMPLED + 2 * STEP + 3 * PAIRS + 3 * REFERENCE  # of the toy below
PLENTY = 10**13


class Toy(Method):
    """Two completions of each problem, two steps on them, three on pairs: 6 visits to 3 pairs."""

    title: ClassVar[str] = "Toy"
    pairs: bool = True

    def round(self, lab: Any, state: Any) -> None:
        drawn = lab.sample(lab.problems, 2)
        data = [Example(c.problem, c.text) for found in drawn for c in found]
        lab.train(data, steps=2, batch_size=4, optimizer=ADAM)
        if self.pairs:
            both = [Pair(a.problem, a.text, b.text) for a, b in drawn]
            lab.train(both, steps=3, batch_size=2, optimizer=ADAM)


def test_a_round_costs_what_it_does_by_hand() -> None:
    (one,) = rehearse(Toy(), Stage(SCRIPT), [ROUND]).standings
    assert (one.spent, one.rounds, one.steps, one.calls, one.completions) == (ROUND, 2, 5, 4, 6)
    assert one.accounts == {"sample": SAMPLED, "train": ROUND - SAMPLED}
    # Reading alone: 30 tokens, 1 logit, 465 pairs, then 20 tokens and 210 pairs less.
    assert one.prefill == 3_930_880 + 2 * (1_228_800 + 6_400 + 130_560)
    assert one.stranded == 0
    # The second round begins: it samples. Of two trainings in a row the second finds the engine at work.
    assert one.starts == {"sample": 2, "train": 1}


def test_scoring_with_a_model_and_by_rules() -> None:
    class Scores(Method):
        title: ClassVar[str] = "Scores"

        def round(self, lab: Any, state: Any) -> None:
            drawn = [c for found in lab.sample(lab.problems, 2) for c in found]
            rewards = lab.score(drawn)
            assert rewards == [(1.0,) if c.correct else (0.0,) for c in drawn]

    scorer = replace(SCRIPT, scorer=SHAPE, rewards=True)
    price = 6 * (PASS - 96_000)  # of six completions, without logits
    (one,) = rehearse(Scores(), Stage(scorer), [SAMPLED + price]).standings
    assert one.accounts == {"sample": SAMPLED, "reward": price}
    assert one.starts == {"sample": 2, "reward": 1}
    (one,) = rehearse(Scores(), Stage(scorer), [SAMPLED + price - 1]).standings
    assert one.spent == SAMPLED + price * 5 // 6
    (one,) = rehearse(Scores(), Stage(replace(SCRIPT, rewards=True)), [SAMPLED]).standings
    assert one.accounts == {"sample": SAMPLED}


def test_hints_searches_gold_and_long_rows() -> None:
    class Other(Method):
        title: ClassVar[str] = "Other"
        uses_gold: ClassVar[bool] = True

        def round(self, lab: Any, state: Any) -> None:
            hinted = lab.sample(lab.problems[:1] * 1000, hint=True)
            lab.sample(lab.problems[:1], 2, search=True)
            plain = lab.sample(lab.problems[:1] * 1000)
            solved, helped = (sum(c.correct for (c,) in found) for found in (plain, hinted))
            chance = 0.5 + solved / 2000  # halfway from what it is without
            assert abs(helped / 1000 - chance) < 0.1
            assert len({c.text for (c,) in plain if c.correct}) == 16
            lab.train(lab.gold(lab.problems), steps=1, batch_size=1, optimizer=ADAM)
            raise BudgetSpent

    short = Stage(replace(SCRIPT, max_length=12))
    (one,) = rehearse(Other(), short, [PLENTY]).standings
    assert one.accounts["search"] == FIRST
    # 10 tokens asked and 2 of a solution of 7: 12*122,880 + 12*6,400 + 78*512
    assert one.accounts["train"] == 3 * (1_474_560 + 76_800 + 39_936)


def test_lengths_lie_around_the_mean() -> None:
    stage = Stage(replace(SCRIPT, completion=16, max_tokens=50))
    lengths = [tokens for _, tokens in stage.solutions]
    assert sorted(set(lengths)) == [10, 14, 18, 22] and sum(lengths) / len(lengths) == 16


def test_training_to_the_end_of_the_budget() -> None:
    class Once(Method):
        title: ClassVar[str] = "Once"
        plans: bool = True

        def round(self, lab: Any, state: Any) -> None:
            assert lab.affords(lab.remaining) and not lab.affords(lab.remaining + 1)
            drawn = lab.sample(lab.problems, 2)
            data = [Example(c.problem, c.text) for found in drawn for c in found]
            assert lab.step_cost(data, 4) == STEP
            lab.train(data, batch_size=4, optimizer=ADAM)

    budgets = [SAMPLED + 1, SAMPLED + 3 * STEP + 1, SAMPLED + 7 * STEP]
    play = rehearse(Once(), Stage(SCRIPT), budgets)
    assert [one.steps for one in play.standings] == [0, 3, 7]
    assert [one.spent for one in play.standings] == [SAMPLED, SAMPLED + 3 * STEP, SAMPLED + 7 * STEP]
    assert [one.completed for one in play.standings] == [0, 1, 1]
    assert play.planned and play.runs == play.standings
    assert play.standings[0].stranded == 1


def test_a_round_is_complete_when_the_next_begins() -> None:
    budgets = [ROUND - 1, ROUND, 2 * ROUND, 3 * ROUND - 1]
    play = rehearse(Toy(), Stage(SCRIPT), budgets)
    assert [(one.rounds, one.completed) for one in play.standings] == [(1, 0), (2, 1), (3, 2), (3, 2)]


def test_a_mend_is_the_first_doubled_budget_that_completes_two_rounds_and_what_shrinks_them() -> None:
    class Sized(Method):
        title: ClassVar[str] = "Sized"
        n: int = 2
        top_k: int = 40
        epochs: float = 2.0

        def round(self, lab: Any, state: Any) -> None:
            data = [Example(c.problem, c.text) for c in lab.sample(lab.problems[:1], self.n)[0]]
            lab.train(data, epochs=self.epochs, batch_size=1, optimizer=ADAM)

    class Part(Sized):
        one_round: ClassVar[bool] = True

    stage, both = Stage(SCRIPT), 2 * (FIRST + 2 * 2 * 3 * PASS)
    assert mend(Sized(), stage, both // 2) == Mend(both, ["n", "epochs"])
    assert mend(Sized(), stage, both // 2 - 1) == Mend(2 * both - 4, ["n", "epochs"])
    assert mend(Part(), stage, FIRST) == Mend(4 * FIRST, ["n"])  # for FIRST + 3 * PASS
    assert mend(Sized(), stage, 1) == Mend(None, [])


def test_a_policy_gradient_pays_for_each_of_its_references() -> None:
    costs: list[int] = []

    class Clips(Method):
        title: ClassVar[str] = "Clips"

        def round(self, lab: Any, state: Any) -> None:
            data = [Example(a.problem, a.text, -1.0) for a, *_ in lab.sample(lab.problems, 2)]
            for objective in (PolicyGradient(), PolicyGradient(clip_low=0.1, clip_high=0.1, kl=0.1)):
                before = lab.spent
                lab.train(data, steps=1, batch_size=len(data), optimizer=ADAM, objective=objective)
                costs.append(lab.spent - before)
                assert lab.step_cost(data, len(data), objective) == costs[-1]
            raise BudgetSpent

    assert rehearse(Clips(), Stage(SCRIPT), [PLENTY]).reason == ""
    plain, both = costs
    assert 3 * both == 5 * plain  # three passes, and two more


def test_dpo_s_step_cost_has_its_reference() -> None:
    class Asks(Method):
        title: ClassVar[str] = "Asks"

        def round(self, lab: Any, state: Any) -> None:
            pairs = [Pair(a.problem, a.text, b.text) for a, b in lab.sample(lab.problems, 2)]
            assert lab.step_cost(pairs, 2) == PAIRS + 2 * REFERENCE
            raise BudgetSpent

    assert rehearse(Asks(), Stage(SCRIPT), [PLENTY]).reason == ""


def test_what_cannot_be_played() -> None:
    class Idle(Method):
        title: ClassVar[str] = "Idle"

        def round(self, lab: Any, state: Any) -> None:
            pass

    class Broken(Idle):
        def round(self, lab: Any, state: Any) -> None:
            raise ZeroDivisionError("oh")

    class Corpus(Idle):
        uses_corpus: ClassVar[bool] = True

        def round(self, lab: Any, state: Any) -> None:
            lab.corpus(1)

    class Base(Idle):
        role: ClassVar[Role] = Role.BASE

        def round(self, lab: Any, state: Any) -> None:
            raise BudgetSpent

    def played(method: Method, **changes: Any) -> Play:
        return rehearse(method, Stage(replace(SCRIPT, **changes)), [PLENTY])

    assert "3 rounds in a row spent nothing" in played(Idle()).reason and played(Idle()).failed
    assert "failed in round 1: ZeroDivisionError: oh" in played(Broken()).reason
    assert played(Corpus()) == Play(reason="unavailable: no warm-start corpus")
    assert "spent nothing" in played(Corpus(), corpus=True).reason
    assert not played(Base()).spends and not played(Base()).reason


# ---------------------------------------------------------------------------------------------------------
# Against the real Lab


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "base"
    folder.mkdir()
    words = ["<eos>", "<unk>", "shot", *(f"q{i}" for i in range(3)), *(f"w{i}" for i in range(44))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    files.seal(folder)
    return folder


class World:
    """Engines whose completions are four words and the end of text."""

    def load(self, model_dir: Path) -> None: ...

    def close(self) -> None: ...

    def sample(self, requests: Sequence[Any], params: Any, progress: Any = None) -> list[Sampled]:
        def words(seed: int) -> Sample:
            return Sample(" ".join(f"w{seed >> 5 * i & 31}" for i in range(4)), 5, "stop", -1.0, 0)

        return [Sampled(30, tuple(map(words, request.seeds))) for request in requests]

    def verify(self, texts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        return [Verdict.CORRECT] * len(texts)

    def train(
        self, model_dir: Path, batches: Sequence[Any], objective: Any, optimizer: Any, out_dir: Path, *,
        snapshots: Mapping[int, Path] | None = None, on_step: Callable[[int, float], None] | None = None,
        **more: Any,
    ) -> Trained:  # fmt: skip
        (out_dir / "weights").write_text("")
        for snapshot in (snapshots or {}).values():
            with files.building(snapshot) as folder:
                (folder / "weights").write_text("")
        return Trained(1.0, {}, [])


def really(method: Method, base: Path, folder: Path, budgets: Sequence[int]) -> Lab:
    """The run of a method on the real Lab."""
    problems = [Problem(str(i), "", "all") for i in range(3)]
    prompts = {problem.id: " ".join([f"q{problem.id}"] * 10) for problem in problems}
    shown = {name: " ".join(["shot"] * 20) + f" {prompt}" for name, prompt in prompts.items()}
    golds = {problem.id: Gold("1") for problem in problems}
    world: Any = World()
    engines = Engines(world, world, world, None, None, max_tokens=5, chunk=4, max_length=100)
    lab = Lab("toy", folder, base, ProblemSet(problems, golds, prompts, shown, shown), budgets, engines)
    try:
        while True:
            lab.round += 1
            method.round(lab, None)
    except BudgetSpent:
        lab.finish()
        return lab


@settings(max_examples=20, deadline=None)
@example([FIRST - 1, FIRST, FIRST + OTHER + 1], True)
@example([SAMPLED + STEP - 1, SAMPLED + STEP, ROUND + FIRST + 1], True)
@given(st.lists(st.integers(1, 4 * 150_000_000), min_size=1, max_size=3, unique=True), st.booleans())
def test_budgets_are_charged_and_cut_as_in_a_run(base: Path, budgets: list[int], pairs: bool) -> None:
    """Wherever a budget falls: before anything, in a call of either kind, between the two."""
    budgets = sorted(budgets)
    played = rehearse(Toy(pairs=pairs), Stage(SCRIPT), budgets).standings
    with TemporaryDirectory() as folder:
        lab = really(Toy(pairs=pairs), base, Path(folder), budgets)
    for one, cut in zip(played, lab.cuts, strict=True):
        assert (one.budget, one.spent, one.rounds, one.steps) == (cut.budget, cut.spent, cut.round, cut.steps)
        accounts: Counter[str] = Counter()
        for entry in lab.ledger[: cut.entries]:
            accounts[entry.account] += entry.flops
        assert one.accounts == accounts
