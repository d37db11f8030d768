"""One of the processes of :class:`repro.training.launch.LaunchedTrainer`, which see.

``accelerate launch -m repro.training.worker FOLDER`` reads the call from ``FOLDER/job.json``. The first
process adds a line to ``FOLDER/steps`` after each step and writes what training reports to
``FOLDER/trained.json``; one that cannot go on says why in ``FOLDER/error.json``. All end when their standard
input does, which the caller holds open: so nothing trains on when it was killed.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

from repro import files
from repro.config import Training
from repro.errors import UserError
from repro.objectives import OBJECTIVES, Optimizer
from repro.training import Row, trainer_for


def main(folder: Path) -> None:
    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    try:
        trained = _train(files.read_json(folder / "job.json"), folder / "steps")
    except UserError as error:
        files.write_json(folder / "error.json", {"kind": type(error).__name__, "message": str(error)})
        sys.exit(1)
    if os.environ.get("RANK", "0") == "0":
        files.write_json(folder / "trained.json", trained)


def _end_with_the_caller() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


def _train(job: dict[str, Any], steps: Path) -> dict[str, Any]:
    """What :class:`repro.training.Trained` holds, its rows by their numbers in the job."""
    rows = [
        Row(tuple(prompt), tuple(map(tuple, responses)), weight) for prompt, responses, weight in job["rows"]
    ]
    with open(steps, "a") as file:

        def on_step(step: int, loss: float) -> None:
            file.write(f"{step} {loss!r}\n")
            file.flush()

        trained = trainer_for(Training.model_validate(job["training"])).train(
            Path(job["model_dir"]),
            [[rows[i] for i in batch] for batch in job["batches"]],
            OBJECTIVES[job["objective"]].model_validate(job["settings"]),
            Optimizer.model_validate(job["optimizer"]),
            Path(job["out_dir"]),
            snapshots={int(step): Path(path) for step, path in job["snapshots"].items()},
            inherit=_path(job["inherit"]),
            horizon=job["horizon"],
            seed=job["seed"],
            on_step=on_step,
            states=_path(job["states"]),
            keep_state=job["keep_state"],
            base=_path(job["base"]),
        )
    start = [[rows.index(row), values] for row, values in trained.start]
    return {"loss": trained.loss, "monitors": trained.monitors, "start": start}


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
