"""A method is one file: what it may look like, and what is said of one that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.discovery import method_class
from repro.errors import UserError

HEAD = "from typing import ClassVar\nfrom repro.method import Lab, Method, Optimizer\n"


def method(name: str, title: str = "title: ClassVar[str] = 'Mine'") -> str:
    return f"class {name}(Method):\n    {title}\n    def round(self, lab, state):\n        pass\n"


def test_one_file_is_one_method_and_helpers_are_welcome(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        + HEAD
        + "@dataclass\nclass State:\n    seen: ClassVar[int] = 0\n    left: int = 1\n"
        + method("Mine")
        + "    optimizer: Optimizer = Optimizer(learning_rate=1e-3)\n"
    )
    (tmp_path / "mine.py").write_text(text)
    made = method_class("mine", tmp_path)(optimizer={"learning_rate": 0.5})
    assert made.title == "Mine" and made.model_dump()["optimizer"]["learning_rate"] == 0.5


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "must define one subclass of repro.method.Method, it defines 0"),
        (HEAD, "it defines 0"),  # what is imported does not count
        (HEAD + method("A") + method("B"), "it defines 2"),
        ("import nowhere", "cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("def (", "cannot be imported: SyntaxError"),
        ("raise SystemExit('a\\nb')", "cannot be imported: SystemExit: a b"),
        (HEAD + method("A", "pass"), "A needs a class variable `title`"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError) as caught:
        method_class("mine", tmp_path)
    assert str(tmp_path / "mine.py") in str(caught.value) and sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_method_without_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no method `mine`: .*mine\.py does not exist"):
        method_class("mine", tmp_path)
