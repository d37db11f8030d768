"""Finding methods. A study names one by a file in ``baselines/``, by the path of another file, or by an
installed package's entry point; a folder of such files is a package of its own, whose modules import one
another relatively."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, resolve_name
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, create_model

from repro import files, tuned
from repro.config import NAME, MethodRow, Study, is_path, merged, method_name
from repro.errors import RunFailed, UserError
from repro.method import Lab, Method
from repro.records import Role
from repro.validation import validated

M = TypeVar("M", bound=Method)
ROOT = Path(__file__).resolve().parent.parent
BASELINES = ROOT / "baselines"
GROUP = "repro.methods"  # of entry points
OF_A_ROW = ("method", "title", "role")  # keys of a study's row, which no hyper-parameter can be called

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


# -- where a method is -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Where a method is defined. It is imported only by :meth:`method_class`."""

    name: str  # in sentences: a path, or the entry point with its package
    module: str
    entry: EntryPoint | None = None  # of an installed package
    origin: str = ""  # in records; empty for the suite's own

    def method_class(self) -> type[Method]:
        """The Method class that is defined there. Raises UserError unless there is exactly one, which a table
        can name and a study can set."""
        importlib.invalidate_caches()
        self._refuse_absolute()
        try:
            module = importlib.import_module(self.module)
            found = [self.entry.load()] if self.entry else [*vars(module).values()]
        except (Exception, SystemExit) as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"{self.name} cannot be imported: {said}") from error
        own = [one for one in found if inspect.isclass(one) and issubclass(one, Method)]
        own = [cls for cls in own if self.entry or cls.__module__ == module.__name__]
        if len(own) != 1:
            raise UserError(
                f"{self.name} must define one subclass of repro.method.Method, it defines {len(own)}"
            )
        self._check(own[0])
        return own[0]

    def _refuse_absolute(self) -> None:
        """Python finds a file beside another one by an absolute import only where it is started there."""
        package = self.module.rpartition(".")[0]
        for name, file in own_modules(self.module).items() if package else ():
            for imported in sorted({one.split(".")[0] for one in _imports(name, file)} - {package}):
                beside = _file(f"{package}.{imported}")
                if beside is not None and _file(imported) in (None, beside):
                    raise UserError(
                        f"{self.name}: {file.name} imports `{imported}`, which lies beside it; write `from "
                        f".{imported} import ...` or `from . import {imported}`"
                    )

    def _check(self, cls: type[Method]) -> None:
        for key in OF_A_ROW:
            if key in cls.model_fields:
                raise UserError(
                    f"{self.name}: {cls.__name__} has a hyper-parameter `{key}`, which is a key of a study's "
                    "rows; rename it"
                )
        title, role = getattr(cls, "title", ""), getattr(cls, "role", None)
        if not isinstance(title, str) or len(title.splitlines()) != 1:
            raise UserError(
                f"{self.name}: {cls.__name__} needs a class variable `title`, its name in tables, in one line"
            )
        if role not in [*Role]:
            raise UserError(
                f"{self.name}: the role of {cls.__name__} is {role!r}, and not one of repro.method.Role"
            )


def find(method: str, folder: Path = BASELINES) -> Source | None:
    """What a study calls ``method``; None if there is no such file or entry point. Raises UserError where
    several packages offer it."""
    path = Path(method) if is_path(method) else folder / f"{method}.py"
    if path.is_file():
        own = path.parent.resolve() == BASELINES
        return Source(str(path), f"{_package(path.parent)}.{path.stem}", origin="" if own else method)
    entries = [] if is_path(method) else sorted(entry_points(group=GROUP, name=method), key=_offered)
    if len(entries) > 1:
        packages = " and ".join(map(_offered, entries))
        raise UserError(f"the method `{method}` is offered by {packages}; uninstall all but one of them")
    if not entries:
        return None
    package, module = _offered(entries[0]), entries[0].value.partition(":")[0].strip()
    return Source(f"the method `{method}` of {package}", module, entries[0], package)


def _offered(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def _package(folder: Path) -> str:
    """The package that a folder's modules are imported in: one for each folder, so that helpers of one name
    do not mix."""
    folder = folder.resolve()
    name = "baselines" if folder == BASELINES else f"methods_{files.sha256_of(str(folder).encode())[:16]}"
    if name not in sys.modules:
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        sys.modules[name] = module_from_spec(spec)
    return name


# -- its modules -------------------------------------------------------------------------------------------


def own_modules(module: str) -> dict[str, Path]:
    """A method's module and all that it imports from its own package, with their files, found without
    importing them: what its code is."""
    top, found, waiting = module.split(".")[0], dict[str, Path](), [module]
    while waiting:
        name = waiting.pop()
        file = _file(name) if name.split(".")[0] == top and name not in found else None
        if file is None:
            continue
        found[name] = file
        waiting += [name.rpartition(".")[0], *_imports(name, file)]
    return {name: found[name] for name in sorted(found)}


def _file(module: str) -> Path | None:
    """The file of a module, found without importing the packages around it; None if it has none in Python."""
    path: Sequence[str] | None = None
    file = None
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        spec = getattr(sys.modules.get(name), "__spec__", None) or _spec(name, path)
        if spec is None:
            return None
        path, file = spec.submodule_search_locations or [], spec.origin
    return Path(file) if file and file.endswith(".py") else None


def _spec(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    finders = (finder for finder in sys.meta_path if hasattr(finder, "find_spec"))
    return next((spec for finder in finders if (spec := finder.find_spec(name, path))), None)


def _imports(module: str, file: Path) -> Iterator[str]:
    """Full names of what a module imports, wherever in it, and of what it may import (``from a import b``:
    b may be a module). None of a file that is no Python."""
    package = module if file.stem == "__init__" else module.rpartition(".")[0]
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            try:
                base = resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:  # above the package
                continue
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def _tree(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.Module([], [])


# -- the rows of a study -----------------------------------------------------------------------------------


class Broken(Method):
    """What stands in for a method that cannot be imported: its run is a failed row with the reason, and the
    other rows go on."""

    title = "Broken"
    reason: str

    def start(self, lab: Lab) -> Any:
        raise RunFailed(self.reason)

    def round(self, lab: Lab, state: Any) -> None:
        """Never called."""


def rows(study: Study, folder: Path = BASELINES) -> dict[str, MethodRow]:
    """The study's rows by name: where it says ``all``, one for each file of ``folder``, but those with a
    leading underscore."""
    if study.methods != "all":
        return study.methods
    return {name: MethodRow(method=name) for name in _files(folder)}


def _files(folder: Path) -> list[str]:
    found = sorted(path.stem for path in folder.glob("*.py") if not path.name.startswith("_"))
    for name in found:
        if not re.fullmatch(NAME, name):
            raise UserError(
                f"{folder / name}.py: a method is named by small letters, digits and underscores; rename it"
            )
    return found


def method_ids(study: Study, folder: Path = BASELINES) -> list[str]:
    """Names of the study's rows. Raises UserError where it names a method that is nowhere."""
    known, found = _files(folder), rows(study, folder)
    for row in found.values():
        if find(row.method, folder) is None:
            raise UserError(
                f"study {study.name}: `methods` names `{row.method}`, but {_missing(row.method, folder)}; "
                f"there are {', '.join(known)}"
            )
    used = {method_name(row.method) for row in found.values()}
    for name in study.hyperparameters:
        if name not in used and name not in known:
            raise UserError(
                f"study {study.name}: `hyperparameters` names `{name}`, which is none of its methods; they "
                f"are {', '.join(sorted(used))}"
            )
    return list(found)


def _missing(method: str, folder: Path) -> str:
    if is_path(method):
        return f"{method} does not exist"
    return f"{folder.name}/{method}.py does not exist and no installed package offers it"


def source_of(study: Study, row: str, folder: Path = BASELINES) -> Source:
    """Where the method of a row is. Raises UserError where there is none."""
    found = rows(study, folder)
    if row not in found:
        raise UserError(f"study {study.name} has no row `{row}`; it has {', '.join(found)}")
    source = find(found[row].method, folder)
    if source is None:
        missing = _missing(found[row].method, folder)
        raise UserError(f"there is no method `{found[row].method}`: {missing}")
    return source


def load_method(study: Study, row: str, folder: Path = BASELINES) -> Method:
    """The method of a row, with its title, role and hyper-parameters: the study's for the method, and the
    row's own on top of them. One that cannot be imported is :class:`Broken`.

    Raises UserError naming a hyper-parameter that is unknown or impossible.
    """
    source, spec = source_of(study, row, folder), rows(study, folder)[row]
    try:
        cls = source.method_class()
    except UserError as error:
        return _as_row(Broken, spec.title or row, spec.role)(reason=str(error))
    name = method_name(spec.method)
    own, shared = spec.hyperparameters, study.hyperparameters.get(name, {})
    of_method = f"study {study.name}, hyperparameters.{name}"
    tuned_to = tuned.chosen(study, row)
    layers = {
        f"study {study.name}, tuned.file": tuned_to,
        f"study {study.name}, methods.{row}": own,
        of_method: shared,
    }
    title = spec.title or cls.title + (f" ({', '.join(_told(own))})" if own else "")
    values = merged(shared | own, tuned_to)
    return instance(_as_row(cls, title, spec.role), values, of_method, layers)


def load_methods(study: Study, folder: Path = BASELINES) -> dict[str, Method]:
    """The methods of all rows. Raises UserError where tables could not tell two of them apart."""
    methods = {row: load_method(study, row, folder) for row in method_ids(study, folder)}
    titled: dict[str, str] = {}
    for row, method in methods.items():
        other = titled.setdefault(method.title, row)
        if other != row:
            raise UserError(
                f"study {study.name}: the rows `{other}` and `{row}` both have the title {method.title!r}; "
                "give one of them a `title` of its own"
            )
    return methods


def method_class(method: str, folder: Path = BASELINES) -> type[Method]:
    """The class that a study calls ``method``. Raises UserError where there is none that can be used."""
    source = find(method, folder)
    if source is None:
        raise UserError(f"there is no method `{method}`: {_missing(method, folder)}")
    return source.method_class()


def instance(
    cls: type[Method],
    overrides: dict[str, Any],
    where: str,
    layers: Mapping[str, dict[str, Any]] | None = None,
) -> Method:
    """The method with these hyper-parameters. Raises UserError naming one that is unknown or impossible."""
    method = validated(cls, overrides, where, layers)
    values = dict(method)
    bounds = {key: BY_NAME.get(key, BY_TYPE.get(type(value))) for key, value in values.items()}
    fields: dict[str, Any] = {key: (bound, ...) for key, bound in bounds.items() if bound is not None}
    validated(create_model("Bounds", **fields), values, where, layers)
    return method


def _as_row(cls: type[M], title: str, role: Role | None) -> type[M]:
    """The class under another title and role."""
    named = create_model(cls.__name__, __base__=cls, __module__=cls.__module__, __doc__=cls.__doc__)
    named.title, named.role = title, role or cls.role
    return named


def _told(values: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """``key value`` for each, and for those within: ``power 1.0``, ``optimizer.learning_rate 0.001``."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _told(value, f"{within}{key}.")
        else:
            yield f"{within}{key} {str(value).lower() if isinstance(value, bool) else value}"
