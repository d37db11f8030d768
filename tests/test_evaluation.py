"""Evaluation through lm-eval: every sample is scored, seeded by name, counted, and recorded."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from repro.benchmarks import BENCHMARKS
from repro.collect import collect
from repro.config import Benchmark, Study
from repro.discovery import load_method
from repro.errors import UserError
from repro.evaluation import COLUMNS, Evaluation, evaluate, evaluate_run
from repro.files import fingerprint, read_checked, read_json, seal, sealed, sha256, write_checked, write_json
from repro.flops import sample_tally
from repro.identity import part_names, run_key
from repro.identity import settings as run_settings
from repro.layout import Layout
from repro.ledger import Entry
from repro.problems import read, sources
from repro.problems.sources import SOURCES
from repro.profiles import Settings, settings
from repro.provenance import Process
from repro.records import Verdict
from repro.reporting.recount import recount
from repro.reporting.results import load
from repro.sampling import Progress, Request, Sample, Sampled, SamplingParams
from repro.sampling.transformers import TransformersSampler
from repro.schema import Account
from repro.shapes import shape_of
from repro.verify import extract

TASKS = Path(__file__).parents[1] / "benchmarks" / "tasks"
WORDS = ["<pad>", "<bos>", "<eos>", "####", *map(str, range(10)), "+", "="]
K = 4

# The task files' functions, loaded as lm-eval loads them: by path.
_spec = spec_from_file_location("suite", TASKS / "suite.py")
assert _spec and _spec.loader
suite = module_from_spec(_spec)
_spec.loader.exec_module(suite)
Checked, score, stated = suite.Checked, suite.score, suite.stated


@dataclass
class Scripted:
    """A sampler that says what ``say(prompt, number of the completion)`` says, in one token a word."""

    say: Callable[[str, int], str]
    calls: list[tuple[SamplingParams, list[Request]]] = field(default_factory=list)

    models: list[Path] = field(default_factory=list)
    closed: bool = False

    def load(self, model_dir: Path) -> None:
        self.models.append(model_dir)

    def close(self) -> None:
        self.closed = True

    def sample(
        self, requests: Sequence[Request], params: SamplingParams, progress: Progress | None = None
    ) -> list[Sampled]:
        self.calls.append((params, list(requests)))
        return [
            Sampled(
                len(request.prompt.split()),
                tuple(self._sample(self.say(request.prompt, i)) for i in range(len(request.seeds))),
            )
            for request in requests
        ]

    def _sample(self, text: str) -> Sample:
        return Sample(text, len(text.split()) + 1, "length" if text.endswith("...") else "stop", -1.0, 0)


def row(number: int, answer: str | None = None, **fields: Any) -> dict[str, Any]:
    answer = str(number) if answer is None else answer
    known = {"id": f"p{number}", "tier": str(number % 2 + 1), "answer": answer, "prompt": f"{number} + 0 ="}
    known |= {"few_shot": "w1", "hinted": "w2"}
    return known | {"question": "?", "knowledge": ["gain"], "solution": None} | fields


def write(folder: Path, rows: Sequence[dict[str, Any]], benchmark: str = "ladder") -> Path:
    """The folder, which now holds the problems of the benchmark."""
    (folder / f"{benchmark}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(problems: Path, sampler: Any, benchmark: str = "ladder", k: int = K, **settings: Any) -> Evaluation:
    how = Settings(k, 1.0, 1.0, max_tokens=9)
    return evaluate(sampler, problems, benchmark, how, **{"seed": 1} | settings)


def number_of(prompt: str) -> int:
    return int(prompt.split()[0])


# ---------------------------------------------------------------------------------------------- scores


def test_all_k_samples_are_scored(tmp_path: Path) -> None:
    def say(prompt: str, i: int) -> str:  # sample i of problem n is right if i < n; the first is never
        n = number_of(prompt)  # enough to tell
        return f"#### {n}" if K - i <= n else ("so", "#### 77", "#### 78", "it goes on ...")[i]

    found = run(write(tmp_path, [row(n) for n in range(K + 1)]), Scripted(say))
    sampled = found.samples[found.samples["mode"] == "sampled"]
    assert list(found.samples.columns) == list(COLUMNS)
    assert sampled.groupby("problem")["correct"].mean().to_dict() == {f"p{n}": n / K for n in range(K + 1)}
    assert sampled.groupby("tier")["correct"].mean().to_dict() == {"1": (0 + 2 + 4) / 12, "2": (1 + 3) / 8}
    # wrong: samples 0..3-n of problem n; 0 and 3 have no answer, 1 and 2 a wrong one
    assert sampled["verdict"].value_counts().to_dict() == {"correct": 10, "unparsable": 4 + 1, "wrong": 3 + 2}
    assert sampled["sample"].tolist() == [0, 1, 2, 3] * (K + 1)
    assert (sampled["finish"] == "length").sum() == 1
    greedy = found.samples[found.samples["mode"] == "greedy"]
    assert greedy["correct"].tolist() == [False, False, False, False, True]
    assert found.task_versions == {"ladder_greedy": 2.0, "ladder_sampled": 2.0}
    assert set(found.samples["benchmark"]) == {"ladder"}
    assert sampled.query("problem == 'p1'")["answer"].tolist() == ["", "77", "78", "1"]


@pytest.mark.parametrize(
    ("answer", "wordings"),
    [
        ("18", ("#### 18", "The answer is 18.", r"so $\boxed{18}$", "9 * 2 = 18 ; #### 18.00")),
        ("1234", ("#### 1,234", r"\boxed{1234.0}", "#### $1,234", "The final answer is $1234$.")),
        ("0.5", (r"\boxed{\frac{1}{2}}", "#### 1/2", "#### .5", r"\boxed{0.50}")),
    ],
)
def test_gold_answers_score_one_in_every_wording(
    tmp_path: Path, answer: str, wordings: tuple[str, ...]
) -> None:
    found = run(write(tmp_path, [row(1, answer)]), Scripted(lambda _, i: wordings[i]))
    assert found.samples["correct"].tolist() == [True] * (K + 1)
    assert found.samples["text_hash"].nunique() == K


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_its_tasks(tmp_path: Path, name: str) -> None:
    sampler = Scripted(lambda prompt, _: f"#### {number_of(prompt)}")
    problems = write(tmp_path, [row(n) for n in range(3)], name)
    found = evaluate(sampler, problems, name, Settings(K, 0.6, 0.95, max_tokens=9), seed=1)
    (drawn, requests), (greedy, _) = sorted(sampler.calls, key=lambda call: -call[0].temperature)
    assert drawn == SamplingParams(temperature=0.6, top_p=0.95, max_tokens=9)
    assert (greedy.temperature, greedy.max_tokens) == (0, 9)
    assert [request.prompt for request in requests] == ["0 + 0 =", "1 + 0 =", "2 + 0 ="]  # nothing added
    assert found.samples["correct"].all() and len(found.samples) == 3 * (1 + K)
    assert set(found.task_versions) == {f"{name}_sampled", f"{name}_greedy"}


def test_task_files_and_benchmarks_are_the_same() -> None:
    tasks = {f"{name}_{mode}.yaml" for name in BENCHMARKS for mode in ("sampled", "greedy")}
    own = {"own_sampled.yaml", "own_greedy.yaml"}  # of benchmarks that studies bring
    assert {path.name for path in TASKS.glob("*.yaml")} == tasks | own | {"_base.yaml"}


def metrics(*found: tuple[str, str]) -> dict[str, float]:
    """The metrics of one problem, from the verdict and answer of each sample; texts differ with answers."""
    return score({}, [[Checked(Verdict(verdict), answer, answer) for verdict, answer in found]])


def test_metrics_worked_example() -> None:
    right, wrong, none = ("correct", "7"), ("wrong", "5"), ("unparsable", "")
    assert metrics(right, wrong, wrong, none) == {
        "avg@k": 1 / 4, "pass@k": 1, "maj@k": 0, "unparsable": 1 / 4, "timeout": 0, "distinct": 3 / 4,
    }  # fmt: skip
    assert metrics(right, none, none)["maj@k"] == 1  # who states no answer has no vote
    assert metrics(wrong, right)["maj@k"] == 0 and metrics(right, wrong)["maj@k"] == 1  # the first of equals
    assert metrics(none, none)["maj@k"] == metrics(none)["pass@k"] == 0
    assert metrics(("timeout", "9"), right)["timeout"] == 1 / 2


verdicts = st.sampled_from([("correct", "7"), ("correct", "7.0"), ("wrong", "5"), ("unparsable", "")])


@given(st.lists(verdicts, min_size=1, max_size=9))
def test_metrics_are_ordered(found: list[tuple[str, str]]) -> None:
    one = metrics(*found)
    assert 0 <= one["avg@k"] <= one["pass@k"] and one["maj@k"] <= one["pass@k"]
    assert one["avg@k"] + one["unparsable"] + one["timeout"] <= 1
    if len({answer for _, answer in found}) == 1:
        assert one["maj@k"] == one["pass@k"] == one["avg@k"]


def test_long_answers_are_recorded_short_and_apart() -> None:
    one, other = (stated(rf"\boxed{{{'x + ' * 40}{end}}}") for end in "ab")
    assert one != other and len(one) == len(other) <= 48 and one.startswith("x + x + ")
    assert stated(r"\boxed{1,234.50}") == "1234.5" and stated("no answer") == ""
    assert stated(rf"\boxed{{{'9' * 9000}}}") == ""


def test_half_a_surrogate_pair_can_be_checked_and_recorded() -> None:
    texts = ["#### 5 \ud800", "\udfff #### 5"]
    ((one, other),) = suite.verify([texts], [{"answer": "5"}])
    assert (one.verdict, other.verdict) == (Verdict.UNPARSABLE, Verdict.CORRECT)
    assert one.text_hash != other.text_hash
    assert f"{one.answer}{other.answer}".encode()


# ------------------------------------------------------------------------------ wordings of real answers


# Every wording of a right answer that a stock task of lm-eval scores 0, and some that they accept.
WORDINGS = (
    r"\boxed{@}",
    r"So the answer is $\boxed{@}$.",
    "Thus\n\\[\n\\boxed{@}\n\\]",
    r"We set $x=1$ first. So the answer is $\boxed{@}$.",
    "The answer is $@$.",
    "Final Answer: The final answer is $@$. I hope it is correct.",
    "work. Answer: @",
)
NUMBERS = (  # of GSM8K, AIME and AMC
    "#### @",
    "The answer is @.",
    "#### @\nNote that there were 5 steps.",
    r"\boxed{@.00}",
    "The answer is $@.00",
    "So she makes **Answer: $@.00**",
)
# Not accepted, on purpose: nothing says that this number is the final answer, and reasoning that was cut off,
# or that went on to other numbers, would pass as well. Stock tasks take the last number or the whole text.
AMBIGUOUS = {
    "@": "a bare answer without any mark",
    "**@ dollars**": "bold is no mark of an answer: headings and steps are bold as well",
    "She makes $@.00": "the last number of a text, whatever it is of",
    "The total is @, in 2 days.": "two numbers, and no mark on either",
}


def real_rows(benchmark: str) -> list[tuple[str, str | None]]:
    """(gold answer, gold solution) of real rows, from the files as they are downloaded."""
    if "REPRO_DATA_DIR" not in os.environ:
        pytest.skip("needs the benchmarks' files: set REPRO_DATA_DIR to their folder")
    path = Path(os.environ["REPRO_DATA_DIR"]) / benchmark / "test.jsonl"
    if SOURCES[f"{benchmark}/test"].digest is None:
        if not path.is_file():
            pytest.skip(f"{path} is not there, and its content is not pinned")
        read_rows = sources.load(path.parent.parent, f"{benchmark}/test")
        return [(gold.answer, None) for _, gold in read_rows[:: len(read_rows) // 200 or 1]]
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    if benchmark == "gsm8k":
        return [(r["answer"].rpartition("####")[2].strip(), r["answer"]) for r in rows[::8]]
    if benchmark == "math":  # with the box of the solution for its answer
        kept = [r for r in rows if r["solution"].count("boxed") == 1][::25]
        return [(extract(r["solution"]) or "", r["solution"]) for r in kept]
    return [(str(r["answer"]), r["solution"] if benchmark == "math500" else None) for r in rows]


@pytest.mark.parametrize("name", [name for name, row in BENCHMARKS.items() if row.rows])
def test_real_golds_score_one_in_every_wording(tmp_path: Path, name: str) -> None:
    golds = real_rows(name)
    rows = [row(n, gold, tier="all") for n, (gold, _) in enumerate(golds)]
    wordings = list(WORDINGS)
    if name in ("gsm8k", "aime24", "amc23"):
        wordings += NUMBERS

    def say(prompt: str, i: int) -> str:
        answer, solution = golds[number_of(prompt)]
        if i == len(wordings):
            return solution or answer
        # 27.0 -> 27, 025 -> 25: as people write them; the gold keeps its own form
        shown = answer.removesuffix(".0").lstrip("0") if name in ("aime24", "amc23") else answer
        return wordings[i].replace("@", shown)

    k = len(wordings) + (golds[0][1] is not None)  # the gold solution itself is the last wording
    found = run(write(tmp_path, rows, name), Scripted(say), name, k=k).samples
    # In `$\$36$` the verifier takes the escaped dollar sign for the end of the formula.
    odd = {f"p{n}" for n, (gold, _) in enumerate(golds) if r"\$" in gold}
    missed = found[~found["correct"] & ~(found["problem"].isin(odd) & found["sample"].isin([4, 5]))]
    assert missed.empty, [(golds[int(r.problem[1:])][0], r.sample, r.answer) for r in missed.itertuples()][:9]


@pytest.mark.parametrize("wording", AMBIGUOUS)
def test_a_number_without_a_mark_is_no_answer(tmp_path: Path, wording: str) -> None:
    found = run(write(tmp_path, [row(18)]), Scripted(lambda *_: wording.replace("@", "18")), k=1)
    assert set(found.samples["verdict"]) == {"unparsable"}, AMBIGUOUS[wording]


# ---------------------------------------------------------------------------------- seeds and counts


def test_k_samples_share_one_request_of_distinct_seeds(tmp_path: Path) -> None:
    problems = write(tmp_path, [row(n) for n in range(6)])

    def seeds(**settings: Any) -> dict[str, tuple[int, ...]]:
        sampler = Scripted(lambda *_: "#### 0")
        run(problems, sampler, **settings)
        ((_, requests),) = [call for call in sampler.calls if call[0].temperature > 0]
        return {request.prompt: request.seeds for request in requests}

    first = seeds()
    assert [len(s) for s in first.values()] == [K] * 6
    assert len({seed for s in first.values() for seed in s}) == 6 * K
    assert first == seeds()  # models meet the same random numbers
    more = seeds(k=K + 2)
    assert all(more[prompt][:K] == s for prompt, s in first.items())
    assert not {s for row in first.values() for s in row} & {s for row in seeds(seed=2).values() for s in row}


def test_tally_counts_a_shared_prompt_once(tmp_path: Path) -> None:
    # Prompt of 4 tokens; 4 sampled completions and 1 greedy one of "#### 1" and an end-of-text token.
    found = run(write(tmp_path, [row(1)]), Scripted(lambda *_: "#### 1"))
    assert found.tally == sample_tally(4, [3] * K) + sample_tally(4, [3])
    assert found.tally.tokens == (4 + K * 2) + (4 + 2)
    assert found.samples["tokens"].tolist() == [3] * (K + 1)


def make_model(folder: Path) -> Path:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    ).save_pretrained(folder)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,  # of 32 dimensions: vLLM's CPU build takes no less
        num_key_value_heads=1,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.mark.promise(
    "The same numbers",
    "A completion depends on its prompt and seed, and neither on its neighbours nor on their order.",
)
def test_a_sample_depends_on_neither_order_nor_batch(tmp_path: Path, model: Path) -> None:
    rows = [row(n, prompt=" ".join(WORDS[4 : 5 + n])) for n in range(9)]

    def samples(rows: Sequence[dict[str, Any]], batch_size: int) -> list[list[Any]]:
        sampler = TransformersSampler(batch_size=batch_size, device="cpu")
        sampler.load(model)
        found = run(write(tmp_path, rows), sampler).samples
        return found.sort_values(["mode", "problem", "sample"]).values.tolist()

    first = samples(rows, 64)
    assert len({record[-1] for record in first}) > 20  # texts differ, or this test says nothing
    assert samples(rows[::-1], 5) == first


# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"id": "p2", ', "line 2: not JSON"),
        ("[1]", "line 2: `id` must be a text"),
        (json.dumps(row(2, answer="")), "line 2: `answer` must be a text"),
        (json.dumps(row(2) | {"answer": 2}), "line 2: `answer` must be a text"),
        (json.dumps({k: v for k, v in row(2).items() if k != "prompt"}), "line 2: `prompt` must be a text"),
        (json.dumps(row(1)), "line 2: problem p1 is already on line 1"),
        (json.dumps(row(2, answer=r"\frac{")), r"line 2 cannot be read"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "ladder.jsonl"
    path.write_text(json.dumps(row(1)) + "\n" + line + "\n")
    with pytest.raises(UserError) as error:
        run(tmp_path, Scripted(lambda *_: ""))
    assert f"{path}, {complaint}" in str(error.value)


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    for folder in (tmp_path, write(tmp_path, [row(1)]) / "ladder.jsonl"):
        with pytest.raises(UserError, match=r"gsm8k\.jsonl does not exist; name a folder that holds gsm8k"):
            run(folder, Scripted(lambda *_: ""), "gsm8k")
    with pytest.raises(UserError, match="add --metadata problems=FOLDER"):
        suite.load("ladder")  # as a command line without it has it
    with pytest.raises(UserError, match=r"ladder\.jsonl holds no problems"):
        run(write(tmp_path, []), Scripted(lambda *_: ""))


def test_impossible_tasks_are_refused(tmp_path: Path) -> None:
    problems, sampler = write(tmp_path, [row(1)], "own"), Scripted(lambda *_: "")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=r"no task ladder_sampled in .*other; known tasks: none"):
        run(problems, sampler, tasks_dir=tmp_path / "other")
    shutil.copy(TASKS / "ladder_greedy.yaml", tmp_path / "other")
    shutil.copy(TASKS / "_base.yaml", tmp_path / "other")
    with pytest.raises(UserError, match=r"no task ladder_sampled in .*known tasks: ladder_greedy"):
        run(problems, sampler, tasks_dir=tmp_path / "other")

    def tasks(settings: str, **more: str) -> Path:
        for mode in ("sampled", "greedy"):
            lines = {"include": TASKS / "_base.yaml", "task": f"own_{mode}", "generation_kwargs": settings}
            lines |= {"metadata": "{version: 1, benchmark: own}"} | more
            text = "".join(f"{key}: {value}\n" for key, value in lines.items())
            (tmp_path / f"own_{mode}.yaml").write_text(text)
        return tmp_path

    with pytest.raises(UserError, match=r"Task own_\w+: .* have no num_beams=4"):
        run(problems, sampler, "own", tasks_dir=tasks("{num_beams: 4}"))
    with pytest.raises(UserError, match=r"Task own_\w+ asks for log-likelihoods"):
        run(problems, sampler, "own", tasks_dir=tasks("{until: []}", output_type="loglikelihood"))


# ------------------------------------------------------------------------------------------------- runs


def made_study(**evaluation: Any) -> Study:
    """Keys that evaluation reads; the rest is whatever is valid."""
    return Study.model_validate(
        {
            "name": "made", "title": "Made", "seeds": [3], "budgets": [10, 20],
            "problems": {"source": "gsm8k"},
            "base_model": {"source": "random", "config": {"model_type": "llama"}},
            "sampling": {"max_tokens": 7},
            "evaluation": {"benchmarks": {"gsm8k": {}, "aime24": {"samples": 2}}} | evaluation,
        }
    )  # fmt: skip


def made_run(root: Path, study: Study, model: Path) -> Layout:
    """A finished run with two checkpoints, the second with other weights, and two benchmarks' problems."""
    layout = Layout(root, study.name)
    layout.test("gsm8k").parent.mkdir(parents=True)
    write(layout.problems, [row(n) for n in range(3)], "train")
    seal(shutil.copytree(model, layout.base))
    base = fingerprint(layout.base)
    shape = shape_of(layout.base)
    write_checked(
        layout.base_manifest,
        {"description": "made", "shape": shape.to_json(), "warm_start": None, "fingerprint": base},
    )
    rows = []
    tally = sample_tally(4, [3, 3])
    for number, budget in enumerate(study.budgets):
        folder = shutil.copytree(model, layout.runs / f"star-3-key/models/000001/step-{number + 1:06d}")
        (folder / "generation_config.json").write_text(json.dumps({"number": number}))
        seal(folder)
        entry = Entry(Account.SAMPLE, 1, number + 1, 1, shape, tally)
        rows.append(
            {
                "budget": budget, "checkpoint": str(folder.relative_to(layout.work)),
                "fingerprint": fingerprint(folder), "spent": (number + 1) * entry.flops,
                "papers_flops": (number + 1) * entry.papers_flops, "rounds": 1, "steps": number,
                "ledger": [entry.to_json()],
                "monitors": [[1, 7 * number, {"solved": 0.25, "alpha": -number}]],
            }
        )  # fmt: skip
    write_manifest(layout, study, "star", rows)
    write_manifest(layout, study, "rft", rows)
    write(layout.test("gsm8k").parent, [row(n) for n in range(5)], "gsm8k")
    write(layout.test("gsm8k").parent, [row(n) for n in range(2)], "aime24")
    write_report(layout, {"style": "plain", "digest": "abc"})
    return layout


def write_report(layout: Layout, prompt: dict[str, str], **more: Any) -> None:
    written = [path.relative_to(layout.problems) for path in layout.problems.rglob("*.jsonl")]
    hashes = {str(path.with_suffix("")): sha256(layout.problems / path) for path in written}
    write_checked(layout.problems / "report.json", {"prompt": prompt, "files": hashes, **more})


def write_manifest(layout: Layout, study: Study, name: str, rows: list[dict[str, Any]]) -> None:
    problems, base = read(layout.problems / "train.jsonl"), fingerprint(layout.base)
    method = load_method(study, name)
    taken = {"budget": 20, "account": "train", "device": "CPU", "seconds": 1.5, "joules": None, "flops": 0}
    write_checked(
        layout.run(name, 3),
        {
            "method": name, "title": method.title, "role": "method", "paper": "", "origin": "", "seed": 3,
            "plans": False,
            "status": "ok" if rows else "failed", "reason": "" if rows else "it did", "mode": "",
            "objective": "SFT", "key": run_key(study, method, name, 3, problems, base), "base": base,
            "budgets": rows, "asked": study.budgets,
            "visits": [], "machine": [taken],
        },
    )  # fmt: skip


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    sampler = Scripted(lambda prompt, i: f"#### {number_of(prompt) * (i % 2)}")
    monkeypatch.setattr("repro.sampling.sampler_for", lambda sampling: sampler, raising=False)
    return sampler


def test_a_run_is_evaluated_on_every_benchmark(tmp_path: Path, model: Path, engine: Scripted) -> None:
    study = made_study(profile="pocket", max_tokens=5)
    layout = made_run(tmp_path, study, model)
    evaluate_run(study, "star", 3, layout)
    assert engine.closed and len(engine.models) == 2  # one load a checkpoint
    samples = pd.read_parquet(layout.samples("star", 3))
    assert list(samples.columns) == ["method", "seed", "budget", *COLUMNS]
    counts = samples.groupby(["budget", "benchmark", "mode"]).size()
    for budget in study.budgets:  # k is the profile's for gsm8k and the study's own for aime24
        assert counts[budget].to_dict() == {
            ("gsm8k", "sampled"): 20, ("gsm8k", "greedy"): 5,
            ("aime24", "sampled"): 4, ("aime24", "greedy"): 2,
        }  # fmt: skip
    assert {params.max_tokens for params, _ in engine.calls} == {5}
    facts = read_json(layout.samples("star", 3).with_suffix(".json"))
    assert facts["prompt"]["digest"] == "abc"
    assert facts["engine"]["engine"] == "transformers" and facts["engine"]["torch"]
    modes = ("sampled", "greedy")
    assert facts["tasks"] == {f"{b}_{mode}": 2.0 for b in ("gsm8k", "aime24") for mode in modes}
    # Prompts of 4 tokens, completions of 3.
    wanted = sum(n * (4 + k * 2 + 4 + 2) for n, k in ((5, 4), (2, 2)))
    assert facts["budgets"]["10"]["tally"]["tokens"] == wanted
    assert facts["budgets"]["10"]["device"] and facts["budgets"]["10"]["seconds"] >= 0


def test_parts_that_are_there_are_not_done_again(tmp_path: Path, model: Path, engine: Scripted) -> None:
    study = made_study()
    layout = made_run(tmp_path, study, model)
    evaluate_run(study, "star", 3, layout)
    wanted = layout.samples("star", 3).read_bytes()
    done = len(engine.calls)
    evaluate_run(study, "star", 3, layout)
    assert len(engine.calls) == done and layout.samples("star", 3).read_bytes() == wanted
    (part,) = list(layout.samples("star", 3).with_suffix("").glob("aime24-*"))[:1]
    shutil.rmtree(part)
    evaluate_run(study, "star", 3, layout)  # one of two checkpoints on one of two benchmarks
    assert len(engine.calls) == done + 2 and layout.samples("star", 3).read_bytes() == wanted
    fewer = made_study(benchmarks={"gsm8k": {}, "aime24": {"samples": 1}})
    evaluate_run(fewer, "star", 3, layout)  # GSM8K is untouched
    assert {len(requests) for _, requests in engine.calls[done + 2 :]} == {2}


def test_a_damaged_base_model_changes_no_flops(tmp_path: Path, model: Path, engine: Scripted) -> None:
    """Its sizes are in its folder too, which is not looked at where no checkpoint is loaded."""
    study = made_study()
    layout = made_run(tmp_path, study, model)
    evaluate_run(study, "star", 3, layout)
    facts = layout.samples("star", 3).with_suffix(".json")
    wanted = read_json(facts)["budgets"]["10"]["shape"]
    write_json(layout.base / "origin.json", {"shape": wanted | {"body": wanted["body"] + 1}})
    evaluate_run(study, "star", 3, layout)
    assert read_json(facts)["budgets"]["10"]["shape"] == wanted


def test_a_run_that_failed_has_no_samples(tmp_path: Path, model: Path, engine: Scripted) -> None:
    study = made_study()
    layout = made_run(tmp_path, study, model)
    write_manifest(layout, study, "star", [])
    evaluate_run(study, "star", 3, layout)
    samples = pd.read_parquet(layout.samples("star", 3))
    assert samples.empty and list(samples.columns) == ["method", "seed", "budget", *COLUMNS]
    assert not engine.calls


def collected(layout: Layout, study: Study, *methods: str) -> dict[str, Any]:
    """study.json of runs that were evaluated."""
    collect(study, list(methods), layout, Path("made.yaml"))
    return dict(read_json(layout.results / "records" / "study.json"))


def told(layout: Layout) -> dict[str, str]:
    """The texts that were collected; all that the records say of them agrees."""
    assert not [one for one in recount(layout.results / "records").differences if "texts" in one]
    return load(layout.results / "records").texts


def with_evaluation(study: Study, **keys: Any) -> Study:
    return study.model_copy(update={"evaluation": study.evaluation.model_copy(update=keys)})


def test_a_share_of_the_problems_keeps_its_texts(tmp_path: Path, model: Path, engine: Scripted) -> None:
    engine.say = lambda prompt, i: f"{prompt} of {len(engine.calls)} #### {i}"
    study = made_study(texts=1)
    layout = made_run(tmp_path, study, model)
    write(layout.test("gsm8k").parent, [row(n) for n in range(40)], "gsm8k")
    write_report(layout, {"style": "plain", "digest": "abc"})
    for name in ("star", "rft"):
        evaluate_run(study, name, 3, layout)
    asked, records = len(engine.calls), layout.results / "records"
    evaluated = pd.concat([pd.read_parquet(layout.samples(name, 3)) for name in ("star", "rft")])
    found, sizes = {}, []
    for share in (1, 0.3, 0.1, 0):
        other = with_evaluation(study, texts=share)
        collected(layout, other, "star", "rft")  # which evaluates nothing, and finds all as it was asked for
        found[share] = told(layout)
        sizes.append((records / "texts.parquet").stat().st_size)
        if share == 0.3:
            first = (records / "texts.parquet").read_bytes()
            collected(layout, other, "rft", "star")
            assert (records / "texts.parquet").read_bytes() == first
    assert len(engine.calls) == asked
    assert found[1] == dict(zip(evaluated["text_hash"], evaluated["text"], strict=True))
    assert found[0] == {} and sizes == sorted(sizes, reverse=True)
    assert found[0.1].items() < found[0.3].items() < found[1].items()
    here = evaluated[evaluated["text_hash"].isin(found[0.3])]
    there = evaluated[~evaluated["text_hash"].isin(found[0.3])]
    keys = [{*zip(frame["benchmark"], frame["problem"], strict=True)} for frame in (here, there)]
    assert not keys[0] & keys[1]  # all of a problem, whichever row, seed and budget, or nothing
    assert 42 * 0.1 < len(keys[0]) < 42 * 0.6
    assert "text" not in pd.read_parquet(records / "samples.parquet").columns


def test_a_text_that_no_file_can_hold_is_kept_all_the_same(
    tmp_path: Path, model: Path, engine: Scripted
) -> None:
    engine.say = lambda prompt, i: f"\ud83d no pair \U0001f600 #### {i}"
    study = made_study(texts=1)
    layout = made_run(tmp_path, study, model)
    evaluate_run(study, "star", 3, layout)
    collected(layout, study, "star")
    assert sorted(told(layout).values()) == [f"\ufffd no pair \U0001f600 #### {i}" for i in range(4)]


def test_parts_of_a_version_that_kept_no_texts_are_made_again(
    tmp_path: Path, model: Path, engine: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = made_study(texts=1)
    layout = made_run(tmp_path, study, model)
    write_manifest(layout, study, "rft", [])
    monkeypatch.setattr("repro.identity.PART", 1)
    for name in ("star", "rft"):
        evaluate_run(study, name, 3, layout)
        path = layout.samples(name, 3)
        pd.read_parquet(path).drop(columns="text").to_parquet(path, index=False)
        facts = read_checked(path.with_suffix(".json"))
        del facts["process"]
        write_checked(path.with_suffix(".json"), facts | {"samples": sha256(path)})
    monkeypatch.undo()
    monkeypatch.setattr("repro.sampling.sampler_for", lambda sampling: engine, raising=False)
    with pytest.raises(UserError, match=r"star-3\.json is of other problems or task files"):
        collected(layout, study, "star")
    evaluate_run(study, "star", 3, layout)
    collected(layout, study, "star", "rft")  # which failed: there is nothing to evaluate again
    assert len(told(layout)) == pd.read_parquet(layout.samples("star", 3))["text_hash"].nunique()


@pytest.mark.parametrize("questions", [False, True])
def test_questions_are_recorded_where_the_study_says_so(
    tmp_path: Path, model: Path, engine: Scripted, questions: bool
) -> None:
    study = made_study(questions=questions)
    layout = made_run(tmp_path, study, model)
    evaluate_run(study, "star", 3, layout)
    collected(layout, study, "star")
    records = layout.results / "records"
    found = pd.read_parquet(records / "problems.parquet").set_index(["benchmark", "problem"])
    assert found["tier"]["gsm8k"].to_dict() == {f"p{n}": str(n % 2 + 1) for n in range(5)}
    assert list(found["tier"]["aime24"].index) == ["p0", "p1"]
    texts = {
        (name, f"p{n}"): ("?", str(n)) for name, size in (("gsm8k", 5), ("aime24", 2)) for n in range(size)
    }
    assert load(records).questions == (texts if questions else {})
    assert found["answer"].isna().all() != questions
    assert not [one for one in recount(records).differences if "problems" in one]


def test_the_ladder_s_questions_are_recorded_in_any_case(
    tmp_path: Path, model: Path, engine: Scripted
) -> None:
    study = with_evaluation(made_study(), benchmarks={"gsm8k": Benchmark(), "ladder": Benchmark()})
    layout = made_run(tmp_path, study, model)
    write(layout.test("ladder").parent, [row(n) for n in range(2)], "ladder")
    write_report(layout, {"style": "plain", "digest": "abc"})
    evaluate_run(study, "star", 3, layout)
    collected(layout, study, "star")
    found = load(layout.results / "records").questions
    assert found == {("ladder", f"p{n}"): ("?", str(n)) for n in range(2)}


def test_records_say_what_ran_and_from_which_settings(tmp_path: Path, model: Path, engine: Scripted) -> None:
    study = made_study()
    study = study.model_copy(update={"data_dir": tmp_path / "data"})
    layout = made_run(tmp_path, study, model)
    for path, other in ((layout.run("star", 3), {}), (layout.run("rft", 3), {"python": "3.99"})):
        write_checked(path, read_checked(path) | {"process": Process().facts() | other})
    for name in ("star", "rft"):
        evaluate_run(study, name, 3, layout)
    facts = collected(layout, study, "star", "rft")
    assert facts["settings"]["sampling"]["max_tokens"] == 7
    assert facts["split"]["sampling"]["batch_size"] == 512  # a default
    assert facts["split"]["data_dir"] == "data"  # where it lies is of this machine
    assert facts["rows"] == {
        name: load_method(study, name).model_dump(mode="json") for name in ("star", "rft")
    }
    one, other = load(layout.results / "records").provenance.processes
    jobs = [[(job.kind, job.method, job.seed) for job in which.jobs] for which in (one, other)]
    # What is the same is said once. Of the base model nothing is known: an earlier version made it.
    assert jobs == [
        [("train", "star", 3), ("evaluate", "star", 3), ("evaluate", "rft", 3)],
        [("train", "rft", 3)],
    ]
    assert other.python == "3.99" and one.libraries["torch"] == version("torch")
    write_checked(layout.base_manifest, read_checked(layout.base_manifest) | {"process": Process().facts()})
    collected(layout, study, "star", "rft")
    one, _ = load(layout.results / "records").provenance.processes
    assert (one.jobs[0].kind, one.jobs[0].method) == ("base model", "")


def test_monitors_are_collected_by_budget_and_round(tmp_path: Path, model: Path, engine: Scripted) -> None:
    study = made_study()
    layout = made_run(tmp_path, study, model)
    evaluate_run(study, "star", 3, layout)
    collected(layout, study, "star")
    assert (layout.results / "records" / "monitors.csv").read_text().splitlines() == [
        "method,seed,budget,round,spent,monitor,value",
        "star,3,10,1,0,alpha,0", "star,3,10,1,0,solved,0.25",
        "star,3,20,1,7,alpha,-1", "star,3,20,1,7,solved,0.25",
    ]  # fmt: skip


def zeroed(layout: Layout, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"0" * 100)


def of_another_budget(layout: Layout, folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("step-000001"), folder)


def gone(layout: Layout, folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (zeroed, "is not what its run sealed there; delete it and "),
        (of_another_budget, "is not what its run sealed there; delete it and "),
        (gone, "is no longer there; delete "),
    ],
)
def test_only_what_the_run_sealed_is_evaluated(
    tmp_path: Path, model: Path, engine: Scripted, harm: Callable[[Layout, Path], None], says: str
) -> None:
    study = made_study()
    layout = made_run(tmp_path, study, model)
    harm(layout, layout.runs / "star-3-key/models/000001/step-000002")
    with pytest.raises(UserError, match=rf"step-000002 {says}.*star-3\.json, and run"):
        evaluate_run(study, "star", 3, layout)
    assert not layout.samples("star", 3).exists()


def test_checkpoints_go_once_they_are_evaluated(tmp_path: Path, model: Path, engine: Scripted) -> None:
    def kept() -> list[str]:
        return sorted(path.parent.name for path in layout.runs.rglob("model.safetensors"))

    study = made_study()
    study = study.model_copy(update={"training": study.training.model_copy(update={"keep": "nothing"})})
    layout = made_run(tmp_path, study, model)
    on_base = {**read_checked(layout.run("star", 3))["budgets"][0], "checkpoint": "base"}
    write_manifest(layout, study, "rft", [{**on_base, "fingerprint": fingerprint(layout.base)}])
    evaluate_run(study, "rft", 3, layout)
    assert sealed(layout.base) and kept() == ["step-000001", "step-000002"]  # no run's, or not evaluated

    say, engine.say = engine.say, None  # type: ignore[assignment]
    with pytest.raises(TypeError):
        evaluate_run(study, "star", 3, layout)
    assert kept() == ["step-000001", "step-000002"]
    engine.say = say
    evaluate_run(study, "star", 3, layout)
    assert not kept() and sealed(layout.base)
    wanted, done = layout.samples("star", 3).read_bytes(), len(engine.calls)
    evaluate_run(study, "star", 3, layout)  # of parts that are there nobody needs the weights
    assert len(engine.calls) == done and layout.samples("star", 3).read_bytes() == wanted
    more = study.model_copy(update={"evaluation": made_study(max_tokens=9).evaluation})
    with pytest.raises(UserError, match=r"step-000001 is no longer there; delete .*star-3\.json, and run"):
        evaluate_run(more, "star", 3, layout)
    assert layout.samples("star", 3).read_bytes() == wanted


def test_a_checkpoint_outside_of_work_is_refused(tmp_path: Path, model: Path, engine: Scripted) -> None:
    study = made_study()
    layout = made_run(tmp_path, study, model)
    manifest = read_checked(layout.run("star", 3))
    outside = shutil.copytree(layout.work / manifest["budgets"][0]["checkpoint"], tmp_path / "outside")
    for path in (str(outside), "../../outside", "."):
        manifest["budgets"][0]["checkpoint"] = path
        write_checked(layout.run("star", 3), manifest)
        with pytest.raises(UserError, match="lies outside"):
            evaluate_run(study, "star", 3, layout)
    assert not engine.calls


def test_rows_that_do_not_belong_to_the_study_are_not_collected(
    tmp_path: Path, model: Path, engine: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = made_study()
    layout = made_run(tmp_path, study, model)
    evaluate_run(study, "star", 3, layout)
    collected(layout, study, "star")
    path = layout.run("star", 3)
    whole = read_checked(path)
    stale = r"star-3\.json is of another run than the study now describes .* delete it and run"

    with monkeypatch.context() as patch:  # a library was installed anew
        patch.setattr("repro.identity.libraries", lambda engine="transformers": {"torch": "3.0"})
        with pytest.raises(UserError, match=stale):
            collected(layout, study, "star")
    tuned = study.model_copy(update={"hyperparameters": {"star": {"temperature": 0.5}}})
    with pytest.raises(UserError, match=stale):
        collected(layout, tuned, "star")
    base = read_checked(layout.base_manifest)
    write_checked(layout.base_manifest, {**base, "fingerprint": "another"})
    with pytest.raises(UserError, match=stale):
        collected(layout, study, "star")
    write_checked(layout.base_manifest, {**base, "key": "of other settings"})
    with pytest.raises(UserError, match=r"base\.json is of another base model than the study now describes"):
        collected(layout, study, "star")
    old = {"layers": 1, "hidden": 8, "parameters": 5}
    write_checked(layout.base_manifest, {**base, "shape": old})
    with pytest.raises(UserError, match=r"base\.json has a model's sizes as an earlier version wrote them"):
        collected(layout, study, "star")
    write_checked(layout.base_manifest, base)
    early = {**whole["budgets"][1], "ledger": [{**whole["budgets"][1]["ledger"][0], "shape": old}]}
    write_checked(path, {**whole, "budgets": [whole["budgets"][0], early]})
    with pytest.raises(UserError, match=r"star-3\.json has a model's sizes as an earlier version wrote them"):
        collected(layout, study, "star")
    write_checked(path, whole)
    with pytest.raises(UserError, match=r"has the budgets \[10, 20\], and the study \[10, 20, 30\]"):
        collected(layout, study.model_copy(update={"budgets": [10, 20, 30]}), "star")

    longer = made_study(max_tokens=9)
    with pytest.raises(UserError, match=r"star-3\.json was made with other settings of `evaluation`"):
        collected(layout, longer, "star")
    problems = (layout.test("gsm8k")).read_text()
    layout.test("gsm8k").write_text(problems.splitlines()[0] + "\n")
    with pytest.raises(UserError, match=r"gsm8k\.jsonl is not as it was prepared"):
        collected(layout, study, "star")
    write_report(layout, {"style": "plain", "digest": "abc"})  # as if they had been prepared anew
    with pytest.raises(UserError, match="of other problems or task files"):
        collected(layout, study, "star")
    layout.test("gsm8k").write_text(problems)
    write_report(layout, {"style": "plain", "digest": "abc"})
    # The run was done again, and not yet evaluated again.
    write_checked(path, whole | {"budgets": [row | {"fingerprint": "new"} for row in whole["budgets"]]})
    with pytest.raises(UserError, match=r"star-3\.json is of other checkpoints than the run's"):
        collected(layout, study, "star")
    write_checked(path, whole)
    samples = layout.samples("star", 3)
    pd.read_parquet(samples).assign(correct=True).to_parquet(samples, index=False)
    with pytest.raises(UserError, match=r"star-3\.parquet is not what .* was written with"):
        collected(layout, study, "star")
    for text in ("[]", "{}", "null", '{"method": "star"}'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"star-3\.json"):
            collected(layout, study, "star")


def test_how_work_is_split_up_evaluates_nothing_again(tmp_path: Path, model: Path, engine: Scripted) -> None:
    study = made_study()
    layout = made_run(tmp_path, study, model)
    evaluate_run(study, "star", 3, layout)
    done = len(engine.calls)
    other = study.model_copy(
        update={"sampling": study.sampling.model_copy(update={"batch_size": 3, "chunk": 5, "memory": 0.5})}
    )
    evaluate_run(other, "star", 3, layout)
    assert len(engine.calls) == done


def test_records_name_benchmarks_prompt_engine_and_tasks(
    tmp_path: Path, model: Path, engine: Scripted
) -> None:
    study = made_study()
    layout = made_run(tmp_path, study, model)
    evaluate_run(study, "star", 3, layout)
    facts = collected(layout, study, "star")
    assert [(one["name"], one["samples_per_problem"], one["macro"]) for one in facts["benchmarks"]] == [
        ("gsm8k", 4, False), ("aime24", 2, False)
    ]  # fmt: skip
    assert facts["benchmarks"][1]["metric"] == "avg@2, sampled at T = 0.6, top-p 0.95"
    assert facts["benchmarks"][0]["tiers"] == ["1", "2"]
    assert facts["evaluation"]["prompt"] == {"style": "plain", "digest": "abc"}
    assert set(facts["evaluation"]["engine"]) == {"engine", "dtype", "torch", "transformers"}
    assert facts["evaluation"]["tasks"]["aime24_sampled"] == 2.0
    study_read = load(layout.results / "records")
    assert [one.name for one in study_read.benchmarks] == ["gsm8k", "aime24"]
    assert not np.isnan(study_read.benchmarks[0].majority).any()


def test_records_of_a_benchmark_of_the_study_s_own(tmp_path: Path, model: Path, engine: Scripted) -> None:
    own = {"file": tmp_path / "mine.jsonl", "title": "My sums", "samples": 3, "tiers_alike": True}
    study = made_study(benchmarks={"gsm8k": {}, "mine": own})
    layout = made_run(tmp_path, study, model)
    write(layout.test("mine").parent, [row(n) for n in range(4)], "mine")
    read_from = {"gsm8k/test": {"digest": "1", "pinned": True}, "mine/test": {"digest": "2", "pinned": False}}
    write_report(layout, {"style": "plain", "digest": "abc"}, sources=read_from)
    evaluate_run(study, "star", 3, layout)
    gsm8k, mine = collected(layout, study, "star")["benchmarks"]
    assert (mine["name"], mine["title"], mine["macro"], mine["content"]) == ("mine", "My sums", True, "2")
    assert mine["metric"].startswith("avg@3,") and mine["metric"].endswith("mean over tiers")
    assert "content" not in gsm8k
    study_read = load(layout.results / "records")
    assert [(one.name, one.title, one.k) for one in study_read.benchmarks][1] == ("mine", "My sums", 3)


def test_stops_and_lengths_may_differ_by_benchmark(tmp_path: Path, model: Path, engine: Scripted) -> None:
    benchmarks = {"gsm8k": {"max_tokens": 11, "stop": ["\n\n"]}, "aime24": {"samples": 2}}
    study = made_study(max_tokens=5, benchmarks=benchmarks)
    study = study.model_copy(update={"prompt": study.prompt.model_copy(update={"stop": ["Q:"]})})
    layout = made_run(tmp_path, study, model)
    evaluate_run(study, "star", 3, layout)
    told = {len(requests): (params.max_tokens, params.stop) for params, requests in engine.calls}
    assert told == {5: (11, ("\n\n",)), 2: (5, ("Q:",))}  # five problems of gsm8k, two of aime24
    asked = read_json(layout.samples("star", 3).with_suffix(".json"))["settings"]
    assert asked["gsm8k"]["stop"] == ["\n\n"] and "stop" not in asked["aime24"]
    names = []
    for own in ({"max_tokens": 11, "stop": ["\n\n"]}, {"max_tokens": 11}, {"stop": ["\n\n"]}):
        changed = made_study(max_tokens=5, benchmarks=benchmarks | {"gsm8k": own}).evaluation
        names.append(part_names(study.model_copy(update={"evaluation": changed}), layout, "weights", 3))
    assert len({one["gsm8k"] for one in names}) == 3 and len({one["aime24"] for one in names}) == 1


# ------------------------------------------------------------------------------------------ thinking


def thinking(study: Study, switch: bool | None) -> Study:
    prompt = study.prompt.model_copy(update={"chat": True, "thinking": switch})
    return study.model_copy(update={"prompt": prompt})


def test_thoughts_state_no_answer(tmp_path: Path, model: Path, engine: Scripted) -> None:
    """Not even the right one, where the length limit came before the answer."""
    said = [
        r"it is \boxed{@} ...", r"\boxed{9} no </think> \boxed{@}", r"\boxed{@} </think> so", "#### @ ...",
    ]  # fmt: skip
    engine.say = lambda prompt, i: said[i].replace("@", str(number_of(prompt)))
    found = {}
    for switch in (True, None):
        study = thinking(made_study(benchmarks={"gsm8k": {}, "aime24": {"samples": 4}}), switch)
        layout = made_run(tmp_path / str(switch), study, model)
        evaluate_run(study, "star", 3, layout)
        samples = pd.read_parquet(layout.samples("star", 3)).query("mode == 'sampled'")
        found[switch] = samples.groupby("sample")["verdict"].unique().map(list).to_dict()
        assert (samples.groupby("problem")["text_hash"].nunique() == 4).all()
        for text, name in samples[["text", "text_hash"]].itertuples(index=False):  # as it was checked
            assert hashlib.sha256(text.encode()).hexdigest()[:16] == name
    none, right = ["unparsable"], ["correct"]
    assert [found[True][i] for i in range(4)] == [none, right, none, none]
    assert [found[None][i] for i in range(4)] == [right, right, none, right]


def test_thinking_is_part_of_what_runs_and_evaluations_are(tmp_path: Path, model: Path) -> None:
    """Also where its chat template does not show it. Others are what they were before the switch was."""
    study = made_study()
    layout, method = made_run(tmp_path, study, model), load_method(study, "star")
    studies = [thinking(study, switch) for switch in (None, False, True)]
    runs = [run_settings(one, method, "star") for one in studies]
    parts = [part_names(one, layout, "weights", 3)["gsm8k"] for one in studies]
    assert runs[0] == runs[1] != runs[2] and parts[0] == parts[1] != parts[2]


def test_rows_that_were_evaluated_differently_are_not_collected(
    tmp_path: Path, model: Path, engine: Scripted
) -> None:
    study = made_study()
    layout = made_run(tmp_path, study, model)
    evaluate_run(study, "star", 3, layout)
    write_report(layout, {"style": "boxed", "digest": "def"})
    evaluate_run(study, "rft", 3, layout)
    with pytest.raises(
        UserError, match=r"rft-3\.json: prompt is .*boxed.* but .*plain.*; delete .*evaluations"
    ):
        collected(layout, study, "star", "rft")


@pytest.mark.parametrize("profile", ["pocket", "quick", "paper"])
def test_profiles(profile: str) -> None:
    found = {
        name: settings(made_study(profile=profile, benchmarks={name: {}}), name)
        for name, row in BENCHMARKS.items()
        if row.rows
    }
    assert all(one.max_tokens >= (7 if profile == "pocket" else 1024) for one in found.values())
    if profile == "paper":
        assert {name: one.samples for name, one in found.items()} == {
            "gsm8k": 4, "math": 1, "math500": 4, "aime24": 64, "amc23": 64, "aime25": 64, "hmmt25": 64,
            "olympiadbench": 4, "minerva": 4, "gsm8k_platinum": 4, "gsm_symbolic": 1, "gsm_symbolic_p1": 1,
            "gsm_symbolic_p2": 1, "gsm_plus": 1,
        }  # fmt: skip
        for name, how in found.items():  # lm-eval alone does as the profile `paper`
            settings_of = yaml.safe_load((TASKS / f"{name}_sampled.yaml").read_text())
            kwargs = settings_of["generation_kwargs"]
            assert (settings_of.get("repeats", 1), kwargs["temperature"]) == (how.samples, how.temperature)
            assert (kwargs["top_p"], kwargs["max_gen_toks"]) == (how.top_p, how.max_tokens)


# --------------------------------------------------------------------------------------- lm-eval alone


@pytest.mark.promise("Files and code of others", "Once data and models are there, no network is touched.")
def test_it_is_quiet_and_offline(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[Any] = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *name, **_: names.append(name))
    run(write(tmp_path, [row(1)]), Scripted(lambda *_: "#### 1"))
    assert capfd.readouterr() == ("", "")
    assert not names


def lm_eval_alone(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The command line of docs/evaluation.md."""
    command = [sys.executable, "-m", "lm_eval", "run", "--include_path", str(TASKS), *options]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    # vLLM's CPU build: a small cache, and no compiler
    offline |= {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1", "VLLM_NO_USAGE_STATS": "1"}
    return subprocess.run(
        command, env=os.environ | offline, cwd=folder, capture_output=True, text=True, check=False
    )


def logged(folder: Path, task: str) -> list[dict[str, Any]]:
    (path,) = folder.rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def results(folder: Path) -> dict[str, dict[str, float]]:
    (path,) = folder.rglob("results_*.json")
    return dict(json.loads(path.read_text())["results"])


def short_prompts(folder: Path, *benchmarks: str) -> Path:
    for benchmark in benchmarks:
        write(folder, [row(n, prompt=" ".join(WORDS[4 : 5 + n])) for n in range(6)], benchmark)
    return folder


@pytest.mark.slow
def test_task_files_run_with_lm_eval_alone(tmp_path: Path, model: Path) -> None:
    problems = short_prompts(tmp_path, "math500", "gsm8k")
    done = lm_eval_alone(
        tmp_path, "--model", "hf", "--device", "cpu", "--batch_size=2",
        "--model_args", f"pretrained={model},dtype=float32", "--tasks", "math500_greedy,gsm8k_sampled",
        "--metadata", f"problems={problems}", "--gen_kwargs", "max_gen_toks=9", "--log_samples",
        "--output_path", "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    theirs = [line["resps"][0][0].split() for line in logged(tmp_path, "math500_greedy")]

    sampler = TransformersSampler(device="cpu")
    sampler.load(model)
    requests = [
        Request(json.loads(line)["prompt"], (0,))
        for line in (problems / "math500.jsonl").read_text().splitlines()
    ]
    ours = sampler.sample(requests, SamplingParams(temperature=0.0, max_tokens=9))
    assert theirs == [sampled.samples[0].text.split() for sampled in ours]
    names = {f"{name}@k,verified" for name in ("avg", "pass", "maj")}
    names |= {f"{name},verified" for name in ("unparsable", "timeout", "distinct")}
    assert all(names <= set(found) for found in results(tmp_path).values())
    drawn = logged(tmp_path, "gsm8k_sampled")
    assert {len(line["resps"][0]) for line in drawn} == {4}
    assert len({text for line in drawn for text in line["resps"][0]}) > 6  # the k samples differ


def short_completions(folder: Path, model: Path, *tasks: str, metadata: str = "") -> None:
    """Run tasks with lm-eval alone, three tokens a completion."""
    done = lm_eval_alone(
        folder, "--model", "hf", "--device", "cpu", "--batch_size=64",
        "--model_args", f"pretrained={model},dtype=float32", "--tasks", ",".join(tasks),
        "--metadata", f"problems={folder}{metadata}", "--gen_kwargs", "max_gen_toks=3",
        "--log_samples", "--output_path", "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """Where one process of lm-eval left its results on all tasks that there are."""
    folder = short_prompts(tmp_path_factory.mktemp("alone"), *BENCHMARKS, "own")
    short_completions(folder, model, *(path.stem for path in TASKS.glob("[!_]*.yaml")))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", [*BENCHMARKS, "own"])
def test_every_task_runs_with_lm_eval_alone(alone: Path, name: str) -> None:
    k = BENCHMARKS[name].samples.get("paper", 4) if name in BENCHMARKS else 4
    for task, samples in ((f"{name}_greedy", 1), (f"{name}_sampled", k)):
        assert [len(line["resps"][0]) for line in logged(alone, task)] == [samples] * 6
        assert "avg@k,verified" in results(alone)[task]


@pytest.mark.slow
def test_the_own_tasks_are_told_a_benchmarks_name(tmp_path: Path, model: Path) -> None:
    short_prompts(tmp_path, "mine")
    short_completions(tmp_path, model, "own_greedy", metadata=",benchmark=mine")
    assert len(logged(tmp_path, "own_greedy")) == 6


@pytest.mark.vllm
@pytest.mark.slow
def test_task_files_run_with_lm_evals_vllm(tmp_path: Path, model: Path) -> None:
    pytest.importorskip("vllm", reason="needs vLLM")
    try:
        version("vllm")
    except PackageNotFoundError:
        pytest.skip("lm-eval looks up the distribution `vllm`, and this vLLM goes by another name")
    problems = short_prompts(tmp_path, "math500", "aime24")
    done = lm_eval_alone(
        tmp_path, "--model", "vllm", "--model_args",
        f"pretrained={model},dtype=float32,enforce_eager=True,max_model_len=64,gpu_memory_utilization=0.2",
        "--tasks", "math500_greedy,aime24_sampled", "--metadata", f"problems={problems}",
        "--gen_kwargs", "max_gen_toks=9", "--log_samples", "--output_path", "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert {len(line["resps"][0]) for line in logged(tmp_path, "aime24_sampled")} == {64}
    assert results(tmp_path)["aime24_sampled"]["distinct,verified"] > 0.1  # not k times one sample
    assert len(logged(tmp_path, "math500_greedy")) == 6
