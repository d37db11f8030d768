"""The list of mutants does not rot, and the script tells a mutant that is seen from one that is not."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from mutants import MUTANTS, ROOT, Mutant, mutated, run


def test_every_mutant_is_still_one_change_with_tests_to_see_it() -> None:
    for mutant in MUTANTS:
        compile(mutated(mutant, ROOT), mutant.file, "exec")
    assert len(set(MUTANTS)) == len(MUTANTS) and all(mutant.tests for mutant in MUTANTS)
    for test in {test for mutant in MUTANTS for test in mutant.tests}:
        path, name, *_ = *re.split(r"::|\[", test), ""
        assert f"def {name}" in (ROOT / path).read_text(), f"there is no {test}"


def test_seen_and_unseen_mutants_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    (tmp_path / "repro").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "repro" / "sums.py").write_text("def add(a, b):\n    return a + b\n\n\nUNUSED = 1\n")
    (tmp_path / "tests" / "test_sums.py").write_text(
        "from repro.sums import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"
    )
    tests = ("tests/test_sums.py::test_add",)
    seen = Mutant("repro/sums.py", "a + b", "a - b", tests)
    unseen = Mutant("repro/sums.py", "UNUSED = 1", "UNUSED = 2", tests)
    broken = Mutant("repro/sums.py", "def add(", "def plus(", tests)
    kept = tmp_path / "work" / "mutants.jsonl"

    time.sleep(1 - time.time() % 1)  # two of the mutants, of the same length, come within a second
    found = run([seen, unseen, broken], tmp_path, kept)
    assert found == {"killed": 1, "survived": 1, "broken": 1}
    assert run([seen, unseen, broken], tmp_path, kept) == found and len(kept.read_text().splitlines()) == 3
    assert "1 killed, 1 survived, 1 broken of 3 mutants" in capsys.readouterr().out

    with pytest.raises(ValueError, match="0 times"):
        mutated(Mutant("repro/sums.py", "a * b", "a", tests), tmp_path)
    (tmp_path / "repro" / "sums.py").write_text("def add(a, b):\n    return b\n")
    with pytest.raises(SystemExit, match=r"fail without any mutant.*test_add"):
        run([Mutant("repro/sums.py", "return b", "return a", tests)], tmp_path, kept)
