"""Rows of a study: variants of a method, methods outside the suite, and what their code is."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_config import GOOD

from repro import identity
from repro.config import Study, load_study
from repro.discovery import (
    BASELINES,
    find,
    load_method,
    load_methods,
    method_class,
    method_ids,
    own_modules,
    source_of,
)
from repro.errors import RunFailed, UserError
from repro.method import Role
from repro.run import _own_fault

HEAD = "from typing import ClassVar\nfrom repro.method import Method\n"


def method(title: str = "Mine", fields: str = "n: int = 1", imports: str = "") -> str:
    return (
        f"{HEAD}{imports}\nclass Mine(Method):\n    title: ClassVar[str] = {title!r}\n    {fields}\n"
        "    def round(self, lab, state):\n        raise ValueError\n"
    )


def study(tmp_path: Path, methods: Any, **more: Any) -> Study:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(GOOD | {"methods": methods} | more, sort_keys=False))
    return load_study(path)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "site")
    before = {*sys.modules}
    yield
    for name in [name for name in {*sys.modules} - before if name.startswith(("methods_", "fancy"))]:
        del sys.modules[name]


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def install(name: str, entry: str, files: dict[str, str], method: str = "fancy") -> None:
    """What pip leaves of a package that offers ``method``."""
    for path, text in files.items():
        write(f"site/{path}", text)
    write(f"site/{name}-1.2.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    write(f"site/{name}-1.2.dist-info/entry_points.txt", f"[repro.methods]\n{method} = {entry}\n")


# --- variants -------------------------------------------------------------------------------------------


def test_rows_are_a_method_with_settings_of_their_own(tmp_path: Path) -> None:
    rows = {
        "adastar": None,
        "power": {"method": "adastar", "power": 1, "optimizer": {"learning_rate": 0.5}},
        "named": {"method": "adastar", "title": "Named", "role": "ablation"},
    }
    shared = {"adastar": {"chunk": 9, "optimizer": {"learning_rate": 0.25, "warmup_steps": 3}}}
    found = load_methods(study(tmp_path, rows, hyperparameters=shared))
    assert {row: one.title for row, one in found.items()} == {
        "adastar": "AdaSTaR",
        "power": "AdaSTaR (power 1, optimizer.learning_rate 0.5)",
        "named": "Named",
    }
    assert [one.role for one in found.values()] == [Role.METHOD, Role.METHOD, Role.ABLATION]
    assert {one.paper for one in found.values()} == {method_class("adastar").paper}
    settings: dict[str, Any] = {row: one.model_dump() for row, one in found.items()}
    assert [one["chunk"] for one in settings.values()] == [9, 9, 9]
    assert [one["power"] for one in settings.values()] == [2.0, 1.0, 2.0]
    warmups = [one["optimizer"]["warmup_steps"] for one in settings.values()]
    assert warmups == [3, 0, 3]  # a row's key replaces the whole of it


def test_a_row_is_a_run_of_its_own_and_its_title_retrains_nothing(tmp_path: Path) -> None:
    def settings(row: str, **keys: Any) -> str:
        made = study(tmp_path, {row: {"method": "star", **keys}})
        return json.dumps(identity.settings(made, load_method(made, row), row))

    assert settings("a", title="One", role="ablation") == settings("a", title="Two")
    assert settings("a") != settings("b")
    assert settings("a") != settings("a", first_steps=7)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({"a": {"method": "star"}, "b": {"method": "star"}}, "`a` and `b` both have the title 'STaR'; give"),
        ({"a": {"method": "star", "colour": 1}}, "tiny, methods.a: unknown key `colour`; known here: plans"),
        ({"a": {"method": "star", "batch_size": 0}}, "tiny, methods.a: `batch_size`: Input should be"),
        ({"nobody": None}, "`methods` names `nobody`, but baselines/nobody.py does not exist and no"),
        (["m/mine.py"], "`methods` names `m/mine.py`, but m/mine.py does not exist"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be(tmp_path: Path, rows: Any, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        load_methods(study(tmp_path, rows))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({"Big": {"method": "star"}}, "`methods.Big`: String should match pattern"),
        ({"all": {"method": "star"}}, "`methods.all`: no row can be called `all`, which stands for"),
        (["all"], "`methods`: no row can be called `all`"),
        ({"a": {"method": "my-star.py"}}, "`methods.a.method`: a method is named by small letters"),
        ({"a": {"method": "star", "title": ""}}, "`methods.a.title`: String should have at least 1"),
        ({"a": {"method": "star", "role": "best"}}, "`methods.a.role`: Input should be 'method', 'ablation'"),
        ({"a": "star"}, "`methods.a`: Input should be a valid dictionary"),
        (["star", "m/star.py"], "`methods`: 'star' is there twice"),
    ],
)  # fmt: skip
def test_rows_that_no_study_can_have(tmp_path: Path, rows: Any, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        study(tmp_path, rows)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


# --- modules beside a method ----------------------------------------------------------------------------


def test_folders_with_helpers_of_one_name_do_not_mix(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write(f"{folder}/helper.py", f"NAME = {folder!r}")
        text = method(imports="from .helper import NAME").replace("'Mine'", "NAME")
        write(f"{folder}/mine.py", text)
    rows = {folder: {"method": f"{folder}/mine.py"} for folder in ("one", "two")}
    assert [one.title for one in load_methods(study(tmp_path, rows)).values()] == ["one", "two"]


def test_a_class_may_inherit_from_the_file_beside_it(tmp_path: Path) -> None:
    write("m/base.py", method("Base"))
    write(
        "m/child.py",
        f"{HEAD}from .base import Mine\nclass Child(Mine):\n    title: ClassVar[str] = 'Child'\n",
    )
    found = load_methods(study(tmp_path, ["m/base.py", "m/child.py"]))
    assert [one.title for one in found.values()] == ["Base", "Child"]
    assert {path.name for path in own_modules(type(found["child"]).__module__).values()} == {
        "base.py",
        "child.py",
    }


def test_the_code_of_a_method_is_what_it_imports_from_beside_it(tmp_path: Path) -> None:
    files = {
        "m/mine.py": method(imports="from .direct import f"),
        "m/direct.py": "def f():\n    from . import indirect\n    from .deep.er import h\n",
        "m/indirect.py": "import os",
        "m/deep/__init__.py": "from .inner import x",
        "m/deep/inner.py": "x = 1",
        "m/deep/er.py": "from ..other import h",
        "m/other.py": "h = 1",
        "m/unrelated.py": "x = 1",
    }
    for path, text in files.items():
        write(path, text)
    made = study(tmp_path, ["m/mine.py"])

    def code() -> Any:
        return identity.settings(made, load_method(made, "mine"), "mine")["code"]

    first = code()
    for path, text in files.items():
        write(path, text + "\nmore = 2\n")
        assert (code() == first) is (path == "m/unrelated.py"), path
        write(path, "# a comment\n" + text)
        assert code() == first
        write(path, text)


def test_the_code_of_the_suites_methods_is_their_file() -> None:
    assert identity.code(BASELINES / "star.py") == identity.code(*own_modules("baselines.star").values())


def test_an_absolute_import_from_beside_says_how_to_write_it(tmp_path: Path) -> None:
    write("m/mine.py", method(imports="import helper, os\nfrom random import random"))
    write("m/helper.py", "")
    write("m/random.py", "")  # the standard library's is meant
    write("m/other.py", method("Other", imports="from random import random"))
    assert method_class("m/other.py").title == "Other"
    with pytest.raises(
        UserError, match=r"m/mine\.py: mine\.py imports `helper`, .*; write `from \.helper import"
    ):
        method_class("m/mine.py")


def test_whose_fault_it_is_looks_at_all_files_of_a_method(tmp_path: Path) -> None:
    write("m/mine.py", method(imports="from .helper import boom"))
    write("m/helper.py", "def boom():\n    raise ValueError\n")
    mine = load_method(study(tmp_path, ["m/mine.py"]), "mine")
    with pytest.raises(ValueError) as caught:
        sys.modules[type(mine).__module__].boom()  # type: ignore[attr-defined]
    assert _own_fault(caught.value, mine)
    assert not _own_fault(caught.value, load_method(study(tmp_path, ["star"]), "star"))


# --- packages ---------------------------------------------------------------------------------------------


def test_a_package_is_a_row_where_a_study_names_it(tmp_path: Path) -> None:
    files = {
        "fancy/__init__.py": "",
        "fancy/core.py": method("Fancy", imports="import fancy.tools\nfrom fancy.sub import y"),
        "fancy/tools.py": "x = 1",
        "fancy/sub/__init__.py": "y = 1",
        "fancy/unrelated.py": "x = 1",
    }
    install("fancy-methods", "fancy.core:Mine", files)
    assert "fancy" not in method_ids(study(tmp_path, "all"))
    load_methods(study(tmp_path, "all"))
    made = study(tmp_path, ["fancy"], hyperparameters={"fancy": {"n": 5}})
    names = method_ids(made), own_modules(source_of(made, "fancy").module)
    assert not [name for name in sys.modules if name.startswith("fancy")]  # nothing has been imported
    assert names[0] == ["fancy"] and [*names[1]] == ["fancy", "fancy.core", "fancy.sub", "fancy.tools"]
    found: Any = load_method(made, "fancy")
    assert (found.title, found.n) == ("Fancy", 5)
    code = identity.settings(made, found, "fancy")["code"]
    assert identity.origin(made, "fancy") == f"fancy-methods 1.2, code {code}"
    write("site/fancy/sub/__init__.py", "y = 2")
    assert identity.settings(made, found, "fancy")["code"] != code


def test_the_suites_own_comes_before_a_package(tmp_path: Path) -> None:
    install("other", "other:Mine", {"other.py": "raise SystemExit"}, method="star")
    assert load_method(study(tmp_path, ["star"]), "star").title == "STaR"


def test_two_packages_of_one_name_are_named(tmp_path: Path) -> None:
    for name in ("beta", "alpha"):
        install(name, f"{name}:Mine", {f"{name}.py": method()})
    with pytest.raises(UserError, match=r"`fancy` is offered by alpha 1\.2 and beta 1\.2; uninstall"):
        method_ids(study(tmp_path, ["fancy"]))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import nowhere", "cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("raise RuntimeError('two\\nlines')", "cannot be imported: RuntimeError: two lines"),
        ("raise SystemExit(0)", "cannot be imported: SystemExit: 0"),
        ("def (", "cannot be imported: SyntaxError"),
        ("Mine = 5", "must define one subclass"),
        ("", "module 'fancy_core' has no attribute 'Mine'"),
        (method(fields="method: str = 'a'"), "a hyper-parameter `method`, which is a key of a study's row"),
        (method(fields="role: ClassVar[str] = 'best'"), "the role of Mine is 'best', and not one of"),
        (method("two\nlines"), "Mine needs a class variable `title`, its name in tables, in one line"),
    ],
)  # fmt: skip
def test_one_that_cannot_be_imported_is_a_failed_row_and_leaves_the_others(
    tmp_path: Path, text: str, reason: str
) -> None:
    install("fancy", "fancy_core:Mine", {"fancy_core.py": text})
    made = study(tmp_path, {"star": None, "fancy": {"n": 3}})
    star, fancy = load_methods(made).values()
    assert star.title == "STaR" and fancy.title == "fancy"
    with pytest.raises(RunFailed, match=r"fancy 1\.2") as caught:
        fancy.start(None)  # type: ignore[arg-type]
    assert reason in str(caught.value) and "\n" not in str(caught.value)
    assert reason in identity.settings(made, fancy, "fancy")["hyperparameters"]["reason"]  # mended, it runs


def test_what_is_nowhere_is_none(tmp_path: Path) -> None:
    assert find("nobody") is None and find("m/none.py") is None
