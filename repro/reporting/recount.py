"""Count anew, from the integers of the records, every FLOP that they claim. No torch, no accelerator."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from repro.errors import UserError
from repro.flops import TRAINING_PASSES, Tally, flops, papers_flops
from repro.reporting.reading import changed, read_facts, read_problems, read_samples
from repro.reporting.results import Line, Study, assemble, shapes_of
from repro.schema import INSIDE, TALLY, Account

REPLACED = "\N{REPLACEMENT CHARACTER}"
_PRICES = {"flops": flops, "papers_flops": papers_flops}
_SUMS = {"spent": "flops", "papers_flops": "papers_flops"}  # column of runs.csv -> of ledger.csv


@dataclass
class Recount:
    """What was counted, and each difference from what the records say, by file and line."""

    runs: int = 0
    samples: int = 0
    lines: Counter[str] = field(default_factory=Counter)  # of the ledger, by account
    flops: Counter[str] = field(default_factory=Counter)
    papers_flops: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Lines and FLOPs by account, every digit."""
        rows = [[a, self.lines[a], self.flops[a], self.papers_flops[a]] for a in Account if self.lines[a]]
        rows.append(["all", self.lines.total(), self.flops.total(), self.papers_flops.total()])
        shown = [[account, *(f"{count:,}" for count in counts)] for account, *counts in rows]
        head = ["account", "ledger lines", "FLOPs", "papers' FLOPs"]
        table = tabulate(shown, head, disable_numparse=True, colalign=("left", "right", "right", "right"))
        return f"{table}\n\n{self.runs:,} runs, {self.samples:,} samples"


def recount(records: Path) -> Recount:
    """Check a records folder against itself: the hash of every file; FLOPs of every ledger line from its
    tally, shape and passes; what each run spent, and that it is within the budget; what was sampled, of which
    problems, and in which words.

    Raises UserError where study.json cannot be relied on; all other differences are listed.
    """
    facts = read_facts(records / "study.json")
    found = Recount(differences=changed(records, facts))
    try:
        study = assemble(records, facts)
    except UserError as error:
        if not found.differences:
            raise
        found.differences.append(str(error))
        return found
    path = records / "ledger.csv"
    shapes = shapes_of(facts, records / "study.json")
    for line in study.ledger:
        found.lines[line["account"]] += 1
        tally = Tally(*(line[name] for name in TALLY))
        for name, price in _PRICES.items():
            try:
                count = price(shapes[line["shape"]], tally, line["passes"])
            except ValueError as error:
                found.differences.append(f"{path}, line {line['line']}: {error}")
                continue
            getattr(found, name)[line["account"]] += count
            found.differences += _compare(path, line, name, count)
    found.differences += _out_of_order(path, study)
    samples = read_samples(records / "samples.parquet")
    drawn = samples.groupby(["method", "seed", "budget"], observed=True)["tokens"].agg(["size", "sum"])
    sampled = {key: (int(n), int(tokens)) for key, n, tokens in drawn.itertuples(name=None)}
    found.runs, found.samples = len(study.runs), len(samples)
    for run in study.runs:
        key = run["method"], run["seed"], run["budget"]
        found.differences += _of_run(records / "runs.csv", study, run, sampled.get(key, (0, 0)))
    found.differences += _beyond(records / "monitors.csv", study)
    try:
        found.differences += _untold(records / "problems.parquet", study)
        found.differences += _reworded(records / "texts.parquet", study, set(samples["text_hash"].unique()))
    except UserError as error:
        found.differences.append(str(error))
    for line in study.visits:
        if line["problems"] > min(line["trained"], line["pool"]):
            where = f"{records / 'visits.csv'}, line {line['line']}"
            found.differences.append(f"{where}: more problems than the pool has, or than were trained on")
    return found


def _of_run(path: Path, study: Study, run: Line, sampled: tuple[int, int]) -> Iterator[str]:
    """What a line of runs.csv says that the ledger does not; ``sampled`` are its samples and their tokens."""
    where = f"{path}, line {run['line']}"
    yield from _compare(path, run, "use", run["spent"] / run["budget"])
    if run["spent"] > run["budget"]:
        yield f"{where}: spent {run['spent']} of a budget of {run['budget']}"
    if run["status"] != "ok":
        return
    entries = study.entries(run["method"], run["seed"], run["budget"])
    inside = [line for line in entries if line["account"] in INSIDE]
    for name, column in _SUMS.items():
        yield from _compare(path, run, name, sum(line[column] for line in inside))
    evaluated = [line for line in entries if line["account"] == Account.EVALUATE]
    charged = tuple(sum(line[name] for line in evaluated) for name in ("sequences", "completion_tokens"))
    if sampled != charged:
        yield (
            f"{where}: samples.parquet has {sampled[0]} samples of {sampled[1]} tokens, and the ledger "
            f"charges {charged[0]} of {charged[1]} to `evaluate`"
        )
    for lack in _impossible(study, run, inside):
        yield f"{where}: {lack}"


def _compare(path: Path, line: Line, column: str, due: float) -> Iterator[str]:
    if line[column] != due:
        yield f"{path}, line {line['line']}: {column} is {line[column]} and should be {due}"


def _impossible(study: Study, run: Line, inside: list[Line]) -> Iterator[str]:
    """What a run's steps and rounds cannot be, given its ledger and itself at the budgets before."""
    trained = any(line["account"] == Account.TRAIN and line["passes"] >= TRAINING_PASSES for line in inside)
    if trained != (run["steps"] > 0):
        yield f"steps is {run['steps']}, and the ledger trains {'some' if trained else 'none'} up to there"
    rounds = max((line["round"] for line in inside), default=0)
    if rounds > run["rounds"]:
        yield f"rounds is {run['rounds']}, and the ledger has round {rounds} up to there"
    for before in study.runs:
        if (before["method"], before["seed"], before["status"]) != (run["method"], run["seed"], "ok"):
            continue
        if before["budget"] < run["budget"] and not run["plans"]:
            for name in ("spent", "papers_flops", "rounds", "steps"):
                if before[name] > run[name]:
                    yield f"{name} is {run[name]}, less than at the budget of {before['budget']}"


def _beyond(path: Path, study: Study) -> Iterator[str]:
    """The lines of monitors that a run cannot have made by their budget."""
    ended = {
        (run["method"], run["seed"], run["budget"]): {"spent": run["spent"], "round": run["rounds"]}
        for run in study.runs
        if run["status"] == "ok"
    }
    for line in study.monitors:
        end = ended.get((line["method"], line["seed"], line["budget"]), {"spent": 0, "round": 0})
        for name, most in end.items():
            if line[name] > most:
                yield f"{path}, line {line['line']}: {name} is {line[name]}, and the run ended at {most}"


def _untold(path: Path, study: Study) -> Iterator[str]:
    """Problems that were evaluated and that the file has not, or of another tier."""
    known = read_problems(path)
    for benchmark in study.benchmarks:
        for problem, at in zip(benchmark.problems, benchmark.tier_of, strict=True):
            tier, *_ = known.get((benchmark.name, problem), (None,))
            if tier != benchmark.tiers[at]:
                yield (
                    f"{path}: problem {problem} of {benchmark.name} is of tier {benchmark.tiers[at]} in "
                    f"samples.parquet, and {f'of tier {tier}' if tier else 'missing'} there"
                )


def _reworded(path: Path, study: Study, sampled: set[str]) -> Iterator[str]:
    """Texts that nobody sampled, or in other words."""
    for name, text in study.texts.items():
        # A character that no file can hold was replaced after the text was hashed.
        other = hashlib.sha256(text.encode()).hexdigest()[:16] != name and REPLACED not in text
        if name not in sampled:
            yield f"{path}: no completion has the hash {name}"
        elif other:
            yield f"{path}: the text of {name} is not the one that was sampled: its hash differs"


def _out_of_order(path: Path, study: Study) -> Iterator[str]:
    """The lines of a run's ledger that stand before what they came after."""
    last: dict[tuple[Any, ...], Line] = {}
    for line in study.ledger:
        if line["account"] not in INSIDE:
            continue
        plans = study.rows[study.index[line["method"]]].plans
        run = line["method"], line["seed"], line["budget"] if plans else None
        before = last.get(run, line)
        for name in ("budget", "round", "call"):
            if line[name] < before[name]:
                yield f"{path}, line {line['line']}: {name} is {line[name]}, after {before[name]}"
        last[run] = line
