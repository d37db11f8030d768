"""Studies: what ships loads, and each kind of mistake gives one sentence naming file, key and mend."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from repro.config import load_study
from repro.discovery import BASELINES, load_method, method_ids
from repro.errors import UserError

STUDIES = sorted((Path(__file__).resolve().parent.parent / "benchmarks" / "studies").glob("*.yaml"))
GOOD: dict[str, Any] = {
    "name": "tiny",
    "title": "Tiny",
    "seeds": [0, 1],
    "budgets": ["1e9", 2.0e9],
    "problems": {"source": "ladder", "train": 40, "test": 20},
    "base_model": {
        "source": "warm_start", "config": {"hidden_size": 8}, "hinted": 0.1, "steps": 2, "batch_size": 4,
        "optimizer": {"learning_rate": 0.001},
    },
    "sampling": {"max_tokens": 16},
    "evaluation": {"benchmarks": {"ladder": {}}},
}  # fmt: skip
GSM8K = {"source": "gsm8k", "train": 1}
REAL = {
    "problems": GSM8K,
    "base_model": {"source": "random", "config": {"model_type": "qwen2"}},
    "evaluation": {"benchmarks": {"gsm8k": {}}},
}
MISSING = object()


def load(tmp_path: Path, **changes: Any) -> Any:
    """The good study with changes at dotted keys (``__`` for the dot)."""
    values = deepcopy(GOOD)
    for key, value in changes.items():
        *sections, last = key.split("__")
        place = values
        for section in sections:
            place = place[section]
        if value is MISSING:
            del place[last]
        else:
            place[last] = value
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    return load_study(tmp_path / "study.yaml")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_that_ships_loads_with_its_methods(path: Path) -> None:
    study = load_study(path)
    assert study.name == path.stem
    names = method_ids(study)
    assert names
    for name in names:
        load_method(study, name)


def test_defaults_and_numbers_as_people_write_them(tmp_path: Path) -> None:
    study = load(tmp_path)
    assert study.budgets == [10**9, 2 * 10**9] and study.methods == "all"
    assert study.prompt.style == "plain" and study.process_rewards is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sampling__max_token": 3}, "unknown key `sampling.max_token`; known here: engine, batch_size"),
        ({"problems__size": 3}, "unknown key `problems.size`; known here: source, world, train"),
        ({"base_model__optimizer__lr": 1}, "unknown key `base_model.optimizer.lr`; known here: learn"),
        ({"colour": "red"}, "unknown key `colour`; known here: name, title, seeds"),
        ({"seeds": MISSING}, "key `seeds` is missing; add it"),
        ({"sampling__max_tokens": MISSING}, "key `sampling.max_tokens` is missing; add it"),
        ({"sampling__max_tokens": 0}, "`sampling.max_tokens`: Input should be greater than 0 (it is 0)"),
        ({"sampling__dtype": "half"}, "`sampling.dtype`: Input should be 'float32' or 'bfloat16' (it"),
        ({"budgets": [2, 1]}, "budgets must ascend without repeats, not 2, 1"),
        ({"budgets": [1, 1]}, "budgets must ascend without repeats, not 1, 1"),
        ({"budgets": ["many"]}, "`budgets.0`: Input should be a valid integer"),
        ({"budgets": []}, "`budgets`: List should have at least 1 item"),
        ({"seeds": [3, 3]}, "`seeds`: 3 is there twice; remove one of them"),
        ({"name": "My Study"}, "`name`: String should match pattern"),
        ({"problems__source": "maths"}, "`problems`: Input tag 'maths'"),
        ({"data_dir": 5}, "`data_dir`: Input is not a valid path"),
        ({**REAL, "problems": {**GSM8K, "train": 0}}, "`problems.train`: Input should be greater than 0"),
        ({**REAL, "problems": {**GSM8K, "train": "most"}}, "`problems.train`: "),
        ({**REAL, "problems": {"source": "jsonl"}}, "key `problems.file` is missing; add it"),
        ({"evaluation": {"benchmarks": {"gsm8k": {}}}}, "the benchmark ladder goes with problems"),
        ({"evaluation": {"benchmarks": {"olympiad": {}}}}, "`evaluation.benchmarks`: olympiad is unknown"),
        ({"evaluation__benchmarks": {"math": {"file": "a.jsonl"}}}, "`evaluation.benchmarks`: math is a "),
        ({"evaluation__benchmarks": {"My own": {"file": "a"}}}, "`evaluation.benchmarks.My own`: String sh"),
        ({"evaluation__benchmarks__ladder": {"title": "L"}}, "`evaluation.benchmarks.ladder`: title is of a"),
        ({"evaluation__benchmarks__ladder": {"max_tokens": 0}}, "`evaluation.benchmarks.ladder.max_tokens`"),
        ({"prompt": {"thinking": True}}, "`prompt`: thinking is a switch of chat templates; set chat: true"),
        ({"evaluation__benchmarks__ladder": {"k": 4}}, "unknown key `evaluation.benchmarks.ladder.k`; known"),
        ({"prompt": {"chat": True}}, "prompt.chat needs a base model with a chat template"),
        ({"prompt": {"system": "Be brief."}}, "`prompt`: system is a message of a chat"),
        ({"process_rewards": {"kind": "causal"}}, "`process_rewards"),
        ({"gpus": 2, "sampling": {"max_tokens": 16, "data_parallel": 4}}, "sampling.tensor_parallel x"),
        ({"problems": GSM8K}, "base_model.source warm_start needs problems.source ladder"),
        ({**REAL, "process_rewards": "ladder"}, "process_rewards ladder can only score"),
        ({"prompt": {"template": "Solve it."}}, "`prompt`: template must contain {question}"),
        ({"prompt": {"hinted": "{question}"}}, "`prompt`: hinted must contain {question} and {answer}"),
        ({"base_model": {"source": "folder"}}, "key `base_model.path` is missing; add it"),
        ({"base_model__optimizer__learning_rate": -1}, "`base_model.optimizer.learning_rate`: Input should"),
    ],
)  # fmt: skip
def test_mistakes_are_said_in_one_sentence(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, **changes)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'study.yaml'}: {sentence}")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name: tiny\nseeds: [0", "study.yaml, line 2: not YAML"),
        ("- a\n- b\n", "study.yaml: a study is a mapping of keys"),
        ("", "study.yaml: a study is a mapping of keys"),
    ],
)
def test_files_that_are_no_study(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        load_study(tmp_path / "study.yaml")


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_a_path_that_is_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"cannot be read .* name a study"):
        load_study(tmp_path / name)


def test_mistakes_about_methods(tmp_path: Path) -> None:
    name = min(path.stem for path in BASELINES.glob("[!_]*.py"))
    with pytest.raises(
        UserError, match=r"study tiny: `methods` names `nobody`, but baselines/nobody\.py does not"
    ):
        method_ids(load(tmp_path, methods=[name, "nobody"]))
    with pytest.raises(UserError, match="study tiny: `hyperparameters` names `nobody`"):
        method_ids(load(tmp_path, hyperparameters={"nobody": {}}))
    with pytest.raises(
        UserError, match=rf"study tiny, hyperparameters\.{name}: unknown key `colour`; known here: "
    ):
        load_method(load(tmp_path, hyperparameters={name: {"colour": 1}}), name)
    with pytest.raises(UserError, match=rf"hyperparameters\.{name}: `batch_size`: .* \(it is 'big'\)"):
        load_method(load(tmp_path, hyperparameters={name: {"batch_size": "big"}}), name)


# --- presets ----------------------------------------------------------------------------------------------


def preset(folder: Path, name: str, **values: Any) -> str:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return str(folder / f"{name}.yaml")


def test_a_study_stands_on_its_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.config.PRESETS", tmp_path / "presets")
    sampling, training = {"max_tokens": 5, "chunk": 7}, {"max_length": 9, "lora": {"rank": 3, "alpha": 4}}
    preset(tmp_path / "presets", "small", sampling=sampling, training=training, seeds=[7, 8, 9])
    other = preset(tmp_path, "other", training={"lora": {"alpha": 5}}, title="Of the preset")
    study = load(tmp_path, preset=["small", other])
    assert (study.sampling.max_tokens, study.sampling.chunk) == (16, 7)  # the study's, and the preset's
    assert study.training.max_length == 9 and study.training.lora
    assert (study.training.lora.rank, study.training.lora.alpha) == (3, 5)  # the later preset's
    assert study.seeds == [0, 1] and study.title == "Tiny"  # lists and values are replaced whole
    assert load(tmp_path, preset="small", seeds=MISSING).seeds == [7, 8, 9]
    assert load(tmp_path, preset="small", sampling=MISSING).sampling.max_tokens == 5
    plain, on_top = load(tmp_path), load(tmp_path, preset=preset(tmp_path, "none"))
    assert plain == on_top


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"sampling": {"colour": 1}}, "PRESET: unknown key `sampling.colour`; known here: engine"),
        ({"sampling": {"chunk": 0}}, "PRESET: `sampling.chunk`: Input should be greater than 0 (it is 0)"),
        ({"preset": "more"}, "PRESET: `preset` names `more`, but "),
        ({"gpus": 2, "seeds": [-1]}, "STUDY: `budgets`: Input should be a valid list"),
    ],
)
def test_a_mistake_in_a_preset_names_it(tmp_path: Path, values: dict[str, Any], sentence: str) -> None:
    path = preset(tmp_path, "wrong", **values)
    with pytest.raises(UserError) as caught:
        load(tmp_path, preset=path, **({"budgets": 5} if "gpus" in values else {}))
    wanted = sentence.replace("PRESET", path).replace("STUDY", str(tmp_path / "study.yaml"))
    assert str(caught.value).startswith(wanted)


def test_presets_stand_on_presets_but_not_on_themselves(tmp_path: Path) -> None:
    lowest = preset(tmp_path, "lowest", sampling={"chunk": 3, "batch_size": 4}, seeds=[5])
    study = load(tmp_path, preset=preset(tmp_path, "middle", preset=lowest, sampling={"chunk": 7}))
    assert (study.sampling.chunk, study.sampling.batch_size, study.seeds) == (7, 4, [0, 1])
    circle = preset(tmp_path, "circle", preset=str(tmp_path / "middle.yaml"))
    preset(tmp_path, "lowest", preset=circle)
    with pytest.raises(UserError, match=r"lowest.yaml: `preset` leads back to .*circle.yaml"):
        load(tmp_path, preset=circle)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("none", "`preset` names `none`, but .*presets/none\\.yaml does not exist; there are: "),
        (["./none.yaml"], "`preset` names `\\./none\\.yaml`, but none\\.yaml does not exist"),
        (5, "`preset` names presets, one or a list of them, and not 5"),
        ([{}], "`preset` names presets, one or a list of them, and not {}"),
    ],
)
def test_presets_that_cannot_be(tmp_path: Path, value: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        load(tmp_path, preset=value)
    assert str(caught.value).startswith(str(tmp_path / "study.yaml"))


def test_a_mistake_in_two_presets_is_that_of_the_later(tmp_path: Path) -> None:
    both = [preset(tmp_path, name, colour=name) for name in ("first", "second")]
    with pytest.raises(UserError, match=r"second\.yaml: unknown key `colour`"):
        load(tmp_path, preset=both)


def test_a_preset_is_a_mapping(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(UserError, match=r"list\.yaml: a study is a mapping of keys"):
        load(tmp_path, preset=str(tmp_path / "list.yaml"))
