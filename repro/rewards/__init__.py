"""Process rewards (a score for each reasoning step) and text embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from repro.records import Completion


class ProcessScorer(Protocol):
    """Scores every reasoning step of a completion."""

    def score(self, completions: Sequence[Completion]) -> list[tuple[float, ...]]:
        """Rewards in [0, 1], at least one for each completion."""


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
