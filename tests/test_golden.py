"""Every baseline's calls on the Lab, with all their arguments, against those on record in golden/.

A transcript that changes is a method that changes. Where that is meant, renew them and read the difference:
``pytest tests/test_golden.py --renew-golden``, then ``git diff tests/golden``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from difflib import unified_diff
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fake_lab import ACCURACIES, NAMES, SMALL, Call, FakeLab, fake_lab, method_class, rounds_of

from repro.method import (
    DPO,
    BudgetSpent,
    Completion,
    Example,
    Optimizer,
    Pair,
    PolicyGradient,
    Problem,
    SFTStage,
)
from repro.objectives import Settings

GOLDEN = Path(__file__).with_name("golden")
ROUNDS = 4
LIMIT = 12_000  # FLOPs, of methods that plan: these are played to their last round, and others have none


# --- writing a transcript ---------------------------------------------------------------------------------


def played(name: str, scored: bool = False, /, **overrides: Any) -> FakeLab:
    limit, rounds = (LIMIT, 99) if method_class(name)(**overrides).plans else (1_000_000, ROUNDS)
    lab = fake_lab(name, accuracy=ACCURACIES["mixed"], limit=limit, process_rewards=scored)
    try:
        for _ in rounds_of(name, lab, rounds, **overrides):
            lab.record("round", ended=lab.round, spent=lab.spent)
    except BudgetSpent:
        lab.record("budget", spent=lab.spent)
    return lab


@cache
def as_it_is(name: str, scored: bool) -> FakeLab:
    return played(name, scored)


def digest(rows: Sequence[str]) -> str:
    return hashlib.sha256("\x1f".join(rows).encode()).hexdigest()[:8]


def shown(value: Any) -> str:
    """An argument in few characters: of long lists their length and a digest."""
    match value:
        case Settings():
            changed = value.model_dump(exclude_defaults=True).items()
            kind = "" if isinstance(value, Optimizer) else type(value).__name__
            return f"{kind}({','.join(f'{key}={shown(item)}' for key, item in changed)})"
        case list() if len(set(map(repr, value))) == 1 and not isinstance(value[0], Problem | Pair | Example):
            return shown(value[0])
        case list():
            return f"{len(value)}:{digest([text_of(row) for row in value])}"
        case float():
            return f"{value:.6g}"
        case None:
            return "-"
    return str(value)


def text_of(row: Any) -> str:
    match row:
        case Problem():
            return row.id
        case Completion():
            return "\x1e".join([row.problem.id, row.text])
        case Example():
            return "\x1e".join([row.problem.id, row.response, f"{row.weight:.6g}" * (row.weight != 1)])
        case Pair():
            return "\x1e".join([row.problem.id, *row.responses])
    return str(row)


def line(call: Call) -> str:
    arguments = " ".join(f"{key}={shown(value)}" for key, value in call.arguments.items())
    return f"{call.what:9} {arguments}"


def visits(lab: FakeLab) -> list[str]:
    """How often the problems were sampled, and how often they are in the training data."""
    sampled = Counter[str]()
    for call in lab.made("sample"):
        for problem, n in zip(call["problems"], call["n"], strict=True):
            sampled[problem.id] += n
    trained = Counter(row.problem.id for call in lab.made("train") for row in call["data"])
    return [
        f"{what:9} {seen.total()} over {len(seen)} problems, {min(seen.values())} to {max(seen.values())}"
        for what, seen in (("sampled", sampled), ("trained", trained))
        if seen
    ]


def transcript(name: str, lab: FakeLab) -> str:
    settings = " ".join(f"{key}={shown(value)}" for key, value in SMALL.get(name, {}).items())
    lines = [*map(line, lab.calls), *visits(lab)]
    title = f"{name}, {'with' if lab.process_rewards else 'without'} process rewards" if lab.asked else name
    title += ", planning from its budget" * lab.plans
    return "\n".join([title, f"digest    {digest(lines)}", f"settings  {settings}".rstrip(), *lines, ""])


# --- comparing it -----------------------------------------------------------------------------------------


def variants(name: str) -> dict[str, FakeLab]:
    """The method as it is, with process rewards if it asks for them, and planning if it may."""
    found = {name: as_it_is(name, False)}
    if found[name].asked:
        found[f"{name}-process"] = as_it_is(name, True)
    if found[name].made("affords") and not found[name].plans:
        found[f"{name}-plans"] = played(name, plans=True)
    return found


@pytest.mark.promise(
    "A fair comparison", "What a method asks of the Lab is on record, call by call, and a change is seen."
)
@pytest.mark.parametrize("name", NAMES)
def test_calls_are_those_on_record(name: str, pytestconfig: pytest.Config) -> None:
    for variant, lab in variants(name).items():
        path = GOLDEN / f"{variant}.txt"
        new = transcript(name, lab)
        if pytestconfig.getoption("renew_golden"):
            path.write_text(new)
        old = path.read_text() if path.exists() else ""
        changes = unified_diff(old.splitlines(), new.splitlines(), str(path), "now", lineterm="", n=1)
        hint = "If this is meant: pytest tests/test_golden.py --renew-golden"
        if new != old:
            pytest.fail("\n".join([f"{name} calls the Lab differently.", *changes, hint]), pytrace=False)


def test_every_transcript_has_a_method_and_short_lines() -> None:
    for path in GOLDEN.iterdir():
        assert path.stem.partition("-")[0] in NAMES
        assert max(map(len, path.read_text().splitlines())) < 230


# --- every setting reaches the Lab ------------------------------------------------------------------------

# What a field changes nothing by: where a class takes over another's and leaves it without use.
IDLE = {
    *(("star_acc_lazy", field) for field in ("priority", "ties", "power", "pops")),
    *((name, field) for name in ("online_rft", "iterative_rft")
      for field in ("n_star", "n_probe", "balance_over", "thresholds", "aggregation")),
    ("iterative_rft", "horizon"), ("star_acc_full_k", "rationalise"), ("rest_em", "rationalise"),
}  # fmt: skip
BASE = {"plans", "rounds"}  # of every method
FIELDS = [
    (name, field)
    for name in NAMES
    for field in method_class(name).model_fields
    if field not in BASE and (name, field) not in IDLE
]


CHOICES = {
    "min": "mean", "\n": "then", "growth": "epochs", "last, win": "win, last", "random": "id",
    "floor": "round", "all": "kept", "pairs": "chosen", "errors": "uniform", "prop2diff": "uniform",
}  # fmt: skip
UNSET = {
    "sft_stage": SFTStage(epochs=1, batch_size=4, optimizer=Optimizer(learning_rate=1e-4)),
    "n_star": 5,
    "n_problems": 20,
}


def another(field: str, value: Any) -> Any:
    """A setting of the same type that should make a difference."""
    match value:
        case None:
            return UNSET[field]
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value / 2 if value <= 1 else value * 2
        case (only,):
            return (only / 2,)
        case tuple():
            return value[: len(value) // 2]
        case Optimizer():
            return value.model_copy(update={"learning_rate": 2 * value.learning_rate})
        case DPO():
            return value.model_copy(update={"beta": 2 * value.beta})
        case PolicyGradient():
            return value.model_copy(update={"kl": value.kl + 0.1})
    return CHOICES[value]


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_every_setting_makes_a_difference(name: str, field: str) -> None:
    value = another(field, getattr(method_class(name)(**SMALL.get(name, {})), field))
    both = (False, True) if as_it_is(name, False).asked or field == "process_rewards" else (False,)
    assert any(
        played(name, scored, **{field: value}).calls != as_it_is(name, scored).calls for scored in both
    ), f"{name} calls the Lab alike with {field}={value!r}: use it, or give SMALL a setting where it matters"
