"""Training in several processes that ``accelerate launch`` starts: data-parallel (DDP) or sharded (FSDP2).

A call is written to a file, the processes run :mod:`repro.training.worker` over it, and what they report is
read back. Each step trains on the rows it is given, whatever the number of processes.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import repro
from repro import files
from repro.config import Training
from repro.errors import RunFailed, UserError
from repro.objectives import Objective, Optimizer
from repro.training import Row, Trained
from repro.training.accelerate import processes

POLL = 0.2  # seconds between looks at what the processes report


class LaunchedTrainer:
    """:class:`repro.training.Trainer` over :class:`repro.training.trl.TRLTrainer` in the processes of
    ``settings.accelerate``, a configuration of ``accelerate launch``. Their output goes to ``training.log``
    beside the call's folder."""

    def __init__(self, settings: Training) -> None:
        assert settings.accelerate is not None
        self.config = settings.accelerate.resolve()
        self.settings = settings.model_copy(update={"accelerate": None})
        processes(self.config)  # refuses what training would stumble over

    def train(
        self,
        model_dir: Path,
        batches: Sequence[Sequence[Row]],
        objective: Objective,
        optimizer: Optimizer,
        out_dir: Path,
        *,
        snapshots: Mapping[int, Path] | None = None,
        inherit: Path | None = None,
        horizon: int | None = None,
        seed: int = 0,
        on_step: Callable[[int, float], None] | None = None,
        states: Path | None = None,
        keep_state: bool = False,
        base: Path | None = None,
    ) -> Trained:
        """See :class:`repro.training.Trainer`."""
        index: dict[Row, int] = {}
        numbers = [[index.setdefault(row, len(index)) for row in batch] for batch in batches]
        job = {
            "training": self.settings.model_dump(mode="json"),
            "model_dir": str(model_dir.resolve()),
            "rows": [[row.prompt, row.responses, row.weight] for row in index],
            "batches": numbers,
            "objective": type(objective).__name__,
            "settings": objective.model_dump(),
            "optimizer": optimizer.model_dump(),
            "out_dir": str(out_dir.resolve()),
            "snapshots": {step: str(path.resolve()) for step, path in (snapshots or {}).items()},
            "inherit": inherit and str(inherit.resolve()),
            "horizon": horizon,
            "seed": seed,
            "states": states and str(states.resolve()),
            "keep_state": keep_state,
            "base": base and str(base.resolve()),
        }
        folder = out_dir / "job"
        shutil.rmtree(folder, ignore_errors=True)
        files.write_json(folder / "job.json", job)
        (folder / "steps").touch()
        log = out_dir.parent / "training.log"
        with open(folder / "steps") as steps, self._processes(folder, log) as process:
            while True:
                ended = process.poll() is not None  # asked before the last look
                for line in _whole_lines(steps):
                    step, _, loss = line.partition(" ")
                    if on_step:
                        on_step(int(step), float(loss))
                if ended:
                    break
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL)
        if process.returncode or not (folder / "trained.json").exists():
            raise self._error(folder, log, process.returncode)
        trained = files.read_json(folder / "trained.json")
        shutil.rmtree(folder)
        rows = [*index]
        start = [(rows[number], tuple(values)) for number, values in trained["start"]]
        return Trained(trained["loss"], trained["monitors"], start)

    @contextmanager
    def _processes(self, folder: Path, log: Path) -> Iterator[subprocess.Popen]:
        """The launcher with its processes, which are gone afterwards, come what may."""
        library = str(Path(repro.__file__).parent.parent)
        path = os.pathsep.join(filter(None, [library, os.environ.get("PYTHONPATH")]))
        precision = "bf16" if self.settings.dtype == "bfloat16" else "no"
        command = [
            sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(self.config),
            "--mixed_precision", precision, "--main_process_port", "0",
            "-m", "repro.training.worker", str(folder.resolve()),
        ]  # fmt: skip
        with open(log, "wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
        assert process.stdin is not None
        try:
            yield process
        finally:
            process.stdin.close()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _error(self, folder: Path, log: Path, status: int) -> UserError:
        if (folder / "error.json").exists():
            error = files.read_json(folder / "error.json")
            return (RunFailed if error["kind"] == "RunFailed" else UserError)(error["message"])
        return UserError(
            f"The training processes of {self.config} ended with status {status}; their output is in {log}, "
            "and a run that is started again goes on from its last saved state."
        )


def _whole_lines(file: Any) -> Iterator[str]:
    """The lines that were written since the last look; a torn one waits for its rest."""
    while True:
        start = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(start)
            return
        yield line
