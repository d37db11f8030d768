"""Problem sets: the procedural ladder, rows of GSM8K, and the files that a study's runs read."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from math import sqrt
from pathlib import Path
from typing import Any

import pytest

from repro import problems
from repro.config import Gsm8kProblems, LadderProblems, Study
from repro.errors import UserError
from repro.problems import gsm8k, ladder
from repro.records import Gold, Problem

# --- the ladder -------------------------------------------------------------------------------------

DRAWN = {split: ladder.generate(split, 400, seed=0) for split in problems.SPLITS}

# What a reader makes of each sentence: the quantity before it -> after it.
READINGS = {
    r"gets (\d+) more": lambda n, a: n + a,
    r"loses (\d+)": lambda n, a: n - a,
    r"now has (\d+) times as many": lambda n, a: n * a,
    r"keeps one of (\d+) equal parts": lambda n, a: n / a,
    r"fills bags of (\d+) and keeps the rest": lambda n, a: n % a,
    r"buys (\d+) packs of (\d+)": lambda n, a, b: n + a * b,
    r"sells (\d+) packs of (\d+)": lambda n, a, b: n - a * b,
    r"joins a friend who has (\d+) fewer": lambda n, a: n + (n - a),
}


def read_and_solve(question: str) -> tuple[float, set[str]]:
    """The answer by reading the question, and which kinds of sentence it had."""
    first, *told, asked = question.split(" . ")
    number, thing = re.fullmatch(r"\w+ has (\d+) (\w+)", first).groups()  # type: ignore[union-attr]
    assert asked == f"how many {thing} ?"
    quantity, kinds = float(number), set()
    for sentence in told:
        ((kind, match),) = [(k, m) for k in READINGS if (m := re.fullmatch(k, sentence))]
        quantity = READINGS[kind](quantity, *map(int, match.groups()))
        kinds.add(kind)
    return quantity, kinds


def without_names(question: str) -> str:
    return " ".join(word for word in question.split() if word not in ladder.NAMES + ladder.OBJECTS)


def test_tiers_and_knowledge_points() -> None:
    for drawn in DRAWN.values():
        assert Counter(problem.tier for problem, _ in drawn) == {"1": 100, "2": 100, "3": 100, "4": 100}
    points = {point for problem, _ in DRAWN["train"] for point in problem.knowledge}
    assert len(points) == 8 and points == set(ladder.OPERATIONS)
    for problem, gold in DRAWN["train"]:
        fewest, most = ladder.TIERS[problem.tier]
        assert fewest <= (gold.solution or "").count("=") <= most


def test_the_same_seed_gives_the_same_problems_and_a_longer_list_begins_with_them() -> None:
    assert ladder.generate("test", 400, seed=0) == DRAWN["test"]
    assert ladder.generate("test", 150, seed=0) == DRAWN["test"][:150]
    other = {without_names(p.question) for p, _ in ladder.generate("test", 400, seed=1)}
    assert len(other & {without_names(p.question) for p, _ in DRAWN["test"]}) < 100


def test_every_problem_is_solved_rightly_step_by_step() -> None:
    seen = set()
    for problem, gold in (row for drawn in DRAWN.values() for row in drawn):
        answer, kinds = read_and_solve(problem.question)
        seen |= kinds
        assert gold.answer == f"{answer:.0f}" and answer == int(answer)
        assert gold.solution is not None and gold.solution.endswith(f" #### {gold.answer}")
        for step in gold.solution.split(" #### ")[0].split(" ; "):
            left, sign, right, _, result = step.split()
            steps = {
                "+": int.__add__,
                "-": int.__sub__,
                "*": int.__mul__,
                "/": int.__truediv__,
                "%": int.__mod__,
            }
            assert steps[sign](int(left), int(right)) == int(result) <= ladder.LARGEST
    assert seen == set(READINGS)


def test_splits_share_no_problem_even_under_other_names_sizes_and_seeds() -> None:
    keys = {split: {without_names(p.question) for p, _ in drawn} for split, drawn in DRAWN.items()}
    keys["train of another seed"] = {
        without_names(p.question) for p, _ in ladder.generate("train", 999, seed=7)
    }
    keys["corpus"] = {without_names(question) for question, _, _ in ladder.corpus(2000, seed=0)}
    assert all(len(keys[split]) == 400 for split in DRAWN)
    assert not keys["test"] & set.union(*(keys[name] for name in keys if name != "test"))
    assert not keys["corpus"] & keys["train"] and not keys["validation"] & keys["train"]


def test_every_word_is_in_the_vocabulary() -> None:
    words = ladder.vocabulary()
    assert len(words) == len(set(words))
    hint = Study.model_fields["prompt"].default.hinted
    for problem, gold in DRAWN["train"]:
        text = f"{hint.format(question=problem.question, answer=gold.answer)} {gold.solution}"
        assert set(text.split()) <= set(words)


def test_the_corpus_slips_at_the_stated_rates() -> None:
    tried: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    rows = list(ladder.corpus(4000, seed=0))
    for _, solution, answer in rows:
        assert solution.endswith(f" #### {answer}")
        for left, sign, right, result in re.findall(r"(\d+) ([-+*/%]) (\d+) = (\d+)", solution):
            value = ladder.SIGNS[sign](int(left), int(right))
            if 0 <= value <= ladder.LARGEST:  # after a slip it may not be
                tried[sign] += 1
                wrong[sign] += value != int(result)
    for sign, rate in ladder.SLIP_RATES.items():
        assert wrong[sign] / tried[sign] == pytest.approx(rate, abs=4 * sqrt(rate * (1 - rate) / tried[sign]))
    right = sum(float(answer) == read_and_solve(question)[0] for question, _, answer in rows)
    assert 0.3 < right / len(rows) < 0.8  # imperfect, yet worth learning from
    assert list(ladder.corpus(50, seed=0)) == rows[:50] != list(ladder.corpus(50, seed=1))


def test_a_tier_that_runs_out_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "_draw", lambda tier, random: ladder.Chain(5, (("gain", 1, 0),)))
    split = ladder.Chain(5, (("gain", 1, 0),)).split()
    with pytest.raises(UserError, match=f"hardly more than 1 distinct problems in tier 1 of split {split}"):
        list(zip(range(2), ladder.chains(split, "1", None), strict=False))  # type: ignore[arg-type]


# --- GSM8K ------------------------------------------------------------------------------------------

ROW = {"question": "How many are 2 and 3?", "answer": "2 + 3 = <<2+3=5>>5.\n#### 5"}


def folder_of(tmp_path: Path, train: list[Any], test: list[Any]) -> Path:
    for name, rows in (("train", train), ("test", test)):
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))
    return tmp_path


def numbered(number: int, answer: str = "1") -> dict[str, str]:
    return {"question": f"What is {number}?", "answer": f"Count.\n#### {answer}"}


def gsm8k_spec(folder: Path, train: int = 1, validation: int = 0, test: int = 1) -> Gsm8kProblems:
    return Gsm8kProblems(source="gsm8k", folder=folder, train=train, validation=validation, test=test)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ('{"question": ', "not JSON"),
        ({"answer": "#### 1"}, "field `question` is missing or empty"),
        ({"question": "a?", "answer": 5}, "field `answer` is missing or empty"),
        ({"question": " ", "answer": "#### 1"}, "field `question` is missing or empty"),
        ([1], "field `question` is missing or empty"),
        ({"question": "a?", "answer": "five"}, "field `answer` has no final `#### number`"),
        ({"question": "a?", "answer": "five ####"}, "field `answer` has no final `#### number`"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, row: Any, complaint: str) -> None:
    folder = folder_of(tmp_path, [ROW, row], [ROW])
    with pytest.raises(UserError, match=rf"train\.jsonl, line 2: {re.escape(complaint)}"):
        gsm8k.load(gsm8k_spec(folder))


def test_missing_and_short_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.jsonl does not exist; put"):
        gsm8k.load(gsm8k_spec(tmp_path))
    folder_of(tmp_path, [ROW], [ROW])
    with pytest.raises(UserError, match=r"train\.jsonl has 1 rows, the study asks for 3"):
        gsm8k.load(gsm8k_spec(tmp_path, train=2, validation=1))


def test_rows_are_drawn_by_seed_and_held_out_rows_are_apart(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path, [numbered(i, "1,234") for i in range(50)], [numbered(i) for i in range(50, 60)]
    )
    spec = gsm8k_spec(folder, train=20, validation=10, test=5)
    splits = gsm8k.load(spec)
    assert [len(splits[name]) for name in problems.SPLITS] == [20, 10, 5]
    assert len({problem.id for drawn in splits.values() for problem, _ in drawn}) == 35
    assert gsm8k.load(spec) == splits != gsm8k.load(spec.model_copy(update={"seed": 1}))
    assert splits["train"][0][1] == Gold("1234", "Count.\n#### 1,234")


def test_annotations_of_the_source_are_not_taught(tmp_path: Path) -> None:
    (problem, gold), *_ = gsm8k.load(gsm8k_spec(folder_of(tmp_path, [ROW], [ROW])))["train"]
    assert problem.question == ROW["question"] and gold.solution == "2 + 3 = 5.\n#### 5"


def test_real_rows() -> None:
    if "REPRO_DATA_DIR" not in os.environ:
        pytest.skip("REPRO_DATA_DIR does not name the folder of real benchmark files")
    spec = Gsm8kProblems(source="gsm8k", train=7000, validation=400, test=1319)
    splits = problems.rows(spec)
    assert [len(splits[name]) for name in problems.SPLITS] == [7000, 400, 1319]
    for _, gold in (row for drawn in splits.values() for row in drawn):
        assert re.fullmatch(r"-?[\d.]+", gold.answer) and gold.solution and "<<" not in gold.solution


def test_without_a_folder_the_error_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPRO_DATA_DIR", raising=False)
    with pytest.raises(UserError, match=r"problems\.folder in the study, or REPRO_DATA_DIR"):
        problems.rows(Gsm8kProblems(source="gsm8k", train=1, test=1))


# --- the files of a study ---------------------------------------------------------------------------


def study(spec: LadderProblems | Gsm8kProblems) -> Study:
    return Study.model_validate(
        {
            "name": "tiny", "title": "Tiny", "seeds": [0], "budgets": [1], "problems": spec.model_dump(),
            "base_model": {"source": "folder", "path": "model"}, "sampling": {"max_tokens": 8},
            "evaluation": {"tasks": ["ladder_greedy"]}, "prompt": {"template": "Q: {question}"},
        }
    )  # fmt: skip


def test_what_is_prepared_is_read_back(tmp_path: Path) -> None:
    rare = {"question": "Two\u2028lines\x85of {braces}?", "answer": "#### 7"}
    problems.prepare(study(gsm8k_spec(folder_of(tmp_path, [rare], [ROW]))), tmp_path / "out")
    read = problems.read(tmp_path / "out" / "train.jsonl")
    (problem,) = read.problems
    assert problem == Problem("gsm8k-train-00001", rare["question"], "all")
    assert read.prompts[problem.id] == f"Q: {rare['question']}"
    assert read.hinted[problem.id] == f"{rare['question']} ( 7 )"
    assert read.golds[problem.id].answer == "7"
    assert problems.read(tmp_path / "out" / "validation.jsonl").problems == []


def test_a_ladder_study_has_its_sizes(tmp_path: Path) -> None:
    spec = LadderProblems(source="ladder", train=40, validation=8, test=20)
    problems.prepare(study(spec), tmp_path)
    read = {split: problems.read(tmp_path / f"{split}.jsonl") for split in problems.SPLITS}
    assert {split: len(each.problems) for split, each in read.items()} == {
        "train": 40,
        "validation": 8,
        "test": 20,
    }
    assert len({each.digest for each in read.values()}) == 3


def test_a_problem_in_two_splits_is_refused(tmp_path: Path) -> None:
    same = {**ROW, "question": "how  many are 2 and 3? "}
    with pytest.raises(
        UserError, match="gsm8k-test-00001 of split test is also gsm8k-train-00001 of split train"
    ):
        problems.prepare(study(gsm8k_spec(folder_of(tmp_path, [ROW], [same]))), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_gold_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    unreadable = {"question": "a?", "answer": "#### \\frac{"}
    with pytest.raises(UserError, match="gsm8k-train-00001 cannot be read by the verifier"):
        problems.prepare(study(gsm8k_spec(folder_of(tmp_path, [unreadable], [ROW]))), tmp_path / "out")


@pytest.mark.parametrize(
    ("line", "complaint"), [("{", "not JSON"), ('{"id": "a"}', "field `question` is missing")]
)
def test_a_damaged_problem_file_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    (tmp_path / "train.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=rf"train\.jsonl, line 1: {complaint}"):
        problems.read(tmp_path / "train.jsonl")
