"""The shape of the code: who may import whom, and what may not be called at all."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = sorted((ROOT / "repro").rglob("*.py"))
BASELINES = sorted((ROOT / "baselines").glob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))

# Rooms (modules and packages of repro) from the bottom up: each imports from its own layer or those below.
LAYERS = [
    {"errors", "files", "yaml_files", "gpus", "machine", "layout", "seeds", "records", "schema", "flops",
     "benchmarks", "numerics", "validation", "csv_files", "trials", "record_files"},
    {"objectives", "ledger", "monitors"},
    {"config", "profiles"},
    {"shapes"},
    {"fetch", "models", "problems", "sampling", "verify", "rewards", "training", "forgetting"},
    {"method"},
    {"tuned"},
    {"discovery"},
    {"identity"},
    {"provenance"},
    {"journal", "base_model", "evaluation"},
    {"lab"},
    {"run"},
    {"collect", "cleaning"},
]  # fmt: skip
# From records to the report there is a way of its own, which knows nothing of running: its modules from the
# bottom up, each of which imports from those before it.
REPORTING = [
    "document", "spread", "statistics", "curves", "reading", "settings", "results", "merging", "recount",
    "analysis", "table", "costs", "comparisons", "claims", "published", "tables", "figures", "page_data",
    "page", "replication", "compare", "deposit", "croissant", "crate", "checklist", "bundle", "site",
]  # fmt: skip
BELOW_REPORTING = {"errors", "files", "flops", "records", "schema", "validation", "yaml_files", "csv_files",
                   "trials", "record_files"}  # fmt: skip
# What is asked before a study runs looks at all of it.
PLANNING = "planning"


def modules(path: Path) -> Iterator[str]:
    """Names of all that a file imports, wherever in it; ``repro.x`` for ``from repro import x``, and
    ``baselines.x`` for what a method imports from beside it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and path in BASELINES, f"{path} has a relative import"
            yield from (f"baselines.{node.module or alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module == "repro":
                yield from (f"repro.{alias.name}" for alias in node.names if alias.name != "__version__")
            else:
                yield node.module or ""


def room(path: Path) -> str:
    return path.relative_to(ROOT / "repro").parts[0].removesuffix(".py")


def rooms() -> dict[str, set[str]]:
    """Room -> the other rooms it imports."""
    graph: dict[str, set[str]] = {}
    for path in LIBRARY:
        found = {name.split(".")[1] for name in modules(path) if name.startswith("repro.")}
        graph.setdefault(room(path), set()).update(found - {room(path)})
    return graph


def test_every_room_has_its_layer() -> None:
    known = set().union(*LAYERS, {"reporting", PLANNING, "cli", "__init__"})
    assert set(rooms()) == known
    assert {path.stem for path in (ROOT / "repro/reporting").glob("*.py")} == {*REPORTING, "__init__"}


def test_layers_import_only_downwards() -> None:
    graph = rooms()
    below: set[str] = set()
    for layer in LAYERS:
        below |= layer
        for name in layer:
            assert graph[name] <= below, f"{name} imports {graph[name] - below}"
    assert graph["reporting"] <= BELOW_REPORTING
    assert graph[PLANNING] <= set().union(*LAYERS, {"reporting"})


def test_reporting_imports_only_downwards() -> None:
    below: set[str] = set()
    for name in REPORTING:
        found = {
            module.removeprefix("repro.reporting.")
            for module in modules(ROOT / "repro/reporting" / f"{name}.py")
            if module.startswith("repro.reporting.")
        }
        assert found <= below, f"{name} imports {found - below}"
        below.add(name)


def test_there_are_no_circles() -> None:
    list(TopologicalSorter(rooms()).static_order())  # raises CycleError


@pytest.mark.promise(
    "A fair comparison",
    "No library code knows a method by its name, and methods see the library by one interface.",
)
def test_a_method_imports_only_its_interface() -> None:
    allowed = {"repro.method", "numpy", "sklearn"} | {f"baselines.{path.stem}" for path in BASELINES}
    for path in BASELINES:
        for name in modules(path):
            top = name.split(".")[0]
            assert name in allowed or top in allowed or top in sys.stdlib_module_names, f"{path.name}: {name}"


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.promise(
    "Files and code of others", "Nothing is unpickled, and no text is evaluated or parsed as code."
)
@pytest.mark.parametrize("path", [*LIBRARY, *BASELINES, *BENCHMARKS], ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_executes_text_or_unpickles(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = dotted(node.func)
            assert called not in {"eval", "exec", "compile", "__import__", "torch.load", "yaml.load"}, called
            assert called.split(".")[-1] not in {"sympify", "parse_expr", "read_pickle", "literal_eval"}, (
                called
            )
            assert not any(keyword.arg == "trust_remote_code" for keyword in node.keywords)
            assert not any(keyword.arg == "allow_pickle" for keyword in node.keywords)
    unpicklers = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert not unpicklers & {name.split(".")[0] for name in modules(path)}
