"""The records of a study: their files, columns and accounts, said once for those who write and who read."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from repro.numerics import Numerics


class Account(StrEnum):
    """What compute was spent on."""

    TRAIN = "train"
    SAMPLE = "sample"
    SEARCH = "search"  # probes and grids: sampling that only chooses settings
    REWARD = "reward"
    # Shown, and outside the budget:
    RULES = "rules"  # rewards by rule, priced as those of a reward model of the policy's size
    EVALUATE = "evaluate"
    WARM_START = "warm_start"


INSIDE = (Account.TRAIN, Account.SAMPLE, Account.SEARCH, Account.REWARD)  # count against the budget
OUTSIDE = (Account.RULES, Account.EVALUATE, Account.WARM_START)

# One line for each run at each budget. `fingerprint` is of the checkpoint's weights, blank where there is
# none. `plans`: 1 where the method plans from its budget, so that each budget
# has a run of its own; else one run serves all budgets, one after the other.
# `objective` names what a run was trained by, with ` + ` between several; blank where it was not, or that is
# not known.
RUNS = {
    "method": str, "title": str, "role": str, "paper": str, "seed": int, "budget": int, "plans": int,
    "spent": int, "use": float, "papers_flops": int, "status": str, "reason": str, "rounds": int,
    "steps": int, "objective": str, "mode_note": str, "key": str, "fingerprint": str,
}  # fmt: skip
# Counts of :class:`repro.flops.Tally`.
TALLY = ("sequences", "prompt_tokens", "completion_tokens", "tokens", "logits", "pairs", "padded", "windowed")
# One line for each entry of a run's ledger, in the order it happened; `budget` is the first that contains it,
# so that what a run that does not plan had spent at a budget is the sum of its lines up to there. A line of
# `evaluate` is of its own budget alone, that of `warm_start` of no method ("", seed 0, budget 0). `shape`
# names one in study.json.
LEDGER = {
    "method": str, "seed": int, "budget": int, "account": str, "round": int, "call": int, "passes": int,
    "shape": str, **dict.fromkeys(TALLY, int), "flops": int, "papers_flops": int,
}  # fmt: skip
# One line for each monitor of a round; `spent` is the run's up to the end of the round, `budget` the first
# that contains it. A round that a budget cut is there twice: as far as it had got then, and at a later one.
# So what a run that does not plan looked at, up to a budget, is of each round and monitor the last line of no
# higher budget.
MONITORS = {
    "method": str, "seed": int, "budget": int, "round": int, "spent": int, "monitor": str, "value": float,
}  # fmt: skip
# The monitors that the suite itself makes, and their titles; docs/monitors.md defines them.
SEEN = {
    "solved": "correct completions (share)",
    "pass_at_k": "problems solved at least once (share)",
    "zero_variance": "groups all right or all wrong (share)",
    "distinct": "distinct correct texts per problem",
    "completion_tokens": "tokens per completion",
    "truncated": "truncated completions (share)",
    "training_frequency": "trainings per problem, mean",
    "training_frequency_sd": "trainings per problem, SD",
    "loss": "training loss",
    "log_probability_gap": "sampler to trainer (nats per token)",
    "log_probability_gap_max": "sampler to trainer, largest",
    "chosen_log_probability": "log p(chosen)",
    "rejected_log_probability": "log p(rejected)",
    "chosen_drift": "log p(chosen), change",
    "rejected_drift": "log p(rejected), change",
    "reward_margin": "implicit reward margin",
    "reward_accuracy": "implicit reward accuracy",
    "clipped": "clipped tokens (share)",
    "kl": "divergence from the base (nats per token)",
}
VISITS = {"method": str, "seed": int, "tier": str, "trained": int, "problems": int, "pool": int}
# The trials that chose the rows' hyper-parameters, with those that a point sets (JSON); none where the study
# names no tuning. Point 0 is the row as it is; scores are of the validation split, blank where a run failed.
TUNING = {
    "method": str, "point": int, "settings": str, "seed": int, "flops": int, "score": float, "chosen": int,
}  # fmt: skip
# What the machine took, by account (`verify` and `wasted` too). This file and provenance.json differ from
# machine to machine, and nothing else in the records does. `flops` are those lost in crashes and done again;
# joules are blank where nothing measures them.
MACHINE = {
    "method": str, "seed": int, "budget": int, "account": str, "device": str, "seconds": float,
    "joules": float, "flops": int,
}  # fmt: skip
VERIFY, WASTED = "verify", "wasted"
MACHINE_ACCOUNTS = (*Account, VERIFY, WASTED)
UNKNOWN = ("seconds", "joules", "flops")  # of machine.csv: blank where it was not measured
SAMPLES = (
    "method", "seed", "budget", "benchmark", "mode", "tier", "problem", "sample", "correct", "verdict",
    "answer", "tokens", "finish", "text_hash",
)  # fmt: skip
SAMPLE_KEY = ("method", "seed", "budget", "benchmark", "mode", "problem", "sample")  # no two lines share it
# Completions of the problems that the study keeps texts of, each text once, by its hash in samples.parquet.
TEXTS = ("text_hash", "text")
# The problems of the benchmarks. Question and answer are blank unless the suite makes the problems, or the
# study asks for them: records are published, and most benchmarks are not to be.
PROBLEMS = ("benchmark", "problem", "tier", "question", "answer")
FORGETTING = "forgetting"  # what samples.parquet calls the task of that column, as if it were a benchmark
CSV = {
    "runs.csv": RUNS,
    "ledger.csv": LEDGER,
    "monitors.csv": MONITORS,
    "visits.csv": VISITS,
    "tuning.csv": TUNING,
    "machine.csv": MACHINE,
}
PARQUET = {"texts.parquet": TEXTS, "problems.parquet": PROBLEMS}  # files whose columns are all text
PROVENANCE = "provenance.json"
FILES = (*CSV, "samples.parquet", *PARQUET, PROVENANCE)  # whose SHA-256 study.json holds

Count = Annotated[int, Field(ge=0)]


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class BenchmarkFacts(_Facts):
    """What study.json says of one benchmark."""

    name: str = Field(pattern=r"^[a-z0-9_-]+$")  # it goes into file names
    title: str
    tiers: list[str] = Field(min_length=1)
    macro: bool  # whether a score is the mean over tiers; else over problems
    metric: str
    samples_per_problem: int = Field(ge=1)
    max_tokens: int
    content: str | None = None  # digest of its problems, where the suite pins none


class ForgettingFacts(BenchmarkFacts):
    """The same of the task that is watched for forgetting: each of its tasks is a tier."""

    samples_per_problem: Literal[0]  # a greedy completion alone


class EvaluationFacts(_Facts):
    """How everything was evaluated alike; null where no run was."""

    prompt: dict[str, Any] | None
    engine: dict[str, Any] | None
    tasks: dict[str, Any] | None


class ModelFacts(_Facts):
    description: str
    parameters: Count


class Facts(_Facts):
    """The content of study.json."""

    name: str
    title: str
    budgets: list[Annotated[int, Field(gt=0)]] = Field(min_length=1)  # FLOPs
    seeds: list[Count] = Field(min_length=1)
    benchmarks: list[BenchmarkFacts] = Field(min_length=1)
    forgetting: ForgettingFacts | None = None  # where the study names a task
    evaluation: EvaluationFacts
    target_accuracies: list[float]
    model: ModelFacts
    numerics: Numerics
    settings: dict[str, Any]  # the whole study, defaults too, as it was when the records were written; apart
    split: dict[str, Any]  # from it how work is split up, which changes no number
    rows: dict[str, dict[str, Any]]  # row -> its hyper-parameters, where they are known
    shapes: dict[str, dict[str, Count]]  # id -> the integers of :class:`repro.flops.ModelShape`
    versions: dict[str, str]  # where the records were written; provenance.json has those that computed
    command: str
    files: dict[str, str]  # each of :data:`FILES` -> its SHA-256
    digest: str  # :func:`repro.files.digest` of all the rest


def _a_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


class Job(_Facts):
    """A job whose results are in the records. Of one that was interrupted, or was made again from what was
    kept, it is the last process that is told of."""

    kind: Literal["base model", "train", "evaluate"]
    method: str = ""  # the base model is of none
    seed: Count = 0
    ended: Annotated[str, Field(pattern=r"^20\d\d-\d\d-\d\dT\d\d:\d\dZ$"), AfterValidator(_a_time)]  # UTC
    seconds: Annotated[float, Field(ge=0, le=10**9)]  # by the clock


class Process(_Facts):
    """What the processes of some jobs had in common."""

    python: str
    platform: str
    cpu: str
    cores: Count  # that the process might use
    gpus: str  # that it saw, blank for none
    libraries: dict[str, str]  # versions of what computed in it
    commit: str | None  # of the suite; null where that was no git checkout
    changed: bool | None  # whether files differed from that commit, results apart
    jobs: list[Job] = Field(min_length=1)


class Provenance(_Facts):
    """The content of provenance.json. Jobs of which nothing is known are in none of its processes."""

    processes: list[Process]
