"""The verifier: what counts as equal, and that no answer can hurt it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Container
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.errors import UserError
from repro.records import Verdict
from repro.verify import VERSION, Verifier, extract

CORRECT, WRONG, UNPARSABLE, TIMEOUT = Verdict.CORRECT, Verdict.WRONG, Verdict.UNPARSABLE, Verdict.TIMEOUT
HANG = r"\boxed{9^{9^{9^{9}}}}"  # one call into C that no Python signal handler interrupts


@pytest.fixture(scope="module")
def verifier():
    with Verifier(timeout=5, workers=2) as verifier:
        yield verifier


def children() -> list[int]:
    """Ids of this process's children, zombies included."""
    return [int(i) for t in Path("/proc/self/task").iterdir() for i in (t / "children").read_text().split()]


def children_of(process: int) -> list[int]:
    return [int(i) for i in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def at_work(verifier: Verifier, other_than: Container[int] = ()) -> tuple[int, int]:
    """The ids of a worker that has read its request, and of its child, not one of ``other_than``."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for worker in list(verifier._pool):
            if worker.begun and worker.tasks and worker.alive:
                with suppress(FileNotFoundError):
                    for child in children_of(worker._process.pid):
                        if child not in other_than:
                            return worker._process.pid, child
        time.sleep(0.005)
    raise AssertionError("no worker was at work")


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
        (r"\boxed{74°}", r"74^\circ", CORRECT),
        (r"\boxed{2√3}", r"\sqrt{12}", CORRECT),
        (r"\boxed{x²}", "x^2", CORRECT),
        (r"\boxed{½}", "0.5", CORRECT),
        ("\\boxed{(\u2212∞,3]\u222a[5,∞)}", r"(-\infty,3]\cup[5,\infty)", CORRECT),
        (r"\boxed{5 ≥ x}", r"x \le 5", CORRECT),
        (r"\boxed{π·3}", r"3\pi", CORRECT),
        (r"\boxed{17 \bmod 5 = 2}", "2", CORRECT),
        (r"\boxed{4 = 3}", "3", WRONG),
        (r"\boxed{(2,1)}", "x=2, y=1", CORRECT),
        (r"\boxed{(1,2)}", "x=2, y=1", WRONG),
        (r"\boxed{\sqrt{3+2\sqrt{2}}}", r"1+\sqrt{2}", CORRECT),
        (r"\boxed{\frac{10\sqrt{10.5}}{27}}", r"\frac{5\sqrt{42}}{27}", CORRECT),
        (r"\boxed{4.123106}", r"\sqrt{17}", CORRECT),
        (r"\boxed{4.12311}", r"\sqrt{17}", WRONG),
    ]
    texts, golds, _ = zip(*cases, strict=True)
    verdicts = verifier.verify(texts, golds)
    assert [(t, g, v) for t, g, v in zip(texts, golds, verdicts, strict=True)] == cases


@pytest.mark.promise("Right answers", "No answer can hang the verifier or fill the memory.")
def test_white_space_does_not_keep_the_caller():
    """These once took from half a minute to hours, outside every time limit."""
    runs = [f"-{space * times}x" for space in (" ", "\n", "~", "$") for times in (192, 505)]
    texts = [form.format(run) for run in runs for form in (r"\boxed{{{}}}", "#### {}", "The answer is {}")]
    with Verifier() as verifier:
        start = time.process_time()
        verdicts = verifier.verify(texts, ["5"] * len(texts))
        assert time.process_time() - start < 0.5
    assert CORRECT not in verdicts


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


@pytest.mark.promise("Right answers", "No text of a model is ever executed.")
def test_model_text_is_never_executed(verifier, tmp_path):
    marker = tmp_path / "marker"
    texts = [wrapping.replace("@", INJECTION.format(marker=marker)) for wrapping in WRAPPINGS]
    verdicts = verifier.verify(texts * 2, [r"\frac{x}{2}"] * len(texts) + ["2"] * len(texts))
    for text in texts:
        with suppress(UserError):
            verifier.check_gold(extract(text) or text, "here")
    assert CORRECT not in verdicts
    assert not marker.exists()


@pytest.mark.promise("Right answers", "No text of a model is ever executed.")
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


@pytest.mark.promise("Right answers", "No answer can hang the verifier or fill the memory.")
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


@pytest.mark.promise("Right answers", "No answer can hang the verifier or fill the memory.")
def test_memory_is_limited():
    limit = 300 * 2**20
    with Verifier(timeout=4, workers=1, memory=limit) as verifier:
        texts = [r"\boxed{2^{2^{33}}}", r"\boxed{1/2}"]  # the first is an integer of 1 GiB
        first, second = verifier.verify(texts, ["7", "0.5"])
        assert first in (WRONG, TIMEOUT)  # sympy may catch the MemoryError and go on
        assert second is CORRECT
        worker = verifier._pool[0]._process.pid
        for process in (worker, *children_of(worker)):
            status = Path(f"/proc/{process}/status").read_text()
            assert int(status.partition("VmPeak:")[2].split()[0]) * 1024 <= limit


@pytest.mark.promise("Right answers", "A verifier process that something outside kills costs no verdict.")
@pytest.mark.parametrize("whole", [True, False], ids=["worker", "its child"])
def test_a_worker_that_is_killed_once_does_no_harm(whole):
    with Verifier(timeout=0.5, workers=1) as verifier:
        results = []
        texts, golds = [r"\boxed{x+1}", HANG, r"\boxed{a+b}"], ["1+x", "7", "b+a"]
        call = threading.Thread(target=lambda: results.extend(verifier.verify(texts, golds)))
        call.start()  # any thread will do
        worker, child = at_work(verifier)
        os.kill(worker if whole else child, signal.SIGKILL)
        call.join(60)
        assert results == [CORRECT, TIMEOUT, CORRECT]
        worker = verifier._pool[0]._process.pid
        os.kill(worker if whole else children_of(worker)[0], signal.SIGKILL)  # while idle
        assert verifier.verify([r"\boxed{y+1}"], ["1+y"]) == [CORRECT]
        worker = verifier._pool[0]._process.pid
    assert worker not in children()


def test_workers_that_are_killed_again_and_again_stop_the_run():
    """Whatever does it, such as a machine short of memory, no answer may count as wrong for it."""
    errors = []

    def call():
        try:
            verifier.verify([HANG, r"\boxed{(10^9)!}"], ["7", "7"])
        except UserError as error:
            errors.append(str(error))

    with Verifier(timeout=5, workers=1) as verifier:
        thread = threading.Thread(target=call)
        thread.start()
        seen = set()
        for _ in range(Verifier.KILLS):
            seen.add(child := at_work(verifier, other_than=seen)[1])
            os.kill(child, signal.SIGKILL)
        thread.join(60)
        assert len(errors) == 1 and "killed 3 times (signal 9)" in errors[0] and "memory" in errors[0]
        assert verifier.verify([r"\boxed{x+1}"], ["1+x"]) == [CORRECT]


def test_a_time_out_does_not_cost_a_start():
    with Verifier(timeout=0.1, workers=1) as verifier:
        verifier.verify([r"\boxed{x+1}"], ["1+x"])
        worker = verifier._pool[0]._process.pid
        tries = [rf"\boxed{{9^{{9^{{9^{{{n}}}}}}}}}" for n in range(5, 10)]
        start = time.process_time()
        assert verifier.verify([*tries, r"\boxed{x+2}"], ["7"] * 5 + ["2+x"]) == [TIMEOUT] * 5 + [CORRECT]
        assert time.process_time() - start < 1
        assert [w._process.pid for w in verifier._pool] == [worker]


def test_a_stopped_worker_is_late():
    with Verifier(timeout=0.2, workers=1) as verifier:
        verifier.verify([r"\boxed{x+1}"], ["1+x"])
        os.kill(children_of(verifier._pool[0]._process.pid)[0], signal.SIGSTOP)
        assert verifier.verify([r"\boxed{x+2}"], ["2+x"]) == [CORRECT]


def test_a_lone_surrogate_is_an_answer_like_any_other(verifier):
    texts = [r"\boxed{x+\ud800}", "#### \udfff5", "The answer is $x^{\ud800}$.", r"\boxed{\text{\ud800}}"]
    assert CORRECT not in verifier.verify(texts, ["x+1", "5", "x", r"\text{a}"])


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


@pytest.mark.promise("Right answers", "What changes an answer makes it wrong, whatever stands around it.")
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
