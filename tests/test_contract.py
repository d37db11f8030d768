"""``repro check-method`` sees each way in which a method can break its contract, and ``repro new-method``
writes one that does not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from repro.cli import app
from repro.discovery import BASELINES
from repro.errors import UserError
from repro.planning import contract

GOOD = '''"""Mine.

Differences from the paper: none.
"""
import random
from typing import Any, ClassVar
import numpy as np
from repro.method import BudgetSpent, Example, Lab, Method, Optimizer

class Mine(Method):
    title: ClassVar[str] = "Mine"
    n: int = 2

    def round(self, lab: Lab, state: Any) -> None:
        order = lab.rng("order").permutation(len(lab.problems))
        drawn = lab.sample([lab.problems[i] for i in order], self.n)
        data = [Example(c.problem, c.text) for found in drawn for c in found if c.correct]
        if data:
            lab.train(data, epochs=1, batch_size=8, optimizer=Optimizer(learning_rate=1e-3))
'''
TRAINS = "        if data:\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = {*sys.modules}
    yield
    for name in [name for name in {*sys.modules} - before if name.startswith("methods_")]:
        del sys.modules[name]


def faults(text: str) -> dict[str, str]:
    Path("mine.py").write_text(text)
    return {one.name: one.fault for one in contract.check("mine.py") if one.fault}


def test_a_good_method_passes_every_point() -> None:
    Path("mine.py").write_text(GOOD)
    checks = contract.check("mine.py")
    assert len(checks) == 10 and not any(one.fault for one in checks)
    assert contract.render(checks).startswith("ok    class: Mine, `Mine`\nok    docstring\n")


@pytest.mark.parametrize("path", sorted(BASELINES.glob("[!_]*.py")), ids=lambda path: path.stem)
def test_the_suites_own_methods_pass(path: Path) -> None:
    assert not [one for one in contract.check(str(path)) if one.fault]


@pytest.mark.parametrize(
    ("found", "instead", "point", "fault"),
    [
        ('title: ClassVar[str] = "Mine"', "pass", "class", "Mine needs a class variable `title`"),
        ("Differences from", "As in", "docstring", "list each, with its reason"),
        ("n: int = 2", "n: int", "hyper-parameters", "key `n` is missing; add it"),
        ("n: int = 2", "n: int = -2", "hyper-parameters", "`n`: Input should be greater than or equal to 1"),
        ("n: int = 2", "n: int = 2\n    m: str = 'a'", "hyper-parameters", "`m` takes anything; bound it"),
        ("len(lab.problems))", "0)", "every round spends, until the budget ends", "3 rounds in a row spent"),
        ("if data:", "if lab.budget:", "the Lab is called as it can be", "only a method that plans"),
        (TRAINS, "        1 / len(data)\n" + TRAINS, "plays where none of the answers are correct", "ZeroD"),
        (
            TRAINS, "        assert len(data) < 120\n" + TRAINS,
            "plays where all of the answers are correct", "AssertionError",
        ),
        ("lab.rng", "lab.rgn", "plays where some of the answers are correct", "AttributeError"),
        ('lab.rng("order")', "np.random.default_rng()", "twice the same calls", "call 1 of the Lab (sample)"),
        ('lab.rng("order")', "np.random", "random numbers are lab.rng's", "it draws from `random`"),
        (TRAINS, "        random.random()\n" + TRAINS, "random numbers are lab.rng's", "it draws from"),
    ],
)  # fmt: skip
def test_each_breach_is_seen(found: str, instead: str, point: str, fault: str) -> None:
    assert found in GOOD
    assert fault in faults(GOOD.replace(found, instead))[point]


def test_the_command_fails_where_a_point_does() -> None:
    Path("mine.py").write_text(GOOD.replace("Differences", "As"))
    checked = CliRunner().invoke(app, ["check-method", "mine.py"])
    assert checked.exit_code == 1 and "FAIL  docstring: " in checked.output


def test_what_is_nowhere_is_refused() -> None:
    with pytest.raises(UserError, match=r"there is no method none\.py"):
        contract.check("none.py")


def test_a_new_method_passes_the_contract() -> None:
    written = CliRunner().invoke(app, ["new-method", "my_method", "--folder", "m"])
    assert written.exit_code == 0 and "`methods: {my_method: {method: m/my_method.py}}`" in written.output
    text = Path("m/my_method.py").read_text()
    assert 'class MyMethod(Method):\n    title: ClassVar[str] = "My method"' in text
    assert "emplate" not in text and text.startswith('"""My method. Say here')
    checked = CliRunner().invoke(app, ["check-method", "m/my_method.py"])
    assert checked.exit_code == 0 and checked.output.count("ok    ") == 10
    with pytest.raises(UserError, match=r"m/my_method\.py exists; name the method otherwise"):
        contract.new("my_method", Path("m"))
    with pytest.raises(UserError, match="'My-Method' names no method; take small letters"):
        contract.new("My-Method", Path("m"))
