"""What a GPU makes of the suite, in under ten minutes and without a download:

    PYTHONPATH=. python benchmarks/gpu/bench.py             # prints a table, and writes results/gpu.md

Models are Llamas of the shapes of Qwen2.5-0.5B and -1.5B, with random weights. Each measurement runs by
itself: one that fails, does not fit, or lacks a library, says why in its line, and those that the time does
not allow are left out by name. What needs no second size is measured at the first one only.

By estimate, as it has not been run on a GPU yet: five minutes on an H100 or H200, and seven with vLLM, whose
engine takes a minute to start for each size; about the same on a card of 24 GB, where training of the 1.5B
does not fit, as weights, gradients and moments are 25 GB. The temporary folder (TMPDIR) needs 15 GB.
``--device cpu --shape tiny`` tries the command itself where there is no GPU; its speeds mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = (
    "torch", "triton", "transformers", "trl", "accelerate", "peft", "datasets", "tokenizers", "numpy",
    "flash-attn", "vllm",
)  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
             "intermediate_size": 128, "vocab_size": 512},
    "0.5B": {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
             "intermediate_size": 4864, "vocab_size": 151936},
    "1.5B": {"hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12,
             "num_key_value_heads": 2, "intermediate_size": 8960, "vocab_size": 151936},
}  # fmt: skip
# What torch calls the GPUs of repro.planning.hardware; others have other peaks under like names.
KNOWN = {
    "NVIDIA GeForce RTX 3090": "RTX 3090",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
    "NVIDIA GeForce RTX 5090": "RTX 5090",
    "NVIDIA A100-SXM4-40GB": "A100-40",
    "NVIDIA A100-PCIE-40GB": "A100-40",
    "NVIDIA A100-SXM4-80GB": "A100-80",
    "NVIDIA A100 80GB PCIe": "A100-80",
    "NVIDIA L40S": "L40S",
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H200": "H200",
    "NVIDIA B200": "B200",
}
STEPS, WARM = 6, 2  # of a training call; the first ones are not timed
OVER = "the time was over"


@dataclass
class Bench:
    """What measurements share. ``lines`` are what was found: what, number, unit, remark."""

    shape: str
    device: str
    folder: Path
    lines: list[tuple[str, str, str, str]] = field(default_factory=list)
    product: float = 0.0  # FLOP/s of a large matrix product
    peak: float = 0.0  # FLOP/s by the maker; 0: unknown
    bandwidth: float = 0.0  # bytes/s of a large copy
    loss: float = 0.0  # of SFT's first step

    @property
    def tiny(self) -> bool:
        return self.shape == "tiny"

    @property
    def dtype(self) -> str:
        return "float32" if self.device == "cpu" else "bfloat16"

    @property
    def model(self) -> Path:
        return self.folder / self.shape

    @property
    def sizes(self) -> Any:
        """The model's shape, as a study reads it off the model."""
        from repro.shapes import shape_of

        return shape_of(self.model)

    def say(self, what: str, number: float, unit: str, remark: str = "") -> None:
        shown = f"{number:,.0f}" if number >= 1000 else f"{number:.4g}"
        self.lines.append((what, shown, unit, remark))
        print(f"  {what}: {shown} {unit}  {remark}", flush=True)

    def rows(self, count: int, length: int, sides: int = 1) -> list[Any]:
        """Random rows of ``length`` tokens, a quarter of them prompt; lengths vary by half."""
        import numpy as np

        from repro.training import Row

        random = np.random.default_rng(count + length + sides)
        most = SHAPES[self.shape]["vocab_size"] - 1

        def tokens(size: int) -> tuple[int, ...]:
            return tuple(random.integers(3, most, size).tolist())

        found = []
        for _ in range(count):
            size = int(length * random.uniform(0.5, 1.0))
            found.append(Row(tokens(size // 4), tuple(tokens(size - size // 4) for _ in range(sides))))
        return found

    def synchronise(self) -> None:
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    @contextmanager
    def memory(self, what: str) -> Iterator[None]:
        import torch

        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        yield
        if self.device == "cuda":
            self.say(f"{what}: peak memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")


def machine(bench: Bench) -> None:
    """What the machine gives: a matrix product, and a copy."""
    import torch

    size = 256 if bench.tiny else 8192
    a = torch.randn(size, size, device=bench.device, dtype=getattr(torch, bench.dtype))
    seconds = timed(bench, lambda: a @ a)
    bench.product = 2 * size**3 / seconds
    bench.say("matrix product", bench.product / 1e12, "TFLOP/s", f"{size} x {size}, {bench.dtype}")
    block = torch.empty(2**20 if bench.tiny else 2**30, dtype=torch.uint8, device=bench.device)
    seconds = timed(bench, block.clone)
    bench.bandwidth = 2 * block.numel() / seconds
    bench.say("copy", bench.bandwidth / 1e9, "GB/s", "read and written")
    if bench.device == "cuda":
        from repro.planning.hardware import GPUS

        name = torch.cuda.get_device_name()
        if name in KNOWN:
            bench.peak = GPUS[KNOWN[name]].flops
            bench.say("maker's peak", bench.peak / 1e12, "TFLOP/s", "dense bfloat16")
        else:
            bench.lines.append(("MFU", "", "", f"left out: no maker's peak of {name} in the table of GPUs"))


def timed(bench: Bench, work: Callable[[], object], tries: int = 10) -> float:
    """Seconds of one call, the least of some."""
    best = float("inf")
    for _ in range(tries):
        bench.synchronise()
        start = perf_counter()
        work()
        bench.synchronise()
        best = min(best, perf_counter() - start)
    return best


def make_model(bench: Bench) -> None:
    """Random weights in a model folder, with a tokenizer of a word for each token."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    sizes = SHAPES[bench.shape]
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2} | {f"w{i}": i for i in range(3, sizes["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(bench.model)
    config = AutoConfig.for_model("llama", tie_word_embeddings=True, eos_token_id=1, pad_token_id=0, **sizes)
    torch.manual_seed(0)
    with torch.device(bench.device):  # drawing a billion numbers takes a CPU a quarter of a minute
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(bench.model)
    bench.say("parameters", bench.sizes.parameters / 1e9, "billion", "random weights")


def ledger(bench: Bench) -> None:
    """The ledger's integers beside what torch counts of the products that run, on a full sequence."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    from repro.flops import TRAINING_PASSES, flops, sequence_tally

    length = 32 if bench.tiny else 512
    model: Any = AutoModelForCausalLM.from_pretrained(
        bench.model, dtype=getattr(torch, bench.dtype), attn_implementation="eager"
    )
    model = model.to(bench.device)
    ids = torch.ones(1, length, dtype=torch.long, device=bench.device)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False).logits.float().sum().backward()
    counted = counter.get_total_flops()
    shape = bench.sizes
    ours = flops(shape, sequence_tally([(1, length - 1)]), TRAINING_PASSES)
    square = TRAINING_PASSES * shape.attention * length * (length - 1)
    remark = f"{ours:,} of the ledger, {square:,} more for the full square of attention, {counted:,} counted"
    bench.say(
        "ledger / kernels, forward and backward", (ours + square) / counted, "",
        f"{remark} (with the rotary table)",
    )  # fmt: skip


class Enough(Exception):
    """Ends a training call after its last step: writing what it trained would take longer than the steps."""


def steps(
    bench: Bench, plan: list[list[Any]], objective: Any = None, **settings: Any
) -> tuple[list[float], list[float]]:
    """When each step of a training call ended, and its loss. Nothing is written."""
    from repro.objectives import SFT, Optimizer
    from repro.training.trl import TRLTrainer

    ends, losses = [], []

    def on_step(step: int, loss: float) -> None:
        bench.synchronise()
        ends.append(perf_counter())
        losses.append(loss)
        if step == len(plan):
            raise Enough

    trainer = TRLTrainer(dtype=bench.dtype, **settings)  # type: ignore[arg-type]
    rate, out = Optimizer(learning_rate=1e-6), bench.folder / "trained"
    with suppress(Enough):
        trainer.train(bench.model, plan, objective or SFT(), rate, out, on_step=on_step)
    return ends, losses


def train(bench: Bench, what: str, count: int, objective: Any = None, **settings: Any) -> float:
    """Tokens per second, model FLOPs and memory of SFT or DPO, without the first steps; the first loss."""
    from repro.flops import TRAINING_PASSES, batch_tally, flops

    length, sides = (32 if bench.tiny else 1024), (2 if objective else 1)
    count, micro = (4, 2) if bench.tiny else (count, count // 2)
    rows = bench.rows(count * STEPS, length, sides)
    plan = [rows[i : i + count] for i in range(0, len(rows), count)]
    with bench.memory(what):
        ends, losses = steps(
            bench, plan, objective, micro_batch=micro, gradient_checkpointing=not bench.tiny, **settings
        )
    seconds = ends[-1] - ends[WARM - 1]
    shape = bench.sizes
    tally = batch_tally([row.tally(shape.window) for batch in plan[WARM:] for row in batch])
    bench.say(
        f"{what}: speed", tally.tokens / seconds, "tokens/s", f"{count} rows a step, lengths up to {length}"
    )
    speed = flops(shape, tally, TRAINING_PASSES) / seconds
    note = "the reference's passes are before the first step" if sides == 2 else ""
    if bench.product:
        bench.say(f"{what}: model FLOPs", speed / bench.product, "of the matrix product", note)
    if bench.peak:
        bench.say(f"{what}: MFU", speed / bench.peak, "of the maker's peak", note)
    return losses[0]


def sft(bench: Bench) -> None:
    """SFT, rows padded and checkpointed as studies of this size are."""
    bench.loss = train(bench, "SFT", 16)


def sft_padding_free(bench: Bench) -> None:
    """The same without padding, and the losses of the same rows."""
    from transformers.utils import is_flash_attn_2_available

    loss = train(bench, "SFT, padding-free", 16, padding_free=True)
    if bench.loss:
        kernel = "flash-attn" if is_flash_attn_2_available() else "SDPA with a mask: flash-attn is not here"
        gap = abs(loss - bench.loss) / bench.loss
        bench.say("SFT, padding-free: first loss against padded", gap, "of the loss", kernel)


def dpo(bench: Bench) -> None:
    """DPO."""
    from repro.objectives import DPO

    train(bench, "DPO", 8, DPO())


def sampling(bench: Bench, name: str, sampler: Any) -> None:
    """Tokens per second, and the share of what the bandwidth allows: weights and cache read once a step."""
    from repro.sampling import Request, SamplingParams

    prompts, each, new = (4, 2, 16) if bench.tiny else (64, 4, 256)
    words = [" ".join(f"w{3 + (i * 7 + j) % 500}" for j in range(64)) for i in range(prompts)]
    requests = [Request(text, tuple(range(i * each, (i + 1) * each))) for i, text in enumerate(words)]
    params = SamplingParams(max_tokens=new)
    sampler.load(bench.model)
    sampler.sample(requests, SamplingParams(max_tokens=8))  # whatever is made at the first call
    bench.synchronise()
    start = perf_counter()
    done = sampler.sample(requests, params)
    bench.synchronise()
    seconds = perf_counter() - start
    sampler.close()
    tokens = sum(sample.tokens for one in done for sample in one.samples)
    bench.say(f"{name}: speed", tokens / seconds, "tokens/s", f"{prompts * each} completions of up to {new}")
    sizes, shape = SHAPES[bench.shape], bench.sizes
    size = 4 if bench.dtype == "float32" else 2
    width = sizes["hidden_size"] // sizes["num_attention_heads"]
    cache = 2 * sizes["num_hidden_layers"] * sizes["num_key_value_heads"] * width * size
    step = shape.parameters * size + prompts * each * (64 + new / 2) * cache
    if bench.bandwidth:
        bound = prompts * each / (step / bench.bandwidth)
        note = "weights and cache read once a step, as fast as the copy"
        bench.say(f"{name}: roofline", tokens / seconds / bound, "of the bandwidth's", note)


def transformers_sampler(bench: Bench) -> None:
    """The suite's own loop over transformers."""
    from repro.sampling.transformers import TransformersSampler

    name = "transformers sampler"
    with bench.memory(name):
        sampling(bench, name, TransformersSampler(dtype=bench.dtype))  # type: ignore[arg-type]


def vllm_sampler(bench: Bench) -> None:
    """vLLM, where it is installed."""
    if importlib.util.find_spec("vllm") is None:
        raise Lacking("vLLM is not installed")
    from repro.sampling.vllm import VLLMSampler

    sampling(bench, "vLLM sampler", VLLMSampler(bench.dtype, 1, 1, 0.6))  # type: ignore[arg-type]


def bfloat16(bench: Bench) -> None:
    """How far apart the log-probabilities are of float32, of the trainer's bfloat16 (float32 weights, passes
    autocast) and of the sampler's (bfloat16 weights)."""
    import torch
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([bench.rows(1, 64 if bench.tiny else 512)[0].responses[0]], device=bench.device)

    def found(weights: torch.dtype, autocast: bool) -> torch.Tensor:
        model: Any = AutoModelForCausalLM.from_pretrained(bench.model, dtype=weights)
        model = model.to(bench.device).eval()
        with torch.inference_mode(), torch.autocast(bench.device, torch.bfloat16, enabled=autocast):
            logits = model(input_ids=ids).logits[0, :-1].float()
        return logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]

    exact = found(torch.float32, False)
    trainer, sampler = found(torch.float32, True), found(torch.bfloat16, False)
    for what, a, b in (
        ("trainer against float32", trainer, exact),
        ("sampler against float32", sampler, exact),
        ("sampler against trainer", sampler, trainer),
    ):
        gap = (a - b).abs()
        bench.say(
            f"bfloat16, {what}", gap.mean().item(), "nats per token", f"mean; at most {gap.max().item():.3g}"
        )


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from bench import Bench, resumable
resumable(Bench({shape!r}, {device!r}, Path({folder!r})), {stop})
"""


def resumable(bench: Bench, stop: int) -> None:
    """A training call of four steps that saves itself after the second, and dies after ``stop``, if any."""
    import torch

    from repro.objectives import SFT, Optimizer
    from repro.training.trl import TRLTrainer

    torch.use_deterministic_algorithms(True)
    rows = bench.rows(16, 32 if bench.tiny else 256)
    plan = [rows[i : i + 4] for i in range(0, len(rows), 4)]

    def on_step(step: int, loss: float) -> None:
        if step == stop:
            os.kill(os.getpid(), signal.SIGKILL)

    out, states = bench.folder / "resumed", bench.folder / "states"
    trainer = TRLTrainer(dtype=bench.dtype, save_every=2)  # type: ignore[arg-type]
    trainer.train(
        bench.model, plan, SFT(), Optimizer(learning_rate=1e-4), out, on_step=on_step, states=states
    )


def resume(bench: Bench) -> None:
    """A call that is killed and gone on with, beside one that is not, by deterministic kernels: weights."""
    from safetensors.torch import load_file

    def ran(stop: int = 0) -> None:
        code = CHILD.format(
            here=str(Path(__file__).parent), shape=bench.shape, device=bench.device, folder=str(bench.folder),
            stop=stop,
        )  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True,
            env=os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
        )  # fmt: skip
        if done.returncode != (-signal.SIGKILL if stop else 0):
            print(done.stderr, file=sys.stderr)
            raise Lacking(f"a training process ended with {done.returncode}: {last_error(done.stderr)}")

    def weights() -> Any:
        found = load_file(bench.folder / "resumed" / "model.safetensors")
        shutil.rmtree(bench.folder / "resumed")
        shutil.rmtree(bench.folder / "states", ignore_errors=True)
        return found

    ran()
    whole = weights()
    ran(stop=3)
    ran()
    again = weights()
    gap = max((whole[name].float() - again[name].float()).abs().max().item() for name in whole)
    bench.say("killed and resumed: largest difference of a weight", gap, "", "0 is bit for bit")


def fsdp(bench: Bench) -> None:
    """FSDP2 in one process, started and saved as a study does it, beside training without it."""
    if bench.device == "cpu":
        raise Lacking("FSDP is for GPUs")
    import yaml

    from repro.config import Training
    from repro.errors import UserError
    from repro.objectives import SFT, Optimizer
    from repro.training.launch import LaunchedTrainer

    rows = bench.rows(16, 256)
    plan = [rows[:8], rows[8:]]
    losses: list[float] = []
    path, out = bench.folder / "fsdp.yaml", bench.folder / "sharded"
    shipped = yaml.safe_load((ROOT / "benchmarks" / "accelerate" / "fsdp.yaml").read_text())
    path.write_text(yaml.safe_dump(shipped | {"num_processes": 1}))
    trainer = LaunchedTrainer(Training(accelerate=path, dtype="bfloat16"))
    start = perf_counter()
    try:
        trainer.train(
            bench.model, plan, SFT(), Optimizer(learning_rate=1e-6), out,
            on_step=lambda step, loss: losses.append(loss),
        )  # fmt: skip
    except UserError as error:
        log = bench.folder / "training.log"
        text = log.read_text(errors="replace") if log.is_file() else ""
        print(text, file=sys.stderr)
        raise Lacking(last_error(text) or str(error)) from error
    bench.say("FSDP2 on one GPU: two steps", perf_counter() - start, "s", "with its start and what it saves")
    shutil.rmtree(out)
    alone = steps(bench, plan)[1]
    gap = max(abs(a - b) / b for a, b in zip(losses, alone, strict=True))
    bench.say("FSDP2 on one GPU: losses against one process", gap, "of the loss")


def last_error(text: str) -> str:
    """The last error that a process printed, torchrun's own aside; empty where there is none."""
    found = re.findall(r"^(?:\[rank\d+\]: )?([\w.]*(?:Error|Exception)\b.*)$", text, re.MULTILINE)
    return next((line for line in reversed(found) if "ChildFailedError" not in line), "")


class Lacking(Exception):
    """Why a measurement cannot be made, in a sentence."""


MEASUREMENTS: list[Callable[[Bench], None]] = [
    machine, make_model, ledger, sft, sft_padding_free, dpo, transformers_sampler, vllm_sampler, bfloat16,
    resume, fsdp,
]  # fmt: skip
ONCE = (resume, fsdp)  # at the first size: they ask whether something works


def about(device: str) -> list[str]:
    """The machine and the versions, a line each."""
    import torch

    found = [f"device: {platform.processor() or platform.machine()}"]
    if device == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        found = [f"device: {torch.cuda.get_device_name()}, {memory:.0f} GiB, CUDA {torch.version.cuda}"]
    found.append(f"python {platform.python_version()}")
    for library in LIBRARIES:
        try:
            found.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            found.append(f"{library}: not installed")
    return found


def table(bench: Bench) -> str:
    lines = [f"| {what} | {number} | {unit} | {remark} |" for what, number, unit, remark in bench.lines]
    return "\n".join([f"## {bench.shape}\n", "| what | | unit | |", "|---|---:|---|---|", *lines, ""])


def free() -> None:
    """Give back what the measurement before left: trainers refer to themselves."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measured(bench: Bench, measure: Callable[[Bench], None], seconds: float) -> str:
    """Why there is no measurement after so many seconds; empty where there is one."""
    if seconds <= 0:
        return f"left out: {OVER}"

    def stop(*_: Any) -> None:
        raise TimeoutError(OVER)

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        measure(bench)
    except Lacking as lacking:
        return f"not measured: {lacking}"
    except ModuleNotFoundError as error:
        return f"left out: needs {error.name}, which is not installed" if error.name else f"left out: {error}"
    except TimeoutError as error:
        return f"left out: {error}"
    except Exception as error:  # whatever it is, the others are measured
        traceback.print_exc()
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"not measured: {reason}".replace("|", "/")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--shape", choices=list(SHAPES), nargs="+", default=["0.5B", "1.5B"])
    parser.add_argument("--minutes", type=float, default=9.5, help="stop measuring after these")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "gpu.md")
    asked = parser.parse_args()

    if importlib.util.find_spec("repro") is None:
        sys.exit(
            f"bench: the suite is not on the path; run it as PYTHONPATH={ROOT} python {' '.join(sys.argv)}"
        )
    if importlib.util.find_spec("torch") is None:
        sys.exit("bench: torch is not installed here; install it, or use the suite's environment")
    # One GPU, as a job of a study sees it: the Trainer would take all there are.
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    import torch

    if asked.device == "cuda" and not torch.cuda.is_available():
        sys.exit("bench: torch finds no GPU here; --device cpu --shape tiny tries the command without one")

    start, texts = perf_counter(), []
    for shape in asked.shape:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(shape, asked.device, Path(folder))
            for measure in MEASUREMENTS:
                print(f"{shape}: {measure.__name__}", flush=True)
                if measure in ONCE and shape != asked.shape[0]:
                    reason = f"left out: as at {asked.shape[0]}"
                else:
                    reason = measured(bench, measure, start + 60 * asked.minutes - perf_counter())
                if reason:
                    bench.lines.append((measure.__name__, "", "", reason))
                free()
        texts.append(table(bench))
    text = "\n".join(["# One GPU\n", "\n".join(f"- {line}" for line in about(asked.device)), "", *texts])
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(text)
    print(f"\n{text}\n{asked.out}: {perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
