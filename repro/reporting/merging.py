"""Records of one study from several machines, made one: its seeds or rows were shared out. Importing it
loads no torch.

A new file of the records is merged by one more function in :data:`HOW`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from repro import csv_files, files, record_files
from repro.errors import UserError
from repro.reporting.reading import MEND
from repro.reporting.results import Benchmark, Study, load
from repro.reporting.settings import differing, shown
from repro.schema import CSV, FILES, PROVENANCE, SAMPLE_KEY, SAMPLES, TEXTS, Account

Run = tuple[str, int]  # row and seed
ALL: Run = ("", 0)  # whose a line is that belongs to no run: the warm start's
ANEW = ("files", "digest")  # keys of study.json that follow from the merged records
# Those that parts may differ in, see `_facts`; and of the study's settings.
UNITED = ("name", "command", "seeds", "shapes", "versions", "settings", "split", "rows")
SHARED_OUT = ("name", "seeds", "methods")
OWN = "method "  # what a version of study.json begins with that is of a row's own code


@dataclass(frozen=True, eq=False)
class Part:
    """A records folder that is merged, read and found whole."""

    folder: Path
    study: Study
    facts: dict[str, Any]  # study.json

    @cached_property
    def runs(self) -> list[Run]:
        """Its runs in the order of its files."""
        return list(dict.fromkeys((run["method"], run["seed"]) for run in self.study.runs))

    @cached_property
    def samples(self) -> pd.DataFrame:
        return pd.read_parquet(self.folder / "samples.parquet")[list(SAMPLES)]

    def lines(self, name: str) -> list[dict[str, str]]:
        """The lines of a CSV file as they stand there: a number keeps all its digits."""
        text = csv_files.content(self.folder / name, MEND)
        return list(csv.DictReader(io.StringIO(text, newline="")))

    def lines_by_run(self, name: str) -> dict[Run, list[dict[str, str]]]:
        found: dict[Run, list[dict[str, str]]] = {}
        for line in self.lines(name):
            found.setdefault((line["method"], int(line["seed"])), []).append(line)
        return found


@dataclass(frozen=True)
class Parts:
    """What is merged, in the order it was named."""

    parts: Sequence[Part]

    @cached_property
    def seeds(self) -> list[int]:
        """Of all parts: ascending where each part's are, else in the order they are met."""
        lists = [list(part.facts["seeds"]) for part in self.parts]
        met = list(dict.fromkeys(seed for seeds in lists for seed in seeds))
        return sorted(met) if all(seeds == sorted(seeds) for seeds in lists) else met

    @cached_property
    def methods(self) -> list[str]:
        """Rows in the order of the first part, then those that it lacks."""
        return list(dict.fromkeys(method for part in self.parts for method, _ in part.runs))

    @cached_property
    def owners(self) -> dict[Run, Part]:
        """Each run in the order of the merged files, with the first part that has it."""
        found: dict[Run, Part] = {}
        for part in self.parts:
            for run in part.runs:
                found.setdefault(run, part)
        return {
            run: found[run]
            for run in ((method, seed) for method in self.methods for seed in self.seeds)
            if run in found
        }

    @cached_property
    def shared(self) -> list[tuple[Run, Part, Part]]:
        """The runs that a part has and one before it, which is their owner: run, owner, part."""
        return [
            (run, self.owners[run], part)
            for part in self.parts
            for run in part.runs
            if self.owners[run] is not part
        ]


@dataclass(frozen=True)
class Merged:
    """What was merged: how many runs, how many of them were in several parts, and runs that no part has."""

    study: Study
    runs: int
    shared: int
    lacking: list[Run]
    new: bool  # else it was there already


def merge(out: Path, folders: Sequence[Path]) -> Merged:
    """Write the records of the study that ``folders`` hold parts of; nothing where they are there already.

    Raises UserError where they do not belong together, where a run that two of them have differs, and where
    ``out`` holds something else.
    """
    if len(folders) < 2:
        raise UserError("one records folder has nothing to be merged with; name two or more after OUT")
    parts = Parts([_part(folder) for folder in folders])
    for part in parts.parts[1:]:
        _belongs(part, parts.parts[0])
    _same_base(parts)
    whole = record_files.whole({name: HOW[name](parts, name) for name in FILES}, _facts(parts))
    if new := not (out.is_dir() and any(out.iterdir())):
        with files.filling(out) as folder:
            record_files.write(folder, whole)
            load(folder)
    elif any(not (out / name).is_file() or (out / name).read_bytes() != data for name, data in whole.items()):
        raise UserError(f"{out} holds something else; name a folder that is not there yet, or empty")
    lacking = [(m, s) for m in parts.methods for s in parts.seeds if (m, s) not in parts.owners]
    return Merged(load(out), len(parts.owners), len({run for run, *_ in parts.shared}), lacking, new)


def _part(folder: Path) -> Part:
    return Part(folder, load(folder), files.read_json(folder / "study.json"))


# ------------------------------------------------------------------------ whether they are of one study


def _belongs(part: Part, first: Part) -> None:
    """Raise UserError unless two parts are of one study."""
    refused = f"{part.folder} and {first.folder} are not of one study: "
    both = {row.method for row in part.study.rows} & {row.method for row in first.study.rows}
    for where, theirs, ours in differing(_said(part, both), _said(first, both)):
        raise UserError(f"{refused}{where} is {shown(theirs)} in the one and {shown(ours)} in the other")
    pairs = zip(_tested(part), _tested(first), strict=True)
    for theirs, ours in pairs:
        if theirs.problems != ours.problems or list(theirs.tier_of) != list(ours.tier_of):
            raise UserError(f"{refused}they were evaluated on other problems of {ours.title}")
    pools = [{(line["tier"], line["pool"]) for line in one.study.visits} for one in (part, first)]
    if all(pools) and pools[0] != pools[1]:
        raise UserError(f"{refused}their training problems differ in number or tiers")
    for row in part.study.rows:
        if row.method in both:
            other = first.study.rows[first.study.index[row.method]]
            for name in ("title", "role", "paper", "plans", "note"):
                theirs, ours = getattr(row, name), getattr(other, name)
                # A run that failed before it asked for rewards has no note.
                if theirs != ours and (name != "note" or (theirs and ours)):
                    raise UserError(
                        f"{refused}{name} of the row {row.method} is {shown(theirs)} in the one and "
                        f"{shown(ours)} in the other"
                    )


def _said(part: Part, rows: set[str]) -> dict[str, Any]:
    """What study.json says that must be the same of all parts; of versions those of libraries and the suite,
    and of the code of ``rows``."""
    kept = {key: value for key, value in part.facts.items() if key not in (*ANEW, *UNITED)}
    of_rows = {f"{OWN}{row}" for row in rows}
    versions = part.facts["versions"].items()
    settings = part.facts["settings"].items()
    return kept | {
        "versions": {k: v for k, v in versions if not k.startswith(OWN) or k in of_rows},
        "settings": {key: value for key, value in settings if key not in SHARED_OUT},
        "rows": {row: values for row, values in part.facts["rows"].items() if row in rows},
    }


def _tested(part: Part) -> list[Benchmark]:
    return [*part.study.benchmarks, *([part.study.forgetting] if part.study.forgetting else [])]


def _same_base(parts: Parts) -> None:
    """Raise UserError where parts show different base models: by the shape that was evaluated, the warm
    start, and the weights of checkpoints without a training step."""
    seen: dict[str, tuple[Any, Part]] = {}
    for part in parts.parts:
        study = part.study
        untrained = [run["fingerprint"] for run in study.runs if run["status"] == "ok" and not run["steps"]]
        evaluated = [line["shape"] for line in study.ledger if line["account"] == Account.EVALUATE]
        warm = [line for line in study.ledger if line["account"] == Account.WARM_START]
        found = {
            "the weights": sorted({*untrained}),
            "the sizes": [study.facts.shapes[name] for name in sorted({*evaluated})],
            "the warm start": [{k: v for k, v in line.items() if k != "line"} for line in warm],
        }
        for what, value in found.items():
            known, first = seen.setdefault(what, (value, part))
            if not known:
                seen[what] = value, part
            elif value and value != known:
                raise UserError(
                    f"{part.folder} and {first.folder} are not of one study: {what} of their base models "
                    "differ"
                )


# --------------------------------------------------------------------------------- how a file is merged


def _of_runs(parts: Parts, name: str) -> bytes:
    """Lines that a run has, and every machine alike."""
    lines = {part: part.lines_by_run(name) for part in parts.parts}
    for run, owner, part in parts.shared:
        if lines[owner].get(run) != lines[part].get(run):
            raise _apart(run, owner, part, name)
    return _text(parts, name, lines)


def _of_machines(parts: Parts, name: str) -> bytes:
    """Lines that a run has, each machine its own: of a run in several parts the first part's."""
    return _text(parts, name, {part: part.lines_by_run(name) for part in parts.parts})


def _text(parts: Parts, name: str, lines: Mapping[Part, Mapping[Run, list[dict[str, str]]]]) -> bytes:
    """What belongs to all runs stands last, once."""
    shared = next((lines[part][ALL] for part in parts.parts if ALL in lines[part]), [])
    own = [line for run, owner in parts.owners.items() for line in lines[owner].get(run, [])]
    return csv_files.text(CSV[name], [*own, *shared]).encode()


def _of_rows(parts: Parts, name: str) -> bytes:
    """Lines that a row has, whatever its seeds."""
    merged: dict[str, list[dict[str, str]]] = {}
    owners: dict[str, Part] = {}
    for part in parts.parts:
        found: dict[str, list[dict[str, str]]] = {}
        for line in part.lines(name):
            found.setdefault(line["method"], []).append(line)
        for method in part.study.index:
            owner = owners.setdefault(method, part)
            if owner is not part and found.get(method) != merged.get(method):
                raise UserError(
                    f"{part.folder} and {owner.folder} are not of one study: {name} of the row {method} "
                    "differs"
                )
        merged |= {method: lines for method, lines in found.items() if owners[method] is part}
    return csv_files.text(CSV[name], [line for lines in merged.values() for line in lines]).encode()


def _of_samples(parts: Parts, name: str) -> bytes:
    for run, owner, part in parts.shared:
        one, other = (_drawn(each, run) for each in (owner, part))
        if not one.equals(other):
            raise _apart(run, owner, part, name)
    tables = []
    for part in parts.parts:
        own = [run for run, owner in parts.owners.items() if owner is part]
        index = pd.MultiIndex.from_arrays([part.samples["method"].astype(object), part.samples["seed"]])
        tables.append(part.samples[index.isin(own)])
    return record_files.parquet(record_files.samples(tables))


def _drawn(part: Part, run: Run) -> pd.DataFrame:
    method, seed = run
    found = part.samples[(part.samples["method"] == method) & (part.samples["seed"] == seed)]
    return found.astype(str).sort_values(list(SAMPLE_KEY)).reset_index(drop=True)


def _apart(run: Run, owner: Part, part: Part, name: str) -> UserError:
    method, seed = run
    return UserError(
        f"{owner.folder} and {part.folder} both have the run of {method} with seed {seed}, and it differs in "
        f"{name}: merge records of which one has it"
    )


def _of_texts(parts: Parts, name: str) -> bytes:
    texts = {text_hash: text for part in parts.parts for text_hash, text in part.study.texts.items()}
    return record_files.text_parquet(TEXTS, sorted(texts.items()))


def _of_problems(parts: Parts, name: str) -> bytes:
    """The same in all parts."""
    first, *others = ((part.folder / name, (part.folder / name).read_bytes()) for part in parts.parts)
    for path, content in others:
        if content != first[1]:
            raise UserError(f"{path} and {first[0]} differ: they were evaluated on other problems")
    return first[1]


def _of_jobs(parts: Parts, name: str) -> bytes:
    """What is known of the jobs that made the runs that are kept, and of the first part's base model."""
    known: dict[tuple[str, Run], tuple[dict[str, Any], dict[str, Any]]] = {}
    for part in parts.parts:
        for process in files.read_json(part.folder / name)["processes"]:
            for job in process.pop("jobs"):
                run = job.get("method", ALL[0]), job.get("seed", ALL[1])
                if parts.owners.get(run, parts.parts[0]) is part:
                    own = {key: job.pop(key) for key in record_files.OF_A_JOB}
                    known[job["kind"], run] = job, {**process, **own}
    order = [(kind, run) for run in (ALL, *parts.owners) for kind in ("base model", "train", "evaluate")]
    return record_files.provenance(known[key] for key in order if key in known)


HOW: dict[str, Callable[[Parts, str], bytes]] = {
    "runs.csv": _of_runs,
    "ledger.csv": _of_runs,
    "monitors.csv": _of_runs,
    "visits.csv": _of_runs,
    "tuning.csv": _of_rows,
    "machine.csv": _of_machines,
    "samples.parquet": _of_samples,
    "texts.parquet": _of_texts,
    "problems.parquet": _of_problems,
    PROVENANCE: _of_jobs,
}


def _facts(parts: Parts) -> dict[str, Any]:
    """study.json, but for what follows from the files. The name is the first part's; where commands differ,
    all of them make the study again."""
    every = [part.facts for part in parts.parts]
    return {
        **{key: value for key, value in every[0].items() if key not in ANEW},
        "command": "\n".join(dict.fromkeys(facts["command"] for facts in every)),
        "seeds": parts.seeds,
        "settings": {
            **every[0]["settings"],
            "seeds": parts.seeds,
            "methods": _united([facts["settings"]["methods"] for facts in every]),
        },
        "rows": {row: values for facts in every for row, values in facts["rows"].items()},
        "shapes": {name: sizes for facts in every for name, sizes in facts["shapes"].items()},
        "versions": {name: value for facts in every for name, value in facts["versions"].items()},
    }


def _united(methods: Sequence[Any]) -> Any:
    """What parts of a study say of its rows: all the same, or each some of them."""
    first = methods[0]
    if all(isinstance(one, Mapping) for one in methods):
        return {row: spec for one in methods for row, spec in one.items()}
    if all(isinstance(one, list) for one in methods):
        return list(dict.fromkeys(row for one in methods for row in one))
    return first
