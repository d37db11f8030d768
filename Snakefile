# The suite as a workflow. `snakemake` runs the pocket study; `snakemake --config study=FILE` another one.
# `snakemake tables` rebuilds tables and figures from the committed records alone.
# Heavy, resumable state lives in work/ and is no declared output; declared outputs are small and written last.

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from repro.config import load_study
from repro.discovery import load_method, method_ids
from repro.errors import UserError
from repro.files import lease

STUDY_FILE = config.get("study", "benchmarks/studies/pocket.yaml")
if not isinstance(STUDY_FILE, str):
    raise WorkflowError(f"--config study={STUDY_FILE} names no file; write ./ before a name that looks like a value")

try:
    STUDY = load_study(STUDY_FILE)
    METHODS = {name: load_method(STUDY, name) for name in method_ids(STUDY)}
except UserError as error:
    raise WorkflowError(str(error))

WORK = f"work/{STUDY.name}"
RESULTS = f"results/{STUDY.name}"
TESTS = [f"{WORK}/problems/test/{name}.jsonl" for name in STUDY.evaluation.benchmarks]
ENVIRONMENT = "requirements/conda.yaml"
HELD = ExitStack()

# Jobs use the Python that runs this workflow, unless a conda environment is asked for (--sdm conda).
# The study's path reaches them by the environment too, where no character in it needs quoting.
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.getenv("PATH", "")]),
    STUDY=STUDY_FILE,
    RECORDS=f"{RESULTS}/records",
)
shell.prefix("set -euo pipefail; ")


onstart:
    # One Snakemake at a time for a study. Its own lock stays behind when it is killed, and is off (profiles/default).
    if workflow.is_main_process:
        try:
            HELD.enter_context(lease(Path(WORK)))
        except UserError as error:
            raise WorkflowError(str(error))


wildcard_constraints:
    method="[a-z][a-z0-9_]*",
    seed="[0-9]+",


def settings(*keys):
    """The study's values that a rule depends on: editing others does not run it again."""
    values = json.dumps(STUDY.model_dump(mode="json", include=set(keys)), sort_keys=True)
    return lambda wildcards: values  # a function, because Snakemake would take the braces of a text for wildcards


def problem_settings(wildcards):
    # Of the evaluation only the limits: other numbers of samples need no new problem files.
    limits = {name: benchmark.limit for name, benchmark in STUDY.evaluation.benchmarks.items()}
    return json.dumps([STUDY.problems.model_dump(mode="json"), STUDY.prompt.model_dump(), limits], sort_keys=True)


def method_settings(wildcards):
    return METHODS[wildcards.method].model_dump_json()


localrules:  # seconds on one core: not worth a place in a cluster's queue
    all,
    collect,
    report,
    tables,


rule all:
    input:
        f"{RESULTS}/report.html",
        # The committed report alone would satisfy Snakemake: a fresh clone must run the study.
        expand(f"{WORK}/evaluations/{{method}}-{{seed}}.json", method=METHODS, seed=STUDY.seeds),


rule problems:
    output:
        expand(f"{WORK}/problems/{{split}}.jsonl", split=["train", "validation"]),
        TESTS,
        f"{WORK}/problems/report.json",
    params:
        settings=problem_settings,
    log:
        f"{WORK}/logs/problems.log",
    conda:
        ENVIRONMENT
    shell:
        'python -m repro.cli problems "$STUDY" 2> {log}'


rule base_model:
    input:
        f"{WORK}/problems/train.jsonl",
    output:
        f"{WORK}/base.json",
    params:
        settings=settings("base_model", "prompt", "training"),
    resources:
        gpu=STUDY.gpus,
    log:
        f"{WORK}/logs/base_model.log",
    conda:
        ENVIRONMENT
    shell:
        'python -m repro.cli base-model "$STUDY" 2> {log}'


rule train:
    input:
        f"{WORK}/base.json",
        f"{WORK}/problems/train.jsonl",
        "baselines/{method}.py",
    output:
        f"{WORK}/runs/{{method}}-{{seed}}.json",
    params:
        settings=settings("budgets", "sampling", "training", "process_rewards"),
        hyperparameters=method_settings,
    resources:
        gpu=STUDY.gpus,
    log:
        f"{WORK}/logs/train-{{method}}-{{seed}}.log",
    conda:
        ENVIRONMENT
    shell:
        'python -m repro.cli train "$STUDY" --method {wildcards.method} --seed {wildcards.seed} 2>> {log}'


rule evaluate:
    input:
        f"{WORK}/runs/{{method}}-{{seed}}.json",
        TESTS,
    output:
        f"{WORK}/evaluations/{{method}}-{{seed}}.parquet",
        f"{WORK}/evaluations/{{method}}-{{seed}}.json",
    params:
        settings=settings("evaluation", "sampling"),
    resources:
        gpu=STUDY.gpus,
    log:
        f"{WORK}/logs/evaluate-{{method}}-{{seed}}.log",
    conda:
        ENVIRONMENT
    shell:
        'python -m repro.cli evaluate "$STUDY" --method {wildcards.method} --seed {wildcards.seed} 2> {log}'


rule collect:
    input:
        expand(f"{WORK}/runs/{{method}}-{{seed}}.json", method=METHODS, seed=STUDY.seeds),
        expand(f"{WORK}/evaluations/{{method}}-{{seed}}.{{kind}}", method=METHODS, seed=STUDY.seeds, kind=["parquet", "json"]),
    output:
        expand(f"{RESULTS}/records/{{name}}", name=["runs.csv", "ledger.csv", "visits.csv", "samples.parquet", "study.json"]),
    params:
        settings=settings("name", "title", "target_accuracies"),
    log:
        f"{WORK}/logs/collect.log",
    conda:
        ENVIRONMENT
    shell:
        'python -m repro.cli collect "$STUDY" 2> {log}'


rule report:
    input:
        rules.collect.output,
    output:
        f"{RESULTS}/report.html",
    log:
        f"{WORK}/logs/report.log",
    conda:
        ENVIRONMENT
    shell:
        'python -m repro.cli tables "$RECORDS" 2> {log}'


rule tables:
    # No inputs on purpose: the records are taken as they are, so that a fresh clone trains nothing.
    log:
        f"{WORK}/logs/tables.log",
    conda:
        ENVIRONMENT
    shell:
        'python -m repro.cli tables "$RECORDS" 2> {log}'
