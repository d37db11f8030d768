"""The benchmarks, a row each: all that the suite knows of one but how its files are read
(:mod:`repro.problems.sources`) and its two lm-eval tasks (``benchmarks/tasks``). A study may bring more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MODES = ("sampled", "greedy")  # a benchmark has a task of each: <benchmark>_<mode>


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
    rows: int | None  # problems read from its file; None: a study brings them, as many as it says
    text: Text  # for plans
    train: int | None = None  # problems in the file of its training set, if it has one
    tiers_alike: bool = False  # as many problems in each tier by design: a score is the mean over tiers
    samples: Mapping[str, int] = field(default_factory=dict)  # k of avg@k, by profile
    max_tokens: Mapping[str, int] = field(default_factory=dict)  # of a completion, by profile


OWN = Text(100, 150, 300)  # a guess, of what users bring

FEW = {"quick": 16, "paper": 64}  # samples where there are some 30 problems
SHORT = {"quick": 1024, "paper": 2048}  # tokens of solutions of grade-school problems

# Questions and solutions of the first six: mean characters of the data files, 3.5 to a token. Completions:
# what 0.5 to 8 billion parameters write, a little longer than solutions of GSM8K and MATH; guesses for the
# competitions. Of the others all three are guesses, by the benchmark that is most like them.
BENCHMARKS: dict[str, Benchmark] = {
    "ladder": Benchmark("Ladder", None, Text(20, 30, 30), tiers_alike=True),
    "gsm8k": Benchmark("GSM8K", 1319, Text(68, 82, 200), train=7473, max_tokens=SHORT),
    "math": Benchmark("MATH", 5000, Text(60, 157, 400), train=7500, samples={"paper": 1}),
    "math500": Benchmark("MATH-500", 500, Text(56, 152, 400)),
    "aime24": Benchmark("AIME 2024", 30, Text(96, 152, 1200), samples=FEW),
    "amc23": Benchmark("AMC 2023", 40, Text(77, 152, 800), samples=FEW),
    "aime25": Benchmark("AIME 2025", 30, Text(96, 152, 1200), samples=FEW),
    "hmmt25": Benchmark("HMMT Feb. 2025", 30, Text(96, 152, 1200), samples=FEW),
    "olympiadbench": Benchmark("OlympiadBench", 674, Text(96, 300, 1000)),
    "minerva": Benchmark("Minerva (OCW)", 272, Text(100, 150, 500)),
    "gsm8k_platinum": Benchmark("GSM8K-Platinum", 1209, Text(68, 82, 200), max_tokens=SHORT),
    "gsm_symbolic": Benchmark(
        "GSM-Symbolic", 5000, Text(75, 90, 200), samples={"paper": 1}, max_tokens=SHORT
    ),
    "gsm_symbolic_p1": Benchmark(
        "GSM-Symbolic P1", 5000, Text(90, 110, 250), samples={"paper": 1}, max_tokens=SHORT
    ),
    "gsm_symbolic_p2": Benchmark(
        "GSM-Symbolic P2", 2500, Text(110, 130, 300), samples={"paper": 1}, max_tokens=SHORT
    ),
    # 1,319 problems in eight forms, less the form whose questions have no answer.
    "gsm_plus": Benchmark(
        "GSM-Plus", 7 * 1319, Text(75, 90, 200), samples={"paper": 1}, max_tokens=SHORT
    ),
}  # fmt: skip


def task(benchmark: str) -> str:
    """What a benchmark's lm-eval tasks are named after; those that studies bring share the tasks ``own``."""
    return benchmark if benchmark in BENCHMARKS else "own"
