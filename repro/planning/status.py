"""How far a study is: what each of its runs has done, seen from what lies in ``work/`` and nothing else. It
takes no lock and writes nothing; a file that is half-written or damaged counts as not there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from repro import files, identity, problems
from repro.config import Study
from repro.discovery import load_methods
from repro.errors import UserError
from repro.journal import PROGRESS
from repro.layout import Layout
from repro.method import Method
from repro.records import Role
from repro.reporting.document import document
from repro.reporting.table import DASH, Table, flops, percent

Made = TypeVar("Made")
REFRESH = 5  # seconds between two looks of a page


class State(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    STOPPED = "stopped"  # begun, and no process is at it
    TRAINED = "trained"
    EVALUATING = "evaluating"
    EVALUATED = "evaluated"
    FAILED = "failed"
    UNAVAILABLE = "unavailable"


OVER = (State.EVALUATED, State.FAILED, State.UNAVAILABLE)
TO_TRAIN = (State.WAITING, State.RUNNING, State.STOPPED)


@dataclass(frozen=True)
class Run:
    """A row with one seed. What is unknown is None; ``due`` are the FLOPs of its budgets, 0 where it trains
    nothing."""

    row: str
    title: str
    seed: int
    state: State
    due: int
    reason: str = ""
    holder: str | None = None  # the process that is at it
    spent: int | None = None
    seconds: float | None = None
    round: int | None = None
    score: float | None = None  # at the top budget, on the first benchmark

    @property
    def share(self) -> float | None:
        return self.spent / self.due if self.due and self.spent is not None else None

    @property
    def rate(self) -> float | None:
        """FLOPs spent for a second of the machine."""
        return self.spent / self.seconds if self.spent and self.seconds else None


@dataclass(frozen=True)
class Status:
    title: str
    runs: Sequence[Run]
    lacks: str  # what of the study is not there yet, before which no run begins
    workflow: str | None  # the Snakemake at work

    @property
    def over(self) -> bool:
        return all(run.state in OVER for run in self.runs)

    @property
    def rate(self) -> float | None:
        """FLOPs for a second, over all runs of which both are known."""
        known = [(run.spent, run.seconds) for run in self.runs if run.rate]
        return sum(spent or 0 for spent, _ in known) / sum(s or 0 for _, s in known) if known else None

    def left(self, run: Run) -> float | None:
        """Seconds of the machine until a run is trained, at its own pace or, without one, at that of all."""
        if run.state not in TO_TRAIN or not run.due:
            return 0.0
        rate = run.rate or self.rate
        return max(0, run.due - (run.spent or 0)) / rate if rate else None

    def sentence(self) -> str:
        """The totals, in words."""
        counts = Counter(run.state for run in self.runs)
        told = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
        counted = [run for run in self.runs if run.due and run.state not in (State.FAILED, State.UNAVAILABLE)]
        due = sum(run.due for run in counted)
        spent = sum(run.spent or 0 for run in counted)
        parts = [f"{len(self.runs)} runs: {told}"]
        parts += [f"{flops(spent)} of {flops(due)} spent ({percent(spent / due)} %)"] * bool(due)
        left = [self.left(run) for run in self.runs]
        known = [seconds for seconds in left if seconds is not None]
        if self.rate and len(known) == len(left) and sum(known):
            at_once = max(1, sum(run.state is State.RUNNING for run in self.runs))
            parts.append(
                f"{duration(sum(known))} of training left at {flops(self.rate)}/s, one run after the other"
                + f" ({duration(sum(known) / at_once)} with {at_once} at a time)" * (at_once > 1)
            )
        return "; ".join(parts) + "."

    def notes(self) -> list[str]:
        who = (
            f"Snakemake is at work (process {self.workflow})."
            if self.workflow
            else "No Snakemake is at work."
        )
        return [self.sentence(), who, *[self.lacks] * bool(self.lacks)]

    def table(self) -> Table:
        cells = [
            {
                "Method": run.title, "Seed": str(run.seed), "State": str(run.state),
                "Round": DASH if run.round is None else str(run.round),
                "Spent": DASH if run.spent is None else flops(run.spent),
                "Share": DASH if run.share is None else f"{percent(run.share)} %",
                "FLOP/s": DASH if run.rate is None else flops(run.rate),
                "Left": DASH if not (left := self.left(run)) else duration(left),
                "Score": DASH if run.score is None else percent(run.score),
                "Note": run.reason or (f"process {run.holder}" if run.holder else ""),
            }
            for run in self.runs
        ]  # fmt: skip
        frame = pd.DataFrame(cells, dtype=object)
        return Table("status", self.title, frame, frame, self.notes())

    def html(self) -> str:
        refresh = f'<meta http-equiv="refresh" content="{REFRESH}">\n' * (not self.over)
        return document(self.title, f"<section>\n{self.table().html()}</section>\n", refresh)

    def to_json(self) -> str:
        runs = [
            {**asdict(run), "share": run.share, "flops_per_second": run.rate, "seconds_left": self.left(run)}
            for run in self.runs
        ]
        return files.json_text(
            {"title": self.title, "runs": runs, "lacks": self.lacks, "workflow": self.workflow,
             "over": self.over, "summary": self.sentence()}
        )  # fmt: skip


class Watch:
    """Looks at a study again and again. What has not changed since the last look is not read again."""

    def __init__(self, study: Study, layout: Layout) -> None:
        self._study = study
        self._layout = layout
        self._methods = load_methods(study)
        self._keys: dict[tuple[str, int], str] = {}
        self._keyed: tuple[str, str] | None = None
        self._known: dict[Path, tuple[tuple[int, int], Any]] = {}

    def look(self) -> Status:
        lacks = self._find_keys()
        runs = [
            self._run(name, method, seed)
            for name, method in self._methods.items()
            for seed in self._study.seeds
        ]
        return Status(self._study.title, runs, lacks, files.holder(self._layout.work))

    def _find_keys(self) -> str:
        """See which runs are those of the study as it is; what that lacks, if it cannot be said."""
        try:
            training_set = problems.read_prepared(self._layout.problems, "train")
        except UserError:
            return "The problems are not prepared yet."
        base = self._read(self._layout.base_manifest, lambda path: files.read_checked(path, ("fingerprint",)))
        if base is None:
            return "The base model is not made yet."
        found = training_set.digest, base["fingerprint"]
        if found != self._keyed:
            self._keys = {
                (name, seed): identity.run_key(self._study, method, name, seed, training_set, found[1])
                for name, method in self._methods.items()
                for seed in self._study.seeds
            }
            self._keyed = found
        return ""

    def _run(self, name: str, method: Method, seed: int) -> Run:
        budgets = self._study.budgets
        due = 0 if method.role is Role.BASE else sum(budgets) if method.plans else budgets[-1]
        of: dict[str, Any] = {"row": name, "title": method.title, "seed": seed, "due": due}
        key = self._keys.get((name, seed))
        if key is None:
            return Run(**of, state=State.WAITING)
        manifest = self._read(self._layout.run(name, seed), _manifest)
        if manifest is not None and (manifest["key"], manifest["asked"]) == (key, budgets):
            return self._ended(of, manifest, key)
        folders = [
            self._layout.runs / identity.folder_name(name, seed, key, method, budget)
            for budget in (budgets if method.plans else budgets[-1:])
        ]
        begun = [folder for folder in folders if folder.is_dir()]
        holder = next(filter(None, map(files.holder, begun)), None)
        stands = [found for folder in begun if (found := self._read(folder / PROGRESS, _progress))]
        state = State.RUNNING if holder else State.STOPPED if begun else State.WAITING
        if not stands:
            return Run(**of, state=state, holder=holder)
        return Run(
            **of, state=state, holder=holder, spent=sum(one["spent"] for one in stands),
            seconds=sum(one["seconds"] for one in stands), round=stands[-1]["round"],
        )  # fmt: skip

    def _ended(self, of: dict[str, Any], manifest: dict[str, Any], key: str) -> Run:
        if manifest["status"] != "ok":
            state = State.UNAVAILABLE if manifest["status"] == "unavailable" else State.FAILED
            return Run(**of, state=state, reason=manifest["reason"])
        of |= {name: manifest[name] for name in ("spent", "seconds", "round")}
        samples = self._layout.samples(of["row"], of["seed"])
        if self._read(samples.with_suffix(".json"), _key) == key:
            score = self._read(samples, self._score)
            return Run(**of, state=State.EVALUATED, score=score)
        holder = files.holder(samples.with_suffix(""))
        return Run(**of, state=State.EVALUATING if holder else State.TRAINED, holder=holder)

    def _score(self, path: Path) -> float | None:
        """Of the top budget on the first benchmark, as tables have it."""
        name = next(iter(self._study.evaluation.benchmarks))
        table = pd.read_parquet(path, columns=["budget", "benchmark", "mode", "tier", "problem", "correct"])
        drawn = table[
            (table["benchmark"] == name)
            & (table["mode"] == "sampled")
            & (table["budget"] == self._study.budgets[-1])
        ]
        each = drawn.groupby(["tier", "problem"], observed=True)["correct"].mean()
        if self._study.evaluation.row(name).tiers_alike:
            each = each.groupby("tier", observed=True).mean()
        return float(each.mean()) if len(each) else None

    def _read(self, path: Path, read: Callable[[Path], Made]) -> Made | None:
        """What ``read`` makes of a file; None where it is missing, half-written or damaged."""
        try:
            status = path.stat()
            version = status.st_mtime_ns, status.st_size
            known = self._known.get(path)
            if known is None or known[0] != version:
                known = self._known[path] = version, read(path)
        except (UserError, OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
            return None
        made: Made = known[1]
        return made


def _manifest(path: Path) -> dict[str, Any]:
    """Of a run's manifest what is told of it."""
    found = files.read_checked(path, ("key", "asked", "status", "reason", "plans", "budgets", "machine"))
    rows = found["budgets"]
    spent = [row["spent"] for row in rows]
    return {
        **{name: found[name] for name in ("key", "asked", "status", "reason")},
        "spent": sum(spent) if found["plans"] else max(spent, default=None),
        "seconds": sum(row["seconds"] or 0 for row in found["machine"]),
        "round": max((row["rounds"] for row in rows), default=None),
    }


def _key(path: Path) -> str:
    return str(files.read_checked(path, ("key",))["key"])


def _progress(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text())
    return {"spent": int(found["spent"]), "seconds": float(found["seconds"]), "round": int(found["round"])}


def duration(seconds: float) -> str:
    """For people: ``1 d 4 h``, ``2 h 5 min``, ``40 s``."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    if minutes < 60:
        return f"{minutes} min"
    if hours < 24:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"
