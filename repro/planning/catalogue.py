"""The methods of ``baselines/`` as a page, read off their files: what each is, needs and rests on."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args, get_origin

from tabulate import tabulate

from repro.discovery import BASELINES, method_class
from repro.method import Method
from repro.objectives import OBJECTIVES, Objective
from repro.records import Example, Pair

RENEW = "make methods"
DIFFERENCES, EVIDENCE = "Differences from the paper", "Evidence:"


@dataclass(frozen=True)
class Code:
    """What a class's file and those of the classes it is made from name, wherever in them."""

    called: set[str]  # functions and classes
    attributes: set[str]  # behind a dot
    bare: bool  # whether a call of `train` leaves its objective to what the data are


def page() -> str:
    """All files of ``baselines/`` but those with a leading underscore, as Markdown."""
    files = sorted(path for path in BASELINES.glob("*.py") if not path.name.startswith("_"))
    classes = {path.stem: method_class(path.stem) for path in files}
    documents = {path.stem: ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "" for path in files}
    rows = [_row(name, cls, documents[name]) for name, cls in classes.items()]
    table = tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True)
    listed = [
        f"### {_markdown(classes[name].title)}\n\n" + "\n".join(f"- {_markdown(one)}" for one in found)
        for name, document in documents.items()
        if (found := differences(document))
    ]
    return "\n\n".join([
        "# Methods and controls",
        f"Made from the files by `{RENEW}`. [CONTRIBUTING.md](../CONTRIBUTING.md) says how to add one.",
        table,
        "Objective: what it trains on and how, by its defaults. Plans: whether each budget has a run of its "
        "own, always or where a study sets `plans: true`. Process rewards: optional where it has a way "
        "without them. Sees: what methods that teach themselves do not.",
        "## Differences from the papers",
        *listed,
    ])  # fmt: skip


def _row(name: str, cls: type[Method], document: str) -> dict[str, str]:
    code = code_of(cls)
    return {
        "File": f"[`{name}`]({name}.py)",
        "Title": _markdown(cls.title),
        "Paper": _markdown(cls.paper),
        "Role": str(cls.role),
        "Objective": ", ".join(objectives(cls, code)) or "none",
        "Plans": plans(cls, code),
        "Process rewards": rewards(code),
        "Sees": ", ".join(["gold solutions"] * cls.uses_gold + ["warm-start corpus"] * cls.uses_corpus),
        "Differences": str(len(differences(document))),
        "Evidence": _markdown(evidence(document)),
    }


# -- a docstring -------------------------------------------------------------------------------------------


def differences(document: str) -> list[str]:
    """The bullets below the line that begins with :data:`DIFFERENCES`, each in one line."""
    _, _, rest = f"\n{document}".partition(f"\n{DIFFERENCES}")
    found: list[str] = []
    for line in rest.split("\n")[1:]:
        if line.startswith("- "):
            found.append(line[2:])
        elif found and line.startswith("  "):
            found[-1] += f" {line.strip()}"
        elif found and line.strip():  # another paragraph
            break
    return [" ".join(one.split()) for one in found]


def evidence(document: str) -> str:
    """The paragraph that begins with :data:`EVIDENCE`, in one line and without that word; ``none``."""
    paragraphs = [" ".join(one.split()) for one in re.split(r"\n\s*\n|\n(?=Evidence:)", document)]
    return next(
        (one.removeprefix(EVIDENCE).strip() for one in paragraphs if one.startswith(EVIDENCE)), "none"
    )


# -- a class -----------------------------------------------------------------------------------------------


def code_of(cls: type[Method]) -> Code:
    own = [base for base in cls.__mro__ if issubclass(base, Method) and base is not Method]
    files = {inspect.getfile(base) for base in own}
    nodes = [node for file in files for node in ast.walk(ast.parse(Path(file).read_text("utf-8")))]
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    return Code(
        {node.func.id for node in calls if isinstance(node.func, ast.Name)},
        {node.attr for node in nodes if isinstance(node, ast.Attribute)},
        any(
            isinstance(node.func, ast.Attribute) and node.func.attr == "train"
            and not any(keyword.arg in ("objective", None) for keyword in node.keywords)
            for node in calls
        ),
    )  # fmt: skip


def objectives(cls: type[Method], code: Code) -> list[str]:
    """Those among its hyper-parameters, or else those that its code makes; and that of bare data."""
    defaults = [one.default for one in cls.model_fields.values() if isinstance(one.default, Objective)]
    found = {type(one).__name__ for one in defaults} or code.called & set(OBJECTIVES)
    if code.bare:
        kind = Pair if "Pair" in code.called else Example
        found |= {next(name for name, one in OBJECTIVES.items() if one.data is kind)}
    return [name for name in OBJECTIVES if name in found]


def plans(cls: type[Method], code: Code) -> Literal["always", "option", "no"]:
    annotation = cls.model_fields["plans"].annotation
    if get_origin(annotation) is Literal:
        return "always" if get_args(annotation) == (True,) else "no"
    return "option" if code.attributes & {"affords", "budget", "remaining"} else "no"


def rewards(code: Code) -> Literal["optional", "needed", "no"]:
    if "has_process_rewards" in code.attributes:
        return "optional"
    return "needed" if "score" in code.attributes else "no"


def _markdown(text: str) -> str:
    """A text as it is, but for code between backticks."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    shown = [part if part.startswith("`") else re.sub(r"[\\*_<~$\[\]]", r"\\\g<0>", part) for part in parts]
    return "".join(shown).replace("|", "\\|")
