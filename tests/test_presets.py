"""The papers' protocols as presets: each fits a study in one line, and says where its values are from."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from repro.config import PRESETS, load_study
from repro.discovery import BASELINES, load_method, load_methods

NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))
STUDY = {
    "name": "mine",
    "title": "Mine",
    "seeds": [0],
    "budgets": ["1e15"],
    "problems": {"source": "gsm8k"},
    "base_model": {"source": "folder", "path": "somewhere"},
    "sampling": {"max_tokens": 300},
    "evaluation": {"benchmarks": {"gsm8k": {}}},
}


def study(tmp_path: Path, **keys: object) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **keys}))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_fits_a_study_and_all_its_methods(name: str, tmp_path: Path) -> None:
    loaded = load_study(study(tmp_path, preset=name))
    changed = {row: method for row, method in load_methods(loaded).items() if row in loaded.hyperparameters}
    for row, method in changed.items():
        plain = load_method(load_study(study(tmp_path)), row)
        assert method.model_dump() != plain.model_dump(), f"{name} sets only defaults of {row}"
    text = (PRESETS / f"{name}.yaml").read_text()
    assert text.startswith("# ") and ("arXiv:" in text or name.endswith("-code"))


def test_papers_with_a_protocol_have_a_preset() -> None:
    of_methods = {name.removesuffix("-paper") for name in NAMES if name.endswith("-paper")}
    assert of_methods <= {path.stem for path in BASELINES.glob("[!_]*.py")}
    assert {"star", "rft", "adastar", "hs_star", "sai_dpo", "b_star"} <= of_methods
    assert {name.removesuffix("-code") for name in NAMES if name.endswith("-code")} <= of_methods


def test_code_presets_go_on_top_of_the_papers(tmp_path: Path) -> None:
    both = load_study(study(tmp_path, preset=["b_star-paper", "b_star-code"]))
    method = load_method(both, "b_star")
    values = method.model_dump()
    assert (values["n_star"], values["balance_over"], values["rounds"]) == (8, "kept", 9)
    assert method.reads_gold and both.problems.validation == 500


def test_the_studys_own_keys_win(tmp_path: Path) -> None:
    own = load_study(study(tmp_path, preset="adastar-paper", hyperparameters={"adastar": {"rounds": 2}}))
    assert load_method(own, "adastar").rounds == 2
    assert own.sampling.max_tokens == 300 and own.training.max_length == 650 and own.prompt.shots == 8
