"""Process rewards (a score for each reasoning step) and text embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from repro.config import RewardModel
from repro.flops import ModelShape
from repro.records import Completion

Aggregation = Literal["min", "mean", "last"]


@dataclass(frozen=True, slots=True)
class Scored:
    """The step rewards of one completion, in [0, 1] and at least one, and what a model processed for them."""

    rewards: tuple[float, ...]
    prompt_tokens: int = 0
    tokens: int = 0  # of the completion, with the marks of its steps
    logits: int = 0  # positions that the model's head was applied to


class ProcessScorer(Protocol):
    """Scores every reasoning step of a completion, given the question and never the gold."""

    @property
    def name(self) -> str:
        """What the rewards come from, as a row's note says it."""

    @property
    def shape(self) -> ModelShape | None:
        """The model's, whose FLOPs scoring costs. None: rules, which cost nothing."""

    def score(self, completions: Sequence[Completion]) -> list[Scored]:
        """One for each completion, in order. They do not depend on their neighbours, up to rounding."""

    def close(self) -> None:
        """Give the memory back. A later :meth:`score` loads the model again."""


def scorer_for(spec: Literal["ladder"] | RewardModel | None) -> ProcessScorer | None:
    """The scorer of a study's ``process_rewards``; its model is loaded when it is first asked.

    Raises :class:`~repro.errors.UserError` where the model folder is missing or of an unknown architecture.
    """
    if spec is None:
        return None
    if spec == "ladder":
        from repro.rewards.ladder import LadderScorer

        return LadderScorer()
    if spec.kind == "pooling":
        from repro.rewards.pooling import PoolingScorer

        return PoolingScorer(spec)
    from repro.rewards.transformers import CausalScorer, TokenClassifier, ValueHeadScorer

    kinds: dict[str, Callable[[RewardModel], ProcessScorer]] = {
        "causal": CausalScorer,
        "token_classification": TokenClassifier,
        "value_head": ValueHeadScorer,
    }
    return kinds[spec.kind](spec)


def aggregate(rewards: Sequence[float], how: Aggregation) -> float:
    """One number for a completion: its smallest, mean or last step reward."""
    if how == "mean":
        return sum(rewards) / len(rewards)
    return min(rewards) if how == "min" else rewards[-1]


def embed(texts: Sequence[str]) -> np.ndarray:
    """TF-IDF vectors of unit length (a text without words: zero), shape ``[len(texts), words]``.

    It needs no model, so it costs no FLOPs by the suite's convention.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not texts:
        return np.zeros((0, 0))
    try:
        return TfidfVectorizer(token_pattern=r"\S+").fit_transform(texts).toarray()
    except ValueError:  # no text has a word
        return np.zeros((len(texts), 1))
