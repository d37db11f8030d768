"""Near-duplicates: training problems that a benchmark also asks, up to dress and a few words or numbers."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from repro.records import Problem

SHINGLE = 8  # tokens
THRESHOLD = 0.5  # Jaccard similarity from which two questions count as one

# Words, numbers and the signs that carry meaning; spacing, punctuation and LaTeX's dress do not count.
_DRESS = re.compile(r"\\(?:left|right|quad|text|mathrm)(?![a-z])|\\[dt](?=frac)")
_TOKEN = re.compile(r"[^\W\d_]+|\d+|[-+*/=<>^!|]")


@dataclass(frozen=True)
class Duplicate:
    """The benchmark row that a training problem repeats."""

    benchmark: str
    problem: str
    similarity: float


def shingles(question: str) -> frozenset[tuple[str, ...]]:
    """The runs of eight tokens of a question; of a shorter one the whole, so that it equals only itself."""
    tokens = _TOKEN.findall(_DRESS.sub(" ", question.casefold()))
    return frozenset(tuple(tokens[i : i + SHINGLE]) for i in range(max(1, len(tokens) - SHINGLE + 1)))


def near_duplicates(
    training: Sequence[Problem], benchmarks: Mapping[str, Sequence[Problem]]
) -> dict[str, Duplicate]:
    """By id of a training problem: the benchmark row most like it, where that reaches the threshold.

    The similarity of two questions is the Jaccard index of their shingles. An index from shingles to training
    problems makes it linear in the size of the sets but for shared shingles.
    """
    sizes = []
    index: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for position, problem in enumerate(training):
        own = shingles(problem.question)
        sizes.append(len(own))
        for shingle in own:
            index[shingle].append(position)
    found: dict[str, Duplicate] = {}
    for benchmark, problems in benchmarks.items():
        for problem in problems:
            theirs = shingles(problem.question)
            shared = Counter(position for shingle in theirs for position in index.get(shingle, ()))
            for position, count in shared.items():
                similarity = count / (sizes[position] + len(theirs) - count)
                name = training[position].id
                if similarity >= THRESHOLD and (name not in found or similarity > found[name].similarity):
                    found[name] = Duplicate(benchmark, problem.id, round(similarity, 3))
    return found
