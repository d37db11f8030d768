"""Problem sets: the procedural ladder, real problems, and the files that a study's runs read."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro import problems
from repro.config import Study
from repro.errors import UserError
from repro.problems import ladder, sources
from repro.problems.overlap import near_duplicates, shingles
from repro.problems.prompts import fill, templates
from repro.records import Gold, Problem, Verdict
from repro.verify import Verifier

# --- the ladder -------------------------------------------------------------------------------------

WORLDS = {
    world: {split: ladder.generate(split, 400, 0, world) for split in ("train", "validation", "test")}
    for world in (ladder.THINGS, ladder.MILES)
}  # fmt: skip
DRAWN = WORLDS[ladder.THINGS]
both_worlds = pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.stream)

# What a reader makes of each sentence: the quantity before it -> after it.
READINGS = {
    "ladder": {
        r"gets (\d+) more": lambda n, a: n + a,
        r"loses (\d+)": lambda n, a: n - a,
        r"now has (\d+) times as many": lambda n, a: n * a,
        r"keeps one of (\d+) equal parts": lambda n, a: n / a,
        r"fills bags of (\d+) and keeps the rest": lambda n, a: n % a,
        r"buys (\d+) packs of (\d+)": lambda n, a, b: n + a * b,
        r"sells (\d+) packs of (\d+)": lambda n, a, b: n - a * b,
        r"joins a friend who has (\d+) fewer": lambda n, a: n + (n - a),
    },
    "miles": {
        r"walks (\d+) on": lambda n, a: n + a,
        r"walks (\d+) back": lambda n, a: n - a,
        r"rides (\d+) times as far": lambda n, a: n * a,
        r"returns to one part in (\d+)": lambda n, a: n / a,
        r"crosses to mile (\d+) less its own": lambda n, a: a - n,
        r"rides (\d+) stages of (\d+)": lambda n, a, b: n + a * b,
        r"goes (\d+) times as far less (\d+)": lambda n, a, b: n * a - b,
        r"goes half of the way to mile (\d+)": lambda n, a: (n + a) / 2,
    },
}
ENDS = {
    "ladder": (r"\w+ has (\d+) (\w+)", "how many {} ?"),
    "miles": (r"\w+ is at mile (\d+) of the (\w+)", "which mile of the {} ?"),
}


def read_and_solve(question: str, world: ladder.World = ladder.THINGS) -> tuple[float, set[str]]:
    """The answer by reading the question, and which kinds of sentence it had."""
    first, *told, asked = question.split(" . ")
    opening, closing = ENDS[world.stream]
    number, thing = re.fullmatch(opening, first).groups()  # type: ignore[union-attr]
    assert asked == closing.format(thing)
    quantity, kinds = float(number), set()
    readings = READINGS[world.stream]
    for sentence in told:
        ((kind, match),) = [(k, m) for k in readings if (m := re.fullmatch(k, sentence))]
        quantity = readings[kind](quantity, *map(int, match.groups()))
        kinds.add(kind)
    return quantity, kinds


def without_names(question: str, world: ladder.World = ladder.THINGS) -> str:
    return " ".join(word for word in question.split() if word not in world.names + world.things)


@both_worlds
def test_tiers_and_knowledge_points(world: ladder.World) -> None:
    for drawn in WORLDS[world].values():
        assert Counter(problem.tier for problem, _ in drawn) == {"1": 100, "2": 100, "3": 100, "4": 100}
    train = WORLDS[world]["train"]
    points = {point for problem, _ in train for point in problem.knowledge}
    assert len(points) == 8 and points == set(world.operations)
    for problem, gold in train:
        fewest, most = ladder.TIERS[problem.tier]
        assert fewest <= (gold.solution or "").count("=") <= most


@both_worlds
def test_the_same_seed_gives_the_same_problems_and_a_longer_list_begins_with_them(
    world: ladder.World,
) -> None:
    drawn = WORLDS[world]["test"]
    assert ladder.generate("test", 400, 0, world) == drawn
    assert ladder.generate("test", 150, 0, world) == drawn[:150]
    other = {without_names(p.question, world) for p, _ in ladder.generate("test", 400, 1, world)}
    assert len(other & {without_names(p.question, world) for p, _ in drawn}) < 100


@both_worlds
def test_every_problem_is_solved_rightly_step_by_step(world: ladder.World) -> None:
    seen = set()
    for problem, gold in (row for drawn in WORLDS[world].values() for row in drawn):
        answer, kinds = read_and_solve(problem.question, world)
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
    assert seen == set(READINGS[world.stream])


@both_worlds
def test_splits_share_no_problem_even_under_other_names_sizes_and_seeds(world: ladder.World) -> None:
    drawn = WORLDS[world]
    keys = {split: {without_names(p.question, world) for p, _ in rows} for split, rows in drawn.items()}
    keys["train of another seed"] = {
        without_names(p.question, world) for p, _ in ladder.generate("train", 999, 7, world)
    }
    keys["corpus"] = {without_names(question, world) for question, _, _ in ladder.corpus(2000, 0, world)}
    assert all(len(keys[split]) == 400 for split in drawn)
    assert not keys["test"] & set.union(*(keys[name] for name in keys if name != "test"))
    assert not keys["corpus"] & keys["train"] and not keys["validation"] & keys["train"]


@both_worlds
def test_every_word_is_in_the_vocabulary(world: ladder.World) -> None:
    words = ladder.vocabulary(world)
    assert len(words) == len(set(words))
    _, hint = templates(Study.model_fields["prompt"].default)
    for problem, gold in WORLDS[world]["train"]:
        text = f"{fill(hint, problem.question, gold.answer)} {gold.solution}"
        assert set(text.split()) <= set(words)


@both_worlds
def test_the_corpus_slips_at_the_stated_rates(world: ladder.World) -> None:
    tried: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    rows = list(ladder.corpus(4000, 0, world))
    for _, solution, answer in rows:
        assert solution.endswith(f" #### {answer}")
        for left, sign, right, result in re.findall(r"(\d+) ([-+*/%]) (\d+) = (\d+)", solution):
            value = ladder.SIGNS[sign](int(left), int(right))
            if 0 <= value <= ladder.LARGEST:  # after a slip it may not be
                tried[sign] += 1
                wrong[sign] += value != int(result)
    assert tried.keys() == world.slip_rates.keys()
    for sign, rate in world.slip_rates.items():
        assert wrong[sign] / tried[sign] == pytest.approx(rate, abs=4 * sqrt(rate * (1 - rate) / tried[sign]))
    right = sum(float(answer) == read_and_solve(question, world)[0] for question, _, answer in rows)
    assert 0.3 < right / len(rows) < 0.8  # imperfect, yet worth learning from
    assert list(ladder.corpus(50, 0, world)) == rows[:50] != list(ladder.corpus(50, 1, world))


def test_worlds_share_no_wording_and_no_problem() -> None:
    things, miles = ladder.THINGS, ladder.MILES
    assert not {one.words for one in things.operations.values()} & {
        one.words for one in miles.operations.values()
    }
    assert not {p.id for rows in WORLDS[things].values() for p, _ in rows} & {
        p.id for rows in WORLDS[miles].values() for p, _ in rows
    }


def test_a_tier_that_runs_out_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = ladder.Chain(5, (("gain", 1, 0),))
    monkeypatch.setattr(ladder, "_draw", lambda world, tier, random: chain)
    split = chain.split()
    with pytest.raises(UserError, match=f"hardly more than 1 distinct problems in tier 1 of split {split}"):
        list(zip(range(2), ladder.chains(ladder.THINGS, split, "1", None), strict=False))  # type: ignore[arg-type]


# --- sources ----------------------------------------------------------------------------------------

ROW = {"question": "How many are 2 and 3?", "answer": "2 + 3 = <<2+3=5>>5.\n#### 5"}
BOXED = {
    "problem": "Compute $1+1$.",
    "level": "Level 1",
    "type": "Counting & Probability",
    "solution": r"\boxed{2}",
}
OLYMPIAD = {
    "id": 1606, "question": "Find all $x$.", "context": None, "final_answer": ["$2$,$-2$"],
    "subfield": "Algebra",
}  # fmt: skip
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def write(folder: Path, name: str, rows: list[Any]) -> Path:
    path = folder / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def numbered(number: int, answer: str = "1") -> dict[str, str]:
    """A row whose question is like no other's."""
    words = " ".join(f"{word}{number}" for word in NUMBERS)
    return {"question": f"What is {words}?", "answer": f"Count.\n#### {answer}"}


@pytest.mark.parametrize(
    ("name", "row", "complaint"),
    [
        ("gsm8k/train", '{"question": ', "not JSON"),
        ("gsm8k/train", [1], "not an object with fields"),
        ("gsm8k/train", {"answer": "#### 1"}, "field `question` is missing, empty or not text"),
        ("gsm8k/train", {"question": " ", "answer": "#### 1"}, "field `question` is missing, empty"),
        ("gsm8k/train", {"question": "a?", "answer": 5}, "field `answer` is missing, empty or not text"),
        ("gsm8k/train", {"question": "a?", "answer": "five"}, "field `answer` has no final `#### number`"),
        ("gsm8k/train", {"question": "a?", "answer": "five ####"}, "field `answer` has no final `####"),
        ("math/train", {**BOXED, "solution": "two"}, r"field `solution` has no final `\boxed{answer}`"),
        ("math/test", {**BOXED, "level": 5}, "field `level` is missing, empty or not text"),
        ("amc23/test", {"id": 1, "question": "a?", "answer": 2.5}, "field `answer` is not a whole number"),
        ("amc23/test", {"id": 1, "question": "a?", "answer": "many"}, "field `answer` is not a whole number"),
        ("aime24/test", {"problem": "a?", "answer": "025"}, "field `id` is not a whole number (it is None)"),
        ("aime25/test", {"id": "1", "problem": "a?", "answer": "x"}, "field `answer` is not a whole number"),
        ("hmmt25/test", {"problem": "a?", "answer": "1"}, "field `problem_idx` is not a whole number"),
        ("hmmt25/test", {"problem_idx": 2, "problem": "a?"}, "field `answer` is missing, empty or not text"),
        ("olympiadbench/test", {**OLYMPIAD, "final_answer": "2"}, "field `final_answer` is no list of texts"),
        ("olympiadbench/test", {**OLYMPIAD, "final_answer": [""]}, "field `final_answer` is missing, empty"),
        ("olympiadbench/test", {**OLYMPIAD, "subfield": None}, "field `subfield` is missing, empty"),
        ("minerva/test", {"question": "a?"}, "field `answer` is missing, empty or not text"),
        ("gsm8k_platinum/test", {"question": "a?", "answer": "5"}, "field `answer` has no final `####"),
        ("gsm_symbolic_p2/test", {"question": "a?", "answer": "5"}, "field `answer` has no final `####"),
        ("gsm_plus/test", {"question": "a?", "answer": "5"}, "field `perturbation_type` is missing, empty"),
    ],
)  # fmt: skip
def test_a_malformed_row_is_named(tmp_path: Path, name: str, row: Any, complaint: str) -> None:
    good = {"gsm8k": ROW, "math": BOXED, "olympiadbench": OLYMPIAD}.get(name.split("/")[0], {})
    good = {"id": 0, "problem_idx": 0, "question": "b?", "problem": "b?", "perturbation_type": "a", **good}
    good = {"answer": "#### 1" if name.startswith(("gsm8k", "gsm_s")) else "1", **good}
    path = write(tmp_path, name, [good, row])
    with pytest.raises(UserError, match=re.escape(f"{path}, line 2: {complaint}")):
        sources.load(tmp_path, name)


def test_a_missing_file_is_named_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gsm8k/train\.jsonl does not exist; run `repro fetch STUDY`"):
        sources.load(tmp_path, "gsm8k/train")


def test_answers_as_sources_write_them(tmp_path: Path) -> None:
    write(tmp_path, "gsm8k/test", [ROW, {"question": "a?", "answer": "No.\n#### -1,234"}])
    write(tmp_path, "aime24/test", [{"id": 60, "problem": "a?", "question": "x", "answer": "025"}])
    write(tmp_path, "amc23/test", [{"id": 3, "question": "a?", "answer": -1.0}])
    assert [gold for _, gold in sources.load(tmp_path, "gsm8k/test")] == [
        Gold("5", "2 + 3 = 5.\n#### 5"),  # without the calculator annotation, which is not taught
        Gold("-1234", "No.\n#### -1,234"),
    ]
    assert sources.load(tmp_path, "aime24/test") == [(Problem("aime24-test-60", "a?", "all"), Gold("25"))]
    assert sources.load(tmp_path, "amc23/test") == [(Problem("amc23-test-03", "a?", "all"), Gold("-1"))]


def test_rows_of_competitions_as_their_data_sets_have_them(tmp_path: Path) -> None:
    """With all fields of the data sets, also those that are not read."""
    write(tmp_path, "aime25/test", [{"problem": "a?", "answer": "70", "id": "3"}])
    write(
        tmp_path, "hmmt25/test",
        [{"problem_idx": 7, "answer": r"\frac{1}{576}", "problem_type": ["Algebra"], "problem": "a?"}],
    )  # fmt: skip
    rest = {f"image_{n}": None for n in range(1, 10)} | {
        "solution": ["Try."], "modality": "Text-only", "difficulty": "Competition",
        "is_multiple_answer": True,
        "unit": None, "answer_type": "Numerical", "error": None, "question_type": "Open-ended",
        "subject": "Math", "language": "English",
    }  # fmt: skip
    tuples = {"id": 7, "context": "Let $x>0$.", "final_answer": ["$(1,8), (2,7)$"], "subfield": "Geometry"}
    write(tmp_path, "olympiadbench/test", [OLYMPIAD | rest, OLYMPIAD | rest | tuples])
    golds = ["7.61", "4.5e33", "-6E-5", "1e+6", "2e"]
    write(tmp_path, "minerva/test", [{"question": "a?", "answer": gold} for gold in golds])
    assert sources.load(tmp_path, "aime25/test") == [(Problem("aime25-test-03", "a?", "all"), Gold("70"))]
    assert sources.load(tmp_path, "hmmt25/test") == [
        (Problem("hmmt25-test-07", "a?", "all"), Gold(r"\frac{1}{576}"))
    ]
    assert sources.load(tmp_path, "olympiadbench/test") == [
        (Problem("olympiadbench-test-1606", "Find all $x$.", "Algebra"), Gold("2,-2")),
        (Problem("olympiadbench-test-7", "Let $x>0$.\nFind all $x$.", "Geometry"), Gold("(1,8), (2,7)")),
    ]
    minerva = sources.load(tmp_path, "minerva/test")
    assert minerva[0] == (Problem("minerva-test-001", "a?", "all"), Gold("7.61"))
    assert [gold.answer for _, gold in minerva[1:]] == [
        r"4.5 \times 10^{33}", r"-6 \times 10^{-5}", r"1 \times 10^{6}", "2e"
    ]  # fmt: skip


def test_rows_made_from_gsm8k_as_their_data_sets_have_them(tmp_path: Path) -> None:
    write(tmp_path, "gsm8k_platinum/test", [{**ROW, "cleaning_status": "consensus"}])
    symbolic = {**ROW, "id": 0, "instance": 0, "original_id": 9, "original_question": "b?", "canary": "c"}
    for part in ("", "_p1", "_p2"):
        write(tmp_path, f"gsm_symbolic{part}/test", [symbolic, {**symbolic, "instance": 1}])
    seed = {
        "seed_question": "b?",
        "seed_solution": "c",
        "seed_answer": "1",
        "solution": "d",
        "question": "a?",
    }
    plus = [
        {**seed, "answer": "1,234.5", "perturbation_type": "digit expansion"},
        {**seed, "answer": "None", "perturbation_type": "critical thinking"},
    ]
    write(tmp_path, "gsm_plus/test", plus)
    ((problem, gold),) = sources.load(tmp_path, "gsm8k_platinum/test")
    assert (problem.id, gold) == ("gsm8k_platinum-test-00001", Gold("5", "2 + 3 = 5.\n#### 5"))
    for part in ("", "_p1", "_p2"):
        rows = sources.load(tmp_path, f"gsm_symbolic{part}/test")
        assert [problem.id for problem, _ in rows] == [f"gsm_symbolic{part}-test-0000{n}" for n in (1, 2)]
    assert sources.load(tmp_path, "gsm_plus/test") == [
        (Problem("gsm_plus-test-00001", "a?", "digit expansion"), Gold("1,234.5"))
    ]


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        ("2,-2", r"\boxed{-2, 2}", r"\boxed{2}"),
        ("(1,8), (2,7)", r"\boxed{(2,7),(1,8)}", r"\boxed{(8,1),(2,7)}"),
        ("1,234.5", r"\boxed{1234.50}", r"\boxed{1234}"),
        (r"\frac{1}{576}", r"\boxed{1/576}", r"\boxed{576}"),
        (r"4.5 \times 10^{33}", r"\boxed{4.5\cdot10^{33}}", r"\boxed{4.5}"),
        (r"-6 \times 10^{-5}", r"\boxed{-0.00006}", r"\boxed{-6}"),
    ],
)
def test_golds_as_the_new_data_sets_write_them_are_checked(gold: str, right: str, wrong: str) -> None:
    with Verifier() as verifier:
        verifier.check_golds([gold], ["here"])
        assert verifier.verify([right, wrong], [gold, gold]) == [Verdict.CORRECT, Verdict.WRONG]


def test_math_problems_are_named_by_their_text_not_their_order(tmp_path: Path) -> None:
    others = [{**BOXED, "problem": f"Compute ${i}$.", "solution": rf"$\boxed {i}$"} for i in range(9)]
    write(tmp_path / "a", "math/train", [BOXED, *others])
    write(tmp_path / "b", "math/train", [*reversed(others), {**BOXED, "unique_id": "train/0.json"}])
    rows = sources.load(tmp_path / "a", "math/train")
    assert rows == sources.load(tmp_path / "b", "math/train")
    assert sources.digest(rows) == sources.digest(sources.load(tmp_path / "b", "math/train"))
    ((problem, gold),) = [row for row in rows if row[0].question == BOXED["problem"]]
    assert re.fullmatch("math-train-counting_and_probability-[0-9a-f]{8}", problem.id)
    assert (problem.tier, problem.knowledge) == ("Level 1", ("Counting & Probability",))
    assert {gold.answer for _, gold in rows} == {*"012345678"} and gold.answer == "2"


def test_rows_of_ones_own(tmp_path: Path) -> None:
    path = write(
        tmp_path, "mine",
        [
            {"question": "a?", "answer": "1"},
            {"question": "b?", "answer": "x+1", "id": "b", "solution": "c", "tier": "d", "knowledge": ["p"]},
            {"question": "c?", "answer": "2", "id": None, "solution": None},
        ],
    )  # fmt: skip
    assert sources.load_jsonl(path) == [
        (Problem("b", "b?", "d", ("p",)), Gold("x+1", "c")),
        (Problem("mine-00001", "a?", "all"), Gold("1")),
        (Problem("mine-00003", "c?", "all"), Gold("2")),
    ]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"question": "b?"}, "line 2: field `answer` is missing, empty or not text"),
        ({"question": "b?", "answer": 5}, "line 2: field `answer` is missing, empty or not text"),
        ({"question": "b?", "answer": "5", "level": "1"}, "line 2: field `level` is unknown (known are"),
        ({"question": "b?", "answer": "5", "knowledge": "p"}, "line 2: field `knowledge` is not a list of"),
        ({"question": "b?", "answer": "5", "id": "a"}, "two rows have the id a; remove one of them"),
    ],
)  # fmt: skip
def test_a_malformed_row_of_ones_own_is_named(tmp_path: Path, row: Any, complaint: str) -> None:
    path = write(tmp_path, "mine", [{"question": "a?", "answer": "1", "id": "a"}, row])
    with pytest.raises(UserError, match=re.escape(f"{path}") + "(, |: )" + re.escape(complaint)):
        sources.load_jsonl(path)


# --- near-duplicates --------------------------------------------------------------------------------

QUESTION = "A bookstore is deciding what price it should charge for a certain book of 26 pages, or 130."


def found(training: str, tested: str) -> bool:
    return bool(near_duplicates([Problem("t", training, "all")], {"b": [Problem("x", tested, "all")]}))


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (QUESTION.upper().replace(" ", "\n ").replace(",", " ;"), True),
        (QUESTION.replace("130", "128"), True),  # another number at the end
        (f"{QUESTION} Explain.", True),
        ("How many pages has a certain book?", False),
        (QUESTION[:40] + " when a client asks for a very different thing?", False),
    ],
)
def test_near_duplicates(other: str, same: bool) -> None:
    assert found(QUESTION, other) is found(other, QUESTION) is same


def test_dress_does_not_count_and_signs_do() -> None:
    assert found(r"Find $\dfrac{1}{2}+x$", r"find \(\frac 12 + x\) ") is False  # 12 is another number
    assert found(r"Find $\left(\dfrac{1}{2}\right)+x$.", r"find \(\frac{1}{2} + x\)")
    assert not found("Compute $2+3$", "Compute $2-3$")  # short questions are the same or they are not


def test_the_most_alike_is_reported() -> None:
    tests = {
        "one": [Problem("1", f"{QUESTION} Explain this answer.", "")],
        "two": [Problem("2", QUESTION, "")],
    }
    (duplicate,) = near_duplicates([Problem("t", QUESTION, "")], tests).values()
    assert (duplicate.benchmark, duplicate.problem, duplicate.similarity) == ("two", "2", 1.0)


@given(st.lists(st.text(max_size=40), max_size=6), st.lists(st.text(max_size=40), max_size=6))
def test_the_index_finds_what_comparing_all_pairs_finds(training: list[str], tested: list[str]) -> None:
    problems_ = [Problem(f"t{i}", text, "") for i, text in enumerate(training)]
    against = [Problem(f"x{i}", text, "") for i, text in enumerate(tested)]
    alike = {
        p.id
        for p in problems_
        for x in against
        if len(shingles(p.question) & shingles(x.question)) / len(shingles(p.question) | shingles(x.question))
        >= 0.5
    }
    assert set(near_duplicates(problems_, {"b": against})) == alike


# --- the files of a study ---------------------------------------------------------------------------


def study(spec: dict[str, Any], data: Path | None = None, **changes: Any) -> Study:
    benchmark = "ladder" if spec["source"] == "ladder" else "gsm8k"
    return Study.model_validate(
        {
            "name": "tiny", "title": "Tiny", "seeds": [0], "budgets": [1], "problems": spec, "data_dir": data,
            "base_model": {"source": "folder", "path": "model"}, "sampling": {"max_tokens": 8},
            "evaluation": {"benchmarks": {benchmark: {}}}, "prompt": {"template": "Q: {question}"}, **changes,
        }
    )  # fmt: skip


def data(tmp_path: Path, train: list[Any], test: list[Any]) -> Path:
    write(tmp_path / "data", "gsm8k/train", train)
    write(tmp_path / "data", "gsm8k/test", test)
    return tmp_path / "data"


def prepared(tmp_path: Path, settings: Study) -> dict[str, problems.ProblemSet]:
    problems.prepare(settings, tmp_path / "out")
    files = [path for path in (tmp_path / "out").rglob("*.jsonl")]
    return {str(p.relative_to(tmp_path / "out").with_suffix("")): problems.read(p) for p in files}


def report(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "out" / problems.REPORT).read_text())


def test_what_is_prepared_is_read_back(tmp_path: Path) -> None:
    rare = {"question": "Two\u2028lines\x85of {braces} and {answer}?", "answer": "#### 7"}
    read = prepared(tmp_path, study({"source": "gsm8k"}, data(tmp_path, [rare], [ROW])))
    assert set(read) == {"train", "validation", "test/gsm8k"}
    (problem,) = read["train"].problems
    assert problem == Problem("gsm8k-train-00001", rare["question"], "all")
    assert read["train"].prompts[problem.id] == f"Q: {rare['question']}"
    assert read["train"].hinted[problem.id] == f"{rare['question']} ( 7 )"
    assert read["train"].golds[problem.id].answer == "7"
    assert read["validation"].problems == []
    assert read["test/gsm8k"].prompts == {"gsm8k-test-00001": f"Q: {ROW['question']}"}
    facts = report(tmp_path)
    assert facts["rows"] == {"train": 1, "validation": 0, "test/gsm8k": 1}
    assert facts["sources"]["gsm8k/train"]["pinned"] is False


def test_rows_are_drawn_by_seed_and_held_out_rows_are_apart(tmp_path: Path) -> None:
    folder = data(tmp_path, [numbered(i) for i in range(50)], [numbered(i) for i in range(50, 60)])
    limited = {"evaluation": {"benchmarks": {"gsm8k": {"limit": 5}}}, "prompt": {"shots": 3}}

    def drawn(**changes: Any) -> problems.Drawn:
        spec = {"source": "gsm8k", "train": 20, "validation": 10, **changes}
        return problems.draw(study(spec, folder, **limited))

    def ids(rows: sources.Rows) -> list[str]:
        return [problem.id for problem, _ in rows]

    first = drawn()
    everything = first.train + first.validation + first.shots + first.tests["gsm8k"]
    assert [len(first.train), len(first.validation), len(first.shots)] == [20, 10, 3]
    assert len(set(ids(everything))) == len(everything) == 38
    assert ids(first.tests["gsm8k"]) == sorted(ids(first.tests["gsm8k"]))
    assert drawn() == first and drawn(seed=1) != first
    more = drawn(train="all")
    assert (more.validation, more.shots) == (first.validation, first.shots)
    assert more.train[:20] == first.train and len(more.train) == 37
    without = drawn(exclude=ids(first.train)[:1])
    assert ids(first.train)[0] not in ids(without.train + without.validation + without.shots)
    with pytest.raises(
        UserError, match=r"gsm8k has 50 problems to draw from, too few for validation 10, sho"
    ):
        drawn(train=38)
    with pytest.raises(UserError, match=r"problems\.exclude names `gsm8k-train-99999`, which no training"):
        drawn(exclude=["gsm8k-train-99999"])


def test_shots_need_solutions(tmp_path: Path) -> None:
    write(tmp_path, "mine", [{"question": f"{word}?", "answer": "1"} for word in NUMBERS])
    spec = {"source": "jsonl", "file": tmp_path / "mine.jsonl"}
    folder = data(tmp_path, [ROW], [ROW])
    assert len(problems.draw(study(spec, folder)).train) == 10
    with pytest.raises(UserError, match=r"jsonl has 10 problems to draw from, .* shots 1 \(with solutions\)"):
        problems.draw(study(spec, folder, prompt={"shots": 1}))


@pytest.mark.promise(
    "A fair comparison", "Training problems that a benchmark asks too are left out, and reported."
)
def test_training_problems_that_a_benchmark_asks_are_left_out_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    same = {**ROW, "question": "how  many are 2 and 3 "}
    folder = data(tmp_path, [numbered(1), same, numbered(2), numbered(1)], [numbered(3), ROW])
    caplog.set_level(logging.INFO)
    read = prepared(tmp_path, study({"source": "gsm8k"}, folder))
    assert {p.id for p in read["train"].problems} == {"gsm8k-train-00001", "gsm8k-train-00003"}
    assert report(tmp_path)["near_duplicates"] == {
        "gsm8k-train-00002": {"benchmark": "gsm8k", "problem": "gsm8k-test-00002", "similarity": 1.0}
    }
    assert report(tmp_path)["repeated"] == {"gsm8k-train-00004": "gsm8k-train-00001"}
    assert "gsm8k-train-00002, which repeats gsm8k-test-00002 of gsm8k" in caplog.text


def test_math_is_kept_clear_of_math500_whatever_the_benchmark(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = data(tmp_path, [ROW], [ROW])
    write(folder, "math/train", [BOXED, {**BOXED, "problem": "Compute $2+1$."}])
    settings = study({"source": "math"}, folder)
    assert len(problems.draw(settings).train) == 2
    assert "problems of MATH-500 are not looked for" in caplog.text
    row = {"problem": BOXED["problem"], "answer": "2", "solution": "2", "level": 1, "subject": "Algebra"}
    write(folder, "math500/test", [{**row, "unique_id": "test/algebra/7.json"}])
    drawn = problems.draw(settings)
    assert [problem.question for problem, _ in drawn.train] == ["Compute $2+1$."]
    (duplicate,) = drawn.report["near_duplicates"].values()
    assert (duplicate["benchmark"], duplicate["problem"]) == ("math500", "math500-test-algebra-7")
    assert set(drawn.tests) == {"gsm8k"}


def test_a_ladder_study_has_its_sizes(tmp_path: Path) -> None:
    spec = {"source": "ladder", "train": 40, "validation": 8, "test": 20}
    read = prepared(tmp_path, study(spec))
    sizes = {"train": 40, "validation": 8, "test/ladder": 20}
    assert {split: len(each.problems) for split, each in read.items()} == sizes
    assert len({each.digest for each in read.values()}) == 3
    few = study(spec, evaluation={"benchmarks": {"ladder": {"limit": 6}}}, prompt={"shots": 2})
    drawn = problems.draw(few)
    assert len(drawn.tests["ladder"]) == 6 and len(drawn.train) == 40 and len(drawn.shots) == 2
    assert [problem for problem, _ in drawn.train] == read["train"].problems


@pytest.mark.promise("Right answers", "A gold that cannot be read is refused before anything is spent.")
def test_a_gold_that_cannot_be_read_is_refused_by_id_until_it_is_excluded(tmp_path: Path) -> None:
    unreadable = {"question": "a?", "answer": "#### \\frac{"}
    folder = data(tmp_path, [unreadable, numbered(1)], [ROW])
    with pytest.raises(UserError, match=r"gsm8k-train-00001 cannot be read .* by problems\.exclude"):
        problems.prepare(study({"source": "gsm8k"}, folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    problems.prepare(study({"source": "gsm8k", "exclude": ["gsm8k-train-00001"]}, folder), tmp_path / "out")
    assert report(tmp_path)["excluded"] == {"gsm8k-train-00001": "problems.exclude of the study"}


@pytest.mark.parametrize(
    ("line", "complaint"), [("{", "not JSON"), ('{"id": "a"}', "field `question` is missing")]
)
def test_a_damaged_problem_file_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    (tmp_path / "train.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=rf"train\.jsonl, line 1: {complaint}"):
        problems.read(tmp_path / "train.jsonl")
