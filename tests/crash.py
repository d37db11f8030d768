"""How the tests of crashes crash: commands of the suite in forked children that die, or meet a full disk, at
the N-th thing they do to the disk or to processes.

A server imports everything once and forks a child for each command, so that a crash costs a second and not
an import of torch. ``stub/sitecustomize.py`` makes ``python -m repro.cli`` in a workflow a client of it.
"""

from __future__ import annotations

import atexit
import builtins
import errno
import gc
import importlib
import io
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
STUB = Path(__file__).parent / "stub"
SERVER = "CRASH_SERVER"  # its socket, for the stub
TOKEN = "CRASH_TOKEN"  # in the environment of all that a command starts, by which they are found again
MEANING = """\
What `make crash` did to a tiny study, and what became of it. Identical: the command, run again, left the very
bytes of one that nothing befell (but for what the machine took: machine.csv, provenance.json), and no
temporary file, lock or process. Refused: it said in one sentence what is damaged; where files of work/ were
flipped or missing, doing what the sentence says led to the same bytes. Lost: anything else."""
LIGHT = ("fake_engines", "repro.cli")
HEAVY = (
    "repro.cli", "repro.run", "repro.evaluation", "repro.base_model", "repro.collect", "repro.cleaning",
    "repro.planning.tuning", "repro.reporting.page", "repro.reporting.merging", "repro.training.trl",
    "repro.sampling.transformers", "repro.rewards.ladder", "lm_eval.tasks", "datasets", "snakemake.cli",
    "snakemake.api", "sklearn.feature_extraction.text", "pyarrow.parquet", "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg", "baselines.star",
)  # fmt: skip


# --- in the child -------------------------------------------------------------------------------------------


class Injector:
    """Counts what a process does to files in ``root``, and the processes it starts; at the one numbered
    ``at`` it does ``how``: dies "before" it, "after" it or with "half" of it written, or raises the error of
    that name from there on (EIO: there alone). ``log`` gets a line for each event."""

    def __init__(self, root: str, log: str, at: int = 0, how: str = "") -> None:
        self.root, self.at, self.how, self.count = os.path.realpath(root) + os.sep, at, how, 0
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def install(self) -> None:
        for name in ("replace", "rename", "symlink", "link"):
            self._patch(os, name, "rename", lambda a, b, **_: b)
        for name in ("unlink", "remove", "rmdir"):
            self._patch(os, name, "remove", _located)
        self._patch(os, "mkdir", "make", _located)
        self._patch(os, "fsync", "sync", lambda at: os.readlink(f"/proc/self/fd/{_number(at)}"))
        self._patch(subprocess.Popen, "_execute_child", "start", lambda *_, **__: self.root + "process")
        at = io.open

        def opened(file: Any, mode: str = "r", *args: Any, **how: Any) -> Any:
            if isinstance(file, int) or not set(mode) & set("wax+") or not self._ours(os.fspath(file)):
                return at(file, mode, *args, **how)
            self._refuse_if_broken()
            return _Watched(at(file, mode, *args, **how), self, os.fspath(file))

        builtins.open = io.open = opened  # type: ignore[assignment]

    def _patch(self, place: Any, name: str, kind: str, path: Callable[..., Any]) -> None:
        at = getattr(place, name)

        def patched(*args: Any, **how: Any) -> Any:
            return self.step(kind, path(*args, **how), lambda: at(*args, **how))

        setattr(place, name, patched)

    def _ours(self, path: Any) -> bool:
        path = os.path.abspath(os.fsdecode(path))
        return path.startswith(self.root)

    def _refuse_if_broken(self) -> None:
        if self.at and self.count >= self.at and self.how in ("ENOSPC", "EROFS"):
            raise OSError(getattr(errno, self.how), os.strerror(getattr(errno, self.how)))

    def step(self, kind: str, path: Any, do: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        if not self._ours(path):
            return do()
        if kind not in ("start", "remove") or self.how == "EROFS":
            self._refuse_if_broken()
        self.count += 1
        os.write(self.log, f"{kind} {os.path.relpath(os.fsdecode(path), self.root)}\n".encode())
        if self.count != self.at:
            return do()
        if self.how.startswith("E"):
            raise OSError(getattr(errno, self.how), os.strerror(getattr(errno, self.how)))
        try:
            if self.how == "after":
                do()
            if self.how == "half":
                (half or do)()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)


class _Watched:
    """A file that is open for writing; its first write is an event."""

    def __init__(self, file: Any, injector: Injector, path: Any) -> None:
        self._file, self._injector, self._path, self._written = file, injector, path, False

    def write(self, data: Any) -> Any:
        if self._written:
            return self._file.write(data)
        self._written = True

        def half() -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        return self._injector.step("write", self._path, lambda: self._file.write(data), half)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def __iter__(self) -> Any:
        return iter(self._file)


def _number(at: Any) -> int:
    return at if isinstance(at, int) else at.fileno()


def _located(path: Any, *args: Any, dir_fd: int | None = None, **how: Any) -> str:
    path = os.fsdecode(os.fspath(path))
    return os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path) if dir_fd is not None else path


def fake_run() -> None:
    """A run of a method that samples, scores and trains twice, on engines in memory: ``fake FOLDER``."""
    import fake_engines as fake

    from repro import files
    from repro.method import BudgetSpent, Example, Pair

    folder = Path(sys.argv[1])
    world = fake.World(save_every=2)
    with files.lease(folder / "run"):
        lab = fake.make(folder / "base", folder / "run", world, 1_000_000, 2_000_000)
        try:
            while True:
                lab.round += 1
                drawn = lab.sample(lab.problems, 2)
                found = [one for each in drawn for one in each]
                lab.score(found)
                lab.train(
                    [Example(one.problem, one.text) for one in found], optimizer=fake.ADAM, batch_size=3,
                    steps=5, inherit_optimizer=lab.round > 1,
                )  # fmt: skip
                pairs = [Pair(a.problem, a.text, b.text) for a, b in drawn if a.text != b.text]
                lab.train(pairs, optimizer=fake.ADAM, batch_size=2, epochs=1)
        except BudgetSpent:
            pass
        cuts = [
            [cut.budget, cut.spent, cut.steps, str(cut.model.relative_to(folder))] for cut in lab.finish()
        ]
        files.write_checked(
            folder / "run.json", {"cuts": cuts, "ledger": [one.to_json() for one in lab.ledger]}
        )


def _command(argv: Sequence[str]) -> int:
    sys.argv = [*argv]
    try:
        if argv[0] == "repro":
            from repro import cli

            cli.main()
        elif argv[0] == "snakemake":
            from snakemake.cli import main

            main([*argv[1:]])
        elif argv[0] == "fake-base":
            from fake_engines import make_base

            make_base(Path(argv[1]))
        else:
            fake_run()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(bool(error.code))
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _child(request: dict[str, Any], fds: Sequence[int]) -> NoReturn:
    os.setsid()
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if (
        "size" in request
    ):  # a file may not grow beyond it: the kernel ends the process in the midst of a write
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if request["fatal"] else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["size"], resource.RLIM_INFINITY))
    if "inject" in request:
        Injector(**request["inject"]).install()
    status = _command(request["argv"])
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


# --- the server ---------------------------------------------------------------------------------------------


def serve(path: str, modules: Sequence[str]) -> None:
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    for name in modules:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(64)
    print("ready", flush=True)
    children: dict[int, tuple[int, socket.socket]] = {}  # by pidfd
    while True:
        clients = {conn: pid for pid, conn in children.values()}
        ready, _, _ = select.select([0, listening, *clients, *children], [], [])
        if 0 in ready:  # whoever started the server has gone
            for pid, _ in children.values():
                os.kill(pid, signal.SIGKILL)
            return
        for one in ready:
            if one is listening:
                conn, _ = listening.accept()
                data, fds, *_ = socket.recv_fds(conn, 2**20, 3)
                if pid := os.fork():
                    children[os.pidfd_open(pid)] = pid, conn
                    for fd in fds:
                        os.close(fd)
                else:
                    try:
                        _child(json.loads(data), fds)
                    finally:
                        os._exit(99)
            elif isinstance(one, int):
                pid, conn = children.pop(one)
                os.close(one)
                _, status = os.waitpid(pid, 0)
                with suppress(OSError):
                    conn.send(str(os.waitstatus_to_exitcode(status)).encode())
                conn.close()
            elif one in clients and one.fileno() >= 0:
                sent = _received(one)
                with suppress(ProcessLookupError):  # a client that is gone was killed, and so is its child
                    os.kill(clients[one], int(sent) if sent else signal.SIGKILL)
                if not sent:
                    fd = next(fd for fd, (_, conn) in children.items() if conn is one)
                    os.waitpid(children.pop(fd)[0], 0)
                    os.close(fd)
                    one.close()


def _received(conn: socket.socket) -> bytes:
    try:
        return conn.recv(16)
    except OSError:
        return b""


# --- clients ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    status: int  # negative: the signal that ended it
    output: str
    events: list[str]  # "kind path", in order

    @property
    def sentence(self) -> str | None:
        """What a refusal says, where it is one sentence and nothing else."""
        said = [line for line in self.output.splitlines() if line.startswith("repro: ")]
        if self.status != 2 or len(said) != 1 or "Traceback" in self.output:
            return None
        return said[0]


class Server:
    """``python crash.py serve``, and commands in its children."""

    def __init__(self, folder: Path, modules: Sequence[str]) -> None:
        self.socket = str(folder / "socket")
        self.folder = folder
        environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
            "TRANSFORMERS_VERBOSITY": "error", "MPLBACKEND": "agg",
            "PYTHONPATH": os.pathsep.join([str(STUB), str(ROOT)]),
        }  # fmt: skip
        self.environment = environment | {SERVER: self.socket}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "serve", self.socket, *modules],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line == "ready\n", f"the server did not start: {line}"

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def start(self, cwd: Path, *argv: str, at: int = 0, how: str = "", **more: Any) -> Running:
        return Running(self, cwd, argv, at, how, more)

    def run(self, cwd: Path, *argv: str, at: int = 0, how: str = "", **more: Any) -> Outcome:
        return self.start(cwd, *argv, at=at, how=how, **more).wait()


class Running:
    """A command in a child of the server."""

    def __init__(
        self, server: Server, cwd: Path, argv: Sequence[str], at: int, how: str, more: dict[str, Any]
    ) -> None:
        self.token = f"{os.getpid()}-{time.monotonic_ns()}"
        self._log = tempfile.NamedTemporaryFile(dir=server.folder)  # noqa: SIM115
        self._said = b""
        self._reader, writer = os.pipe()  # not a file, which a limit on files would cut short
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._conn = socket.socket(socket.AF_UNIX)
        self._conn.connect(server.socket)
        request = {
            "argv": argv, "cwd": str(cwd), "env": server.environment | {TOKEN: self.token},
            "inject": {"root": str(cwd), "log": self._log.name, "at": at, "how": how}, **more,
        }  # fmt: skip
        with open(os.devnull) as nothing:
            fds = [nothing.fileno(), writer, writer]
            socket.send_fds(self._conn, [json.dumps(request).encode()], fds)
        os.close(writer)

    def _listen(self) -> None:
        while said := os.read(self._reader, 2**16):
            self._said += said
        os.close(self._reader)

    def signal(self, number: int) -> None:
        self._conn.send(str(number).encode())

    def kill(self) -> None:
        """As by SIGKILL; what it has started lives on."""
        self.signal(signal.SIGKILL)

    @property
    def running(self) -> bool:
        return not select.select([self._conn], [], [], 0)[0]

    def wait(self, timeout: float = 600.0) -> Outcome:
        self._conn.settimeout(timeout)
        status = int(self._conn.recv(16) or b"-9")
        self._conn.close()
        self._listener.join(2.0)  # longer than that only what it has left behind would speak
        output = self._said.decode(errors="replace")
        return Outcome(status, output, Path(self._log.name).read_text().splitlines())


def started_by(token: str) -> list[int]:
    """The processes that live and that a command, or what it started, has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"{TOKEN}={token}\0".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def table(points: Sequence[tuple[str, str, str]]) -> str:
    """What became of all points (phase, kind, what), by phase and by kind, in Markdown."""
    lines = []
    for title, column in (("Phase", 0), ("Kind", 1)):
        counted: dict[str, Counter[str]] = {}
        for point in points:
            counted.setdefault(point[column], Counter())[point[2]] += 1
        counted["all"] = sum(counted.values(), Counter())
        lines += ["", f"| {title} | injected | identical | refused | lost |", "|---|--:|--:|--:|--:|"]
        for name, of in counted.items():
            numbers = (of.total(), of["identical"], of["refused"], of["lost"])
            lines.append(f"| {name} | {' | '.join(map(str, numbers))} |")
    return "\n".join(["# The crash matrix", "", MEANING, *lines]) + "\n"


def client() -> NoReturn:
    """The command line of this process, done by a child of the server; see ``stub/sitecustomize.py``."""
    conn = socket.socket(socket.AF_UNIX)
    conn.connect(os.environ[SERVER])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: conn.send(str(int(number)).encode()))
    argv = ["repro", *sys.orig_argv[3:]]
    request = {"argv": argv, "cwd": os.getcwd(), "env": dict(os.environ)}
    socket.send_fds(conn, [json.dumps(request).encode()], [0, 1, 2])
    status = int(conn.recv(16) or b"-9")
    os._exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    serve(sys.argv[2], sys.argv[3:])
