"""Any model, any benchmark: several architectures and a user's own files, from problems to tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from repro.cli import app

pytestmark = pytest.mark.slow

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "qwen3_moe": {"moe_intermediate_size": 64, "num_experts": 4, "num_experts_per_tok": 2},
    "gemma3_text": {"sliding_window": 16, "layer_types": ["sliding_attention"]},
}
METHODS = {
    "star": {"temperature": 1.0, "top_p": 1.0, "first_steps": 4, "batch_size": 4},
    "hs_star": {"problems_per_round": 30, "batch_size": 4},
}
VLLM = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: `make vllm`"),
]
CASES = [
    *((family, "transformers") for family in FAMILIES),
    *(pytest.param(family, "vllm", marks=VLLM) for family in ("qwen3", "qwen3_moe")),
]


def written(folder: Path, name: str, count: int, seed: int) -> str:
    """A file of problems that are like no other, whose answers can be guessed."""
    random = np.random.default_rng(seed)
    lines = []
    for _ in range(count):
        words = ["".join(random.choice(list("abcdefgh"), 5)) for _ in range(8)]
        row = {"question": f"{' '.join(words)}?", "answer": str(random.integers(1, 13))}
        lines.append(json.dumps(row) + "\n")
    (folder / f"{name}.jsonl").write_text("".join(lines))
    return str(folder / f"{name}.jsonl")


def repro(*command: str) -> str:
    done = CliRunner().invoke(app, list(command), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize(("family", "engine"), CASES)
def test_a_model_and_benchmarks_of_ones_own_reach_the_tables(
    guesser_of: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, engine: str
) -> None:
    monkeypatch.chdir(tmp_path)
    study = {
        "name": "own", "title": "Own", "seeds": [0], "budgets": ["2e9"],
        "methods": ["control_base", *METHODS],
        "problems": {"source": "jsonl", "file": written(tmp_path, "pool", 60, seed=0)},
        "prompt": {"style": "question_answer"},
        "base_model": {"source": "folder", "path": str(guesser_of(family, **FAMILIES[family]))},
        "sampling": {"engine": engine, "max_tokens": 32, "chunk": 512},
        "evaluation": {
            "profile": "pocket", "max_tokens": 32,
            "benchmarks": {
                "sums": {"file": written(tmp_path, "sums", 20, seed=1), "title": "My own sums"},
                "riddles": {"file": written(tmp_path, "riddles", 5, seed=2)},
            },
        },
        "hyperparameters": METHODS,
    }  # fmt: skip
    Path("study.yaml").write_text(yaml.safe_dump(study))
    repro("problems", "study.yaml")
    repro("base-model", "study.yaml")
    for row in ("control_base", *METHODS):
        repro("train", "study.yaml", "--method", row)
        repro("evaluate", "study.yaml", "--method", row)
    repro("collect", "study.yaml")
    results = tmp_path / "results" / "own"
    repro("tables", str(results / "records"))
    assert "records: verified" in repro("verify", str(results / "records"))

    runs = pd.read_csv(results / "records" / "runs.csv", keep_default_na=False).set_index("method")
    assert set(runs["status"]) == {"ok"}, runs["reason"].to_dict()
    trained = runs.loc[list(METHODS)]
    assert (trained["steps"] > 0).all() and trained["use"].between(0.9, 1).all(), trained
    samples = pd.read_parquet(results / "records" / "samples.parquet")
    assert samples[samples["benchmark"] == "sums"]["correct"].any()  # a model that is never right says little
    board = (results / "tables" / "leaderboard.md").read_text()
    assert all(title in board for title in (*runs["title"], "My own sums", "riddles"))
