"""Faults of the disk, of files and of models: a sentence, nothing half-written, no stranger's code run."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models

from repro import cli, files, problems
from repro.config import RewardModel
from repro.errors import UserError
from repro.models import loading, refuse_code
from repro.problems import sources
from repro.records import Gold, Problem

# --- the command ------------------------------------------------------------------------------------


class OutOfMemoryError(RuntimeError):
    """By this name torch says that a GPU's memory is full."""


def ended(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    """The exit status of a command in whose midst ``error`` is raised."""

    def raises(*args: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "load_study", raises)
    monkeypatch.setattr(sys, "argv", ["repro", "methods", "study.yaml"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (UserError("a: wrong\n  in two lines"), 2, "a: wrong in two lines"),
        (OSError(errno.EIO, "Input/output error", "x.json"), 2, "x.json: Input/output error; check the path"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "No space left on device; check the path"),
        (PermissionError(errno.EACCES, "Permission denied", "work"), 2, "work: Permission denied; check"),
        (OSError("no reason"), 2, "no reason; check the path"),
        (UserError("a\x1b[2J\u202e\x9b: wrong"), 2, r"a\x1b[2J\u202e\x9b: wrong"),  # a terminal would obey
        (MemoryError(), 2, "the memory is full; ask for less at once (sampling.batch_size"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate"), 2, "the memory is full; ask for less"),
        (RecursionError("maximum recursion depth exceeded"), 2, "something in the input is nested too"),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on where this one was"),
    ],
)  # fmt: skip
def test_what_ends_a_command_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    sentence: str,
) -> None:
    assert ended(monkeypatch, error) == status
    said = capsys.readouterr().err
    assert said.startswith(f"repro: {sentence}") and said.count("\n") == 1


def test_a_bug_shows_its_traceback_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, KeyError("lost")) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("Traceback") and said[-2] == "KeyError: 'lost'"
    assert said[-1] == "repro: this is a bug; report it with the lines above and the study"


def test_no_title_moves_the_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    smoke = Path(__file__).resolve().parent.parent / "benchmarks/studies/smoke.yaml"
    rows = {"star_too": {"method": "star", "title": "A\x1b[2J\u202eB\x9b1m"}}
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump({**yaml.safe_load(smoke.read_text()), "methods": rows}))
    cli.app(["methods", str(study)], standalone_mode=False)
    cli._say("a\tb\nc\N{EN SPACE}é")
    said = capsys.readouterr().out
    assert r"A\x1b[2J\u202eB\x9b1m" in said and said.endswith("a\tb\nc\N{EN SPACE}é\n")
    record = logging.makeLogRecord({"msg": "%s", "args": ("\x1b[2J",)})
    assert cli.Shown("%(message)s").format(record) == r"\x1b[2J"


def test_a_reader_that_goes_away_leaves_one_line() -> None:
    command = [sys.executable, "-m", "repro.cli", "methods", "benchmarks/studies/smoke.yaml"]
    root = Path(__file__).resolve().parent.parent
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, cwd=root)
    assert done.returncode == 1
    assert done.stderr == "repro: nobody reads the output any more; run the command without that pipe\n"


# --- the disk ---------------------------------------------------------------------------------------


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to let a file grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def weights(folder: Path) -> None:
    save_file({"a": np.zeros(10_000, np.float32)}, folder / "model.safetensors")


def tokenizer(folder: Path) -> None:
    words = {f"word{index}": index for index in range(1_000)}
    Tokenizer(models.WordLevel(words)).save(str(folder / "tokenizer.json"))


def text(folder: Path) -> None:
    (folder / "notes.txt").write_text("x" * 10_000)


@pytest.mark.parametrize("write", [weights, tokenizer, text])
def test_a_model_that_does_not_fit_the_disk(tmp_path: Path, write: Callable[[Path], None]) -> None:
    """Libraries in Rust say so in exceptions of their own."""
    with (
        files_of_at_most(2_000),
        pytest.raises(UserError, match=r"base was not written \(File too large\); check the disk"),
        files.building(tmp_path / "base") as folder,
    ):
        write(folder)
    assert list(tmp_path.iterdir()) == []


REFUSALS = [
    (errno.ENOSPC, r"the disk is full: {} was not written \(\d+ MB free\); make space and run again"),
    (errno.EDQUOT, r"the disk is full: {} was not written \(\d+ MB free\); make space and run again"),
    (errno.EROFS, r"{} was not written \(Read-only file system\); make its folder writable"),
    (errno.EACCES, r"{} was not written \(Permission denied\); make its folder writable"),
    (errno.EIO, r"{} was not written \(Input/output error\); check the disk and run again"),
    (errno.ESTALE, r"{} was not written \(Stale file handle\); check the disk and run again"),
]


@pytest.mark.parametrize(("code", "sentence"), REFUSALS)
@pytest.mark.parametrize("call", ["open", "fsync", "replace", "mkdir"])
def test_what_the_disk_refuses_is_said_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, sentence: str, call: str
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        place = {"open": "builtins.open", "mkdir": "pathlib.Path.mkdir"}.get(call, f"os.{call}")
        patch.setattr(place, refuse)
        with pytest.raises(UserError, match=sentence.format(r".*a\.json")):
            files.write_json(tmp_path / "a.json", 1)
    assert not (tmp_path / "a.json").exists() and list(tmp_path.glob(".*.tmp")) == []


@pytest.mark.parametrize(("code", "sentence"), REFUSALS)
@pytest.mark.parametrize("place", ["builtins.open", "fcntl.flock", "pathlib.Path.mkdir"])
def test_what_the_disk_refuses_of_a_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, sentence: str, place: str
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(place, refuse)
    with pytest.raises(UserError, match=sentence.format(".*run/lease")), files.lease(tmp_path / "run"):
        pass


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("")
    with pytest.raises(UserError, match=r"a\.json was not written \((Not a directory|File exists)"):
        files.write_json(tmp_path / "work" / "a.json", 1)
    with pytest.raises(UserError, match=r"lease was not written"), files.lease(tmp_path / "work"):
        pass


def test_the_names_in_a_folder_are_made_to_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder itself is flushed after the rename, else a power cut can undo it."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda at: (done.append(os.readlink(f"/proc/self/fd/{at}")), fsync(at)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("renamed"), replace(a, b)))
    files.write_json(tmp_path / "a.json", 1)
    assert done[-2:] == ["renamed", str(tmp_path)]
    with files.building(tmp_path / "model"):
        pass
    assert done[-2:] == ["renamed", str(tmp_path)]


# --- what killed processes leave ----------------------------------------------------------------------

KILLED = """
import os, sys
from pathlib import Path
from repro import files
at = os.replace
os.replace = lambda a, b: os.kill(os.getpid(), 9) if Path(b).name == sys.argv[2] else at(a, b)
folder = Path(sys.argv[1])
if sys.argv[2] == "model":
    with files.building(folder / "model") as made:
        (made / "weights").write_text("x")
files.write_json(folder / "a.json", 1)
"""


def leave(folder: Path, name: str) -> Path:
    """What a process leaves in ``folder`` that is killed just before ``name`` is there."""
    subprocess.run([sys.executable, "-c", KILLED, str(folder), name], check=False)
    (left,) = [path for path in folder.iterdir() if path.suffix == ".tmp"]
    assert left.name.startswith(f".{name}.")
    return left


def test_what_a_killed_process_left_goes_on_the_next_start(tmp_path: Path) -> None:
    leave(tmp_path, "a.json")
    files.write_json(tmp_path / "a.json", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    leave(tmp_path, "model")
    with files.building(tmp_path / "model"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "model"]
    (tmp_path / "deep").mkdir()
    left = [leave(tmp_path, "model"), leave(tmp_path / "deep", "a.json")]
    with files.lease(tmp_path):
        assert not any(path.exists() for path in left)


def test_what_others_are_writing_stays(tmp_path: Path) -> None:
    mine = f".b.json.{os.getpid()}@{os.uname().nodename}.tmp"  # of a process that lives
    elsewhere = ".a.json.4000000@elsewhere.tmp"  # of a machine of which nothing is known
    for name in (mine, elsewhere, ".a.json.tmp", "note.tmp"):
        (tmp_path / name).write_text("")
    files.write_json(tmp_path / "a.json", 1)
    with files.lease(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} >= {mine, elsewhere, ".a.json.tmp", "note.tmp"}


# --- files that are not what they should be -----------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"[]", r"a\.json holds no mapping, but a list; delete the file and run again"),
        (b"null", r"a\.json holds no mapping, but a NoneType"),
        (b"{}", r"a\.json lacks the key `budgets`; delete the file and run again"),
        (b'{"budgets": 1}', r"a\.json lacks the key `seed`"),
        (b'{"a":\n', r"a\.json, line 2: not JSON"),
        (b'{"a":\n"\xe9"}', r"a\.json, line 2: not text in UTF-8; delete the file and run again"),
        (b"[" * 100_000, r"a\.json, line 1: not usable as JSON"),
        (b"9" * 5_000, r"a\.json, line 1: not usable as JSON"),
        (
            b'{"seed": 0, "budgets": [], "seed": 1}',
            r"a\.json, line 1: the key `seed` is given twice; delete the",
        ),
    ],
)
def test_a_manifest_that_is_none(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        files.read_json(path, keys=("budgets", "seed"))
    path.write_text('{"budgets": [], "seed": 0, "more": 1}')
    assert files.read_json(path, keys=("budgets", "seed"))["more"] == 1


@pytest.mark.parametrize("content", ["[]", '"text"', "{}x", '{"a": 5}'])
def test_a_seal_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / files.COMPLETE).write_text(content)
    assert not files.sealed(tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\x00\xff\xfe\x80", "line 1: not text in UTF-8"),
        (b'{"question": "1", "answer": "1"}\n{"question": "caf\xe9"}\n', "line 2: not text in UTF-8"),
        ('{"question": "é"}'.encode("utf-16"), "line 1: not text in UTF-8"),
        (b"\x00\x01\x02", "line 1: not JSON"),
        (b'{"question": "1", "answer": "1"}\n\n', "line 2: not JSON"),
        (b"[" * 100_000, "line 1: not usable as JSON"),
        (b"[1]", "line 1: not an object with fields"),
        (b'{"question": "1", "answer": "1", "answer": "2"}', "line 1: the key `answer` is given twice"),
        (rb'{"question": "\ud83d?", "answer": "1"}', "line 1: field `question` holds half a character"),
        (b'{"question": 5, "answer": "1"}', "line 1: field `question` is missing, empty or not text"),
    ],
)
def test_problems_that_are_none(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"mine.jsonl, {complaint}.*; mend or remove the line"):
        sources.load_jsonl(path)


def test_problems_as_windows_saves_them(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    row = '{"question": "caf\u00e9\u2028?", "answer": "1"}'
    path.write_bytes(b"\xef\xbb\xbf" + f"{row}\r\n{row}\r\n".encode())
    assert sources.load_jsonl(path)[1] == (Problem("mine-00002", "café\u2028?", "all"), Gold("1"))


TEST = {
    "id": "p", "question": "?", "tier": "1", "knowledge": [], "answer": "1", "solution": None, "prompt": "?",
    "few_shot": "?", "hinted": "?",
}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\xff\xfe", "line 1: not text in UTF-8"),
        (b"[]", "line 1: not an object"),
        (b"{}", "line 1: field `id` is missing"),
        (json.dumps({**TEST, "answer": 5}).encode(), "line 1: field `answer` is a int"),
        (json.dumps({**TEST, "knowledge": "a"}).encode(), "line 1: field `knowledge` is a str"),
        (json.dumps({**TEST, "prompt": None}).encode(), "line 1: field `prompt` is a NoneType"),
    ],
)
def test_test_problems_that_are_none(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "ladder.jsonl"
    with pytest.raises(UserError, match=r"ladder\.jsonl does not exist; run `snakemake` to make it"):
        problems.read(path)
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"ladder.jsonl, {complaint}.*; delete the file and run again"):
        problems.read(path)
    path.write_text(json.dumps(TEST) + "\n")
    assert len(problems.read(path).problems) == 1


# --- models -----------------------------------------------------------------------------------------

CONFIG = {
    "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "intermediate_size": 8, "vocab_size": 8, "max_position_embeddings": 32,
}  # fmt: skip


def load_to_sample(folder: Path) -> object:
    from repro.sampling.transformers import TransformersSampler

    return TransformersSampler().load(folder)


def load_to_train(folder: Path) -> object:
    from repro.training.checkpoints import load_model

    return load_model(folder)


def load_to_compare(folder: Path) -> object:
    from repro.sampling.fingerprint import log_probs

    return log_probs(folder, [[1, 2]], "float32")


def load_to_reward(folder: Path) -> object:
    from repro.rewards.transformers import CausalScorer

    return CausalScorer(RewardModel(kind="causal", path=folder)).model


LOADS = [load_to_sample, load_to_train, load_to_compare, load_to_reward]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    Tokenizer(models.WordLevel({"a": 0})).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "a"})
    )
    return tmp_path


@pytest.mark.promise("Files and code of others", "Code that comes with a model is refused, without asking.")
@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_code_of_a_model_is_refused_without_asking(
    folder: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[[Path], object], name: str
) -> None:
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
    config["auto_map"] = {"AutoConfig": "evil.Evil", "AutoTokenizer": [None, "evil.Evil"]}
    (folder / name).write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *args: "y")
    with pytest.raises(
        UserError, match=rf"{name} has `auto_map`: the model runs code of its own, .*; name a"
    ):
        load(folder)
    assert not (folder / "ran").exists()


def test_an_engine_that_has_the_architecture_needs_no_code(folder: Path) -> None:
    """vLLM's pooling models: the code that config.json names is not run, that of the tokenizer would be."""
    from repro.rewards import scorer_for

    spec = RewardModel(kind="pooling", path=folder)
    mapped = {**CONFIG, "model_type": "qwen2", "auto_map": {"AutoModel": "modeling.Mine"}}
    mapped["architectures"] = ["Qwen2ForProcessRewardModel"]
    (folder / "config.json").write_text(json.dumps(mapped))
    assert scorer_for(spec) is not None
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["a.B", null]}}')
    with pytest.raises(UserError, match=r"tokenizer_config\.json has `auto_map`"):
        scorer_for(spec)


@pytest.mark.promise(
    "Files and code of others", "Nothing is unpickled, and no text is evaluated or parsed as code."
)
@pytest.mark.parametrize("load", LOADS)
def test_pickled_weights_are_not_loaded(folder: Path, load: Callable[[Path], object]) -> None:
    import torch

    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(
        UserError, match=r"Cannot load the (reward )?model in .*; see that a whole model lies"
    ) as caught:
        load(folder)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_model_is_named(folder: Path, load: Callable[[Path], object], name: str) -> None:
    (folder / name).write_bytes(b"torn")
    with pytest.raises(UserError, match=str(folder)):
        load(folder)


def tensors(header: Any, size: int | None = None) -> bytes:
    raw = json.dumps(header).encode()
    return (len(raw) if size is None else size).to_bytes(8, "little") + raw


HUGE = {"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}
NEGATIVE = {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}


@pytest.mark.promise(
    "Files and code of others", "A model that lacks a weight is refused; none is drawn at random."
)
@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (tensors({}), "has no weights "),
        (tensors({}, 2**63), "Cannot load the"),
        (tensors(HUGE), "Cannot load the"),
        (tensors(NEGATIVE), "Cannot load the"),
    ],
    ids=["none", "a header without end", "a size that is none", "a negative size"],
)
def test_weights_that_are_not_what_they_say(
    folder: Path, load: Callable[[Path], object], content: bytes, complaint: str
) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=rf"^{complaint}|model in {folder} {complaint}") as caught:
        load(folder)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", ["[]", "5"])
def test_a_config_that_is_no_mapping(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json holds no mapping; put a whole model into"):
        refuse_code(folder)


def test_a_full_memory_is_not_taken_for_a_damaged_model(folder: Path) -> None:
    for error in (MemoryError(), OutOfMemoryError("CUDA")):
        with pytest.raises(type(error)), loading(folder):
            raise error
