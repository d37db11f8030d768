"""Evaluation through lm-eval: every sample is scored, seeded by name, counted, and recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from repro.errors import UserError
from repro.evaluation import COLUMNS, Evaluation, evaluate
from repro.flops import sample_tally
from repro.sampling import Progress, Request, Sample, Sampled, SamplingParams
from repro.sampling.transformers import TransformersSampler

TASKS = Path(__file__).parents[1] / "benchmarks" / "tasks"
LADDER = ("ladder_sampled", "ladder_greedy")
WORDS = ["<pad>", "<bos>", "<eos>", "####", *map(str, range(10)), "+", "="]
K = 4


@dataclass
class Scripted:
    """A sampler that says what ``say(prompt, number of the completion)`` says, in one token a word."""

    say: Callable[[str, int], str]
    calls: list[tuple[SamplingParams, list[Request]]] = field(default_factory=list)

    def load(self, model_dir: Path) -> None:
        self.model_dir = model_dir

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
        return Sample(text, len(text.split()) + 1, "length" if text.endswith("...") else "stop")


def row(number: int, answer: str | None = None, **fields: Any) -> dict[str, Any]:
    answer = str(number) if answer is None else answer
    known = {"id": f"p{number}", "tier": str(number % 2 + 1), "answer": answer, "prompt": f"{number} + 0 ="}
    return known | {"question": "?", "knowledge": ["gain"], "solution": None} | fields


def write(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path = folder / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(
    problems: Path, sampler: Any, tasks: Sequence[str] = LADDER, model: Path = Path("model"), **settings: Any
) -> Evaluation:
    settings = {"k": K, "seed": 1, "max_tokens": 9, "tasks_dir": TASKS} | settings
    return evaluate(model, problems, tasks, sampler, **settings)


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
    assert found.task_versions == {"ladder_greedy": 1.0, "ladder_sampled": 1.0}


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


@pytest.mark.parametrize("name", sorted(path.stem for path in TASKS.glob("[!_]*.yaml")))
def test_every_task_file_runs_alone(tmp_path: Path, name: str) -> None:
    sampler = Scripted(lambda prompt, _: f"#### {number_of(prompt)}")
    found = run(write(tmp_path, [row(n) for n in range(3)]), sampler, [name])
    ((params, requests),) = sampler.calls
    greedy = name.endswith("greedy")
    assert params == SamplingParams(temperature=0.0 if greedy else 1.0, max_tokens=9)
    assert [request.prompt for request in requests] == ["0 + 0 =", "1 + 0 =", "2 + 0 ="]  # nothing added
    assert found.samples["correct"].all() and len(found.samples) == 3 * (1 if greedy else K)
    assert list(found.task_versions) == [name]


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
    assert first == seeds(model=Path("another"))  # models meet the same random numbers
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
        num_attention_heads=4,
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


def test_a_sample_depends_on_neither_order_nor_batch(tmp_path: Path, model: Path) -> None:
    rows = [row(n, prompt=" ".join(WORDS[4 : 5 + n])) for n in range(9)]

    def samples(rows: Sequence[dict[str, Any]], batch_size: int) -> list[list[Any]]:
        sampler = TransformersSampler(batch_size=batch_size, device="cpu")
        found = run(write(tmp_path, rows), sampler, model=model).samples
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
    path = tmp_path / "broken.jsonl"
    path.write_text(json.dumps(row(1)) + "\n" + line + "\n")
    with pytest.raises(UserError) as error:
        run(path, Scripted(lambda *_: ""))
    assert f"{path}, {complaint}" in str(error.value)


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.jsonl does not exist"):
        run(tmp_path / "nowhere.jsonl", Scripted(lambda *_: ""))
    with pytest.raises(UserError, match=r"test\.jsonl holds no problems"):
        run(write(tmp_path, []), Scripted(lambda *_: ""))


def test_impossible_tasks_are_refused(tmp_path: Path) -> None:
    problems, sampler = write(tmp_path, [row(1)]), Scripted(lambda *_: "")
    with pytest.raises(UserError, match=r"no task nonesuch in .*known tasks: .*ladder_greedy"):
        run(problems, sampler, ["nonesuch"])
    with pytest.raises(UserError, match="ladder_sampled and gsm8k_sampled are both sampled"):
        run(problems, sampler, ["ladder_sampled", "gsm8k_sampled"])

    def task(settings: str, **more: str) -> Path:
        lines = {"include": TASKS / "_base.yaml", "task": "own", "generation_kwargs": settings} | more
        (tmp_path / "own.yaml").write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
        return tmp_path

    with pytest.raises(UserError, match=r"Task own: .* have no until=\['Question:'\]"):
        run(problems, sampler, ["own"], tasks_dir=task('{until: ["Question:"]}'))
    with pytest.raises(UserError, match="Task own asks for log-likelihoods"):
        run(problems, sampler, ["own"], tasks_dir=task("{until: []}", output_type="loglikelihood"))


# --------------------------------------------------------------------------------------- lm-eval alone


def test_it_is_quiet_and_offline(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[Any] = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *name, **_: names.append(name))
    run(write(tmp_path, [row(1)]), Scripted(lambda *_: "#### 1"))
    assert capfd.readouterr() == ("", "")
    assert not names


@pytest.mark.slow
def test_task_files_run_with_lm_eval_alone(tmp_path: Path, model: Path) -> None:
    problems = write(tmp_path, [row(n, prompt=" ".join(WORDS[4 : 5 + n])) for n in range(6)])
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size=2"]
    command += ["--model_args", f"pretrained={model},dtype=float32", "--tasks", "ladder_greedy"]
    command += ["--include_path", str(TASKS), "--metadata", f"problems={problems}"]
    command += ["--gen_kwargs", "max_gen_toks=9", "--log_samples", "--output_path", str(tmp_path / "out")]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (logged,) = (tmp_path / "out").rglob("samples_ladder_greedy_*.jsonl")
    theirs = [json.loads(line)["resps"][0][0].split() for line in logged.read_text().splitlines()]

    sampler = TransformersSampler(device="cpu")
    sampler.load(model)
    requests = [Request(json.loads(line)["prompt"], (0,)) for line in problems.read_text().splitlines()]
    ours = sampler.sample(requests, SamplingParams(temperature=0.0, max_tokens=9))
    assert theirs == [sampled.samples[0].text.split() for sampled in ours]
    (results,) = (tmp_path / "out").rglob("results_*.json")
    assert "avg@k,verified" in json.loads(results.read_text())["results"]["ladder_greedy"]
