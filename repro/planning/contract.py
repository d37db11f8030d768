"""The contract of a method, tried in memory by ``repro check-method``; and a file to begin one with."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import product
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
from pydantic import BaseModel

from repro import files
from repro.config import NAME
from repro.discovery import BASELINES, BY_NAME, BY_TYPE, find, instance
from repro.errors import UserError
from repro.flops import FORWARD_PASSES, ModelShape, flops, sample_tally
from repro.method import Method, Misuse, Role
from repro.planning.rehearsal import Idle, RehearsalLab, Script, Stage, play

SHAPE = ModelShape(  # of a small Llama
    body=61_440, head=3_200, attention=256, windowed=0, window=0, parameters=68_160, idle=0, sides=1_856
)
PROBLEMS, PROMPT, COMPLETION = 60, 20, 30
BUDGET = 10_000 * flops(SHAPE, sample_tally(PROMPT, [COMPLETION]), FORWARD_PASSES)  # so many completions
CHANCE = {"some": None, "none": -1.0, "all": 1.0}  # of a problem to be solved; below 0 no hint helps either
CALLS = ("sample", "score", "embed", "train", "step_cost", "gold", "corpus")


@dataclass(frozen=True)
class Check:
    """What was looked at; ``fault`` says what is wrong with it, if anything."""

    name: str
    fault: str = ""


@dataclass(frozen=True)
class Played:
    """What a play called, in order, with a digest of the arguments; what it ended with, if not its budget;
    and whether it drew from a generator that all of Python shares."""

    solved: str
    calls: list[tuple[str, str]]
    error: Exception | None
    shared: bool


class RecordingLab(RehearsalLab):
    """A scripted Lab that keeps what it was asked."""

    def __init__(self, stage: Stage, budgets: Sequence[int], method: Method) -> None:
        super().__init__(stage, budgets, method)
        self.calls: list[tuple[str, str]] = []

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in CALLS:
            return found

        def call(*given: Any, **named: Any) -> Any:
            self.calls.append((name, files.sha256_of(repr((given, sorted(named.items()))).encode())))
            return found(*given, **named)

        return call


def check(name: str) -> list[Check]:
    """The contract, point by point, of what a study would call ``name``. What cannot be looked at, because a
    point before it fails, is left out. Raises UserError where there is no such method."""
    source = find(name)
    if source is None:
        raise UserError(f"there is no method {name}; name a file by its path, or one of {BASELINES}")
    try:
        cls = source.method_class()
    except UserError as error:
        return [Check("class", str(error))]
    checks = [Check(f"class: {cls.__name__}, `{cls.title}`"), Check("docstring", _undocumented(cls))]
    try:
        method = instance(cls, {}, source.name)
    except UserError as error:
        return [*checks, Check("hyper-parameters", str(error))]
    checks.append(Check("hyper-parameters", "; ".join(_unbounded(cls))))
    return [*checks, *_plays(method)]


def render(checks: Sequence[Check]) -> str:
    return "\n".join(f"FAIL  {one.name}: {one.fault}" if one.fault else f"ok    {one.name}" for one in checks)


def _undocumented(cls: type[Method]) -> str:
    docs = [sys.modules[cls.__module__].__doc__, cls.__doc__]
    if cls.role is not Role.METHOD or any("Differences from the paper" in (doc or "") for doc in docs):
        return ""
    return "the file's says nothing under `Differences from the paper`; list each, with its reason"


def _unbounded(cls: type[Method]) -> Iterator[str]:
    for name, field in cls.model_fields.items():
        if not (name in BY_NAME or field.metadata or _bounded(field.annotation)):
            yield f"`{name}` takes anything; bound it, as in Annotated[str, Field(max_length=100)]"


def _bounded(kind: Any) -> bool:
    """Whether a type has few values, or bounds that :func:`repro.discovery.instance` sets."""
    if get_origin(kind) in (Union, UnionType):
        return all(map(_bounded, get_args(kind)))
    known = (*BY_TYPE, bool, NoneType, Enum, BaseModel)
    return get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, known))


def _plays(method: Method) -> Iterator[Check]:
    played = [_played(method, *supposed) for supposed in product(CHANCE, (False, True)) for _ in range(2)]
    errors = [(one, one.error) for one in played if one.error]

    def said(which: Any) -> str:
        return next((f"{type(e).__name__}: {e}" for one, e in errors if which(one, e)), "")

    yield Check("every round spends, until the budget ends", said(lambda _, e: isinstance(e, Idle)))
    yield Check("the Lab is called as it can be", said(lambda _, e: isinstance(e, Misuse)))
    for solved in CHANCE:
        fault = said(lambda one, e, of=solved: one.solved == of and not isinstance(e, Idle | Misuse))
        yield Check(f"plays where {solved} of the answers are correct", fault)
    pairs = zip(played[::2], played[1::2], strict=True)
    again = next((_difference(a, b) for a, b in pairs if a.calls != b.calls), "")
    yield Check("twice the same calls", again)
    shared = "it draws from `random` or `numpy.random`; draw from lab.rng" * any(one.shared for one in played)
    yield Check("random numbers are lab.rng's", shared)


def _difference(a: Played, b: Played) -> str:
    both = zip(a.calls, b.calls, strict=False)
    at = next((i for i, (one, other) in enumerate(both) if one != other), min(len(a.calls), len(b.calls)))
    name = [*a.calls, *b.calls][at][0]
    return f"call {at + 1} of the Lab ({name}) differs between two runs alike; draw from lab.rng alone"


def _played(method: Method, solved: str, rewards: bool) -> Played:
    """Play a method once."""
    stage = Stage(
        Script(
            SHAPE, scorer=None, rewards=rewards, corpus=True, problems=PROBLEMS, prompt=PROMPT, asked=PROMPT,
            shared=0, completion=COMPLETION, max_tokens=2 * COMPLETION, solution=COMPLETION, max_length=256,
            accuracy=0.35,
        )
    )  # fmt: skip
    chance = CHANCE[solved]
    if chance is not None:
        stage.chance = np.full(PROBLEMS, chance)
    lab = RecordingLab(stage, [BUDGET], method)
    before = _shared_state()
    error = None
    try:
        play(method, lab)
    except Exception as caught:
        error = caught
    return Played(solved, lab.calls, error, _shared_state() != before)


def _shared_state() -> str:
    return repr((random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2:]))  # type: ignore


# -- a method to begin with ----------------------------------------------------------------------------------


def new(name: str, folder: Path) -> Path:
    """Write the template into ``folder`` under this name. Raises UserError where it cannot be a method's, or
    the file is there."""
    path = folder / f"{name}.py"
    if not re.fullmatch(NAME, name):
        raise UserError(f"{name!r} names no method; take small letters, digits and underscores")
    if path.exists():
        raise UserError(f"{path} exists; name the method otherwise, or move that file away")
    title = name.replace("_", " ").capitalize()
    text = files.read_text(BASELINES / "_template.py", "restore it")
    text = re.sub(r'^"""Template: .*?(?=Say here)', f'"""{title}. ', text, flags=re.DOTALL)
    text = text.replace('"Template"', f'"{title}"').replace("Template", title.title().replace(" ", ""))
    files.write_text(path, text)
    return path
