"""From a study's records to numbers with their uncertainty. NumPy only; importing it loads no torch.

The score of a row at a budget on a benchmark is the mean over problems of avg@k, over training seeds; on the
ladder the mean over tiers of that. It has two sources of error, and both go into every interval and every
p-value:

- *problems and samples*: problems are resampled with replacement, within their tier where tiers count alike.
  A problem's avg@k carries its own sampling noise, so resampling the samples as well would count that noise
  twice.
- *training seeds*: two or three seeds say next to nothing about the spread of one row, so the variance
  between seeds is pooled over all trained rows of a budget (the variance components of a one-way layout,
  two-way for paired differences) and enters as a Student-t variate with the pooled degrees of freedom.

Nothing is pooled over benchmarks: each has its own intervals, families of tests and ranks.

A row that lacks a seed at a budget has no number there but an :class:`X` with its reason.
"""

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
from scipy.special import comb, ndtr, ndtri, stdtrit

from repro.errors import UserError
from repro.records import Role

LEVEL = 0.95  # of every interval
ALPHA = 0.05  # of every test, after Holm's correction
BOOTSTRAPS = 4_000
FLIPS = 10_000  # sign flips: the smallest p-value is about 1e-4

Mode = Literal["sampled", "greedy"]
INSIDE = ("train", "sample", "search", "reward", "embed")  # accounts that count against the budget
OUTSIDE = ("evaluate", "warm_start", "wasted")  # shown, not counted

_RUNS = {
    "method": str, "title": str, "role": str, "paper": str, "seed": int, "budget": int, "spent": int,
    "use": float, "papers_flops": int, "status": str, "reason": str, "rounds": int, "steps": int,
    "mode_note": str,
}  # fmt: skip
_LEDGER = {
    "method": str, "seed": int, "budget": int, "account": str, "flops": int, "papers_flops": int,
    "tokens": int,
}  # fmt: skip
_VISITS = {"method": str, "seed": int, "tier": str, "trained": int, "problems": int, "pool": int}
_SAMPLES = (
    "method", "seed", "budget", "benchmark", "mode", "tier", "problem", "sample", "correct", "verdict",
    "answer", "tokens", "finish", "text_hash",
)  # fmt: skip
_FACTS = (
    "name", "title", "budgets", "seeds", "benchmarks", "evaluation", "target_accuracies", "model", "versions",
    "command",
)  # fmt: skip
_BENCHMARK = {"name": str, "title": str, "tiers": list, "macro": bool, "metric": str,
              "samples_per_problem": int, "max_tokens": int}  # fmt: skip


# ---------------------------------------------------------------------------------------------- results


@dataclass(frozen=True)
class X:
    """No number: the row is incomplete. ``reason`` says what is lacking."""

    reason: str


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval, as fractions."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Estimate):
    """A paired difference of two rows; ``p`` is the two-sided p-value before any correction."""

    p: float


# ---------------------------------------------------------------------------------------------- records


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
    runs = _read_csv(records / "runs.csv", _RUNS)
    ledger = _read_csv(records / "ledger.csv", _LEDGER)
    visits = _read_csv(records / "visits.csv", _VISITS)
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
    for key in _FACTS:
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
        for name in _SAMPLES:
            if name not in names:
                raise UserError(f"{path} lacks the column '{name}'.")
        text = ["method", "benchmark", "mode", "tier", "problem", "verdict", "answer", "finish", "text_hash"]
        frame = pq.read_table(path, columns=list(_SAMPLES), read_dictionary=text).to_pandas()
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


# ------------------------------------------------------------------------------------- building blocks


def macro_mean(y: np.ndarray, tier_of: np.ndarray) -> np.ndarray:
    """Mean over tiers of the mean over problems; ``y`` is [..., problem]."""
    return np.mean([y[..., tier_of == t].mean(-1) for t in np.unique(tier_of)], axis=0)


def seed_variance(y: np.ndarray, tier_of: np.ndarray, paired: bool) -> tuple[float, int]:
    """Variance of a row's score from training seed to training seed, and its degrees of freedom.

    ``y`` is [row, seed, problem]. Pooled over rows; what the finite problems and samples add to it is
    subtracted. ``paired`` takes out what all rows of one seed share, as a paired difference does.
    One seed gives 0: its spread is unknown, and the tables say so.
    """
    rows, seeds, _ = y.shape
    if seeds == 1 or rows == 0:
        return 0.0, 1
    if paired and rows > 1:
        y, rows = y - y.mean(0), rows - 1
    y = y - y.mean(1, keepdims=True)
    df = rows * (seeds - 1)
    between = (macro_mean(y, tier_of) ** 2).sum() / df
    noise = []
    for t in np.unique(tier_of):
        part = y[..., tier_of == t]
        n = part.shape[-1]
        noise.append(((part - part.mean(-1, keepdims=True)) ** 2).sum() / (df * max(1, n - 1) * n))
    return max(0.0, float(between - np.sum(noise) / len(noise) ** 2)), df


class Resampler:
    """Bootstrap and sign-flip draws for one set of problems: made once, by a fixed seed, for all rows."""

    def __init__(self, tier_of: np.ndarray, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        tiers, sizes = np.unique(tier_of, return_counts=True)
        self.tier_of = tier_of
        self.weights = np.zeros((BOOTSTRAPS, len(tier_of)))
        for t, n in zip(tiers, sizes, strict=True):
            drawn = rng.multinomial(n, np.full(n, 1 / n), size=BOOTSTRAPS)
            self.weights[:, tier_of == t] = drawn / (n * len(tiers))
        self.share = np.repeat(1 / (sizes * len(tiers)), sizes)  # of each problem in the macro mean
        self.signs = rng.integers(0, 2, (FLIPS, len(tier_of)), dtype=np.int8) * np.int8(2) - np.int8(1)
        self.uniform = rng.random(FLIPS)
        self._t: dict[int, np.ndarray] = {}

    def _seed_part(self, n: int, variance: float, df: int) -> np.ndarray | float:
        if variance == 0:
            return 0.0
        if df not in self._t:
            self._t[df] = stdtrit(df, self.uniform)  # Student's t by inversion
        return np.asarray(np.sqrt(variance) * self._t[df][:n])

    def interval(self, y: np.ndarray, variance: float, df: int) -> tuple[float, float]:
        """95 % percentile interval of the score of ``y`` [problem] (its mean over seeds), given the
        variance of that mean between training seeds."""
        draws = self.weights @ y + self._seed_part(BOOTSTRAPS, variance, df)
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return _exact(low), _exact(high)

    def p_value(self, difference: np.ndarray, variance: float, df: int) -> float:
        """Two-sided p-value of a score difference [problem] (mean over seeds) against none.

        The null flips the sign of each problem's difference at random and adds the noise between seeds.
        """
        share = difference * self.share
        null = np.concatenate([signs @ share for signs in np.array_split(self.signs, 10)])
        null += self._seed_part(FLIPS, variance, df)
        # Scores are counts, so exact ties are common: the tolerance keeps rounding from breaking them.
        extreme = np.abs(null) >= abs(share.sum()) - 1e-9
        return (1 + int(extreme.sum())) / (1 + FLIPS)


def _exact(value: float | np.ndarray) -> float:
    # So that the last bits, which depend on the machine's linear algebra, never reach a file.
    return round(float(value), 9)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given."""
    adjusted = [0.0] * len(p)
    worst = 0.0
    for step, i in enumerate(np.argsort(p, kind="stable")):
        worst = max(worst, min(1.0, (len(p) - step) * p[i]))
        adjusted[i] = worst
    return adjusted


def rank_intervals(better: np.ndarray) -> list[tuple[int, int]]:
    """Rank intervals from ``better[i, j]``, whether i is significantly better than j.

    The low end, the rank itself, is 1 + the number of rows significantly better: ties share a rank.
    The high end is the number of rows less those significantly worse.
    """
    better = np.asarray(better, bool)
    low, high = 1 + better.sum(0), len(better) - better.sum(1)
    return [(int(a), int(b)) for a, b in zip(low, high, strict=True)]


def pass_at_k(n: int, correct: np.ndarray, k: int) -> np.ndarray:
    """Unbiased pass@k of problems with ``correct`` right answers among ``n`` samples
    (Chen et al. 2021, arXiv:2107.03374, equation 1)."""
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs 1 <= k <= n = {n}")
    return np.asarray(1 - comb(n - np.asarray(correct), k) / comb(n, k))


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


def detectable(
    problems: int,
    k: int,
    *,
    gain: float = 0.05,
    accuracy: float = 0.35,
    seeds: int = 1,
    seed_noise: float = 0.0,
) -> float:
    """The power to see that one method is better by ``gain`` on a benchmark of ``problems`` problems: the
    probability that the paired difference exceeds 1.96 standard errors.

    Supposed, with p the chance to solve a problem: p ~ Beta(``accuracy``, 1 - ``accuracy``) over problems,
    which makes many of them nearly hopeless or nearly sure, as benchmarks are; the gain is one shift of all
    log-odds, so sure and hopeless problems gain nothing; ``k`` samples of each problem for each of ``seeds``
    training seeds, whose own spread is ``seed_noise`` in log-odds. Then, to first order, the difference has
    the variance

        (2 E[p(1-p)] / (k seeds) + s^2 Var[p(1-p)]) / problems + 2 (seed_noise E[p(1-p)])^2 / seeds

    with the shift s = gain / E[p(1-p)].
    """
    a, b = accuracy, 1 - accuracy
    spread = a * b / 2  # E[p(1-p)]
    varied = a * (a + 1) * b * (b + 1) / 24 - spread**2  # Var[p(1-p)]
    variance = (2 * spread / (k * seeds) + (gain / spread) ** 2 * varied) / problems
    variance += 2 * (seed_noise * spread) ** 2 / seeds
    return float(ndtr(gain / np.sqrt(variance) - ndtri((1 + LEVEL) / 2)))


# -------------------------------------------------------------------------------------------- the study


class Analysis:
    """Every statistic of one benchmark of a study, the first unless it is named. Results depend on the
    records alone, not on the order of calls."""

    def __init__(self, study: Study, benchmark: str | None = None, seed: int = 0) -> None:
        self.study = study
        named = {one.name: one for one in study.benchmarks}
        self.benchmark = named[benchmark] if benchmark else study.benchmarks[0]
        # Tables and figures ask for the same numbers, which take time where there are thousands of problems.
        self._accuracies: dict[tuple[str, int, Mode, str | None], Estimate | X] = {}
        self._differences: dict[tuple[str, str, int], Difference | X] = {}
        self._resamplers: dict[str | None, Resampler] = {}
        self._variances: dict[tuple[int, Mode, str | None, bool], tuple[float, int]] = {}
        self._seed = seed

    def accuracy(
        self, method: str, budget: int, mode: Mode = "sampled", tier: str | None = None
    ) -> Estimate | X:
        """Score at a budget, over all problems or in one tier."""
        key = method, budget, mode, tier
        if key not in self._accuracies:
            self._accuracies[key] = self._accuracy(*key)
        return self._accuracies[key]

    def _accuracy(self, method: str, budget: int, mode: Mode, tier: str | None) -> Estimate | X:
        y = self._scores(method, budget, mode, tier)
        if isinstance(y, X):
            return y
        variance, df = self._seed_variance(budget, mode, tier, paired=False)
        resampler = self._resampler(tier)
        each = y.mean(0)
        bounds = resampler.interval(each, variance * self._trained(method) / len(y), df)
        return Estimate(_exact(macro_mean(each, resampler.tier_of)), *bounds)

    def difference(self, method: str, reference: str, budget: int) -> Difference | X:
        """Score of ``method`` less that of ``reference``, paired by problem and seed."""
        key = method, reference, budget
        if key not in self._differences:
            self._differences[key] = self._difference(*key)
        return self._differences[key]

    def _difference(self, method: str, reference: str, budget: int) -> Difference | X:
        ours, theirs = (self._scores(m, budget, "sampled", None) for m in (method, reference))
        if isinstance(ours, X):
            return ours
        if isinstance(theirs, X):
            return X(f"{self._title(reference)}: {theirs.reason}")
        each = (ours - theirs).mean(0)
        variance, df = self._seed_variance(budget, "sampled", None, paired=True)
        variance *= (self._trained(method) + self._trained(reference)) / len(ours)
        resampler = self._resampler(None)
        bounds = resampler.interval(each, variance, df)
        mean = _exact(macro_mean(each, resampler.tier_of))
        return Difference(mean, *bounds, p=resampler.p_value(each, variance, df))

    def differences(self, reference: str, budget: int) -> dict[str, tuple[Difference | X, float]]:
        """Every other row less ``reference``, each with its p-value adjusted by Holm within this family."""
        found = {
            row.method: self.difference(row.method, reference, budget)
            for row in self.study.rows
            if row.method != reference
        }
        family = [m for m, d in found.items() if isinstance(d, Difference)]
        adjusted = dict(zip(family, holm([found[m].p for m in family]), strict=True))  # type: ignore[union-attr]
        return {m: (d, adjusted.get(m, np.nan)) for m, d in found.items()}

    @cached_property
    def ranks(self) -> dict[str, tuple[int, int]]:
        """Rank intervals at the top budget among complete methods and ablations (family: all their pairs)."""
        ranked = [
            row.method
            for row in self.study.rows
            if row.role in (Role.METHOD, Role.ABLATION)
            and not self.study.incomplete(row.method, self.study.top)
        ]
        pairs = [(i, j) for i in range(len(ranked)) for j in range(i)]
        found = [self.difference(ranked[i], ranked[j], self.study.top) for i, j in pairs]
        better = np.zeros((len(ranked), len(ranked)), bool)
        adjusted = holm([d.p for d in found if isinstance(d, Difference)])
        for (i, j), d, p in zip(pairs, found, adjusted, strict=True):
            if p < ALPHA and isinstance(d, Difference):
                better[(i, j) if d.mean > 0 else (j, i)] = True
        return dict(zip(ranked, rank_intervals(better), strict=True))

    def pass_at(self, method: str, budget: int, k: int) -> float | X:
        """Unbiased pass@k, averaged like the score."""
        y = self._scores(method, budget, "sampled", None)
        if isinstance(y, X):
            return y
        solved, n = np.rint(y * self.benchmark.k), self.benchmark.k
        return float(macro_mean(pass_at_k(n, solved, k).mean(0), self.benchmark.strata))

    def majority(self, method: str, budget: int) -> float | X:
        """maj@k, averaged like the score."""
        lack = self.study.incomplete(method, budget)
        if lack:
            return lack
        y = self.benchmark.majority[self.study.index[method], :, self.study.budgets.index(budget)]
        if not y.size or np.isnan(y).any():
            return X("the answers were not recorded")
        return float(macro_mean(y.mean(0), self.benchmark.strata))

    def rate(self, method: str, budget: int, name: str) -> float | X:
        """Mean over seeds of a rate over the sampled completions (or of their ``tokens``)."""
        lack = self.study.incomplete(method, budget)
        at = self.study.index[method], slice(None), self.study.budgets.index(budget)
        return lack or float(self.benchmark.rates[name][at].mean())

    def flops_to(self, method: str, target: float) -> int | X | None:
        """The smallest budget whose score reaches ``target``, None where none does. Only checkpoints that
        were evaluated count: nothing is interpolated. The untouched base needs 0."""
        for budget in self.study.budgets:
            score = self.accuracy(method, budget)
            if isinstance(score, X):
                return score
            if score.mean >= target - 1e-9:
                return budget if self._trained(method) else 0
        return None

    def _title(self, method: str) -> str:
        return self.study.rows[self.study.index[method]].title

    def _trained(self, method: str) -> bool:
        return self.study.rows[self.study.index[method]].role is not Role.BASE

    def _scores(self, method: str, budget: int, mode: Mode, tier: str | None) -> np.ndarray | X:
        """[seed, problem], complete or X."""
        lack = self.study.incomplete(method, budget)
        if lack:
            return lack
        y = self.benchmark.scores[mode][self.study.index[method], :, self.study.budgets.index(budget)]
        y = y[:, self._chosen(tier)]
        return X(f"no {mode} evaluation") if not y.size or np.isnan(y).any() else y

    def _chosen(self, tier: str | None) -> np.ndarray:
        tier_of = self.benchmark.tier_of
        return np.full(len(tier_of), True) if tier is None else tier_of == self.benchmark.tiers.index(tier)

    def _resampler(self, tier: str | None) -> Resampler:
        if tier not in self._resamplers:
            self._resamplers[tier] = Resampler(self.benchmark.strata[self._chosen(tier)], self._seed)
        return self._resamplers[tier]

    def _seed_variance(self, budget: int, mode: Mode, tier: str | None, paired: bool) -> tuple[float, int]:
        key = (budget, mode, tier, paired)
        if key not in self._variances:
            trained = [row.method for row in self.study.rows if self._trained(row.method)]
            found = [self._scores(method, budget, mode, tier) for method in trained]
            complete = [y for y in found if not isinstance(y, X)]
            self._variances[key] = (
                seed_variance(np.stack(complete), self.benchmark.strata[self._chosen(tier)], paired)
                if complete
                else (0.0, 1)
            )
        return self._variances[key]
