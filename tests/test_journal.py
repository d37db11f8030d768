"""The journal: what is finished is never done again, what changed is noticed, and what was lost is known."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repro.errors import UserError
from repro.journal import Journal, Progress


class Killed(BaseException):
    """As a kill: no handler of the suite takes it for its own."""


def work(value: Any, done: list[Any] | None = None) -> Callable[[Progress], Any]:
    def call(progress: Progress) -> Any:
        if done is not None:
            done.append(value)
        return value

    return call


def dies(*units: int) -> Callable[[Progress], Any]:
    """Work that reports its progress, and then its process is killed."""

    def call(progress: Progress) -> None:
        for number in units:
            progress(number)
        raise Killed

    return call


def test_a_restarted_run_reads_what_it_did_and_goes_on(tmp_path: Path) -> None:
    value = [[3, [["w1", 2, "stop", "correct"]]], 1 / 3]
    took = {"device": "GPU", "seconds": {"sample": 1.5}, "joules": {}}
    first = Journal(tmp_path / "journal")
    assert first.next("sample", ["a"], work(value), machine=lambda: took) == value
    first.next("train", ["b"], work(0.1))

    done: list[Any] = []
    again = Journal(tmp_path / "journal")
    assert again.next("sample", ["a"], work(None, done)) == value
    assert again.next("train", ["b"], work(None, done)) == 0.1
    assert done == [] and (again.replayed, again.made) == (2, 0)
    assert again.machine == [{**took, "wasted": 0}, {"wasted": 0}]  # what the machine took outlives it
    assert again.next("sample", ["c"], work(7, done)) == 7 and done == [7]


def test_a_call_that_dies_leaves_no_entry(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        Journal(tmp_path).next("sample", [], dies())
    assert Journal(tmp_path).next("sample", [], work(5)) == 5


@pytest.mark.parametrize(("kind", "arguments"), [("train", ["a"]), ("sample", ["b"])])
def test_another_call_than_the_recorded_one_is_refused(tmp_path: Path, kind: str, arguments: Any) -> None:
    Journal(tmp_path / "run" / "journal").next("sample", ["a"], work(1))
    with pytest.raises(UserError, match=r"000001\.json records `sample \w+` where .* delete .*run to start"):
        Journal(tmp_path / "run" / "journal").next(kind, arguments, work(2))


def test_a_damaged_entry_is_named(tmp_path: Path) -> None:
    Journal(tmp_path).next("sample", ["a"], work(1))
    (tmp_path / "000001.json").write_text('{"call": "sam')
    with pytest.raises(UserError, match=r"000001\.json, line 1: not JSON"):
        Journal(tmp_path).next("sample", ["a"], work(1))


@pytest.mark.promise(
    "Runs that are killed", "Any damaged bit of a journal, of a sealed folder or of the records is noticed."
)
def test_any_flipped_bit_of_an_entry_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "000001.json"
    Journal(tmp_path).next("sample", ["a"], work([[12, [["w1 w2", 45, "stop", "correct"]]]]))
    whole = path.read_bytes()
    chance = random.Random(0)
    for _ in range(200):
        at, bit = chance.randrange(len(whole)), chance.randrange(8)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        with pytest.raises(UserError, match=r"000001\.json"):
            Journal(tmp_path).next("sample", ["a"], work(0))
    path.write_bytes(whole)
    for text in ("[]", "{}", "null"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"000001\.json"):
            Journal(tmp_path).next("sample", ["a"], work(0))


def test_what_dead_processes_had_done_is_noted_once_each(tmp_path: Path) -> None:
    def price(value: Any, first: int, last: int) -> int:
        return 100 * (last - first) + int(value)

    def saved() -> int:
        return 3

    with pytest.raises(Killed):
        Journal(tmp_path).next("train", [], dies(1, 2, 5))
    with pytest.raises(Killed):
        Journal(tmp_path).next("train", [], dies(), saved=saved)  # before it had begun
    with pytest.raises(Killed):
        Journal(tmp_path).next("train", [], dies(4), saved=saved)
    journal = Journal(tmp_path)
    assert journal.next("train", [], work(7), saved=saved, price=price) == 7
    assert journal.machine == [{"wasted": (200 + 7) + (100 + 7)}]  # steps 4 and 5; then step 4
    assert [path.name for path in tmp_path.iterdir()] == ["000001.json"]
    again = Journal(tmp_path)
    again.next("train", [], work(0), price=price)
    assert again.machine == journal.machine


def test_what_was_lost_at_one_call_is_not_noted_at_another(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.next("sample", [], lambda progress: progress(9))
    with pytest.raises(Killed):
        journal.next("train", [], dies(1))
    left = json.loads((tmp_path / "at-work.json").read_text())
    (tmp_path / "at-work.json").write_text(json.dumps(left | {"position": 1}))
    other = Journal(tmp_path)
    other.next("sample", [], work(None))
    other.next("train", [], work(None), price=lambda *_: 5)
    assert [call["wasted"] for call in other.machine] == [0, 0]
    (tmp_path / "at-work.json").write_text("torn")
    assert other.next("sample", [], work(3)) == 3


def test_an_entry_that_is_not_enough_is_gone_on_with(tmp_path: Path) -> None:
    Journal(tmp_path).next("train", ["a"], work({"steps": 3}), machine=lambda: {"seconds": {"train": 1.0}})
    longer = Journal(tmp_path)
    value = longer.next(
        "train", ["a"], work({"steps": 5}), enough=lambda value: value["steps"] >= 5,
        machine=lambda: {"seconds": {"train": 2.0}},
    )  # fmt: skip
    assert value == {"steps": 5} and longer.made == 1
    again = Journal(tmp_path)
    assert again.next("train", ["a"], work(None), enough=lambda value: value["steps"] >= 4) == value
    assert [call["seconds"]["train"] for call in again.machine] == [1.0, 2.0]
