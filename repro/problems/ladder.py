"""The ``ladder``: a procedural set of word problems with tiers of difficulty and known worked solutions.

A problem follows one running quantity through a chain of operations, as grade-school word problems do:
``Tom has 7 pens . gets 5 more . keeps one of 4 equal parts . how many pens ?`` with the solution written
step by step, ``7 + 5 = 12 ; 12 / 4 = 3 #### 3``. Its text is made of few words and one token per number, so
that a model of under a million parameters can learn it from nothing on a CPU.

- There are two **worlds** (:data:`WORLDS`) of other words, operations and slips: ``things``, of which the
  example is, and ``miles``, where some operations count back from a number or take three steps. What holds
  in both is less likely to be an accident of one.
- **Knowledge points** are the eight operations of a world.
- **Tiers** ``1``..``4`` are by the number of solution steps (:data:`TIERS`).
- **Splits** are disjoint by construction: the hash of a problem *without its names and objects* (its key)
  decides which split it belongs to, and a key is used once. So no test problem is a re-wording of a
  training problem, whatever sizes and seeds are asked for.
- The warm-start **corpus** is imperfect on purpose: each step is wrong with a probability that depends on
  its operation (:attr:`World.slip_rates`) and the chain goes on from the wrong value. A model trained on it
  can do the operations but slips, which leaves room for self-improvement.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from repro.errors import UserError
from repro.records import Gold, Problem
from repro.seeds import generator

NAME = "ladder"
VERSION = 1
LARGEST = 49  # every number in a problem or solution lies in 0..LARGEST

TIERS = {"1": (1, 2), "2": (3, 3), "3": (4, 5), "4": (6, 7)}  # tier -> (fewest, most) solution steps

# Share of hash space by split. The corpus has its own, so that warm start and training never share a problem.
SPLITS = {"test": (0, 15), "validation": (15, 22), "train": (22, 60), "corpus": (60, 100)}

SIGNS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b,
    "%": lambda a, b: a % b,
}


@dataclass(frozen=True, slots=True)
class Step:
    """One arithmetic step. ``left``/``right`` are numbers, or None for "the running quantity" and -1 for
    "the result of the step before"."""

    left: int | None
    sign: str
    right: int | None

    def operands(self, running: int, previous: int) -> tuple[int, int]:
        """The two numbers, given the running quantity and the result of the step before."""
        left, right = (
            running if side is None else previous if side == PREVIOUS else side
            for side in (self.left, self.right)
        )
        return left, right


RUNNING = None
PREVIOUS = -1


@dataclass(frozen=True, slots=True)
class Operation:
    """A knowledge point: how it is worded, and which steps solve it for operands ``(a, b)``."""

    words: str
    steps: Callable[[int, int], tuple[Step, ...]]
    operands: tuple[tuple[int, int], tuple[int, int]]  # inclusive ranges of a and b


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """Operations, and the words that questions tell them with."""

    stream: str  # of its random numbers, and the first word of its problems' ids
    opening: str  # of a question, with {name}, {start} and {thing}
    closing: str
    names: tuple[str, ...]
    things: tuple[str, ...]
    operations: dict[str, Operation]
    # P(step slips) in the warm-start corpus, by its arithmetic sign. Results that leave the range after an
    # earlier slip are clipped to it, which adds a few wrong steps.
    slip_rates: dict[str, float]


def _one(sign: str) -> Callable[[int, int], tuple[Step, ...]]:
    """The running quantity and the first operand."""
    return lambda a, b: (Step(RUNNING, sign, a),)


THINGS = World(
    stream=NAME,
    opening="{name} has {start} {thing} .",
    closing="how many {thing} ?",
    names=("Tom", "Ann", "Ben", "Eva", "Max", "Mia", "Sam", "Zoe"),
    things=("pens", "cups", "nuts", "caps", "toys", "keys", "eggs", "pins"),
    operations={
        "gain": Operation("gets {a} more .", _one("+"), ((1, 9), (0, 0))),
        "loss": Operation("loses {a} .", _one("-"), ((1, 9), (0, 0))),
        "times": Operation("now has {a} times as many .", _one("*"), ((2, 4), (0, 0))),
        "split": Operation("keeps one of {a} equal parts .", _one("/"), ((2, 4), (0, 0))),
        "remainder": Operation("fills bags of {a} and keeps the rest .", _one("%"), ((3, 7), (0, 0))),
        "packs": Operation(
            "buys {a} packs of {b} .",
            lambda a, b: (Step(a, "*", b), Step(RUNNING, "+", PREVIOUS)),
            ((2, 4), (2, 5)),
        ),
        "sales": Operation(
            "sells {a} packs of {b} .",
            lambda a, b: (Step(a, "*", b), Step(RUNNING, "-", PREVIOUS)),
            ((2, 4), (2, 5)),
        ),
        "friend": Operation(
            "joins a friend who has {a} fewer .",
            lambda a, b: (Step(RUNNING, "-", a), Step(RUNNING, "+", PREVIOUS)),
            ((1, 9), (0, 0)),
        ),
    },
    slip_rates={"+": 0.10, "-": 0.15, "*": 0.30, "/": 0.25, "%": 0.35},
)
MILES = World(
    stream="miles",
    opening="{name} is at mile {start} of the {thing} .",
    closing="which mile of the {thing} ?",
    names=("Ada", "Bob", "Cid", "Dot", "Gus", "Ivy", "Lea", "Ned"),
    things=("road", "trail", "canal", "coast", "river", "dike", "wall", "ridge"),
    operations={
        "ahead": Operation("walks {a} on .", _one("+"), ((3, 12), (0, 0))),
        "back": Operation("walks {a} back .", _one("-"), ((3, 12), (0, 0))),
        "further": Operation("rides {a} times as far .", _one("*"), ((2, 3), (0, 0))),
        "fraction": Operation("returns to one part in {a} .", _one("/"), ((2, 5), (0, 0))),
        "mirror": Operation(
            "crosses to mile {a} less its own .", lambda a, b: (Step(a, "-", RUNNING),), ((20, 45), (0, 0))
        ),
        "stages": Operation(
            "rides {a} stages of {b} .",
            lambda a, b: (Step(a, "*", b), Step(RUNNING, "+", PREVIOUS)),
            ((2, 4), (3, 6)),
        ),
        "relay": Operation(
            "goes {a} times as far less {b} .",
            lambda a, b: (Step(RUNNING, "*", a), Step(PREVIOUS, "-", b)),
            ((2, 3), (1, 9)),
        ),
        "halfway": Operation(
            "goes half of the way to mile {a} .",
            lambda a, b: (Step(a, "-", RUNNING), Step(PREVIOUS, "/", 2), Step(RUNNING, "+", PREVIOUS)),
            ((20, 48), (0, 0)),
        ),
    },
    slip_rates={"+": 0.15, "-": 0.20, "*": 0.15, "/": 0.30},
)
WORLDS = {"things": THINGS, "miles": MILES}

# How each operation is worded in a question, with its operands as groups. No two worlds share a wording.
WORDS = {
    operation: re.compile(re.sub(r"{\w}", "([0-9]{1,9})", operation.words.removesuffix(" .")))
    for world in WORLDS.values()
    for operation in world.operations.values()
}


@dataclass(frozen=True, slots=True)
class Chain:
    """A problem without names: start value and operations with their operands."""

    start: int
    operations: tuple[tuple[str, int, int], ...]
    world: World = THINGS

    def key(self) -> str:
        return f"{self.start}|" + "|".join(f"{name},{a},{b}" for name, a, b in self.operations)

    def split(self) -> str:
        bucket = int.from_bytes(hashlib.sha256(self.key().encode()).digest()[:8]) % 100
        return next(name for name, (low, high) in SPLITS.items() if low <= bucket < high)

    def question(self, name: str, thing: str) -> str:
        known = self.world.operations
        told = [known[op].words.format(a=a, b=b) for op, a, b in self.operations]
        opening = self.world.opening.format(name=name, start=self.start, thing=thing)
        return " ".join([opening, *told, self.world.closing.format(thing=thing)])

    def solve(self, slips: np.random.Generator | None = None) -> tuple[str, int]:
        """The solution text and its final value; with ``slips``, an imperfect one.

        With ``slips`` operands of + and * are also swapped in 30 % of steps, so that a problem has several
        distinct correct paths.
        """
        running, lines = self.start, []
        for op, a, b in self.operations:
            previous = running
            for step in self.world.operations[op].steps(a, b):
                left, right = step.operands(running, previous)
                # After a slip the value may leave the range, and is then held at its end.
                result = min(max(SIGNS[step.sign](left, right), 0), LARGEST)
                if slips is not None:
                    if slips.random() < self.world.slip_rates[step.sign]:
                        result = _slip(result, slips)
                    if step.sign in "+*" and slips.random() < 0.3:
                        left, right = right, left
                lines.append(f"{left} {step.sign} {right} = {result}")
                previous = result
            running = previous
        return " ; ".join(lines) + f" #### {running}", running


def read(question: str) -> tuple[int | None, list[tuple[Step, bool]]]:
    """What a question tells: the number it begins with (None where it tells none), and the steps that its
    words call for, in their order, each with whether a later one counts with the running quantity again."""
    first, *told = question.split(" . ")
    start = re.search("[0-9]{1,9}", first)
    found: list[tuple[Step, bool]] = []
    for clause in told:
        for operation, words in WORDS.items():
            if match := words.fullmatch(clause):
                a, b = (*map(int, match.groups()), 0)[:2]
                steps = operation.steps(a, b)
                uses = [RUNNING in (step.left, step.right) for step in steps]
                found += [(step, any(uses[i + 1 :])) for i, step in enumerate(steps)]
    return (int(start[0]) if start else None), found


def _slip(result: int, random: np.random.Generator) -> int:
    """A wrong value near ``result``: off by 1 to 5, or by ten."""
    while True:
        wrong = result + int(random.choice((-10, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 10)))
        if 0 <= wrong <= LARGEST:
            return wrong


def _draw(world: World, tier: str, random: np.random.Generator) -> Chain | None:
    """A random chain of the tier, or None where a value would leave 0..LARGEST or a split is not even."""
    fewest, most = TIERS[tier]
    wanted = int(random.integers(fewest, most + 1))
    start = running = int(random.integers(2, 25))
    operations: list[tuple[str, int, int]] = []
    steps = 0
    names = list(world.operations)
    while steps < wanted:
        name = names[int(random.integers(len(names)))]
        operation = world.operations[name]
        a, b = (int(random.integers(low, high + 1)) for low, high in operation.operands)
        previous = running
        todo = operation.steps(a, b)
        if steps + len(todo) > wanted:
            continue
        for step in todo:
            left, right = step.operands(running, previous)
            if step.sign == "/" and left % right:
                return None
            previous = SIGNS[step.sign](left, right)
            if not 0 <= previous <= LARGEST:
                return None
        if running < 2:  # nothing left to reason about
            return None
        running = previous
        steps += len(todo)
        operations.append((name, a, b))
    return Chain(start, tuple(operations), world)


def chains(world: World, split: str, tier: str, random: np.random.Generator) -> Iterator[Chain]:
    """Endless distinct chains of one split and tier. Raises UserError when the tier is exhausted."""
    seen: set[str] = set()
    misses = 0
    while True:
        chain = _draw(world, tier, random)
        if chain is None or chain.split() != split:
            continue
        if chain.key() in seen:
            misses += 1
            if misses == 5_000:
                raise UserError(
                    f"the ladder has hardly more than {len(seen)} distinct problems in tier {tier} of split "
                    f"{split}; ask for at most {len(TIERS) * len(seen)} problems"
                )
            continue
        misses = 0
        seen.add(chain.key())
        yield chain


def generate(split: str, size: int, seed: int, world: World = THINGS) -> list[tuple[Problem, Gold]]:
    """``size`` problems of ``split``, tiers in equal shares and interleaved, deterministic in ``seed``."""
    sources = {tier: chains(world, split, tier, generator(world.stream, split, tier, seed)) for tier in TIERS}
    words = generator(world.stream, split, "words", seed)
    problems = []
    tiers = list(TIERS)
    for index in range(size):
        tier = tiers[index % len(tiers)]
        chain = next(sources[tier])
        question = chain.question(str(words.choice(world.names)), str(words.choice(world.things)))
        solution, answer = chain.solve()
        knowledge = tuple(op for op, _, _ in chain.operations)
        problem = Problem(f"{world.stream}-{split}-{seed}-{index:06d}", question, tier, knowledge)
        problems.append((problem, Gold(str(answer), solution)))
    return problems


def corpus(size: int, seed: int, world: World = THINGS) -> Iterator[tuple[str, str, str]]:
    """``size`` rows of the imperfect warm-start corpus: (question, solution text, the answer it arrives at).

    Rows may repeat a chain (with other slips): it is a stream of worked solutions, not a set of problems.
    """
    random = generator(world.stream, "corpus", seed)
    tiers = list(TIERS)
    for index in range(size):
        while True:
            chain = _draw(world, tiers[index % len(tiers)], random)
            if chain is not None and chain.split() == "corpus":
                break
        solution, answer = chain.solve(slips=random)
        name, thing = str(random.choice(world.names)), str(random.choice(world.things))
        yield chain.question(name, thing), solution, str(answer)


def vocabulary(world: World = THINGS) -> list[str]:
    """Every token that a question, hint or solution can hold, in a fixed order."""
    told = [world.opening, world.closing, *(operation.words for operation in world.operations.values())]
    words = {"(", ")", ";", "=", "####", *SIGNS, *world.names, *world.things}
    words.update(word for text in told for word in text.split() if not word.startswith("{"))
    return sorted(words) + [str(number) for number in range(LARGEST + 1)]
