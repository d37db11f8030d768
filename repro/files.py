"""Files that are never half-written: a temporary name, fsync, rename. And one writer per run folder.

What goes wrong with the disk, and what a damaged file holds, is raised as UserError, naming the file.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from io import StringIO
from pathlib import Path
from typing import Any

from repro.errors import UserError

Log = logging.getLogger("repro.files")
ORIGIN = "origin.json"  # in the folder of a base model: what it was made from
CHECK = "check"
OWNER = ""  # where the seal of a folder says whose it is
COMPLETE = "COMPLETE.json"  # written last into a folder; lists the hash of each of its files
AGAIN = "delete the file and run again"
# What is half-written: where and by whom, so that what a killed process left can be told from a live one's.
_TEMPORARY = re.compile(r"\..+\.(?P<process>\d+)@(?P<machine>.+)\.tmp")


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}@{os.uname().nodename}.tmp")


def _sweep(found: Iterator[Path]) -> None:
    """Remove those of ``found`` that a process of this machine left half-written and can no longer finish."""
    for path in list(found):
        match = _TEMPORARY.fullmatch(path.name)
        if match and match["machine"] == os.uname().nodename:
            try:
                os.kill(int(match["process"]), 0)
            except (ProcessLookupError, OverflowError):  # it has died
                _remove(path)
            except PermissionError:  # it lives, and is somebody else's
                pass


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _sync(folder: Path) -> None:
    """Make the names in ``folder`` last: a renamed file else has its old name after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically, making its folder. Raises UserError where the disk refuses."""
    path = Path(path)
    temporary = _temporary(path)
    with _writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path.parent.glob(f".{escape(path.name)}.*.tmp"))
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync(path.parent)
        except BaseException:
            _remove(temporary)
            raise


def write_lightly(path: Path, text: str) -> None:
    """Atomic, and not synced: it outlives the process, not a power cut. Its folder is there."""
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def json_text(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def write_json(path: Path, value: Any) -> None:
    write_text(path, json_text(value))


def read_text(path: Path, mend: str) -> str:
    """The text of a file in UTF-8. Raises UserError, naming the file and ending in ``mend``, where it cannot
    be read or is no such text."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {mend}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not text in UTF-8; {mend}") from None


def parse_json(text: str, path: Path, mend: str, line: int = 1) -> Any:
    """The JSON value in ``text``, which begins at this line of ``path``. Raises UserError, naming the line
    and ending in ``mend``, where it is malformed."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """An object without a key given twice, of which Python would take the last."""
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise UserError(f"{path}, line {line}: the key `{key}` is given twice; {mend}")
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {line + error.lineno - 1}: not JSON ({error.msg}); {mend}") from None
    except (ValueError, RecursionError):
        reason = "a number is too long or a list too deep"
        raise UserError(f"{path}, line {line}: not usable as JSON ({reason}); {mend}") from None


def read_jsonl(path: Path, mend: str) -> list[dict[str, Any]]:
    """The objects of a JSONL file, one a line. Raises UserError, naming the line and ending in ``mend``,
    where one is malformed."""
    rows = []
    # Not splitlines, which also splits at rarer marks that JSON may hold.
    for number, line in enumerate(StringIO(read_text(path, mend), newline=None), 1):
        row = parse_json(line.strip(), path, mend, number)
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: not an object with fields; {mend}")
        rows.append(row)
    return rows


def read_json(path: Path, keys: Collection[str] = ()) -> Any:
    """The value in a JSON file; with ``keys`` it is a mapping that has them.

    Raises UserError, naming the file, where it is missing or malformed.
    """
    path = Path(path)
    with suppress(PermissionError):  # which reading it says
        if not path.exists():
            raise UserError(f"{path} does not exist; run `snakemake` to make it")
    value = parse_json(read_text(path, AGAIN), path, AGAIN)
    if keys and not isinstance(value, dict):
        raise UserError(f"{path} holds no mapping, but a {type(value).__name__}; {AGAIN}")
    for key in keys:
        if key not in value:
            raise UserError(f"{path} lacks the key `{key}`; {AGAIN}")
    return value


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """What the disk refuses while ``path`` is written becomes one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        code = _error_number(error)
        if code is None:
            raise
        raise UserError(_explained(code, error, path)) from error


def _error_number(error: Exception) -> int | None:
    """The ``errno`` of what went wrong; None where it was no matter of the operating system."""
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    # safetensors and tokenizers, which are written in Rust, have exceptions of their own for it.
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _explained(code: int, error: Exception, path: Path) -> str:
    if code in (errno.ENOSPC, errno.EDQUOT):
        there = next(folder for folder in (path.parent, *path.parent.parents, Path(".")) if folder.exists())
        free = shutil.disk_usage(there).free
        return (
            f"the disk is full: {path} was not written ({free / 1e6:.0f} MB free); make space and run again"
        )
    reason = os.strerror(code)
    name = str(getattr(error, "filename", None) or path)
    if name != str(path) and _temporary(path).name not in Path(name).parts:
        reason += f": {name}"
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} was not written ({reason}); make its folder writable"
    return f"{path} was not written ({reason}); check the disk and run again"


def write_checked(path: Path, value: dict[str, Any]) -> None:
    """:func:`write_json` with a check of the value in it."""
    write_json(path, {**value, CHECK: digest(value)})


def read_checked(path: Path, keys: Collection[str] = ()) -> dict[str, Any]:
    """What :func:`write_checked` wrote. Raises UserError, naming the file, where it is damaged."""
    value: dict[str, Any] = read_json(path, (*keys, CHECK))
    if value.pop(CHECK) != digest(value):
        raise UserError(f"{path} is damaged (its check fails); delete the file and run `snakemake`")
    return value


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest(*values: Any) -> str:
    """A short digest of JSON-ready values; the same values give the same digest on every machine."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def seal(folder: Path) -> None:
    """Declare ``folder`` complete: fsync its files and write their hashes last."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != COMPLETE)
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    write_json(folder / COMPLETE, {str(p.relative_to(folder)): sha256(p) for p in files})


def sign(folder: Path, owner: str) -> None:
    """Write into the seal of ``folder`` whose it is: another's, put in its place, is then refused."""
    write_json(folder / COMPLETE, {**read_json(folder / COMPLETE), OWNER: owner})


def sealed(folder: Path, owner: str | None = None) -> bool:
    """Whether ``folder`` was sealed (and signed by ``owner``) and holds what it held then. A torn or altered
    folder is not complete."""
    try:
        hashes = dict(read_json(folder / COMPLETE))
        signed = hashes.pop(OWNER, None)
        whole = all(sha256(folder / name) == expected for name, expected in hashes.items())
        return bool(hashes) and whole and owner in (None, signed)
    except (OSError, UserError, ValueError, TypeError):  # the last two: no mapping
        return False


def fingerprint(folder: Path) -> str:
    """A digest of the files at the top of a sealed model folder, as they were sealed: weights, config and
    tokenizer, and neither its moments nor where it comes from."""
    hashes: dict[str, str] = read_json(folder / COMPLETE)
    beside = (ORIGIN, OWNER)
    return digest({name: value for name, value in hashes.items() if "/" not in name and name not in beside})


def prune(folder: Path, keep: Callable[[Path], bool]) -> None:
    """Leave of a sealed folder only the files that ``keep``, given their path in it, says. It stays sealed at
    every moment: what is complete is declared anew before anything goes."""
    hashes: dict[str, str] = read_json(folder / COMPLETE)
    kept = {name: value for name, value in hashes.items() if name == OWNER or keep(Path(name))}
    if kept != hashes:
        write_json(folder / COMPLETE, kept)
    for path in sorted(folder.rglob("*"), reverse=True):  # files before their folders
        name = str(path.relative_to(folder))
        if path.is_dir():
            with suppress(OSError):  # not empty
                path.rmdir()
        elif name not in kept and name != COMPLETE:
            path.unlink()


def discard(folder: Path) -> None:
    """Remove a sealed folder. What is left of it, where that is cut short, is not complete."""
    (folder / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """A folder to fill; on success it takes the name ``folder``, which may be that of an empty one, on
    failure it is removed."""
    folder = Path(folder)
    temporary = _temporary(folder)
    for stale in folder.parent.glob(f".{escape(folder.name)}.*.tmp"):
        _remove(stale)  # whoever's it is: a folder has one builder at a time
    with _writing(folder):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            os.replace(temporary, folder)
            _sync(folder.parent)
        except BaseException:
            _remove(temporary)
            raise


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """:func:`filling`, but the folder is sealed, and takes the place of one of that name."""
    with filling(folder) as temporary:
        yield temporary
        seal(temporary)
        if Path(folder).exists():
            shutil.rmtree(folder)


@contextmanager
def lease(folder: Path, wait: bool = False) -> Iterator[None]:
    """Be the only writer of ``folder``. The kernel gives the lock back when the holder dies; what dead
    processes of this machine left half-written in it goes.

    Where another process has it: wait until that ends, with ``wait``, else raise UserError naming the holder.
    """
    path = Path(folder) / "lease"
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", errors="replace")  # noqa: SIM115 (closed below)
    with file:
        with _writing(path):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip()
                if not wait:
                    raise UserError(
                        f"{folder} is in use by process {holder}; wait for it or end it, then run again"
                    ) from None
                Log.info("%s is in use by process %s; waiting for it to end", folder, holder)
                fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate(0)
            file.write(f"{os.getpid()} on {os.uname().nodename}")
            file.flush()
            _sweep(path.parent.rglob(".*.tmp"))
        try:
            yield
        finally:
            with suppress(OSError):
                file.truncate(0)  # nobody's: of another machine's no more can be seen


def holder(folder: Path) -> str | None:
    """Who has the :func:`lease` of ``folder``, as "PROCESS on MACHINE", seen without taking it; None where
    nobody has. A process that died on another machine is still named until the next one comes."""
    path = Path(folder) / "lease"
    try:
        named, number = path.read_text(errors="replace").strip(), path.stat().st_ino
        process, _, machine = named.partition(" on ")
        if not process.isdigit() or machine != os.uname().nodename:
            return named or None
        return named if _locked(number, int(process)) else None
    except OSError:
        return None


def _locked(inode: int, process: int) -> bool:
    """Whether a process of this machine holds a lock on a file."""
    try:
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:  # no Linux: whether the process that took it lives
        try:
            os.kill(process, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            pass
        return True
    # "7: FLOCK ADVISORY WRITE 4711 fe:00:123 0 EOF"; one that waits has "->" before its kind.
    return any(lock[1] == "FLOCK" and lock[5].rpartition(":")[2] == str(inode) for lock in locks)
