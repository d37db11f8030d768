"""RFT: Scaling Relationship on Learning Mathematical Reasoning with Large Language Models
(Yuan et al. 2023; arXiv:2308.01825).

Rejection-sampling fine-tuning, one round:
1. sample k solutions per problem at temperature 0.7;
2. keep those with the right answer in which every written equation is arithmetically true;
3. keep one per distinct reasoning path, that is per ordered list of equations; of two with the same
   path, the one farther (summed edit distance) from the other kept solutions of its problem;
4. fine-tune the *base* model on them.

Differences from the paper:
- k is planned from the budget (so there is one run per budget): starting at 1, k is at most doubled as
  long as what would be left still pays for `epochs` passes over the paths, supposing that these grow in
  proportion to k. Training then goes on to the end of the budget, so `epochs` is a floor.
- Only the model's own solutions are trained on ("rft_self"): no other method here sees gold rationales,
  and the sampling model is the base model, not a model first fine-tuned on gold.
- Solutions without <<...>> calculator annotations are keyed by their `a op b = c` equations, failing that
  by their text; in the released code they all share the empty key. Equations are checked wherever they
  are written, by exact fractions within the code's tolerance of 0.001; unreadable ones are not judged.
- The code's off-by-one in its seeds (99 of 100 files used) is not reproduced.
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar, Literal

from repro.method import Example, Lab, Method, Optimizer

NUMBER = r"-?(?:\d++(?:\.\d++)?+|\.\d++)"
SIDE = rf"{NUMBER}(?:\s*[-+*/%]\s*{NUMBER})+"
EQUATION = re.compile(rf"(?<![\d.])({SIDE})\s*=\s*({NUMBER})(?!\s*[-+*/%]\s*[\d(.])")
SIGNS = {r"\\times|\\cdot|\u00d7|(?<=[\d\s])x(?=[\d\s])": "*", r"\\div|\u00f7": "/", r"\bmod\b": "%"}


class RFT(Method):
    title: ClassVar[str] = "RFT"
    paper: ClassVar[str] = "Yuan et al. 2023, arXiv:2308.01825"
    one_round: ClassVar[bool] = True

    plans: Literal[True] = True  # see the differences from the paper
    n_problems: int | None = None  # at most so many, shuffled; the paper takes all
    k_max: int = 100  # paper: k = 100
    temperature: float = 0.7  # code
    top_k: int = 50  # code sets none, so the default of its library applies
    epochs: float = 3.0  # code: train_*.sh
    batch_size: int = 128  # code: train_*.sh
    optimizer: Optimizer = Optimizer(learning_rate=2e-5, warmup_ratio=0.03, schedule="cosine")  # code

    def round(self, lab: Lab, state: Any) -> None:
        order = lab.rng("order").permutation(len(lab.problems))[: self.n_problems]
        problems = [lab.problems[i] for i in order]
        correct: list[list[str]] = [[] for _ in problems]
        k, more = 0, 1
        while more:
            spent_before = lab.spent
            drawn = lab.sample(problems, more, temperature=self.temperature, top_k=self.top_k)
            for texts, completions in zip(correct, drawn, strict=True):
                texts += [c.text for c in completions if c.correct and equations_hold(c.text)]
            k += more
            one_more = (lab.spent - spent_before) / more
            paths = [
                Example(problem, text)
                for problem, texts in zip(problems, correct, strict=True)
                for text in {path(text): text for text in texts}.values()
            ]
            passes = self.epochs * len(paths) / self.batch_size
            training = passes * lab.step_cost(paths, self.batch_size) if paths else 0.0
            more = further(lab.remaining, k, one_more, training, self.k_max)
        lab.log("sampled", k=k, correct=sum(map(len, correct)), paths=len(paths))
        if not paths:
            return

        data = [
            Example(problem, text)
            for problem, texts in zip(problems, correct, strict=True)
            for text in distinct(texts)
        ]
        lab.train(data, start="base", batch_size=self.batch_size, optimizer=self.optimizer)


def further(remaining: int, k: int, one_more: float, training: float, k_max: int) -> int:
    """How many more samples per problem to draw, having k of them.

    ``one_more`` is the price of one sample of every problem and ``training`` that of the wanted epochs
    over today's paths, both in FLOPs. At most a doubling, because the extrapolation is linear.
    """
    affordable = int((remaining - training) / (one_more + training / k))
    return max(0, min(affordable, k, k_max - k))


def equations(text: str) -> list[tuple[str, str]]:
    """The (left, right) sides of the equations between plain numbers in ``text``, in order."""
    text = re.sub(r"(?<=\d),(?=\d{3})|\\?\$", "", text)
    for sign, plain in SIGNS.items():
        text = re.sub(sign, plain, text)
    found = EQUATION.finditer(text)
    # After an operator or a bracket the match is the tail of something longer: not ours to judge.
    whole = [m for m in found if not text[: m.start()].rstrip().endswith(tuple("+-*/%^()"))]
    return [("".join(m[1].split()), m[2]) for m in whole]


def equations_hold(text: str) -> bool:
    """Whether every equation in ``text`` is true to within 0.001 (products before sums, left to right)."""
    for left, right in equations(text):
        terms: list[Fraction] = []
        try:
            for sign, number in re.findall(rf"([-+*/%]?)({NUMBER})", left):
                value = Fraction(number)
                if sign == "*":
                    terms[-1] *= value
                elif sign == "/":
                    terms[-1] /= value
                elif sign == "%":
                    terms[-1] %= value
                else:
                    terms.append(-value if sign == "-" else value)
            if abs(sum(terms) - Fraction(right)) >= Fraction(1, 1000):
                return False
        except (ZeroDivisionError, ValueError):  # ValueError: beyond Python's 4,300-digit limit
            return False
    return True


def path(text: str) -> str:
    """What makes two solutions the same path: annotations, else equations, else the normalised text."""
    steps = re.findall(r"<<([^<>]*)>>", text) or [f"{left}={right}" for left, right in equations(text)]
    return "|".join("".join(step.split()) for step in steps) or " ".join(text.lower().split())


def distinct(texts: Sequence[str]) -> list[str]:
    """One text per path; a newcomer replaces the holder of its path if it is farther from the others."""
    kept: dict[str, str] = {}
    for text in dict.fromkeys(texts):
        key = path(text)
        others = [other for name, other in kept.items() if name != key]
        if key not in kept or spread(text, others) > spread(kept[key], others):
            kept[key] = text
    return list(kept.values())


def spread(text: str, others: Sequence[str]) -> int:
    return sum(edit_distance(text, other) for other in others)


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance, one bit per character of ``a`` (Myers 1999, in Hyyrö's 2003 form)."""
    where: dict[str, int] = {}
    for i, character in enumerate(a):
        where[character] = where.get(character, 0) | 1 << i
    mask, distance = (1 << len(a)) - 1, len(a)
    up, down = mask, 0  # rows where the distance rises or falls by one from the row above
    for character in b:
        match = where.get(character, 0)
        diagonal = (((match & up) + up) ^ up) | match | down
        rises, falls = down | (mask & ~(diagonal | up)), up & diagonal
        distance += (rises >> len(a) - 1 & 1) - (falls >> len(a) - 1 & 1) if a else 1
        rises, falls = rises << 1 | 1, falls << 1
        up, down = mask & (falls | ~(match | down | rises)), mask & rises & (match | down)
    return distance
