"""Is the final answer of a completion right?

Text decides almost every answer of GSM8K, AIME, AMC and the pocket tasks, in microseconds
(:mod:`repro.verify.answers`). The rest goes to math-verify, in worker processes that are killed when
they are late or too big, because model text can make any computer algebra hang.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from multiprocessing.connection import wait
from pathlib import Path

from repro.errors import UserError
from repro.records import Verdict
from repro.verify.answers import MAX_ANSWER, compare, extract, is_number, normalise

__all__ = ["VERSION", "Verifier", "extract", "normalise"]

VERSION = f"2+math-verify-{version('math-verify')}"  # recorded beside verdicts; raise 2 when rules change

Task = tuple[str | None, str]  # normalised (answer, gold); no answer asks whether the gold can be read


class Verifier:
    """Checks final answers; a context manager that ends its workers.

    ``timeout`` limits one answer to that many seconds of processor time, so that a verdict does not
    depend on how busy the machine is; a check that has not ended after ``WALL`` times as long by the
    clock is ended too. ``workers`` is the number of processes, ``memory`` the address space of each in
    bytes. Workers start when the first answer needs one. May be called from any thread; calls that
    need workers take turns.
    """

    WALL = 6

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
                    "write it as a number or as LaTeX, or leave it out (problems.exclude)."
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
        retried = set()
        at_work: list[_Worker] = []
        while todo or at_work:
            while len(self._pool) < min(self.workers, len(at_work) + len(todo)):
                self._pool.append(_Worker(self.timeout, self.memory))
            for worker in self._pool:
                if worker.idle and todo:
                    worker.give(todo.popleft(), self.WALL * self.timeout)
            waiting = [worker for worker in self._pool if not worker.idle]
            patience = min(worker.deadline for worker in waiting) - time.monotonic()
            ready = wait([worker.replies.fileno() for worker in waiting], timeout=max(0.0, patience))
            for worker in waiting:
                task, has_news = worker.task, worker.replies.fileno() in ready
                reply = worker.take() if has_news else ""
                if reply and task:
                    verdicts[task] = Verdict(reply)
                elif not reply and (has_news or time.monotonic() > worker.deadline):  # it died or is late
                    self._pool.remove(worker)
                    own_fault = worker.kill() == -signal.SIGXCPU or not has_news
                    if task is None:
                        raise UserError("A verifier process ended before it was ready; free some memory.")
                    if not own_fault and task not in retried:  # perhaps it was killed from outside
                        retried.add(task)
                        todo.appendleft(task)
                    else:
                        verdicts[task] = Verdict.TIMEOUT
            at_work = [worker for worker in self._pool if worker.task]
        return verdicts

    def _kill_all(self) -> None:
        while self._pool:
            self._pool.pop().kill()


class _Worker:
    """One child process: starting, idle, or at work on ``task``, until ``deadline``."""

    START_SECONDS = 120.0  # imports sympy, perhaps from a slow shared disk

    def __init__(self, timeout: float, memory: int) -> None:
        # A plain program, not multiprocessing: no pickle, no second run of the caller's __main__.
        program, seconds = str(Path(__file__).with_name("worker.py")), str(math.ceil(timeout))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-B", program, seconds, str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONHASHSEED": "0"},  # sympy's order of terms follows it
            process_group=0,  # so that an interrupt at the terminal reaches the caller alone
            encoding="ascii",
        )
        assert self._process.stdin and self._process.stdout
        self._requests, self.replies = self._process.stdin, self._process.stdout
        self.task: Task | None = None
        self.idle = False
        self.deadline = time.monotonic() + self.START_SECONDS

    def give(self, task: Task, seconds: float) -> None:
        self.task, self.idle, self.deadline = task, False, time.monotonic() + seconds
        with suppress(BrokenPipeError):  # it died while idle: its replies end, which the caller sees
            self._requests.write(json.dumps(task) + "\n")
            self._requests.flush()

    def take(self) -> str:
        """The next reply; empty if the process has died."""
        reply = self.replies.readline().strip()
        if reply and self.task is None and reply != "ready":
            raise UserError(
                f"The verifier needs math-verify: {reply}; install it with pip install math-verify."
            )
        if reply:
            self.task, self.idle = None, True
        return reply

    def kill(self) -> int:
        """End the process, leave no zombie, and return its exit status (negative: the signal)."""
        self._process.kill()
        status = self._process.wait()
        self.replies.close()
        with suppress(BrokenPipeError):  # a request that was never read
            self._requests.close()
        return status
