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
        ("7 + 5 = 12 ; 9 / 3 = 3 #### 3", (1, 0.5)),  # right, but from numbers out of nowhere
        ("7 / 0 = 1", (0,)),
        ("12 / 4 = 3", (0.5,)),
        ("7 + 5 ; 12 / 4 = 3", (0, 0.5)),
        ("#### 3", (0,)),
        ("", (0,)),
        ("²", (0,)),
        ("9" * 5000 + " + 1 = 2", (0,)),  # Python refuses to read such a number
    ],
)
def test_steps(text: str, scores: tuple[float, ...]) -> None:
    assert score(text) == scores


def test_every_worked_solution_scores_one_throughout() -> None:
    for problem, gold in ladder.generate("train", 200, seed=0):
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
