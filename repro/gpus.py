"""Which GPUs a job gets where no scheduler says so: free ones of this machine, each for one job."""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from repro.errors import UserError

Log = logging.getLogger("repro.gpus")
POLL = 5.0  # seconds between looks for a free GPU


def visible() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them; none without a driver."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device for device in named.split(",") if device.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(index) for index, _ in enumerate(listed.stdout.strip().splitlines())]


@contextmanager
def claim(count: int, folder: Path | None = None) -> Iterator[list[str]]:
    """Hold ``count`` free GPUs and show no others to this process and its children.

    Waits for other jobs of this user to give theirs back; the kernel does that for a job that dies. With
    ``count`` 0 nothing is changed. Raises UserError where the machine, or the scheduler, has fewer.
    """
    if count == 0:
        yield visible()
        return
    devices = visible()
    if len(devices) < count:
        raise UserError(
            f"the study asks for {count} GPUs per job and {len(devices)} are visible here; "
            "run it where there are more, or lower `gpus` in the study"
        )
    job = os.environ.get("SLURM_JOB_ID", "all")  # a scheduler may number each job's devices from 0
    folder = folder or Path(tempfile.gettempdir()) / f"repro-gpus-{os.getuid()}-{job}"
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        held: dict[str, IO[str]] = {}
        said = False
        while len(held) < count:
            for device in devices:
                if device not in held and len(held) < count and (lock := _lock(folder / device)):
                    held[device] = stack.enter_context(lock)
            if len(held) < count:
                # All or none: two jobs that each hold half of what they need would wait for ever.
                for lock in held.values():
                    lock.close()
                held.clear()
                if not said:
                    Log.info("waiting for %d free GPUs of %s", count, ", ".join(devices))
                    said = True
                time.sleep(POLL)
        before = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(held)
        Log.info("using GPUs %s", ", ".join(held))
        try:
            yield list(held)
        finally:
            if before is None:
                del os.environ["CUDA_VISIBLE_DEVICES"]
            else:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


def _lock(path: Path) -> IO[str] | None:
    file = open(path, "a")  # noqa: SIM115  (held by the caller)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
