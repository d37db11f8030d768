"""The page that describes baselines/, against the files, and how it reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from repro.cli import app
from repro.discovery import BASELINES, method_class
from repro.planning import catalogue
from repro.planning.catalogue import RENEW, code_of, differences, evidence, objectives, plans, rewards

DOCUMENT = """A method (Some 2024).

What it does:
- this is no difference.

Differences from the paper:
- One that goes
  on here.
- `code | there`.

Evidence: 2 points on
GSM8K, by others.

Notes:
- nor is this.
"""


def test_the_readme_of_the_baselines_is_in_step_with_them() -> None:
    written = (BASELINES / "README.md").read_text()
    assert written == CliRunner().invoke(app, ["methods"]).output, f"a file has changed: run `{RENEW}`"


def test_a_docstring_s_differences_and_evidence() -> None:
    assert differences(DOCUMENT) == ["One that goes on here.", "`code | there`."]
    assert evidence(DOCUMENT) == "2 points on GSM8K, by others."


@pytest.mark.parametrize(
    ("document", "count", "found"),
    [
        ("", 0, "none"),
        ("Differences from the paper: none to differ from.\nThe settings are its own.", 0, "none"),
        ("Differences from the paper, which has no code:\n\n- one\n\n- two\n", 2, "none"),
        ("Differences from the paper:\n- one\nEvidence: the paper's\n  own.", 1, "the paper's own."),
        ("It is said that\nevidence: none is given. Evidence: nor here.", 0, "none"),
    ],
)
def test_other_docstrings(document: str, count: int, found: str) -> None:
    assert (len(differences(document)), evidence(document)) == (count, found)


PARENT = """
from typing import Any, ClassVar, Literal

from repro.method import DPO, SFT, Example, Lab, Method, Objective, Pair


class Parent(Method):
    title: ClassVar[str] = "Parent"
    {fields}

    def round(self, lab: Lab, state: Any) -> None:
        {body}
"""


def read(folder: Path, fields: str, body: str) -> tuple[list[str], str, str]:
    (folder / "parent.py").write_text(PARENT.format(fields=fields, body=body))
    cls = method_class("parent", folder)
    code = code_of(cls)
    return objectives(cls, code), plans(cls, code), rewards(code)


@pytest.mark.parametrize(
    ("fields", "body", "found"),
    [
        ("", "pass", ([], "no", "no")),
        ("", "lab.train([Example()])", (["SFT"], "no", "no")),
        ("", "lab.train([Pair()])", (["DPO"], "no", "no")),
        ("", "lab.train([Pair()], objective=SFT())", (["SFT"], "no", "no")),
        ("objective: Objective = DPO()", "lab.train([], objective=self.objective)", (["DPO"], "no", "no")),
        ("objective: DPO = DPO()", "lab.train([Example()]); lab.train([], objective=self.objective)",
         (["SFT", "DPO"], "no", "no")),
        ("", "lab.affords(1)", ([], "option", "no")),
        ("plans: Literal[True] = True", "lab.remaining", ([], "always", "no")),
        ("", "lab.score([]) if lab.has_process_rewards else 0", ([], "no", "optional")),
        ("", "lab.score([])", ([], "no", "needed")),
    ],
)  # fmt: skip
def test_what_a_class_needs(
    tmp_path: Path,
    fields: str,
    body: str,
    found: tuple[list[str], str, str],
) -> None:
    assert read(tmp_path, fields, body) == found


def test_a_class_made_from_another_needs_what_that_does() -> None:
    star = method_class("star")
    child = type("Child", (star,), {"__module__": __name__, "title": "Child"})
    code = code_of(child)
    assert (objectives(child, code), plans(child, code)) == (["SFT"], "always")


def test_text_is_shown_as_it_is() -> None:
    assert catalogue._markdown("n* <b> `a*b` x|y\n z_") == r"n\* \<b> `a*b` x\|y z\_"
