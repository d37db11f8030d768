"""Is the final answer of a completion right?

Text decides almost every answer of GSM8K, AIME, AMC and the pocket tasks, in microseconds
(:mod:`repro.verify.answers`). The rest goes to math-verify, in worker processes that are ended when they are
late or too big, because model text can make any computer algebra hang (:mod:`repro.verify.worker`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from multiprocessing.connection import wait
from pathlib import Path

from repro.errors import UserError
from repro.records import Verdict
from repro.verify.answers import MAX_ANSWER, closed, compare, extract, is_number, normalise

__all__ = ["VERSION", "Verifier", "closed", "extract", "normalise"]

VERSION = f"4+math-verify-{version('math-verify')}"  # recorded beside verdicts; raise 4 when rules change

Task = tuple[str | None, str]  # normalised (answer, gold); no answer asks whether the gold can be read

# How the system ends a check for what it does: it took too long, or it ran out of stack or memory inside C.
OWN_FAULT = (signal.SIGPROF, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
LATE = -1  # instead of a signal: by the clock


class Verifier:
    """Checks final answers; a context manager that ends its workers.

    ``timeout`` limits one answer to that many seconds of processor time, so that a verdict does not
    depend on how busy the machine is; a check that has not ended after ``WALL`` times as long by the
    clock is ended too. ``workers`` is the number of processes, ``memory`` the address space of each in
    bytes. Workers start when the first answer needs one; one that something outside kills is replaced and
    its answer checked again, and where that happens ``KILLS`` times at one answer, UserError is raised.
    May be called from any thread; calls that need workers take turns.
    """

    WALL = 6
    BATCH = 8  # answers that a worker has at a time; a request of so many fits into a pipe
    KILLS = 3  # of the worker at one answer, by something outside, before that stops the run

    def __init__(self, timeout: float = 5.0, workers: int = 2, memory: int = 2**30) -> None:
        self.timeout = timeout
        self.workers = workers
        self.memory = memory
        self._pool: list[_Worker] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers. A later call starts new ones."""
        with self._lock:
            self._kill_all()

    def verify(self, texts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        """One verdict per completion in ``texts``, each against its gold in ``answers``, in order."""
        verdicts: list[Verdict | None] = []
        tasks: list[Task] = []
        for text, gold in zip(texts, answers, strict=True):
            answer = extract(text) or ""
            task = (normalise(answer) if len(answer) <= MAX_ANSWER else "", normalise(gold))
            tasks.append(task)
            verdicts.append(compare(*task))
        checked = self._check([task for task, verdict in zip(tasks, verdicts, strict=True) if not verdict])
        return [verdict or checked[task] for task, verdict in zip(tasks, verdicts, strict=True)]

    def check_gold(self, answer: str, where: str) -> None:
        """Raise :class:`UserError` if the gold ``answer``, found at ``where``, cannot be read."""
        self.check_golds([answer], [where])

    def check_golds(self, answers: Sequence[str], where: Sequence[str]) -> None:
        """:meth:`check_gold` for a whole problem set; the error names the first that fails."""
        golds = [normalise(answer) for answer in answers]
        readable = self._check([(None, g) for g in golds if not is_number(g) and 0 < len(g) <= MAX_ANSWER])
        for answer, gold, place in zip(answers, golds, where, strict=True):
            if not is_number(gold) and readable.get((None, gold)) is not Verdict.CORRECT:
                raise UserError(
                    f"The gold answer {answer[:80]!r} of {place} cannot be read by the verifier; "
                    "write it as a number or as LaTeX, or leave it out (of training by problems.exclude, of "
                    "a benchmark by removing its line)."
                )

    def _check(self, tasks: Sequence[Task]) -> dict[Task, Verdict]:
        """The workers' verdict on each distinct task."""
        with self._lock:
            try:
                return self._run(deque(dict.fromkeys(tasks)))
            except BaseException:
                self._kill_all()  # a worker still at work would answer the next call's question
                raise

    def _run(self, todo: deque[Task]) -> dict[Task, Verdict]:
        verdicts: dict[Task, Verdict] = {}
        killed: Counter[Task | None] = Counter()  # by the answer at work, None where there was none
        while todo or any(worker.tasks for worker in self._pool):
            busy = sum(bool(worker.tasks) for worker in self._pool)
            while len(self._pool) < min(self.workers, busy + len(todo)):
                self._pool.append(_Worker(self.timeout, self.memory))
            for worker, end in self._news(verdicts, patient=not todo):
                at_work = worker.tasks[0] if worker.begun and worker.tasks else None
                if at_work and end in (*OWN_FAULT, LATE):
                    verdicts[worker.tasks.popleft()] = Verdict.TIMEOUT
                else:
                    killed[at_work] += 1
                    if killed[at_work] == self.KILLS:
                        raise UserError(
                            f"A verifier process was killed {self.KILLS} times (signal {end}) "
                            f"{'at one answer' if at_work else 'before it was at work'}; free some memory."
                        )
                if worker.begun or not worker.alive:  # else its child's successor will read the request
                    todo.extendleft(reversed(worker.tasks))
                    worker.tasks.clear()
            self._pool = [worker for worker in self._pool if worker.alive]
            for worker in self._pool:
                if worker.idle and todo:
                    share = min(self.BATCH, -(-len(todo) // self.workers))
                    worker.give([todo.popleft() for _ in range(share)], self.WALL * self.timeout)
        return verdicts

    def _news(self, verdicts: dict[Task, Verdict], patient: bool) -> Iterator[tuple[_Worker, int]]:
        """Wait for replies, put them into ``verdicts``, and yield each worker whose check was ended, and by
        which signal. With work left to give, that is not ``patient``, idle workers are not kept waiting."""
        deadlines = [worker.deadline for worker in self._pool if not worker.idle]
        hurry = not patient and len(deadlines) < len(self._pool)
        seconds = 0.0 if hurry else max(0.0, min(deadlines) - time.monotonic())
        ready = wait([worker.replies for worker in self._pool], timeout=seconds)
        for worker in self._pool:
            if worker.replies in ready:
                end = worker.take(verdicts)
                if end is not None:
                    yield worker, end
            elif not worker.idle and time.monotonic() > worker.deadline:
                worker.kill()
                yield worker, LATE

    def _kill_all(self) -> None:
        while self._pool:
            self._pool.pop().kill()


class _Worker:
    """One process of :mod:`repro.verify.worker`: starting, idle, or at work on the first of its ``tasks``."""

    START_SECONDS = 120.0  # imports sympy, perhaps from a slow shared disk

    def __init__(self, timeout: float, memory: int) -> None:
        # A plain program, not multiprocessing: no pickle, no second run of the caller's __main__.
        program = str(Path(__file__).with_name("worker.py"))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-B", program, str(timeout), str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONHASHSEED": "0"},  # sympy's order of terms follows it
            process_group=0,  # so that an interrupt at the terminal reaches the caller alone
            bufsize=0,
        )
        assert self._process.stdin and self._process.stdout
        self._requests, self._replies = self._process.stdin, self._process.stdout
        self.replies = self._replies.fileno()
        self._unfinished = b""  # of the last line read
        self._ready = False
        self._seconds = 0.0
        self.begun = False  # the request has been read
        self.alive = True
        self.tasks: deque[Task] = deque()
        self.deadline = time.monotonic() + self.START_SECONDS

    @property
    def idle(self) -> bool:
        return self._ready and not self.tasks

    def give(self, tasks: Sequence[Task], seconds: float) -> None:
        """Ask for verdicts; the deadline is ``seconds`` from now, then from each reply."""
        self.tasks.extend(tasks)
        self.begun, self._seconds, self.deadline = False, seconds, time.monotonic() + seconds
        with suppress(BrokenPipeError):  # it died while idle: its replies end, which the caller sees
            self._requests.write(json.dumps(tasks).encode() + b"\n")

    def take(self, verdicts: dict[Task, Verdict]) -> int | None:
        """Read the replies that have come; return the signal that ended a check, or None if none did."""
        news = os.read(self.replies, 2**16)
        if not news:
            return self.kill()
        *lines, self._unfinished = (self._unfinished + news).split(b"\n")
        for line in map(bytes.decode, lines):
            self.deadline = time.monotonic() + self._seconds
            if line.startswith("died "):
                return int(line.removeprefix("died "))
            if line == "begun":
                self.begun = True
            elif self._ready:
                verdicts[self.tasks.popleft()] = Verdict(line)
            elif line == "ready":
                self._ready = True
            else:
                raise UserError(
                    f"The verifier needs math-verify: {line}; install it with pip install math-verify."
                )
        return None

    def kill(self) -> int:
        """End the process and its child, leave no zombie, and return the signal that ended it, 0 for none."""
        self.alive = False
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        status = self._process.wait()
        self._replies.close()
        self._requests.close()
        return max(0, -status)
