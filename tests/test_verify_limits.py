"""What the verifier's other tests cannot tell: limits that are set, and numbers that no float holds."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from repro.records import Verdict
from repro.verify import Verifier, normalise, worker
from repro.verify.answers import compare


def test_every_process_has_its_memory_limit() -> None:
    limit = 300 * 2**20
    with Verifier(workers=1, memory=limit) as verifier:
        assert verifier.verify([r"\boxed{x+1}"], ["1+x"]) == [Verdict.CORRECT]
        parent = verifier._pool[0]._process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        assert children
        for process in (parent, *children):
            limits = Path(f"/proc/{process}/limits").read_text()
            assert limits.partition("Max address space")[2].split()[:2] == [str(limit), str(limit)]


def test_running_out_of_memory_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(answer: str | None, gold: str) -> str:
        if answer == "big":
            raise MemoryError
        return "correct"

    replies: list[str] = []
    monkeypatch.setattr(sys, "stdin", io.StringIO('[["big", "1"], ["1", "1"]]\n'))
    worker.serve(check, 60.0, replies.append)
    assert replies == ["begun", "timeout", "correct"]


def test_numbers_beyond_floating_point_are_exact() -> None:
    gold = normalise(r"\frac{12345678901234567891}{3}")
    assert compare(normalise("12345678901234567891/3"), gold) is Verdict.CORRECT
    assert compare(normalise("12345678901234567892/3"), gold) is Verdict.WRONG
    assert compare(normalise("0.1/0.3"), normalise(r"\frac{1}{3}")) is Verdict.CORRECT
