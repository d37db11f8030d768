"""The verifier: what counts as the final answer, what counts as equal, and that no answer can hurt it."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.errors import UserError
from repro.records import Verdict
from repro.verify import VERSION, Verifier, extract, normalise
from repro.verify.answers import compare, is_number

CORRECT, WRONG, UNPARSABLE, TIMEOUT = Verdict.CORRECT, Verdict.WRONG, Verdict.UNPARSABLE, Verdict.TIMEOUT
HANG = r"\boxed{9^{9^{9^{9}}}}"  # one call into C that no Python signal handler interrupts


@pytest.fixture(scope="module")
def verifier():
    with Verifier(timeout=5, workers=2) as verifier:
        yield verifier


def children() -> list[int]:
    """Ids of this process's children, zombies included."""
    return [int(i) for t in Path("/proc/self/task").iterdir() for i in (t / "children").read_text().split()]


def process_at_work(verifier: Verifier, other_than: int = 0) -> int:
    """The id of the verifier's worker once it has a task."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for worker in list(verifier._pool):
            if worker.task and worker._process.pid != other_than:
                return worker._process.pid
        time.sleep(0.01)
    raise AssertionError("no worker was at work")


# ------------------------------------------------------------------------------------- final answers


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("She has 5 + 2 = <<5+2=7>>7 left.\n#### 7", "7"),
        ("5 + 2 = 7 ; 7 * 3 = 21 ; #### 21", "21"),  # pocket: one line, word-level
        ("#### 1\nwait\n#### 2\n", "2"),
        ("#### 5 #### 6", "6"),
        ("#### 5\n####", "5"),
        (r"so $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{\sqrt{\frac{a}{b}}}", r"\sqrt{\frac{a}{b}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{4} and then \boxed{5", "4"),  # the last well-formed one
        (r"\boxed{3}, put into \boxed{}", "3"),
        (r"x = \boxed{\boxed{5}}", "5"),
        (r"is $\boxed 2$", "2"),
        (r"is \fbox{12}.", "12"),
        ("#### Step 1: add\n...\n#### Step 2: box\n\\boxed{9}\n#### Check", "9"),  # headings
        ("<think>maybe \\boxed{1}</think> It is \\boxed{2}", "2"),
        ("maybe \\boxed{1}</think> It is \\boxed{2}", "2"),
        ("<think>\\boxed{1}</think> I do not know", None),
        ("The answer is 42.", "42"),
        ("The final answer is $14{,}916$. I hope it is correct.", "14{,}916"),
        ("The answer is: \\(x = 3.5\\).", "x = 3.5"),
        ("**Answer:** 3.50", "3.50"),
        (r"The answer is $\$18.90$.", r"\$18.90"),
        ("Answer: 8\nQuestion: next", "8"),
        ("Final Answer: The largest $n$ is 34.", "34"),
        ("A: 221", "221"),
        ("5 + 2 = 7 ; 7 * 3 = 21 ;", None),  # truncated: a number in passing is no answer
        ("", None),
        ("####", None),
    ],
)
def test_extract(text, answer):
    assert extract(text) == answer


@pytest.mark.parametrize(
    "unit", ["\\boxed{", "{", "}", "#", "#### ", "answer ", "answer is ", "\\", "$", "A:\n", " "]
)
def test_extract_is_linear(unit):
    start = time.perf_counter()
    extract(unit * 50_000)
    assert time.perf_counter() - start < 2


# ----------------------------------------------------------------------------------------- one spelling


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("025", "25"), ("27.0", "27"), ("27.", "27"), ("1,234", "1234"), ("10{,}000", "10000"),
        (r"32,\!349", "32349"), ("$1,234.50", "1234.5"), (r"\$18", "18"), ("18$", "18"), ("-0.0", "0"),
        (".5", "0.5"), ("+5", "5"), ("- 5", "-5"), ("\u22125", "-5"), (r"50\%", "50%"), ("50 %", "50%"),
        ("14,", "14"), ("**42**", "42"), (r"\( 9 \)", "9"), ("$$9$$", "9"), ("37 ;", "37"), ("000", "0"),
        (r"10\text{ cm}^2", "10"), (r"5\mathrm{~kg}", "5"), (r"\text{13}", "13"), (r"\approx 8.24", "8.24"),
        (r"\dfrac{1}{2}", r"\frac{1}{2}"), (r"\frac\pi2", r"\frac{\pi}{2}"),
        (r"\left( 3, 4 \right)", "( 3, 4 )"), ("1 1/2", r"1\frac{1}{2}"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}.", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        (r"\text{Evelyn}", r"\text{Evelyn}"), (r"4\text{ or }5", r"4\text{ or }5"),
    ],
)  # fmt: skip
def test_normalise(answer, plain):
    assert normalise(answer) == plain


@given(
    st.text(alphabet=st.sampled_from("0123456789.,-+$%\\{}()[]!;: ~*`=\n\u2212abfract\u0663"), max_size=60)
)
def test_normalise_is_idempotent(answer):
    assert normalise(normalise(answer)) == normalise(answer)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_numbers_are_exact(value):
    plain = normalise(f"{value:f}")
    assert is_number(plain)
    for dressed in (f"{value:,f}", f"${value:f}", f"{value:f}000", f"\\({value:f}\\)", f"**{value:,f}**."):
        assert compare(normalise(dressed), plain) is CORRECT
    assert compare(normalise(f"{value:f}1"), plain) is WRONG


# -------------------------------------------------------------------------------------------- verdicts


def test_wordings(verifier):
    cases = [
        ("#### 37", "37", CORRECT),
        ("#### 38", "37", WRONG),
        ("thirty-seven", "37", UNPARSABLE),
        ("#### 37.0", "37", CORRECT),
        ("#### 37.0000001", "37", WRONG),  # numbers are exact
        (r"\boxed{025}", "25", CORRECT),
        (r"\boxed{1,234}", "1234", CORRECT),
        (r"\boxed{27}", "27.0", CORRECT),
        (r"\boxed{50\%}", "50", CORRECT),
        (r"\boxed{0.5}", r"50\%", CORRECT),
        (r"\boxed{5}", r"50\%", WRONG),
        (r"\boxed{\dfrac12}", "0.5", CORRECT),
        (r"\boxed{1/2}", r"\frac{1}{2}", CORRECT),
        (r"\boxed{x+1}", "1+x", CORRECT),
        (r"\boxed{x = 5}", "5", CORRECT),
        (r"\boxed{(1,2)}", "(2,1)", WRONG),
        (r"\boxed{\{2,1\}}", r"\{1,2\}", CORRECT),
        (r"\boxed{42 \text{ apples}}", "42", CORRECT),
        (r"\boxed{4\text{ cm}}", "4", CORRECT),
        (r"\boxed{4 cm}", "4", CORRECT),
        (r"\boxed{4}", "4t", WRONG),  # math-verify takes the t for tonnes
        (r"\boxed{c+b+a}", "a + b + c", CORRECT),  # and this c for a unit too
        (r"\boxed{37 \text{ or } 38}", "37", WRONG),
        (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}", CORRECT),
        (r"\boxed{90^\circ}", "90", CORRECT),
        (r"\boxed{3 7}", "10", UNPARSABLE),  # math-verify reads the mixed number 3 + 7
        ("#### 37 37", "74", UNPARSABLE),
        ("#### 30 + 7", "37", UNPARSABLE),  # work that is not done yet
        (r"\boxed{2 \times 3 \cdot 1,000}", "6000", UNPARSABLE),
        (r"\boxed{-3-4}", "-7", UNPARSABLE),
        (r"\boxed{2 + 2}", "5", UNPARSABLE),
        (r"\boxed{5 + 2 = 7}", "7", CORRECT),
        (r"\boxed{3 \times 10^5}", "300000", CORRECT),
        (r"\boxed{3^4}", "81", CORRECT),
        (r"\boxed{2\sqrt{9}}", "6", CORRECT),
        (r"\boxed{6/4}", "1.5", CORRECT),
        (r"\boxed{2 + 3}", "2+3", CORRECT),
        (r"\boxed{3\frac{1}{2}}", "3.5", CORRECT),
        (r"\boxed{1 1/2}", "1.5", CORRECT),
        (r"\boxed{\frac{1}{}", "1", UNPARSABLE),
        (r"\boxed{" + "1" * 600 + "}", "1", UNPARSABLE),  # too long to be an answer
        (r"\boxed{???}", "1", UNPARSABLE),
    ]
    texts, golds, _ = zip(*cases, strict=True)
    verdicts = verifier.verify(texts, golds)
    assert [(t, g, v) for t, g, v in zip(texts, golds, verdicts, strict=True)] == cases


def test_lengths_must_agree(verifier):
    with pytest.raises(ValueError):
        verifier.verify(["#### 1"], [])


def test_unreadable_gold_is_an_error_that_names_its_place(verifier):
    verifier.check_gold("1,234", "gsm8k row 1")
    verifier.check_gold(r"\left( 3, \frac{\pi}{2} \right)", "math row 1")
    for gold in ("", "???", r"\frac{1}{", "x" * 600):
        with pytest.raises(UserError, match="row 7"):
            verifier.check_gold(gold, "my set, row 7")
    with pytest.raises(UserError, match="row 2"):
        verifier.check_golds(["5", "x+", "7"], ["row 1", "row 2", "row 3"])


def test_plain_answers_start_no_process():
    with Verifier() as verifier:
        assert verifier.verify(["#### 3", "#### 4", "no"], ["3"] * 3) == [CORRECT, WRONG, UNPARSABLE]
        verifier.check_gold("3", "here")
        assert not verifier._pool


def test_version_names_both_rules_and_library():
    assert "math-verify-0.9" in VERSION


# ---------------------------------------------------------------------------- nothing can hurt the caller

INJECTION = "__import__('os').system('touch {marker}')"
WRAPPINGS = [
    "@", "#### @", "#### (@)", "The answer is @.", "Answer: $@$", "A: 1/2*(@)", r"\boxed{@}",
    r"\boxed{\text{@}}", r"\boxed{x=@}", r"\boxed{\frac{@}{2}}", r"\boxed{\sqrt{@}}", r"\boxed{\{@, 1\}}",
    r"\boxed{\mathrm{@}}", r"\boxed{1+@}", r"\boxed{f(@)}", r"\boxed{1 & @ \\ 2}",
]  # fmt: skip


def test_model_text_is_never_executed(verifier, tmp_path):
    marker = tmp_path / "marker"
    texts = [wrapping.replace("@", INJECTION.format(marker=marker)) for wrapping in WRAPPINGS]
    verdicts = verifier.verify(texts * 2, [r"\frac{x}{2}"] * len(texts) + ["2"] * len(texts))
    for text in texts:
        with suppress(UserError):
            verifier.check_gold(extract(text) or text, "here")
    assert CORRECT not in verdicts
    assert not marker.exists()


def test_the_worker_refuses_to_evaluate_anything_but_numbers(tmp_path):
    """The guard itself, in a process of its own: even a direct sympify of text does not reach eval."""
    marker = tmp_path / "marker"
    program = (
        "from repro.verify.worker import checker; check = checker(); import sympy\n"
        "print(sympy.Number('12'), sympy.Number('1.5'), check('x+1', '1+x'))\n"
        f"sympy.sympify({INJECTION.format(marker=marker)!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert done.stdout.split() == ["12", "3/2", "correct"]
    assert "only a number may be parsed" in done.stderr
    assert not marker.exists()


def test_a_hanging_check_times_out_and_the_pool_goes_on():
    before = set(children())
    with Verifier(timeout=1, workers=2) as verifier:
        verifier.verify([r"\boxed{x+1}"], ["1+x"])
        start = time.monotonic()
        verdicts = verifier.verify(
            [HANG, r"\boxed{1/2}", HANG, r"\boxed{(10^9)!}", r"\boxed{a+b}"], ["7", "0.5", "7", "7", "b+a"]
        )
        assert verdicts == [TIMEOUT, CORRECT, TIMEOUT, TIMEOUT, CORRECT]
        assert time.monotonic() - start < 2 * Verifier.WALL + 10
        assert verifier.verify([r"\boxed{x+1}"], ["1+x"]) == [CORRECT]
    assert set(children()) <= before  # no zombie either


def test_memory_is_limited():
    limit = 300 * 2**20
    with Verifier(timeout=4, workers=1, memory=limit) as verifier:
        texts = [r"\boxed{2^{2^{33}}}", r"\boxed{1/2}"]  # the first is an integer of 1 GiB
        first, second = verifier.verify(texts, ["7", "0.5"])
        assert first in (WRONG, TIMEOUT)  # sympy may catch the MemoryError and go on
        assert second is CORRECT
        status = Path(f"/proc/{verifier._pool[0]._process.pid}/status").read_text()
        assert int(status.partition("VmPeak:")[2].split()[0]) * 1024 <= limit


def test_a_killed_worker_is_replaced_and_its_answer_checked_again():
    results = []
    with Verifier(timeout=5, workers=1) as verifier:
        call = threading.Thread(
            target=lambda: results.extend(verifier.verify([HANG, r"\boxed{1/2}"], ["7", "0.5"]))
        )
        call.start()  # any thread will do
        first = process_at_work(verifier)
        os.kill(first, signal.SIGKILL)
        second = process_at_work(verifier, other_than=first)
        os.kill(second, signal.SIGKILL)  # a second death is the answer's own doing
        call.join(60)
        assert results == [TIMEOUT, CORRECT]
        os.kill(verifier._pool[0]._process.pid, signal.SIGKILL)  # while idle
        assert verifier.verify([r"\boxed{2/4}"], ["0.5"]) == [CORRECT]
        worker = verifier._pool[0]._process.pid
    assert worker not in children()
    assert first not in children()


def test_threads_share_one_verifier(verifier):
    results = {}

    def work(n):
        texts = [rf"\boxed{{{n}x + {i}}}" for i in range(4)]
        results[n] = verifier.verify(texts, [f"{i} + {n}x" for i in range(3)] + ["y"])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: [CORRECT] * 3 + [WRONG] for n in range(2, 6)}


def test_a_worker_ends_with_its_caller():
    program = (
        "import os, signal; from repro.verify import Verifier; v = Verifier()\n"
        "v.verify([r'\\boxed{x+1}'], ['1+x']); print(v._pool[0]._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    status = Path(f"/proc/{int(done.stdout)}/status")
    end = time.monotonic() + 20
    while status.exists() and "zombie" not in status.read_text() and time.monotonic() < end:
        time.sleep(0.05)
    assert not status.exists() or "zombie" in status.read_text()  # a container's init may not reap it


TOKENS = r"\frac \sqrt { } ( ) [ ] 1 2 37 0.5 x + - * / ^ _ = , \pi \text{a} \cdot \le \infty $ # % & \\ ! é"
LATEX = st.lists(st.sampled_from(TOKENS.split(" ")), max_size=12).map(" ".join)


@settings(max_examples=40, deadline=None)
@given(st.lists(LATEX, min_size=8, max_size=8), st.text(max_size=80))
def test_never_raises(verifier, soups, anything):
    texts = [rf"\boxed{{{soup}}}" for soup in soups] + [anything, f"#### {anything}"]
    assert len(verifier.verify(texts, ["1234567"] * 10)) == 10
    assert CORRECT not in verifier.verify(texts, ["x_{99}"] * 10)


JUNK = st.text(max_size=200).filter(
    lambda s: not any(m in s.lower() for m in ("#", "box", "answer", "think", "a:", "}"))
)


@given(
    st.integers(0, 999),
    st.integers(0, 999),
    st.sampled_from(["#### {}", "\\boxed{{{}}}", "The answer is {}."]),
    JUNK,
)
def test_appended_junk_never_makes_a_wrong_answer_right(verifier, answer, gold, wording, junk):
    if answer != gold:
        text = wording.format(answer)
        assert verifier.verify([text + "\n" + junk, junk + "\n" + text], [str(gold)] * 2) == [WRONG, WRONG]
