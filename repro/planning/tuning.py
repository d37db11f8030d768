"""Tuning: every row of a study as it is and at each of its points, the same number of trials for all, scored
on problems of the training set that are held out. Test problems are nowhere in it.

The trials of a study are a study of their own, ``STUDY-trials``: its rows are the points, its seeds those of
the tuning, its one budget the top one, and its problems the validation split.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from repro import problems
from repro.config import Study, merged, method_name
from repro.discovery import OF_A_ROW, load_methods, rows
from repro.errors import UserError
from repro.identity import run_key
from repro.layout import Layout
from repro.method import Role
from repro.reporting.results import Study as Results
from repro.reporting.results import load
from repro.reporting.statistics import macro_mean
from repro.run import base_fingerprint
from repro.trials import Trial
from repro.validation import validated
from repro.yaml_files import write_yaml


def points(study: Study) -> dict[str, list[dict[str, Any]]]:
    """The points of each row that trains, the row as it is (no settings) first.

    Raises UserError where the study declares none for a row, or more for one than for another.
    """
    if study.tuning is None:
        raise UserError(f"study {study.name} has no key `tuning`; add one (docs/tuning.md)")
    declared = study.tuning.points
    study = study.model_copy(update={"tuned": None})  # rows as they are, whatever was chosen before
    known = rows(study)
    used = {*known, *(method_name(row.method) for row in known.values())}
    for name in declared:
        if name not in used:
            raise UserError(
                f"study {study.name}: tuning.points names `{name}`, which is no row and no method"
            )
        _check_points(study, name, declared[name])
    found = {}
    for row, method in load_methods(study).items():
        if method.role is Role.BASE:
            continue
        own = declared.get(row, declared.get(method_name(known[row].method)))
        if own is None:
            raise UserError(f"study {study.name}: tuning.points has none for the row `{row}`; add them")
        found[row] = [{}, *own]
        first = next(iter(found))
        if len(found[row]) != len(found[first]):
            raise UserError(
                f"study {study.name}: tuning.points has {len(own)} for the row `{row}` and "
                f"{len(found[first]) - 1} for `{first}`; a comparison is fair where all rows have as many"
            )
    return found


def _check_points(study: Study, name: str, points: list[dict[str, Any]]) -> None:
    for number, point in enumerate(points):
        where = f"study {study.name}, tuning.points.{name}.{number}"
        if not point:
            raise UserError(f"{where} sets nothing, as the row's own trial does; remove it")
        if point in points[:number]:
            raise UserError(f"{where} is there before; remove one of them")
        for key in OF_A_ROW:
            if key in point:
                raise UserError(f"{where} sets `{key}`, which is of a row and no hyper-parameter; remove it")


def trials(study: Study) -> Study:
    """The study of a study's trials."""
    assert study.tuning is not None or not points(study)
    bare = study.model_copy(update={"tuned": None})
    known, methods = rows(bare), load_methods(bare)
    named = {}
    for row, settings in points(study).items():
        spec = known[row]
        shared = study.hyperparameters.get(method_name(spec.method), {})
        for number, point in enumerate(settings):
            all_of_it = merged(shared | spec.hyperparameters, point)
            own = {key: all_of_it[key] for key in (*spec.hyperparameters, *point)}
            title = f"{methods[row].title}, point {number}"
            named[trial_name(row, number)] = {
                **own, "method": spec.method, "title": title, "role": str(methods[row].role),
            }  # fmt: skip
    values = study.model_dump(
        mode="json",
        exclude={
            "tuning": True,
            "tuned": True,
            "evaluation": {"forgetting": True},
        },  # the score alone chooses
    )
    first = next(iter(study.evaluation.benchmarks))
    values |= {
        "name": f"{study.name}-trials",
        "title": f"{study.title}: trials",
        "seeds": study.tuning.seeds if study.tuning else [],
        "budgets": [study.budgets[-1]],
        "methods": named,
        "evaluation": {
            **values["evaluation"],
            "benchmarks": {first: {**values["evaluation"]["benchmarks"][first], "limit": None}},
            "split": "validation",
        },
    }
    return validated(Study, values, f"trials of {study.name}")


def trial_name(row: str, point: int) -> str:
    """What a row's trials at a point are called in the study of trials."""
    return f"{row}__{point}"


def write(study: Study, layout: Layout) -> Path:
    """Write the study of a study's trials into its folder of work."""
    path = layout.work / "trials.yaml"
    write_yaml(path, trials(study).model_dump(mode="json"))
    return path


def choose(study: Study, records: Path, layout: Layout) -> list[Trial]:
    """The trials, from the records of their study, with the point of each row: that of the highest mean
    score, but the row as it is where this is within one standard error of it.

    The standard error is of the difference of two points' means over S seeds: sqrt(2 v / S), with the
    variance v between seeds pooled over all points of the row. Raises UserError where the records are of
    other trials, or of the same with other settings; ``layout`` is where the trials were run.
    """
    wanted, results = trials(study), load(records)
    if (results.seeds, results.budgets) != (tuple(sorted(wanted.seeds)), tuple(wanted.budgets)):
        raise UserError(
            f"{records} are of other trials than {study.name} has; delete them and run them again"
        )
    methods, training_set = load_methods(wanted), problems.read_prepared(layout.problems, "train")
    base = base_fingerprint(layout)
    found: list[Trial] = []
    for row, settings in points(study).items():
        names = [trial_name(row, number) for number in range(len(settings))]
        for name in names:
            if name not in results.index:
                raise UserError(f"{records} lack the trial {name}; run the trials of {study.name} again")
            for seed in results.seeds:
                key = run_key(wanted, methods[name], name, seed, training_set, base)
                if results.run(name, seed, results.top)["key"] != key:
                    raise UserError(
                        f"{records} have the trial {name} with other settings, code or libraries than it has "
                        f"now; run the trials of {study.name} again"
                    )
        scores = np.array([_scores(results, name) for name in names])
        best = best_point(scores)
        found += [
            Trial(row, number, point, seed, _spent(results, name, seed), None if np.isnan(y) else float(y),
                  number == best)
            for number, (name, point) in enumerate(zip(names, settings, strict=True))
            for seed, y in zip(results.seeds, scores[number], strict=True)
        ]  # fmt: skip
    return found


def best_point(scores: np.ndarray) -> int:
    """The point to take, of scores [point, seed]; NaN where a run failed, which rules its point out."""
    means = scores.mean(1)
    if np.isnan(means).all():
        return 0
    best, seeds = int(np.nanargmax(means)), scores.shape[1]
    error = np.sqrt(2 * np.nanmean(scores.var(1, ddof=1)) / seeds)
    return best if np.isnan(means[0]) or means[best] - means[0] > error else 0


def _scores(results: Results, name: str) -> np.ndarray:
    """[seed] at the one budget; NaN where a seed has no finished run."""
    benchmark = results.benchmarks[0]
    y = benchmark.scores["sampled"][results.index[name], :, 0]
    return macro_mean(y, benchmark.strata)


def _spent(results: Results, name: str, seed: int) -> int:
    return results.run(name, seed, results.top)["spent"]


def render(found: list[Trial]) -> Iterator[str]:
    """For people: each row's scores by point, and its choice."""
    for row, of_row in groupby(found, key=lambda trial: trial.method):
        told = []
        for _, group in groupby(of_row, key=lambda trial: trial.point):
            ones = list(group)
            scores = [100 * one.score for one in ones if one.score is not None]
            mean = f"{np.mean(scores):.1f}" if len(scores) == len(ones) else "failed"
            told.append(f"{mean}{'*' if ones[0].chosen else ''}")
        yield f"{row:24} {'  '.join(told)}"
