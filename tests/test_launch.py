"""Training in two processes on the CPU, over gloo, against the same call in one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import ClusterConfig
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from repro.config import LoRA, Training
from repro.errors import RunFailed, UserError
from repro.objectives import DPO, SFT, Optimizer, PolicyGradient
from repro.training import Row, newest_state, trainer_for
from repro.training.checkpoints import MOMENTS, base_of
from repro.training.launch import LaunchedTrainer

CONFIGS = Path(__file__).resolve().parent.parent / "benchmarks" / "accelerate"
TWO = CONFIGS / "ddp2-cpu.yaml"
ADAM = Optimizer(learning_rate=3e-3, warmup_steps=1, schedule="cosine", weight_decay=0.1, max_grad_norm=0.5)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "base"
    words = {word: i for i, word in enumerate(["<pad>", "<eos>", *(f"w{i}" for i in range(22))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>").save_pretrained(
        folder
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(
        LlamaConfig(vocab_size=24, initializer_range=0.2, tie_word_embeddings=True, eos_token_id=1, **sizes)
    ).save_pretrained(folder)
    return folder


def rows(count: int, responses: int) -> list[Row]:
    g = torch.Generator().manual_seed(count)

    def tokens() -> tuple[int, ...]:
        length = int(torch.randint(1, 9, (), generator=g))
        return tuple(torch.randint(2, 24, (length,), generator=g).tolist())

    return [Row(tokens(), tuple(tokens() for _ in range(responses))) for _ in range(count)]


def distances(a: Path, b: Path) -> tuple[float, float]:
    left, right = (load_file(folder / "model.safetensors") for folder in (a, b))
    assert left.keys() == right.keys()
    apart = torch.cat([(left[name] - right[name]).abs().flatten() for name in left])
    return apart.max().item(), apart.mean().item()


@pytest.mark.promise("The same numbers", "Training in several processes takes the same steps as in one.")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        # Seven rows in passes of two: processes with as many, with fewer, and with none at all.
        (SFT(), {"micro_batch": 2}),
        (DPO(label_smoothing=0.1, nll_weight=1.0), {"micro_batch": 2, "lora": LoRA(rank=4, alpha=8)}),
        (DPO(nll_weight=1.0, nll_normalization="sequence"), {"micro_batch": 2}),
        (PolicyGradient(clip_low=0.05, clip_high=0.05, kl=0.1), {"micro_batch": 2}),
        (PolicyGradient(normalization="token", kl=0.1), {"micro_batch": 2, "lora": LoRA(rank=4, alpha=8)}),
    ],
    ids=["sft", "dpo", "dpo-sequence", "policy", "policy-token"],
)
def test_two_processes_do_what_one_does(base: Path, tmp_path: Path, objective: Any, settings: Any) -> None:
    batches = [rows(size, 2 if isinstance(objective, DPO) else 1) for size in (7, 5, 7, 1)]
    if isinstance(objective, PolicyGradient):
        batches = [[replace(row, weight=(-1) ** i) for i, row in enumerate(batch)] for batch in batches]
    found: dict[str, list[tuple[int, float]]] = {}
    reports = []
    for name, accelerate in (("one", None), ("two", TWO)):
        seen = found.setdefault(name, [])
        folder = tmp_path / name
        trainer = trainer_for(Training(accelerate=accelerate, save_every=3, **settings))
        reports.append(
            trainer.train(
                base,
                batches,
                objective,
                ADAM,
                folder,
                snapshots={2: folder / "step-2"},
                on_step=lambda step, loss, seen=seen: seen.append((step, loss)),  # type: ignore[misc]
                states=tmp_path / f"{name}-states",
                base=base,
            )
        )
    one, two = tmp_path / "one", tmp_path / "two"
    assert reports[0].loss == pytest.approx(reports[1].loss, abs=1e-5)
    assert reports[0].monitors == pytest.approx(reports[1].monitors, abs=1e-4)
    for (row, values), (other, others) in zip(reports[0].start, reports[1].start, strict=True):
        assert row == other and values == pytest.approx(others, abs=1e-5)
    assert [step for step, _ in found["two"]] == [1, 2, 3, 4]
    assert [loss for _, loss in found["one"]] == pytest.approx([loss for _, loss in found["two"]], abs=1e-5)
    for a, b in ((one, two), (one / "step-2", two / "step-2")):
        largest, mean = distances(a, b)
        assert largest < 2e-5 and mean < 1e-6
    assert distances(one, base)[1] > 1e-4
    left, right = load_file(one / MOMENTS), load_file(two / MOMENTS)
    for name in left:
        torch.testing.assert_close(left[name], right[name], atol=1e-6, rtol=1e-3)
    assert base_of(two) == base_of(one)
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())
    assert newest_state(tmp_path / "two-states").name == "000003"  # type: ignore[union-attr]


@pytest.mark.slow
def test_what_goes_wrong_in_the_processes_is_one_sentence(base: Path, tmp_path: Path) -> None:
    config = tmp_path / "one.yaml"
    config.write_text("distributed_type: 'NO'\nnum_processes: 1\n")  # the quickest to start
    trainer = trainer_for(Training(accelerate=config))
    with pytest.raises(RunFailed, match=r"^The (loss|gradient norm) is .* at step 2 of this training call"):
        trainer.train(base, [rows(3, 1)] * 3, SFT(), Optimizer(learning_rate=1e30), tmp_path / "out")
    unknown = [[Row((999,), ((1,),))]]
    with pytest.raises(UserError, match=r"processes of .*one\.yaml ended .* output is in .*\.log,") as caught:
        trainer.train(base, unknown, SFT(), ADAM, tmp_path / "out")
    assert "\n" not in str(caught.value) and not isinstance(caught.value, RunFailed)
    assert "IndexError" in (tmp_path / "training.log").read_text()


CALLER = """
import sys, time
from pathlib import Path
from repro.config import Training
from repro.objectives import SFT, Optimizer
from repro.training import Row, trainer_for
base, out, config = map(Path, sys.argv[1:])
batches = [[Row((3, 4), ((5, 6, 1),))] * 2] * 100_000
trainer_for(Training(accelerate=config)).train(
    base, batches, SFT(), Optimizer(learning_rate=1e-9), out, on_step=lambda *step: print(*step, flush=True)
)
"""


@pytest.mark.slow
def test_nothing_trains_on_when_the_caller_is_killed(base: Path, tmp_path: Path) -> None:
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, str(base), str(tmp_path / "out"), str(TWO)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(CONFIGS.parent.parent)},
    )
    assert caller.stdout is not None and caller.stdout.readline().startswith(b"1 ")
    caller.send_signal(signal.SIGKILL)
    caller.wait()

    def alive() -> bool:
        commands = [path / "cmdline" for path in Path("/proc").glob("[0-9]*")]
        needle = str(tmp_path / "out" / "job").encode()
        return any(needle in path.read_bytes() for path in commands if path.exists())

    deadline = time.monotonic() + 20
    while alive() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not alive()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_that_ships_is_accepted(path: Path) -> None:
    assert isinstance(trainer_for(Training(accelerate=path)), LaunchedTrainer)
    keys = set(yaml.safe_load(path.read_text()))
    assert keys <= set(ClusterConfig.__dataclass_fields__)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("distributed_type: DEEPSPEED", "distributed_type 'DEEPSPEED' is not supported; use MULTI_GPU, or"),
        (
            "distributed_type: FSDP\nfsdp_config: {fsdp_version: 1}",
            "'FSDP' is not supported; use MULTI_GPU, or",
        ),
        ("num_processes: 2", "distributed_type None is not supported"),
        ("distributed_type: MULTI_GPU\nnum_processes: many", "num_processes is 'many'; set it to"),
        ("- a\n- b", "is not a mapping of keys; write it anew"),
        ("a: [", "is not YAML; mend it"),
    ],
)
def test_configs_that_are_not_accepted(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        trainer_for(Training(accelerate=tmp_path / "config.yaml"))
    with pytest.raises(UserError, match="cannot be read"):
        trainer_for(Training(accelerate=tmp_path / "nowhere.yaml"))
