"""Named random streams: every draw comes from the hash of what it is for, never from a global state."""

from __future__ import annotations

import hashlib

import numpy as np


def stream_seed(*names: str | int) -> int:
    """A 64-bit seed from a tuple of names. Distinct tuples give independent seeds."""
    text = "\x1f".join(f"{type(name).__name__}:{name}" for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def generator(*names: str | int) -> np.random.Generator:
    """The stream of these names; the same names give the same numbers."""
    return np.random.Generator(np.random.Philox(stream_seed(*names)))
