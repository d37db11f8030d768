"""The records of a study: their files, columns and accounts, said once for those who write and who read."""

from __future__ import annotations

from enum import StrEnum


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

# One line for each run at each budget. `plans`: 1 where the method plans from its budget, so that each budget
# has a run of its own; else one run serves all budgets, one after the other.
RUNS = {
    "method": str, "title": str, "role": str, "paper": str, "seed": int, "budget": int, "plans": int,
    "spent": int, "use": float, "papers_flops": int, "status": str, "reason": str, "rounds": int,
    "steps": int, "mode_note": str, "key": str,
}  # fmt: skip
# Counts of :class:`repro.flops.Tally`.
TALLY = ("sequences", "prompt_tokens", "completion_tokens", "tokens", "logits", "pairs", "padded")
# One line for each entry of a run's ledger; `budget` is the first that contains it, so that what a run that
# does not plan had spent at a budget is the sum of its lines up to there. `shape` names one in study.json.
LEDGER = {
    "method": str, "seed": int, "budget": int, "account": str, "round": int, "call": int, "passes": int,
    "shape": str, **dict.fromkeys(TALLY, int), "flops": int, "papers_flops": int,
}  # fmt: skip
VISITS = {"method": str, "seed": int, "tier": str, "trained": int, "problems": int, "pool": int}
# What the machine took, by account (`verify` and `wasted` too): it differs from machine to machine, and
# nothing else in the records does. `flops` are those lost in crashes and done again; joules are blank where
# nothing measures them.
MACHINE = {
    "method": str, "seed": int, "budget": int, "account": str, "device": str, "seconds": float,
    "joules": float, "flops": int,
}  # fmt: skip
SAMPLES = (
    "method", "seed", "budget", "benchmark", "mode", "tier", "problem", "sample", "correct", "verdict",
    "answer", "tokens", "finish", "text_hash",
)  # fmt: skip
FACTS = (
    "name", "title", "budgets", "seeds", "benchmarks", "evaluation", "target_accuracies", "model", "shapes",
    "versions", "command", "files", "digest",
)  # fmt: skip
CSV = {"runs.csv": RUNS, "ledger.csv": LEDGER, "visits.csv": VISITS, "machine.csv": MACHINE}
FILES = (*CSV, "samples.parquet")  # whose SHA-256 study.json holds
