# The suite as a workflow. `snakemake` runs the pocket study; `snakemake --config study=FILE` another one.
# `snakemake --config study=FILE tune=yes` runs the trials of that study, and chooses each row's hyper-parameters.
# `snakemake tables` rebuilds tables and figures from the committed records alone.
# Heavy, resumable state lives in work/ and is no declared output; declared outputs are small and written last.

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from repro import identity
from repro.benchmarks import MODES, task
from repro.config import NUMBERS, load_study
from repro.discovery import load_methods
from repro.errors import UserError
from repro.files import lease, sha256
from repro.layout import Layout
from repro.problems.sources import needed
from repro.schema import FILES
from repro.verify import VERSION as VERIFIER

STUDY_FILE = config.get("study", "benchmarks/studies/pocket.yaml")
if not isinstance(STUDY_FILE, str):
    raise WorkflowError(f"--config study={STUDY_FILE} names no file; write ./ before a name that looks like a value")

try:
    STUDY = TUNED = load_study(STUDY_FILE)
    if str(config.get("tune", "no")) not in ("yes", "True", "no", "False"):
        raise WorkflowError(f"--config tune={config['tune']}: yes or no is wanted")
    if str(config.get("tune", "no")) in ("yes", "True"):  # the trials of a study are a study
        from repro.planning import tuning

        os.environ.update(TUNED=STUDY_FILE)
        STUDY_FILE = str(tuning.write(TUNED, Layout(Path.cwd(), TUNED.name)))
        STUDY = load_study(STUDY_FILE)
    METHODS = load_methods(STUDY)
except UserError as error:
    raise WorkflowError(str(error))

WORK = f"work/{STUDY.name}"
RESULTS = f"results/{STUDY.name}"
TESTS = [f"{WORK}/problems/test/{name}.jsonl" for name in STUDY.evaluation.benchmarks]
TASK_NAMES = {f"{task(name)}_{mode}.yaml" for name in STUDY.evaluation.benchmarks for mode in MODES}
TASKS = sorted(f"benchmarks/tasks/{name}" for name in {"suite.py", "_base.yaml", *TASK_NAMES})
ENVIRONMENT = "requirements/conda.yaml"
# Checkpoints that go once they are evaluated do so as soon as their run is over. Others are evaluated with those of
# all seeds of a row, in one job: an engine starts once for them.
ALONE = STUDY.training.keep == "nothing"
EVALUATED = ["{seed}"] if ALONE else STUDY.seeds
# Runs that need no GPU are small, and a process takes some of their time to start: one trains all seeds of a row.
TOGETHER = not STUDY.gpus and not ALONE
TRAINED = STUDY.seeds if TOGETHER else ["{seed}"]
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


# Else the file goes on naming this process, which another machine cannot know to have ended.
onsuccess:
    HELD.close()


onerror:
    HELD.close()


wildcard_constraints:
    method="[a-z][a-z0-9_]*",
    seed="[0-9]+",


# What of the study a rule depends on: editing the rest does not run it again. Functions, because Snakemake would
# take the braces of a text for wildcards.


def record_settings(wildcards):
    names = {name: [method.title, method.paper, method.role] for name, method in METHODS.items()}
    return text_of([STUDY.model_dump(mode="json"), names])  # all of it is in the records


def problem_settings(wildcards):
    # Of the evaluation only the limits: other numbers of samples need no new problem files.
    limits = {name: benchmark.limit for name, benchmark in STUDY.evaluation.benchmarks.items()}
    rendered_by = STUDY.base_model.model_dump(mode="json") if STUDY.prompt.chat else None
    read = [STUDY.data_folder() / f"{name}.jsonl" for name in needed(STUDY)]
    read += [STUDY.problems.file] if STUDY.problems.source == "jsonl" else []
    read += [one.file for one in STUDY.evaluation.benchmarks.values() if one.file]
    contents = {"/".join(path.parts[-2:]): sha256(path) for path in read if path.is_file()}
    problems = STUDY.problems.model_dump(mode="json", exclude={"file"})
    return text_of([problems, STUDY.prompt.model_dump(), limits, rendered_by, contents])


def base_settings(wildcards):
    return text_of(identity.base_settings(STUDY))


def run_settings(wildcards):
    # What a run is, and the budgets it is cut at: nothing else of the study trains anything again.
    name = wildcards.method
    try:
        scored_by = identity.rewards(STUDY)
    except UserError as error:
        scored_by = str(error)  # a model that is missing: the job says so in one sentence
    return text_of([identity.settings(STUDY, METHODS[name], name), scored_by, STUDY.budgets])


def evaluation_settings(wildcards):
    kept = {"texts", "questions"}  # of what was evaluated, when it is collected
    evaluated = STUDY.evaluation.model_dump(mode="json", exclude=kept)
    asked = [evaluated, STUDY.sampling.numbers(), STUDY.numerics, *identity.watched(STUDY)]
    return text_of([*asked, identity.libraries(STUDY.sampling.engine), NUMBERS, VERIFIER])


def text_of(values):
    return json.dumps(values, sort_keys=True, default=str)


localrules:  # seconds on one core: not worth a place in a cluster's queue
    all,
    choose,
    collect,
    report,
    tables,


rule all:
    input:
        # Of trials the choices: a report of some hundred rows would say little, and take its time.
        f"{RESULTS}/report.html" if STUDY is TUNED else f"results/{TUNED.name}/tuning.csv",
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
        settings=base_settings,
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
    output:
        expand(f"{WORK}/runs/{{{{method}}}}-{{seed}}.json", seed=TRAINED),
    params:
        settings=run_settings,
        seed="" if TOGETHER else "--seed {seed}",
    resources:
        gpu=STUDY.gpus,
    log:
        f"{WORK}/logs/train-{{method}}" + (".log" if TOGETHER else "-{seed}.log"),
    conda:
        ENVIRONMENT
    shell:
        'python -m repro.cli train "$STUDY" --method {wildcards.method} {params.seed} 2>> {log}'


rule evaluate:
    input:
        expand(f"{WORK}/runs/{{{{method}}}}-{{seed}}.json", seed=EVALUATED),
        TESTS,
        TASKS,
    output:
        expand(f"{WORK}/evaluations/{{{{method}}}}-{{seed}}.{{kind}}", seed=EVALUATED, kind=["parquet", "json"]),
    params:
        settings=evaluation_settings,
        seed="--seed {seed}" if ALONE else "",
    priority: 1  # before more is trained, so that few checkpoints lie on the disk
    resources:
        gpu=STUDY.gpus,
    log:
        f"{WORK}/logs/evaluate-{{method}}" + ("-{seed}.log" if ALONE else ".log"),
    conda:
        ENVIRONMENT
    shell:
        'python -m repro.cli evaluate "$STUDY" --method {wildcards.method} {params.seed} 2> {log}'


rule collect:
    input:
        expand(f"{WORK}/runs/{{method}}-{{seed}}.json", method=METHODS, seed=STUDY.seeds),
        expand(f"{WORK}/evaluations/{{method}}-{{seed}}.{{kind}}", method=METHODS, seed=STUDY.seeds, kind=["parquet", "json"]),
    output:
        expand(f"{RESULTS}/records/{{name}}", name=[*FILES, "study.json"]),
    params:
        settings=record_settings,
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
        # For `snakemake --report` each figure and each table is a result of its own.
        report(f"{RESULTS}/report.html", category="Report"),
        report(directory(f"{RESULTS}/figures"), patterns=["{figure}.svg"], category="Figures"),
        report(directory(f"{RESULTS}/tables"), patterns=["{table}.csv"], category="Tables"),
    log:
        f"{WORK}/logs/report.log",
    conda:
        ENVIRONMENT
    shell:
        'python -m repro.cli tables "$RECORDS" 2> {log}'


rule choose:
    input:
        rules.collect.output,
    output:
        f"results/{TUNED.name}/tuning.csv",
    log:
        f"{WORK}/logs/choose.log",
    conda:
        ENVIRONMENT
    shell:
        'python -m repro.cli tune "$TUNED" 2> {log}'


rule tables:
    # No inputs on purpose: the records are taken as they are, so that a fresh clone trains nothing.
    log:
        f"{WORK}/logs/tables.log",
    conda:
        ENVIRONMENT
    shell:
        'python -m repro.cli tables "$RECORDS" 2> {log}'
