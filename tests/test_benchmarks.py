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

from repro import benchmarks, identity, problems, profiles
from repro.benchmarks import BENCHMARKS
from repro.config import Evaluation, load_study
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
    with pytest.raises(UserError, match=r"sums is unknown; name its file .*known: ladder, gsm8k, .*amc23"):
        load_study(file)

    # 1. A row of the table.
    (row,) = eval("{" + told["repro/benchmarks.py"] + "}", vars(benchmarks)).items()
    monkeypatch.setitem(BENCHMARKS, *row)
    # 2. A source, first not pinned: doctor tells the digest.
    reader, entry = told["repro/problems/sources.py"].split("\n\n", 1)
    namespace = dict(vars(sources))
    exec(reader, namespace)
    (item,) = eval("{" + entry + "}", namespace).items()
    assert item[0] == f"{row[0]}/test"
    monkeypatch.setitem(SOURCES, *item)
    (told_digest, _) = [found for found in diagnose(file, tmp_path) if found.check == "data"]
    (digest,) = re.findall(r"pins no content of sums/test; the digest (\w+) of", told_digest.text)
    (item,) = eval("{" + entry.replace("None", f'"{digest}"') + "}", namespace).items()
    monkeypatch.setitem(SOURCES, *item)
    pinned, _ = [found for found in diagnose(file, tmp_path) if found.check == "data"]
    assert pinned.ok and pinned.text.endswith("sums/test.jsonl: 3 problems")
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


# --- a benchmark that a study brings ----------------------------------------------------------------------


def asked(number: int) -> str:
    """A question that is like no other."""
    return f"What is {number} + {number}?" + "".join(f" {word * number}" for word in "abcdefghi")


def own_study(folder: Path, lines: Sequence[Any], own: Any = None, **changes: Any) -> Path:
    """A study file whose benchmark ``mine`` has these lines; training asks for 2 + 2 to 4 + 4."""
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / "mine.jsonl").write_text(text)
    rows = [{"question": asked(n), "answer": str(2 * n)} for n in (2, 3, 4)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_text(json.dumps(MODEL))
    mine = {"file": str(folder / "mine.jsonl"), **(own or {})}
    study = {
        "name": "tiny", "title": "Tiny", "seeds": [0], "budgets": [10**7], "methods": ["control_base"],
        "problems": {"source": "jsonl", "file": str(folder / "train.jsonl")},
        "base_model": {"source": "folder", "path": str(folder / "model")}, "sampling": {"max_tokens": 8},
        "evaluation": {"benchmarks": {"mine": mine}}, **changes,
    }  # fmt: skip
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    return file


MINE = [
    {"question": asked(1), "answer": "2"},
    {
        "question": asked(2),
        "answer": "4",
        "id": "two",
        "tier": "hard",
        "knowledge": ["sums"],
        "solution": "4",
    },
]


def test_a_file_of_a_study_is_a_benchmark(tmp_path: Path) -> None:
    settings = {"title": "My sums", "samples": 3, "max_tokens": 16, "tiers_alike": True}
    file = own_study(tmp_path, MINE, settings)
    study, layout = load_study(file), Layout(tmp_path, "tiny")
    row, how = study.evaluation.row("mine"), profiles.settings(study, "mine")
    assert (row.title, row.tiers_alike, how.samples, how.max_tokens) == ("My sums", True, 3, 16)

    (priced,) = plan.make(study, layout, file).benchmarks
    tokens = sum(len(row["question"]) for row in MINE) / 2 / plan.CHARACTERS
    assert (priced.name, priced.problems, priced.prompt) == ("mine", 2, round(tokens))
    data = [found for found in diagnose(file, tmp_path) if found.check == "data"]
    assert data[0].ok and data[0].text == f"{tmp_path / 'mine.jsonl'}: 2 problems of the study's own mine"

    problems.prepare(study, layout.problems)
    report = json.loads((layout.problems / problems.REPORT).read_text())
    rows = sources.load_jsonl(tmp_path / "mine.jsonl")
    digest = sources.digest(rows)
    assert report["sources"]["mine/test"] == {"problems": 2, "digest": digest, "pinned": False}
    # What it asks is not trained on.
    assert report["near_duplicates"]["train-00001"]["problem"] == "two"
    assert {one.id for one in problems.read(layout.problems / "train.jsonl").problems} == {
        "train-00002", "train-00003"
    }  # fmt: skip

    found = evaluate(Right(), layout.test("mine").parent, "mine", how, seed=0)  # type: ignore[arg-type]
    assert found.samples["correct"].all() and set(found.samples["benchmark"]) == {"mine"}
    assert found.samples.groupby("mode").size().to_dict() == {"sampled": 6, "greedy": 2}
    assert set(found.samples["tier"]) == {"all", "hard"}
    assert found.task_versions == {"own_sampled": 1.0, "own_greedy": 1.0}


def test_the_content_of_a_study_s_benchmark_is_part_of_what_an_evaluation_is(tmp_path: Path) -> None:
    names = []
    for answer in ("2", "2", "3"):
        study = load_study(own_study(tmp_path, [{**MINE[0], "answer": answer}]))
        layout = Layout(tmp_path, "tiny")
        problems.prepare(study, layout.problems)
        names.append(identity.part_names(study, layout, "weights", 0)["mine"])
    assert names[0] == names[1] != names[2] and names[0].startswith("mine-")


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([MINE[0], "{"], r"mine\.jsonl, line 2: not JSON"),
        ([MINE[0], {"question": "a?", "answer": 5}], r"mine\.jsonl, line 2: field `answer` is missing"),
        ([{**MINE[0], "level": "1"}], r"mine\.jsonl, line 1: field `level` is unknown \(known"),
        ([MINE[1], MINE[1]], r"mine\.jsonl: two rows have the id two; remove one of them"),
        ([], r"mine\.jsonl has no problems; a benchmark needs one or more"),
        ([{**MINE[1], "answer": r"\frac{"}], r"of two in .*mine\.jsonl cannot be read .* its line"),
    ],
)
def test_a_malformed_benchmark_of_a_study_is_named(tmp_path: Path, lines: list[Any], complaint: str) -> None:
    study = load_study(own_study(tmp_path, lines))
    with pytest.raises(UserError, match=complaint):
        problems.prepare(study, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_benchmark_of_a_study_is_named(tmp_path: Path) -> None:
    file = own_study(tmp_path, MINE)
    (tmp_path / "mine.jsonl").unlink()
    complaint = r"mine\.jsonl does not exist; name .* problems in evaluation\.benchmarks\.mine\.file"
    with pytest.raises(UserError, match=complaint):
        problems.prepare(load_study(file), tmp_path / "out")
    (finding,) = [found for found in diagnose(file, tmp_path) if found.check == "data"]
    assert not finding.ok and re.search(complaint, finding.text)
    (priced,) = plan.make(load_study(file), Layout(tmp_path, "tiny"), file).benchmarks
    assert priced.problems == plan.OWN_ROWS


def test_a_study_of_the_ladder_may_bring_a_benchmark(tmp_path: Path) -> None:
    spec = {"source": "ladder", "train": 8, "test": 4}
    shipped = {"ladder": {}, "mine": {"file": str(tmp_path / "mine.jsonl")}}
    study = load_study(own_study(tmp_path, MINE, problems=spec, evaluation={"benchmarks": shipped}))
    drawn = problems.draw(study)
    assert {name: len(rows) for name, rows in drawn.tests.items()} == {"ladder": 4, "mine": 2}
    assert set(drawn.report["sources"]) == {"mine/test"}
    asks_it = {"question": f"{drawn.train[3][0].question} ", "answer": "1"}
    own_study(tmp_path, [*MINE, asks_it], problems=spec, evaluation={"benchmarks": shipped})
    with pytest.raises(UserError, match=r"mine-00003 of the benchmark mine is the training problem ladder"):
        problems.draw(study)


def test_a_benchmark_is_told_by_its_own_task_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though others' names begin with its name."""
    tasks = shutil.copytree(TASKS, tmp_path / "tasks")
    monkeypatch.setattr(identity, "TASKS", tasks)
    study, layout = load_study(own_study(tmp_path, MINE)), Layout(tmp_path, "tiny")
    both = {"gsm_symbolic": {}, "gsm_symbolic_p1": {}}
    study = study.model_copy(update={"evaluation": Evaluation.model_validate({"benchmarks": both})})
    layout.test("any").parent.mkdir(parents=True)
    for name in both:
        layout.test(name).write_text("{}")
    before = identity.part_names(study, layout, "weights", 0)
    with open(tasks / "gsm_symbolic_p1_greedy.yaml", "a") as file:
        file.write("# changed\n")
    after = identity.part_names(study, layout, "weights", 0)
    assert [before[name] == after[name] for name in both] == [True, False]
