"""The tables of what a study cost: FLOPs by account, what was sampled for nothing, and the machine's time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from repro.records import Role
from repro.reporting.analysis import Analysis
from repro.reporting.results import Line, Study
from repro.reporting.table import (
    DASH,
    TIMES,
    Table,
    budget_titles,
    flop_unit,
    flops,
    percent,
    signed,
    significant,
    span,
    table_of,
)
from repro.schema import INSIDE, MACHINE_ACCOUNTS, WASTED, Account
from repro.trials import Trial

_BESIDE = (Account.RULES, Account.EVALUATE)  # shown by row, outside the budget


def account_means(study: Study, method: str, budget: int) -> dict[str, tuple[float, ...]]:
    """Mean over seeds of (FLOPs, papers' FLOPs, tokens) of each account of a row, up to a budget."""
    sums = {str(account): np.zeros(3) for account in (*INSIDE, *_BESIDE)}
    for seed in study.seeds:
        for line in study.entries(method, seed, budget):
            sums[line["account"]] += [line["flops"], line["papers_flops"], line["tokens"]]
    return {account: tuple(map(float, total / len(study.seeds))) for account, total in sums.items()}


def costs(analysis: Analysis) -> Table:
    """Where the FLOPs of the top budget went, in the suite's convention and in the papers'."""
    study, top = analysis.study, analysis.study.top
    unit, name = flop_unit(top)
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    columns = [*(account.capitalize() for account in INSIDE), "Total", "Papers'\nconvention",
               *(f"({account})" for account in _BESIDE)]  # fmt: skip
    for row in analysis.by_score:
        tried = sum(trial.flops for trial in study.trials(row.method))
        of_trials = {"(tuning)": significant(tried / unit) if tried else DASH} if study.tuning else {}
        if study.incomplete(row.method, top):
            cells.append({"Method": row.title} | dict.fromkeys(columns, "X") | of_trials)
            continue
        spend = account_means(study, row.method, top)
        total = sum(spend[account][0] for account in INSIDE)
        papers = sum(spend[account][1] for account in INSIDE)
        shown = []
        for account in (*INSIDE, *_BESIDE):
            amount, papers_amount, tokens = spend[account]
            share = amount / total if account in INSIDE and total else None
            text = significant(amount / unit) if amount else DASH
            shown.append(f"{text}\n{percent(share, 0)} %" if amount and share is not None else text)
            data.append({"method": row.method, "title": row.title, "account": str(account),
                         "flops": round(amount), "share": share, "papers_flops": round(papers_amount),
                         "tokens": round(tokens)})  # fmt: skip
        shown[len(INSIDE) : len(INSIDE)] = [
            significant(total / unit) if total else DASH,
            f"{significant(papers / unit)}\n{TIMES} {papers / total:.2f}" if total else DASH,
        ]
        cells.append({"Method": row.title} | dict(zip(columns, shown, strict=True)) | of_trials)
    notes = [
        f"{name} at the top budget of {flops(top)}, mean over seeds, with the share of the total.",
        "Papers' convention: 2 FLOPs per parameter and sampled token, the padded prompt counted for "
        f"every sample, and 6 per parameter and padded training token; {TIMES} is its ratio to the total.",
        "Accounts in brackets are outside the budget. (rules): rewards by rule cost nothing; shown is what a "
        "reward model of the policy's size would have cost."
        + " (tuning): all trials of the row together."
        * bool(study.tuning),
    ]
    warm, papers_warm = study.warm_start
    if warm:
        data.append({"method": "", "title": "", "account": str(Account.WARM_START), "flops": warm,
                     "share": None, "papers_flops": papers_warm, "tokens": None})  # fmt: skip
        notes.append(
            f"The warm start, which all rows share, cost {flops(warm)} ({flops(papers_warm)} in the papers' "
            "convention), outside every budget."
        )
    return table_of(study, "costs", "Spend by account", cells, data, notes)


def tuning(analysis: Analysis) -> Table:
    """What the trials of each row found: its score as it is and at the point that was chosen."""
    study = analysis.study
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    for row in analysis.by_score:
        tried = study.trials(row.method)
        if not tried:
            continue
        chosen = next(trial for trial in tried if trial.chosen)
        before, after = (_mean_score(tried, point) for point in (0, chosen.point))
        gain = None if before is None or after is None else after - before
        spent = sum(trial.flops for trial in tried)
        cells.append({
            "Method": row.title,
            "Trials": str(len(tried)),
            "As it is": "X" if before is None else percent(before),
            "Chosen": "X" if after is None else percent(after),
            "Gain": DASH if not chosen.point or gain is None else signed(gain),
            "Settings": _settings(chosen.settings) or "as it is",
            "FLOPs": flops(spent),
        })  # fmt: skip
        data.append({"method": row.method, "title": row.title, "trials": len(tried), "default": before,
                     "tuned": after, "point": chosen.point, "settings": chosen.line()["settings"],
                     "flops": spent})  # fmt: skip
    seeds = sorted({trial.seed for trial in study.tuning})
    notes = [
        "Scores on the validation split, in percent, mean over the tuning seeds "
        f"{', '.join(map(str, seeds))}: problems held out of the training set, none a test problem. The "
        "best of several is the higher for the choice; the leaderboard's scores are of other problems and "
        "seeds.",
        "A row stays as it is where that is within one standard error of its best point.",
    ]
    return table_of(study, "tuning", "Tuning", cells, data, notes)


def _mean_score(trials: Iterable[Trial], point: int) -> float | None:
    """None where a run of the point failed."""
    scores = [trial.score for trial in trials if trial.point == point]
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if len(known) == len(scores) else None


def _settings(values: Mapping[str, Any], within: str = "") -> str:
    """Hyper-parameters in a line: ``optimizer.learning_rate 0.001``."""
    return ", ".join(
        _settings(value, f"{within}{key}.") if isinstance(value, dict) else f"{within}{key} {value}"
        for key, value in values.items()
    )


def stranded(analysis: Analysis) -> Table:
    """What each row had sampled at a budget and never trained on."""
    study = analysis.study
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    for row in analysis.by_score:
        if row.role is Role.BASE:
            continue
        cell = {"Method": row.title}
        for budget, title in budget_titles(study).items():
            if study.incomplete(row.method, budget):
                cell[title] = "X"
                continue
            runs = [study.run(row.method, seed, budget) for seed in study.seeds]
            lost = [_stranded(study.entries(row.method, run["seed"], budget)) for run in runs]
            shares = [
                amount / run["spent"] if run["spent"] else 0.0 for amount, run in zip(lost, runs, strict=True)
            ]
            rounds, steps = (span(f"{run[name]:,}" for run in runs) for name in ("rounds", "steps"))
            cell[title] = f"{percent(float(np.mean(shares)))} %\nrounds {rounds}\nsteps {steps}"
            for run, amount, share in zip(runs, lost, shares, strict=True):
                kept = ("seed", "budget", "plans", "rounds", "steps", "spent")
                data.append({"method": row.method, "title": row.title, **{name: run[name] for name in kept},
                             "stranded": amount, "share": share})  # fmt: skip
        cells.append(cell)
    notes = [
        "Share of the spend at a budget that went into samples and rewards after the last training step "
        "before it, mean over seeds: a larger budget would have trained on them. Below it, rounds and "
        "optimizer steps up to the budget, lowest to highest seed."
    ]
    planning = [row.title for row in study.rows if row.plans]
    if planning:
        notes.append(
            "Rows that plan from their budget have a run for each, planned to end in training and to strand "
            f"nothing: {', '.join(planning)}."
        )
    return table_of(study, "stranded", "Sampled and never trained on", cells, data, notes)


def _stranded(entries: list[Line]) -> int:
    amount = 0
    for line in entries:
        if line["account"] == Account.TRAIN:
            amount = 0
        elif line["account"] in INSIDE:
            amount += line["flops"]
    return amount


def use(analysis: Analysis) -> Table:
    """Whether every run spent what its budget allows, to within 1 %, and whether its ledger adds up."""
    study = analysis.study
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    for row in study.rows:
        if row.role is Role.BASE:
            continue
        cell = {"Method": row.title}
        for budget, title in budget_titles(study).items():
            runs = [r for r in study.runs if r["method"] == row.method and r["budget"] == budget]
            valid = True
            for run in sorted(runs, key=lambda r: r["seed"]):
                entries = study.entries(row.method, run["seed"], budget)
                agrees = run["spent"] == sum(e["flops"] for e in entries if e["account"] in INSIDE)
                fine = run["status"] == "ok" and 0.99 <= run["spent"] / budget <= 1 and agrees
                valid &= fine
                kept = ("seed", "budget", "status", "spent", "rounds", "steps", "reason")
                plain = {"method": row.method, "title": row.title} | {name: run[name] for name in kept}
                plain |= {"use": run["spent"] / budget, "ledger_agrees": agrees, "valid": fine}
                data.append(plain)
            if study.incomplete(row.method, budget):
                cell[title] = "X"
            else:
                cell[title] = span(percent(run["spent"] / budget, 2) for run in runs) + " !" * (not valid)
        cells.append(cell)
    notes = [
        "Spent FLOPs in percent of the budget, lowest to highest training seed. A run is cut at its budget "
        "to within one optimizer step; ! marks a run outside 99 to 100 %, or whose ledger does not add up to "
        "what it spent."
    ]
    return table_of(study, "use", "Use of the budgets", cells, data, notes)


def machine(analysis: Analysis) -> Table:
    """What the machine took up to the top budget: seconds by account, energy, devices, FLOPs done twice.
    What was not measured stays blank."""
    study, top = analysis.study, analysis.study.top
    there = {line["account"] for line in study.machine if line["method"]}
    accounts = [account for account in MACHINE_ACCOUNTS if account in there - {WASTED}]
    cells: list[dict[str, str]] = []
    data: list[dict[str, Any]] = []
    columns = [*(f"{account.capitalize()}\n(s)" for account in accounts), "Energy\n(kJ)", "FLOPs\nwasted",
               "Device"]  # fmt: skip
    for row in analysis.by_score:
        if study.incomplete(row.method, top):
            cells.append({"Method": row.title} | dict.fromkeys(columns, "X"))
            continue
        runs = [study.clocked(row.method, seed, top) for seed in study.seeds]
        lines = [line for run in runs for line in run]
        wasted = _sum(line["flops"] for line in lines)
        devices = "; ".join(_devices(lines))
        seconds, joules = (
            [mean_of(runs, account, column) for account in accounts] for column in ("seconds", "joules")
        )
        measured = _sum(value for value in joules if value is not None)
        shown = ["" if value is None else significant(value) for value in seconds]
        shown.append("" if measured is None else significant(measured / 1000))
        shown += ["" if wasted is None else flops(wasted), devices]
        cells.append({"Method": row.title} | dict(zip(columns, shown, strict=True)))
        at = {"method": row.method, "title": row.title, "devices": devices}
        data += [
            at | {"account": str(account), "seconds": s, "joules": j, "flops": None}
            for account, s, j in zip(accounts, seconds, joules, strict=True)
        ]
        data.append(at | {"account": WASTED, "seconds": None, "joules": None, "flops": wasted})
    notes = [
        f"Up to the top budget of {flops(top)}, mean over seeds; blank where it was not measured, "
        "and the energy is of the accounts where it was. Equal FLOPs are not equal time. FLOPs wasted: lost "
        "in crashes and done again, over all seeds; charged to no budget."
    ]
    warm = [line for line in study.machine if line["account"] == Account.WARM_START]
    took = _sum(line["seconds"] for line in warm)
    if took is not None:
        notes.append(f"The warm start took {significant(took)} s on {', '.join(_devices(warm))}.")
    return table_of(study, "machine", "Cost of the machine", cells, data, notes)


def mean_of(runs: list[list[Line]], account: str, column: str) -> float | None:
    """Mean over runs of one account; None where a run has nothing measured, or none has the account."""
    of = [[line[column] for line in run if line["account"] == account] for run in runs]
    if not all(runs) or not any(of):
        return None
    total = _sum(value for values in of for value in values)
    return None if total is None else total / len(runs)


def _sum(values: Iterable[Any]) -> Any:
    """The sum, or None where there is nothing to sum or a part is unknown."""
    found = list(values)
    return None if not found or None in found else sum(found)


def _devices(lines: Iterable[Line]) -> list[str]:
    return sorted({line["device"] for line in lines if line["device"]})
