"""Forgetting: what a method loses on a generative task of lm-eval's own, which it did not train for.

Prompts, filters and metric are lm-eval's; the suite's sampler answers, greedily. What a task asks is read
from its YAML, before any data: one that the suite cannot run is refused in a sentence.
"""

from __future__ import annotations

import io
import logging
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from repro.config import Forgetting, Study
from repro.errors import UserError

Log = logging.getLogger("repro.forgetting")
KEY = "evaluation.forgetting"
GROUP = {"group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag"}  # keys of a plain group
LENGTH = 256  # tokens of a completion where a task says none: those of lm-eval's own models
SHUFFLES, ARRAYS, SHOTS = 0, 1234, 1234  # lm-eval's own seeds: Python's and NumPy's numbers, and examples


@dataclass(frozen=True)
class Asked:
    """What is asked: the tasks, how a document is scored, and how these make one score."""

    tasks: tuple[str, ...]
    metric: str
    filter: str  # lm-eval's name of what reads the answer out of a completion
    alike: bool  # whether the tasks of a group count alike; else its documents
    shots: int  # worked examples before a question, the most of all tasks
    max_tokens: int  # of a completion, the most of all tasks


def describe(spec: Forgetting) -> Asked:
    """What a study's task asks, without its data. Raises UserError for one that there is not, or that the
    suite cannot run."""
    return _describe(spec, _manager(spec))


def load(spec: Forgetting) -> dict[str, Any]:
    """lm-eval's tasks with their data, by name. Raises UserError as :func:`describe` does, and where the data
    are not on this machine."""
    from datasets.exceptions import DatasetsError
    from httpx import HTTPError

    manager = _manager(spec)
    _describe(spec, manager)
    random.seed(SHUFFLES)  # a task may shuffle the choices of a question
    np.random.seed(ARRAYS)
    try:
        with quiet():
            tasks: dict[str, Any] = manager.load([spec.task])["tasks"]
    except (OSError, ValueError, RuntimeError, ImportError, DatasetsError, HTTPError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"{KEY}: the data of {spec.task} cannot be loaded ({reason}); run `repro fetch STUDY` where "
            "there is a network, or set HF_HOME to the cache that has them"
        ) from None
    for task in tasks.values():
        task.set_fewshot_seed(SHOTS)
        until = task.config.generation_kwargs.get("until") or []
        greedy = {
            "do_sample": False, "temperature": 0.0, "until": [until] if isinstance(until, str) else until,
            "max_gen_toks": _length(spec, task.config.generation_kwargs),
        }  # fmt: skip
        task.set_config("generation_kwargs", greedy, update=True)
        task.set_config("repeats", 1)
    return tasks


def documents(spec: Forgetting) -> dict[str, int]:
    """How many documents of each task are asked. Raises UserError as :func:`load` does."""
    return {name: min(spec.limit, len(task.eval_docs)) for name, task in load(spec).items()}


def fetch(study: Study) -> None:
    """Put the task's data into the hub's cache. Raises UserError as :func:`load` does."""
    if spec := study.evaluation.forgetting:
        Log.info("fetching the data of %s", spec.task)
        asked = documents(spec)
        Log.info("%s: %d documents of %d tasks", spec.task, sum(asked.values()), len(asked))


@contextmanager
def quiet() -> Iterator[None]:
    """Without lm-eval's log and its bars for building prompts; what goes wrong is raised."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _manager(spec: Forgetting) -> Any:
    """lm-eval's index of the folder that has the task: that of the whole collection takes half a minute."""
    folder = spec.folder or _collected(spec.task)
    if not folder.is_dir():
        raise UserError(f"{KEY}.folder: {folder} does not exist; name the folder that has the task's YAML")
    from lm_eval.tasks import TaskManager

    with quiet():
        manager = TaskManager(include_path=folder, include_defaults=False)
    if spec.task not in [*manager.all_subtasks, *manager.all_groups]:
        raise UserError(f"{KEY}.task: {folder} has no task or group {spec.task}; name one that it has")
    return manager


@cache  # thousands of files
def _collected(task: str) -> Path:
    """The folder of lm-eval's collection that has a task or group."""
    found = find_spec("lm_eval")
    assert found and found.origin
    collection = Path(found.origin).parent / "tasks"
    named = re.compile(rf"^(task|group): *[\"']?{re.escape(task)}[\"']? *$", re.MULTILINE)
    for path in sorted(collection.rglob("*.yaml")):
        if named.search(path.read_text(encoding="utf-8")):
            return collection / path.relative_to(collection).parts[0]
    raise UserError(
        f"{KEY}.task: lm-eval has no task or group {task}; name one, such as mmlu_pro_math, or the folder of "
        "your own"
    )


def _describe(spec: Forgetting, manager: Any) -> Asked:
    names = tuple(_members(manager, spec.task))
    configs = {name: manager.task_index[name].cfg for name in names}
    first = configs[names[0]]
    metric = (first.get("metric_list") or [{"metric": "exact_match"}])[0]["metric"]
    reads, alike = _filters(first)[0], False
    if spec.task in manager.all_groups:  # it says itself what its score is
        score = (manager.task_index[spec.task].cfg.get("aggregate_metric_list") or [{}])[0]
        if "metric" not in score:
            raise UserError(f"{KEY}.task: the group {spec.task} has no score; name one of its tasks")
        metric, alike = score["metric"], not score.get("weight_by_size", True)
        wanted = score.get("filter_list") or reads
        reads = wanted if isinstance(wanted, str) else wanted[0]
    reads = spec.filter or reads
    for name, config in configs.items():
        _runnable(name, config, metric, reads)
    return Asked(
        names, metric, reads, alike,
        max(config.get("num_fewshot") or 0 for config in configs.values()),
        max(_length(spec, config.get("generation_kwargs") or {}) for config in configs.values()),
    )  # fmt: skip


def _members(manager: Any, name: str) -> list[str]:
    """The tasks of a group, or the one task."""
    if name in manager.all_subtasks:
        return [name]
    config = manager.task_index[name].cfg if name in manager.all_groups else {}
    members = config.get("task", [None])
    if set(config) - GROUP or not all(isinstance(one, str) for one in members):
        raise UserError(f"{KEY}.task: {name} is neither a task nor a plain list of tasks; name a task")
    return [task for one in members for task in _members(manager, one)]


def _runnable(name: str, config: dict[str, Any], metric: str, reads: str) -> None:
    """Raise UserError unless the suite can run a task and score its documents right or wrong."""
    if "class" in config:
        raise UserError(f"{KEY}.task: {name} is a program and no YAML; name another task")
    asks = config.get("output_type", "generate_until")
    if asks != "generate_until":
        raise UserError(
            f"{KEY}.task: {name} asks for log-likelihoods (output_type {asks}), which the suite's samplers "
            "do not give; name a task of output_type generate_until"
        )
    if config.get("doc_to_image") or config.get("doc_to_audio"):
        raise UserError(f"{KEY}.task: {name} shows more than text; name another task")
    if config.get("unsafe_code"):
        raise UserError(f"{KEY}.task: {name} runs the code that a model writes; name another task")
    metrics = {one["metric"]: one for one in config.get("metric_list") or [{"metric": "exact_match"}]}
    if (config.get("dataset_kwargs") or {}).get("trust_remote_code") or any(
        one.get("hf_evaluate") for one in metrics.values()
    ):
        raise UserError(f"{KEY}.task: {name} runs code from the hub; name another task")
    score = metrics.get(metric, {"aggregation": "none"})
    if score.get("aggregation", "mean") != "mean" or not score.get("higher_is_better", True):
        raise UserError(f"{KEY}.task: {metric} of {name} is no mean that should be high; name another task")
    if reads not in _filters(config):
        known = ", ".join(_filters(config))
        raise UserError(f"{KEY}.filter: {name} has no filter {reads}; it has {known}")


def _filters(config: dict[str, Any]) -> list[str]:
    return [one["name"] for one in config.get("filter_list") or [{"name": "none"}]]


def _length(spec: Forgetting, generation: dict[str, Any]) -> int:
    return spec.max_tokens or generation.get("max_gen_toks", LENGTH)
