"""The journal: what is finished is never done again, and what changed is noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from repro.errors import UserError
from repro.journal import Journal


def counted(calls: list[Any], value: Any) -> Any:
    calls.append(value)
    return value


def test_a_restarted_run_reads_what_it_did_and_goes_on(tmp_path: Path) -> None:
    value = [[3, [["w1", 2, "stop", "correct"]]], 1 / 3]
    first = Journal(tmp_path / "journal")
    assert first.next("sample", ["a"], lambda: value) == value
    first.next("train", ["b"], lambda: 0.1)

    done: list[Any] = []
    again = Journal(tmp_path / "journal")
    assert again.next("sample", ["a"], lambda: counted(done, None)) == value
    assert again.next("train", ["b"], lambda: counted(done, None)) == 0.1
    assert done == [] and again.replayed == 2
    assert again.next("sample", ["c"], lambda: counted(done, 7)) == 7 and done == [7]


def test_a_call_that_dies_leaves_no_entry(tmp_path: Path) -> None:
    def dies() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Journal(tmp_path).next("sample", [], dies)
    assert Journal(tmp_path).next("sample", [], lambda: 5) == 5


@pytest.mark.parametrize(("kind", "arguments"), [("train", ["a"]), ("sample", ["b"])])
def test_another_call_than_the_recorded_one_is_refused(tmp_path: Path, kind: str, arguments: Any) -> None:
    Journal(tmp_path / "run" / "journal").next("sample", ["a"], lambda: 1)
    with pytest.raises(UserError, match=r"000001\.json records `sample \w+` where .* delete .*run to start"):
        Journal(tmp_path / "run" / "journal").next(kind, arguments, lambda: 2)


def test_a_damaged_entry_is_named(tmp_path: Path) -> None:
    Journal(tmp_path).next("sample", ["a"], lambda: 1)
    (tmp_path / "000001.json").write_text('{"call": "sam')
    with pytest.raises(UserError, match=r"000001\.json, line 1: not JSON"):
        Journal(tmp_path).next("sample", ["a"], lambda: 1)
