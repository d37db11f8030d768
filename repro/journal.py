"""The journal of a run: every finished call, so that a killed run replays to where it was.

A restarted run calls its method's ``round`` from the beginning; calls that are in the journal return what
they returned, and the first that is not is done. An entry is one file, written atomically: it is there whole
or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.files import digest, read_json, write_text


class Journal:
    """Entries ``000001.json``, ``000002.json``, ... of one folder, read and then written in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.position = 0
        self.replayed = 0

    def next(self, kind: str, arguments: Any, work: Callable[[], Any]) -> Any:
        """The JSON value of the next call: from the journal if it is there, else of ``work()``, now written.

        Raises UserError where the journal holds another call, which means that the code or its input has
        changed under the run (its folder is keyed by both) or that a method is not deterministic.
        """
        self.position += 1
        path = self.folder / f"{self.position:06d}.json"
        call = f"{kind} {digest(arguments)}"
        if path.exists():
            entry = read_json(path)
            if entry["call"] != call:
                raise UserError(
                    f"{path} records `{entry['call']}` where the run now makes `{call}`: a method must make "
                    "the same calls each time (draw from lab.rng only); "
                    f"delete {self.folder.parent} to start anew"
                )
            self.replayed += 1
            return entry["value"]
        value = work()
        write_text(path, json.dumps({"call": call, "value": value}, separators=(",", ":")))
        return value
