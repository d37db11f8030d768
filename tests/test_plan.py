"""The plan's arithmetic, by hand on a tiny model; and that every study that ships has one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from copy import deepcopy
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from repro.cli import app
from repro.config import Study, load_study
from repro.discovery import load_methods
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
    "budgets": ["2e10", "4e10", "8e10"],
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
# A prompt has the 68 tokens assumed of a question of GSM8K (no wording), a completion the 32 of max_tokens.

ADASTAR = {"methods": ["adastar"]}


def test_budgets_are_exact_and_their_shares_are_those_of_the_plays(tmp_path: Path) -> None:
    made_plan = made(tmp_path)
    runs = {run.method: run for run in made_plan.runs}
    # Two seeds. AdaSTaR has one run to the top; STaR plans from its budget: 20 + 40 + 80 GFLOP for each seed.
    assert (runs["adastar"].runs, runs["adastar"].flops) == (2, 2 * 80 * 10**9)
    assert (runs["star"].runs, runs["star"].flops) == (6, 2 * 140 * 10**9)
    for name, run in runs.items():
        accounts: Counter[str] = Counter()
        for end in made_plan.plays[name].runs:
            accounts.update(end.accounts)
        assert run.train == 2 * accounts["train"]
        assert run.sample == 2 * (accounts["sample"] + accounts["search"])
    assert 0.98 * runs["adastar"].flops < runs["adastar"].train + runs["adastar"].sample
    assert runs["star"].note == "one run per budget" and not runs["adastar"].note


def test_a_play_charges_the_study_s_lengths(tmp_path: Path) -> None:
    """SFT on what was sampled one by one, so that the price of either is known in numbers."""
    (play,) = made(tmp_path, methods=["control_unverified"]).plays.values()
    top = play.standings[-1]
    # A completion: 68 + 31 tokens, 32 logits, 99*100/2 = 4,950 pairs:
    #   12,165,120 + 204,800 + 2,534,400 = 14,904,320
    assert top.accounts["sample"] == 14_904_320 * top.completions
    # A sequence: 2*61,440*100 + 2*3,200*100 + 512*5,050 = 15,513,600; 3 passes, 8 in a step
    assert top.accounts["train"] == 3 * 8 * 15_513_600 * top.steps
    assert [one.budget for one in play.standings] == [20 * 10**9, 40 * 10**9, 80 * 10**9]
    assert 1 < play.standings[0].rounds < top.rounds and 40 < play.standings[0].steps < top.steps


def test_what_spends_nothing(tmp_path: Path) -> None:
    made_plan = made(tmp_path)
    runs = {run.method: run for run in made_plan.runs}
    assert runs["control_base"].flops == runs["control_continued"].flops == 0
    assert "unavailable" in runs["control_continued"].note and runs["control_continued"].evaluate == 0
    spend = {name for name, play in made_plan.plays.items() if play.spends}
    assert spend == {"star", "adastar", "hs_star"}
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
    made_plan = made(tmp_path, process_rewards=rewards)
    runs = {run.method: run for run in made_plan.runs}
    # The same tiny model without its head: 15,513,600 - 640,000 for each of what HS-STaR sampled, at most
    # the last call's is not scored yet. Two seeds.
    (end,) = made_plan.plays["hs_star"].runs
    scored = runs["hs_star"].reward / 2 / 14_873_600
    assert end.completions - 800 <= scored <= end.completions and scored == int(scored)
    assert runs["adastar"].reward == 0  # it does not ask for rewards


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
    config.write_text(f"distributed_type: {kind}\nnum_processes: 4\nfsdp_config: {{fsdp_version: 2}}\n")
    need = made(tmp_path, methods=["adastar"], training__accelerate=str(config)).memory[0]
    assert need.bytes - plan.RESERVED - 4_325_376 == states


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
    disk = {place.what: place for place in made(tmp_path, methods=["star", "adastar"]).disk}
    # Weights 4 * 68,160 = 272,640 bytes, moments 545,280, a training call 817,920.
    # Two methods, two seeds, three budgets: 12 * 272,640
    assert disk["weights of every budget"].bytes == 3_271_680
    # What AdaSTaR's two runs end with: the model a cut call began with, and its state. STaR plans, so that no
    # run of it goes on to a higher budget. The job that runs has the call before, its own and a save of it.
    assert disk["last weights and moments, to go on from"].bytes == 2 * (272_640 + 817_920)
    assert disk["checkpoints of the job that runs"].bytes == 3 * 817_920
    # 10 problems, 3 + 1 completions, 3 budgets, 2 + 6 runs, 64 bytes
    assert disk["evaluated samples (parquet)"].bytes == 10 * 4 * 3 * 8 * 64
    for keep, runs in (("weights", 4), ("nothing", 1)):  # of one run, until it is evaluated
        disk = {
            place.what: place.bytes
            for place in made(tmp_path, methods=["star", "adastar"], training__keep=keep).disk
        }
        assert disk["last weights and moments, to go on from"] == 0
        assert disk["weights of every budget"] == runs * 3 * 272_640


def test_engines_start_in_the_hours(tmp_path: Path) -> None:
    vllm = {"sampling__engine": "vllm", "gpus": 2}
    found = {}
    for name, more in {
        "transformers": {}, "vllm": vllm, "kept": {**vllm, "sampling__reuse": True},
        "launched": {**vllm, "training__accelerate": str(ROOT / "benchmarks/accelerate/fsdp.yaml")},
        "alone": {**vllm, "training__keep": "nothing"},
    }.items():  # fmt: skip
        made_plan = made(tmp_path, **ADASTAR, **more)
        found[name] = made_plan.starting
        assert made_plan.hours("H100")["start"] == max(1, made_plan.gpus) * made_plan.starting / 3600
    (run,) = made_plan.plays["adastar"].runs
    assert (sampled := run.starts["sample"]) > 2 and (trained := run.starts["train"]) > 2
    # Two runs, three checkpoints each, evaluated in one job.
    assert found["transformers"] == 2 * 5 * (sampled + trained) + 5 + 6 * 5
    assert found["vllm"] == 2 * (60 * sampled + 5 * trained) + 60 + 6 * 60
    assert found["kept"] == 2 * 5 * (sampled + trained) + 60 + 6 * 5
    assert found["launched"] == found["vllm"] + 2 * 25 * trained
    assert found["alone"] == found["vllm"] + 60


def test_power_is_that_of_the_statistics(tmp_path: Path) -> None:
    few = made(tmp_path).benchmarks[0].power
    whole = {"evaluation__benchmarks": {"gsm8k": {"samples": 4}}}
    problems = made(tmp_path, **whole).benchmarks[0].power
    both = made(tmp_path, **whole, seeds=[*range(8)]).benchmarks[0].power
    assert few[2] < few[5] < problems[5] < 0.3  # two seeds stay two, whatever is asked
    assert both[5] > 0.9 and both[2] > 2 * few[2]


def test_prepared_problems_are_measured(tmp_path: Path) -> None:
    folder = tmp_path / "work" / "tiny" / "problems"
    folder.mkdir(parents=True)
    rows = [json.dumps({"question": "x" * characters}) for characters in (300, 400)]
    (folder / "train.jsonl").write_text("\n".join(rows))
    sentences = " ".join(made(tmp_path).assumptions)
    # 350 characters / 3.5 = 100 tokens
    assert "train.jsonl: 350 characters a question" in sentences
    assert "training prompts of 100 tokens" in sentences and "no problem file" not in sentences


def test_worked_examples_are_read_once_for_each_call(tmp_path: Path) -> None:
    (play,) = made(tmp_path, methods=["control_unverified"], prompt__shots=20).plays.values()
    top = play.standings[-1]
    # 20 examples of 68 + 82 tokens are 3,000; the 68 + 31 queries of the completion above see them too.
    completions = top.completions * (14_904_320 + 99 * 3_000 * 512)
    reading = 3_000 * 2 * 61_440 + 512 * 3_000 * 3_001 // 2
    calls, rest = divmod(top.accounts["sample"] - completions, reading)
    assert rest == 0 and calls in (top.rounds, top.rounds - 1) and calls > 1


def test_rows_of_the_user_s_own_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    problems = {"source": "jsonl", "file": str(file), "validation": 5}
    sentences = " ".join(made(tmp_path, problems=problems).assumptions)
    assert "995 problems" in sentences and "jsonl: questions of 100 tokens" in sentences
    file.write_text('{"question": "?", "answer": "1"}\n' * 25)
    assert "plays: 20 problems" in " ".join(made(tmp_path, problems=problems).assumptions)


# ---------------------------------------------------------------------------------------------------------
# What people see


FAST = ("gsm8k-random", "smoke")  # the others take more than five seconds
PLAYED = [pytest.param(f, id=f.stem, marks=[pytest.mark.slow] * (f.stem not in FAST)) for f in STUDIES]


def shortfalls(study: Study, made_plan: plan.Plan) -> list[str]:
    """What in a study's rehearsal would keep a row from showing what its method does."""
    found = []
    for row, method in load_methods(study).items():
        play = made_plan.plays[row]
        if not play.spends:
            continue
        found += [f"{row}: no step within {one.budget:.3g}" for one in play.standings if not one.steps]
        if play.iterates.completed < 2 and not method.one_round:
            found.append(f"{row}: less than two rounds within {play.iterates.budget:.3g}")
        values = method.model_dump()
        if "n_wanted" in values:  # B-STaR and the rows made of it
            n_star = values["n_star"] or ceil(values["n_wanted"] / values["n_queries"])
            if not 3 <= n_star <= values["k"]:
                found.append(f"{row}: {n_star} wanted of {values['k']} samples of a query")
            if study.gpus and values["n_probe"] < 100:
                found.append(f"{row}: a probe of {values['n_probe']}")
            steps, falls = play.standings[-1].steps, values["optimizer"]["schedule"] != "constant"
            if falls and values["inherit_optimizer"] and not 0.9 * steps <= values["horizon"] <= 1.1 * steps:
                found.append(f"{row}: a horizon of {values['horizon']} for {steps} steps")
    return found


@pytest.mark.parametrize("file", PLAYED)
def test_every_study_that_ships_has_a_plan(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    study = load_study(file)
    made_plan = plan.make(study, Layout(tmp_path, study.name), file)
    spent = sum(run.flops for run in made_plan.runs)
    assert spent >= len(study.seeds) * study.budgets[-1]
    accounts = made_plan.total("train") + made_plan.total("sample") + made_plan.total("reward")
    assert accounts == pytest.approx(spent, rel=0.02) and accounts <= spent
    assert all(run.train > 0 for run in made_plan.runs if run.flops)
    assert not [name for name, play in made_plan.plays.items() if play.failed]
    disk = sum(place.bytes for place in made_plan.disk)
    assert disk < (60e9 if file.stem == "qwen2.5-0.5b-gsm8k" else 600e9)
    if study.gpus:  # a study that asks for GPUs fits the largest one it can have
        assert all(need.fits(140 * GIB) for need in made_plan.memory)
    if study.tuned:  # what was chosen was chosen at the top budget, whatever it does at lower ones
        study = study.model_copy(update={"tuned": None})
        made_plan = plan.make(study, Layout(tmp_path, study.name), file)
    assert not shortfalls(study, made_plan)


@pytest.mark.parametrize(
    ("row", "values", "found"),
    [
        ("hs_star", {"problems_per_round": 200}, "less than two rounds within 4e+10"),
        ("grpo", {"n_problems": 200, "group_size": 64}, "no step within 8e+10"),
        ("b_star", {"n_wanted": 90}, "2 wanted of 4 samples of a query"),
        ("b_star", {"n_wanted": 250}, "5 wanted of 4 samples of a query"),
        ("b_star", {"horizon": 1500}, "a horizon of 1500 for"),
    ],
)
def test_a_study_whose_rows_cannot_show_what_they_do_is_found(
    tmp_path: Path, row: str, values: dict[str, Any], found: str
) -> None:
    good = yaml.safe_load((ROOT / "benchmarks" / "studies" / "gsm8k-random.yaml").read_text())
    settings = good["hyperparameters"].get(row, {}) | values
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(good | {"methods": [row], "hyperparameters": {row: settings}}))
    study = load_study(file)
    made_plan = plan.make(study, Layout(tmp_path, study.name), file)
    assert any(sentence.startswith(f"{row}: {found}") for sentence in shortfalls(study, made_plan))


def test_the_command_prints_everything(tmp_path: Path) -> None:
    made(tmp_path)
    result = CliRunner().invoke(app, ["plan", str(tmp_path / "study.yaml"), "--gpu", "a100-80"])
    assert result.exit_code == 0, result.output
    for words in (
        "280 GFLOP", "A100-80", "GPU-hours", "Memory of one job", "Disk, at most", "+5", "--mfu",
        "rounds | optimizer steps", "calls of the Lab",
    ):  # fmt: skip
        assert words in result.output
    assert "H100" not in result.output
    machine = CliRunner().invoke(app, ["plan", str(tmp_path / "study.yaml"), "--gpu", "H100", "--json"])
    assert json.loads(machine.output)["gpu_hours"]["H100"]["train"] > 0


def test_unknown_gpu_and_model(tmp_path: Path) -> None:
    for spelling in ("4090", "rtx4090", "RTX 4090", "NVIDIA RTX-4090"):
        assert gpu_names(spelling) == ["RTX 4090"]
    assert gpu_names("a100 80") == ["A100-80"] and gpu_names("b200") == ["B200"]
    with pytest.raises(UserError, match="--gpu A100 is not in the table"):  # there are two
        gpu_names("A100")
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
        "import sys; from pathlib import Path; from repro.planning import plan;"
        "from repro.config import load_study; from repro.layout import Layout;"
        "file = Path('benchmarks/studies/smoke.yaml');"
        "plan.render(plan.make(load_study(file), Layout(Path('.'), 'x'), file), ['H100']);"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
