"""The journal of a run: every finished call, so that a killed run replays to where it was.

A restarted run calls its method's ``round`` from the beginning; calls that are in the journal return what
they returned, and the first that is not is done. An entry is one file, written atomically: it is there whole
or not at all, and it carries a check of itself. With its value it keeps what the machine took for it, and
what processes that died had done of it in vain: so both survive any number of restarts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.files import digest, read_json, write_lightly, write_text

Progress = Callable[[int], None]  # called with the units (steps, completions) that are done or begun
PROGRESS = "progress.json"  # of a run's folder: FLOPs spent, seconds of the machine for them, and the round
AT_WORK = "at-work.json"  # of the call under way: its position, units done, and units that earlier tries lost


class Journal:
    """Entries ``000001.json``, ``000002.json``, ... of one folder, read and then written in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.position = 0
        self.replayed = 0
        self.made = 0
        self.machine: list[dict[str, Any]] = []  # what the machine took, call by call

    def next(
        self,
        kind: str,
        arguments: Any,
        work: Callable[[Progress], Any],
        *,
        machine: Callable[[], dict[str, Any]] = dict,
        saved: Callable[[], int] = lambda: 0,
        price: Callable[[Any, int, int], int] = lambda value, first, last: 0,
        enough: Callable[[Any], bool] = lambda value: True,
    ) -> Any:
        """The JSON value of the next call: from the journal if it is there, else of ``work()``, now written.

        ``machine()`` says, after the work, what the machine took for it. ``work`` is given a function to
        report its progress in units. Where a process died at this call, the units from ``saved()``, how many
        a new try need not do again, to those it had reported are lost; ``price(value, first, last)`` is their
        cost in FLOPs. An entry whose value is not ``enough`` is gone on with and replaced.

        Raises UserError where the journal holds another call, which means that the code or its input has
        changed under the run (its folder is keyed by both) or that a method is not deterministic.
        """
        self.position += 1
        path = self.folder / f"{self.position:06d}.json"
        call = f"{kind} {digest(arguments)}"
        earlier = self._entry(path, call) if path.exists() else None
        if earlier and enough(earlier["value"]):
            self.replayed += 1
            self.machine += earlier["machine"]
            return earlier["value"]
        lost = self._lost(saved)
        at_work = self.folder / AT_WORK

        def progress(units: int) -> None:
            write_lightly(at_work, json.dumps({"position": self.position, "done": units, "lost": lost}))

        self.folder.mkdir(parents=True, exist_ok=True)
        value = work(progress)
        self.made += 1
        wasted = sum(price(value, first, last) for first, last in lost)
        took = [*(earlier["machine"] if earlier else []), {**machine(), "wasted": wasted}]
        entry = {"call": call, "value": value, "machine": took}
        write_text(path, json.dumps({**entry, "check": digest(entry)}, separators=(",", ":")))
        at_work.unlink(missing_ok=True)
        self.machine += took
        return value

    def _entry(self, path: Path, call: str) -> dict[str, Any]:
        entry: dict[str, Any] = read_json(path, keys=("call", "value", "machine", "check"))
        if entry.pop("check") != digest(entry):
            raise UserError(f"{path} is damaged (its check fails); delete it and run again")
        if entry["call"] != call:
            raise UserError(
                f"{path} records `{entry['call']}` where the run now makes `{call}`: either another entry "
                "was put here, then delete it; or the method does not make the same calls each time (it must "
                f"draw from lab.rng only), then delete {self.folder.parent} to start anew"
            )
        return entry

    def _lost(self, saved: Callable[[], int]) -> list[tuple[int, int]]:
        """The units ``(first, last)`` that processes which died at this call had done in vain, one by one."""
        try:
            left = json.loads((self.folder / AT_WORK).read_text())
            if left["position"] != self.position:
                return []
            first, last = saved(), int(left["done"])
            before = [(int(first), int(last)) for first, last in left["lost"]]
            return [*before, *([(first, last)] if last > first else [])]
        except (OSError, ValueError, KeyError, TypeError, OverflowError):  # nothing, or nothing legible
            return []
