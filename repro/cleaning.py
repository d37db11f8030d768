"""Old state of a study: what lies in ``work/`` and belongs to no run or evaluation of the study as it is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from repro import files, identity, problems
from repro.config import Study
from repro.discovery import load_method, method_ids
from repro.layout import Layout
from repro.run import base_fingerprint


@dataclass(frozen=True)
class Stale:
    """A file or folder that nothing will read again."""

    path: Path
    bytes: int


def stale(study: Study, layout: Layout) -> list[Stale]:
    """What could go. Raises UserError where it cannot be said, because the study's own state is missing."""
    kept: set[Path] = set()
    training_set = problems.read_prepared(layout.problems, "train")
    base = base_fingerprint(layout)
    for name in method_ids(study):
        method = load_method(study, name)
        for seed in study.seeds:
            key = identity.run_key(study, method, name, seed, training_set, base)
            runs = {identity.folder_name(name, seed, key, method, budget) for budget in study.budgets}
            kept |= {layout.runs / folder for folder in runs} | {layout.run(name, seed)}
            kept |= _evaluation(layout, name, seed)
    found = [path for folder in (layout.runs, layout.evaluations) for path in _roots(folder, kept)]
    return [Stale(path, size(path)) for path in found]


def _evaluation(layout: Layout, name: str, seed: int) -> set[Path]:
    """What an evaluation consists of: all that is there where it is not of the run as it is, for then it is
    still at work or yet to go on."""
    samples = layout.samples(name, seed)
    facts, run, folder = samples.with_suffix(".json"), layout.run(name, seed), samples.with_suffix("")
    kept = {samples, facts, folder / "lease"}
    if not (facts.is_file() and run.is_file()):
        return kept | {folder}
    found = files.read_checked(facts, ("parts", "budgets"))
    checkpoints = {row["fingerprint"] for row in files.read_checked(run, ("budgets",))["budgets"]}
    if {row["fingerprint"] for row in found["budgets"].values()} != checkpoints:
        return kept | {folder}
    return kept | {folder / part for part in found["parts"]}


def _roots(folder: Path, kept: set[Path]) -> Iterator[Path]:
    """The highest paths in ``folder`` with nothing in them that is kept."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path in kept:
            continue
        if any(path in other.parents for other in kept):
            yield from _roots(path, kept)
        else:
            yield path


def size(path: Path) -> int:
    """Bytes on disk; what hard links share counts once."""
    inside = [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]
    seen = {(status.st_dev, status.st_ino): status.st_size for status in (one.lstat() for one in inside)}
    return sum(seen.values())


def remove(found: list[Stale]) -> None:
    """Remove it for good."""
    for one in found:
        if one.path.is_dir() and not one.path.is_symlink():
            # A run or evaluation that is still at work is refused by name.
            leased = one.path if one.path.parent.name in ("runs", "evaluations") else one.path.parent
            with files.lease(leased):
                shutil.rmtree(one.path)
        else:
            one.path.unlink(missing_ok=True)
