"""The table of benchmarks, and that CONTRIBUTING's way to add one works, line by line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from repro import benchmarks, problems, profiles
from repro.benchmarks import BENCHMARKS
from repro.config import load_study
from repro.errors import UserError
from repro.evaluation import TASKS, evaluate
from repro.layout import Layout
from repro.planning import plan
from repro.planning.doctor import diagnose
from repro.problems import sources
from repro.problems.sources import SOURCES
from repro.sampling import Sample, Sampled

ROOT = Path(__file__).resolve().parent.parent
MODEL = {
    "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
    "num_key_value_heads": 1, "intermediate_size": 8, "vocab_size": 50,
}  # fmt: skip


def blocks(heading: str) -> dict[str, str]:
    """The indented blocks of a section of CONTRIBUTING, by the file that their first line names."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (section,) = re.findall(rf"^## {heading}\n(.*?)^## ", text, re.M | re.S)
    found = re.findall(r"^ {8}# (\S+/\S+)\n((?: {8}(?!# )[^\n]*\n|\n(?= {8}(?!# )))+)", section, re.M)
    return {file: re.sub(r"^ {8}", "", block, flags=re.M) for file, block in found}


class Right:
    """A sampler that knows sums."""

    def sample(self, requests: Sequence[Any], params: Any, progress: Any = None) -> list[Sampled]:
        def answer(prompt: str) -> str:
            return f"#### {sum(map(int, re.findall('[0-9]+', prompt)))}"

        return [Sampled(5, (Sample(answer(r.prompt), 3, "stop", -1.0, 0),) * len(r.seeds)) for r in requests]


def test_adding_a_benchmark_as_contributing_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = blocks("Add a benchmark")
    rows = [{"question": f"What is {n} + {n}?", "answer": 2 * n} for n in (1, 2, 3)]
    (tmp_path / "sums").mkdir()
    (tmp_path / "sums" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "own.jsonl").write_text('{"question": "What is 7?", "answer": "7"}\n')
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(MODEL))
    study = {
        "name": "tiny", "title": "Tiny", "seeds": [0], "budgets": [10**7], "methods": ["control_base"],
        "data_dir": str(tmp_path), "problems": {"source": "jsonl", "file": str(tmp_path / "own.jsonl")},
        "base_model": {"source": "folder", "path": str(tmp_path / "model")}, "sampling": {"max_tokens": 8},
        "evaluation": {"benchmarks": {"sums": {}}},
    }  # fmt: skip
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    with pytest.raises(UserError, match=r"unknown benchmark; known: ladder, gsm8k, .*amc23"):
        load_study(file)

    # 1. A row of the table.
    (row,) = eval("{" + told["repro/benchmarks.py"] + "}", vars(benchmarks)).items()
    monkeypatch.setitem(BENCHMARKS, *row)
    # 2. A source, first without its digest, which doctor then tells.
    reader, entry = told["repro/problems/sources.py"].split("\n\n", 1)
    namespace = dict(vars(sources))
    exec(reader, namespace)
    (item,) = eval("{" + entry + "}", namespace).items()
    assert item[0] == f"{row[0]}/test"
    monkeypatch.setitem(SOURCES, *item)
    (finding,) = [found for found in diagnose(file, tmp_path) if found.check == "data" and not found.ok]
    (digest,) = re.findall(r"digest (\w+), not \)", finding.text)
    (item,) = eval("{" + entry.replace('""', f'"{digest}"') + "}", namespace).items()
    monkeypatch.setitem(SOURCES, *item)
    assert not [found for found in diagnose(file, tmp_path) if found.check == "data" and not found.ok]
    # 3. Two tasks.
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for name in ("_base.yaml", "suite.py"):
        shutil.copy(TASKS / name, tasks)
    for name in ("sums_sampled.yaml", "sums_greedy.yaml"):
        (tasks / name).write_text(told[f"benchmarks/tasks/{name}"])

    loaded = load_study(file)
    made = plan.make(loaded, Layout(tmp_path, "tiny"), file)
    assert [(b.name, b.problems, b.prompt) for b in made.benchmarks] == [("sums", 3, 12)]
    problems.prepare(loaded, tmp_path / "problems")
    how = profiles.settings(loaded, "sums")
    found = evaluate(Right(), tmp_path / "problems" / "test", "sums", how, seed=0, tasks_dir=tasks)  # type: ignore[arg-type]
    assert found.samples["correct"].all() and len(found.samples) == 3 * (how.samples + 1)
    assert set(found.samples["problem"]) == {"sums-test-001", "sums-test-002", "sums-test-003"}
    # The tasks serve lm-eval alone as the profile `paper` has it.
    sampled = yaml.safe_load(told["benchmarks/tasks/sums_sampled.yaml"])
    assert sampled["repeats"] == how.samples
    assert sampled["generation_kwargs"]["max_gen_toks"] == how.max_tokens


def test_every_benchmark_has_all_that_makes_one() -> None:
    for name, row in BENCHMARKS.items():
        assert (f"{name}/test" in SOURCES) == (row.rows is not None)
        assert (f"{name}/train" in SOURCES) == (row.train is not None)
        assert all((TASKS / f"{name}_{mode}.yaml").is_file() for mode in ("sampled", "greedy"))
