"""Records that a study might have left, made up: what the pipeline would write, valid to the last digest."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from repro import files
from repro.flops import ModelShape, Tally, flops, papers_flops
from repro.record_files import text_parquet
from repro.records import Role
from repro.reporting.results import Benchmark, Row, Study
from repro.schema import (
    CSV,
    FILES,
    FORGETTING,
    INSIDE,
    PROBLEMS,
    PROVENANCE,
    SAMPLES,
    TALLY,
    TEXTS,
    Account,
    Facts,
    Provenance,
)

TIERS = ("1", "2", "3")
BUDGETS = (1_000_000_000, 2_000_000_000, 4_000_000_000, 8_000_000_000)
# One layer of 2 * 1 * 1 * (1 + 1) = 4 weights, no MLP: a token costs 2 * 4 = 8 FLOPs a pass.
SHAPE = ModelShape(body=4, head=1, attention=2, windowed=0, window=0, parameters=5, idle=0, sides=8)
EACH = 2 * SHAPE.body
NO_PROVENANCE = Provenance(processes=[])


def seal(folder: Path, facts: Mapping[str, Any] | None = None) -> Path:
    """Make ``study.json`` name the files of a records folder as they are now."""
    facts = dict(facts or json.loads((folder / "study.json").read_text()))
    facts["files"] = {name: files.sha256(folder / name) for name in FILES}
    facts.pop("digest", None)
    files.write_json(folder / "study.json", facts | {"digest": files.digest(facts)})
    return folder


def facts_of(**changes: Any) -> dict[str, Any]:
    """The content of a study.json but for hashes and digest, of one benchmark of three tiers."""
    benchmark = {
        "name": "ladder", "title": "LADDER", "tiers": list(TIERS), "metric": "sampled avg@4", "macro": True,
        "samples_per_problem": 4, "max_tokens": 99,
    }  # fmt: skip
    return {
        "name": "made", "title": "Made-up study", "budgets": list(BUDGETS), "seeds": [0, 1, 2],
        "benchmarks": [benchmark],
        "evaluation": {"prompt": {"style": "boxed", "digest": "abc"},
                       "engine": {"engine": "transformers", "torch": "2.13"}, "tasks": {"ladder_sampled": 1}},
        "target_accuracies": [0.45, 0.6, 0.99], "model": {"description": "none", "parameters": 800_000},
        "numerics": "fast", "shapes": {"policy": SHAPE.to_json()},
        "settings": {"seeds": [0, 1, 2], "methods": "all", "sampling": {"max_tokens": 99}},
        "split": {"sampling": {"batch_size": 8}},
        "rows": {"good": {"rate": 0.5}}, "versions": {"torch": "2.13"}, "command": "snakemake tables",
    } | changes  # fmt: skip


ONE_TIER = facts_of()["benchmarks"][0] | {"tiers": ["1"]}  # the tier of what :func:`solved` makes


def write(
    folder: Path,
    facts: Mapping[str, Any],
    *,
    runs: Iterable[Mapping[str, Any]] = (),
    ledger: Iterable[Mapping[str, Any]] = (),
    monitors: Iterable[Mapping[str, Any]] = (),
    visits: Iterable[Mapping[str, Any]] = (),
    tuning: Iterable[Mapping[str, Any]] = (),
    machine: Iterable[Mapping[str, Any]] = (),
    samples: Iterable[tuple[Any, ...]] | pd.DataFrame = (),
    texts: Mapping[str, str] | None = None,
) -> Path:
    """Write a records folder from its lines; ``samples`` in the order of the columns. Its problems have no
    texts; every run was trained and evaluated by one process each time."""
    for (name, columns), lines in zip(
        CSV.items(), (runs, ledger, monitors, visits, tuning, machine), strict=True
    ):
        text = io.StringIO()
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        files.write_text(folder / name, text.getvalue())
    frame = pd.DataFrame(samples, columns=list(SAMPLES))
    frame.to_parquet(folder / "samples.parquet", index=False)
    known = frame[frame["benchmark"] != FORGETTING][["benchmark", "problem", "tier"]].drop_duplicates()
    lines = [(*line, None, None) for line in known.itertuples(index=False)]
    (folder / "problems.parquet").write_bytes(text_parquet(PROBLEMS, lines))
    (folder / "texts.parquet").write_bytes(text_parquet(TEXTS, sorted((texts or {}).items())))
    keys = dict.fromkeys((line["method"], line["seed"]) for line in runs)
    ran = [(kind, *run) for run in keys for kind in ("train", "evaluate")]
    files.write_json(folder / PROVENANCE, {"processes": [process(ran)] if ran else []})
    return seal(folder, facts)


def process(jobs: Iterable[tuple[str, str, int]], **changes: Any) -> dict[str, Any]:
    """What the processes of these jobs (kind, row, seed) had in common, as provenance.json has it."""
    told = [
        {"kind": kind, "method": method, "seed": seed, "ended": "2026-12-01T20:43Z", "seconds": 12.5}
        for kind, method, seed in jobs
    ]
    return {
        "python": "3.11.7", "platform": "Linux", "cpu": "A processor", "cores": 2, "gpus": "",
        "libraries": {"torch": "2.13", "trl": "1.16"}, "commit": "c0ffee", "changed": False, "jobs": told,
    } | changes  # fmt: skip


def run_line(method: str, seed: int, budget: int, **changes: Any) -> dict[str, Any]:
    """A line of runs.csv: a finished run of a method that spent nothing, but for ``changes``."""
    line = {
        "method": method, "title": method.capitalize(), "role": "method", "paper": "", "seed": seed,
        "budget": budget, "plans": 0, "spent": 0, "papers_flops": 0, "status": "ok", "reason": "",
        "rounds": 1, "steps": 1, "objective": "SFT", "mode_note": "", "key": f"{method}-{seed}",
        "fingerprint": "",
    } | changes  # fmt: skip
    return {"use": line["spent"] / budget} | line


def entry(
    method: str, seed: int, budget: int, account: str, tokens: int, *, passes: int = 1, **changes: Any
) -> dict[str, Any]:
    """A ledger line: so many tokens through :data:`SHAPE`, at 8 FLOPs each and pass (papers: 10)."""
    tally = Tally(1, 0, tokens, tokens, 0, 0, tokens)
    counts = tally.to_json() | {name: changes.pop(name) for name in TALLY if name in changes}
    tally = Tally(**counts)
    line = {
        "method": method, "seed": seed, "budget": budget, "account": account, "round": 1, "call": 1,
        "passes": passes, "shape": "policy", **counts, "flops": flops(SHAPE, tally, passes),
        "papers_flops": papers_flops(SHAPE, tally, passes),
    }  # fmt: skip
    return line | changes


def solved(method: str, seed: int, budget: int, counts: Iterable[int], k: int = 4) -> list[tuple[Any, ...]]:
    """The sampled completions of a run: of each problem so many of ``k`` are right. Each has 5 tokens."""
    return [
        (method, seed, budget, "ladder", "sampled", "1", f"p{problem:04d}", sample, sample < count,
         "correct" if sample < count else "wrong", "7" if sample < count else "5", 5, "stop", "a")
        for problem, count in enumerate(counts)
        for sample in range(k)
    ]  # fmt: skip


@dataclass(frozen=True)
class Made:
    """One made-up row: its gain over the base in logits at the top budget, and what breaks."""

    method: str
    role: Role = Role.METHOD
    gain: float = 0.0
    note: str = ""
    title: str = ""
    plans: bool = False
    rules: bool = False  # whether it uses rewards by rule
    broken: dict[tuple[int, int], tuple[str, str]] = field(
        default_factory=dict
    )  # (seed, budget) -> status, reason


FAILED = {(1, BUDGETS[3]): ("failed", "loss is not finite at step 31")}
ABSENT = {(s, b): ("unavailable", "the study has no process scorer") for s in (0, 1, 2) for b in BUDGETS}
ROWS = (
    Made("base", Role.BASE),
    Made("continued", Role.CONTINUED, 0.3),
    Made("random", Role.NEGATIVE, -0.2),
    Made("good", gain=1.2, rules=True),
    Made("twin", gain=1.2, plans=True),
    Made("weak", Role.ABLATION, 0.2, note="verifier only"),
    Made("crashed", gain=1.0, broken=FAILED),
    Made("absent", broken=ABSENT),
)


def write_records(
    folder: Path,
    rows: tuple[Made, ...],
    *,
    seeds: tuple[int, ...] = (0, 1, 2),
    budgets: tuple[int, ...] = BUDGETS,
    per_tier: int = 20,
    k: int = 4,
    seed_noise: float = 0.05,
    benchmarks: tuple[str, ...] = ("ladder",),
    forgets: bool = False,
) -> Path:
    """The records of rows that get better as they say, deterministic in the arguments. Every benchmark has
    the same problems; each is a little harder than the one before. With ``forgets`` there is a task of which
    rows forget as much as they gain."""
    rng = np.random.default_rng(7)
    problems = len(TIERS) * per_tier
    hard = np.repeat(np.linspace(1.2, -1.5, len(TIERS)), per_tier) + rng.normal(0, 1.0, problems)
    samples: list[tuple[Any, ...]] = []
    runs, ledger, monitors, visits, machine = [], [], [], [], []
    for row in rows:
        for seed in seeds:
            wobble = rng.normal(0, seed_noise) if row.role is not Role.BASE else 0.0
            own: list[dict[str, Any]] = []
            for b, budget in enumerate(budgets):
                status, reason = row.broken.get((seed, budget), ("ok", ""))
                ok = status == "ok"
                if ok and row.role is not Role.BASE:
                    own = [] if row.plans else own
                    before = sum(line["flops"] for line in own)
                    aim = budget - budget // 1000 - 7 * seed
                    own = own + _entries(row, seed, budget, b + 1, aim - before)
                inside = [line for line in own if line["account"] in INSIDE] if ok else []
                runs.append(run_line(
                    row.method, seed, budget, title=row.title or row.method.upper(), role=str(row.role),
                    plans=int(row.plans), spent=sum(line["flops"] for line in inside),
                    papers_flops=sum(line["papers_flops"] for line in inside), status=status, reason=reason,
                    rounds=b + 1 if inside else 0, steps=10 * (b + 1) if inside else 0, mode_note=row.note,
                    objective="SFT" if inside else "",
                ))  # fmt: skip
                if not ok:
                    continue
                ledger += [line for line in own if line["budget"] == budget]
                monitors += _monitors(rng, row, seed, runs[-1])
                if row.rules:
                    ledger.append(entry(row.method, seed, budget, Account.RULES, 10**6, round=b + 1))
                logit = hard + wobble + row.gain * (b + 1) / len(budgets)
                drawn = _samples(rng, row.method, seed, budget, logit, per_tier, k, benchmarks)
                drawn += _forgotten(row, seed, budget) if forgets else []
                tokens = sum(sample[SAMPLES.index("tokens")] for sample in drawn)
                ledger.append(
                    entry(row.method, seed, budget, Account.EVALUATE, tokens, sequences=len(drawn), call=0)
                )
                samples += drawn
                machine += [
                    {"method": row.method, "seed": seed, "budget": budget, "account": account,
                     "device": "CPU", "seconds": seconds, "joules": "", "flops": 0}
                    for account, seconds in (("train", 2.5), ("evaluate", 1.0))
                    if account == "evaluate" or inside
                ]  # fmt: skip
            for t, tier in enumerate(TIERS):
                if row.role is not Role.BASE:
                    visits.append({"method": row.method, "seed": seed, "tier": tier, "trained": 900 - 250 * t,
                                   "problems": 380 - 90 * t, "pool": 400})  # fmt: skip
    ledger.append(entry("", 0, 0, Account.WARM_START, 10**8, passes=3, round=0, call=0))
    one = facts_of()["benchmarks"][0]
    facts = facts_of(
        budgets=list(budgets), seeds=list(seeds),
        benchmarks=[
            one | {"name": name, "title": name.upper(), "metric": f"sampled avg@{k}",
                   "samples_per_problem": k, "macro": name == "ladder"} for name in benchmarks
        ],
    )  # fmt: skip
    if forgets:
        facts["forgetting"] = {
            "name": FORGETTING, "title": "bbh_cot_fewshot", "tiers": ["navigate", "snarks"], "macro": False,
            "metric": "exact_match (get-answer), greedy", "samples_per_problem": 0, "max_tokens": 1024,
            "content": "d0c5",
        }  # fmt: skip
    last = problems - 1  # the one whose texts are kept
    told = [(text_hash(last, choice), f"{last} {choice}") for choice in range(3)]
    sampled = {line[-1] for line in samples}
    return write(
        folder, facts, runs=runs, ledger=ledger, monitors=monitors, visits=visits, machine=machine,
        samples=samples, tuning=_tuning(rows, budgets[-1] - len(seeds)),
        texts={name: text for name, text in told if name in sampled},
    )  # fmt: skip


def _forgotten(row: Made, seed: int, budget: int) -> list[tuple[Any, ...]]:
    """Greedy completions of 40 documents: 30 are right, 10 fewer for each gain of 1; seeds differ by 1."""
    right = 30 - round(10 * row.gain) + (seed if row.role is not Role.BASE else 0)
    return [
        (row.method, seed, budget, FORGETTING, "greedy", ("navigate", "snarks")[i % 2], f"doc-{i:02d}", 0,
         i < right, "correct" if i < right else "wrong", None, 5, "stop", "a")
        for i in range(40)
    ]  # fmt: skip


def _tuning(rows: Iterable[Made], flops: int) -> list[dict[str, Any]]:
    """Two points of each row that trains, of which the second is better by 5 points."""
    return [
        {"method": row.method, "point": point, "settings": json.dumps({"rate": 0.1} if point else {}),
         "seed": seed, "flops": flops, "score": round(0.3 + 0.05 * point + 0.01 * (seed - 100), 2),
         "chosen": point}
        for row in rows if row.role is not Role.BASE for point in (0, 1) for seed in (100, 101)
    ]  # fmt: skip


def _monitors(
    rng: np.random.Generator, row: Made, seed: int, run: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Of the round that a budget ended in, and of the one before, which the budget before had cut."""
    rounds = run["rounds"]
    for round in range(1 if row.plans else max(1, rounds - 1), rounds + 1):
        values = {
            "solved": (1 + row.gain + round) / 10 + rng.normal(0, 0.01),
            "training_frequency": round / 2, f"own_{row.method}": -float(round),
        }  # fmt: skip
        for name, value in values.items():
            yield {
                "method": row.method, "seed": seed, "budget": run["budget"], "round": round,
                "spent": run["spent"] - (rounds - round), "monitor": name, "value": float(f"{value:.6g}"),
            }  # fmt: skip


def _entries(row: Made, seed: int, budget: int, round: int, amount: int) -> list[dict[str, Any]]:
    """What ``amount`` FLOPs went into: a search, samples, training on them, and samples left over."""
    parts = (("search", 0.05, 1), ("sample", 0.3, 1), ("train", 0.6, 3), ("sample", 0.05, 1))
    kept = parts[:3] if row.plans else parts
    whole = sum(share for _, share, _ in kept)
    return [
        entry(row.method, seed, budget, account, int(amount * share / whole) // (EACH * passes),
              passes=passes, round=round, call=4 * round + number)
        for number, (account, share, passes) in enumerate(kept)
    ]  # fmt: skip


def _samples(
    rng: np.random.Generator,
    method: str,
    seed: int,
    budget: int,
    logit: np.ndarray,
    per_tier: int,
    k: int,
    benchmarks: tuple[str, ...],
) -> list[tuple[Any, ...]]:
    found = []
    problems = len(logit)
    for (n, benchmark), sample in product(enumerate(benchmarks), range(-1, k)):
        solve = 1 / (1 + np.exp(0.5 * n - logit))
        correct = rng.random(problems) < (solve if sample >= 0 else solve + 0.1)
        for i in range(problems):
            choice = int(rng.integers(3))
            text = text_hash(i, choice)
            verdict = "correct" if correct[i] else ("unparsable" if i % 17 == 0 else "wrong")
            answer = {"correct": "7", "unparsable": ""}.get(verdict, str(choice))
            mode, finish = "sampled" if sample >= 0 else "greedy", "length" if i % 29 == 0 else "stop"
            key = (method, seed, budget, benchmark, mode, TIERS[i // per_tier], f"p{i:04d}", max(sample, 0))
            found.append((*key, bool(correct[i]), verdict, answer, 20 + i % 9, finish, text))
    return found


def text_hash(problem: int, choice: int) -> str:
    return hashlib.sha256(f"{problem} {choice}".encode()).hexdigest()[:16]


def study_of(
    scores: np.ndarray, *, k: int, tier_of: np.ndarray | None = None, roles: Mapping[int, Role] | None = None
) -> Study:
    """A study in memory, of rows "0", "1", ... whose avg@k are ``scores`` [row, seed, budget, problem]."""
    rows, seeds, budgets, problems = scores.shape
    tier_of = np.zeros(problems, int) if tier_of is None else tier_of
    named = tuple(
        Row(str(row), f"Row {row}", (roles or {}).get(row, Role.METHOD), "", "", False) for row in range(rows)
    )
    budget = tuple(10**9 * 2**b for b in range(budgets))
    runs = [run_line(r.method, s, b, role=str(r.role)) for r in named for s in range(seeds) for b in budget]
    facts = Facts.model_validate(facts_of(files={}, digest=""))
    tiers = tuple(map(str, np.unique(tier_of)))
    nothing = np.full_like(scores, np.nan)
    benchmark = Benchmark(
        "made", "MADE", f"sampled avg@{k}", k, 99, True, tiers, tier_of,
        {"sampled": scores, "greedy": nothing}, nothing, {},
    )  # fmt: skip
    return Study(
        facts,
        "Made",
        budget,
        tuple(range(seeds)),
        named,
        runs,
        [],
        [],
        [],
        [],
        [],
        NO_PROVENANCE,
        (benchmark,),
    )
