"""The records of a study, read and checked. NumPy and pandas only; importing it loads no torch."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from repro.errors import UserError
from repro.records import Role
from repro.schema import FACTS, INSIDE, LEDGER, OUTSIDE, RUNS, SAMPLES, VISITS

Mode = Literal["sampled", "greedy"]

_BENCHMARK = {"name": str, "title": str, "tiers": list, "macro": bool, "metric": str,
              "samples_per_problem": int, "max_tokens": int}  # fmt: skip


@dataclass(frozen=True)
class X:
    """No number: the row is incomplete. ``reason`` says what is lacking."""

    reason: str


@dataclass(frozen=True)
class Row:
    """One line of the comparison."""

    method: str
    title: str
    role: Role
    paper: str
    note: str


@dataclass(frozen=True)
class Benchmark:
    """What the study measured on one benchmark. Arrays are [row, seed, budget, problem] or
    [row, seed, budget]."""

    name: str
    title: str
    metric: str  # what a score is, in words
    k: int  # sampled completions per problem
    max_tokens: int  # of a completion
    macro: bool  # whether a score is the mean over tiers; else over problems
    tiers: tuple[str, ...]
    tier_of: np.ndarray  # [problem] index into `tiers`, ascending
    scores: dict[Mode, np.ndarray]  # mean correctness of each problem; NaN where it was not evaluated
    majority: np.ndarray  # whether the answer that most sampled completions give is right; NaN where unknown
    rates: dict[str, np.ndarray]  # means over the sampled completions: truncated, unparsable, timeout, ...

    @property
    def strata(self) -> np.ndarray:
        """[problem] The groups of problems whose means count alike."""
        return self.tier_of if self.macro else np.zeros_like(self.tier_of)


@dataclass(frozen=True)
class Study:
    """The records of one study."""

    facts: dict[str, Any]  # study.json
    budgets: tuple[int, ...]  # FLOPs, ascending
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    runs: list[dict[str, Any]]  # the lines of runs.csv, and so on
    ledger: list[dict[str, Any]]
    visits: list[dict[str, Any]]
    benchmarks: tuple[Benchmark, ...]

    @property
    def top(self) -> int:
        return self.budgets[-1]

    @cached_property
    def index(self) -> dict[str, int]:
        return {row.method: i for i, row in enumerate(self.rows)}

    @cached_property
    def _runs(self) -> dict[tuple[str, int, int], dict[str, Any]]:
        return {(run["method"], run["seed"], run["budget"]): run for run in self.runs}

    def incomplete(self, method: str, budget: int) -> X | None:
        """None when every seed of the row finished this budget, else what is lacking."""
        seeds: dict[str, list[str]] = {}
        for seed in self.seeds:
            run = self._runs.get((method, seed, budget))
            if run is None:
                seeds.setdefault("missing", []).append(str(seed))
            elif run["status"] != "ok":
                lack = f"{run['status']}: {run['reason']}" if run["reason"] else run["status"]
                seeds.setdefault(lack, []).append(str(seed))
        if not seeds:
            return None
        if len(seeds) == 1 and len(next(iter(seeds.values()))) == len(self.seeds):
            return X(next(iter(seeds)))
        return X("; ".join(f"seed {', '.join(which)} {lack}" for lack, which in seeds.items()))

    def spent(self, method: str, budget: int) -> float | X:
        """FLOPs spent, mean over seeds."""
        lack = self.incomplete(method, budget)
        return lack or sum(self._runs[method, s, budget]["spent"] for s in self.seeds) / len(self.seeds)


def load(records: Path) -> Study:
    """Read a records folder. Raises UserError naming the file and the column of whatever is malformed."""
    facts = _read_facts(records / "study.json")
    runs = _read_csv(records / "runs.csv", RUNS)
    ledger = _read_csv(records / "ledger.csv", LEDGER)
    visits = _read_csv(records / "visits.csv", VISITS)
    for number, line in enumerate(ledger, start=2):
        if line["account"] not in INSIDE + OUTSIDE:
            raise UserError(
                f"{records / 'ledger.csv'}, line {number}: column 'account' holds '{line['account']}'; "
                f"it must be one of {', '.join(INSIDE + OUTSIDE)}."
            )

    roles = list(Role)
    seen: set[tuple[str, int, int]] = set()
    found: dict[str, Row] = {}
    for run in runs:
        method, seed, budget = key = run["method"], run["seed"], run["budget"]
        if key in seen:
            raise UserError(
                f"{records / 'runs.csv'} has two rows for method {method}, seed {seed}, budget {budget}; "
                "keep one."
            )
        seen.add(key)
        if run["role"] not in roles:
            raise UserError(
                f"{records / 'runs.csv'}: column 'role' of method {method} is '{run['role']}'; "
                f"it must be one of {', '.join(roles)}."
            )
        note = found[method].note if method in found else ""
        found[method] = Row(method, run["title"], Role(run["role"]), run["paper"], note or run["mode_note"])
    rows = list(found.values())
    rows.sort(key=lambda row: (roles.index(row.role), row.title.casefold(), row.method))

    budgets = tuple(sorted(int(b) for b in facts["budgets"]))
    seeds = tuple(sorted(int(s) for s in facts["seeds"]))
    benchmarks = _read_samples(records / "samples.parquet", facts["benchmarks"], rows, seeds, budgets)
    study = Study(facts, budgets, seeds, tuple(rows), runs, ledger, visits, benchmarks)
    for benchmark in benchmarks:
        _check_samples(study, benchmark, records / "samples.parquet")
    return study


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; collect the study's records first.") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}.") from None
    for key in FACTS:
        if key not in facts:
            raise UserError(f"{path} lacks the key '{key}'.")
    for key in ("budgets", "seeds", "benchmarks"):
        if not facts[key] or not isinstance(facts[key], list):
            raise UserError(f"{path}: the key '{key}' must be a list that is not empty.")
    for number, benchmark in enumerate(facts["benchmarks"], 1):
        for key, kind in _BENCHMARK.items():
            if not isinstance(benchmark, dict) or not isinstance(benchmark.get(key), kind):
                raise UserError(
                    f"{path}: benchmark {number} lacks the key '{key}', or it is no {kind.__name__}."
                )
    for key in ("prompt", "engine", "tasks"):  # null where no run was evaluated
        if not isinstance(facts["evaluation"], dict) or not isinstance(
            facts["evaluation"].get(key, 0), dict | None
        ):
            raise UserError(f"{path}: the key 'evaluation' must hold '{key}', a mapping or null.")
    return dict(facts)


def _read_csv(path: Path, columns: Mapping[str, type]) -> list[dict[str, Any]]:
    """The lines as built-ins. A blank number (a run that never started) is 0; FLOPs are exact at any size."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, restval="")
            lines = list(reader)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; collect the study's records first.") from None
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}.") from None
    for name in columns:
        if name not in (reader.fieldnames or ()):
            raise UserError(f"{path} lacks the column '{name}'.")
    rows = []
    for number, line in enumerate(lines, start=2):
        row: dict[str, Any] = {}
        for name, kind in columns.items():
            try:
                row[name] = kind(line[name] or kind())
            except ValueError:
                raise UserError(
                    f"{path}, line {number}: column '{name}' holds '{line[name]}' where a number is due."
                ) from None
        rows.append(row)
    return rows


def _read_samples(
    path: Path,
    benchmarks: Sequence[Mapping[str, Any]],
    rows: Sequence[Row],
    seeds: Sequence[int],
    budgets: Sequence[int],
) -> tuple[Benchmark, ...]:
    try:
        names = pq.read_schema(path).names
        for name in SAMPLES:
            if name not in names:
                raise UserError(f"{path} lacks the column '{name}'.")
        text = ["method", "benchmark", "mode", "tier", "problem", "verdict", "answer", "finish", "text_hash"]
        frame = pq.read_table(path, columns=list(SAMPLES), read_dictionary=text).to_pandas()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; collect the study's records first.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as parquet: {error}.") from None

    def codes(values: pd.Series, known: Sequence[Any]) -> np.ndarray:
        found = np.asarray(pd.Index(known).get_indexer(values))
        if (found < 0).any():
            raise UserError(
                f"{path}: column '{values.name}' holds '{values[found < 0].iloc[0]}', unknown to the study."
            )
        return found

    of = codes(frame["benchmark"], [facts["name"] for facts in benchmarks])
    runs = [
        codes(frame["method"], [row.method for row in rows]),
        codes(frame["seed"], seeds),
        codes(frame["budget"], budgets),
    ]
    shape = len(rows), len(seeds), len(budgets)
    found = []
    for number, facts in enumerate(benchmarks):
        chosen = of == number
        part = frame[chosen]
        tier = codes(part["tier"], facts["tiers"]) if len(part) else np.zeros(0, int)
        sampled = codes(part["mode"], ("greedy", "sampled")).astype(bool)
        run = np.ravel_multi_index([run[chosen] for run in runs], shape)
        found.append(_benchmark(facts, part, run, shape, tier, sampled))
    return tuple(found)


def _benchmark(
    facts: Mapping[str, Any],
    frame: pd.DataFrame,
    run: np.ndarray,
    runs: tuple[int, ...],
    tier: np.ndarray,
    sampled: np.ndarray,
) -> Benchmark:
    """One benchmark from its lines; ``run`` is the flat index of each into [row, seed, budget]."""
    # Problems in the order of their tier, then their id: the order of rows in the file does not matter.
    problems = frame["problem"].astype("category").cat.remove_unused_categories()
    ids = problems.cat.reorder_categories(sorted(problems.cat.categories)).cat
    apart = max(1, len(ids.categories))
    keys, problem = np.unique(tier * apart + ids.codes.to_numpy(), return_inverse=True)
    tier_of = keys // apart

    shape = (*runs, len(keys))
    size = int(np.prod(shape))
    cell = run * len(keys) + problem
    correct = frame["correct"].to_numpy(bool)

    def mean(values: np.ndarray, at: np.ndarray, size: int) -> np.ndarray:
        count = np.bincount(at, minlength=size)
        total = np.bincount(at, weights=values.astype(float), minlength=size)
        return np.divide(total, count, out=np.full(size, np.nan), where=count > 0)

    scores: dict[Mode, np.ndarray] = {
        "sampled": mean(correct[sampled], cell[sampled], size).reshape(shape),
        "greedy": mean(correct[~sampled], cell[~sampled], size).reshape(shape),
    }
    drawn, cell, run = frame[sampled], cell[sampled], run[sampled]
    flags = {
        "truncated": (drawn["finish"] == "length").to_numpy(),
        "unparsable": (drawn["verdict"] == "unparsable").to_numpy(),
        "timeout": (drawn["verdict"] == "timeout").to_numpy(),
        "tokens": drawn["tokens"].to_numpy(),
    }
    rates = {name: mean(values, run, int(np.prod(runs))) for name, values in flags.items()}
    count = np.bincount(cell, minlength=size).reshape(shape)
    texts = drawn["text_hash"].astype("category").cat.codes.to_numpy(np.int64)
    apart = texts.max(initial=0) + 1
    distinct = np.unique(cell * apart + texts) // apart
    with np.errstate(invalid="ignore"):
        rates["distinct"] = np.bincount(distinct, minlength=size).reshape(shape).sum(-1) / count.sum(-1)
    rates = {name: values.reshape(runs) for name, values in rates.items()}
    rates["fewest"], rates["most"] = count.min(-1, initial=size), count.max(-1, initial=0)

    majority = majority_correct(cell, drawn["sample"], drawn["answer"], correct[sampled], size).reshape(shape)
    return Benchmark(
        facts["name"], facts["title"], facts["metric"], facts["samples_per_problem"],
        facts["max_tokens"], facts["macro"], tuple(facts["tiers"]), tier_of, scores, majority, rates,
    )  # fmt: skip


def _check_samples(study: Study, benchmark: Benchmark, path: Path) -> None:
    """A finished run has all its samples; a hole would silently turn into a mean over what exists."""
    for run in study.runs:
        method, seed, budget = run["method"], run["seed"], run["budget"]
        if run["status"] != "ok" or seed not in study.seeds or budget not in study.budgets:
            continue
        at = study.index[method], study.seeds.index(seed), study.budgets.index(budget)
        fewest, most = int(benchmark.rates["fewest"][at]), int(benchmark.rates["most"][at])
        if not fewest == most == benchmark.k:
            raise UserError(
                f"{path}: method {method}, seed {seed}, budget {budget} has {fewest} to {most} sampled rows "
                f"per problem of {benchmark.name} where study.json says {benchmark.k}; "
                "evaluate that run again."
            )


def majority_correct(
    cell: np.ndarray, sample: pd.Series, answer: pd.Series, correct: np.ndarray, size: int
) -> np.ndarray:
    """maj@k of each of ``size`` cells (a problem in a run): 1 where the answer that most of its samples give
    is right, else 0; NaN for a cell with no samples, or with one whose answer was not recorded.

    Samples vote by their normalised answers, those without one (``""``) not at all. Of equals, the answer of
    the lowest ``sample`` number wins.
    """
    category = answer.astype("category").cat
    codes = category.codes.to_numpy(np.int64)  # -1: not recorded
    known = np.zeros(size)
    known[np.setdiff1d(np.arange(size), cell)] = np.nan
    known[cell[codes < 0]] = np.nan
    votes = np.flatnonzero((codes >= 0) & (answer != "").to_numpy())
    votes = votes[np.lexsort((sample.to_numpy()[votes], cell[votes]))]
    apart = max(1, len(category.categories))
    choices, first, count = np.unique(
        cell[votes] * apart + codes[votes], return_index=True, return_counts=True
    )
    order = np.lexsort((first, -count, choices // apart))
    cells, best = np.unique((choices // apart)[order], return_index=True)
    known[cells] += correct[votes[first[order[best]]]]
    return known
