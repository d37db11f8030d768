"""FLOPs of anybody's run: by the command, by the function, and as docs/flops.md works them out."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from repro.cli import app
from repro.errors import UserError
from repro.flops import FORWARD_PASSES, TRAINING_PASSES, flops, papers_flops, sample_tally, sequence_tally
from repro.planning.calculator import model_shape, run_cost
from repro.shapes import known

DOC = (Path(__file__).resolve().parent.parent / "docs" / "flops.md").read_text()
QWEN = known()["Qwen2.5-0.5B"][1].shape


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["flops", *arguments], catch_exceptions=False)


def test_the_worked_example_of_the_docs() -> None:
    command, output = re.search(r"```sh\nrepro flops (.*)\n```\n\n```\n(.*?)```", DOC, re.DOTALL).groups()  # type: ignore[union-attr]
    assert run(*shlex.split(command)).stdout == output
    exec(re.search(r"```python\n(.*?)```", DOC, re.DOTALL)[1], {})  # type: ignore[index]


def test_whole_lengths_are_the_ledgers_charges() -> None:
    # test_flops.py has these by hand
    sampling, training, reference = run_cost(
        QWEN, prompt=120, completion=200, sampled=8, samples=4, trained=3, objective="DPO"
    )
    assert sampling.flops == 2 * 888_224_497_664
    assert sampling.flops == 2 * flops(QWEN, sample_tally(120, [200] * 4), FORWARD_PASSES)
    pairs = sequence_tally([(120, 200)] * 6)
    assert training.tally == pairs and reference.tally == pairs
    assert training.flops == flops(QWEN, pairs, TRAINING_PASSES) == 3 * reference.flops
    assert training.papers_flops == papers_flops(QWEN, pairs, TRAINING_PASSES)


@pytest.mark.parametrize(("objective", "passes"), [("SFT", [3]), ("DPO", [3, 1]), ("PolicyGradient", [3])])
def test_references_by_objective(objective: Any, passes: list[int]) -> None:
    costs = run_cost(QWEN, prompt=5, completion=5, trained=10, objective=objective)
    assert [cost.passes for cost in costs] == passes
    costs = run_cost(QWEN, prompt=5, completion=5, trained=10, objective=objective, references=2)
    assert [cost.passes for cost in costs] == [3, 2]


def test_means_that_are_not_whole_keep_their_totals() -> None:
    sampling, training = run_cost(QWEN, prompt=10.3, completion=7.7, sampled=20, samples=4, trained=30)
    assert sampling.tally.completion_tokens == 154 and sampling.tally.sequences == 20
    assert sampling.tally.prompt_tokens == 4 * round(5 * 10.3)
    assert (training.tally.prompt_tokens, training.tally.completion_tokens) == (309, 231)
    # 9 of 30 prompts have 11 tokens, 21 completions have 8
    even = [(11 if i < 9 else 10, 8 if i < 21 else 7) for i in range(30)]
    assert training.tally.pairs == sequence_tally(even).pairs


def test_lora_and_windows() -> None:
    shape = known()["gemma-3-1b"][1].shape
    sampling, training, reference = run_cost(
        shape, prompt=700, completion=100, sampled=2, samples=2, trained=2, references=1, lora=8
    )
    tally = sequence_tally([(700, 100)] * 2, window=512)
    adapted = flops(shape.with_lora(8), tally, TRAINING_PASSES)
    assert training.flops == adapted != flops(shape, tally, TRAINING_PASSES)
    assert sampling.tally == sample_tally(700, [100, 100], window=512)  # neither is adapted
    assert reference.flops == flops(shape, tally, FORWARD_PASSES)


def test_the_model_is_told_with_its_window_and_its_idle_experts() -> None:
    asked = ("--prompt", "5", "--completion", "5", "--trained", "1")
    assert run("gemma-3-1b", *asked).stdout.startswith(
        "gemma-3-1b: 1 billion parameters, window of 512 tokens\n"
    )
    shape = known()["Qwen3-30B-A3B"][1].shape
    active = f"{(shape.parameters - shape.idle) / 1e9:.3g} of them active"
    assert run("Qwen3-30B-A3B", *asked).stdout.startswith(
        f"Qwen3-30B-A3B: 30.5 billion parameters, {active}\n"
    )


def test_json_has_tallies_and_totals() -> None:
    found = json.loads(
        run("Qwen2.5-0.5B", "--prompt", "120", "--completion", "200", "--sampled", "4", "--json").stdout
    )
    assert found["shape"] == QWEN.to_json() and found["costs"][0]["tally"]["sequences"] == 4
    assert found["total"] == {name: found["costs"][0][name] for name in ("flops", "papers_flops")}


def test_a_model_is_a_name_a_folder_or_a_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(known()["pocket"][0]))
    shape = known()["pocket"][1].shape
    assert model_shape(str(tmp_path)) == model_shape(str(tmp_path / "config.json")) == shape
    assert model_shape("Qwen/Qwen2.5-0.5B-Instruct") == QWEN
    with pytest.raises(UserError, match=r"^nothing is no folder with a config.json and no well-known model"):
        model_shape("nothing")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"objective": "ppo"}, "--objective is ppo; set it to one of SFT, DPO, PolicyGradient"),
        ({"trained": -1}, "are at least 0"),
        ({"completion": 0.5}, "give means of 1 or more"),
        ({"sampled": 10, "samples": 4}, "--samples is 4, which does not divide --sampled, 10"),
    ],
)
def test_counts_that_cannot_be(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        run_cost(QWEN, **{"prompt": 5, "completion": 5, **wrong})
