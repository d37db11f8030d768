"""How each benchmark is evaluated: samples per problem, temperature and length, by profile.

The same for every method and checkpoint of a study, so that no row is favoured. No torch here: ``repro plan``
prices evaluations from the same numbers.

- ``pocket``: the policy's own distribution (T = 1, nothing cut off) at the length it is trained with. For
  small studies that sample at T = 1 in training too; sharper sampling would hide what training did.
- ``paper``: T = 0.6 with top-p 0.95, as the released evaluation of HS-STaR has it for AIME24 and AMC23, and
  close to what most reports use. 64 samples where a benchmark has 30 or 40 problems, because there one sample
  finds a true gain of 5 points one time in twelve (:func:`repro.planning.power.detectable`); 4 for some
  hundreds of problems; 1 for MATH, whose 5,000 problems already give the mean to within a point. 4,096
  tokens leave room for twice the longest answers that HS-STaR's evaluation allowed, and 2,048 for the short
  ones of GSM8K; the share of answers that were cut is in every table.
- ``quick``: the same distribution and half the length, with few samples: a look, not a result.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from repro.config import BenchmarkName, Study
from repro.schema import FORGETTING


@dataclass(frozen=True)
class Settings:
    """Of one benchmark: ``samples`` completions of each problem at ``temperature`` and ``top_p``, and one
    greedy, each of at most ``max_tokens`` tokens."""

    samples: int
    temperature: float
    top_p: float
    max_tokens: int

    @property
    def metric(self) -> str:
        """What a score is, in words."""
        cut = f", top-p {self.top_p:g}" if self.top_p < 1 else ""
        return f"avg@{self.samples}, sampled at T = {self.temperature:g}{cut}"


@dataclass(frozen=True)
class _Profile:
    temperature: float
    top_p: float
    samples: int
    max_tokens: int | None  # None: as in training


_PROFILES = {
    "pocket": _Profile(1.0, 1.0, samples=4, max_tokens=None),
    "quick": _Profile(0.6, 0.95, samples=1, max_tokens=2048),
    "paper": _Profile(0.6, 0.95, samples=4, max_tokens=4096),
}


def settings(study: Study, benchmark: BenchmarkName) -> Settings:
    """The profile's settings of a benchmark, with what its row and then the study say otherwise."""
    name, row = study.evaluation.profile, study.evaluation.row(benchmark)
    profile = _PROFILES[name]
    own = study.evaluation.benchmarks[benchmark]
    length = row.max_tokens.get(name, profile.max_tokens)
    return Settings(
        own.samples or row.samples.get(name, profile.samples),
        profile.temperature,
        profile.top_p,
        own.max_tokens or study.evaluation.max_tokens or length or study.sampling.max_tokens,
    )


def asked(study: Study) -> dict[str, dict[str, Any]]:
    """The settings of all benchmarks of a study, with how many problems of each it takes and, where it says
    so, what ends a completion; and of the task that is watched for forgetting, if there is one."""
    watched = study.evaluation.forgetting
    return {
        name: {
            **asdict(settings(study, name)),
            "limit": benchmark.limit,
            **({} if benchmark.stop is None else {"stop": benchmark.stop}),
        }
        for name, benchmark in study.evaluation.benchmarks.items()
    } | ({FORGETTING: watched.model_dump(mode="json", exclude={"folder"})} if watched else {})
