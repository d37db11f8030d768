"""Problem sets: what a study trains on and is tested on, prepared once as JSONL files.

A file holds one problem a line: ``id``, ``question``, ``tier``, ``knowledge``, ``answer``, ``solution`` (may
be null), and exactly what the model sees: ``prompt`` in training and evaluation, ``few_shot`` in sampling
(that behind the study's worked examples) and ``hinted`` (this with the answer shown).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from repro.config import Gsm8kProblems, JsonlProblems, LadderProblems, MathProblems, Prompt, Study
from repro.errors import UserError
from repro.files import AGAIN, digest, read_checked, read_jsonl, sha256, write_checked, write_text
from repro.problems import ladder, sources
from repro.problems.overlap import near_duplicates
from repro.problems.prompts import STYLES, Prompter, chat_tokenizer, worked
from repro.problems.sources import SOURCES, Rows
from repro.records import Gold, Problem
from repro.seeds import generator
from repro.verify import Verifier

Log = logging.getLogger("repro.problems")
FIELDS = {
    "id": str, "question": str, "tier": str, "knowledge": list, "answer": str, "solution": str | None,
    "prompt": str, "few_shot": str, "hinted": str,
}  # fmt: skip
REPORT = "report.json"
TrainingRows = Gsm8kProblems | MathProblems | JsonlProblems  # sources with rows to draw


@dataclass(frozen=True)
class ProblemSet:
    """Problems of one split with what is known of them, by problem id."""

    problems: Sequence[Problem]
    golds: dict[str, Gold]
    prompts: dict[str, str]
    few_shot: dict[str, str]
    hinted: dict[str, str]

    @cached_property
    def digest(self) -> str:
        """Of everything that a run can depend on."""
        facts = (
            self.prompts,
            self.few_shot,
            self.hinted,
            {name: asdict(gold) for name, gold in self.golds.items()},
        )
        return digest([asdict(problem) for problem in self.problems], *facts)


@dataclass(frozen=True)
class Drawn:
    """The problems of a study; ``report`` says what was read and what was left out, by id."""

    train: Rows
    validation: Rows
    shots: Rows  # worked examples in prompts
    tests: dict[str, Rows]  # by benchmark
    report: dict[str, Any]


def prepare(study: Study, folder: Path) -> None:
    """Write a study's problems into ``folder``: ``train.jsonl``, ``validation.jsonl``, ``test/``
    with a file for each benchmark, and ``report.json``, which says what was read, drawn and left out.

    Training problems that a benchmark also asks are left out, and reported. Raises UserError for a file that
    is missing or malformed, an unreadable gold answer, and a study that asks for more than there is.
    """
    drawn = draw(study)
    splits = {"train": drawn.train, "validation": drawn.validation}
    splits |= {f"test/{name}": rows for name, rows in drawn.tests.items()}
    with Verifier() as verifier:
        used = [
            (gold.answer, f"{problem.id}{_of_file(study, split)}")
            for split, rows in splits.items()
            for problem, gold in rows
        ]
        verifier.check_golds([answer for answer, _ in used], [place for _, place in used])
    prompter = Prompter(study.prompt, drawn.shots, chat_tokenizer(study) if study.prompt.chat else None)
    for split, rows in splits.items():
        lines = [_line(problem, gold, study.prompt, prompter) for problem, gold in rows]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_text(folder / f"{split}.jsonl", text)
    style = study.prompt.style
    report = {
        **drawn.report,
        "rows": {split: len(rows) for split, rows in splits.items()},
        "shots": [problem.id for problem, _ in drawn.shots],
        "prompt": {
            "style": style,
            "version": STYLES[style].version,
            "digest": prompter.digest,
            **study.prompt.model_dump(include={"thinking"}),
        },
    }
    report["files"] = {split: sha256(folder / f"{split}.jsonl") for split in splits}
    write_checked(folder / REPORT, report)
    Log.info("problems: %s", ", ".join(f"{len(rows)} {split}" for split, rows in splits.items()))


def check(folder: Path, split: str) -> None:
    """Raise UserError unless a problem file is as :func:`prepare` wrote it."""
    path, hashes = folder / f"{split}.jsonl", read_checked(folder / REPORT, ("files",))["files"]
    if not path.is_file():
        raise UserError(f"{path} does not exist; run `snakemake` to make it")
    if sha256(path) != hashes.get(split):
        raise UserError(f"{path} is not as it was prepared; {AGAIN}")


def read_prepared(folder: Path, split: str) -> ProblemSet:
    """:func:`check` and :func:`read` a split."""
    check(folder, split)
    return read(folder / f"{split}.jsonl")


def draw(study: Study) -> Drawn:
    """The problems of a study. Raises UserError for a file that is missing, malformed or too short."""
    drawn = _draw(study)
    if study.evaluation.split == "test":
        return drawn
    return replace(drawn, tests=_limited(study, dict.fromkeys(study.evaluation.benchmarks, drawn.validation)))


def _draw(study: Study) -> Drawn:
    spec = study.problems
    read, facts = _read(study)
    if isinstance(spec, LadderProblems):
        # Its splits share no problem by construction, and all its problems share their phrases.
        sizes = {"train": spec.train + study.prompt.shots, "validation": spec.validation, "test": spec.test}
        world = ladder.WORLDS[spec.world]
        rows = {split: ladder.generate(split, size, spec.seed, world) for split, size in sizes.items()}
        train, shots = rows["train"][: spec.train], rows["train"][spec.train :]
        tests = _limited(study, _tests(study, {**read, "ladder/test": rows["test"]}))
        _refuse_repeated(rows["train"], tests)
        return Drawn(train, rows["validation"], shots, tests, {"sources": facts} if facts else {})
    tests = _tests(study, read)
    against = dict(tests)
    if isinstance(spec, JsonlProblems):
        available = sources.load_jsonl(spec.file)
        facts[str(spec.file)] = {"problems": len(available), "digest": sources.digest(available)}
    else:
        available = read[f"{spec.source}/train"]
    if "math500/test" in read:
        against["math500"] = read["math500/test"]
    pool, left_out = _without(available, spec, against)
    validation, shots, train = _split(pool, spec, study.prompt)
    return Drawn(train, validation, shots, _limited(study, tests), {"sources": facts, **left_out})


def _tests(study: Study, read: Mapping[str, Rows]) -> dict[str, Rows]:
    return {name: read[f"{name}/test"] for name in study.evaluation.benchmarks}


def _refuse_repeated(training: Rows, tests: Mapping[str, Rows]) -> None:
    """Raise UserError where a benchmark asks what the ladder trains on; its own test problems never do."""
    asked = {" ".join(problem.question.split()): problem.id for problem, _ in training}
    for name, rows in tests.items():
        for problem, _ in rows:
            if repeated := asked.get(" ".join(problem.question.split())):
                raise UserError(
                    f"problem {problem.id} of the benchmark {name} is the training problem {repeated}; "
                    "remove it, or set another problems.seed"
                )


def _of_file(study: Study, split: str) -> str:
    """Where a problem of a benchmark that the study brings is to be found, beside its id."""
    benchmark = study.evaluation.benchmarks.get(split.removeprefix("test/"))
    own = benchmark is not None and study.evaluation.split == "test" and benchmark.file
    return f" in {own}" if own else ""


def _read(study: Study) -> tuple[dict[str, Rows], dict[str, Any]]:
    """The sources that the study needs and its own benchmarks, and what is to be said of them."""
    read, facts = {}, {}
    for name in sources.needed(study):
        file = study.data_folder() / f"{name}.jsonl"
        if name == "math500/test" and "math500" not in study.evaluation.benchmarks and not file.is_file():
            Log.warning("%s does not exist: problems of MATH-500 are not looked for in training", file)
            continue
        rows = read[name] = sources.load(study.data_folder(), name)
        found, pinned = sources.digest(rows), SOURCES[name].digest
        if pinned is None:
            Log.warning("%s", sources.unpinned(name, file, found))
        elif found != pinned:
            Log.warning("%s is not the suite's %s: %d problems, digest %s", file, name, len(rows), found)
        facts[name] = {"problems": len(rows), "digest": found, "pinned": found == pinned}
    for name, rows in sources.own(study).items():
        read[f"{name}/test"] = rows
        facts[f"{name}/test"] = {"problems": len(rows), "digest": sources.digest(rows), "pinned": False}
    return read, facts


def _without(
    rows: Rows, spec: TrainingRows, benchmarks: Mapping[str, Rows]
) -> tuple[Rows, dict[str, dict[str, Any]]]:
    """The training rows that may be drawn, and those left out by id: why, or in favour of which."""
    excluded = dict(sources.EXCLUDED) if isinstance(spec, MathProblems) else {}
    ids = {problem.id for problem, _ in rows}
    for name in spec.exclude:
        if name not in ids and name not in excluded:
            raise UserError(f"problems.exclude names `{name}`, which no training problem has as its id")
        excluded.setdefault(name, "problems.exclude of the study")
    first: dict[str, str] = {}
    repeated = {}
    for problem, _ in rows:
        owner = first.setdefault(" ".join(problem.question.split()), problem.id)
        if owner != problem.id:
            repeated[problem.id] = owner
    tests = {name: [problem for problem, _ in tested] for name, tested in benchmarks.items()}
    duplicates = near_duplicates([problem for problem, _ in rows], tests)
    for name, duplicate in duplicates.items():
        Log.info(
            "left out of training: %s, which repeats %s of %s (similarity %.2f)",
            name, duplicate.problem, duplicate.benchmark, duplicate.similarity,
        )  # fmt: skip
    left_out: dict[str, dict[str, Any]] = {
        "excluded": excluded,
        "repeated": repeated,
        "near_duplicates": {name: asdict(duplicate) for name, duplicate in duplicates.items()},
    }
    Log.info("left out of training: %s", ", ".join(f"{len(ids)} {why}" for why, ids in left_out.items()))
    return [row for row in rows if not any(row[0].id in names for names in left_out.values())], left_out


def _split(pool: Rows, spec: TrainingRows, prompt: Prompt) -> tuple[Rows, Rows, Rows]:
    """Validation, shots and training rows, drawn in this order by the seed."""
    order = generator(spec.source, "train", spec.seed).permutation(len(pool))
    shuffled = [pool[i] for i in order]
    validation, rest = shuffled[: spec.validation], shuffled[spec.validation :]
    shots = [row for row in rest if row[1].solution][: prompt.shots]
    train = [row for row in rest if row not in shots]
    wanted = 1 if spec.train == "all" else spec.train
    if len(shots) < prompt.shots or len(train) < wanted:
        raise UserError(
            f"the source {spec.source} has {len(pool)} problems to draw from, too few for validation "
            f"{spec.validation}, shots {prompt.shots} (with solutions) and train {spec.train}; ask for fewer"
        )
    return validation, shots, train if spec.train == "all" else train[: spec.train]


def _limited(study: Study, tests: Mapping[str, Rows]) -> dict[str, Rows]:
    """At most as many rows of each benchmark as the study wants, in their order."""
    limited = {}
    for name, rows in tests.items():
        limit = study.evaluation.benchmarks[name].limit
        drawn = generator("benchmark", name, study.problems.seed).permutation(len(rows))[:limit]
        limited[name] = [rows[i] for i in sorted(drawn)]
    return limited


def _line(problem: Problem, gold: Gold, prompt: Prompt, prompter: Prompter) -> dict[str, Any]:
    return {
        **asdict(problem),
        "answer": gold.answer,
        "solution": worked(prompt, gold),
        "prompt": prompter.plain(problem.question),
        "few_shot": prompter.few_shot(problem.question),
        "hinted": prompter.hinted(problem.question, gold.answer),
    }


def read(path: Path) -> ProblemSet:
    """The problems of a file that :func:`prepare` wrote. Raises UserError naming file, line and field."""
    problems: list[Problem] = []
    golds: dict[str, Gold] = {}
    prompts: dict[str, dict[str, str]] = {"prompt": {}, "few_shot": {}, "hinted": {}}
    if not path.is_file():
        raise UserError(f"{path} does not exist; run `snakemake` to make it")
    for number, row in enumerate(read_jsonl(path, AGAIN), 1):
        for field, kind in FIELDS.items():
            if field not in row:
                raise UserError(f"{path}, line {number}: field `{field}` is missing; {AGAIN}")
            if not isinstance(row[field], kind):
                raise UserError(
                    f"{path}, line {number}: field `{field}` is a {type(row[field]).__name__}; {AGAIN}"
                )
        problem = Problem.from_json(row)
        problems.append(problem)
        golds[problem.id] = Gold(row["answer"], row["solution"])
        for field, texts in prompts.items():
            texts[problem.id] = row[field]
    return ProblemSet(problems, golds, prompts["prompt"], prompts["few_shot"], prompts["hinted"])
