"""Files are whole or absent, sealed folders are what they were, and a folder has one writer."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro import files
from repro.errors import UserError


def full_disk(*args: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.promise("Runs that are killed", "Files and folders are written whole or not at all.")
def test_a_write_that_dies_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.json"
    files.write_json(path, {"old": 1})

    def dies(*args: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, dies)
            with pytest.raises(UserError, match=r"a\.json was not written \(Input/output error\); check the"):
                files.write_json(path, {"new": 2})
        assert files.read_json(path) == {"old": 1}
        assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match=r"the disk is full: .*a\.txt was not written \(\d+ MB free\)"):
        files.write_text(tmp_path / "a.txt", "a")
    with (
        pytest.raises(UserError, match=r"the disk is full: .*model"),
        files.building(tmp_path / "model") as folder,
    ):
        (folder / "weights").write_text("a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe"])
def test_a_damaged_json_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json.*delete the file"):
        files.read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"b\.json does not exist"):
        files.read_json(tmp_path / "b.json")


@pytest.mark.promise(
    "Runs that are killed", "Any damaged bit of a journal, of a sealed folder or of the records is noticed."
)
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_flipped_byte_breaks_the_seal(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("sealed")
    (folder / "step-1").mkdir()
    for name, text in (("config.json", "{}"), ("step-1/weights", "abcdef")):
        (folder / name).write_text(text)
    assert not files.sealed(folder)
    files.seal(folder)
    assert files.sealed(folder)
    path = data.draw(st.sampled_from([p for p in sorted(folder.rglob("*")) if p.is_file()]))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if chr(content[at]).isspace():
        return  # between the entries of the record
    content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    assert not files.sealed(folder)


def test_a_pruned_folder_is_sealed_with_what_is_left(tmp_path: Path) -> None:
    for name in ("weights", "optimizer/moments", "step-1/weights", "step-2/weights"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    files.seal(tmp_path)
    files.prune(tmp_path, lambda file: file.parts[0] in ("weights", "step-2"))
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {"weights", "step-2", "step-2/weights", files.COMPLETE}
    assert files.sealed(tmp_path)
    (tmp_path / "step-2/weights").write_text("other")
    assert not files.sealed(tmp_path)


def test_a_lost_file_breaks_the_seal(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("a")
    files.seal(tmp_path)
    (tmp_path / "weights").unlink()
    assert not files.sealed(tmp_path)


@pytest.mark.promise("Runs that are killed", "Files and folders are written whole or not at all.")
def test_a_folder_is_built_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "model"
    (tmp_path / ".model.1.tmp").mkdir()  # of a process that was killed
    with pytest.raises(KeyboardInterrupt), files.building(target) as folder:
        (folder / "weights").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    for text in ("first", "second"):
        with files.building(target) as folder:
            (folder / "weights").write_text(text)
        assert files.sealed(target) and (target / "weights").read_text() == text
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.promise("Runs that are killed", "Two processes never write the same run.")
def test_a_second_writer_is_refused_by_name_until_the_first_dies(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from repro.files import lease\n"
        "with lease(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout and holder.stdout.readline() == b"held\n"
    refused = rf"run is in use by process {holder.pid} on .*; wait for it or end it"
    with pytest.raises(UserError, match=refused), files.lease(tmp_path / "run"):
        pass
    holder.kill()
    holder.communicate()
    with files.lease(tmp_path / "run"):
        assert str(os.getpid()) in (tmp_path / "run" / "lease").read_text()


def test_a_digest_depends_on_values_and_not_on_their_order_in_a_mapping() -> None:
    assert files.digest({"a": 1, "b": 2}) == files.digest({"b": 2, "a": 1}) != files.digest({"a": 1, "b": 3})
