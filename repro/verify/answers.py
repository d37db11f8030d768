"""The text half of the verifier: find the final answer, and decide the plain cases without mathematics.

Pure functions of strings, fast whatever the text is; nothing here evaluates anything but fractions.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction

from repro.records import Verdict
from repro.verify.units import is_unit

MAX_ANSWER = 512  # characters; longer "answers" are not answers, and cost the checker most

# Runs of white space, and all else that may repeat, are matched possessively: a run that does not lead to a
# match is not tried again in parts. Groups are so by (?>...): a possessive quantifier behind a group matches
# wrongly in Python before 3.11.5 (python/cpython#106052).
_BOX = re.compile(
    r"\\(?:boxed|fbox)\s*+\{|\\(?:boxed|fbox)\s*+(?P<bare>[+-]?[0-9][^\s{}$\\]*)|\\.|[{}]", re.S
)
_BOX_WITHIN = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_HASHES = re.compile(r"(?<!#)#{4,}+[ \t]*+([^#\s][^#\n]*)")
_PHRASE = re.compile(  # "the final answer is", "Answer:", "**Answer**:", "Answer $", a line that starts "A:"
    r"\b(?i:answer)\b(?:[^\n.:]{0,80}?\bis\b(?:\s*+:)?|[*\s]{0,4}(?::|(?=\$|\\[(\[])))|^A:", re.M
)
_FORMULA = re.compile(r"\$++((?>(?:[^$\\]|\\.)+))\$++|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.S)
_SENTENCE_END = re.compile(r"\n|\.(?=\s|$)")
# Behind a formula: nothing more of the answer.
_ALL_SAID = re.compile(r"[\s*.,;:!]*+(?:$|(?:because|since|where)\b)", re.I)


_THOUGHTS_END = "</think>"


def closed(text: str) -> str:
    """A completion of a model that thinks first. Thoughts that were cut off are closed, so that
    :func:`extract` finds no answer in them: they pass through the right value now and then."""
    return text if _THOUGHTS_END in text else text + _THOUGHTS_END


def extract(text: str) -> str | None:
    r"""The final answer that a completion states, as written, or None where it states none.

    Only what follows a closed ``<think>...</think>`` counts. In order: the last well-formed
    ``\boxed{...}`` (also ``\fbox{...}``, ``\boxed 2``); the rest of the last ``#### ...`` line; the
    formula or sentence after the last "the answer is" or "Answer:". The box comes first because chat
    models write ``####`` headings. There is no fall-back to "the last number": it would accept
    truncated reasoning that happens to pass through the right value.
    """
    text = text.rpartition(_THOUGHTS_END)[2]
    answer = _last_box(text)
    if answer is None:
        lines = _HASHES.findall(text)
        answer = lines[-1] if lines else _after_phrase(text)
    answer = (answer or "").strip()
    return answer or None


def _last_box(text: str) -> str | None:
    r"""What the last box holds that is in no other. A box within it is part of it: `-\boxed{5}` is not 5."""
    start = end = -1  # of the content of the last
    stack: list[int | None] = []  # where the content of each open brace begins; None if it is not a box
    for match in _BOX.finditer(text) if "\\boxed" in text or "\\fbox" in text else ():
        token = match[0]
        if match["bare"]:
            start, end = match.span("bare")
        elif token == "{":
            stack.append(None)
        elif token == "}":
            opened = stack.pop() if stack else None
            if opened is not None and (opened < start or text[opened : match.start()].strip()):
                start, end = opened, match.start()
        elif token.endswith("{") and len(token) > 2:
            stack.append(match.end())
    return None if end < 0 else _BOX_WITHIN.sub("", text[start:end])


def _after_phrase(text: str) -> str | None:
    end = None
    for match in _PHRASE.finditer(text):
        end = match.end()
    if end is None:
        return None
    rest = text[end:].lstrip(" \t\r\n*:")
    formula = _FORMULA.match(rest)
    if formula:
        content = next(group for group in formula.groups() if group)
        sentence = _SENTENCE_END.split(rest[formula.end() :], maxsplit=1)[0]
        # "$3$ or $4$" and "$3$/4" do not answer 3
        return content if _ALL_SAID.match(sentence) else content + sentence
    return _SENTENCE_END.split(rest, maxsplit=1)[0].rpartition(" is ")[2]  # "Answer: the sum is 5."


# -- one spelling --------------------------------------------------------------------------------------

_NUMBER = re.compile(
    r"(?P<sign>[+-]?)\s*+[$€£¥]?+\s*+"
    r"(?P<whole>[0-9]{1,3}(?>(?:,[0-9]{3})+)|[0-9]*+)(?:\.(?P<decimals>[0-9]*+))?"
    r"\s*+[$€£¥¢]?+\s*+(?P<percent>(?:\\?%)?)\s*+[.,;]?"
)
_UNICODE = str.maketrans(
    {
        "\u2212": "-", "\u00d7": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "±": r"\pm ",
        "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∞": r"\infty ", "°": r"^\circ ",
        "π": r"\pi ", "θ": r"\theta ", "\u222a": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ",
        "√": r"\sqrt ", "\u200b": "",
    }
    | {
        sign: r"\frac{" + unicodedata.normalize("NFKC", sign).replace("\u2044", "}{") + "}"
        for sign in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"
    }
)  # fmt: skip
_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "₀₁₂₃₄₅₆₇₈₉₊₋"
_PLAIN = "0123456789+-"
_UNDER_ROOT = re.compile(r"√\s*+(?:([0-9]++(?:\.[0-9]++)?|[A-Za-zπ])|\(([^()√]*+)\))")
_THOUSANDS = re.compile(
    r"(?<![0-9.,}!;:])[0-9]{1,3}(?>(?:(?:\s*+\{\s*+,\s*+\}|,\\!\s*+|\\[,;:])[0-9]{3})+)(?![0-9])"
)
_ARGUMENT = r"\s*+(\{[^{}]*+\}|\\pi(?![A-Za-z])|[0-9A-Za-z])"


def _braced(match: re.Match[str]) -> str:
    return r"\frac" + "".join(part if part[0] == "{" else f"{{{part}}}" for part in match.groups())


def _half_day(match: re.Match[str]) -> str:
    return f" {match[2].lower()}m"


_Rewrite = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]
_REWRITES: tuple[_Rewrite, ...] = (
    (_THOUSANDS, lambda match: re.sub(r"[^0-9]", "", match[0])),
    (re.compile(r"\{\s*+,\s*+\}"), ","),
    (re.compile(r"(?<!\\)\\!"), ""),  # not the row break before it
    (re.compile(r"(?>(?:(?<!\\)\\(?:q?quad(?![A-Za-z])|[,;: ])|~|\s)+)"), " "),
    (re.compile(r"\\(?:phantom|displaystyle)(?![A-Za-z])"), ""),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(rf"\\frac{_ARGUMENT}{_ARGUMENT}"), _braced),
    (re.compile(r"^([+-]?[0-9]++) ([0-9]++)/([0-9]++)$"), r"\1\\frac{\2}{\3}"),
    (re.compile(r"\\(?:left|right)(?![A-Za-z])\.?"), ""),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\\?\$"), ""),
    (re.compile(r"^[€£¥](?=[0-9])|(?<=[0-9])[€£¥¢]$"), ""),
    (re.compile(r"^\\[(\[](.*)\\[)\]]$"), r"\1"),
    (re.compile(r"^\{([^{}]*+)\}$"), r"\1"),
    (re.compile(r"\\(?:text|mathrm|mbox|textbf|mathbf)\s*+\{([^{}A-Za-z]*+)\}"), r"\1"),  # \text{13}
    (re.compile(r"^\\(?:text|mbox)\s*+\{([+-]?[0-9][^{}]*+)\}$"), r"\1"),  # \text{13 cm}
    (
        re.compile(
            r"(?<=[0-9])\s*+(?>(\\text\s*+\{)?)\s*+(?:per ?cent|percentage|pct)\.?+\s*+(?(1)\})$", re.I
        ),
        "%",
    ),
    (re.compile(r"(?<=[0-9])\s*+(?>(\\text\s*+\{)?)\s*+([ap])\.?+ ?+m\.?+\s*+(?(1)\})$", re.I), _half_day),
    (
        re.compile(r"^([+-]?[0-9.,]++)\s*+(?:\^\s*+(?:\\circ|\{\s*+\\circ\s*+\})|\\degrees?+)\s*+[CF]?+$"),
        r"\1",
    ),
    (re.compile(r"(?<=[0-9])\s*+_\s*+(?:\{\s*+([0-9]++)\s*+\}|([0-9]++))"), r"_{\1\2}"),
    (re.compile(r"(?<=[0-9])_\{10\}"), ""),  # the base that needs no mention
    (re.compile(r"(?<!\\)\\$"), ""),  # of a space at the end
    (re.compile(r"^(?>(?:[\s*`=]|\\approx(?![A-Za-z]))+)"), ""),
)
_MARKED = re.compile(
    r"\\(?:text(?:normal|bf|it|rm)?|mbox|math(?:rm|bf|it))\s*+\{([^{}]*+)\}(?>(?:\s*+\^(?:[0-9]|\{[0-9]\}))?)$"
)
_NO_LETTERS = re.compile(r"(?>(?:[^A-Za-z\\]|\\(?:[A-Za-z]++|.))*)", re.S)
MAX_ROUNDS = 10  # answers are dressed in fewer layers


def normalise(answer: str) -> str:
    r"""One spelling for answers that differ only in dress. Idempotent.

    A plain number becomes its shortest decimal, ``$1,234.50`` -> ``1234.5``, ``025`` -> ``25``,
    ``27.0`` -> ``27``, ``50\%`` -> ``50%``, and loses its unit, ``12 cookies`` -> ``12``. Elsewhere dollar
    signs, spacing commands, ``\left`` and ``\right``, ``\dfrac``, units and final punctuation go, and signs
    of Unicode become LaTeX. Texts beyond ``MAX_ANSWER``, or in more than ``MAX_ROUNDS`` layers of dress, are
    left as they are.
    """
    number = _number(answer)
    if number is not None or len(answer) > MAX_ANSWER:
        return answer if number is None else number
    text = answer = answer.encode(errors="replace").decode()  # half a surrogate pair cannot be written down
    if not text.isascii():
        text = _ascii(text)
    for _ in range(MAX_ROUNDS):
        before = text
        for pattern, replacement in _REWRITES:
            text = pattern.sub(replacement, text)
        text = _without_unit(text.rstrip(" *`.,;"))
        number = _number(text)
        if number is not None:
            return number
        if text == before:
            return text
    return answer


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


def _ascii(answer: str) -> str:
    """The signs of Unicode that mathematics is written in, as LaTeX."""
    answer = _UNDER_ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2] or ''}}}", answer)
    for sign, raised in zip("^_", _RAISED, strict=True):
        plain = str.maketrans(raised, _PLAIN)
        answer = re.sub(f"[{raised}]++", lambda m: f"{sign}{{{m[0].translate(plain)}}}", answer)  # noqa: B023
    return answer.translate(_UNICODE)


def _without_unit(answer: str) -> str:
    r"""``answer`` without the unit behind its last number: ``5\text{ cm}^2``, ``\frac{1}{2} cups``."""
    match = _MARKED.search(answer)
    if match:
        number, unit = answer[: match.start()], match[1]
    else:
        number = _NO_LETTERS.match(answer)[0]  # type: ignore[index]
        unit = answer[len(number) :]
        if not re.search(r"(?:[0-9})]|\\pi)\s*+$", number):
            return answer
    return number.rstrip() if unit and re.search("[0-9]", number) and is_unit(unit, bool(match)) else answer


# -- numbers -------------------------------------------------------------------------------------------

_DECIMAL = r"(?:(?:[0-9]{1,3}(?>(?:,[0-9]{3})+)|[0-9]++)(?:\.[0-9]++)?|\.[0-9]++)"
_QUOTIENT = re.compile(
    rf"(?P<top>{_DECIMAL}) ?/ ?(?P<bottom>{_DECIMAL})"
    rf"|\\frac\{{ ?(?P<over>[+-]?{_DECIMAL}) ?\}}\{{ ?(?P<under>[+-]?{_DECIMAL}) ?\}}"
)
_MIXED = re.compile(
    rf"(?P<whole>[0-9]++) ?\\frac\{{ ?(?P<top>{_DECIMAL}) ?\}}\{{ ?(?P<bottom>{_DECIMAL}) ?\}}"
)
_SCIENTIFIC = re.compile(
    rf"(?P<factor>{_DECIMAL}) ?(?:\\times|\\cdot|\*) ?10 ?\^ ?"
    r"(?P<brace>\{)? ?(?P<ten>[+-]?[0-9]{1,3})(?(brace) ?\})"
)
_SIGNED = re.compile(r"([+-]?) ?(?:\( ?([^()]++)\)|([^()+-].*+))")


def rational(answer: str) -> Fraction | None:
    r"""The value of a *normalised* answer that is a number in its final form, exactly; None for all else.

    Final forms are a decimal, a fraction ``a/b`` or ``\frac{a}{b}``, a mixed number and ``a \times 10^{n}``,
    with a sign and in brackets or not; and a percentage, whose digits count, so that 5% reads 5.
    """
    answer = answer.removesuffix("%").strip()
    number = _number(answer)
    if number is not None:
        return None if number.endswith("%") else Fraction(number)
    signed = _SIGNED.fullmatch(answer)
    if not signed:
        return None
    sign, inside = -1 if signed[1] == "-" else 1, signed[2]
    if inside is not None:
        value = rational(inside)
        return None if value is None or "%" in inside else sign * value
    body = signed[3]
    if match := _QUOTIENT.fullmatch(body):
        top, bottom = (_decimal(match["top"] or match["over"]), _decimal(match["bottom"] or match["under"]))
        return sign * top / bottom if bottom else None
    if match := _MIXED.fullmatch(body):
        bottom = _decimal(match["bottom"])
        return sign * (int(match["whole"]) + _decimal(match["top"]) / bottom) if bottom else None
    if match := _SCIENTIFIC.fullmatch(body):
        return sign * _decimal(match["factor"]) * Fraction(10) ** int(match["ten"])
    return None


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))


ROUNDED = 4  # significant digits, at least, of a decimal that stands for a fraction without an end


def _rounds(decimal: str, exact: Fraction) -> bool:
    """Whether a normalised decimal is what ``exact``, which no decimal can write, rounds to."""
    digits = decimal.removesuffix("%").lstrip("-").partition(".")
    bottom = exact.denominator
    for factor in (2, 5):
        while bottom % factor == 0:
            bottom //= factor
    if bottom == 1 or not digits[2] or len((digits[0] + digits[2]).lstrip("0")) < ROUNDED:
        return False
    return round(exact * 10 ** len(digits[2])) == Fraction(decimal.removesuffix("%")) * 10 ** len(digits[2])


# -- verdicts ------------------------------------------------------------------------------------------

# math-verify would add them up: it reads "3 7" as the mixed number 10
_SIDE_BY_SIDE = re.compile(r"[0-9]\s++[0-9]")
# Work that is not done yet: an operation on a number, or numbers in brackets beside each other.
_UNDONE = re.compile(
    r"\\[lc]?dots|[0-9)}\]|!%]\s*+(?:[-+*/]|\\(?:times|cdot|div|ast|bmod|mod|pmod)(?![A-Za-z]))|[0-9)]\s*+[({]|\}\s*+[(0-9]"
)
_BRACKETED = re.compile(r"\([^()]*+\)")
_COMMAND = re.compile(r"\\[A-Za-z]++")
_EQUALS = re.compile(r"(?<![<>!\\])=")
_NAME = re.compile(
    r"\s*+\\?[A-Za-z]++\s*+(?>(?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9]++\}))?)(?:\([A-Za-z0-9]\))?\s*+"
)
_BASE = re.compile(r"[0-9}]\s*+_\s*+\{?+([^{}\s]*+)")
_PRIME = re.compile(r"[A-Za-z]'++")
_NOT = re.compile(r"\\l?(?:not|neg)(?![A-Za-z])|\bnot\s*+=|\u0338")
_HALVES = (" am", " pm")  # of the day
_TEXT = re.compile(r"\\(?:text(?:normal|bf|it|rm)?|mbox)\s*+\{([^{}]*+)\}")


def compare(answer: str, gold: str) -> Verdict | None:
    """The verdict on two *normalised* answers where text alone decides it, exactly; else None.

    Numbers are equal or they are not. A decimal stands for a fraction that no decimal can write if it is
    what the fraction rounds to, in ``ROUNDED`` significant digits or more. Where just one of them is a
    percentage, equal digits are accepted (the unit was named elsewhere), and so are equal values.
    Arithmetic that is not worked out is no answer where the gold is a number.
    """
    if answer and answer == gold:
        return Verdict.CORRECT
    if not answer or len(answer) > MAX_ANSWER or _SIDE_BY_SIDE.search(answer):
        return Verdict.UNPARSABLE
    if answer.replace(" ", "") == gold.replace(" ", "") or _same_words(answer, gold):
        return Verdict.CORRECT
    if any(mark.findall(answer) != mark.findall(gold) for mark in (_BASE, _PRIME, _NOT)):
        return Verdict.WRONG  # math-verify reads none of them
    if gold.endswith(_HALVES):
        return Verdict.CORRECT if _same_time(answer, gold) else Verdict.WRONG
    answer = re.sub(f"(?:{'|'.join(_HALVES)})$", "", answer)
    wanted = rational(gold)
    if wanted is None:
        return None
    *before, last = _EQUALS.split(answer)
    if before and all(_NAME.fullmatch(side) for side in before):  # x = 5
        return compare(normalise(last), gold)
    given = rational(answer)
    if given is not None:
        return Verdict.CORRECT if _equal(answer, given, gold, wanted) else Verdict.WRONG
    sides = [normalise(side) for part in (*before, last) for side in part.split(r"\approx")]
    if all(rational(side) is None for side in sides) and _is_undone(sides[-1]):
        return Verdict.UNPARSABLE
    return None


def _equal(answer: str, given: Fraction, gold: str, wanted: Fraction) -> bool:
    if given == wanted:
        return True
    if answer.endswith("%") != gold.endswith("%"):
        given, wanted = (
            x / 100 if text.endswith("%") else x for x, text in ((given, answer), (wanted, gold))
        )
        return given == wanted
    return (is_number(answer) and _rounds(answer, wanted)) or (is_number(gold) and _rounds(gold, given))


def _is_undone(answer: str) -> bool:
    if _BRACKETED.fullmatch(answer) or re.search("[A-Za-z]", _COMMAND.sub("", answer)):
        return False  # no number, or in brackets as a whole, which says: this is one
    return bool(_UNDONE.search(answer))


def _same_time(answer: str, gold: str) -> bool:
    """Whether the times of day are the same; an answer need not say which half it means."""
    if answer.endswith(_HALVES) and answer[-3:] != gold[-3:]:
        return False
    said, wanted = (re.sub("(?::00)?(?: [ap]m)?$", "", text) for text in (answer, gold))
    return said == wanted


def _same_words(answer: str, gold: str) -> bool:
    r"""Whether a gold in words, such as ``\text{(C)}``, is what the answer says, marked as words or not."""
    wanted, marks = _TEXT.subn(r"\1", gold)
    if not marks or re.search("[A-Za-z]", _TEXT.sub("", gold)):
        return False
    said, wanted = (re.sub(r"[\s().]++", "", text).casefold() for text in (_TEXT.sub(r"\1", answer), wanted))
    return said == wanted and bool(re.fullmatch("[a-z,]++", wanted))
