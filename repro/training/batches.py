"""Which rows make up each optimizer step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

WINDOW = 16  # batches at most whose rows are sorted by length together


def batches(lengths: Sequence[int], batch_size: int, random: np.random.Generator) -> Iterator[list[int]]:
    """Endless batches of row indices: pass after pass over the rows, each in a new random order.

    Rows of similar length share a batch (sorted within windows of up to 16 batches, whose order is then
    shuffled), which spares most of the padding. A pass that does not fill its last batch goes on into the
    next, so every batch is full and any prefix visits all rows equally often, to within one window.
    """
    if not lengths:
        raise ValueError("there are no rows to make batches of")
    per_window = max(1, min(WINDOW, len(lengths) // batch_size))  # no longer than a pass
    size = per_window * batch_size
    waiting: list[int] = []
    while True:
        while len(waiting) < size:
            waiting += random.permutation(len(lengths)).tolist()
        window = sorted(waiting[:size], key=lambda i: lengths[i])
        waiting = waiting[size:]
        for start in (random.permutation(per_window) * batch_size).tolist():
            yield window[start : start + batch_size]
