"""Batches: always full, every row in turn, the same for the same stream."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.flops import Tally, batch_tally, sequence_tally
from repro.seeds import generator
from repro.training.batches import WINDOW, batches

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=200)


@settings(max_examples=200, deadline=None)
@given(LENGTHS, st.integers(1, 20), st.integers(0, 60))
def test_any_prefix_visits_all_rows_equally_often_to_within_one_window(
    lengths: list[int], size: int, taken: int
) -> None:
    drawn = list(islice(batches(lengths, size, generator("a")), taken))
    assert all(len(batch) == size for batch in drawn)
    visits = Counter(row for batch in drawn for row in batch)
    assert set(visits) <= set(range(len(lengths)))
    counts = [visits[row] for row in range(len(lengths))]
    assert max(counts) - min(counts) <= 2 + size // len(lengths)


@given(LENGTHS, st.integers(1, 20))
def test_one_pass_visits_every_row_once(lengths: list[int], size: int) -> None:
    lengths = lengths * size  # so that batches fill the pass
    per_pass = len(lengths) // size
    if per_pass > WINDOW and per_pass % WINDOW:
        return  # the last window goes on into the next pass
    drawn = islice(batches(lengths, size, generator("a")), per_pass)
    assert sorted(row for batch in drawn for row in batch) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 20))
def test_the_stream_decides(lengths: list[int], size: int) -> None:
    def first(name: str) -> list[list[int]]:
        return list(islice(batches(lengths, size, generator(name)), 20))

    assert first("a") == first("a")
    if len(lengths) > 20:
        assert first("a") != first("b")


def test_rows_of_similar_length_share_a_batch() -> None:
    lengths = [int(length) for length in generator("lengths").integers(1, 1000, 1600)]

    def padded(order: list[list[int]]) -> int:
        return sum(len(batch) * max(lengths[row] for row in batch) for batch in order)

    unsorted = generator("b").permutation(1600).reshape(100, 16).tolist()
    share = padded(list(islice(batches(lengths, 16, generator("a")), 100))) / sum(lengths)
    assert share < 1.15 < padded(unsorted) / sum(lengths)


def test_no_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="no rows"):
        next(batches([], 2, generator("a")))


def test_a_batch_is_padded_to_its_longest_row() -> None:
    # By the papers' convention: an example of 3 + 2 tokens and one of 4 + 5 are 2 * 9. A pair of 3 + 1 and
    # 3 + 4 beside one of 2 + 2 and 2 + 3 is 4 * 7. All other counts just add up.
    for rows, padded in (
        ([sequence_tally([(3, 2)]), sequence_tally([(4, 5)])], 18),
        ([sequence_tally([(3, 1), (3, 4)]), sequence_tally([(2, 2), (2, 3)])], 28),
    ):
        assert batch_tally(rows) == replace(sum(rows, Tally.zero()), padded=padded)
