"""The results of a study as its records hold them. Importing it loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from repro import csv_files, trials
from repro.errors import UserError
from repro.flops import ModelShape
from repro.records import Role, Verdict
from repro.reporting.reading import (
    MEND,
    changed,
    check_text,
    read_facts,
    read_problems,
    read_provenance,
    read_samples,
    read_texts,
)
from repro.schema import (
    LEDGER,
    MACHINE,
    MACHINE_ACCOUNTS,
    MONITORS,
    PARQUET,
    PROVENANCE,
    RUNS,
    UNKNOWN,
    VISITS,
    Account,
    BenchmarkFacts,
    Facts,
    Provenance,
)
from repro.trials import Trial

Line = dict[str, Any]  # of a CSV file: its columns, and its number as ``line``
Mode = Literal["sampled", "greedy"]
ENOUGH_SEEDS = 5  # with fewer, no estimate of the spread between seeds can be relied on


def one_line(text: str) -> str:
    """Text on one line, without what is not to be seen: tabs, breaks, marks that turn its direction."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


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
    plans: bool  # from its budget, so that every budget has a run of its own
    objective: str = ""  # what it is trained by; blank where that is nothing, or not known


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
    problems: tuple[str, ...] = ()  # [problem] their ids
    # One line for each completion; `run` is a flat index into [row, seed, budget], `at` its problem's.
    samples: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def strata(self) -> np.ndarray:
        """[problem] The groups of problems whose means count alike."""
        return self.tier_of if self.macro else np.zeros_like(self.tier_of)


@dataclass(frozen=True)
class Study:
    """The records of one study."""

    facts: Facts  # study.json
    title: str
    budgets: tuple[int, ...]  # FLOPs, ascending
    seeds: tuple[int, ...]  # ascending
    rows: tuple[Row, ...]
    runs: list[Line]  # of runs.csv, and so on
    ledger: list[Line]
    monitors: list[Line]
    visits: list[Line]
    tuning: list[Trial]
    machine: list[Line]
    provenance: Provenance
    benchmarks: tuple[Benchmark, ...]
    forgetting: Benchmark | None = None  # a task with greedy scores alone, which ranks nothing
    records: Path = Path()  # the folder, for what is read when it is asked for

    @property
    def top(self) -> int:
        return self.budgets[-1]

    @property
    def preliminary(self) -> bool:
        """Whether it rests on too few seeds for its ranking to be relied on."""
        return len(self.seeds) < ENOUGH_SEEDS

    @cached_property
    def index(self) -> dict[str, int]:
        return {row.method: i for i, row in enumerate(self.rows)}

    @cached_property
    def questions(self) -> dict[tuple[str, str], tuple[str, str]]:
        """(question, answer) by benchmark and problem, of those that the records tell. Raises UserError where
        the file is malformed; the same of :attr:`texts`."""
        known = read_problems(self.records / "problems.parquet")
        return {
            key: (question, answer) for key, (_, question, answer) in known.items() if question and answer
        }

    @cached_property
    def texts(self) -> dict[str, str]:
        """Completions by their hashes, as samples.parquet has them, of the problems that the study keeps."""
        return read_texts(self.records / "texts.parquet")

    @cached_property
    def _runs(self) -> dict[tuple[str, int, int], Line]:
        return {(run["method"], run["seed"], run["budget"]): run for run in self.runs}

    @cached_property
    def _entries(self) -> dict[tuple[str, int], list[Line]]:
        return _by_run(self.ledger)

    @cached_property
    def _monitored(self) -> dict[tuple[str, int], list[Line]]:
        return _by_run(self.monitors)

    @cached_property
    def _clocked(self) -> dict[tuple[str, int], list[Line]]:
        return _by_run(self.machine)

    def run(self, method: str, seed: int, budget: int) -> Line:
        """The line of runs.csv; KeyError where there is none."""
        return self._runs[method, seed, budget]

    def entries(self, method: str, seed: int, budget: int) -> list[Line]:
        """The ledger lines of a run up to a budget, in the order they happened: what it had spent is their
        sum. Lines of `evaluate` are those of the budget's own checkpoint."""
        return self._up_to(self._entries, method, seed, budget)

    def clocked(self, method: str, seed: int, budget: int) -> list[Line]:
        """The lines of machine.csv of a run up to a budget, likewise."""
        return self._up_to(self._clocked, method, seed, budget)

    def monitored(self, method: str, seed: int, budget: int) -> dict[str, dict[int, Line]]:
        """The lines of monitors.csv by monitor and round, as they were for a run when it reached a budget."""
        found: dict[str, dict[int, Line]] = {}
        lines = self._up_to(self._monitored, method, seed, budget)
        for line in sorted(lines, key=lambda line: (line["round"], line["budget"])):
            found.setdefault(line["monitor"], {})[line["round"]] = line
        return found

    def _up_to(
        self, lines: Mapping[tuple[str, int], list[Line]], method: str, seed: int, budget: int
    ) -> list[Line]:
        plans = self.rows[self.index[method]].plans
        return [
            line
            for line in lines.get((method, seed), [])
            if line["budget"] == budget
            or (line["budget"] < budget and not plans and line.get("account") != Account.EVALUATE)
        ]

    def trials(self, method: str) -> list[Trial]:
        """Those that chose a row's hyper-parameters."""
        return [trial for trial in self.tuning if trial.method == method]

    @property
    def warm_start(self) -> tuple[int, int]:
        """(FLOPs, papers' FLOPs) of the training that all rows start from; they are no row's own."""
        lines = [line for line in self.ledger if line["account"] == Account.WARM_START]
        return sum(line["flops"] for line in lines), sum(line["papers_flops"] for line in lines)

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
    """Read a records folder. Raises UserError naming the file, and the line and column where there is one, of
    whatever is missing, malformed, or not as it was written."""
    facts = read_facts(records / "study.json")
    for sentence in changed(records, facts):
        raise UserError(sentence)
    return assemble(records, facts)


def assemble(records: Path, facts: Facts) -> Study:
    """:func:`load` but for the hashes of the files."""
    budgets, seeds = tuple(sorted(facts.budgets)), tuple(sorted(facts.seeds))
    if len(set(budgets)) < len(budgets) or len(set(seeds)) < len(seeds):
        raise UserError(f"{records / 'study.json'}: a budget or seed is there twice; keep one.")
    shapes_of(facts, records / "study.json")

    path = records / "runs.csv"
    runs = csv_files.read(path, RUNS, MEND, key=("method", "seed", "budget"))
    _known(path, runs, {"role": list(Role), "plans": (0, 1), "seed": seeds, "budget": budgets})
    rows = _rows(path, runs)
    methods = [row.method for row in rows]

    path = records / "ledger.csv"
    ledger = csv_files.read(path, LEDGER, MEND)
    shared = [line for line in ledger if line["account"] == Account.WARM_START]
    _known(path, shared, {"method": ("",), "seed": (0,), "budget": (0,)})
    _known(path, ledger, {"account": list(Account), "shape": facts.shapes})
    own = [line for line in ledger if line["account"] != Account.WARM_START]
    _known(path, own, {"method": methods, "seed": seeds, "budget": budgets})

    path = records / "monitors.csv"
    monitors = csv_files.read(
        path, MONITORS, MEND, key=("method", "seed", "budget", "round", "monitor"), signed=("value",)
    )
    _known(path, monitors, {"method": methods, "seed": seeds, "budget": budgets})
    for line in monitors:
        if not line["monitor"].isidentifier():
            named = one_line(line["monitor"])
            raise UserError(
                f"{path}, line {line['line']}: column 'monitor' holds '{named}', which is no name; collect "
                "the records again."
            )

    path = records / "visits.csv"
    visits = csv_files.read(path, VISITS, MEND, key=("method", "seed", "tier"))
    _known(path, visits, {"method": methods, "seed": seeds})

    path = records / "tuning.csv"
    tuning = trials.read(path, MEND)
    for trial in tuning:
        if trial.method not in methods:
            raise UserError(f"{path}: '{trial.method}' is no row of the study; {MEND}")

    path = records / "machine.csv"
    machine = csv_files.read(
        path, MACHINE, MEND, key=("method", "seed", "budget", "account", "device"), unknown=UNKNOWN
    )
    _known(path, machine, {"account": MACHINE_ACCOUNTS, "method": (*methods, ""), "seed": (*seeds, 0),
                           "budget": (*budgets, 0)})  # fmt: skip

    path = records / PROVENANCE
    provenance = read_provenance(path)
    jobs = [job for process in provenance.processes for job in process.jobs]
    for job in jobs:
        if job.kind != "base model" and (job.method not in methods or job.seed not in seeds):
            raise UserError(f"{path}: method '{job.method}', seed {job.seed} is no run of the study; {MEND}")
    if len({(job.kind, job.method, job.seed) for job in jobs}) < len(jobs):
        raise UserError(f"{path}: a job is there twice; {MEND}")
    for name, columns in PARQUET.items():
        check_text(records / name, columns)

    all_facts = [*facts.benchmarks, *([facts.forgetting] if facts.forgetting else [])]
    all_found = _benchmarks(records / "samples.parquet", all_facts, methods, seeds, budgets)
    benchmarks, others = all_found[: len(facts.benchmarks)], all_found[len(facts.benchmarks) :]
    forgetting = others[0] if others else None
    title = one_line(facts.title)
    study = Study(
        facts, title, budgets, seeds, rows, runs, ledger, monitors, visits, tuning, machine, provenance,
        benchmarks, forgetting, records,
    )  # fmt: skip
    for benchmark in all_found:
        _check_samples(study, benchmark, records / "samples.parquet")
    return study


def shapes_of(facts: Facts, path: Path) -> dict[str, ModelShape]:
    """The models of a study by the id that its ledger has. Raises UserError where one is no shape."""
    shapes = {}
    for name, sizes in facts.shapes.items():
        try:
            shapes[name] = ModelShape.from_json(sizes)
        except (TypeError, ValueError):
            raise UserError(
                f"{path}: the shape '{name}' lacks a size, or has an unknown or impossible one; collect the "
                "records again."
            ) from None
    return shapes


def _by_run(lines: Iterable[Line]) -> dict[tuple[str, int], list[Line]]:
    found: dict[tuple[str, int], list[Line]] = {}
    for line in lines:
        found.setdefault((line["method"], line["seed"]), []).append(line)
    return found


def _known(path: Path, lines: Iterable[Line], known: Mapping[str, Iterable[Any]]) -> None:
    """Raise UserError at the first line with a value that the study does not know."""
    known = {column: tuple(values) for column, values in known.items()}
    for line in lines:
        for column, values in known.items():
            if line[column] not in values:
                raise UserError(
                    f"{path}, line {line['line']}: column '{column}' holds '{line[column]}'; "
                    f"it must be one of {', '.join(map(repr, map(_plain, values)))}."
                )


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, str) else value  # without the name of an enumeration


def _rows(path: Path, runs: Iterable[Line]) -> tuple[Row, ...]:
    found: dict[str, Row] = {}
    for run in runs:
        method = run["method"]
        row = Row(
            method, one_line(run["title"]), Role(run["role"]), one_line(run["paper"]),
            one_line(run["mode_note"]), bool(run["plans"]), one_line(run["objective"]),
        )  # fmt: skip
        first = found.setdefault(method, row)
        if (row.title, row.role, row.paper, row.plans) != (first.title, first.role, first.paper, first.plans):
            raise UserError(
                f"{path}, line {run['line']}: title, role, paper or plans of method '{method}' differ from "
                "its lines before; a method has one of each."
            )
        # A run that failed before it asked, or trained, has none.
        told = {name: getattr(first, name) or getattr(row, name) for name in ("note", "objective")}
        found[method] = replace(first, **told)
    roles = list(Role)
    return tuple(
        sorted(found.values(), key=lambda row: (roles.index(row.role), row.title.casefold(), row.method))
    )


def _benchmarks(
    path: Path,
    benchmarks: Sequence[BenchmarkFacts],
    methods: Sequence[str],
    seeds: Sequence[int],
    budgets: Sequence[int],
) -> tuple[Benchmark, ...]:
    frame = read_samples(path)

    def codes(values: pd.Series, known: Sequence[Any]) -> np.ndarray:
        found = np.asarray(pd.Index(known).get_indexer(values))
        if (found < 0).any():
            raise UserError(
                f"{path}: column '{values.name}' holds '{values[found < 0].iloc[0]}', unknown to the study."
            )
        return found

    of = codes(frame["benchmark"], [facts.name for facts in benchmarks])
    runs = [codes(frame["method"], methods), codes(frame["seed"], seeds), codes(frame["budget"], budgets)]
    codes(frame["finish"], ("stop", "length"))
    right = codes(frame["verdict"], [str(verdict) for verdict in Verdict]) == list(Verdict).index(
        Verdict.CORRECT
    )
    if len(frame) and (right != frame["correct"].to_numpy(bool)).any():
        raise UserError(f"{path}: columns 'correct' and 'verdict' disagree; collect the records again.")
    shape = len(methods), len(seeds), len(budgets)
    found = []
    for number, facts in enumerate(benchmarks):
        chosen = of == number
        part = frame[chosen]
        tier = codes(part["tier"], facts.tiers) if len(part) else np.zeros(0, int)
        sampled = codes(part["mode"], ("greedy", "sampled")).astype(bool)
        run = np.ravel_multi_index([run[chosen] for run in runs], shape)
        found.append(_benchmark(facts, part, run, shape, tier, sampled))
    return tuple(found)


def _benchmark(
    facts: BenchmarkFacts,
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
    tier_of, names = keys // apart, tuple(ids.categories[keys % apart])

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
    drawn, cell = frame[sampled], cell[sampled]
    flags = {
        "truncated": (drawn["finish"] == "length").to_numpy(),
        "unparsable": (drawn["verdict"] == "unparsable").to_numpy(),
        "timeout": (drawn["verdict"] == "timeout").to_numpy(),
        "tokens": drawn["tokens"].to_numpy(),
    }
    rates = {name: mean(values, run[sampled], int(np.prod(runs))) for name, values in flags.items()}
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
        facts.name, one_line(facts.title), one_line(facts.metric), facts.samples_per_problem,
        facts.max_tokens, facts.macro, tuple(facts.tiers), tier_of, scores, majority, rates,
        names, frame.assign(run=run, at=problem),
    )  # fmt: skip


def _check_samples(study: Study, benchmark: Benchmark, path: Path) -> None:
    """A finished run has all its samples, and no other has any: a hole would silently turn into a mean over
    what exists."""
    finished = {(run["method"], run["seed"], run["budget"]) for run in study.runs if run["status"] == "ok"}
    greedy = ~np.isnan(benchmark.scores["greedy"])
    for key in product(study.index, study.seeds, study.budgets):
        method, seed, budget = key
        at = study.index[method], study.seeds.index(seed), study.budgets.index(budget)
        fewest, most = int(benchmark.rates["fewest"][at]), int(benchmark.rates["most"][at])
        wanted = benchmark.k if key in finished else 0
        if not fewest == most == wanted:
            raise UserError(
                f"{path}: method {method}, seed {seed}, budget {budget} has {fewest} to {most} sampled rows "
                f"per problem of {benchmark.name} where {wanted} are due; evaluate that run again."
            )
        due = key in finished
        if greedy.any() and not (greedy[at].all() if due else not greedy[at].any()):
            raise UserError(
                f"{path}: method {method}, seed {seed}, budget {budget} has {greedy[at].sum()} greedy "
                f"rows of {benchmark.name} where {'one a problem' if due else 'none'} is due; evaluate "
                "that run again."
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
