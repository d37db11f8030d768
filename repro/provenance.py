"""What ran a job: when, on which machine, with which libraries, and which commit of the suite. It goes into
the job's manifest, and from there into provenance.json."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from time import perf_counter
from typing import Any

from repro import identity, machine
from repro.discovery import ROOT

ALSO = ("lm-eval", "math-verify")  # which check answers


class Process:
    """The process of a job, made where the job begins: files may be edited while it runs."""

    def __init__(self) -> None:
        self._started = perf_counter()
        self._commit, self._changed = commit()

    def facts(self, engine: str = "transformers") -> dict[str, Any]:
        """Of the job that ends now; ``engine`` is that of its sampler."""
        return {
            "ended": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
            "seconds": round(perf_counter() - self._started, 1),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpu": machine.processor(),
            "cores": _cores(),
            "gpus": machine.gpus(),
            "libraries": identity.libraries(engine) | {name: version(name) for name in ALSO},
            "commit": self._commit,
            "changed": self._changed,
        }


@cache
def commit() -> tuple[str | None, bool | None]:
    """The suite's commit, and whether files differ from it, but for results; None where git cannot say."""
    if not (ROOT / ".git").exists():  # else it might be another repository's, around this one
        return None, None
    try:
        status = _git("status", "--porcelain", "--", ".", ":(exclude)results")
        return _git("rev-parse", "HEAD"), bool(status)
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(*arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 0
