"""Finding methods: every file in ``baselines/`` that does not begin with an underscore defines one."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, create_model

from repro.config import Study, validated
from repro.errors import UserError
from repro.method import Method

ROOT = Path(__file__).resolve().parent.parent
BASELINES = ROOT / "baselines"

# What a hyper-parameter of this name may be in any method, and else one of this type. With values beyond
# these a run fails in its midst, or never ends.
COUNT = Annotated[int, Field(ge=1, le=10**9)]
NUMBER = Annotated[float, Field(ge=0, le=10**9)]
SHARE = Annotated[float, Field(ge=0, le=1)]
TEMPERATURE = Annotated[float, Field(ge=0, le=100)]  # 0: greedy
BY_NAME: dict[str, Any] = {
    "temperature": TEMPERATURE,
    "temperatures": Annotated[tuple[TEMPERATURE, ...], Field(min_length=1, max_length=1_000)],
    "thresholds": Annotated[tuple[float, ...], Field(min_length=1, max_length=1_000)],
    "top_p": Annotated[float, Field(gt=0, le=1)],
    "top_k": Annotated[int, Field(ge=0)],  # 0: off
    "batch_size": Annotated[int, Field(ge=1, le=2**16)],
    "epochs": Annotated[float, Field(gt=0, le=10**6)],
    "growth": Annotated[float, Field(ge=1, le=100)],  # of a round's steps: below 1 they shrink to none
    "epsilon": Annotated[float, Field(gt=0, le=10**9)],  # of weights, which else may all be 0
    "tau_low": SHARE,
    "tau_high": SHARE,
    "drop_hardest": Annotated[float, Field(ge=0, lt=1)],
    "step_separator": Annotated[str, Field(min_length=1)],
}
BY_TYPE: dict[type, Any] = {int: COUNT, float: NUMBER}


def method_ids(study: Study, folder: Path = BASELINES) -> list[str]:
    """The study's methods. Raises UserError where it names one that has no file."""
    found = sorted(path.stem for path in folder.glob("*.py") if not path.name.startswith("_"))
    for name in found:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise UserError(
                f"{folder / name}.py: a method is named by small letters, digits and underscores; rename it"
            )
    wanted = found if study.methods == "all" else study.methods
    for key, names in (("methods", wanted), ("hyperparameters", study.hyperparameters)):
        for name in names:
            if name not in found:
                raise UserError(
                    f"study {study.name}: `{key}` names `{name}`, but {folder.name}/{name}.py does not "
                    f"exist; there are {', '.join(found)}"
                )
    return list(wanted)


def method_class(name: str, folder: Path = BASELINES) -> type[Method]:
    """The Method class that ``baselines/<name>.py`` defines. Raises UserError unless there is exactly one."""
    path = folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"baselines.{name}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError(f"there is no method `{name}`: {path} does not exist")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # where dataclasses and pydantic look up the names of types
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    own = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise UserError(f"{path} must define one subclass of repro.method.Method, it defines {len(own)}")
    if not getattr(own[0], "title", ""):
        raise UserError(f"{path}: {own[0].__name__} needs a class variable `title`, its name in tables")
    return own[0]


def load_method(study: Study, name: str, folder: Path = BASELINES) -> Method:
    """The method with the study's hyper-parameters. Raises UserError naming an unknown or impossible one."""
    overrides: dict[str, Any] = study.hyperparameters.get(name, {})
    where = f"study {study.name}, hyperparameters.{name}"
    method = validated(method_class(name, folder), overrides, where)
    values = dict(method)
    bounds = {key: BY_NAME.get(key, BY_TYPE.get(type(value))) for key, value in values.items()}
    fields: dict[str, Any] = {key: (bound, ...) for key, bound in bounds.items() if bound is not None}
    validated(create_model("Bounds", **fields), values, where)
    return method
