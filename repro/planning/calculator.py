"""FLOPs of anybody's run, from counts that its log has: completions sampled, sequences trained on, lengths.

docs/flops.md says what TRL, verl and OpenRLHF call these. Loads torch only for a model that is not known.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tabulate import tabulate

from repro import files
from repro.errors import UserError
from repro.flops import (
    FORWARD_PASSES,
    TRAINING_PASSES,
    ModelShape,
    Tally,
    flops,
    papers_flops,
    sample_tally,
    sequence_tally,
)
from repro.objectives import OBJECTIVES
from repro.records import Pair
from repro.shapes import decoder, known, named


@dataclass(frozen=True)
class Cost:
    """One kind of work of a run: ``passes`` forward passes over ``tally`` (a backward pass is two)."""

    work: str
    passes: int
    tally: Tally
    flops: int  # official convention
    papers_flops: int


def model_shape(model: str) -> ModelShape:
    """The shape of a well-known model, of one in a folder, or of a ``config.json``. Raises UserError where it
    is none of these, or its FLOPs cannot be counted exactly."""
    path = Path(model)
    path = path / "config.json" if path.is_dir() else path
    if path.is_file():
        return decoder(files.read_json(path, keys=("model_type",)), str(path)).shape
    if found := named(model):
        return found.shape
    raise UserError(
        f"{model} is no folder with a config.json and no well-known model; name one of {', '.join(known())}, "
        "or give the path of a config.json"
    )


def run_cost(
    shape: ModelShape,
    *,
    prompt: float,
    completion: float,
    sampled: int = 0,
    samples: int = 1,
    trained: int = 0,
    objective: str = "SFT",
    references: int | None = None,
    lora: int = 0,
) -> list[Cost]:
    """What a run cost, in the official convention and the papers'.

    ``prompt`` and ``completion`` are mean lengths in tokens. ``sampled`` completions are drawn, ``samples``
    of each prompt. ``trained`` sequences (or pairs, as the ``objective``, one of
    :data:`repro.objectives.OBJECTIVES`, has it) are trained on, each as often as it is visited;
    ``references`` forward passes over all of them are of models that do not change (default: the
    objective's), and ``lora`` is the rank of the adapters that alone are trained. Lengths are taken to be
    alike: where they spread, pairs of attention are a little more, and the papers' padding is much more.

    Raises UserError for counts that cannot be.
    """
    if objective not in OBJECTIVES:
        raise UserError(f"--objective is {objective}; set it to one of {', '.join(OBJECTIVES)}")
    trains = OBJECTIVES[objective]()
    references = trains.references if references is None else references
    if min(sampled, trained, references, lora) < 0 or samples < 1:
        raise UserError("--sampled, --trained, --references and --lora are at least 0, --samples at least 1")
    if min(prompt, completion) < 1:
        raise UserError(f"--prompt is {prompt:g} and --completion {completion:g}; give means of 1 or more")
    if sampled % samples:
        raise UserError(f"--samples is {samples}, which does not divide --sampled, {sampled}; mend either")
    costs = []

    def add(work: str, passes: int, tally: Tally, shape: ModelShape) -> None:
        if tally != Tally.zero() and passes:
            price = flops(shape, tally, passes), papers_flops(shape, tally, passes)
            costs.append(Cost(work, passes, tally, *price))

    groups = sampled // samples
    drawn = Tally.zero()
    for count, asked, generated in _lengths(groups, round(groups * prompt), round(sampled * completion)):
        each = [generated // samples + (i < generated % samples) for i in range(samples)]
        drawn += _times(sample_tally(asked, each, window=shape.window), count)
    add("sampling", FORWARD_PASSES, drawn, shape)
    rows = trained * (2 if trains.data is Pair else 1)
    read = Tally.zero()
    for count, asked, generated in _lengths(rows, round(rows * prompt), round(rows * completion)):
        read += _times(sequence_tally([(asked, generated)], window=shape.window), count)
    add("training", TRAINING_PASSES, read, shape.with_lora(lora))
    add("references", references * FORWARD_PASSES, read, shape)
    return costs


def _lengths(number: int, prompts: int, completions: int) -> Iterator[tuple[int, int, int]]:
    """So many sequences with these totals of tokens, as even as whole numbers allow: (how many, prompt,
    completion)."""
    if number:
        more = prompts % number, completions % number  # sequences that have one token more
        for first, last in pairwise(sorted({0, *more, number})):
            prompt, completion = (
                prompts // number + (first < more[0]),
                completions // number + (first < more[1]),
            )
            yield last - first, prompt, completion


def _times(tally: Tally, number: int) -> Tally:
    return Tally(**{name: number * count for name, count in tally.to_json().items()})


def render(model: str, shape: ModelShape, costs: list[Cost]) -> str:
    """The costs as a table, every digit."""
    rows: list[list[Any]] = [
        [
            c.work,
            c.tally.sequences,
            c.tally.prompt_tokens + c.tally.completion_tokens,
            c.flops,
            c.papers_flops,
        ]
        for c in costs
    ]
    rows.append(["total", "", "", *(sum(row[i] for row in rows) for i in (3, 4))])
    shown = [[row[0], *(f"{cell:,}" if cell != "" else "" for cell in row[1:])] for row in rows]
    head = ["", "sequences", "tokens", "FLOPs", "papers' FLOPs"]
    table = tabulate(shown, head, disable_numparse=True, colalign=("left", *["right"] * 4))
    window = f", window of {shape.window:,} tokens" if shape.window else ""
    active = f", {(shape.parameters - shape.idle) / 1e9:.3g} of them active" if shape.idle else ""
    return f"{model}: {shape.parameters / 1e9:.3g} billion parameters{active}{window}\n\n{table}"


def to_json(model: str, shape: ModelShape, costs: list[Cost]) -> str:
    """The same for machines, with tallies and the shape."""
    total = {name: sum(getattr(cost, name) for cost in costs) for name in ("flops", "papers_flops")}
    rows = [{**cost.__dict__, "tally": cost.tally.to_json()} for cost in costs]
    return json.dumps({"model": model, "shape": shape.to_json(), "costs": rows, "total": total}, indent=1)
