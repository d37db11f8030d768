"""The real files: every row loads, every gold verifies in every wording, grading cases come out as expected.

Needs the folder that REPRO_DATA_DIR names.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from repro import problems
from repro.benchmarks import BENCHMARKS
from repro.config import Study
from repro.problems import sources
from repro.problems.sources import EXCLUDED, SEVERAL_BOXES, SOURCES, Rows
from repro.records import Verdict
from repro.verify import Verifier, extract, normalise
from repro.verify.answers import compare, is_number

pytestmark = pytest.mark.skipif(
    "REPRO_DATA_DIR" not in os.environ,
    reason="REPRO_DATA_DIR does not name the folder of real benchmark files",
)


def there(name: str) -> bool:
    """Whether a source is to be tried: what is pinned has to be there, and of the rest what is."""
    folder = Path(os.environ.get("REPRO_DATA_DIR", ""))
    return SOURCES[name].digest is not None or (folder / f"{name}.jsonl").is_file()


NAMES = [name for name in SOURCES if there(name)]
LEFT_OUT = {"math/train": len(EXCLUDED), "gsm_plus/test": 1319}  # rows that are no problem


@pytest.fixture(scope="module")
def data() -> Path:
    return Path(os.environ["REPRO_DATA_DIR"])


@pytest.fixture(scope="module")
def rows(data: Path) -> dict[str, Rows]:
    return {name: sources.load(data, name) for name in NAMES}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


# --- rows -------------------------------------------------------------------------------------------


def test_every_row_loads(data: Path, rows: dict[str, Rows]) -> None:
    counts = {name: len(lines(data / f"{name}.jsonl")) for name in NAMES}
    found = {name: len(of_source) for name, of_source in rows.items()}
    assert found == {name: count - LEFT_OUT.get(name, 0) for name, count in counts.items()}
    table = {f"{name}/test": row.rows for name, row in BENCHMARKS.items()}
    table |= {f"{name}/train": row.train and row.train - LEFT_OUT.get(f"{name}/train", 0)
              for name, row in BENCHMARKS.items()}  # fmt: skip
    assert found == {name: table[name] for name in NAMES}
    ids = [problem.id for found in rows.values() for problem, _ in found]
    assert len(set(ids)) == len(ids)


def test_the_files_are_those_that_are_pinned(rows: dict[str, Rows]) -> None:
    pinned = {name: source.digest for name, source in SOURCES.items() if source.digest}
    assert {name: sources.digest(rows[name]) for name in pinned} == pinned


def test_the_excluded_rows_are_those_with_an_empty_box(data: Path) -> None:
    empty = [row for row in lines(data / "math/train.jsonl") if re.search(r"\\boxed\{\s*\}", row["solution"])]
    assert [row["unique_id"] for row in empty] == [
        "train/number_theory/7115.json",
        "train/number_theory/7117.json",
    ]
    assert all(row["unique_id"] in " ".join(EXCLUDED.values()) for row in empty) and len(EXCLUDED) == 2


def test_math_has_its_subjects_and_levels(rows: dict[str, Rows]) -> None:
    subjects = Counter(problem.knowledge for problem, _ in rows["math/train"])
    assert subjects["Intermediate Algebra",] == 1295 and len(subjects) == 7
    levels = Counter(problem.tier for problem, _ in rows["math/test"])
    assert levels == {"Level 1": 437, "Level 2": 894, "Level 3": 1131, "Level 4": 1214, "Level 5": 1324}
    levels = Counter(problem.tier for problem, _ in rows["math500/test"])
    assert levels == {"Level 1": 43, "Level 2": 90, "Level 3": 105, "Level 4": 128, "Level 5": 134}


def test_math500_is_a_part_of_math_with_the_same_golds(rows: dict[str, Rows]) -> None:
    golds = {problem.question: gold.answer for problem, gold in rows["math/test"]}
    for problem, gold in rows["math500/test"]:
        assert normalise(golds[problem.question]) == normalise(gold.answer), problem.id


def test_golds_of_several_boxes_hold_what_the_solution_boxes(data: Path, rows: dict[str, Rows]) -> None:
    golds = {problem.id: gold for problem, gold in rows["math/test"]}
    with Verifier() as verifier:
        for name, answer in SEVERAL_BOXES.items():
            gold = golds[name]
            assert gold.answer == answer and gold.solution is not None
            boxed = re.findall(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}", gold.solution)
            assert len(boxed) > 1
            everything = verifier.verify([rf"\boxed{{{', '.join(boxed)}}}"], [answer])
            first = verifier.verify([rf"\boxed{{{boxed[0]}}}"], [answer])
            assert [Verdict.CORRECT] in (everything, first), name


# --- golds ------------------------------------------------------------------------------------------


def wordings(answer: str) -> list[str]:
    return [
        rf"\boxed{{{answer}}}",
        rf"We set $x=1$ first. So the answer is $\boxed{{{answer}}}$.",
        rf"Thus\n\[\n\boxed{{{answer}}}\n\]",
        f"The answer is ${answer}$.",
        f"Final Answer: The final answer is ${answer}$. I hope it is correct.",
    ]


def redressed(answer: str) -> list[str]:
    """The same answer in other dress."""
    plain = normalise(answer)
    if not is_number(plain):
        wide = re.sub(r"(?<!\\left)\(", r"\\left(", re.sub(r"(?<!\\right)\)", r"\\right)", answer))
        frac = re.sub(r"\\[dt]?frac(?![a-z])", r"\\dfrac", answer)
        return [frac, frac.replace("dfrac", "tfrac"), wide, f" {answer} ", f"{answer}."]
    if not re.fullmatch(r"-?\d+", plain):
        return [f"${plain}$"]
    number = int(plain)
    zeros = f"{number:04d}" if number >= 0 else plain
    return [
        f"{number:,}",
        f"{number:,}".replace(",", "{,}"),
        f"{number}.0",
        f"{number}.00",
        zeros,
        rf"\${number}",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_gold_verifies_against_itself_in_every_wording(rows: dict[str, Rows], name: str) -> None:
    golds = [gold.answer for _, gold in rows[name]]
    texts = [wordings(gold) for gold in golds]
    found = Counter(
        compare(normalise(extract(text) or ""), normalise(gold))
        for gold, wording in zip(golds, texts, strict=True)
        for text in wording
    )
    assert found == {Verdict.CORRECT: 5 * len(golds)}


@pytest.mark.parametrize("name", NAMES)
def test_every_gold_verifies_in_other_dress(rows: dict[str, Rows], name: str) -> None:
    pairs = [
        (rf"\boxed{{{other}}}", gold.answer) for _, gold in rows[name] for other in redressed(gold.answer)
    ]
    texts, golds = zip(*pairs, strict=True)
    with Verifier() as verifier:
        verdicts = verifier.verify(texts, golds)
    missed = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict is not Verdict.CORRECT]
    assert not missed


@pytest.mark.parametrize("name", ["gsm8k/train", "gsm8k/test", "math/train", "math/test", "math500/test"])
def test_every_gold_solution_verifies(rows: dict[str, Rows], name: str) -> None:
    several = [(problem, gold) for problem, gold in rows[name] if problem.id not in SEVERAL_BOXES]
    with Verifier() as verifier:
        verdicts = verifier.verify(
            [gold.solution or "" for _, gold in several], [gold.answer for _, gold in several]
        )
    assert Counter(verdicts) == {Verdict.CORRECT: len(several)}


@pytest.mark.parametrize("name", ["gsm8k/test", "aime24/test", "amc23/test"])
def test_the_answer_to_another_problem_is_wrong(rows: dict[str, Rows], name: str) -> None:
    golds = [gold.answer for _, gold in rows[name]]
    others = [*golds[1:], golds[0]]
    same = sum(a == b for a, b in zip(golds, others, strict=True))
    with Verifier() as verifier:
        verdicts = verifier.verify([f"The answer is ${gold}$." for gold in golds], others)
    assert verdicts.count(Verdict.CORRECT) == same
    assert verdicts.count(Verdict.WRONG) == len(golds) - same


@pytest.mark.slow
def test_every_gold_can_be_read(rows: dict[str, Rows]) -> None:
    """By math-verify too, which meets it when an answer is not the same text."""
    named = {gold.answer: problem.id for found in rows.values() for problem, gold in found}
    with Verifier() as verifier:
        verifier.check_golds(list(named), list(named.values()))


# --- near-duplicates --------------------------------------------------------------------------------

ALL = tuple(name for name in BENCHMARKS if f"{name}/test" in SOURCES and SOURCES[f"{name}/test"].digest)


@pytest.mark.parametrize(
    ("source", "benchmarks", "left_out"),  # the numbers of docs/problems.md
    [
        ("gsm8k", ALL, 2),
        ("math", ("math500",), 30),
        ("math", ALL, 170),
    ],
)
def test_near_duplicates_of_benchmarks(source: str, benchmarks: tuple[str, ...], left_out: int) -> None:
    study = Study.model_validate(
        {
            "name": "tiny", "title": "Tiny", "seeds": [0], "budgets": [1], "problems": {"source": source},
            "base_model": {"source": "folder", "path": "model"}, "sampling": {"max_tokens": 8},
            "evaluation": {"benchmarks": {name: {} for name in benchmarks}},
        }
    )  # fmt: skip
    start = time.perf_counter()
    drawn = problems.draw(study)
    assert time.perf_counter() - start < 60  # 5 seconds on a quiet core, reading included
    assert len(drawn.report["near_duplicates"]) == left_out
    questions = {problem.question for problem, _ in drawn.train}
    assert not questions & {problem.question for tested in drawn.tests.values() for problem, _ in tested}


# --- grading cases ----------------------------------------------------------------------------------

NO_ANSWER = "states no final answer in a form that we read; the last formula or number in passing is none"
REVIEWED = {
    **dict.fromkeys(
        [
            "gc-0012", "gc-0013", "gc-0014", "gc-0090", "gc-0091", "gc-0092", "gc-0093", "gc-0094", "gc-0097",
            "gc-0119", "gc-0120", "gc-0121", "gc-0122", "gc-0123", "gc-0124", "gc-0131", "gc-0141", "gc-0142",
            "gc-0143",
        ],
        NO_ANSWER,
    ),
    "gc-0156": "the final answer is a sentence (`Jane started ... 3 hours ago`), not a number",
    "gc-0172": "boxes an intermediate result; a box comes before the words `final answer`",
}  # fmt: skip


def test_grading_cases(data: Path) -> None:
    """Public graders' own cases: each sound one as expected but for those reviewed above; none hangs."""
    cases = [row for row in lines(data / "grading/cases.jsonl") if row["gold_answer"] is not None]
    bare = [row["kind"] == "equiv" and extract(row["pred"]) is None for row in cases]
    texts = [rf"\boxed{{{r['pred']}}}" if b else r["pred"] for r, b in zip(cases, bare, strict=True)]
    with Verifier() as verifier:
        verdicts = verifier.verify(texts, [row["gold_answer"] for row in cases])
    missed = {
        row["id"]: (row["expected"], verdict)
        for row, verdict in zip(cases, verdicts, strict=True)
        if row["review"] == "sound" and row["expected"] != (verdict is Verdict.CORRECT)
    }
    assert set(missed) == set(REVIEWED)
    assert all(expected for expected, _ in missed.values()), "never is a wrong answer accepted"
    for row, verdict in zip(cases, verdicts, strict=True):
        if REVIEWED.get(row["id"]) == NO_ANSWER:
            assert verdict is Verdict.UNPARSABLE and extract(row["pred"]) is None
