"""The benchmarks, a row each: all that the suite knows of one but how its files are read
(:mod:`repro.problems.sources`) and its two lm-eval tasks (``benchmarks/tasks``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Text:
    """Mean tokens of a problem set: its questions, its worked solutions, a model's completions."""

    question: int
    solution: int
    completion: int


@dataclass(frozen=True)
class Benchmark:
    """What evaluating on a benchmark, or training on its training set, depends on. ``samples`` and
    ``max_tokens`` name the profiles of :mod:`repro.profiles` that treat it otherwise than the rest."""

    title: str  # in tables
    rows: int | None  # problems in its file; None: a study makes them, as many as it says
    text: Text  # for plans
    train: int | None = None  # problems in the file of its training set, if it has one
    tiers_alike: bool = False  # as many problems in each tier by design: a score is the mean over tiers
    samples: Mapping[str, int] = field(default_factory=dict)  # k of avg@k, by profile
    max_tokens: Mapping[str, int] = field(default_factory=dict)  # of a completion, by profile


# Questions and solutions: mean characters of the data files, 3.5 to a token. Completions: what 0.5 to 8
# billion parameters write, a little longer than solutions of GSM8K and MATH; guesses for the competitions.
BENCHMARKS: dict[str, Benchmark] = {
    "ladder": Benchmark("Ladder", None, Text(20, 30, 30), tiers_alike=True),
    "gsm8k": Benchmark(
        "GSM8K", 1319, Text(68, 82, 200), train=7473, max_tokens={"quick": 1024, "paper": 2048}
    ),
    "math": Benchmark("MATH", 5000, Text(60, 157, 400), train=7500, samples={"paper": 1}),
    "math500": Benchmark("MATH-500", 500, Text(56, 152, 400)),
    "aime24": Benchmark("AIME 2024", 30, Text(96, 152, 1200), samples={"quick": 16, "paper": 64}),
    "amc23": Benchmark("AMC 2023", 40, Text(77, 152, 800), samples={"quick": 16, "paper": 64}),
}  # fmt: skip


def known(name: str) -> str:
    """``name`` if it is a benchmark's, else ``ValueError``."""
    if name not in BENCHMARKS:
        raise ValueError(f"unknown benchmark; known: {', '.join(BENCHMARKS)}")
    return name
