"""Evaluation: lm-eval runs the suite's task files (``benchmarks/tasks``) over the suite's samplers.

The task files say what is asked and how it is scored; this module gives lm-eval a model that samples with
named seeds, and takes a record of every sample from its results.
"""

from __future__ import annotations

import hashlib
import io
import logging
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import lm_eval
import pandas as pd
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from tqdm import tqdm

from repro import __version__, files
from repro.config import Study
from repro.errors import UserError
from repro.flops import FORWARD_PASSES, ModelShape, Tally, flops, papers_flops, sample_tally
from repro.records import Verdict
from repro.sampling import Request, Sampled, Sampler, SamplingParams
from repro.sampling.transformers import TransformersSampler
from repro.seeds import stream_seed
from repro.verify import VERSION as VERIFIER_VERSION

Key = tuple[str | None, int | None]  # task and document number, as lm-eval's instances have them
Log = logging.getLogger("repro.evaluation")
TASKS = Path(__file__).resolve().parent.parent / "benchmarks" / "tasks"
COLUMNS = ("mode", "tier", "problem", "sample", "correct", "verdict", "tokens", "finish", "text_hash")


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found. ``samples`` has one row per completion and the columns :data:`COLUMNS`, in
    the order of the tasks and the problem file; ``tally`` is of all sampling, k completions of a prompt
    sharing its prefill."""

    samples: pd.DataFrame
    tally: Tally
    task_versions: dict[str, float | str]


def evaluate(
    model_dir: Path,
    problems: Path,
    tasks: Sequence[str],
    sampler: Sampler,
    *,
    k: int,
    seed: int,
    max_tokens: int,
    tasks_dir: Path,
) -> Evaluation:
    """Evaluate the model in ``model_dir`` on a JSONL file of ``problems``.

    Tasks that sample draw ``k`` completions of each problem, greedy ones a single one, each of at most
    ``max_tokens`` tokens. The seed of a completion depends on ``seed``, its prompt and its number alone: all
    models that are compared meet the same random numbers. Raises :class:`UserError` for an unknown task,
    two tasks of one mode, and problems that are missing or malformed (naming the line).
    """
    from lm_eval.tasks import TaskManager  # brings in `datasets`, which takes seconds

    with _quiet():
        manager = TaskManager(
            include_path=tasks_dir, include_defaults=False, metadata={"problems": str(problems)}
        )
        for name in tasks:
            if name not in manager.all_subtasks:
                known = ", ".join(manager.all_subtasks)
                raise UserError(f"There is no task {name} in {tasks_dir}; known tasks: {known or 'none'}.")
        loaded = manager.load(list(tasks))["tasks"]
    modes: dict[str, str] = {}  # task by mode
    for name, task in loaded.items():
        task.set_config("generation_kwargs", {"max_gen_toks": max_tokens}, update=True)
        mode = _mode(sampling_params(name, task.config.generation_kwargs))
        task.set_config("repeats", k if mode == "sampled" else 1)
        if mode in modes:
            raise UserError(f"Tasks {modes[mode]} and {name} are both {mode}; evaluate with one of them.")
        modes[mode] = name

    sampler.load(model_dir)
    model = SamplerModel(sampler, seed)
    with _quiet():
        results = lm_eval.evaluate(model, {"tasks": loaded}, bootstrap_iters=0, log_samples=True)
    samples = pd.DataFrame(
        [
            row
            for mode, name in modes.items()
            for logged in results["samples"][name]
            for row in _records(mode, logged, model.sampled[name, logged["doc_id"]])
        ],
        columns=list(COLUMNS),
    )
    wanted = sum(len(task.eval_docs) * task.config.repeats for task in loaded.values())
    assert len(samples) == wanted, f"lm-eval returned {len(samples)} of {wanted} samples"
    tallies = (sample_tally(s.prompt_tokens, [x.tokens for x in s.samples]) for s in model.sampled.values())
    return Evaluation(samples, sum(tallies, Tally.zero()), dict(results["versions"]))


def evaluate_run(study: Study, manifest: Path, work: Path, out: Path) -> None:
    """Evaluate the checkpoints of a run on the test problems, once each, whatever budgets they serve.

    Writes the samples to ``out`` (parquet) and the cost and task versions beside it (JSON). A run that is not
    ok has no samples. Each checkpoint's part is kept in the folder of that name: a killed evaluation goes on
    with the next.
    """
    run = files.read_json(manifest)
    sampler = TransformersSampler(study.sampling.batch_size, study.sampling.dtype)
    samples = [pd.DataFrame(columns=["method", "seed", "budget", *COLUMNS])] if not run["budgets"] else []
    costs: dict[str, dict[str, int]] = {}
    versions: dict[str, float | str] = {}
    parts = out.with_suffix("")
    with files.lease(parts, wait=True):
        for row in run["budgets"]:
            part = _part(study, work / row["checkpoint"], work, run["seed"], sampler, parts)
            facts = files.read_json(part / "facts.json")
            costs[str(row["budget"])] = facts["cost"]
            versions |= facts["task_versions"]
            table = pd.read_parquet(part / "samples.parquet")
            table.insert(0, "budget", row["budget"])
            table.insert(0, "seed", run["seed"])
            table.insert(0, "method", run["method"])
            samples.append(table)
            sampled = table[table["mode"] == "sampled"]
            accuracy = sampled.groupby("tier")["correct"].mean().round(3).to_dict()
            Log.info("%s seed %d at %.3g FLOP: %s", run["title"], run["seed"], row["budget"], accuracy)
    buffer = io.BytesIO()
    pd.concat(samples, ignore_index=True).to_parquet(buffer, index=False)
    files.write_bytes(out, buffer.getvalue())
    files.write_json(out.with_suffix(".json"), {"budgets": costs, "task_versions": versions})


def _part(study: Study, model: Path, work: Path, seed: int, sampler: Sampler, parts: Path) -> Path:
    """The folder with samples and facts of one checkpoint, made unless it is there."""
    problems = work / "problems" / "test.jsonl"
    read = [*model.glob("model*.safetensors"), *model.glob("*.json"), problems, *TASKS.glob("*.*")]
    key = files.digest(
        __version__, VERIFIER_VERSION, {path.name: files.sha256(path) for path in read}, seed,
        study.evaluation.model_dump(), study.sampling.model_dump(),
    )  # fmt: skip
    part = parts / key
    if files.sealed(part):
        return part
    with files.building(part) as folder:
        evaluation = evaluate(
            model,
            problems,
            study.evaluation.tasks,
            sampler,
            k=study.evaluation.samples,
            seed=seed,
            max_tokens=study.sampling.max_tokens,
            tasks_dir=TASKS,
        )
        shape = ModelShape.from_config(files.read_json(model / "config.json"), str(model / "config.json"))
        cost = {
            "flops": flops(shape, evaluation.tally, FORWARD_PASSES),
            "papers_flops": papers_flops(shape, evaluation.tally, FORWARD_PASSES),
            "tokens": evaluation.tally.tokens,
        }
        evaluation.samples.to_parquet(folder / "samples.parquet", index=False)
        files.write_json(folder / "facts.json", {"cost": cost, "task_versions": evaluation.task_versions})
    return part


class SamplerModel(LM):
    """A :class:`Sampler` as lm-eval sees a model. Keeps what it sampled, by task and document number."""

    def __init__(self, sampler: Sampler, seed: int) -> None:
        super().__init__()
        self.sampled: dict[Key, Sampled] = {}
        self._sampler = sampler
        self._seed = seed
        self._stderr = sys.stderr

    def generate_until(self, requests: list[Instance]) -> list[str]:
        # lm-eval repeats a document's instance k times; they become one request of k seeds.
        keys = [(instance.task_name, instance.doc_id) for instance in requests]
        repeats = Counter(keys)
        asked: dict[SamplingParams, dict[Key, Request]] = defaultdict(dict)
        for key, instance in dict(zip(keys, requests, strict=True)).items():
            prompt, settings = instance.args
            seeds = tuple(stream_seed("evaluate", self._seed, prompt, i) for i in range(repeats[key]))
            asked[sampling_params(instance.task_name, settings)][key] = Request(prompt, seeds)
        with redirect_stderr(self._stderr), tqdm(total=len(keys), desc="evaluate", disable=None) as bar:
            for params, batch in asked.items():
                done = self._sampler.sample(list(batch.values()), params, bar.update)
                self.sampled |= zip(batch, done, strict=True)
        samples = {key: iter(self.sampled[key].samples) for key in repeats}
        return [next(samples[key]).text for key in keys]

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        raise UserError(
            f"Task {requests[0].task_name} asks for log-likelihoods, which the suite's samplers do not give; "
            "set output_type: generate_until."
        )

    loglikelihood_rolling = loglikelihood


def sampling_params(task: str | None, settings: Mapping[str, Any]) -> SamplingParams:
    """A task file's ``generation_kwargs``. Raises :class:`UserError` for what the suite's samplers lack."""
    known = ("do_sample", "temperature", "top_p", "top_k", "max_gen_toks", "until")
    for key in settings:
        if key not in known or (key == "until" and settings[key]):
            raise UserError(
                f"Task {task}: the suite's samplers have no {key}={settings[key]!r} in generation_kwargs; "
                f"known are {', '.join(known[:-1])} and an empty until."
            )
    return SamplingParams(
        temperature=settings.get("temperature", 0.0) if settings.get("do_sample", True) else 0.0,
        top_p=settings.get("top_p", 1.0),
        top_k=settings.get("top_k", 0),
        max_tokens=settings["max_gen_toks"],
    )


def _mode(params: SamplingParams) -> str:
    return "sampled" if params.temperature > 0 else "greedy"


def _records(mode: str, logged: Mapping[str, Any], sampled: Sampled) -> Iterator[tuple[Any, ...]]:
    """The rows of one problem."""
    problem, (verdicts,) = logged["doc"], logged["filtered_resps"]
    for i, (sample, verdict) in enumerate(zip(sampled.samples, verdicts, strict=True)):
        text_hash = hashlib.sha256(sample.text.encode()).hexdigest()[:16]
        found = (verdict == Verdict.CORRECT, str(verdict), sample.tokens, sample.finish, text_hash)
        yield mode, problem["tier"], problem["id"], i, *found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's log and its bars for building prompts; what goes wrong is raised."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
