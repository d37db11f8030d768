"""Files that are never half-written: a temporary name, fsync, rename. And one writer per run folder."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from repro.errors import UserError

Log = logging.getLogger("repro.files")
ORIGIN = "origin.json"  # in the folder of a base model: what it was made from
COMPLETE = "COMPLETE.json"  # written last into a folder; lists the hash of each of its files


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically, making its folder. Raises UserError when the disk is full."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _explained(error, path) from error


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path, keys: Sequence[str] = ()) -> Any:
    """The value in a JSON file, a mapping with these ``keys`` if any are named. Raises UserError, naming the
    file, where it is missing or malformed."""
    try:
        value = json.loads(Path(path).read_text())
        if keys and not (isinstance(value, dict) and all(key in value for key in keys)):
            raise UserError(f"{path} is damaged (it lacks {', '.join(keys)}); delete the file and run again")
        return value
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run `snakemake` to make it") from None
    except json.JSONDecodeError as error:
        where = f"{path}, line {error.lineno}"
        raise UserError(f"{where}: not JSON ({error.msg}); delete the file and run again") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is damaged (it is not text); delete the file and run again") from None


def _explained(error: OSError, path: Path) -> OSError | UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(path.parent if path.parent.exists() else Path(".")).free
        return UserError(
            f"the disk is full: {path} was not written ({free / 1e6:.0f} MB free); make space and run again"
        )
    if error.errno in (errno.EACCES, errno.EROFS):
        return UserError(f"{path} cannot be written ({error.strerror}); make its folder writable")
    return error


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


def sealed(folder: Path) -> bool:
    """Whether ``folder`` was sealed and holds what it held then. A torn or altered folder is not complete."""
    try:
        hashes = json.loads((folder / COMPLETE).read_text())
        return all(sha256(folder / name) == expected for name, expected in hashes.items())
    except (OSError, ValueError):
        return False


def fingerprint(folder: Path) -> str:
    """A digest of the files at the top of a sealed model folder, as they were sealed: weights, config and
    tokenizer, and neither its moments nor where it comes from."""
    hashes: dict[str, str] = read_json(folder / COMPLETE)
    return digest({name: value for name, value in hashes.items() if "/" not in name and name != ORIGIN})


def prune(folder: Path, keep: Callable[[Path], bool]) -> None:
    """Leave of a sealed folder only the files that ``keep``, given their path in it, says. It stays sealed at
    every moment: what is complete is declared anew before anything goes."""
    hashes: dict[str, str] = read_json(folder / COMPLETE)
    kept = {name: value for name, value in hashes.items() if keep(Path(name))}
    if kept != hashes:
        write_json(folder / COMPLETE, kept)
    for path in sorted(folder.rglob("*"), reverse=True):  # files before their folders
        name = str(path.relative_to(folder))
        if path.is_dir():
            with suppress(OSError):  # not empty
                path.rmdir()
        elif name not in kept and name != COMPLETE:
            path.unlink()


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """A folder to fill; on success it is sealed and takes the name ``folder``, on failure it is removed."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    for stale in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        seal(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _explained(error, folder) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def lease(folder: Path, wait: bool = False) -> Iterator[None]:
    """Be the only writer of ``folder``. The kernel gives the lock back when the holder dies.

    Where another process has it: wait until that ends, with ``wait``, else raise UserError naming the holder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lease", "a+") as file:
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
        yield
