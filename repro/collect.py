"""From the manifests and evaluations of a study to its records: the files that are committed and that every
table and figure is made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from repro import __version__, csv_files, files, forgetting, identity, problems, record_files, tuned
from repro.config import Study, is_path
from repro.discovery import load_method
from repro.errors import UserError
from repro.flops import FORWARD_PASSES, TRAINING_PASSES, ModelShape, Tally
from repro.layout import Layout
from repro.ledger import Entry
from repro.profiles import asked, settings
from repro.schema import CSV, FORGETTING, PROBLEMS, PROVENANCE, SAMPLES, TEXTS, Account
from repro.shapes import written_shape

LIBRARIES = ["torch", "transformers", "trl", "lm-eval", "math-verify", "scikit-learn"]
EVALUATION = ("prompt", "engine", "tasks")  # what must be the same for all that is compared
OF_BUDGET = ("budget", "spent", "papers_flops", "rounds", "steps", "fingerprint")
MANIFEST = (
    "method", "origin", "seed", "plans", "asked", "status", "reason", "mode", "objective", "key", "base",
    "budgets", "visits", "machine",
)  # fmt: skip


def collect(study: Study, methods: list[str], layout: Layout, study_file: Path) -> None:
    """Write ``results/<study>/records``.

    Raises UserError where a manifest or an evaluation is missing or damaged, belongs to another study than
    this one as it stands, and where rows were evaluated with different prompts, tasks or engines.
    """
    shapes: dict[str, dict[str, int]] = {}
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in CSV}
    samples: list[pd.DataFrame] = []
    texts: dict[str, str] = {}
    jobs: list[tuple[dict[str, Any], dict[str, Any] | None]] = []
    rows: dict[str, dict[str, Any]] = {}
    facts: dict[str, Any] = dict.fromkeys(EVALUATION)
    training_set = problems.read_prepared(layout.problems, "train")
    asked_problems = list(_problems(study, layout))
    base = files.read_checked(layout.base_manifest, ("description", "shape", "warm_start", "fingerprint"))
    written_shape(base, layout.base_manifest)
    wanted = identity.base_key(study, layout.problems / "train.jsonl")
    if base.get("key", wanted) != wanted:
        raise UserError(
            f"{layout.base_manifest} is of another base model than the study now describes; delete it and "
            "run `snakemake`"
        )
    jobs.append(({"kind": "base model"}, base.get("process")))
    outside: dict[str, set[str]] = {}  # row -> where its method comes from
    for name in methods:
        method = load_method(study, name)
        rows[name] = method.model_dump(mode="json")
        for seed in study.seeds:
            manifest = files.read_checked(layout.run(name, seed), MANIFEST)
            key = identity.run_key(study, method, name, seed, training_set, base["fingerprint"])
            _belongs(study, manifest, key, layout.run(name, seed))
            path = layout.samples(name, seed).with_suffix(".json")
            evaluation = files.read_checked(
                path, ("key", "budgets", "parts", "samples", "settings", *EVALUATION)
            )
            _fits(study, manifest, evaluation, path, layout)
            for row in manifest["budgets"]:
                written_shape(evaluation["budgets"][str(row["budget"])], path)
                for entry in row["ledger"]:
                    written_shape(entry, layout.run(name, seed))
            if manifest["budgets"]:
                for fact in EVALUATION:
                    if facts[fact] not in (None, evaluation[fact]):
                        raise UserError(
                            f"{path}: {fact} is {evaluation[fact]}, but {facts[fact]} for the runs before; "
                            f"delete {path.parent} and evaluate them all alike"
                        )
                facts |= {fact: evaluation[fact] for fact in EVALUATION}
            if manifest["origin"]:
                outside.setdefault(f"method {name}", set()).add(manifest["origin"])
            of = {"method": name, "seed": seed}
            names = {"title": method.title, "paper": method.paper, "role": str(method.role)}
            tables["runs.csv"] += _runs(study, manifest | names)
            tables["ledger.csv"] += _ledger(of, manifest, evaluation, shapes)
            tables["monitors.csv"] += _monitors(of, manifest)
            tables["visits.csv"] += [{**of, **row} for row in manifest["visits"]]
            tables["machine.csv"] += _machine(of, manifest, evaluation)
            samples.append(_samples(layout.samples(name, seed)))
            if manifest["budgets"]:
                texts |= _texts(layout.samples(name, seed), study.evaluation.texts)
            jobs.append(({"kind": "train", **of}, manifest.get("process")))
            jobs.append(({"kind": "evaluate", **of}, evaluation.get("process")))
    tables["tuning.csv"] = [trial.line() for trial in tuned.trials(study) if trial.method in methods]
    if cost := base["warm_start"]:
        shape, tally = written_shape(base, layout.base_manifest), Tally.from_json(cost["tally"])
        entry = Entry(Account.WARM_START, 0, 0, TRAINING_PASSES, shape, tally)
        tables["ledger.csv"].append({"method": "", "seed": 0, "budget": 0, **_line(entry, shapes)})

    table = record_files.samples(samples)
    contents = {name: csv_files.text(CSV[name], rows).encode() for name, rows in tables.items()}
    contents["samples.parquet"] = record_files.parquet(table)
    contents["texts.parquet"] = record_files.text_parquet(TEXTS, sorted(texts.items()))
    contents["problems.parquet"] = record_files.text_parquet(PROBLEMS, asked_problems)
    contents[PROVENANCE] = record_files.provenance(
        (job, process)
        for job, process in jobs
        if process  # else an earlier version wrote its manifest
    )
    facts_of_study = {
        "name": study.name,
        "title": study.title,
        "budgets": study.budgets,
        "seeds": study.seeds,
        "benchmarks": _benchmarks(study, table, layout),
        **_forgetting(study, table),
        "evaluation": facts,
        "target_accuracies": study.target_accuracies,
        "model": {"description": base["description"], "parameters": base["shape"]["parameters"]},
        "numerics": study.numerics,
        **resolved(study),
        "rows": rows,
        "shapes": shapes,
        "versions": {
            "suite": __version__,
            **{name: version(name) for name in LIBRARIES},
            **{name: "; ".join(sorted(origins)) for name, origins in outside.items()},
        },
        "command": f"snakemake --config study={quote(str(study_file))}",
    }
    record_files.write(layout.results / "records", record_files.whole(contents, facts_of_study))


def _belongs(study: Study, manifest: Mapping[str, Any], key: str, path: Path) -> None:
    """Raise UserError unless a manifest is of this study's run as it now is."""
    if manifest["key"] != key:
        raise UserError(
            f"{path} is of another run than the study now describes (its method, settings, problems, base "
            "model or library versions have changed since); delete it and run `snakemake`"
        )
    if manifest["asked"] != study.budgets:
        raise UserError(
            f"{path} has the budgets {manifest['asked']}, and the study {study.budgets}; delete it and run "
            "`snakemake`"
        )


def _fits(
    study: Study, manifest: Mapping[str, Any], evaluation: Mapping[str, Any], path: Path, layout: Layout
) -> None:
    """Raise UserError unless an evaluation is of the run's checkpoints as the study asks for it, and its
    samples are its own."""
    if evaluation["settings"] != asked(study):
        raise UserError(f"{path} was made with other settings of `evaluation`; delete it and run `snakemake`")
    checkpoints = {str(row["budget"]): row["fingerprint"] for row in manifest["budgets"]}
    evaluated = {budget: cost["fingerprint"] for budget, cost in evaluation["budgets"].items()}
    samples = layout.samples(manifest["method"], manifest["seed"])
    if evaluation["key"] != manifest["key"] or evaluated != checkpoints:
        raise UserError(f"{path} is of other checkpoints than the run's; delete it and run `snakemake`")
    seed = manifest["seed"]
    parts = {
        part
        for row in manifest["budgets"]
        for part in identity.part_names(study, layout, row["fingerprint"], seed).values()
    }
    if set(evaluation["parts"]) != parts:
        raise UserError(
            f"{path} is of other problems or task files than there now are; delete it and run `snakemake`"
        )
    if not samples.is_file() or files.sha256(samples) != evaluation["samples"]:
        raise UserError(f"{samples} is not what {path} was written with; delete both and run `snakemake`")


def resolved(study: Study) -> dict[str, Any]:
    """All keys of a study, defaults too, as JSON has them, and apart from the ``settings`` those that say how
    its work is ``split`` up, which change no number. Paths are as they were given; of an absolute one, which
    is of one machine, the name."""

    def plain(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: plain(one, name) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        if isinstance(value, Path) or (key == "method" and is_path(value)):
            return Path(value).name if Path(value).is_absolute() else str(value)
        return value

    found: dict[str, Any] = plain(study.model_dump())
    split: dict[str, Any] = {name: found.pop(name) for name in ("gpus", "data_dir")}
    for section in ("sampling", "training"):
        apart = getattr(study, section).SPLIT
        split[section] = {name: found[section].pop(name) for name in sorted(apart)}
    return {"settings": found, "split": split}


def _problems(study: Study, layout: Layout) -> Iterable[tuple[str | None, ...]]:
    """The lines of problems.parquet. Raises UserError where a problem file is not as it was prepared."""
    for name in study.evaluation.benchmarks:
        asked = problems.read_prepared(layout.problems, f"test/{name}")
        told = study.evaluation.questions or name == "ladder"  # which the suite makes
        for problem in asked.problems:
            texts = (problem.question, asked.golds[problem.id].answer) if told else (None, None)
            yield name, problem.id, problem.tier, *texts


def _samples(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path, columns=list(SAMPLES))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as parquet ({error}); delete it and run `snakemake`"
        ) from None


def _texts(path: Path, share: float) -> dict[str, str]:
    """The completions of an evaluation, by their hashes, for a share of the problems."""
    found: dict[str, str] = {}
    if share:
        for batch in pq.ParquetFile(path).iter_batches(columns=["benchmark", "problem", *TEXTS]):
            lines = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            found |= {
                name: text for benchmark, problem, name, text in lines if kept(benchmark, problem, share)
            }
    return found


@cache
def kept(benchmark: str, problem: str, share: float) -> bool:
    """Whether a share of the problems has this one: the same for all rows, seeds and budgets, and in any
    larger share."""
    return int(files.digest(benchmark, problem), 16) < share * 16**16


def _benchmarks(study: Study, samples: pd.DataFrame, layout: Layout) -> list[dict[str, Any]]:
    """Each benchmark of the study, in its order: its tiers, what its score is and, where the suite does not
    pin its problems, the digest of those that it had."""
    read = files.read_checked(layout.problems / problems.REPORT).get("sources", {})
    found = []
    for name in study.evaluation.benchmarks:
        how, row, source = settings(study, name), study.evaluation.row(name), read.get(f"{name}/test")
        macro = row.tiers_alike
        tiers = samples.loc[samples["benchmark"] == name, "tier"]
        found.append(
            {
                "name": name,
                "title": row.title,
                "tiers": sorted(tiers.unique()),
                "macro": macro,
                "metric": how.metric + ", mean over tiers" * macro,
                "samples_per_problem": how.samples,
                "max_tokens": how.max_tokens,
                **({"content": source["digest"]} if source and not source["pinned"] else {}),
            }
        )
    return found


def _forgetting(study: Study, samples: pd.DataFrame) -> dict[str, Any]:
    """The task that is watched for forgetting, if there is one, with a digest of its documents."""
    spec = study.evaluation.forgetting
    if spec is None:
        return {}
    asked = forgetting.describe(spec)
    documents = samples.loc[samples["benchmark"] == FORGETTING, "problem"]
    facts = {
        "name": FORGETTING,
        "title": spec.task,
        "tiers": sorted(asked.tasks),
        "macro": asked.alike,
        "metric": f"{asked.metric} ({asked.filter}), greedy" + ", mean over tasks" * asked.alike,
        "samples_per_problem": 0,
        "max_tokens": asked.max_tokens,
        "content": files.digest(sorted(documents.unique())),
    }
    return {"forgetting": facts}


def _runs(study: Study, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    shared = {
        name: manifest[name]
        for name in ("method", "title", "role", "paper", "seed", "status", "reason", "key")
    }
    shared["plans"] = int(manifest["plans"])
    if manifest["status"] != "ok":
        empty = {"spent": 0, "use": 0.0, "papers_flops": 0, "rounds": 0, "steps": 0, "objective": "",
                 "mode_note": "", "fingerprint": ""}  # fmt: skip
        return [{**shared, "budget": budget, **empty} for budget in study.budgets]
    return [
        {
            **shared,
            **{key: row[key] for key in OF_BUDGET},
            "use": row["spent"] / row["budget"],
            "objective": manifest["objective"],
            "mode_note": manifest["mode"],
        }
        for row in manifest["budgets"]
    ]


def _ledger(
    of: Mapping[str, Any], manifest: Mapping[str, Any], evaluation: Mapping[str, Any],
    shapes: dict[str, dict[str, int]],
) -> list[dict[str, Any]]:  # fmt: skip
    rows = []
    for row in manifest["budgets"]:
        cost = evaluation["budgets"][str(row["budget"])]
        shape, tally = ModelShape.from_json(cost["shape"]), Tally.from_json(cost["tally"])
        entries = [Entry.from_json(entry) for entry in row["ledger"]]
        entries.append(Entry(Account.EVALUATE, row["rounds"], 0, FORWARD_PASSES, shape, tally))
        rows += [{**of, "budget": row["budget"], **_line(entry, shapes)} for entry in entries]
    return rows


def _monitors(of: Mapping[str, Any], manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {**of, "budget": row["budget"], "round": round, "spent": spent, "monitor": name, "value": value}
        for row in manifest["budgets"]
        for round, spent, values in row["monitors"]
        for name, value in values.items()
    ]


def _line(entry: Entry, shapes: dict[str, dict[str, int]]) -> dict[str, Any]:
    """An entry as the ledger has it; its shape goes to ``shapes``."""
    sizes = entry.shape.to_json()
    name = files.digest(sizes)[:8]
    shapes[name] = sizes
    return {
        "account": str(entry.account),
        "round": entry.round,
        "call": entry.call,
        "passes": entry.passes,
        "shape": name,
        **entry.tally.to_json(),
        "flops": entry.flops,
        "papers_flops": entry.papers_flops,
    }


def _machine(
    of: Mapping[str, Any], manifest: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> list[dict[str, Any]]:
    evaluated = [
        {"budget": budget, "account": "evaluate", "device": cost["device"], "seconds": cost["seconds"]}
        for budget, cost in evaluation["budgets"].items()
    ]
    return [{**of, "joules": None, "flops": 0, **row} for row in (*manifest["machine"], *evaluated)]
