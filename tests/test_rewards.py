"""Process rewards of the ladder, and embeddings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro import rewards
from repro.problems import ladder
from repro.records import Completion, Problem, Verdict
from repro.rewards.ladder import LadderScorer

QUESTION = "Tom has 7 pens . gets 5 more . keeps one of 4 equal parts . how many pens ?"

both_worlds = pytest.mark.parametrize("world", ladder.WORLDS.values(), ids=ladder.WORLDS)


def score(text: str, question: str = QUESTION) -> tuple[float, ...]:
    completion = Completion(Problem("p", question, "1"), text, 1, 1, "stop", Verdict.WRONG)
    (scored,) = LadderScorer().score([completion])
    return scored.rewards


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("7 + 5 = 12 ; 12 / 4 = 3 #### 3", (1, 1)),
        ("5 + 7 = 12 ; 12 / 4 = 3 #### 3", (1, 1)),
        ("7 + 5 = 13 ; 13 / 4 = 3 #### 3", (0, 1)),  # goes on rightly from a wrong value
        ("7 + 5 = 12 ; 9 / 3 = 3 #### 3", (1, 0)),  # from numbers out of nowhere
        ("7 + 5 = 12 ; 5 + 5 = 10 ; 12 / 4 = 3 #### 3", (1, 0.5, 0)),  # more than the words call for
        ("7 - 5 = 2 ; 2 / 4 = 0 #### 0", (0.5, 0)),  # `gets` is not `-`
        ("7 + 5 = 12 ; 12 / 4 = 3 #### 4", (1, 0)),  # not what the last step comes to
        ("7 + 5 = 12 ; 12 / 4 = 3", (1, 0)),
        ("7 + 5 = 12 #### 12", (0,)),  # leaves out what the parts are
        ("7 / 0 = 1", (0,)),
        ("7 + 5 ; 12 / 4 = 3", (0, 0)),
        ("#### 3", (0,)),
        ("", (0,)),
        ("²", (0,)),
        ("9" * 5000 + " + 1 = 2", (0,)),  # Python refuses to read such a number
    ],
)
def test_steps(text: str, scores: tuple[float, ...]) -> None:
    assert score(text) == scores


@pytest.mark.parametrize(
    ("told", "text", "scores"),
    [
        # A friend has fewer than the quantity, which is counted with twice.
        ("joins a friend who has 4 fewer", "24 - 4 = 20 ; 24 + 20 = 44 #### 44", (1, 1)),
        ("joins a friend who has 4 fewer", "24 - 4 = 20 ; 20 + 20 = 40 #### 40", (1, 0)),
        ("gets 4 more . joins a friend who has 4 fewer",
         "24 + 4 = 28 ; 28 - 4 = 24 ; 28 + 24 = 52 #### 52", (1, 1, 1)),
        ("gets 6 more . gets 6 more", "24 + 6 = 30 ; 30 + 6 = 36 #### 36", (1, 1)),
        ("gets 6 more . gets 6 more", "24 + 6 = 30 #### 30", (0,)),  # told twice, used once
        ("sells 2 packs of 4", "4 * 2 = 8 ; 24 - 8 = 16 #### 16", (1, 1)),
        ("sells 2 packs of 4", "2 * 4 = 8 ; 8 - 24 = 0 #### 0", (1, 0)),
        ("sells 2 packs of 4", "2 * 2 = 4 ; 24 - 4 = 20 #### 20", (0.5, 0)),
        ("gets 5 more . loses 2", "9 + 5 = 14 ; 14 - 2 = 12 #### 12", (0.5, 0)),  # begins with 24
        ("keeps one of 4 equal parts . gets 4 more", "4 / 24 = 0 ; 0 + 4 = 4 #### 4", (0.5, 0)),
        ("loses 4 . sells 2 packs of 4", "2 * 4 = 8 ; 24 - 4 = 20 ; 20 - 8 = 12 #### 12", (1, 1, 1)),
    ],
)  # fmt: skip
def test_the_words_call_for_steps(told: str, text: str, scores: tuple[float, ...]) -> None:
    assert score(text, f"Tom has 24 pens . {told} . how many pens ?") == scores


@pytest.mark.parametrize("question", ["", "What is 1 + 1 ?", "Tom has 1 pens . finds 1 more ."])
def test_a_question_that_tells_nothing_calls_for_nothing(question: str) -> None:
    assert max(score("1 + 1 = 2 ; 2 + 1 = 3 #### 3", question)) <= 0.5


@both_worlds
def test_a_wrong_answer_has_no_full_reward_and_a_right_chain_has(world: ladder.World) -> None:
    """Over the imperfect corpus, whose slips go on from a wrong value, and over dropped last steps."""
    for problem, gold in ladder.generate("train", 200, 1, world):
        assert gold.solution is not None
        *kept, _ = gold.solution.split(" #### ")[0].split(" ; ")
        if kept:
            cut = f"{' ; '.join(kept)} #### {kept[-1].split()[-1]}"
            assert min(score(cut, problem.question)) == 0
    for question, solution, _ in ladder.corpus(300, 0, world):
        holds = [ladder.SIGNS[s](int(a), int(b)) == int(c) for a, s, b, _, c in map(
            str.split, solution.split(" #### ")[0].split(" ; "))]  # fmt: skip
        assert score(solution, question) == tuple(map(float, holds))


@both_worlds
def test_every_worked_solution_scores_one_throughout(world: ladder.World) -> None:
    for problem, gold in ladder.generate("train", 200, 0, world):
        assert gold.solution is not None
        scores = score(gold.solution, problem.question)
        assert set(scores) == {1.0} and len(scores) == gold.solution.count("=")


@given(st.text())
def test_any_text_has_scores_between_zero_and_one(text: str) -> None:
    scores = score(text)
    assert scores and all(0 <= each <= 1 for each in scores)


@pytest.mark.parametrize(("how", "reward"), [("min", 0.25), ("mean", 0.5), ("last", 0.75)])
def test_aggregations(how: rewards.Aggregation, reward: float) -> None:
    assert rewards.aggregate((0.5, 0.25, 0.75), how) == reward
    assert rewards.aggregate((0.375,), how) == 0.375


def test_embeddings_are_unit_vectors_that_tell_texts_apart() -> None:
    vectors = rewards.embed(["gain gain loss", "gain loss", "share", ""])
    assert vectors.shape == (4, 3)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1, 0])
    assert vectors[0] @ vectors[1] > 0.9 and vectors[0] @ vectors[2] == 0


@pytest.mark.parametrize(("texts", "shape"), [([], (0, 0)), (["", " "], (2, 1))])
def test_embeddings_of_nothing(texts: list[str], shape: tuple[int, int]) -> None:
    assert rewards.embed(texts).shape == shape
