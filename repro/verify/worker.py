"""The checking process: math-verify on one (answer, gold) pair per line of standard input.

Run as a program by :class:`repro.verify.Verifier`, which kills it when it is late. It imports nothing
but math-verify, so that no memory of the caller's comes along, and
ends with its standard input. The first line out is ``ready`` or why
not; then each request, a JSON list ``[answer, gold]``, is replied to by one verdict. An ``answer`` of
null asks only whether the gold can be read.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any


def checker() -> Callable[[str | None, str], str]:
    """The check over math-verify: LaTeX only, and without its own time limits (ours end the process).

    math-verify's plain-expression extractor hands model text to ``parse_expr``, which ends in ``eval``,
    so it is not used. sympy itself calls ``parse_expr`` for the digits of each number it is given;
    it gets a function that reads numbers and refuses all else.
    """
    import math_verify
    import sympy
    import sympy.physics.units  # simplify() needs it, and its import parses words of its own
    from sympy.parsing import sympy_parser

    def number_only(text: str, *args: Any, **kwargs: Any) -> Any:
        text = text.strip()
        if not re.fullmatch(r"[0-9]+|[0-9]+\.[0-9]*|\.[0-9]+", text):
            raise ValueError("only a number may be parsed")
        return sympy.Float(text) if "." in text else sympy.Integer(int(text))

    sympy_parser.parse_expr = number_only
    logging.disable(logging.CRITICAL)  # math-verify warns of its disabled limits

    with_units = math_verify.LatexExtractionConfig(boxed_match_priority=0)
    without = replace(with_units, normalization_config=replace(with_units.normalization_config, units=False))

    def parse(latex: str, config: Any) -> list[Any]:
        return math_verify.parse(f"\\boxed{{{latex}}}", [config], parsing_timeout=None)

    def check(answer: str | None, gold: str) -> str:
        golds = parse(gold, without)
        if answer is None:
            return "unparsable" if all(isinstance(read, str) for read in golds) else "correct"
        # "4 cm" is 4, but its list of units also holds t and c: "4" must not pass for the gold 4t
        answers = parse(answer, without if re.search("[A-Za-z]", gold) else with_units)
        for pair in product(golds, answers):
            try:
                if math_verify.verify(*pair, timeout_seconds=None, raise_on_error=True):
                    return "correct"
            except MemoryError:
                return "timeout"
            except Exception:  # a comparison that sympy cannot make shows no equality
                continue
        return "unparsable" if all(isinstance(read, str) for read in answers) else "wrong"

    return check


def main(cpu_seconds: int, memory_bytes: int) -> None:
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # whatever a library prints stays out of the protocol

    def reply(line: str) -> None:
        replies.write(line + "\n")
        replies.flush()

    try:
        check = checker()
    except Exception as error:  # not installed, or an antlr4 of another version
        return reply(f"{type(error).__name__}: {error}".replace("\n", " "))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it has nothing to write to any file
    reply("ready")
    for line in sys.stdin:
        # SIGXCPU at the limit ends the process, also when the caller is gone.
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(used.ru_utime + used.ru_stime) + 1 + cpu_seconds
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        try:
            reply(check(*json.loads(line)))
        except MemoryError:
            reply("timeout")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
