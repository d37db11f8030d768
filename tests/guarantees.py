"""What the suite promises, and the tests that prove it, as a page: ``python tests/guarantees.py``.

A test says what it proves by ``@pytest.mark.promise("Topic", "Sentence.")``; several may prove one sentence.
The tests are read, not run: the page says where the proof is, and ``make test`` runs it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parent
TOPICS = (
    "Budgets and FLOPs", "Runs that are killed", "The same numbers", "A fair comparison", "Right answers",
    "Files and code of others", "Records and report",
)  # fmt: skip
HEAD = """# Guarantees

What the suite promises, and the tests that prove it; a release in which one of them fails is none.
`.venv/bin/pytest -m "promise and not hours"` runs them, and `make guarantees` writes
this page from the marks on them.
"""


class Proof(NamedTuple):
    topic: str
    promise: str
    test: str  # path::name


def proofs(folder: Path) -> Iterator[Proof]:
    """Of the tests in a folder, in the order of files and lines."""
    for path in sorted(folder.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            for mark in getattr(node, "decorator_list", ()):
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.promise":
                    topic, promise = map(ast.literal_eval, mark.args)
                    yield Proof(topic, promise, f"{path.name}::{node.name}")


def page(found: list[Proof]) -> str:
    lines = [HEAD]
    for topic in TOPICS:
        lines += [f"## {topic}\n"]
        for promise in dict.fromkeys(one.promise for one in found if one.topic == topic):
            tests = [one.test.split("::") for one in found if one.promise == promise]
            links = ", ".join(f"[`{name}`](../tests/{file})" for file, name in tests)
            lines += [f"- **{promise}**\n  {links}"]
        lines += [""]
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(list(proofs(TESTS))), end="")
