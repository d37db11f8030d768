"""Evaluation: lm-eval runs the suite's task files (``benchmarks/tasks``) over the suite's samplers.

The task files say what is asked and how it is scored; this module gives lm-eval a model that samples with
named seeds, and takes a record of every sample from its results. lm-eval's own backends would sample as well,
but keep the engine's token counts, stop reasons and seeds to themselves: without them there are no FLOPs, no
truncation rate, and no two models that meet the same random numbers.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, NoReturn

import lm_eval
import pandas as pd
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from tqdm import tqdm

from repro import files, forgetting, identity, numerics, problems
from repro.benchmarks import MODES, task
from repro.config import BenchmarkName, Forgetting, Study
from repro.errors import UserError
from repro.flops import Tally, sample_tally
from repro.forgetting import quiet
from repro.identity import TASKS
from repro.layout import Layout
from repro.machine import device
from repro.problems.prompts import stops
from repro.profiles import Settings, asked, settings
from repro.provenance import Process
from repro.records import Verdict
from repro.sampling import Request, Sampled, Sampler, SamplingParams
from repro.schema import FORGETTING
from repro.seeds import stream_seed
from repro.shapes import written_shape
from repro.verify import closed

Key = tuple[str | None, int | None]  # task and document number, as lm-eval's instances have them
Log = logging.getLogger("repro.evaluation")
COLUMNS = (
    "benchmark", "mode", "tier", "problem", "sample", "correct", "verdict", "answer", "tokens", "finish",
    "text_hash", "text",
)  # fmt: skip
LONE = re.compile("[\ud800-\udfff]")  # half of a surrogate pair, which no file in UTF-8 can hold


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found. ``samples`` has one row per completion and the columns :data:`COLUMNS`, in
    the order of the modes and the problem file; ``tally`` is of all sampling, k completions of a prompt
    sharing its prefill."""

    samples: pd.DataFrame
    tally: Tally
    task_versions: dict[str, float | str]


def evaluate(
    sampler: Sampler,
    problems: Path,
    benchmark: str,
    how: Settings,
    *,
    seed: int,
    stop: Sequence[str] = (),
    window: int = 0,
    thinking: bool = False,
    tasks_dir: Path = TASKS,
) -> Evaluation:
    """Evaluate the model that ``sampler`` has loaded on ``<benchmark>.jsonl`` in the folder ``problems``.
    A completion ends at one of the texts ``stop``, too. ``window`` is the model's. A model that is
    ``thinking`` states no answer before it has thought.

    The seed of a completion depends on ``seed``, its prompt and its number alone: all models that are
    compared meet the same random numbers. Raises :class:`UserError` for an unknown task, and problems that
    are missing or malformed (naming the line).
    """
    from lm_eval.tasks import TaskManager  # brings in `datasets`, which takes seconds

    names = {mode: f"{task(benchmark)}_{mode}" for mode in MODES}
    with quiet():
        manager = TaskManager(
            include_path=tasks_dir,
            include_defaults=False,
            metadata={"problems": str(problems), "benchmark": benchmark},
        )
        for name in names.values():
            if name not in manager.all_subtasks:
                known = ", ".join(manager.all_subtasks)
                raise UserError(f"There is no task {name} in {tasks_dir}; known tasks: {known or 'none'}.")
        loaded = manager.load(list(names.values()))["tasks"]
    for mode, name in names.items():
        drawn = {"temperature": how.temperature, "top_p": how.top_p} if mode == "sampled" else {}
        asked = {"max_gen_toks": how.max_tokens, "until": list(stop), **drawn}
        loaded[name].set_config("generation_kwargs", asked, update=True)
        loaded[name].set_config("repeats", how.samples if mode == "sampled" else 1)

    model = SamplerModel(sampler, seed, thinking)
    with quiet():
        results = lm_eval.evaluate(model, {"tasks": loaded}, bootstrap_iters=0, log_samples=True)
    samples = pd.DataFrame(
        [
            (benchmark, mode, *row)
            for mode, name in names.items()
            for logged in results["samples"][name]
            for row in _records(logged, model.sampled[name, logged["doc_id"]], thinking)
        ],
        columns=list(COLUMNS),
    )
    wanted = sum(len(task.eval_docs) * task.config.repeats for task in loaded.values())
    assert len(samples) == wanted, f"lm-eval returned {len(samples)} of {wanted} samples"
    return Evaluation(samples, model.tally(window), dict(results["versions"]))


def remember(sampler: Sampler, spec: Forgetting, *, window: int = 0) -> Evaluation:
    """Evaluate the model that ``sampler`` has loaded on the task that is watched for forgetting: greedily, on
    lm-eval's own prompts, without a chat template. A tier is a task; a problem's id ends with a digest of its
    prompt and target, by which documents that differ are told apart.

    Raises :class:`UserError` as :func:`repro.forgetting.load` does, and where a document is neither right nor
    wrong.
    """
    asked, tasks, model = forgetting.describe(spec), forgetting.load(spec), SamplerModel(sampler, 0)
    with quiet():
        results = lm_eval.evaluate(
            model, {"tasks": tasks}, limit=spec.limit, bootstrap_iters=0, log_samples=True
        )
    rows = []
    for name in tasks:
        for logged in results["samples"][name]:
            if logged["filter"] != asked.filter:
                continue
            score = logged.get(asked.metric)
            if score not in (0, 1):
                raise UserError(
                    f"{forgetting.KEY}.task: {asked.metric} of a document of {name} is {score}, and neither "
                    "0 nor 1; name another task"
                )
            (sample,) = model.sampled[name, logged["doc_id"]].samples
            document = files.digest(logged["prompt_hash"], logged["target_hash"])
            verdict = str(Verdict.CORRECT if score else Verdict.WRONG)
            text_hash = hashlib.sha256(sample.text.encode(errors="surrogatepass")).hexdigest()[:16]
            rows.append(
                (FORGETTING, "greedy", name, f"{name}-{logged['doc_id']:05d}-{document[:8]}", 0, bool(score),
                 verdict, None, sample.tokens, sample.finish, text_hash, _storable(sample.text))
            )  # fmt: skip
    samples = pd.DataFrame(rows, columns=list(COLUMNS))
    assert len(samples) == len(model.sampled), f"lm-eval returned {len(samples)} of {len(model.sampled)}"
    return Evaluation(samples, model.tally(window), dict(results["versions"]))


def evaluate_run(study: Study, method: str, seed: int, layout: Layout) -> None:
    """Evaluate the checkpoints of a run on every benchmark, and on the task that is watched for forgetting,
    once each, whatever budgets they serve.

    Writes the samples (parquet) to ``layout.samples(method, seed)``, and beside it (JSON) the cost by budget,
    the task versions, the prompt with its digest, the engine with its versions, and what ran it. A run that
    is not ok has no samples. What one checkpoint does on one benchmark is a part of its own: a killed
    evaluation goes on with the next. Where the study keeps nothing of a finished run, its checkpoints are
    removed at the end.
    Raises UserError for a checkpoint that is not what the run sealed, or that is no longer there.
    """
    from repro.sampling import sampler_for

    numerics.check(study.numerics)
    process = Process()
    run = files.read_checked(layout.run(method, seed), ("title", "key", "budgets"))
    for name in study.evaluation.benchmarks:
        problems.check(layout.problems, f"test/{name}")
    out = layout.samples(method, seed)
    facts = {
        "prompt": files.read_checked(layout.problems / "report.json", ("prompt",))["prompt"],
        "engine": identity.engine(study),
        "tasks": {},
    }
    used: list[str] = []
    samples = [pd.DataFrame(columns=["method", "seed", "budget", *COLUMNS])] if not run["budgets"] else []
    costs: dict[str, Any] = {}
    folder = out.with_suffix("")
    # Not from the base model's folder, whose seal nobody has looked at where no checkpoint is loaded.
    base = files.read_checked(layout.base_manifest, ("shape",))
    shape = written_shape(base, layout.base_manifest)
    with files.lease(folder, wait=True), closing(sampler_for(study.sampling)) as sampler:
        for row in run["budgets"]:
            tally, seconds = Tally.zero(), 0.0
            for part in _parts(study, layout, method, seed, row, sampler, folder, shape.window):
                found = files.read_json(part / "facts.json", keys=("tally", "seconds", "device", "tasks"))
                tally += Tally.from_json(found["tally"])
                seconds += found["seconds"]
                facts["tasks"] |= found["tasks"]
                used.append(part.name)
                table = pd.read_parquet(part / "samples.parquet")
                for name, value in (("budget", row["budget"]), ("seed", seed), ("method", method)):
                    table.insert(0, name, value)
                samples.append(table)
                first = table[table["mode"] == table["mode"].iloc[0]]  # sampled, where any are
                accuracy = first.groupby("tier")["correct"].mean().round(3).to_dict()
                where = run["title"], seed, row["budget"], table["benchmark"].iloc[0]
                Log.info("%s seed %d at %.3g FLOP on %s: %s", *where, accuracy)
            costs[str(row["budget"])] = {
                "fingerprint": row["fingerprint"], "shape": shape.to_json(), "tally": tally.to_json(),
                "device": found["device"], "seconds": round(seconds, 2),
            }  # fmt: skip
    buffer = io.BytesIO()
    pd.concat(samples, ignore_index=True).to_parquet(buffer, index=False)
    files.write_bytes(out, buffer.getvalue())
    parts = {"key": run["key"], "parts": sorted(set(used)), "samples": files.sha256(out)}
    facts |= {"settings": asked(study), "process": process.facts(study.sampling.engine)}
    files.write_checked(out.with_suffix(".json"), {"budgets": costs, **parts, **facts})
    if study.training.keep == "nothing":
        for row in run["budgets"]:
            if layout.runs in (model := layout.work / row["checkpoint"]).parents:  # else the base model
                files.discard(model)


def _checkpoint(layout: Layout, row: Mapping[str, Any], manifest: Path) -> Path:
    """The checkpoint of a row of a manifest. Raises UserError unless it is in ``work/`` and holds what the
    run sealed there."""
    model = (layout.work / row["checkpoint"]).resolve()
    if layout.work.resolve() not in model.parents:
        raise UserError(
            f"the checkpoint {row['checkpoint']} lies outside {layout.work}; train that run again"
        )
    manifest = layout.base_manifest if model == layout.base.resolve() else manifest
    mend = "and run `snakemake`: the weights are made again from the run's journal"
    if not model.is_dir():
        raise UserError(f"the checkpoint {model} is no longer there; delete {manifest}, {mend}")
    if not files.sealed(model) or files.fingerprint(model) != row["fingerprint"]:
        raise UserError(
            f"the checkpoint {model} is not what its run sealed there; delete it and {manifest}, {mend}"
        )
    return model


def _parts(
    study: Study,
    layout: Layout,
    method: str,
    seed: int,
    row: Mapping[str, Any],
    sampler: Sampler,
    folder: Path,
    window: int,
) -> list[Path]:
    """The folders with samples and facts of the checkpoint of a row of a manifest, one a benchmark, made
    unless they are there."""
    names = identity.part_names(study, layout, row["fingerprint"], seed)
    parts: dict[BenchmarkName, Path] = {name: folder / part for name, part in names.items()}
    missing = {name: part for name, part in parts.items() if not files.sealed(part)}
    if missing:
        sampler.load(_checkpoint(layout, row, layout.run(method, seed)))
    for name, part in missing.items():
        with files.building(part) as building:
            started = perf_counter()
            if name == FORGETTING and study.evaluation.forgetting:
                found = remember(sampler, study.evaluation.forgetting, window=window)
            else:
                found = evaluate(
                    sampler, layout.test(name).parent, name, settings(study, name), seed=seed,
                    stop=stops(study.prompt, study.evaluation.benchmarks[name]), window=window,
                    thinking=bool(study.prompt.thinking),
                )  # fmt: skip
            found.samples.to_parquet(building / "samples.parquet", index=False)
            facts = {"tally": found.tally.to_json(), "tasks": found.task_versions, "device": device()}
            files.write_json(building / "facts.json", {**facts, "seconds": perf_counter() - started})
    return list(parts.values())


class SamplerModel(LM):
    """A :class:`Sampler` as lm-eval sees a model. Keeps what it sampled, by task and document number.
    Thoughts of one that is ``thinking`` are closed."""

    def __init__(self, sampler: Sampler, seed: int, thinking: bool = False) -> None:
        super().__init__()
        self.sampled: dict[Key, Sampled] = {}
        self._sampler = sampler
        self._seed = seed
        self._thinking = thinking
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
        texts = [next(samples[key]).text for key in keys]
        return [closed(text) for text in texts] if self._thinking else texts

    def tally(self, window: int) -> Tally:
        """Of all that was sampled."""
        tallies = (
            sample_tally(s.prompt_tokens, [x.tokens for x in s.samples], window=window)
            for s in self.sampled.values()
        )
        return sum(tallies, Tally.zero())

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
        if key not in known:
            raise UserError(
                f"Task {task}: the suite's samplers have no {key}={settings[key]!r} in generation_kwargs; "
                f"known are {', '.join(known)}."
            )
    return SamplingParams(
        temperature=settings.get("temperature", 0.0) if settings.get("do_sample", True) else 0.0,
        top_p=settings.get("top_p", 1.0),
        top_k=settings.get("top_k", 0),
        max_tokens=settings["max_gen_toks"],
        stop=tuple(settings.get("until", ())),
    )


def _records(logged: Mapping[str, Any], sampled: Sampled, thinking: bool) -> Iterator[tuple[Any, ...]]:
    """The rows of one problem, from ``tier`` on."""
    problem, (checked,) = logged["doc"], logged["filtered_resps"]
    for i, (sample, (verdict, answer, text_hash)) in enumerate(zip(sampled.samples, checked, strict=True)):
        text = _storable(closed(sample.text) if thinking else sample.text)  # as it was checked
        found = (verdict == Verdict.CORRECT, str(verdict), answer, sample.tokens, sample.finish, text_hash)
        yield problem["tier"], problem["id"], i, *found, text


def _storable(text: str) -> str:
    return LONE.sub("\N{REPLACEMENT CHARACTER}", text)
