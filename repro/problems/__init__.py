"""Problem sets: what a study trains on and is tested on, prepared once as JSONL files.

A file holds one problem a line: ``id``, ``question``, ``tier``, ``knowledge``, ``answer``, ``solution`` (may
be null), ``prompt`` (exactly what the model sees) and ``hinted`` (the same with the answer shown).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from repro.config import Gsm8kProblems, LadderProblems, Prompt, Study
from repro.errors import UserError
from repro.files import digest, write_text
from repro.problems import gsm8k, ladder
from repro.records import Gold, Problem
from repro.verify import Verifier

SPLITS = ("train", "validation", "test")
FIELDS = ("id", "question", "tier", "knowledge", "answer", "solution", "prompt", "hinted")


@dataclass(frozen=True)
class ProblemSet:
    """Problems of one split with what is known of them, by problem id."""

    problems: Sequence[Problem]
    golds: dict[str, Gold]
    prompts: dict[str, str]
    hinted: dict[str, str]

    @cached_property
    def digest(self) -> str:
        """Of everything that a run can depend on."""
        facts = self.prompts, self.hinted, {name: asdict(gold) for name, gold in self.golds.items()}
        return digest([asdict(problem) for problem in self.problems], *facts)


def rows(spec: LadderProblems | Gsm8kProblems) -> dict[str, list[tuple[Problem, Gold]]]:
    """The problems of each split, as the study asks for them."""
    if isinstance(spec, LadderProblems):
        return {split: ladder.generate(split, getattr(spec, split), spec.seed) for split in SPLITS}
    return gsm8k.load(spec)


def prepare(study: Study, folder: Path) -> None:
    """Write ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl`` of a study into ``folder``.

    Raises UserError where splits share a problem or a gold answer cannot be read.
    """
    splits = rows(study.problems)
    owner: dict[str, str] = {}
    for split, problems in splits.items():
        for problem, _ in problems:
            question = " ".join(problem.question.split()).casefold()
            if question in owner:
                raise UserError(
                    f"problem {problem.id} of split {split} is also {owner[question]}: {problem.question!r}; "
                    "remove one of them from the source"
                )
            owner[question] = f"{problem.id} of split {split}"
    with Verifier() as verifier:
        golds = [(gold.answer, problem.id) for problems in splits.values() for problem, gold in problems]
        verifier.check_golds([answer for answer, _ in golds], [where for _, where in golds])
    for split, problems in splits.items():
        lines = [_row(problem, gold, study.prompt) for problem, gold in problems]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_text(folder / f"{split}.jsonl", text)


def _row(problem: Problem, gold: Gold, prompt: Prompt) -> dict[str, object]:
    return {
        "id": problem.id,
        "question": problem.question,
        "tier": problem.tier,
        "knowledge": list(problem.knowledge),
        "answer": gold.answer,
        "solution": gold.solution,
        "prompt": prompt.template.format(question=problem.question),
        "hinted": prompt.hinted.format(question=problem.question, answer=gold.answer),
    }


def read(path: Path) -> ProblemSet:
    """The problems of a file that :func:`prepare` wrote. Raises UserError naming file, line and field."""
    problems, golds, prompts, hinted = [], {}, {}, {}
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.readlines()  # not splitlines, which also splits at rarer marks that JSON may hold
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run `snakemake` to make it") from None
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not JSON ({error.msg}); delete the file and run again") from None
        for field in FIELDS:
            if field not in row:
                raise UserError(f"{where}: field `{field}` is missing; delete the file and run again")
        problem = Problem.from_json(row)
        problems.append(problem)
        golds[problem.id] = Gold(row["answer"], row["solution"])
        prompts[problem.id], hinted[problem.id] = row["prompt"], row["hinted"]
    return ProblemSet(problems, golds, prompts, hinted)
