"""GSM8K (Cobbe et al. 2021): rows ``{"question", "answer"}``, the answer ending in ``#### number``."""

from __future__ import annotations

import json
import re
from pathlib import Path

from repro.config import Gsm8kProblems
from repro.errors import UserError
from repro.records import Gold, Problem
from repro.seeds import generator

ANNOTATION = re.compile(r"<<[^<>]*>>")


def load(spec: Gsm8kProblems) -> dict[str, list[tuple[Problem, Gold]]]:
    """Rows drawn by seed: training and validation from ``train.jsonl``, test from ``test.jsonl``.

    Raises UserError naming the file, line and field of a malformed row, or where a file has too few.
    """
    folder = spec.directory()
    draw = {"train": spec.train + spec.validation, "test": spec.test}
    drawn = {}
    for name, size in draw.items():
        available = _read(folder / f"{name}.jsonl", name)
        if len(available) < size:
            raise UserError(
                f"{folder / name}.jsonl has {len(available)} rows, the study asks for {size}; ask for fewer"
            )
        order = generator("gsm8k", name, spec.seed).permutation(len(available))[:size]
        drawn[name] = [available[i] for i in order]
    return {
        "train": drawn["train"][: spec.train],
        "validation": drawn["train"][spec.train :],
        "test": drawn["test"],
    }


def _read(path: Path, split: str) -> list[tuple[Problem, Gold]]:
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; put GSM8K's {path.name} there, or name its folder in problems.folder"
        )
    with open(path, encoding="utf-8") as file:
        lines = file.readlines()  # not splitlines, which also splits at rarer marks that JSON may hold
    problems = []
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not JSON ({error.msg}); mend or remove the line") from None
        for field in ("question", "answer"):
            if not isinstance(row, dict) or not isinstance(row.get(field), str) or not row[field].strip():
                raise UserError(f"{where}: field `{field}` is missing or empty; mend or remove the line")
        solution, mark, answer = row["answer"].rpartition("####")
        if not mark or not answer.strip():
            raise UserError(f"{where}: field `answer` has no final `#### number`; mend or remove the line")
        text = ANNOTATION.sub("", solution).strip() + f"\n#### {answer.strip()}"
        gold = Gold(answer.strip().replace(",", ""), text)
        problems.append((Problem(f"gsm8k-{split}-{number:05d}", row["question"].strip(), "all"), gold))
    return problems
