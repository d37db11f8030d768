"""An attack on the verifier: generated answers by the thousand, of which none may be executed, none may take
longer than it is allowed, and none that says something else than the gold may count as right.

The default run tries a share of them; ``-m hours`` tries all 200,000. Both are the same for the same seed.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pytest

import repro.verify
from repro.records import Verdict
from repro.verify import Verifier, closed, extract, normalise
from repro.verify.answers import compare

CORRECT = Verdict.CORRECT
TIMEOUT = 1.0  # seconds of processor time for one answer in a worker
CALLER = 0.5  # and in the caller, which has no limit but that of its patterns


class Attack(NamedTuple):
    kind: str
    text: str
    gold: str
    right: bool = False  # the only verdict that is allowed, else any other


# --- what is generated --------------------------------------------------------------------------------

STATED = [
    "#### {}", r"\boxed{{{}}}", "The answer is {}.", "Answer: {}", "**Answer:** {}", r"\[ \fbox{{{}}} \]",
    r"So $\boxed{{{}}}$ it is.", "A: {}", "The final answer is ${}$.", r"<think>1</think>\boxed{{{}}}",
]  # fmt: skip
DRESSED = [
    "{n}", " {n} ", "{n}.0", "+{n}", "0{n}", "{n}.", "{n} cookies", r"{n}\text{{ cm}}", r"\left({n}\right)",
    r"{n}\,\text{{miles per hour}}", r"\dfrac{{{n}}}{{1}}", "x = {n}", "~{n}~", r"{n}^\circ",
    "{n}\u200b", r"\boxed{{{n}}}",
]  # fmt: skip

# Each changes the whole number {n} > 3, as 2! is 2 and 3!! is 3, into something else: {m} is another such
# number, {d} a digit from 2.
CHANGED_NUMBER = [
    "{n}{d}", "{d}{n}", "{n}000", "{n},000", r"{n}{{,}}000", r"{n}\,000", "{n} 000", "{n}.{d}", "{n}.0{d}",
    "{n}.{d}.0", "{n}..{d}", "{n}e{d}", "{n}E+{d}", "{n}e-{d}", r"{n}\times 10^{{{d}}}", r"{n}\cdot 10^{d}",
    "{n}*10**{d}", "{n}^{d}", r"{n}^{{{d}}}", r"{n}^{{-1}}", "{n}**{d}", "{n}!", "{n}!!", "{n} or {m}",
    "{n} and {m}", "{n}, {m}", "{n},{m}", "{n}; {m}", "{n}/{d}", "{n} / {d}", "{n}:{d}", "{n} {d}",
    "{m} or {n}", "{m}, {n}", "{m} {n}", r"{n}\text{{ or }}{m}", r"{n}\text{{ {m}}}", r"{n}\text{{{d}}}",
    r"{n}\mathrm{{{d}}}", r"{n}\mbox{{ or more}}", r"{n}\quad {m}", r"{n}~{m}", r"{n}\\{m}", "{n} & {m}",
    r"{n}\ {d}", r"{n}\!{d}", r"{n}\kern0pt{d}", r"{n}{{}}{d}", r"{n}{{{d}}}", r"\text{{{n}}}{d}",
    "-{n}", "\u2212{n}", r"\pm {n}", r"{n} \pm {d}", "{n}i", "{n}x", "{n}xy", r"{n}\pi", "{n}e", "{n}a+b",
    r"\sqrt{{{n}}}", "√{n}", r"\frac{{{n}}}{{{d}}}", r"\frac{{1}}{{{n}}}", r"\frac{n}{d}",
    r"{n}\frac{{1}}{{{d}}}",
    "{n} 1/{d}", "{n}½", "{n}²", "{n}³", "{n}⁰", "{n}⁻¹", "{n}_{d}", r"{n}_{{16}}", "{n}₂",
    r"{n}_\text{{two}}",
    "0x{n}0", "<{n}", ">{n}", r"\ge {n}", r"\le {n}", "≥{n}", r"\ne {n}", "≠ {n}", r"\not= {n}",
    r"x \ne {n}", r"x \not= {n}", r"x\not{{=}}{n}", "not = {n}", "x =\u0338 {n}", r"x < {n}", r"\neg {n}",
    "not {n}", "~ not {n}", "never {n}", "{n} million", "{n} dozen",
    "{n}k", "{n} thousand dollars", "{n} or more", "{n} at least", "{n} is wrong", "{n}? No", "{n}, no, {m}",
    r"{n}.\overline{{{d}}}", r"\overline{{{n}}}", "({n}, {m})", r"\{{{n}, {m}\}}", "[{n},{m}]", "({n},{m}]",
    "{n}={m}", "{m}={n}", "{n}={n}={m}", "{n}+{m}", "{n}-{d}", "{n}*{d}", r"{n}\cdot {m}", r"{n}\div {d}",
    "{n}({d})", "({n})({d})", "{n} mod {d}", r"\binom{{{n}{d}}}{{{d}}}", r"\log {n}", r"\sin {n}",
    r"\ln({n})",
    r"|{n}|+{d}", r"{n}+{d}i", r"{n}\%{d}", r"{n}\%\%", r"\begin{{pmatrix}}{n}\\{m}\end{{pmatrix}}",
    r"({n},\infty)", r"{n}\infty", r"{n}\to{m}", r"{n}\cup{m}", r"{n}\ldots", "{n}...{m}", "{n}--{m}",
    "{n}\u2013{m}",
    "{n}\uff10", "{n}\u0663", "{n}\u096d", "{n}\U0001d7d5", "{n}\u2167", "{n}\u2460", "{n}\u200b{d}",
    "{n}\u200c{d}", "{n}\u200d{d}",
    "{n}\u2060{d}",
    "{n}\u00ad{d}", "{n}\u00a0{d}", "{n}\u2009{d}", "{n}\u202f{d}", "{n}\ufeff{d}", "{n}\u2062{d}",
    "{n}\x00{d}",
    "{n}\x1b[8m{d}", "{n}\u0665", "{n}\uff0e{d}", "{n}\uff0c000", "{n}\u066b{d}", "{n}\u2044{d}",
    "{n}\u2215{d}",
    "{n}\u2236{d}", "{n}\u00d7{d}", "{n}\uff0b{d}", "{n}\u2795{d}", "\uff0d{n}", "\u2013{n}", "\u2014{n}",
    "\u00ac{n}",
    "{n}\u203c", "{n}\uff01", "{n}\u2148", "{n}\u212f", "{n}\u221e", "{n}\u03c0", "{n}\u207f", "{n}\u1d62",
    r"{n}\left.{d}\right.", r"{n}\displaystyle{d}", r"{n}\phantom{{0}}{d}", r"{n}\mathbf{{{d}}}",
    r"{n}\color{{red}}{d}",
    r"{n}^{{\circ}}{d}", r"{n}^\circ {d}'", "{n}'{d}", r"{n}\text{{ feet }}{d}\text{{ inches}}",
    "${n}$ or ${m}$",
    "${n}$/{d}", "${n}${d}", r"\({n}\) or \({m}\)", r"{n}\textasciicircum{d}", r"{n}\text{{, not }}{m}",
    r"{n}\text{{ or }}{m}\text{{ apples}}", r"{n} \text{{ hundred}}", r"\text{{not }}{n}", r"\cancel{{{n}}}",
    "f({n})", "x_{n}", r"{n}\mod {d}", r"{n} \pmod{{{d}}}", r"\lfloor {n}/{d} \rfloor", r"\sqrt[{d}]{{{n}}}",
]  # fmt: skip
# The whole completion states something else in the end.
CHANGED_MIND = [
    r"\boxed{{{n}}} Wait, no: \boxed{{{m}}}", "#### {n}\n#### {m}",
    "The answer is {n}. No, the answer is {m}.",
    r"\boxed{{{n}}}</think>\boxed{{{m}}}", r"\boxed{{{n}}}</think>", r"\boxed{{{n}}}\fbox{{{m}}}",
    r"#### {n} \boxed{{{m}}}", r"The answer is {n}, that is \boxed{{{m}}}", r"\boxed{{{n}", "#### \n{n}",
    "{n}",
    "The answer is not {n}", "The answer is {n}{d}", "The answer is {n} {d}.", r"\boxed {n}{d}",
    "#### {n}\nThe answer is {m}\n#### {m}", "The answer isn't {n}", r"\boxed{{{m}}}</think></think>{n}",
    r"\boxed{{\boxed{{{n}}}{d}}}", r"\boxed{{\boxed{{{n}}} or \boxed{{{m}}}}}",
]  # fmt: skip

# Golds that are no whole numbers, and answers that are not theirs.
EXPRESSIONS = [
    r"2\sqrt{3}", r"\frac{\pi}{3}", r"1+\sqrt{2}", "3.25", r"\frac{2}{7}", "0.001", r"\sqrt[3]{5}",
    "2^{10}", r"3\pi",
    r"\log_2 5", r"\frac{3+\sqrt{5}}{2}", r"\sin 40^\circ", "12.5\\%", "17!", "x+1", "x^2-3x+2",
    r"\frac{x}{y}",
    "2xy", "a^n", r"\frac{1}{x+1}",
]  # fmt: skip
CHANGED_EXPRESSION = [
    "{g}+{d}", "{g}-{d}", "-({g})-{d}", r"({g})\cdot {d}", "({g})^{d}", "({g})/{d}", "{g} or {m}", "{g}, {m}",
    r"{g}\text{{ or }}{m}", r"\{{{g}, {m}\}}", "({g}, {m})", r"\ne {g}", "not {g}", r"\sqrt{{{g}}}+{m}",
    "{g}={m}",
    r"{g} \pm {d}", r"({g})+{d}i", r"\text{{not }}{g}", "{g}; {m}", "{g} > {m}", r"({g})^{{-{d}}}",
    "{m}({g})",
    "{g}+10^{{-{d}}}", r"({g})\cdot 1.0000{d}", r"\neg {g}", "{g} & {m}",
]  # fmt: skip
PAIRS = [
    ("(1,2]", ["(1,2)", "[1,2]", "[1,2)", "(2,1]", "(1,3]", r"(1,2]\cup\{3\}", r"(1,2] \text{ or } 5",
    "(1,2],3"]),
    ("(3,4)", ["(4,3)", "3,4,5", "(3,4,5)", "(3,-4)", "(3,4)+1", "(3,4) or (4,3)", "(3,4),(4,3)", "34",
    "3.4"]),
    (r"\{1,2,3\}", [r"\{1,2\}", r"\{1,2,3,4\}", r"\{1,2,4\}", r"\{\{1,2,3\}\}", "6", "123", r"\{1,2,3\}+1"]),
    ("x=2, y=1", ["x=1, y=2", "x=2", "(1,2)", "x=2, y=1, z=3", "x=2 or y=1 or 3"]),
    (r"\text{Evelyn}", ["not Evelyn", "Evelyn or Bob", r"\text{Evelyn and Bob}", r"\text{Bob}", "Eve",
    "Evelynn"]),
    (r"\text{(C)}", ["(C) or (D)", "CD", r"\text{(D)}", r"\text{not (C)}", "C, D", "ABCDE",
    r"\text{(C), (D)}"]),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", [
        r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \\ 3 \end{pmatrix}", "(1,2,3)",
        "12", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}+1", r"2\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
    ]),
    ("x^2+1", ["x^2-1", "X^2+1", "y^2+1", "x^2+1=0", "x^3+1", "x^2+10", "x^{21}", "x^2+1, x", "(x^2+1)!"]),
    (r"x \le 5", ["x<5", r"x \ge 5", "x=5", "5", r"y \le 5", r"x \le 50", r"(-\infty,5)",
    r"x \le 5 \text{ or } x=7"]),
    ("9:30", ["9:31", "19:30", "9:30:30", "9.3", "930", "9:30 or 10"]),
    ("385_9", ["385_8", "385", "3859", "385_{90}", "385_9+1", "317"]),
]  # fmt: skip

TOKENS = re.split(
    r"\s+",
    r"""\frac \sqrt \sqrt[3] { } {1} {x} {} ( ) [ ] | \{ \} \left( \right) \left. 0 1 2 37 0.5 .5 5. 1,000 x y
e i E + - * / ^ _ = < > \le \ne , ; : . ! ' \pi \infty \text{a} \text{or} \mathrm{cm} \cdot \times \div
\pm \cup \in \sum_{k=1}^{3} \int_0^1 \lim_{x\to0} \prod \log \sin \ln \binom{4}{2} \begin{pmatrix}
\end{pmatrix} & \\ \begin{cases} \end{cases} $ # % \% ~ \, \! \quad \boxed{ \fbox{ \overline{3} ^\circ
\prime \bmod 7 cookies or and dollars km^2 mod \ldots é ² ½ ∞ √ π ≤ °""",
)
CODE = [
    "__import__('os').system('touch {m}')", "exec(\"open('{m}','w')\")", "eval('9**9**9')",
    "open('{m}','w').write('1')",
    "().__class__.__bases__[0].__subclasses__()", "lambda: __import__('subprocess').run(['touch','{m}'])",
    "sympify(\"__import__('os').system('touch {m}')\")", "parse_expr(\"open('{m}','w')\")",
    "S(\"exec('1')\")",
    "__import__('socket').socket().connect(('127.0.0.1',1))", "compile('1','a','exec')",
    "globals()['__builtins__']",
    r"\input{{/etc/passwd}}", r"\write18{{touch {m}}}", r"\immediate\write18{{touch {m}}}",
    r"\directlua{{os.execute('touch {m}')}}", "$(touch {m})", "`touch {m}`", "; touch {m} #", "{{{{7*7}}}}",
    "${{jndi:ldap://127.0.0.1/a}}", "%s%n%x", "</script><script>alert(1)</script>",
    "'; DROP TABLE samples; --",
    "!!python/object/apply:os.system ['touch {m}']", "cos\nsystem\n(S'touch {m}'\ntR.", "\x00\x00{m}",
    "died 9",
    "ready\ncorrect\ncorrect", "correct", '["1", "1"]]\n[["1", "1"', "Symbol('x').func.__globals__",
    r"\operatorname{{exec}}(1)", r"\mathrm{{__import__}}('os')", "Integer(__import__('os').getpid())",
]  # fmt: skip
CODE_IN = [
    "{}",
    "1+{}",
    "x={}",
    r"\frac{{{}}}{{2}}",
    r"\sqrt{{{}}}",
    r"\text{{{}}}",
    "({})",
    "f({})",
    r"\{{{}, 1\}}",
]
UNREACHABLE = "719342058113"  # by whatever is generated
NUMBER_OF_DIGITS = [3, 9, 99, 300, 500, 4999, 50_000]


def bomb(rng: random.Random, stated: Callable[[str], str]) -> str:
    """A text that asks for more than there is: of time, memory, stack or digits."""
    n, few = rng.choice(NUMBER_OF_DIGITS), rng.randint(20, 80)
    a, b = rng.randint(2, 9), rng.randint(5, 12)

    def nest(left: str, middle: str, right: str, times: int = few) -> str:
        return left * times + middle + right * times

    answers = [
        f"{a}^{{{a}^{{{a}^{{{b}}}}}}}", f"(10^{{{b}}})!", f"{a}^{{2^{{{few}}}}}", "9" * n, "9" * n + "!",
        f"{a}^{{{'9' * n}}}",
        f"0.{'0' * n}1", f"1e{'9' * n}", f"10^{{-{'9' * n}}}", rf"{a}\times 10^{{{'9' * b}}}", nest("(",
        "1", ")"),
        nest("(", "1", "", 4 * few), nest("{", "1", "}"), nest(r"\sqrt{", "x", "}"), nest(r"\frac{1}{1+",
        "x", "}"),
        nest("x^{", "x", "}"), nest("-", "1", "", 4 * few), nest("1=", "1", ""), nest("|", "1", ""),
        nest("(", "x", "+1)^9", 9), f"(a+b+c+d+f)^{{{9 * few}}}", f"(x+y)^{{{10**b}}}", f"{10**b}!!",
        "1" + "!" * few,
        rf"\sum_{{k=1}}^{{10^{{{b}}}}} \frac{{1}}{{k^{a}}}", rf"\prod_{{k=1}}^{{{10**b}}} k", nest("x_{",
        "1", "}"),
        rf"\binom{{10^{{{b}}}}}{{10^{{{b - 1}}}}}", rf"\int_0^1 x^{{x^{{x^{a}}}}} \sin(e^x) dx",
        nest(r"\sin(", "1", ")"),
        rf"\{{{','.join(map(str, range(few)))}\}}", nest(r"\text{", "5", "}"), nest(r"\left(", "5", ""),
        nest("x+1 ", "", ""),
        nest(" ", "1", "x", n), rf"\begin{{pmatrix}} {' & '.join('123') * 30} \end{{pmatrix}}", "1,000" * n,
    ]  # fmt: skip
    texts = [
        nest(r"\boxed{", "1", "}", n), "answer " * n + "is", "Answer" + "*" * n, "#" * n, "#### " + "#" * n,
        "$" * n + "1",
        "The answer is " + "$" * n + "1", "\\" * n, "{" * n, "</think>" * n, "A:\n" * n, r"\boxed" * n,
        "#### " + "1," * n,
        "\\boxed{" + "," * n + "}",
        "answer is " + r"\(" * n, "answer: " + r"\[ \$" * n, "\u202e" * n + "#### 7",
    ]  # fmt: skip
    return rng.choice([*map(stated, answers), *texts])


def noise(rng: random.Random) -> str:
    """Bytes and characters of all kinds, as text."""
    raw = rng.randbytes(rng.randint(1, 60))
    kind = rng.randrange(5)
    if kind == 0:
        return raw.decode("latin-1")
    if kind == 1:
        return raw.decode("utf-8", errors="surrogateescape")
    if kind == 2:
        return raw.decode("utf-16-le", errors="surrogatepass" if len(raw) % 2 == 0 else "replace")
    if kind == 3:
        return "".join(chr(rng.randrange(0x110000)) for _ in range(rng.randint(1, 40)))
    blocks = (0x00, 0x300, 0x600, 0x2000, 0x2080, 0x2100, 0x2200, 0xFE00, 0xFF00, 0x1D400)
    return "".join(chr(rng.choice(blocks) + rng.randrange(128)) for _ in range(rng.randint(1, 40)))


def attacks(count: int, seed: int, marker: Path) -> Iterator[Attack]:
    """So many of them, the same for the same seed. Whatever is executed leaves the file ``marker``."""
    rng = random.Random(seed)
    numbers = [*range(4, 34), *(rng.randint(34, 99_999) for _ in range(70))]
    for _ in range(count):
        n = rng.choice(numbers)
        m = rng.choice([n + 1, n + 10, n * 10, rng.randint(100_000, 999_999)])
        d = rng.randint(2, 9)
        stated = rng.choice(STATED).format
        draw = rng.random()
        if draw < 0.30:
            answer = rng.choice(CHANGED_NUMBER).format(n=n, m=m, d=d)
            yield Attack("changed number", stated(answer), str(n))
        elif draw < 0.36:
            yield Attack("changed mind", rng.choice(CHANGED_MIND).format(n=n, m=m, d=d), str(n))
        elif draw < 0.42:
            gold = rng.choice(EXPRESSIONS)
            yield Attack("expression", stated(rng.choice(CHANGED_EXPRESSION).format(g=gold, m=m, d=d)), gold)
        elif draw < 0.44:
            gold, others = rng.choice(PAIRS)
            yield Attack("pair", stated(rng.choice(others)), gold)
        elif draw < 0.54:
            before = noise(rng) if rng.random() < 0.3 else ""
            yield Attack("dressed", f"{before}\n{stated(rng.choice(DRESSED).format(n=n))}", str(n), True)
        elif draw < 0.66:
            soup = rng.choice(["", " "]).join(rng.choices(TOKENS, k=rng.randint(1, 16)))
            yield Attack("soup", stated(soup), UNREACHABLE)
        elif draw < 0.92:
            junk = noise(rng)
            wording = rng.choice([stated, "{}".format, lambda junk: stated(f"{n}{junk}{n}")])  # noqa: B023
            yield Attack("noise", wording(junk), UNREACHABLE)
        elif draw < 0.999:
            code = rng.choice(CODE_IN).format(rng.choice(CODE).format(m=marker))
            yield Attack("code", stated(code), rng.choice([UNREACHABLE, "x+1", r"\frac{x}{2}"]))
        else:
            yield Attack("bomb", bomb(rng, stated), UNREACHABLE)


# --- the worker, watched ------------------------------------------------------------------------------

# What a worker at work may do beyond computing: import more of sympy, and let sympy write itself functions
# for so many variables, of which no text is a part. Whatever else it does is reported.
WATCHED = """
import importlib.util, os, re, sys, time
spec = importlib.util.spec_from_file_location("worker", {real!r})
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
reports, at_work = os.open({reports!r}, os.O_WRONLY), []
own_functions = re.compile(
    rb"def monomial_[a-z]+\\([ABk, ]+\\):\\n(?:[ab]\\d+|r\\d+|[ABk0-9(),=+*<>: \\n-]|if|else|return|None)+"
)

def report(what):
    os.write(reports, what.encode("ascii", "backslashreplace").replace(b"\\n", b" ") + b"\\n")

def importing():
    frame = sys._getframe(2)
    while frame and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None

def harmless(event, arguments):
    if event == "compile":
        return arguments[1] == "<string>" and own_functions.fullmatch(arguments[0])
    if event == "exec":
        constants = arguments[0].co_consts
        return constants and getattr(constants[0], "co_name", "").startswith("monomial_")
    if event == "import":
        return arguments[0].startswith("sympy.")

computing = {{"builtins.id", "sys._getframe", "array.__new__", "object.__getattr__", "object.__setattr__"}}

def hook(event, arguments):
    if at_work and event not in computing and not harmless(event, arguments) and not importing():
        report(f"{{event}} {{str(arguments)[:200]}} at {{at_work[0]}}")

sys.addaudithook(hook)
serve = worker.serve

def watched(check, cpu_seconds, reply):
    def timed(answer, gold):
        at_work.append(answer)
        start = time.process_time()
        try:
            return {check}
        finally:
            at_work.clear()
            if time.process_time() - start > cpu_seconds + 0.1:
                report(f"late at {{answer}}")
    serve(timed, cpu_seconds, reply)

worker.serve = watched
worker.main(float(sys.argv[1]), int(sys.argv[2]))
"""


class Watched:
    """A verifier whose workers report what they do beyond computing."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, check: str = "check(answer, gold)"
    ) -> None:
        os.mkfifo(folder / "reports")
        self._reports = os.open(folder / "reports", os.O_RDWR | os.O_NONBLOCK)
        real = str(Path(repro.verify.__file__).with_name("worker.py"))
        program = WATCHED.format(real=real, reports=str(folder / "reports"), check=check)
        (folder / "worker.py").write_text(program)
        monkeypatch.setattr(repro.verify, "__file__", str(folder / "__init__.py"))
        self.verifier = Verifier(timeout=TIMEOUT)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *exc: object) -> None:
        self.verifier.close()
        os.close(self._reports)

    def reports(self) -> list[str]:
        """Since the last call."""
        try:
            return os.read(self._reports, 2**16).decode().splitlines()
        except BlockingIOError:
            return []


# --- the attack ---------------------------------------------------------------------------------------


@pytest.mark.promise("Right answers", "No text of a model is ever executed.")
@pytest.mark.parametrize(
    "count",
    [
        pytest.param(1_000, marks=pytest.mark.slow),
        pytest.param(200_000, marks=pytest.mark.hours),
    ],
)
def test_no_answer_is_executed_or_late_or_taken_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    marker, batch = tmp_path / "marker", 500
    generated = attacks(count, seed=count, marker=marker)
    wrongly, slow, tried = [], [], Counter[str]()
    with Watched(tmp_path, monkeypatch) as watched:
        while some := list(islice(generated, batch)):
            for attack in some:
                start = time.thread_time()
                compare(normalise(extract(closed(attack.text)) or ""), normalise(attack.gold))
                slow += [attack] * (time.thread_time() - start > CALLER)
            verdicts = watched.verifier.verify([one.text for one in some], [one.gold for one in some])
            wrongly += [one for one, v in zip(some, verdicts, strict=True) if (v is CORRECT) != one.right]
            tried.update(f"{one.kind}: {verdict}" for one, verdict in zip(some, verdicts, strict=True))
            assert not watched.reports()
    print(dict(sorted(tried.items())))
    assert not wrongly and not slow
    assert not marker.exists()


def test_what_a_worker_executes_or_is_late_at_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch itself, on a worker that evaluates what it is given and has lost its limit."""
    clock, signals = '__import__("time").process_time', '__import__("signal")'
    harm = {
        "open": 'open("/dev/null", "w")',
        "os.system": '__import__("os").system("true")',
        "compile": 'eval("1")',
        "late": f"[{signals}.setitimer(2, 0), sum(map(bool, iter(lambda: {clock}() < 1.5, False)))]",
    }
    with Watched(tmp_path, monkeypatch, check="[eval(answer), 'wrong'][1]") as watched:
        for event, text in harm.items():
            assert watched.verifier.verify([rf"\boxed{{{text}}}"], ["x"]) == [Verdict.WRONG]
            assert any(report.startswith(event) for report in watched.reports())
