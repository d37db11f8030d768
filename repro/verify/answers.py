"""The text half of the verifier: find the final answer, and decide the plain cases without mathematics.

Pure functions of strings, linear in the length of the text; nothing here evaluates anything.
"""

from __future__ import annotations

import re

from repro.records import Verdict

MAX_ANSWER = 512  # characters; longer "answers" are not answers, and cost the checker most

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{|\\(?:boxed|fbox)\s*(?P<bare>[+-]?[0-9][^\s{}$\\]*)|\\.|[{}]", re.S)
_HASHES = re.compile(r"(?<!#)#{4,}+[ \t]*+([^#\s][^#\n]*)")
_PHRASE = re.compile(  # "the final answer is", "Answer:", "**Answer**:", "Answer $", a line that starts "A:"
    r"\b(?i:answer)\b(?:[^\n.:]{0,80}?\bis\b(?:\s*:)?|[*\s]{0,4}(?::|(?=\$|\\[(\[])))|^A:", re.M
)
_FORMULA = re.compile(r"\$+([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.S)
_SENTENCE_END = re.compile(r"\n|\.(?=\s|$)")


def extract(text: str) -> str | None:
    r"""The final answer that a completion states, as written, or None where it states none.

    Only what follows a closed ``<think>...</think>`` counts. In order: the last well-formed
    ``\boxed{...}`` (also ``\fbox{...}``, ``\boxed 2``); the rest of the last ``#### ...`` line; the
    formula or sentence after the last "the answer is" or "Answer:". The box comes first because chat
    models write ``####`` headings. There is no fall-back to "the last number": it would accept
    truncated reasoning that happens to pass through the right value.
    """
    text = text.rpartition("</think>")[2]
    answer = _last_box(text)
    if answer is None:
        lines = _HASHES.findall(text)
        answer = lines[-1] if lines else _after_phrase(text)
    answer = (answer or "").strip()
    return answer or None


def _last_box(text: str) -> str | None:
    last, start_of_last = None, -1
    stack: list[int | None] = []  # where the content of each open brace begins; None if it is not a box
    for match in _BOX.finditer(text) if "\\boxed" in text or "\\fbox" in text else ():
        token = match[0]
        if match["bare"]:
            last, start_of_last = match["bare"], match.start()
        elif token == "{":
            stack.append(None)
        elif token == "}":
            start = stack.pop() if stack else None
            if start is not None and start > start_of_last and text[start : match.start()].strip():
                last, start_of_last = text[start : match.start()], start
        elif token.endswith("{") and len(token) > 2:
            stack.append(match.end())
    return last


def _after_phrase(text: str) -> str | None:
    end = None
    for match in _PHRASE.finditer(text):
        end = match.end()
    if end is None:
        return None
    rest = text[end:].lstrip(" \t\r\n*:")
    formula = _FORMULA.match(rest)
    if formula:
        return next(group for group in formula.groups() if group)
    return _SENTENCE_END.split(rest, maxsplit=1)[0].rpartition(" is ")[2]  # "Answer: the sum is 5."


_NUMBER = re.compile(
    r"(?P<sign>[+-]?)\s*\$?\s*(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(?:\.(?P<decimals>[0-9]*))?"
    r"\s*\$?\s*(?P<percent>(?:\\?%)?)\s*[.,;]?"
)
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\u2212", "-"),
        (r"(?<=[0-9])(?:\{,\}|,\\!)(?=[0-9])", ""),  # thousands, whatever they stand in
        (r"\{,\}", ","),
        (r"(?<!\\)\\[!,;:]", ""),  # thin spaces, not the row break before a comma
        (r"(?<!\\)\\(?:quad(?![A-Za-z])| )|~|\s+", " "),
        (r"\\phantom(?![A-Za-z])", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\frac\s*(\\pi|[0-9a-zA-Z])\s*(\\pi|[0-9a-zA-Z])", r"\\frac{\1}{\2}"),
        (r"^([+-]?[0-9]+) ([0-9]+)/([0-9]+)$", r"\1\\frac{\2}{\3}"),
        (r"\\(?:left|right)(?![A-Za-z])\.?", ""),
        (r"\\%", "%"),
        (r"\\?\$", ""),
        (r"^\\[(\[](.*)\\[)\]]$", r"\1"),
        (r"\\(?:text|mathrm|mbox|textbf|mathbf)\s*\{([^{}A-Za-z]*)\}", r"\1"),  # \text{13}
        (  # the unit after a number: 10\text{ cm}^2, 5\mathrm{~kg}
            r"^(.*[0-9].*?)\s*\\(?:(?:text|mbox|textnormal)\s*\{[^{}]*\}|mathrm\s*\{[^{}]{2,}\})"
            r"(?:\^\{?[0-9]\}?)?$",
            r"\1",
        ),
        (r"^(?:[\s*`=]|\\approx(?![A-Za-z]))+|[\s*`.,;]+$", ""),
    )
)


def normalise(answer: str) -> str:
    r"""One spelling for answers that differ only in dress. Idempotent.

    A plain number becomes its shortest decimal, ``$1,234.50`` -> ``1234.5``, ``025`` -> ``25``,
    ``27.0`` -> ``27``, ``50\%`` -> ``50%``. Elsewhere dollar signs, spacing commands, ``\left`` and
    ``\right``, ``\dfrac``, a trailing unit in ``\text{}`` and final punctuation go.
    """
    while (number := _number(answer)) is None:
        before = answer
        for pattern, replacement in _REWRITES:
            answer = pattern.sub(replacement, answer)
        if answer == before:  # every rewrite that repeats shortens, so this comes
            return answer
    return number


def is_number(answer: str) -> bool:
    """Whether ``answer`` is a plain integer, decimal or percentage."""
    return _number(answer) is not None


def _number(answer: str) -> str | None:
    match = _NUMBER.fullmatch(answer.strip())
    if not match or not (match["whole"] or match["decimals"]):
        return None
    whole = match["whole"].replace(",", "").lstrip("0") or "0"
    decimals = (match["decimals"] or "").rstrip("0")
    magnitude = f"{whole}.{decimals}" if decimals else whole
    sign = "-" if match["sign"] == "-" and magnitude != "0" else ""
    return sign + magnitude + ("%" if match["percent"] else "")


# math-verify would add them up: it reads "3 7" as the mixed number 10
_SIDE_BY_SIDE = re.compile(r"[0-9]\s+[0-9]")
# Work that is not done yet, such as 30 + 7. A fraction is an answer, and so is 3 \times 10^5.
_PLAIN = r"\s*[0-9][0-9,]*(?:\.[0-9]+)?\s*"
_UNEVALUATED = re.compile(rf"[+-]?{_PLAIN}(?:(?:[-+*]|\\times|\\cdot|\\div){_PLAIN})+")


def compare(answer: str, gold: str) -> Verdict | None:
    """The verdict on two *normalised* answers where text alone decides it, exactly; else None.

    Numbers are equal or they are not, to the last digit. Where just one of them is a percentage,
    equal digits are accepted (the unit was named elsewhere) and the rest is left open. A sum or product
    that is not worked out is no answer where the gold is a number.
    """
    if not answer or len(answer) > MAX_ANSWER or _SIDE_BY_SIDE.search(answer):
        return Verdict.CORRECT if answer and answer == gold else Verdict.UNPARSABLE
    if answer == gold:
        return Verdict.CORRECT
    if is_number(gold) and _UNEVALUATED.fullmatch(answer):
        return Verdict.UNPARSABLE
    if not (is_number(answer) and is_number(gold)):
        return None
    if answer.endswith("%") == gold.endswith("%"):
        return Verdict.WRONG
    return Verdict.CORRECT if answer.rstrip("%") == gold.rstrip("%") else None
