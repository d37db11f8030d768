"""Finding methods: every file in ``baselines/`` that does not begin with an underscore defines one."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

from repro.config import Study, validated
from repro.errors import UserError
from repro.method import Method

ROOT = Path(__file__).resolve().parent.parent
BASELINES = ROOT / "baselines"


def method_ids(study: Study, folder: Path = BASELINES) -> list[str]:
    """The study's methods. Raises UserError where it names one that has no file."""
    found = sorted(path.stem for path in folder.glob("*.py") if not path.name.startswith("_"))
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
    return validated(method_class(name, folder), overrides, f"study {study.name}, hyperparameters.{name}")
