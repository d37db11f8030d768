"""What the report's script draws and looks up, packed so that a page holds it.

A *pack* is gzip of a length (4 bytes, little-endian), so many bytes of JSON, and columns of integers. The
JSON says under ``columns`` how many values each has and how many bytes of each value; the columns hold the
lowest byte of every value, then the next, which compresses better than whole values. ``unpack`` in
``assets/report.js`` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from repro.records import Role
from repro.reporting.analysis import Analysis
from repro.reporting.comparisons import opponents
from repro.reporting.figures import ACCOUNTS, look_of, thinned
from repro.reporting.results import Benchmark, Row, Study, X
from repro.reporting.statistics import macro_mean
from repro.reporting.table import Table, budget_titles, flop_unit
from repro.reporting.tables import KIND, SHOWN, tier_title
from repro.schema import INSIDE, MACHINE_ACCOUNTS, SEEN, WASTED, Account

_MARKERS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down",
            "P": "cross", "h": "hexagon"}  # fmt: skip
Questions = Mapping[tuple[str, str], tuple[str, str]]  # benchmark, problem -> its question, its gold answer


def pack(value: Mapping[str, Any], columns: Mapping[str, np.ndarray] | None = None) -> bytes:
    """The same bytes of the same content: pyarrow brings its own zlib, where Python takes the machine's."""
    described: dict[str, list[int]] = {}
    planes = []
    for name, column in (columns or {}).items():
        values = np.ascontiguousarray(column.ravel(), "<u4")
        width = (int(values.max(initial=0)).bit_length() + 7) // 8 or 1
        described[name] = [len(values), width]
        planes.append(values.view(np.uint8).reshape(-1, 4).T[:width].tobytes())
    text = json.dumps({**value, "columns": described}, allow_nan=False, separators=(",", ":")).encode()
    content = b"".join([len(text).to_bytes(4, "little"), text, *planes])
    # Level 5: of a million completions, a tenth of the time of the highest, and 5 % more bytes.
    return bytes(pa.Codec("gzip", compression_level=5).compress(content, asbytes=True))


def _digits(value: float | None, digits: int = 5) -> float | None:
    """A number for a chart; None where there is none."""
    if value is None or not np.isfinite(value):
        return None
    # In two steps: the last bits, which are the machine's, do not decide where a tie goes.
    return float(f"{float(f'{value:.9g}'):.{digits}g}")


def copies(tables: Sequence[Table]) -> bytes:
    """Every table as LaTeX, Markdown and CSV, to copy."""
    return pack({table.name: [table.latex(), table.markdown(), table.csv()] for table in tables})


# ---------------------------------------------------------------------------------------------- charts


def charts(analyses: Sequence[Analysis], tables: Sequence[Table]) -> bytes:
    """The rows of a study and how they look, and the numbers of all charts but those of monitors."""
    study = analyses[0].study
    named = {table.name: table.data for table in tables}
    unit, unit_name = flop_unit(study.top)
    best = [row.method for row in analyses[0].by_score]
    return pack({
        "unit": unit_name,
        "budgets": [_digits(budget / unit) for budget in study.budgets],
        "budgetTitles": list(budget_titles(study).values()),
        "seeds": list(study.seeds),
        "rows": [_row(analyses[0], row) for row in study.rows],
        "best": [study.index[method] for method in best],
        "shown": sorted(study.index[method] for method in shown_first(analyses[0])),
        "benchmarks": [_benchmark(analysis, named) for analysis in analyses],
        "spend": _spend(study, named),
    })  # fmt: skip


def shown_first(analysis: Analysis) -> list[str]:
    """The rows that charts begin with: the controls, and the methods with the highest scores."""
    methods = [row.method for row in analysis.by_score if row.role is Role.METHOD]
    controls = [row.method for row in analysis.study.rows if row.role not in (Role.METHOD, Role.ABLATION)]
    return methods[:SHOWN] + controls


def _row(analysis: Analysis, row: Row) -> dict[str, Any]:
    look = look_of(analysis, row)
    dash = "solid" if look["ls"] == "-" else ",".join(f"{look['lw'] * n:g}px" for n in look["ls"][1])
    return {
        "id": row.method, "title": row.title, "kind": KIND[row.role], "colour": look["color"], "dash": dash,
        "marker": _MARKERS[look["marker"]], "width": look["lw"],
    }  # fmt: skip


def _benchmark(analysis: Analysis, named: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    study, benchmark = analysis.study, analysis.benchmark
    tiers = [None, *(benchmark.tiers if len(benchmark.tiers) > 1 else ())]
    found = {
        name: _lines(named[name], benchmark) for name in ("differences", "iso_accuracy") if name in named
    }
    return {
        "name": benchmark.name,
        "title": benchmark.title,
        "metric": benchmark.metric,
        "k": benchmark.k,
        "tiers": ["all problems" if tier is None else tier_title(tier) for tier in tiers],
        "scores": [[_scores(analysis, row, tier) for row in study.rows] for tier in tiers],
        "against": [study.index[row.method] for row in opponents(analysis)],
        "differences": [
            [study.index[line["against"]], study.index[line["method"]], study.budgets.index(line["budget"]),
             *(_digits(line[name]) for name in (*_interval("difference"), "p_holm"))]
            for line in found["differences"] if line["difference"] is not None
        ],
        "ratios": [
            [study.index[line["against"]], study.index[line["method"]],
             *(_digits(line[name]) for name in (*_interval("ratio"), "score"))]
            for line in found.get("iso_accuracy", []) if line["ratio_low"] is not None
        ],
        "problems": list(benchmark.problems),
        "tierOf": [int(tier) + (len(tiers) > 1) for tier in benchmark.tier_of],
    }  # fmt: skip


def _lines(data: pd.DataFrame, benchmark: Benchmark) -> list[dict[Any, Any]]:
    """The lines of a table that are about a benchmark."""
    if "Benchmark" in data:
        data = data[data["Benchmark"] == benchmark.title]
    return data.to_dict("records")


def _interval(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"


def _scores(analysis: Analysis, row: Row, tier: str | None) -> list[list[float | None] | None]:
    """Of each budget the spent FLOPs, the score with its interval, and the score of every seed."""
    study, benchmark = analysis.study, analysis.benchmark
    unit, _ = flop_unit(study.top)
    chosen = benchmark.tier_of == (benchmark.tier_of if tier is None else benchmark.tiers.index(tier))
    strata = benchmark.strata[chosen] if tier is None else np.zeros(chosen.sum(), int)
    found: list[list[float | None] | None] = []
    for at, budget in enumerate(study.budgets):
        score, spent = analysis.accuracy(row.method, budget, "sampled", tier), study.spent(row.method, budget)
        if isinstance(score, X) or isinstance(spent, X):
            found.append(None)
            continue
        seeds = macro_mean(benchmark.scores["sampled"][study.index[row.method], :, at][:, chosen], strata)
        found.append([*map(_digits, (spent / unit, score.mean, score.low, score.high, *seeds))])
    return found


def _spend(study: Study, named: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """The views of what a study cost, each with its bars: the numbers of all rows, None where unknown."""
    unit, name = flop_unit(study.top)
    spent, took, lost = named["costs"], named["machine"], named["stranded"]
    tried = {row.method: sum(trial.flops for trial in study.trials(row.method)) for row in study.rows}

    def by_account(
        lines: pd.DataFrame, column: str, accounts: Sequence[str], scale: float
    ) -> dict[str, list[float | None]]:
        each = {(line["method"], line["account"]): line[column] for line in lines.to_dict("records")}
        found = {account: [each.get((row.method, account)) for row in study.rows] for account in accounts}
        return {
            account: [None if value is None else _digits(value / scale, 4) for value in values]
            for account, values in found.items()
            if any(values)
        }

    accounts = [account for account in MACHINE_ACCOUNTS if account != WASTED]
    outside = by_account(spent, "flops", [Account.RULES, Account.EVALUATE], unit)
    if study.tuning:
        outside["tuning"] = [_digits(tried[row.method] / unit, 4) for row in study.rows]
    shares: dict[tuple[str, int], list[float]] = {}
    for line in lost.to_dict("records"):
        shares.setdefault((line["method"], line["budget"]), []).append(line["share"])
    stranded = {
        f"at {title}": [
            _digits(100 * float(np.mean(found)), 4) if (found := shares.get((row.method, budget))) else None
            for row in study.rows
        ]
        for budget, title in budget_titles(study).items()
    }
    views = [
        (f"Within the budget, by account ({name})", True, by_account(spent, "flops", INSIDE, unit)),
        (f"Outside the budget ({name})", True, outside),
        ("Sampled and never trained on (% of the spend)", False, stranded),
        ("Seconds, by account", True, by_account(took, "seconds", accounts, 1)),
        ("Energy, by account (kJ)", True, by_account(took, "joules", accounts, 1000)),
    ]
    return [
        {
            "title": title,
            "stacked": stacked,
            "bars": [[str(bar), _BARS.get(bar, ""), values] for bar, values in bars.items()],
        }
        for title, stacked, bars in views
        if bars
    ]


_BARS = {**ACCOUNTS, "evaluate": "#999999", "rules": "#009E73", "verify": "#D55E00", "tuning": "#882255"}


def monitors(study: Study) -> bytes:
    """Every monitor of every row and seed over spent FLOPs, up to the top budget, thinned; and its mean over
    seeds, of the rounds that all of them have."""
    unit, _ = flop_unit(study.top)
    found: dict[str, dict[str, Any]] = {}
    for at, row in enumerate(study.rows):
        if study.incomplete(row.method, study.top):
            continue
        runs = [study.monitored(row.method, seed, study.top) for seed in study.seeds]
        for name in dict.fromkeys(name for run in runs for name in run):
            each = [
                {n: (line["spent"] / unit, line["value"]) for n, line in run[name].items()}
                for run in runs
                if name in run
            ]
            both = [n for n in each[0] if all(n in run for run in each)]
            lines = [list(run.values()) for run in each]
            if len(each) == len(study.seeds) and both:
                lines.insert(0, np.mean([[run[n] for run in each] for n in both], axis=1).tolist())
            else:
                lines.insert(0, [])
            found.setdefault(name, {})[str(at)] = [
                [[_digits(value, 4) for value in axis] for axis in thinned(line)] if line else None
                for line in lines
            ]
    order = [*(name for name in SEEN if name in found), *sorted(found.keys() - SEEN.keys())]
    return pack({"monitors": [[SEEN.get(name, name), found[name]] for name in order]})


# -------------------------------------------------------------------------------------------- problems


def counts(study: Study, questions: Questions) -> bytes:
    """How many sampled completions are right, [row, budget, problem, seed] of each benchmark, and the
    questions and golds of its problems where they are known."""
    none = 1 + max(benchmark.k for benchmark in study.benchmarks)
    columns: dict[str, np.ndarray] = {}
    asked = []
    for number, benchmark in enumerate(study.benchmarks):
        right = (benchmark.scores["sampled"] * benchmark.k).transpose(0, 2, 3, 1)
        columns[str(number)] = np.where(np.isnan(right), none, np.rint(right)).astype(np.uint32)
        asked.append([questions.get((benchmark.name, problem)) for problem in benchmark.problems])
    return pack({"none": none, "questions": asked}, columns)


def details(study: Study, texts: Mapping[str, str]) -> bytes:
    """Every completion of every problem, with its text where ``texts`` has its hash."""
    described = []
    columns: dict[str, np.ndarray] = {}
    for number, benchmark in enumerate(study.benchmarks):
        about, found = _details(study, benchmark, texts)
        described.append(about)
        columns |= {f"{number}.{name}": column for name, column in found.items()}
    return pack({"benchmarks": described}, columns)


def _details(
    study: Study, benchmark: Benchmark, texts: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Arrays [problem, run, slot] of outcomes, tokens and texts. ``runs`` are those [row, seed, budget]
    that there are; of each problem the first slot is greedy, the others are samples, in their order.

    An outcome (verdict, answer, finish) is a number in its problem's list, the most frequent first: problems
    have few, so that nearly all are small. So has every text."""
    frame = benchmark.samples
    shape = len(study.rows), len(study.seeds), len(study.budgets)
    runs, run = np.unique(frame["run"], return_inverse=True)
    problem, greedy = frame["at"].to_numpy(), (frame["mode"] == "greedy").to_numpy()
    order = np.lexsort((frame["sample"], greedy, problem, run))
    group = ((run * len(benchmark.problems) + problem) * 2 + greedy)[order]
    rank = np.empty(len(frame), int)
    rank[order] = np.arange(len(frame)) - np.searchsorted(group, group)
    at = problem, run, np.where(greedy, 0, 1 + rank)
    size = len(benchmark.problems), len(runs), 1 + benchmark.k

    def filled(values: np.ndarray) -> np.ndarray:
        column = np.zeros(size, np.uint32)
        column[at] = values
        return column

    outcomes, named = _outcomes(frame)
    outcome, lists = _ranked(problem, outcomes, size[0])
    columns = {"outcome": filled(outcome), "tokens": filled(frame["tokens"].to_numpy())}
    about: dict[str, Any] = {
        "runs": np.transpose(np.unravel_index(runs, shape)).tolist(),
        "slots": size[2],
        "greedy": bool(greedy.any()),
        "outcomes": [[named[i] for i in found] for found in lists],
    }
    if texts:
        hashes = pd.Categorical(frame["text_hash"])
        told = [None, *sorted(set(texts.values()))]
        number = {text: i for i, text in enumerate(told)}
        # [hash of the records] its text's number; the last is that of a hash without a text.
        numbers = np.array([*(number[text] for text in texts.values()), 0])
        codes = numbers[pd.Index(list(texts)).get_indexer(hashes.categories)]
        text, lists = _ranked(problem, codes[hashes.codes], size[0])
        columns["text"] = filled(text)
        about["texts"] = [[told[i] for i in found] for found in lists]
    return about, columns


def _outcomes(frame: pd.DataFrame) -> tuple[np.ndarray, list[list[str | None]]]:
    """[line] The number of each line's (verdict, answer, finish), and what they are, in a fixed order."""
    code = np.zeros(len(frame), np.int64)
    names: list[list[str | None]] = [[]]
    for column in ("verdict", "answer", "finish"):
        values = frame[column].astype("category").cat
        known: list[str | None] = [None, *sorted(values.categories)]  # no answer: it was not recorded
        places = {value: i for i, value in enumerate(known)}
        place = np.array([*(places[value] for value in values.categories), 0])
        code = code * len(known) + place[values.codes]
        found, code = np.unique(code, return_inverse=True)
        names = [[*names[i // len(known)], known[i % len(known)]] for i in found]
    return code, names


def _ranked(problem: np.ndarray, code: np.ndarray, problems: int) -> tuple[np.ndarray, list[list[int]]]:
    """[line] Each code as its rank among those of its problem, the most frequent first, and their lists."""
    apart = code.max(initial=0) + 1
    keys, where, count = np.unique(problem * apart + code, return_inverse=True, return_counts=True)
    order = np.lexsort((keys, -count, keys // apart))
    first = np.searchsorted(keys // apart, np.arange(problems + 1))
    rank = np.empty(len(keys), int)
    rank[order] = np.arange(len(keys)) - first[(keys // apart)[order]]
    codes = (keys % apart)[order]
    return rank[where], [codes[a:b].tolist() for a, b in pairwise(first)]
