"""STaR with vLLM from real rows to lm-eval's own vLLM backend."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import yaml

from repro import base_model, files, problems
from repro.config import load_study
from repro.layout import Layout

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: `make vllm`"),
    pytest.mark.skipif("REPRO_DATA_DIR" not in os.environ, reason="REPRO_DATA_DIR is not set: no real rows"),
]
ROOT = Path(__file__).resolve().parent.parent


def test_star_samples_trains_and_is_evaluated_with_vllm(guesser: Path, tmp_path: Path) -> None:
    from repro.evaluation import evaluate_run
    from repro.run import train

    values = {
        "name": "vllm",
        "title": "STaR with vLLM",
        "seeds": [0],
        "budgets": ["1.5e10"],
        "methods": ["star"],
        "problems": {"source": "gsm8k", "train": 200},
        "prompt": {"style": "question_answer"},
        "base_model": {"source": "folder", "path": str(guesser)},
        "sampling": {"engine": "vllm", "max_tokens": 32, "chunk": 512},
        "evaluation": {"profile": "quick", "benchmarks": {"gsm8k": {"limit": 100}}, "max_tokens": 32},
        "hyperparameters": {
            "star": {"n_problems": 100, "temperature": 1.0, "top_p": 1.0, "first_steps": 4, "batch_size": 4}
        },
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    study = load_study(tmp_path / "study.yaml")
    layout = Layout(tmp_path, study.name)
    problems.prepare(study, layout.problems)
    facts = base_model.prepare(study, layout.problems, layout.base, lambda *_: None)
    files.write_checked(layout.base_manifest, facts)

    manifest = train(study, "star", 0, layout)
    assert manifest["status"] == "ok", manifest["reason"]
    (row,) = manifest["budgets"]
    assert row["rounds"] >= 2 and row["steps"] >= 4 + 4  # both rounds found something to train on
    assert 0.95 < row["spent"] / row["budget"] <= 1

    evaluate_run(study, "star", 0, layout)
    samples = pd.read_parquet(layout.samples("star", 0))
    greedy = samples[samples["mode"] == "greedy"]
    assert len(greedy) == 100

    checkpoint = layout.work / row["checkpoint"]
    asked = [
        sys.executable, "-m", "lm_eval", "run", "--model", "vllm",
        "--model_args", f"pretrained={checkpoint},dtype=float32,enforce_eager=True,max_model_len=2048",
        "--tasks", "gsm8k_greedy", "--include_path", str(ROOT / "benchmarks/tasks"),
        "--metadata", f"problems={layout.test('gsm8k').parent}", "--gen_kwargs", "max_gen_toks=32",
        "--output_path", str(tmp_path / "lm_eval"),
    ]  # fmt: skip
    cpu = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TORCHDYNAMO_DISABLE": "1"}
    environment = os.environ | cpu | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(asked, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = (tmp_path / "lm_eval").rglob("results_*.json")
    found = json.loads(path.read_text())["results"]["gsm8k_greedy"]
    score = next(value for key, value in found.items() if key.startswith("avg@k"))
    # Greedy texts of two engines may part at near-ties, so a few of the hundred may differ.
    assert score == pytest.approx(greedy["correct"].mean(), abs=0.04)
    assert files.sealed(layout.base)
