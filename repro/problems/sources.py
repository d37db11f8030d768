"""Where problems come from: files of GSM8K, MATH and the benchmarks in the data folder, and JSONL files of
the user's own. What each file holds, how its rows are read, and what its content must be.

The content of a file is pinned by a digest over the problems read from it, in the order of their ids: the
same for a file that came with a data folder and one from the hub (``repro fetch``), whatever its further
fields and, where rows are not named by their line, its order.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from repro import files
from repro.config import Gsm8kProblems, MathProblems, Study
from repro.errors import UserError
from repro.fetch import dataset_rows
from repro.records import Gold, Problem
from repro.verify import extract

Log = logging.getLogger("repro.problems")
MEND = "mend or remove the line"
Rows = list[tuple[Problem, Gold]]


@dataclass(frozen=True)
class Row:
    """One row of a file. The getters raise UserError naming file, line and field where it is malformed."""

    values: Mapping[str, Any]
    path: Path
    line: int

    def error(self, field: str, complaint: str) -> UserError:
        where = f"{self.path}, line {self.line}"
        return UserError(f"{where}: field `{field}` {complaint}; {MEND}")

    def text(self, field: str) -> str:
        value = self.values.get(field)
        if not isinstance(value, str) or not value.strip():
            raise self.error(field, "is missing, empty or not text")
        if _HALF.search(value):
            raise self.error(field, "holds half a character, such as \\ud83d without \\ude00")
        return value.strip()

    def whole(self, field: str) -> int:
        """A whole number, also one written as 27.0 or "025"."""
        value = self.values.get(field)
        try:
            number = float(value) if isinstance(value, str | int | float) else None
            if number is not None and number == int(number):
                return int(number)
        except (ValueError, OverflowError):
            pass
        raise self.error(field, f"is not a whole number (it is {value!r})")

    def texts(self, field: str) -> list[str]:
        values = self.values.get(field)
        if not isinstance(values, list) or not values:
            raise self.error(field, "is no list of texts, or empty")
        return [replace(self, values={field: value}).text(field) for value in values]


@dataclass(frozen=True)
class Source:
    """A file of the data folder. ``parse`` makes a problem of a row and the beginning of its id, or None of a
    row that is left out."""

    parse: Callable[[Row, str], tuple[Problem, Gold] | None]
    digest: str | None  # of the problems read from it; None: nobody has read them yet, and nothing is pinned
    hub: str  # the data set of the hub that has the same rows, at this revision, in these files
    revision: str
    hub_files: tuple[str, ...]


# Built-in exclusions: training problems of MATH whose solution ends in an empty box, by id.
EXCLUDED = {
    "math-train-number_theory-34d3b36d": "its box is empty (train/number_theory/7115.json)",
    "math-train-number_theory-641a7ef9": "its box is empty (train/number_theory/7117.json)",
}

# Test problems of MATH whose solution boxes several answers, so that the last box is only a part: the whole
# list, or, where the question accepts any one of them, the first (another is then scored wrong).
SEVERAL_BOXES = {
    "math-test-algebra-77592e03": "-3",  # algebra/1730, any
    "math-test-algebra-b5f749fb": "-2,1",  # algebra/1878
    "math-test-intermediate_algebra-a7cf9617": "(10,0)",  # intermediate_algebra/25, any
    "math-test-intermediate_algebra-7e91dcaf": r"3,\frac{2}{5}",  # intermediate_algebra/225
    "math-test-intermediate_algebra-29421c88": r"\left(\frac{3}{2},-\frac{5}{2}\right)",  # .../702, any
    "math-test-intermediate_algebra-1a4180c0": "(3,-5)",  # intermediate_algebra/747, any
    "math-test-intermediate_algebra-8ecad5cc": "5-10i,11,-3+6i",  # intermediate_algebra/1020
    "math-test-intermediate_algebra-c9b61deb": r"-\frac{3}{2},-\frac{3}{4}",  # intermediate_algebra/1855
    "math-test-intermediate_algebra-9ef30450": "-10879,10879",  # intermediate_algebra/2089
    "math-test-precalculus-621a9c1c": r"\frac{\pi}{4},\frac{5\pi}{4}",  # precalculus/679
    "math-test-precalculus-5bf63de2": "-1,2",  # precalculus/1227
    "math-test-precalculus-ed2d8b46": r"30^\circ,45^\circ,105^\circ",  # precalculus/1233
}

_HALF = re.compile("[\ud800-\udfff]")  # of a pair that JSON's escapes write a rarer character with
_ANNOTATION = re.compile(r"<<[^<>]*>>")
_E_NOTATION = re.compile(r"^(-?\d+(?:\.\d+)?)[eE]\+?(-?\d+)$")


def _gsm8k(row: Row, prefix: str) -> tuple[Problem, Gold]:
    """GSM8K (Cobbe et al. 2021): the answer ends in ``#### number``; calculator annotations are left out."""
    solution, mark, answer = row.text("answer").rpartition("####")
    if not mark or not answer.strip():
        raise row.error("answer", "has no final `#### number`")
    text = _ANNOTATION.sub("", solution).strip() + f"\n#### {answer.strip()}"
    problem = Problem(f"{prefix}-{row.line:05d}", row.text("question"), "all")
    return problem, Gold(answer.strip().replace(",", ""), text)


def _math(row: Row, prefix: str) -> tuple[Problem, Gold] | None:
    """MATH (Hendrycks et al. 2021): the answer is the last box of the solution. The hub's copy has neither
    the names nor the order of the original files, so that a problem is named by its text."""
    question, subject = row.text("problem"), row.text("type")
    slug = re.sub(r"\W+", "_", subject.replace("&", "and")).lower()
    name = f"{prefix}-{slug}-{hashlib.sha256(question.encode()).hexdigest()[:8]}"
    if name in EXCLUDED:
        return None
    solution = row.text("solution")
    answer = SEVERAL_BOXES.get(name) or extract(solution)
    if answer is None:
        raise row.error("solution", r"has no final `\boxed{answer}`")
    return Problem(name, question, row.text("level"), (subject,)), Gold(answer, solution)


def _math500(row: Row, prefix: str) -> tuple[Problem, Gold]:
    """The 500 test problems of MATH that Lightman et al. (2023) kept for testing."""
    _, subject, number = row.text("unique_id").removesuffix(".json").rsplit("/", 2)
    problem = Problem(
        f"{prefix}-{subject}-{number}", row.text("problem"), f"Level {row.whole('level')}",
        (row.text("subject"),),
    )  # fmt: skip
    return problem, Gold(row.text("answer"), row.text("solution"))


def _aime(row: Row, prefix: str) -> tuple[Problem, Gold]:
    """AIME I and II of a year: answers are whole numbers from 0 to 999, written "025"."""
    return Problem(f"{prefix}-{row.whole('id'):02d}", row.text("problem"), "all"), Gold(
        str(row.whole("answer"))
    )


def _amc(row: Row, prefix: str) -> tuple[Problem, Gold]:
    """AMC 12 of 2023, reworded to ask for whole numbers, which are written 27.0."""
    return Problem(f"{prefix}-{row.whole('id'):02d}", row.text("question"), "all"), Gold(
        str(row.whole("answer"))
    )


def _hmmt(row: Row, prefix: str) -> tuple[Problem, Gold]:
    """HMMT of February 2025, as MathArena (Balunovic et al. 2025) has it: answers in LaTeX."""
    return Problem(f"{prefix}-{row.whole('problem_idx'):02d}", row.text("problem"), "all"), Gold(
        row.text("answer")
    )


def _olympiadbench(row: Row, prefix: str) -> tuple[Problem, Gold]:
    """OlympiadBench (He et al. 2024), its English competitions in text with open answers. Several answers are
    a list, whose order does not count; a tolerance (`error`) and a unit are not read."""
    context = row.text("context") + "\n" if row.values.get("context") else ""
    answer = ", ".join(text.replace("$", "") for text in row.texts("final_answer"))
    question = context + row.text("question")
    return Problem(f"{prefix}-{row.whole('id')}", question, row.text("subfield")), Gold(answer)


def _minerva(row: Row, prefix: str) -> tuple[Problem, Gold]:
    """Undergraduate problems of MIT's OpenCourseWare, on which Minerva was tested (Lewkowycz et al. 2022):
    golds such as 4.5e33 become LaTeX, which the verifier reads."""
    answer = _E_NOTATION.sub(r"\1 \\times 10^{\2}", row.text("answer"))
    return Problem(f"{prefix}-{row.line:03d}", row.text("question"), "all"), Gold(answer)


def _gsm_plus(row: Row, prefix: str) -> tuple[Problem, Gold] | None:
    """GSM-Plus (Li et al. 2024). A question of the form "critical thinking" lacks what it needs, and has no
    answer: None, which is left out."""
    answer = row.text("answer")
    if answer == "None":
        return None
    name = f"{prefix}-{row.line:05d}"
    return Problem(name, row.text("question"), row.text("perturbation_type")), Gold(answer)


_GSM8K = "openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866"
_MATH = "EleutherAI/hendrycks_math", "21a5633873b6a120296cce3e2df9d5550074f4a3"
_SYMBOLIC = "apple/GSM-Symbolic", "93b5b3758d9d9841ffe81d6cd2ae2b030685b078"
_SUBJECTS = (
    "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra",
    "precalculus",
)  # fmt: skip


def _shard(split: str) -> str:
    return f"{split}-00000-of-00001.parquet"


def _by_subject(split: str) -> tuple[str, ...]:
    return tuple(f"{subject}/{_shard(split)}" for subject in _SUBJECTS)


SOURCES = {
    "gsm8k/train": Source(_gsm8k, "1e0666fa28dfc984", *_GSM8K, (f"main/{_shard('train')}",)),
    "gsm8k/test": Source(_gsm8k, "0673ffd08136e163", *_GSM8K, (f"main/{_shard('test')}",)),
    "math/train": Source(_math, "278b9e87dac43fee", *_MATH, _by_subject("train")),
    "math/test": Source(_math, "bc7a7e48c6c605da", *_MATH, _by_subject("test")),
    "math500/test": Source(
        _math500, "aac90b51ce599bc3",
        "HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", ("test.jsonl",),
    ),
    "aime24/test": Source(
        _aime, "f96c76cb23dabcc4",
        "HuggingFaceH4/aime_2024", "2fe88a2f1091d5048c0f36abc874fb997b3dd99a", (f"data/{_shard('train')}",),
    ),
    "amc23/test": Source(
        _amc, "632a39590fdbe0b2",
        "math-ai/amc23", "80815d37005feb82cd7f8fbc6901d5d3eff43057", (_shard("test"),),
    ),
    "aime25/test": Source(
        _aime, None, "math-ai/aime25", "563bb8404243c5f09de6ec262f2db674fe5bce9b", ("test.jsonl",)
    ),
    "hmmt25/test": Source(
        _hmmt, None,
        "MathArena/hmmt_feb_2025", "6fdc4277120810ff75aa22d2d5489b91f7a262a1", (f"data/{_shard('train')}",),
    ),
    "olympiadbench/test": Source(
        _olympiadbench, None, "Hothan/OlympiadBench", "91184b52131e7fc9455fef848035173aea8cc01a",
        ("OlympiadBench/OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.parquet",),
    ),
    "minerva/test": Source(
        _minerva, None, "math-ai/minervamath", "ee46ddc498933b1977577953250ca5c66be64f96", ("test.jsonl",)
    ),
    "gsm8k_platinum/test": Source(  # rows as GSM8K has them, corrected or left out
        _gsm8k, None,
        "madrylab/gsm8k-platinum", "e762492455a1cf7967de89f05b6bef72fc713b66", (f"main/{_shard('test')}",),
    ),
    # GSM8K's own templates, with other names and numbers; P1 and P2 with one and two clauses more.
    "gsm_symbolic/test": Source(_gsm8k, None, *_SYMBOLIC, ("main/test.jsonl",)),
    "gsm_symbolic_p1/test": Source(_gsm8k, None, *_SYMBOLIC, ("p1/test.jsonl",)),
    "gsm_symbolic_p2/test": Source(_gsm8k, None, *_SYMBOLIC, ("p2/test.jsonl",)),
    "gsm_plus/test": Source(
        _gsm_plus, None, "qintongli/GSM-Plus", "3b708db57b96a16e8e3368ed2956990c0809440e",
        ("data/test-00000-of-00001.jsonl",),
    ),
}  # fmt: skip


def load(folder: Path, name: str) -> Rows:
    """The problems of the source ``name``, such as ``gsm8k/train``, from its file in ``folder``, by id.

    Raises UserError naming the file where it is missing, and the line and field of a malformed row.
    """
    path = folder / f"{name}.jsonl"
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; run `repro fetch STUDY`, or name the folder that has it in data_dir of "
            "the study or in REPRO_DATA_DIR"
        )
    return parse(name, files.read_jsonl(path, MEND), path)


def parse(name: str, rows: Iterable[Mapping[str, Any]], path: Path) -> Rows:
    """The problems of a source's rows, by id. Raises UserError naming ``path`` and line."""
    prefix = name.replace("/", "-")
    read = (SOURCES[name].parse(Row(values, path, line), prefix) for line, values in enumerate(rows, 1))
    return _distinct([row for row in read if row is not None], path)


def _distinct(rows: Rows, path: Path) -> Rows:
    """The rows by id. Raises UserError where two have the same."""
    by_id = {problem.id: (problem, gold) for problem, gold in rows}
    if len(by_id) < len(rows):
        ids = [problem.id for problem, _ in rows]
        twice = next(name for name in ids if ids.count(name) > 1)
        raise UserError(f"{path}: two rows have the id {twice}; remove one of them")
    return [by_id[name] for name in sorted(by_id)]


FIELDS = ("question", "answer", "id", "solution", "tier", "knowledge")  # of a user's row; docs/problems.md


def load_jsonl(path: Path, key: str = "problems.file") -> Rows:
    """The problems of a user's JSONL file, by id; ``key`` is where a study names it. Raises UserError naming
    file, line and field."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; name a JSONL file of problems in {key}")
    return _distinct(
        [_own(Row(values, path, line)) for line, values in enumerate(files.read_jsonl(path, MEND), 1)], path
    )


def _own(row: Row) -> tuple[Problem, Gold]:
    for field in row.values:
        if field not in FIELDS:
            raise row.error(field, f"is unknown (known are {', '.join(FIELDS)})")
    optional = ("id", "solution", "tier")
    given = {field: row.text(field) for field in optional if row.values.get(field) is not None}
    knowledge = row.values.get("knowledge", [])
    if not isinstance(knowledge, list) or not all(isinstance(point, str) for point in knowledge):
        raise row.error("knowledge", "is not a list of texts")
    name = given.get("id", f"{row.path.stem}-{row.line:05d}")
    problem = Problem(name, row.text("question"), given.get("tier", "all"), tuple(knowledge))
    return problem, Gold(row.text("answer"), given.get("solution"))


def digest(rows: Sequence[tuple[Problem, Gold]]) -> str:
    """Of the content of a source, as its table pins it."""
    return files.digest([(asdict(problem), asdict(gold)) for problem, gold in rows])


def own(study: Study) -> dict[str, Rows]:
    """The problems of the benchmarks that a study brings, by benchmark. Raises UserError as
    :func:`load_jsonl` does, and for a file without any."""
    found = {}
    for name, benchmark in study.evaluation.benchmarks.items():
        if benchmark.file is not None:
            found[name] = load_jsonl(benchmark.file, f"evaluation.benchmarks.{name}.file")
            if not found[name]:
                raise UserError(f"{benchmark.file} has no problems; a benchmark needs one or more")
    return found


def needed(study: Study) -> list[str]:
    """The sources that a study reads. MATH is never trained on without MATH-500 at hand to keep it clean."""
    names = [f"{name}/test" for name in study.evaluation.benchmarks if f"{name}/test" in SOURCES]
    if isinstance(study.problems, Gsm8kProblems | MathProblems):
        names.append(f"{study.problems.source}/train")
    if isinstance(study.problems, MathProblems):
        names.append("math500/test")
    return sorted(set(names))


def fetch(study: Study) -> None:
    """Put each file that the study needs into its data folder, from the hub where it is not there yet.

    Raises UserError where a file that is there, or what the hub gives, is not the content that is pinned.
    """
    for name in needed(study):
        source, path = SOURCES[name], study.data_folder() / f"{name}.jsonl"
        if path.is_file():
            found = digest(load(study.data_folder(), name))
            if source.digest not in (None, found):
                raise UserError(
                    f"{path} holds other problems than the suite's {name} (digest {found}, not "
                    f"{source.digest}); move it away and fetch again"
                )
            Log.info("%s is there", path)
            _tell_unpinned(name, path, found)
            continue
        rows = dataset_rows(source.hub, source.revision, source.hub_files)
        found = digest(parse(name, rows, path))
        if source.digest not in (None, found):
            raise UserError(
                f"{source.hub} at {source.revision} holds other problems than the suite's {name} (digest "
                f"{found}, not {source.digest}); put the original rows into {path} by hand (docs/problems.md)"
            )
        files.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        Log.info("%s: %d rows of %s at %s", path, len(rows), source.hub, source.revision)
        _tell_unpinned(name, path, found)


def _tell_unpinned(name: str, path: Path, found: str) -> None:
    if SOURCES[name].digest is None:
        Log.warning("%s", unpinned(name, path, found))


def unpinned(name: str, path: Path, found: str) -> str:
    """What is to be said of a source whose content nothing pins, and was found to have this digest."""
    return (
        f"{path}: the suite pins no content of {name}; the digest {found} of what is there is recorded with "
        "the results: compare it with that of others, and pin it in SOURCES of repro/problems/sources.py"
    )
