"""Fetching: what is downloaded is what is pinned, and afterwards no network is touched."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub.errors import GatedRepoError
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from typer.testing import CliRunner

from repro import fetch, problems
from repro.cli import app
from repro.config import Study
from repro.errors import UserError
from repro.problems import sources

NAME, REVISION = "some/model", "0123456789" * 4
CONFIG = {
    "model_type": "qwen2", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 50,
}  # fmt: skip
TRAIN = [{"question": f"What is {i} and {i}?", "answer": f"#### {2 * i}"} for i in range(4)]
TEST = [{"question": "How many?", "answer": "#### 7"}]


def study(folder: Path, **changes: Any) -> Study:
    return Study.model_validate(
        {
            "name": "tiny", "title": "Tiny", "seeds": [0], "budgets": [1], "data_dir": folder,
            "base_model": {"source": "hub", "name": NAME, "revision": REVISION},
            "problems": {"source": "gsm8k"},
            "sampling": {"max_tokens": 8}, "evaluation": {"benchmarks": {"gsm8k": {}}}, **changes,
        }
    )  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that plays the hub's data sets, with sources pinned to what it holds at first."""
    for split, rows in (("train", TRAIN), ("test", TEST)):
        path = tmp_path / "hub" / "openai/gsm8k" / f"main/{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        pinned = sources.digest(sources.parse(f"gsm8k/{split}", rows, path))
        source = sources.SOURCES[f"gsm8k/{split}"]
        monkeypatch.setitem(sources.SOURCES, f"gsm8k/{split}", replace(source, digest=pinned))

    def download(name: str, file: str, *, repo_type: str, revision: str) -> str:
        assert repo_type == "dataset" and len(revision) == 40
        return str(tmp_path / "hub" / name / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return tmp_path / "hub"


def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the model in a hub cache of its own, as the hub's library lays it out."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "models--some--model" / "snapshots" / REVISION
    folder.mkdir(parents=True)
    return folder


def test_a_data_folder_from_the_hub_is_the_same_as_a_local_one(hub: Path, tmp_path: Path) -> None:
    sources.fetch(study(tmp_path / "data"))
    assert sorted(p.name for p in (tmp_path / "data" / "gsm8k").iterdir()) == ["test.jsonl", "train.jsonl"]
    local = tmp_path / "local" / "gsm8k"
    local.mkdir(parents=True)
    (local / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TRAIN))
    fetched = sources.load(tmp_path / "data", "gsm8k/train")
    assert fetched == sources.load(tmp_path / "local", "gsm8k/train") and len(fetched) == 4


def test_what_is_there_is_not_fetched_again(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.fetch(study(tmp_path / "data"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)
    sources.fetch(study(tmp_path / "data"))


@pytest.mark.promise("Files and code of others", "Data are what their digest says, or refused.")
def test_other_content_on_the_hub_is_refused_and_nothing_written(hub: Path, tmp_path: Path) -> None:
    (path,) = hub.rglob("train*.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(TRAIN[::-1]), path)
    with pytest.raises(
        UserError, match=r"openai/gsm8k at 7403\w+ holds other problems than the suite's gsm8k/t"
    ):
        sources.fetch(study(tmp_path / "data"))
    assert not (tmp_path / "data" / "gsm8k" / "train.jsonl").exists()


def test_a_file_of_other_content_is_not_overwritten(hub: Path, tmp_path: Path) -> None:
    path = tmp_path / "data" / "gsm8k" / "train.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(TRAIN[0]) + "\n")
    with pytest.raises(
        UserError, match=r"train\.jsonl holds other problems .*; move it away and fetch again"
    ):
        sources.fetch(study(tmp_path / "data"))
    assert path.read_text() == json.dumps(TRAIN[0]) + "\n"


@pytest.mark.parametrize("there", [False, True])
def test_content_that_nothing_pins_is_taken_and_told(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, there: bool
) -> None:
    """Whatever it is, at the revision that is pinned: of it a digest is told, and recorded."""
    bare = replace(sources.SOURCES["gsm8k/test"], digest=None)
    monkeypatch.setitem(sources.SOURCES, "gsm8k/test", bare)
    settings = study(tmp_path / "data")
    sources.fetch(settings)
    if there:
        caplog.clear()
        sources.fetch(settings)
    (told,) = [one.message for one in caplog.records if one.levelname == "WARNING"]
    found = sources.digest(sources.load(tmp_path / "data", "gsm8k/test"))
    assert f"pins no content of gsm8k/test; the digest {found}" in told and "pin it in SOURCES" in told
    facts = problems.draw(settings).report["sources"]
    assert facts["gsm8k/test"] == {"problems": 1, "digest": found, "pinned": False}
    assert facts["gsm8k/train"]["pinned"] is True


def test_a_failed_download_is_one_sentence(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = hub.rglob("train*.parquet")
    path.unlink()

    def refuse(*args: Any, **kwargs: Any) -> str:
        raise OSError("Connection refused.\nmore")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    for call in (sources.fetch, fetch.models):
        with pytest.raises(
            UserError, match=r"could not be downloaded \(Connection refused\); check the name"
        ):
            call(study(tmp_path / "data"))
    assert issubclass(GatedRepoError, OSError)  # and so are the hub's own refusals


@pytest.mark.parametrize(("name", "content"), [("a.parquet", b"PAR1 torn"), ("a.jsonl", b"\xff{}")])
def test_a_damaged_download_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args, **kwargs: str(tmp_path / name))
    with pytest.raises(UserError, match=rf"{name} is damaged \(.*\); delete it and fetch again"):
        fetch.dataset_rows("some/data", REVISION, [name])


class Snapshots:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.configs: dict[str, Any] = {}  # by model
        self.asked: list[tuple[str, str]] = []
        self.weights = [NAME]  # models that have them

    def one(self, name: str, file: str, *, revision: str) -> str:
        assert file == "config.json"
        path = self.root / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.configs.get(name, CONFIG)))
        return str(path)

    def all(self, name: str, *, revision: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        self.asked.append((name, revision))
        assert not [pattern for pattern in allow_patterns if "bin" in pattern or "pt" in pattern]
        if name in self.weights:
            (self.root / name / "model.safetensors").write_bytes(b"")
        return str(self.root / name)


@pytest.fixture
def snapshots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Snapshots:
    """Plays the hub's models."""
    snapshots = Snapshots(tmp_path / "snapshots")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", snapshots.one)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshots.all)
    return snapshots


PRM = {"name": "some/prm", "revision": REVISION[::-1]}


@pytest.mark.promise(
    "Files and code of others", "Nothing is unpickled, and no text is evaluated or parsed as code."
)
def test_models_are_fetched_at_their_revision_without_pickles(tmp_path: Path, snapshots: Snapshots) -> None:
    with pytest.raises(UserError, match=r"the model some/prm at 9876\w+ has no safetensors weights"):
        fetch.models(study(tmp_path, process_rewards={"kind": "causal", **PRM}))
    assert snapshots.asked == [(NAME, REVISION), ("some/prm", REVISION[::-1])]


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (
            {"model_type": "mamba", "num_hidden_layers": 1},
            r"some/model at 0123\w+: config\.json: the FLOPs of mamba cannot be counted exactly: .*mixer",
        ),
        ({**CONFIG, "hidden_size": None}, r"config\.json: no qwen2 model can be built of it"),
        ({**CONFIG, "auto_map": {"AutoConfig": "a.B"}}, r"config\.json has `auto_map`: .* code of its own"),
        ({}, r"config\.json lacks the key `model_type`"),
        ([], r"config\.json holds no mapping"),
    ],
)
def test_a_model_that_cannot_be_run_is_refused_before_its_weights_are_fetched(
    tmp_path: Path, snapshots: Snapshots, config: Any, complaint: str
) -> None:
    snapshots.configs[NAME] = config
    with pytest.raises(UserError, match=complaint):
        fetch.models(study(tmp_path))
    assert snapshots.asked == []


@pytest.mark.parametrize("kind", ["causal", "pooling"])
def test_only_an_engine_that_has_the_architecture_does_without_the_models_code(
    tmp_path: Path, snapshots: Snapshots, kind: str
) -> None:
    snapshots.configs["some/prm"] = {**CONFIG, "auto_map": {"AutoModel": "modeling.Mine"}}
    snapshots.weights.append("some/prm")
    settings = study(tmp_path, process_rewards={"kind": kind, **PRM})
    if kind == "pooling":
        fetch.models(settings)
    else:
        with pytest.raises(UserError, match=r"some/prm/config\.json has `auto_map`"):
            fetch.models(settings)


def test_a_model_is_found_in_the_cache_only_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"is not whole in the hub's cache .*; run `repro fetch STUDY`"):
        fetch.model_path(NAME, REVISION)
    folder = cached(tmp_path, monkeypatch)
    for name, content in (
        ("config.json", "{}"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}'),
        ("one.safetensors", ""),
        ("two.safetensors", ""),
    ):
        with pytest.raises(UserError, match="run `repro fetch STUDY`"):
            fetch.model_path(NAME, REVISION)
        (folder / name).write_text(content)
    assert fetch.model_path(NAME, REVISION) == folder


def test_the_command_fetches_data_and_models(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # given back after the test
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    asked = []
    monkeypatch.setattr(fetch, "models", lambda config: asked.append(config.name))
    path = tmp_path / "study.yaml"
    path.write_text(study(tmp_path / "data").model_dump_json())
    assert CliRunner().invoke(app, ["fetch", str(path)]).exit_code == 0
    assert asked == ["tiny"] and (tmp_path / "data" / "gsm8k" / "test.jsonl").is_file()


@pytest.mark.promise("Files and code of others", "Once data and models are there, no network is touched.")
def test_after_fetching_no_network_is_touched(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = study(tmp_path / "data", prompt={"style": "boxed", "chat": True, "shots": 1})
    sources.fetch(settings)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0})))
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    folder = cached(tmp_path, monkeypatch)
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"")

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"the network is touched: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    problems.prepare(settings, tmp_path / "out")
    assert len(problems.read(tmp_path / "out" / "train.jsonl").problems) == 3
    assert AutoTokenizer.from_pretrained(fetch.model_path(NAME, REVISION), local_files_only=True)
