"""Reasoning paths (Yuan et al. 2023; arXiv:2308.01825): what makes two solutions of a problem the same."""

import re
from collections.abc import Sequence
from fractions import Fraction

NUMBER = r"-?(?:\d++(?>(?:\.\d++)?)|\.\d++)"
SIDE = rf"{NUMBER}(?:\s*[-+*/%]\s*{NUMBER})+"
EQUATION = re.compile(rf"(?<![\d.])({SIDE})\s*=\s*({NUMBER})(?!\s*[-+*/%]\s*[\d(.])")
SIGNS = {r"\\times|\\cdot|\u00d7|(?<=[\d\s])x(?=[\d\s])": "*", r"\\div|\u00f7": "/", r"\bmod\b": "%"}


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
