"""The checking process: math-verify on batches of (answer, gold) pairs from standard input.

Run as a program by :class:`repro.verify.Verifier`. It imports nothing but math-verify, so that no memory of
the caller's comes along. What it has imported stays in a parent that only forks: the child does the checks,
is ended by the kernel when one takes too much processor time, and the next child is there in milliseconds.

The first line out is ``ready`` or why not. A request is one line, a JSON list of pairs; the replies are
the line ``begun``, then one verdict per line. An ``answer`` of null asks only whether the gold can be
read. ``died N`` says that the child was ended by the signal N. All ends with standard input.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

DIGITS = 1000  # to which numbers that are no fractions must agree
ROUNDED = 6  # decimals and significant digits, at least, of a decimal that stands for such a number
WARM_UP = (
    r"\frac{1}{2}", r"2\sqrt{3}+1", "x^2-3x+2", "(1,2]", r"\{1,2\}", "x=5", r"x \le 5", r"\frac{\pi}{3}",
    r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "1,2,3", "(1,2,3)", r"(-\infty,2)\cup(3,\infty)", "2i+1",
)  # fmt: skip


def checker() -> Callable[[str | None, str], str]:
    """The check over math-verify: LaTeX only, exact, and without its own time limits (ours end the process).

    math-verify's plain-expression extractor hands model text to ``parse_expr``, which ends in ``eval``,
    so it is not used. sympy itself calls ``parse_expr`` for the digits of each number it is given;
    it gets a function that reads numbers, decimals as fractions, and refuses all else.
    """
    import sympy
    import sympy.physics.units  # simplify() needs it, and its import parses words of its own
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
    from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex
    from math_verify import grader
    from sympy.parsing import sympy_parser

    def number_only(text: str, *args: Any, **kwargs: Any) -> Any:
        text = text.strip()
        if not re.fullmatch(r"[0-9]+|[0-9]+\.[0-9]*|\.[0-9]+", text):
            raise ValueError("only a number may be parsed")
        return sympy.Rational(*Fraction(text).as_integer_ratio())

    sympy_parser.parse_expr = number_only
    logging.disable(logging.CRITICAL)  # math-verify warns of its disabled limits

    spelling = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )
    own_case = ConversionConfig(lowercase_symbols=False)

    @lru_cache(maxsize=1024)  # golds come back with every sample
    def read(latex: str) -> tuple[Any, str]:
        """The expression, None if it cannot be read, and its spelling."""
        text = normalize_latex(latex, spelling)
        last = "" if re.search("[,;]", text) else re.split(r"(?<![\\<>!])=", text)[-1].strip()
        for part in dict.fromkeys((text, last)):
            real = not grader.should_treat_as_complex(part)
            try:
                return latex2sympy(
                    part, is_real=real, normalization_config=None, conversion_config=own_case
                ), text
            except MemoryError:
                raise
            except Exception:
                continue
        return None, text

    def near(a: Any, b: Any, digits: int) -> bool | None:
        """Whether two numbers agree to so many digits; None if they have no numerical value."""
        a, b = a.evalf(digits + 10), b.evalf(digits + 10)
        if not (a.is_number and b.is_number and a.is_finite and b.is_finite):
            return None
        return bool(abs(a - b) <= max(abs(a), abs(b)) * sympy.Rational(1, 10**digits))

    def equal(a: Any, b: Any, *precision: int) -> bool:
        """Whether two expressions or matrices are equal. A percentage also equals its digits."""
        if isinstance(a, sympy.MatrixBase) or isinstance(b, sympy.MatrixBase):
            a, b = grader.safe_sympy_doit(a), grader.safe_sympy_doit(b)
            return (
                isinstance(a, sympy.MatrixBase)
                and isinstance(b, sympy.MatrixBase)
                and a.shape == b.shape
                and all(equal(x, y) for x, y in zip(a.flat(), b.flat(), strict=True))
            )
        digits = [grader.get_pct_val(x) for x in (a, b)]
        if digits != [None, None] and (digits[0] or a) == (digits[1] or b):
            return True
        a, b = grader.safe_sympy_doit(a), grader.safe_sympy_doit(b)
        if a == b:
            return True
        if a.is_Rational and b.is_Rational:
            return False
        symbols = sorted(a.free_symbols | b.free_symbols, key=str)
        difference = a - b
        if not symbols:
            if difference.is_Rational:
                return bool(difference == 0)
            alike = near(a, b, 30)
            if alike is not None:
                return alike and bool(near(a, b, DIGITS))
        else:  # not equal anywhere on, if not here
            here = {symbol: sympy.Rational(1009 + 97 * i, 811) for i, symbol in enumerate(symbols)}
            if near(a.xreplace(here), b.xreplace(here), 30) is False:
                return False
        return bool(sympy.expand(difference) == 0 or sympy.simplify(difference).is_zero)

    def safely_equal(a: Any, b: Any, *precision: int) -> bool:
        try:
            return equal(a, b)
        except MemoryError:
            raise
        except Exception:  # a comparison that sympy cannot make shows no equality
            return False

    same_symbol = grader.sympy_compare_symbols

    def symbols_equal(gold: Any, answer: Any) -> bool:
        if {type(gold), type(answer)} == {sympy.Symbol, type(sympy.E)}:  # math-verify takes E for e
            return "e" in (getattr(gold, "name", ""), getattr(answer, "name", ""))
        return bool(same_symbol(gold, answer))

    # math-verify compares members of sets, sides of equations and so on by these, rounded to six decimals
    grader.sympy_numeric_eq = safely_equal
    grader.sympy_symbolic_eq = lambda a, b: False  # all has been tried
    grader.sympy_compare_symbols = symbols_equal

    def equations(expression: Any) -> list[Any]:
        """The equations of a chain a = b = c."""
        parts = (
            getattr(expression, "_unsorted_args", ()) if isinstance(expression, grader.And) else [expression]
        )
        return [part for part in parts if isinstance(part, sympy.Eq)]

    def contradicts_itself(expression: Any) -> bool:
        """Whether it holds an equation between two numbers that differ, such as 4 = 3."""
        return any(
            not (side.lhs.free_symbols or side.rhs.free_symbols) and not safely_equal(side.lhs, side.rhs)
            for side in equations(expression)
        )

    def members(expression: Any) -> list[Any]:
        """Of a list as it was written; a single expression is its own."""
        return list(getattr(expression, "_unsorted_args", [expression]))

    def is_assignment(expression: Any) -> bool:
        """Whether it is a list of equations for different things."""
        named = members(expression)
        return (
            isinstance(expression, sympy.FiniteSet)
            and all(isinstance(one, sympy.Eq) for one in named)
            and len({one.lhs for one in named}) == len(named)
        )

    def check(answer: str | None, gold: str) -> str:
        wanted, wanted_text = read(gold)
        if answer is None:
            return "unparsable" if wanted is None else "correct"
        given, text = read(answer)
        if given is None:
            return "correct" if wanted is None and text == wanted_text else "unparsable"
        if wanted is None or contradicts_itself(given):
            return "wrong"
        listed = members(given) if isinstance(given, sympy.FiniteSet) else []
        if len(listed) > 1 == len(given.args) and not isinstance(wanted, sympy.FiniteSet):
            return "wrong"  # "10, 10" is not 10
        if is_assignment(wanted) and not any(equations(one) for one in listed or [given]):
            wanted = sympy.Tuple(*(one.rhs for one in members(wanted)))  # x = 2, y = 1 asks for this order
        if decimal(answer, given, wanted) or decimal(gold, wanted, given):
            return "correct"
        return "correct" if grader.verify(wanted, given, timeout_seconds=None) else "wrong"

    def decimal(text: str, value: Any, exact: Any) -> bool:
        """Whether ``text`` is a decimal that the number ``exact``, which is no fraction, rounds to."""
        places = len(text.partition(".")[2])
        digits = len(text.strip("-0.").replace(".", ""))
        if not re.fullmatch(r"-?[0-9]+\.[0-9]+", text) or min(places, digits) < ROUNDED:
            return False
        if not isinstance(exact, sympy.Expr) or exact.free_symbols or exact.is_rational is not False:
            return False
        return bool(abs(exact.evalf(places + 30) - value) <= sympy.Rational(1, 2 * 10**places))

    return check


def main(cpu_seconds: float, memory_bytes: int) -> None:
    replies = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints stays out of the protocol

    def reply(line: str) -> None:
        os.write(replies, (line + "\n").encode("ascii"))

    try:
        check = checker()
        for latex in WARM_UP:  # fills the parser's caches and imports what sympy imports late
            check(latex, latex + "+1")
    except Exception as error:  # not installed, or an antlr4 of another version
        return reply(ascii(f"{type(error).__name__}: {error}")[1:-1])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it has nothing to write to any file
    die_with_parent = ctypes.CDLL(None).prctl
    reply("ready")
    while True:
        child = os.fork()
        if not child:
            die_with_parent(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG
            serve(check, cpu_seconds, reply)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 0:
            return
        reply(f"died {-status}")


def serve(check: Callable[[str | None, str], str], cpu_seconds: float, reply: Callable[[str], None]) -> None:
    """Reply to requests until standard input ends."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # whatever was inherited
    for (
        line
    ) in sys.stdin:  # at its first line: only then is there a buffer, which the next child does not get
        reply("begun")
        for answer, gold in json.loads(line):
            signal.setitimer(signal.ITIMER_PROF, cpu_seconds)  # SIGPROF ends the process, whatever it is at
            try:
                verdict = check(answer, gold)
            except MemoryError:
                verdict = "timeout"
            signal.setitimer(signal.ITIMER_PROF, 0)
            reply(verdict)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
