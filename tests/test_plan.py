"""The plan's arithmetic, by hand on a tiny model; and that every study that ships has one."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from repro.cli import app
from repro.config import load_study
from repro.errors import UserError
from repro.layout import Layout
from repro.planning import plan
from repro.planning.hardware import GIB, gpu_names

ROOT = Path(__file__).resolve().parent.parent
STUDIES = sorted((ROOT / "benchmarks" / "studies").glob("*.yaml"))
TINY = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96, "vocab_size": 50,
    "tie_word_embeddings": False,
}  # fmt: skip
GOOD: dict[str, Any] = {
    "name": "tiny",
    "title": "Tiny",
    "seeds": [0, 1],
    "budgets": ["1e12", "2e12", "4e12"],
    "methods": ["star", "adastar", "hs_star", "control_base", "control_continued"],
    "problems": {"source": "gsm8k", "train": 100},
    "prompt": {"style": "plain", "template": "{question}"},
    "base_model": {"source": "folder"},
    "sampling": {"max_tokens": 32},
    "training": {"max_length": 128, "micro_batch": 4},
    "evaluation": {
        "profile": "pocket", "max_tokens": 32, "benchmarks": {"gsm8k": {"limit": 10, "samples": 3}},
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of a pocket study in which AdaSTaR sampled 4 tokens for each that it trained on, HS-STaR 2."""
    folder = tmp_path / "records"
    folder.mkdir()
    accounts = {
        "adastar": {"train": 100, "sample": 300, "search": 100},
        "hs_star": {"train": 50, "sample": 100, "search": 0},
        "control_base": {"train": 0, "sample": 0, "search": 0},
    }
    lines = [f"{name},{of},{n}" for name, tokens in accounts.items() for of, n in tokens.items()]
    (folder / "ledger.csv").write_text("\n".join(["method,account,tokens", *lines]))
    notes = "method,mode_note\nadastar,\nhs_star,process rewards: rules\n"
    (folder / "runs.csv").write_text(notes)
    monkeypatch.setattr(plan, "POCKET", folder)


def made(tmp_path: Path, **changes: Any) -> plan.Plan:
    """The plan of the good study with changes at dotted keys (``__`` for the dot)."""
    values = deepcopy(GOOD)
    values["base_model"]["path"] = str(tmp_path / "model")
    for key, value in changes.items():
        *sections, last = key.split("__")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    (tmp_path / "model").mkdir(exist_ok=True)
    (tmp_path / "model" / "config.json").write_text(json.dumps(TINY))
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(values))
    return plan.make(load_study(file), Layout(tmp_path, "tiny"), file)


# ---------------------------------------------------------------------------------------------------------
# The tiny model, by hand
#
#   q, k, v, o   2 * 64 * 16 * (4 + 2)      =   12,288
#   MLP          3 * 64 * 96                =   18,432
#   W            2 * 30,720                 =   61,440
#   H            64 * 50                    =    3,200
#   per pair     4 * 2 layers * 4 * 16      =      512
#   parameters   61,440 + 2 * 3,200 + 64 * 5 = 68,160
#
# A training sequence has the 68 tokens assumed of a question of GSM8K (no wording) and the 32 of max_tokens:
#   forward    2*61,440*100 + 2*3,200*100 + 512*5,050 = 12,288,000 + 640,000 + 2,585,600 = 15,513,600
#   SFT        3 * 15,513,600 = 46,540,800;  DPO 4 * 15,513,600 = 62,054,400
# A completion: 68 + 31 tokens, 32 logits, 99*100/2 = 4,950 pairs:
#   12,165,120 + 204,800 + 2,534,400 = 14,904,320

SFT, DPO, COMPLETION = 46_540_800, 62_054_400, 14_904_320


def test_budgets_are_exact_and_their_shares_follow_the_measured_ratio(tmp_path: Path) -> None:
    runs = {run.method: run for run in made(tmp_path).runs}
    # Two seeds. AdaSTaR has one run to the top; STaR plans from its budget: 1 + 2 + 4 TFLOP for each seed.
    assert (runs["adastar"].runs, runs["adastar"].flops) == (2, 2 * 4 * 10**12)
    assert (runs["star"].runs, runs["star"].flops) == (6, 2 * 7 * 10**12)
    # For each sequence trained on, AdaSTaR samples (300 + 100) / 100 = 4 completions.
    sampled = 4 * COMPLETION
    assert runs["adastar"].train == pytest.approx(8e12 * SFT / (SFT + sampled))
    assert runs["adastar"].sample == pytest.approx(8e12 * sampled / (SFT + sampled))
    # HS-STaR trains on pairs and samples 100 / 50 = 2.
    assert runs["hs_star"].train == pytest.approx(8e12 * DPO / (DPO + 2 * COMPLETION))
    # STaR is not in these records: 4 by assumption, and its row says so.
    assert runs["star"].train == pytest.approx(14e12 * SFT / (SFT + 4 * COMPLETION))
    assert "sampling assumed" in runs["star"].note and "sampling assumed" not in runs["adastar"].note


def test_what_spends_nothing(tmp_path: Path) -> None:
    made_plan = made(tmp_path)
    runs = {run.method: run for run in made_plan.runs}
    assert runs["control_base"].flops == runs["control_continued"].flops == 0
    assert "unavailable" in runs["control_continued"].note and runs["control_continued"].evaluate == 0
    assert set(made_plan.steps) == {"star", "adastar", "hs_star"}
    # The base model is one checkpoint for each seed, the others one for each seed and budget.
    assert 3 * runs["control_base"].evaluate == runs["adastar"].evaluate > 0


def test_evaluation(tmp_path: Path) -> None:
    (benchmark,) = made(tmp_path).benchmarks
    # 3 completions of one prompt: 68 + 3*31 = 161 tokens, 1 + 3*31 = 94 logits, pairs 68*69/2 + 3*(4,950 -
    # 2,346) = 10,158: 19,783,680 + 601,600 + 5,200,896 = 25,586,176. The greedy one: 14,904,320.
    # 10 problems: 10 * 40,490,496
    assert (benchmark.problems, benchmark.samples, benchmark.flops) == (10, 3, 404_904_960)


def test_a_reward_model_scores_what_a_scoring_method_samples(tmp_path: Path) -> None:
    rewards = {"kind": "token_classification", "path": str(tmp_path / "model")}
    runs = {run.method: run for run in made(tmp_path, process_rewards=rewards).runs}
    # The same tiny model without its head: 15,513,600 - 640,000 = 14,873,600 for each of 2 completions.
    parts = DPO, 2 * COMPLETION, 2 * 14_873_600
    assert runs["hs_star"].reward == pytest.approx(8e12 * parts[2] / sum(parts))
    assert runs["adastar"].reward == 0  # it did not ask for rewards in the pocket study


def test_hours(tmp_path: Path) -> None:
    made_plan = made(tmp_path, methods=["adastar"])
    hours = made_plan.hours("A100-80", mfu=0.5, sampling_use=0.1)
    # 312 TFLOP/s at 50 %: 156 TFLOP/s
    assert hours["train"] == pytest.approx(made_plan.total("train") / 156e12 / 3600)
    assert hours["evaluate"] == pytest.approx(made_plan.total("evaluate") / 31.2e12 / 3600)
    # Reading the prompt is as fast as training: 2*61,440*68 + 2*3,200 + 512*2,346 = 9,563,392 of 14,904,320
    read = 9_563_392 / 14_904_320
    sample = made_plan.total("sample") / 3600
    assert hours["sample"] == pytest.approx(sample * read / 156e12 + sample * (1 - read) / 31.2e12)


def test_training_memory(tmp_path: Path) -> None:
    def states(**changes: Any) -> float:
        need = made(tmp_path, methods=["adastar"], **changes).memory[0]
        return need.bytes - plan.RESERVED

    # float32: 16 bytes for each of 68,160 weights = 1,090,560. A layer keeps of each token
    # 16*64 + 4 * (2*64 + 3*64 + 3*32 + 4*96) = 1,024 + 3,200 = 4,224 bytes; 512 tokens, 2 layers: 4,325,376
    assert states() == 1_090_560 + 4_325_376
    # With checkpointing one layer, and the input of both: 4,224 + 2*4*64 = 4,736 bytes; 512 tokens: 2,424,832
    assert states(training__gradient_checkpointing=True) == 1_090_560 + 2_424_832
    # bfloat16: 2 bytes more for each weight; a layer keeps 1,024 + 1,600 = 2,624 bytes: 512 * 2 * 2,624
    assert states(training__dtype="bfloat16") == 18 * 68_160 + 2_686_976
    # LoRA of rank 2: sides 2*(64+64) + 2*(64+32) + 3*(64+96) = 928; 2*2*928 = 3,712 weights of 16 bytes each
    assert states(training__lora={"rank": 2}) == 4 * 68_160 + 16 * 3_712 + 4_325_376
    # Pairs are two sequences.
    pairs = made(tmp_path, methods=["hs_star"]).memory[0]
    assert pairs.bytes - plan.RESERVED == 1_090_560 + 2 * 4_325_376


@pytest.mark.parametrize(("kind", "states"), [("FSDP", 16 * 68_160 / 4), ("MULTI_GPU", 20 * 68_160)])
def test_training_in_processes(tmp_path: Path, kind: str, states: float) -> None:
    """FSDP divides everything by 4; data-parallel copies hold gradient buckets besides."""
    config = tmp_path / "accelerate.yaml"
    config.write_text(f"distributed_type: {kind}\nnum_processes: 4\n")
    need = made(tmp_path, methods=["adastar"], training__accelerate=str(config)).memory[0]
    assert need.bytes - plan.RESERVED - 4_325_376 == states


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "cannot be read"), ("a: [", "is not YAML"), ("- 1", "is not a mapping"),
        ("num_processes: many", "num_processes is 'many'"),
        ("distributed_type: TPU", "distributed_type 'TPU' is not supported"),
    ],
)  # fmt: skip
def test_accelerate_configs_that_do_not_do(tmp_path: Path, text: str | None, complaint: str) -> None:
    config = tmp_path / "accelerate.yaml"
    if text is not None:
        config.write_text(text)
    with pytest.raises(UserError, match=complaint):
        plan.processes(config)


def test_sampling_memory(tmp_path: Path) -> None:
    """vLLM on two GPUs: bfloat16 weights, and keys and values of 16 sequences of 68 + 32 tokens."""
    sampling = {"engine": "vllm", "max_tokens": 32, "dtype": "bfloat16", "tensor_parallel": 2, "memory": 0.5}
    need = made(tmp_path, sampling=sampling).memory[1]
    # A token's keys and values: 2 * 2 layers * 2 heads * 16 * 2 bytes = 256
    assert need.bytes - plan.RESERVED == (2 * 68_160 + 16 * 100 * 256) / 2
    assert need.fits(int(2 * need.bytes) + 1) and not need.fits(int(2 * need.bytes) - 1)


def test_what_does_not_fit_names_the_keys_to_change(tmp_path: Path) -> None:
    config = {**TINY, "num_hidden_layers": 48, "hidden_size": 4096, "intermediate_size": 14336}
    made(tmp_path)
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    file = tmp_path / "study.yaml"
    text = plan.render(plan.make(load_study(file), Layout(tmp_path, "tiny"), file), gpu_names("rtx3090"))
    assert "Training does not fit RTX 3090: try training.lora: {}, or training.accelerate" in text
    assert "Sampling does not fit" in text and "sampling.dtype: bfloat16" in text


def test_disk(tmp_path: Path) -> None:
    disk = {place.what.split(":")[0]: place for place in made(tmp_path, methods=["star", "adastar"]).disk}
    # Weights 4 * 68,160 = 272,640 bytes, moments 545,280, a training call 817,920.
    # Two methods, two seeds, three budgets: 12 * 272,640
    assert disk["checkpoints kept"].bytes == 3_271_680
    assert disk["checkpoints of the job that runs"].bytes == 817_920
    # 10 problems, 3 + 1 completions, 3 budgets, 2 + 6 runs, 64 bytes
    assert disk["evaluated samples (parquet)"].bytes == 10 * 4 * 3 * 8 * 64


def test_power_is_that_of_the_statistics(tmp_path: Path) -> None:
    few = made(tmp_path).benchmarks[0].power
    many = made(tmp_path, evaluation__benchmarks={"gsm8k": {"samples": 4}}).benchmarks[0].power
    assert few[2] < few[5] < 0.3 and many[5] > 0.9 and many[2] > few[2]


def test_prepared_problems_are_measured(tmp_path: Path) -> None:
    folder = tmp_path / "work" / "tiny" / "problems"
    folder.mkdir(parents=True)
    rows = [json.dumps({"question": "x" * characters}) for characters in (300, 400)]
    (folder / "train.jsonl").write_text("\n".join(rows))
    sentences = " ".join(made(tmp_path).assumptions)
    # 350 characters / 3.5 = 100 tokens
    assert "train.jsonl: 350 characters a question" in sentences
    assert "training prompts of 100 tokens" in sentences and "no problem file" not in sentences


def test_worked_examples_lengthen_what_is_sampled_from(tmp_path: Path) -> None:
    none, two = (made(tmp_path, prompt__shots=shots) for shots in (0, 2))
    assert two.prefill > none.prefill and two.steps == none.steps
    assert two.total("sample") > none.total("sample")


# ---------------------------------------------------------------------------------------------------------
# What people see


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_every_study_that_ships_has_a_plan(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    study = load_study(file)
    made_plan = plan.make(study, Layout(tmp_path, study.name), file)
    spent = sum(run.flops for run in made_plan.runs)
    assert spent >= len(study.seeds) * study.budgets[-1]
    assert made_plan.total("train") + made_plan.total("sample") + made_plan.total("reward") == pytest.approx(
        spent
    )
    assert all(run.train > 0 for run in made_plan.runs if run.flops)
    assert max(made_plan.steps.values()) < study.budgets[0]
    if study.gpus:  # a study that asks for GPUs fits the largest one it can have
        assert all(need.fits(140 * GIB) for need in made_plan.memory)


def test_the_command_prints_everything(tmp_path: Path) -> None:
    made(tmp_path)
    result = CliRunner().invoke(app, ["plan", str(tmp_path / "study.yaml"), "--gpu", "a100-80"])
    assert result.exit_code == 0, result.output
    for words in ("14 TFLOP", "A100-80", "GPU-hours", "Memory of one job", "Disk, at most", "+5", "--mfu"):
        assert words in result.output
    assert "H100" not in result.output
    machine = CliRunner().invoke(app, ["plan", str(tmp_path / "study.yaml"), "--gpu", "H100", "--json"])
    assert json.loads(machine.output)["gpu_hours"]["H100"]["train"] > 0


def test_unknown_gpu_and_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--gpu TPU is not in the table of GPUs; name one of RTX 3090"):
        gpu_names("TPU")
    hub = {"source": "hub", "name": "nobody/unheard-of", "revision": "0" * 40}
    values = {**GOOD, "base_model": hub}
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=r"config.json of nobody/unheard-of .* `repro fetch .*study.yaml`"):
        plan.make(load_study(file), Layout(tmp_path, "tiny"), file)
    file.write_text(yaml.safe_dump({**GOOD, "base_model": {"source": "folder", "path": "nowhere"}}))
    with pytest.raises(UserError, match="does not exist; name a transformers model folder"):
        plan.make(load_study(file), Layout(tmp_path, "tiny"), file)


def test_needs_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from repro import plan; from repro.config import load_study;"
        "from repro.layout import Layout; file = Path('benchmarks/studies/qwen2.5-0.5b-gsm8k.yaml');"
        "plan.render(plan.make(load_study(file), Layout(Path('.'), 'x'), file), ['H100']);"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
