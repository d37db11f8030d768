"""The crash matrix: every phase of a study dies at its writes, renames, removals and process starts, meets a
full disk and damaged files, and is signalled. Then it either gives the very bytes of a run that nothing
befell, or refuses in one sentence. ``make crash`` runs all of it; what lacks its marker takes seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import crash
import pytest
from conftest import made_once
from crash import Outcome, Server

from repro.files import holder, seal
from repro.schema import FILES

TINY = """
name: tiny
title: Tiny study
seeds: [0]
budgets: [3e8, 6e8]
problems: {source: ladder, train: 48, validation: 8, test: 8}
base_model:
  source: warm_start
  config:
    hidden_size: 32
    num_hidden_layers: 1
    num_attention_heads: 1
    num_key_value_heads: 1
    head_dim: 32
    intermediate_size: 64
    tie_word_embeddings: true
    initializer_range: 0.05
    max_position_embeddings: 256
  hinted: 0.15
  steps: 300
  batch_size: 16
  optimizer: {learning_rate: 1.0e-2, warmup_steps: 5}
process_rewards: ladder
sampling: {batch_size: 128, chunk: 64, max_tokens: 24}
training: {save_every: 3}
evaluation: {profile: pocket, benchmarks: {ladder: {samples: 2}}}
methods: [control_base, control_continued, star, iterative_dpo, rft]
hyperparameters:
  control_continued: {batch_size: 4}
  star: {temperature: 1.0, top_p: 1.0, first_steps: 6, batch_size: 4, optimizer: {learning_rate: 1.0e-3}}
  rft: {n_problems: 12, temperature: 1.0, top_k: 0, k_max: 2, epochs: 1, batch_size: 4}
  iterative_dpo:
    {problems_per_round: 24, temperature: 1.0, epochs: 2, batch_size: 2, optimizer: {learning_rate: 1.0e-4}}
"""
ROWS = "[control_base, control_continued, star, iterative_dpo, rft]"
MINI = TINY.replace("name: tiny", "name: mini").replace("steps: 300", "steps: 5")
TUNED = MINI.replace("name: mini", "name: tuned").replace(ROWS, "[control_base, control_continued]") + (
    "tuning: {seeds: [10, 11], points: {control_continued: [{batch_size: 8}]}}\n"
)
METHODS = ("control_base", "control_continued", "star", "iterative_dpo", "rft")
FEW = ("control_base", "star")
TRIALS = "work/tuned/trials.yaml"
STUDIES = {
    "tiny.yaml": TINY,
    "mini.yaml": MINI,
    "tuned.yaml": TUNED,
    "few.yaml": TINY.replace(ROWS, "[control_base, star]"),
    "forgetful.yaml": TINY.replace("save_every: 3", "save_every: 3, keep: nothing"),
    "others.yaml": TINY.replace(ROWS, "[control_base, iterative_dpo]"),
}
# What a phase is, and how many points it dies at. Each begins with what those before it left.
PHASES: dict[str, tuple[tuple[str, ...], int]] = {
    "problems": (("repro", "problems", "tiny.yaml"), 28),
    "base model": (("repro", "base-model", "mini.yaml"), 14),
    **{
        f"train {name}": (("repro", "train", "tiny.yaml", "--method", name), wanted)
        for name, wanted in zip(METHODS, (10, 10, 16, 16, 10), strict=True)
    },
    **{f"evaluate {name}": (("repro", "evaluate", "tiny.yaml", "--method", name), 12) for name in FEW},
    "collect": (("repro", "collect", "few.yaml"), 20),
    "tables": (("repro", "tables", "results/tiny/records"), 8),
    "publish": (
        ("repro", "publish", "results/tiny/records", "--author", "Ann Author", "--date", "2026-12-31"),
        8,
    ),
    "merge": (("repro", "merge", "results/merged/records", "parts/few", "parts/others"), 16),
    "choose": (("repro", "tune", "tuned.yaml"), 10),
    "clean": (("repro", "clean", "tiny.yaml", "--yes"), 10),
    "evaluate and forget": (("repro", "evaluate", "forgetful.yaml", "--method", "star"), 14),
}
OF_THE_MACHINE = {"machine", "process", "check", "seconds", "device", "ended"}


@pytest.fixture(scope="session")
def light(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("light"), crash.LIGHT)
    yield server
    server.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), crash.HEAVY)
    yield server
    server.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: processes die, not the machine, so no disk is needed."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


# --- what nothing befell ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Phase:
    """A command, with the folder as it finds it and as it leaves it, and what it does there one by one."""

    name: str
    argv: tuple[str, ...]
    before: Path
    after: Path
    events: list[str]


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, server: Server) -> dict[str, Phase]:
    """Every phase, uninterrupted; made once for all workers of pytest-xdist."""
    with made_once(tmp_path_factory, "crash-reference") as (folder, wanted):
        if wanted:
            _make_reference(folder, server)
        found = json.loads((folder / "phases.json").read_text())
    return {
        name: Phase(name, tuple(argv), folder / name / "before", folder / name / "after", events)
        for name, (argv, events) in found.items()
    }


def _make_reference(folder: Path, server: Server) -> None:
    root = folder / "project"
    root.mkdir(parents=True)
    for name, text in STUDIES.items():
        (root / name).write_text(text)
    for name in ("Snakefile", "benchmarks", "profiles", "requirements"):
        (root / name).symlink_to(crash.ROOT / name)

    def do(*argv: str, status: int = 0) -> Outcome:
        done = server.run(root, *argv)
        assert done.status == status, f"{argv}: {done.output}"
        return done

    def keep(to: Path) -> None:
        shutil.copytree(root, to, symlinks=True)

    phases = {}

    def phase(name: str) -> None:
        keep(folder / name / "before")
        phases[name] = PHASES[name][0], do(*PHASES[name][0]).events
        keep(folder / name / "after")

    def records(study: str, to: str) -> None:
        do("repro", "collect", study)
        shutil.copytree(root / "results/tiny/records", root / "parts" / to)
        shutil.rmtree(root / "results")

    phase("problems")
    do("repro", "problems", "mini.yaml")
    phase("base model")
    do("repro", "base-model", "tiny.yaml")
    keep(folder / "workflow" / "before")
    for name in METHODS:
        phase(f"train {name}")
    for name in METHODS:
        if name in FEW:
            phase(f"evaluate {name}")
        else:
            do("repro", "evaluate", "tiny.yaml", "--method", name)
    records("few.yaml", "few")
    records("others.yaml", "others")
    phase("merge")
    phase("collect")
    phase("tables")
    phase("publish")
    keep(folder / "workflow" / "after")
    do("repro", "tune", "tuned.yaml", status=2)
    do("repro", "problems", TRIALS)
    do("repro", "base-model", TRIALS)
    for row in ("control_continued__0", "control_continued__1"):
        for seed in ("10", "11"):
            do("repro", "train", TRIALS, "--method", row, "--seed", seed)
        do("repro", "evaluate", TRIALS, "--method", row)
    do("repro", "collect", TRIALS)
    phase("choose")
    old = next((root / "work/tiny/runs").glob("star-0-*"))
    shutil.copytree(old, old.with_name(f"star-0-{'0' * 16}"))
    phase("clean")
    do("repro", "train", "forgetful.yaml", "--method", "star")
    shutil.rmtree(root / "work/tiny/evaluations/star-0")
    phase("evaluate and forget")
    phases["workflow"] = ("snakemake", "--config", "study=few.yaml"), []
    (folder / "phases.json").write_text(json.dumps(phases))
    seal(folder)


def portable(value: Any) -> Any:
    """A JSON value without what the machine took."""
    if isinstance(value, dict):
        return {key: portable(one) for key, one in value.items() if key not in OF_THE_MACHINE}
    return [portable(one) for one in value] if isinstance(value, list) else value


def content(root: Path, *folders: str) -> dict[str, bytes]:
    """All that a study's folders hold, by path, but for what is of the machine."""
    found = {}
    for folder in folders or ("work", "results"):
        for path in sorted((root / folder).rglob("*")):
            name = str(path.relative_to(root))
            if not path.is_file() or "/logs/" in name or path.name == "lease":
                continue
            if path.name not in ("provenance.json", "report.html") and "machine" not in path.name:
                found[name] = plain(path)
    return found


def plain(path: Path) -> bytes:
    """What a file holds, but for what is of the machine."""
    data = path.read_bytes()
    try:
        value = portable(json.loads(data)) if path.suffix == ".json" else None
    except ValueError:  # damaged
        return data
    if not isinstance(value, dict):
        return data
    if path.name == "COMPLETE.json":  # hashes of files that hold what the machine took
        value = {key: one for key, one in value.items() if key not in ("facts.json", "origin.json")}
    if path.name == "study.json":
        del value["files"]["machine.csv"], value["files"]["provenance.json"], value["digest"]
    return json.dumps(value).encode()


def differences(root: Path, wanted: Path, *folders: str) -> list[str]:
    """Paths that are not what they are where nothing befell, and what is left of a command that has ended."""
    found, expected = content(root, *folders), content(wanted, *folders)
    told = [f"lacks {name}" for name in sorted(expected.keys() - found.keys())]
    told += [f"has {name}" for name in sorted(found.keys() - expected.keys())]
    told += [
        f"differs in {name}"
        for name in sorted(found.keys() & expected.keys())
        if found[name] != expected[name]
    ]
    for folder in folders or ("work", "results"):
        for path in (root / folder).rglob("*"):
            if path.suffix in (".tmp", ".new") or (
                path.name == "lease" and path.is_file() and path.read_text()
            ):
                told.append(f"left {path.relative_to(root)}")
    return told


def orphans(token: str, patience: float = 10.0) -> list[str]:
    """What a command started and that still lives after some seconds."""
    until = time.monotonic() + patience
    while (alive := crash.started_by(token)) and time.monotonic() < until:
        time.sleep(0.05)
    return [f"process {pid} lives on" for pid in alive]


# --- the points ---------------------------------------------------------------------------------------


class Tally:
    """What became of each point; it goes to the table at the end of the tests."""

    def __init__(self, phase: str, record: Callable[[str, object], None]) -> None:
        self.phase, self._record = phase, record
        self.lost: list[str] = []

    def count(self, kind: str, what: str, told: object = "") -> None:
        """``what``: "identical", "refused" or "lost"."""
        self._record("crash", (self.phase, kind, what))
        if what == "lost":
            self.lost.append(f"{kind}: {told}")

    def done(self) -> None:
        assert not self.lost, "\n".join(self.lost)


@pytest.fixture
def tally(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Tally:
    phase = request.node.callspec.params.get("phase") if hasattr(request.node, "callspec") else None
    return Tally(phase or request.node.name.removeprefix("test_").replace("_", " "), record_property)


def points(
    events: list[str], wanted: int, hows: Callable[[str], tuple[str, ...]]
) -> list[tuple[int, str, str]]:
    """(number, kind, how) of about so many events, spread over kinds, ways and time."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, event in enumerate(events, 1):
        kind = event.split()[0]
        for how in hows(kind):
            groups[kind, how].append(number)
    each = -(-wanted // len(groups))
    found = []
    for (kind, how), numbers in groups.items():
        step = max(1.0, len(numbers) / each)
        found += [(numbers[int(i * step)], kind, how) for i in range(min(each, len(numbers)))]
    return sorted(found)


def deaths(kind: str) -> tuple[str, ...]:
    return ("before", "half", "after") if kind == "write" else ("before", "after")


def befall(
    server: Server,
    tally: Tally,
    phase: Phase,
    folder: Path,
    number: int,
    kind: str,
    how: str,
    events: str = "",
) -> None:
    """Let a phase meet its fate at one point, and run it again; count what became of it."""
    named = f"{kind} {how}"
    root = folder / "project"
    shutil.copytree(phase.before, root, symlinks=True)
    try:
        run = server.start(root, *phase.argv, at=number, how=how)
        first = run.wait()
        where = f"{how} event {number} ({phase.events[number - 1]})"
        left = orphans(run.token)
        if how.startswith("E"):
            ended = first.sentence or (first.status == 0 and "wholly")
        else:
            ended = first.status == -signal.SIGKILL
        again = server.run(root, *phase.argv)
        if not ended:
            tally.count(named, "lost", f"{where} ended with {first.status}: {first.output[-2000:]}")
        elif left:
            tally.count(named, "lost", f"{where}: {left}")
        elif again.status != 0 and again.sentence:
            tally.count(named, "refused", again.sentence)
            tally.lost.append(f"{where}: {again.sentence}")
        elif again.status != 0:
            tally.count(named, "lost", f"{where}: again ended with {again.status}: {again.output[-2000:]}")
        elif different := differences(root, phase.after):
            tally.count(named, "lost", f"{where}: {different[:6]}")
        else:
            tally.count(named, "identical")
    finally:
        shutil.rmtree(root)


@pytest.mark.crash
@pytest.mark.parametrize("phase", PHASES)
def test_a_phase_that_dies_goes_on(
    server: Server, reference: dict[str, Phase], tally: Tally, place: Path, phase: str
) -> None:
    of = reference[phase]
    for number, kind, how in points(of.events, PHASES[phase][1], deaths):
        befall(server, tally, of, place, number, kind, how)
    tally.done()


# --- the same of engines in memory, at every point ----------------------------------------------------


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory, light: Server) -> Phase:
    folder = tmp_path_factory.mktemp("fake")
    (folder / "before").mkdir()
    assert light.run(folder / "before", "fake-base", "work/base").status == 0
    shutil.copytree(folder / "before", folder / "after")
    done = light.run(folder / "after", "fake", "work")
    assert done.status == 0, done.output
    return Phase("fake engines", ("fake", "work"), folder / "before", folder / "after", done.events)


@pytest.mark.slow
def test_a_run_that_dies_goes_on(light: Server, fake: Phase, tally: Tally, place: Path) -> None:
    tally.phase = "run on fake engines"
    for number, kind, how in points(fake.events, 30, deaths):
        befall(light, tally, fake, place, number, kind, how)
    tally.done()


@pytest.mark.crash
def test_a_run_that_dies_anywhere_goes_on(light: Server, fake: Phase, tally: Tally, place: Path) -> None:
    tally.phase = "run on fake engines"
    for number, kind, how in points(fake.events, 250, deaths):
        befall(light, tally, fake, place, number, kind, how)
    tally.done()


# --- disks that are full or broken --------------------------------------------------------------------


def refusals(kind: str) -> tuple[str, ...]:
    """A full disk refuses what adds to it; one that became read-only all; one that is broken what it is asked
    just then."""
    return {"start": (), "remove": ("EROFS",)}.get(kind, ("ENOSPC", "EROFS", "EIO"))


FULL = (
    "problems",
    "base model",
    "train star",
    "train iterative_dpo",
    "evaluate star",
    "collect",
    "tables",
    "merge",
    "choose",
)


@pytest.mark.crash
@pytest.mark.parametrize("phase", FULL)
def test_a_disk_that_refuses_is_said_in_a_sentence(
    server: Server, reference: dict[str, Phase], tally: Tally, place: Path, phase: str
) -> None:
    of = reference[phase]
    for number, kind, how in points(of.events, 3 if phase == "tables" else 6, refusals):
        befall(server, tally, of, place, number, kind, how)
    tally.done()


@pytest.mark.crash
@pytest.mark.parametrize("phase", ["base model", "train star", "evaluate star", "collect"])
@pytest.mark.parametrize("fatal", [True, False], ids=["killed", "refused"])
def test_a_file_that_may_not_grow(
    server: Server, reference: dict[str, Phase], tally: Tally, place: Path, phase: str, fatal: bool
) -> None:
    """Libraries in C++ and Rust write too: the kernel ends the process, or refuses, amid their files."""
    tally.phase, of = phase, reference[phase]
    for size in (100, 3_000, 20_000):
        root = place / "project"
        shutil.copytree(of.before, root, symlinks=True)
        run = server.start(
            root, *of.argv, size=size, fatal=fatal, inject={"root": str(root), "log": os.devnull}
        )
        first = run.wait()
        left = orphans(run.token)
        again = server.run(root, *of.argv)
        kind = f"file beyond {size} bytes, {'killed' if fatal else 'refused'}"
        ended = first.status == -signal.SIGXFSZ if fatal else first.sentence
        if first.status == 0:
            ended = True  # no file was so long
        different = [again.output[-1000:]] if again.status else differences(root, of.after)
        lost = not ended or left or different
        told = f"{first.status} {first.output[-1500:]} {left} {different[:5]}"
        tally.count(kind, "lost" if lost else "identical", told)
        shutil.rmtree(root)
    tally.done()


@pytest.mark.crash
@pytest.mark.parametrize("phase", ["problems", "base model", "train star", "evaluate star", "collect"])
def test_a_disk_that_fills(
    server: Server, reference: dict[str, Phase], tally: Tally, tmp_path: Path, phase: str
) -> None:
    """A file system with little room left, where this machine lets one be mounted."""
    of, disk = reference[phase], tmp_path / "disk"
    disk.mkdir()
    used = sum(1 + path.lstat().st_size // 4096 for path in of.before.rglob("*")) * 4
    for room in (4, 24, 80, 160):
        mount = ["mount", "-t", "tmpfs", "-o", f"size={used + room}k", "tmpfs", str(disk)]
        if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("no file system can be mounted here")
        try:
            root = disk / "project"
            shutil.copytree(of.before, root, symlinks=True)
            first = server.run(root, *of.argv, inject={"root": str(root), "log": os.devnull})
            subprocess.run(["mount", "-o", "remount,size=1g", str(disk)], check=True)
            again = server.run(root, *of.argv)
            ended = first.status == 0 or (first.sentence and "the disk is full" in first.sentence)
            different = [again.output[-1000:]] if again.status else differences(root, of.after)
            told = f"{room} kB: {first.status} {first.output[-1500:]} {different[:5]}"
            tally.count("file system full", "identical" if ended and not different else "lost", told)
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    tally.done()


# --- files that were damaged --------------------------------------------------------------------------

# The rules of few.yaml: commands, and what Snakemake knows they make.
RULES: list[tuple[tuple[str, ...], list[str]]] = [
    (("problems",), ["problems/train.jsonl", "problems/test/ladder.jsonl", "problems/report.json"]),
    (("base-model",), ["base.json"]),
    *[(("train", "--method", row), [f"runs/{row}-0.json"]) for row in FEW],
    *[
        (("evaluate", "--method", row), [f"evaluations/{row}-0.json", f"evaluations/{row}-0.parquet"])
        for row in FEW
    ],
]
TRAIN, EVALUATE = ("train", "few.yaml", "--method", "star"), ("evaluate", "few.yaml", "--method", "star")
COLLECT = ("collect", "few.yaml")
GROWN = TINY.replace("[3e8, 6e8]", "[3e8, 6e8, 7e8]")
GROW = ("train", "grown.yaml", "--method", "control_continued")
RUN = "work/tiny/runs/star-0-*"
# Files of each kind that the suite reads, and the command that reads them.
READ: dict[str, tuple[str, tuple[str, ...]]] = {
    "training problems": ("work/tiny/problems/train.jsonl", TRAIN),
    "test problems": ("work/tiny/problems/test/ladder.jsonl", EVALUATE),
    "report of problems": ("work/tiny/problems/report.json", TRAIN),
    "base manifest": ("work/tiny/base.json", COLLECT),
    "base weights": ("work/tiny/base/model.safetensors", TRAIN),
    "base tokenizer": ("work/tiny/base/tokenizer.json", TRAIN),
    "base config": ("work/tiny/base/config.json", EVALUATE),
    "base origin": ("work/tiny/base/origin.json", EVALUATE),
    "base seal": ("work/tiny/base/COMPLETE.json", TRAIN),
    "run manifest": ("work/tiny/runs/star-0.json", EVALUATE),
    "run's beginning": (f"{RUN}/begun.json", TRAIN),
    "journal entry": (f"{RUN}/journal/000002.json", TRAIN),
    "checkpoint weights": (f"{RUN}/models/*/step-*/model.safetensors", TRAIN),
    "checkpoint weights, evaluated": (f"{RUN}/models/*/step-*/model.safetensors", EVALUATE),
    "checkpoint seal": (f"{RUN}/models/*/step-*/COMPLETE.json", TRAIN),
    "moments": ("work/tiny/runs/control_continued-0-*/unfinished/*/*/optimizer/moments.safetensors", GROW),
    "state at a budget": ("work/tiny/runs/control_continued-0-*/unfinished/*/*/weights.safetensors", GROW),
    "seal of that state": ("work/tiny/runs/control_continued-0-*/unfinished/*/*/COMPLETE.json", GROW),
    "evaluated samples": ("work/tiny/evaluations/star-0/*/samples.parquet", EVALUATE),
    "evaluated facts": ("work/tiny/evaluations/star-0/*/facts.json", EVALUATE),
    "seal of a part": ("work/tiny/evaluations/star-0/*/COMPLETE.json", EVALUATE),
    "evaluation manifest": ("work/tiny/evaluations/star-0.json", COLLECT),
    "samples": ("work/tiny/evaluations/star-0.parquet", COLLECT),
    "study": ("few.yaml", COLLECT),
    **{
        f"record {name}": (f"results/tiny/records/{name}", ("verify", "results/tiny/records"))
        for name in (*FILES, "study.json")
    },
    "tuning": ("results/tuned/tuning.csv", ("methods", "taken.yaml")),
}  # fmt: skip
UNDER_WAY = {  # of a run that was killed in the midst of a training call
    "call at work": "journal/at-work.json",
    "progress": "progress.json",
    "saved weights": "unfinished/*/*/weights.safetensors",
    "saved moments": "unfinished/*/*/optimizer/moments.safetensors",
    "saved facts": "unfinished/*/*/state.json",
    "saved seal": "unfinished/*/*/COMPLETE.json",
}


def flipped(data: bytes) -> bytes:
    """With one bit changed, amid the file: of a digit where there is one near, which leaves it legible."""
    middle = len(data) // 2
    at = next(
        (i for i in range(middle, min(len(data), middle + 400)) if chr(data[i]) in "0123456789"), middle
    )
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "flipped": flipped,
    "truncated": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "missing": lambda data: None,
}


def damage(root: Path, pattern: str, how: str) -> Path | None:
    """The file that was damaged; None where it has nothing to damage."""
    path = next(iter(sorted(root.glob(pattern))))
    data = path.read_bytes()
    if not data and how in ("flipped", "truncated", "emptied"):
        return None
    damaged = DAMAGES[how](data)
    path.unlink()
    if damaged is not None:
        path.write_bytes(damaged)
    return path


def mended(server: Server, root: Path, argv: tuple[str, ...], sentence: str) -> str:
    """Do what a refusal says, and what Snakemake then does; "" once all is made again."""
    for _ in range(4):
        told = sentence.partition("delete ")[2]
        for name in re.findall(
            r"(/[^\s;,:]+)", sentence if re.match("(it|both|the file)\\b", told) else told
        ):
            path = Path(name)
            if root in path.parents and path.exists():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        server.run(root, "repro", *argv)  # again, whatever it now says
        sentence, made = "", False
        for rule, outputs in RULES:
            if made or any(not (root / "work/tiny" / name).is_file() for name in outputs):
                made = True
                done = server.run(root, "repro", *rule, "few.yaml")
                if done.status:
                    sentence = done.sentence or done.output
                    break
        if not sentence:
            done = server.run(root, "repro", *COLLECT)
            sentence = "" if done.status == 0 else done.sentence or done.output
        if not sentence or "Traceback" in sentence:
            break
    return sentence


@pytest.mark.crash
@pytest.mark.parametrize("kind", READ)
def test_a_damaged_file_is_noticed(
    server: Server, reference: dict[str, Phase], tally: Tally, place: Path, kind: str
) -> None:
    tally.phase = "damaged files"
    pattern, argv = READ[kind]
    of, root = reference["choose" if kind == "tuning" else "collect"].after, place / "project"
    wanted = _grown(server, of, place) if argv is GROW else of
    for how in DAMAGES:
        if kind == "study" and how == "flipped":  # another digit makes another study
            continue
        shutil.copytree(of, root, symlinks=True)
        (root / "grown.yaml").write_text(GROWN)
        if kind == "tuning":
            digest = hashlib.sha256((root / "results/tuned/tuning.csv").read_bytes()).hexdigest()
            taken = (
                TINY.replace(ROWS, "[control_continued]")
                .replace("hyperparameters:", "unused:")
                .partition("unused")[0]
            )
            (root / "taken.yaml").write_text(
                f"{taken}tuned: {{file: results/tuned/tuning.csv, digest: {digest}}}\n"
            )
        if argv is EVALUATE and "evaluated" in kind and "checkpoint" in kind:
            shutil.rmtree(root / "work/tiny/evaluations/star-0")
        path = damage(root, pattern, how)
        if path is None:
            shutil.rmtree(root)
            continue
        done = server.run(root, "repro", *argv)
        name = f"{how}: {kind}"
        if done.status == 0:
            itself = f"in {path.relative_to(root)}", f"lacks {path.relative_to(root)}"  # which nobody read
            different = [one for one in differences(root, wanted) if not one.endswith(itself)]
            tally.count(how, "lost" if different else "identical", f"{name}: {different[:5]}")
        elif not done.sentence and not (argv[0] == "verify" and str(path.relative_to(root)) in done.output):
            tally.count(how, "lost", f"{name}: {done.status} {done.output[-2000:]}")
        elif path.name not in done.output and str(path.parent) not in done.output:
            tally.count(how, "lost", f"{name} is not named: {done.output[-500:]}")
        elif (
            argv[0] in ("verify", "methods")
            or kind == "study"
            or how in ("truncated", "emptied")
            or argv is GROW
        ):
            tally.count(how, "refused")
        elif left := mended(server, root, argv, done.sentence or ""):
            tally.count(
                how, "lost", f"{name} is not mended by what is said: {done.sentence} / {left[-1500:]}"
            )
        else:
            different = differences(root, of)
            tally.count(
                how,
                "lost" if different else "refused",
                f"{name} once mended: {different[:5]}, {done.sentence}",
            )
        shutil.rmtree(root)
    tally.done()


def _grown(server: Server, of: Path, place: Path) -> Path:
    """What the folder is once the run was gone on with to one more budget."""
    shutil.copytree(of, place / "grown", symlinks=True)
    (place / "grown" / "grown.yaml").write_text(GROWN)
    done = server.run(place / "grown", "repro", *GROW)
    assert done.status == 0, done.output
    return place / "grown"


@pytest.mark.crash
@pytest.mark.parametrize("kind", UNDER_WAY)
def test_a_damaged_state_of_a_killed_run(
    server: Server, reference: dict[str, Phase], tally: Tally, place: Path, kind: str
) -> None:
    tally.phase = "damaged files"
    of, root = reference["train iterative_dpo"], place / "project"
    # Behind the newest state that a call saved.
    at = (
        max(
            n
            for n, event in enumerate(of.events, 1)
            if event.startswith("rename") and "/unfinished/" in event
        )
        + 2
    )
    shutil.copytree(of.before, place / "killed", symlinks=True)
    assert server.run(place / "killed", *of.argv, at=at, how="before").status == -signal.SIGKILL
    for how in DAMAGES:
        shutil.copytree(place / "killed", root, symlinks=True)
        damage(root, f"work/tiny/runs/iterative_dpo-0-*/{UNDER_WAY[kind]}", how)
        done = server.run(root, *of.argv)
        different = [done.output[-2000:]] if done.status else differences(root, of.after)
        tally.count(how, "lost" if different else "identical", f"{how}: {kind}: {different[:5]}")
        shutil.rmtree(root)
    tally.done()


# --- workflows that are killed ------------------------------------------------------------------------

WORKFLOW = ("snakemake", "--config", "study=few.yaml", "--", "collect")  # tables have a phase of their own


def unlike(root: Path, of: Phase) -> list[str]:
    """What a finished workflow has in its results that it should not, and what is left in its work."""
    told = differences(root, of.after, "results/tiny/records")
    told += [one for one in differences(root, root, "work") if one.startswith("left")]
    return told


@pytest.mark.crash
def test_a_workflow_that_dies_goes_on(
    server: Server, reference: dict[str, Phase], tally: Tally, place: Path
) -> None:
    """Snakemake itself dies; its jobs work on, and the next one waits for them."""
    tally.phase, of, root = "snakemake", reference["workflow"], place / "project"
    shutil.copytree(of.before, root, symlinks=True)
    whole = server.run(root, *WORKFLOW)
    assert whole.status == 0 and not unlike(root, of), whole.output + str(unlike(root, of))
    shutil.rmtree(root)
    for number, kind, how in points(whole.events, 8, deaths):
        shutil.copytree(of.before, root, symlinks=True)
        first = server.run(root, *WORKFLOW, at=number, how=how)
        again = server.run(root, *WORKFLOW)
        different = [again.output[-3000:]] if again.status else unlike(root, of)
        told = f"{how} event {number} ({whole.events[number - 1]}): {first.status} {different}"
        lost = different or first.status != -signal.SIGKILL
        tally.count(f"{kind} {how}", "lost" if lost else "identical", told)
        shutil.rmtree(root)
    tally.done()


def jobs(token: str) -> list[int]:
    """Those of a workflow's processes that do a job."""
    found = []
    for pid in crash.started_by(token):
        with suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            found += [pid] if line[1:3] == [b"-m", b"repro.cli"] else []
    return found


def kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.crash
@pytest.mark.parametrize("seed", range(5))
def test_a_workflow_killed_at_random_goes_on(
    server: Server, reference: dict[str, Phase], tally: Tally, place: Path, seed: int
) -> None:
    """Ten kills: of everything as by a power cut, of Snakemake alone, or of a job as by a full memory. One
    that ends in spite of them must be whole, and another one begins."""
    tally.phase, of, root = "snakemake", reference["workflow"], place / "project"
    random_ = random.Random(seed)
    kinds: list[str] = []
    since = 0  # kills of the workflow that is under way

    def check() -> None:
        done = server.run(root, *WORKFLOW)
        different = [done.output[-3000:]] if done.status else unlike(root, of)
        for kind in kinds[since:]:
            tally.count(
                kind, "lost" if different else "identical", f"seed {seed}, {kinds[since:]}: {different[:6]}"
            )

    shutil.copytree(of.before, root, symlinks=True)
    while len(kinds) < 10:
        run = server.start(root, *WORKFLOW)
        until = time.monotonic() + random_.uniform(0.5, 8.0)
        while run.running and time.monotonic() < until:
            time.sleep(0.01)
        whom = random_.choice(["all", "snakemake", "a job"])
        alive = jobs(run.token)
        if not run.running or (whom == "a job" and not alive):
            if not run.running:
                check()
                since = len(kinds)
                shutil.rmtree(root)
                shutil.copytree(of.before, root, symlinks=True)
            else:
                run.wait()
            continue
        kinds.append(f"random kill of {whom}")
        if whom == "a job":
            kill([random_.choice(alive)])
        else:
            run.kill()
        if whom == "all":
            kill(crash.started_by(run.token))
        run.wait()
    check()
    tally.done()


def real(root: Path, *command: str, token: str) -> subprocess.Popen[str]:
    """A command in processes of its own, as a user starts it."""
    return subprocess.Popen(
        command, cwd=root, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(crash.ROOT), "OMP_NUM_THREADS": "1", crash.TOKEN: token},
    )  # fmt: skip


@pytest.mark.crash
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("command", ["snakemake", "make"])
def test_a_workflow_that_is_ended_leaves_nothing_behind(
    server: Server, reference: dict[str, Phase], tally: Tally, place: Path, command: str, number: int
) -> None:
    """Ctrl-C reaches all of a terminal's processes, SIGTERM the one that it is sent to."""
    tally.phase, of, root = "signals", reference["workflow"], place / "project"
    shutil.copytree(of.before, root, symlinks=True)
    token = f"{os.getpid()}-{command}-{number}"
    if command == "make":
        started = _make(root, token)
    else:
        started = real(root, sys.executable, "-m", "snakemake", "--config", "study=few.yaml", token=token)
    until = time.monotonic() + 300
    while not list(root.glob("work/tiny/runs/star-0-*/journal/[0-9]*.json")):
        assert started.poll() is None and time.monotonic() < until, started.communicate()[0]
        time.sleep(0.05)
    if number == signal.SIGINT:
        os.killpg(started.pid, number)
    else:
        started.send_signal(number)
    output, _ = started.communicate(timeout=300)  # SIGTERM lets jobs end first
    left = orphans(token, 30.0) + [str(path) for path in root.glob(".snakemake/locks/*")]
    left += [f"{path} is held" for path in root.glob("work/tiny/**/lease") if holder(path.parent)]
    again = server.run(root, *WORKFLOW)
    different = [again.output[-3000:]] if again.status else unlike(root, of)
    told = f"{command} {number}: {left} {different} {output[-3000:]}"
    lost = left or different or "Traceback" in output or started.returncode == 0
    tally.count(f"{signal.Signals(number).name} to {command}", "lost" if lost else "identical", told)
    kill(crash.started_by(token))
    tally.done()


def _make(root: Path, token: str, program: str = f"{sys.executable} -m snakemake") -> subprocess.Popen[str]:
    """`make reproduce`, in an environment whose snakemake is this program."""
    shutil.copy(crash.ROOT / "Makefile", root)
    binaries = root / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "snakemake").write_text(f'#!/bin/sh\nexec {program} "$@"\n')
    (binaries / "snakemake").chmod(0o755)
    lock = (crash.ROOT / "requirements/lock-cpu.txt").read_bytes()
    checksum = subprocess.run(["cksum"], input=lock, capture_output=True, check=True).stdout.decode()
    (root / ".venv" / f"installed-{checksum.split()[0]}").touch()
    return real(root, "make", "reproduce", "STUDY=few.yaml", token=token)


def test_make_hands_on_the_signal_that_ends_it(tmp_path: Path) -> None:
    """A shell between it and Snakemake would die alone, and the study run on."""
    (tmp_path / "requirements").symlink_to(crash.ROOT / "requirements")
    token = f"{os.getpid()}-make"
    started = _make(tmp_path, token, "sh -c 'touch begun; exec sleep 300'")
    until = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert started.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    started.terminate()
    assert started.wait(60) != 0
    left = orphans(token)
    kill(crash.started_by(token))
    assert not left


# --- children that are killed -------------------------------------------------------------------------


@pytest.mark.crash
@pytest.mark.parametrize("phase", ["train star", "evaluate star"])
def test_a_verifier_that_is_killed_is_replaced(
    server: Server, reference: dict[str, Phase], tally: Tally, place: Path, phase: str
) -> None:
    """As the system does when the memory is full: at once, once they have started, and again and again."""
    of, root = reference[phase], place / "project"
    for after, times in ((0.0, 1), (1.0, 1), (3.0, 1), (0.5, 3)):
        shutil.copytree(of.before, root, symlinks=True)
        run, killed = server.start(root, *of.argv), 0
        while run.running and killed < times:
            if workers := crash.started_by(run.token):
                time.sleep(after)
                kill(workers)
                killed += 1
            time.sleep(0.02)
        done = run.wait()
        left = orphans(run.token)
        refused = bool(done.sentence)
        if refused:
            done = server.run(root, *of.argv)
        different = [done.output[-2000:]] if done.status else differences(root, of.after)
        what = "lost" if different or left else "refused" if refused else "identical"
        tally.count("SIGKILL to the verifier's workers", what, f"{after} {times}: {left} {different[:5]}")
        shutil.rmtree(root)
    tally.done()


@pytest.mark.crash
def test_a_trainer_that_is_killed(
    server: Server, reference: dict[str, Phase], tally: Tally, place: Path
) -> None:
    """Of those that `accelerate launch` starts: the launcher, and the process that trains."""
    of, root = reference["train control_continued"], place / "project"
    tally.phase = of.name
    argv = ("repro", "train", "launched.yaml", "--method", "control_continued")
    one = (
        (crash.ROOT / "benchmarks/accelerate/ddp2-cpu.yaml")
        .read_text()
        .replace("processes: 2", "processes: 1")
    )
    for program in (b"repro.training.worker", b"accelerate.commands.launch"):
        shutil.copytree(of.before, root, symlinks=True)
        (root / "one.yaml").write_text(one)
        (root / "launched.yaml").write_text(
            TINY.replace("save_every: 3", "save_every: 3, accelerate: one.yaml")
        )
        run = server.start(root, *argv)
        while run.running and not list(root.glob("work/tiny/runs/*/unfinished/*/0*")):
            time.sleep(0.02)
        lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in crash.started_by(run.token)}
        launch = b"accelerate.commands.launch"  # whose command line names the worker too
        kill(
            [
                pid
                for pid, line in lines.items()
                if program in line and (program == launch) == (launch in line)
            ]
        )
        first = run.wait()
        left = orphans(run.token)
        again = server.run(root, *of.argv)
        different = [again.output[-2000:]] if again.status else differences(root, of.after)
        different = [one for one in different if not one.endswith("training.log")]
        lost = different or left or not first.sentence
        told = f"{first.status} {first.output[-1500:]} {left} {different[:5]}"
        tally.count(f"SIGKILL to {program.decode()}", "lost" if lost else "refused", told)
        shutil.rmtree(root)
    tally.done()
