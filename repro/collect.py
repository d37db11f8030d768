"""From the manifests and evaluations of a study to its records: the files that are committed and that every
table and figure is made from."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from repro import __version__, files
from repro.benchmarks import BENCHMARKS
from repro.config import Study
from repro.errors import UserError
from repro.layout import Layout
from repro.profiles import settings

RUNS = [
    "method", "title", "role", "paper", "seed", "budget", "spent", "use", "papers_flops", "status", "reason",
    "rounds", "steps", "mode_note",
]  # fmt: skip
LEDGER = ["method", "seed", "budget", "account", "flops", "papers_flops", "tokens"]
VISITS = ["method", "seed", "tier", "trained", "problems", "pool"]
SAMPLE_KEY = ["method", "seed", "budget", "benchmark", "mode", "problem", "sample"]
TEXTS = ["method", "benchmark", "mode", "tier", "problem", "verdict", "answer", "finish", "text_hash"]
LIBRARIES = ["torch", "transformers", "trl", "lm-eval", "math-verify", "scikit-learn"]
EVALUATION = ("prompt", "engine", "tasks")  # what must be the same for all that is compared


def collect(study: Study, methods: list[str], layout: Layout, study_file: Path) -> None:
    """Write ``results/<study>/records``. Raises UserError where a manifest or an evaluation is missing, and
    where rows were evaluated with different prompts, tasks or engines."""
    out = layout.results / "records"
    runs: list[dict[str, Any]] = []
    ledger: list[dict[str, Any]] = []
    visits: list[dict[str, Any]] = []
    samples: list[pd.DataFrame] = []
    facts: dict[str, Any] = dict.fromkeys(EVALUATION)
    for method in methods:
        for seed in study.seeds:
            manifest = files.read_json(layout.run(method, seed))
            path = layout.samples(method, seed).with_suffix(".json")
            evaluation = files.read_json(path)
            if manifest["budgets"]:
                for name in EVALUATION:
                    if facts[name] not in (None, evaluation[name]):
                        raise UserError(
                            f"{path}: {name} is {evaluation[name]}, but {facts[name]} for the runs before; "
                            f"delete {path.parent} and evaluate them all alike"
                        )
                facts |= {name: evaluation[name] for name in EVALUATION}
            runs += _runs(study, manifest)
            ledger += _ledger(manifest, evaluation)
            visits += [{"method": method, "seed": seed, **row} for row in manifest["visits"]]
            samples.append(pd.read_parquet(layout.samples(method, seed)))
    base = files.read_json(layout.base_manifest)
    if base["warm_start"]:
        cost = base["warm_start"]
        total = {key: cost[key] for key in ("flops", "papers_flops")} | {"tokens": cost["tally"]["tokens"]}
        ledger.append({"method": "", "seed": 0, "budget": 0, "account": "warm_start", **total})
    _write_csv(out / "runs.csv", RUNS, runs)
    _write_csv(out / "ledger.csv", LEDGER, ledger)
    _write_csv(out / "visits.csv", VISITS, visits)
    table = pd.concat(samples, ignore_index=True).sort_values(SAMPLE_KEY, kind="stable")
    buffer = io.BytesIO()
    for column in TEXTS:
        table[column] = table[column].astype("category")
    table.to_parquet(buffer, index=False, compression="zstd")
    files.write_bytes(out / "samples.parquet", buffer.getvalue())
    files.write_json(
        out / "study.json",
        {
            "name": study.name,
            "title": study.title,
            "budgets": study.budgets,
            "seeds": study.seeds,
            "benchmarks": _benchmarks(study, table),
            "evaluation": facts,
            "target_accuracies": study.target_accuracies,
            "model": {"description": base["description"], "parameters": base["shape"]["parameters"]},
            "versions": {"suite": __version__, **{name: version(name) for name in LIBRARIES}},
            "command": f"snakemake --config study={study_file}",
        },
    )


def _benchmarks(study: Study, samples: pd.DataFrame) -> list[dict[str, Any]]:
    """Each benchmark of the study, in its order: its tiers, and what its score is."""
    found = []
    for name in study.evaluation.benchmarks:
        how = settings(study, name)
        macro = BENCHMARKS[name].tiers_alike
        tiers = samples.loc[samples["benchmark"] == name, "tier"]
        found.append(
            {
                "name": name,
                "title": BENCHMARKS[name].title,
                "tiers": sorted(tiers.unique()),
                "macro": macro,
                "metric": how.metric + ", mean over tiers" * macro,
                "samples_per_problem": how.samples,
                "max_tokens": how.max_tokens,
            }
        )
    return found


def _runs(study: Study, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    shared = {key: manifest[key] for key in ("method", "title", "role", "paper", "seed", "status", "reason")}
    if manifest["status"] != "ok":
        empty = {"spent": 0, "use": 0.0, "papers_flops": 0, "rounds": 0, "steps": 0, "mode_note": ""}
        return [{**shared, "budget": budget, **empty} for budget in study.budgets]
    return [
        {
            **shared,
            **{key: row[key] for key in ("budget", "spent", "papers_flops", "rounds", "steps")},
            "use": row["spent"] / row["budget"],
            "mode_note": manifest["mode"],
        }
        for row in manifest["budgets"]
    ]


def _ledger(manifest: Mapping[str, Any], evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for row in manifest["budgets"]:
        accounts = {**row["accounts"], "evaluate": evaluation["budgets"][str(row["budget"])]}
        key = {"method": manifest["method"], "seed": manifest["seed"], "budget": row["budget"]}
        rows += [{**key, "account": account, **total} for account, total in accounts.items()]
    return rows


def _write_csv(path: Path, columns: list[str], rows: Iterable[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(path, text.getvalue())
