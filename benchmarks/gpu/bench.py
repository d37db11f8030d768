"""What a GPU makes of the suite, in under ten minutes and without a download:

    PYTHONPATH=. python benchmarks/gpu/bench.py             # prints a table, and writes results/gpu.md

Models are Llamas of the shapes of Qwen2.5-0.5B and -1.5B, with random weights. Each measurement runs by
itself: one that fails, or lacks a library, says why in its line, and those that the time does not allow are
left out by name.
``--device cpu --shape tiny`` tries the command itself where there is no GPU; its speeds mean nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("torch", "transformers", "trl", "accelerate", "peft", "tokenizers", "pydantic", "numpy")
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
             "intermediate_size": 128, "vocab_size": 512},
    "0.5B": {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
             "intermediate_size": 4864, "vocab_size": 151936},
    "1.5B": {"hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12,
             "num_key_value_heads": 2, "intermediate_size": 8960, "vocab_size": 151936},
}  # fmt: skip
STEPS, WARM = 6, 2  # of a training call; the first ones are not timed
FSDP = "distributed_type: FSDP\nnum_processes: 1\nfsdp_config: {fsdp_version: 2}\n"


@dataclass
class Bench:
    """What measurements share. ``lines`` are what was found: what, number, unit, remark."""

    shape: str
    device: str
    folder: Path
    lines: list[tuple[str, str, str, str]] = field(default_factory=list)
    peak: float = 0.0  # FLOP/s of a large matrix product
    bandwidth: float = 0.0  # bytes/s of a large copy

    @property
    def tiny(self) -> bool:
        return self.shape == "tiny"

    @property
    def dtype(self) -> str:
        return "float32" if self.device == "cpu" else "bfloat16"

    @property
    def model(self) -> Path:
        return self.folder / self.shape

    def say(self, what: str, number: float, unit: str, remark: str = "") -> None:
        self.lines.append((what, f"{number:,.4g}", unit, remark))
        print(f"  {what}: {number:,.4g} {unit}  {remark}", flush=True)

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
            torch.cuda.empty_cache()
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
    bench.peak = 2 * size**3 / seconds
    bench.say("matrix product", bench.peak / 1e12, "TFLOP/s", f"{size} x {size}, {bench.dtype}")
    block = torch.empty(2**20 if bench.tiny else 2**30, dtype=torch.uint8, device=bench.device)
    seconds = timed(bench, block.clone)
    bench.bandwidth = 2 * block.numel() / seconds
    bench.say("copy", bench.bandwidth / 1e9, "GB/s", "read and written")


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
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(bench.model)
    parameters = sum(
        weight.numel() for weight in AutoModelForCausalLM.from_pretrained(bench.model).parameters()
    )
    bench.say("parameters", parameters / 1e9, "billion", "random weights")


def ledger(bench: Bench) -> None:
    """The ledger's integers beside what torch counts of the kernels that run, on full sequences."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    from repro.base_model import shape_of
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
    shape, tally = shape_of(bench.model), sequence_tally([(1, length - 1)])
    ours = flops(shape, tally, TRAINING_PASSES)
    sizes = SHAPES[bench.shape]
    width = sizes["hidden_size"] * sizes["num_hidden_layers"]  # of the heads, over all layers
    square = TRAINING_PASSES * 2 * width * length * (length - 1)
    remark = f"{ours:,} of the ledger, {square:,} more for the full square of attention, {counted:,} counted"
    bench.say(
        "ledger / kernels, SFT step", (ours + square) / counted, "", f"{remark} (with the rotary table)"
    )


def train(bench: Bench, what: str, sides: int, count: int, length: int, **settings: Any) -> None:
    """Tokens per second and share of the matrix product of SFT or DPO, without the first steps."""
    from repro.base_model import shape_of
    from repro.flops import TRAINING_PASSES, batch_tally, flops
    from repro.objectives import DPO, SFT, Optimizer
    from repro.training.trl import TRLTrainer

    rows = bench.rows(count * STEPS, length, sides)
    plan = [rows[i : i + count] for i in range(0, len(rows), count)]
    objective = DPO() if sides == 2 else SFT()
    ends: dict[int, float] = {}

    def on_step(step: int, loss: float) -> None:
        bench.synchronise()
        ends[step] = perf_counter()

    trainer = TRLTrainer(dtype=bench.dtype, **settings)  # type: ignore[arg-type]
    with bench.memory(what):
        out = bench.folder / "trained"
        trainer.train(bench.model, plan, objective, Optimizer(learning_rate=1e-6), out, on_step=on_step)
        shutil.rmtree(out)
    seconds = ends[STEPS] - ends[WARM]
    timed_rows = [row for batch in plan[WARM:] for row in batch]
    shape, tally = shape_of(bench.model), batch_tally([row.tally for row in timed_rows])
    bench.say(
        f"{what}: speed", tally.tokens / seconds, "tokens/s", f"{count} rows a step, lengths up to {length}"
    )
    spent = flops(shape, tally, TRAINING_PASSES)
    note = "the reference's passes are before the first step" if sides == 2 else ""
    bench.say(f"{what}: model FLOPs", spent / seconds / bench.peak, "of the matrix product", note)


def sft(bench: Bench) -> None:
    """SFT, rows padded and checkpointed as studies of this size are."""
    train(bench, "SFT", 1, *((4, 32) if bench.tiny else (16, 1024)), gradient_checkpointing=not bench.tiny,
          micro_batch=4 if bench.tiny else 8)  # fmt: skip


def sft_padding_free(bench: Bench) -> None:
    """The same without padding."""
    train(bench, "SFT, padding-free", 1, *((4, 32) if bench.tiny else (16, 1024)), padding_free=True,
          gradient_checkpointing=not bench.tiny, micro_batch=4 if bench.tiny else 8)  # fmt: skip


def dpo(bench: Bench) -> None:
    """DPO."""
    train(bench, "DPO", 2, *((2, 32) if bench.tiny else (8, 1024)), gradient_checkpointing=not bench.tiny,
          micro_batch=2 if bench.tiny else 4)  # fmt: skip


def sampling(bench: Bench, name: str, sampler: Any) -> None:
    """Tokens per second, and the share of what the bandwidth allows: weights and cache read once a step."""
    from repro.base_model import shape_of
    from repro.sampling import Request, SamplingParams

    prompts, each, new = (4, 2, 16) if bench.tiny else (64, 4, 256)
    words = [" ".join(f"w{3 + (i * 7 + j) % 500}" for j in range(64)) for i in range(prompts)]
    requests = [Request(text, tuple(range(i * each, (i + 1) * each))) for i, text in enumerate(words)]
    params = SamplingParams(max_tokens=new)
    with bench.memory(name):
        sampler.load(bench.model)
        sampler.sample(requests[:2], SamplingParams(max_tokens=8))
        bench.synchronise()
        start = perf_counter()
        done = sampler.sample(requests, params)
        bench.synchronise()
        seconds = perf_counter() - start
        sampler.close()
    tokens = sum(sample.tokens for one in done for sample in one.samples)
    bench.say(f"{name}: speed", tokens / seconds, "tokens/s", f"{prompts * each} completions of up to {new}")
    sizes, shape = SHAPES[bench.shape], shape_of(bench.model)
    size = 4 if bench.dtype == "float32" else 2
    width = sizes["hidden_size"] // sizes["num_attention_heads"]
    cache = 2 * sizes["num_hidden_layers"] * sizes["num_key_value_heads"] * width * size
    step = shape.parameters * size + prompts * each * (64 + new / 2) * cache
    bound = prompts * each / (step / bench.bandwidth)
    bench.say(
        f"{name}: roofline", tokens / seconds / bound, "of the bandwidth's", "weights and cache once a step"
    )


def transformers_sampler(bench: Bench) -> None:
    """The suite's own loop over transformers."""
    from repro.sampling.transformers import TransformersSampler

    sampling(bench, "transformers sampler", TransformersSampler(dtype=bench.dtype))  # type: ignore[arg-type]


def vllm_sampler(bench: Bench) -> None:
    """vLLM, where it is installed."""
    if importlib.util.find_spec("vllm") is None:
        raise Lacking("vLLM is not installed")
    from repro.sampling.vllm import VLLMSampler

    sampling(bench, "vLLM sampler", VLLMSampler(bench.dtype, 1, 1, 0.6))  # type: ignore[arg-type]


def bfloat16(bench: Bench) -> None:
    """How far bfloat16's log-probabilities are from float32's."""
    import torch
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([bench.rows(1, 64 if bench.tiny else 512)[0].responses[0]], device=bench.device)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model: Any = AutoModelForCausalLM.from_pretrained(bench.model, dtype=dtype)
        model = model.to(bench.device).eval()
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, :-1].float()
        found.append(logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0])
        del model
    gap = (found[0] - found[1]).abs()
    bench.say("bfloat16 against float32: mean", gap.mean().item(), "nats per token")
    bench.say("bfloat16 against float32: most", gap.max().item(), "nats per token")


CHILD = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {here!r}]
from bench import Bench, resumable
resumable(Bench({shape!r}, {device!r}, Path({folder!r})), {stop})
"""


def resumable(bench: Bench, stop: int) -> None:
    """A training call that saves itself at every second step; it is killed after ``stop`` steps, if any."""
    from repro.objectives import SFT, Optimizer
    from repro.training.trl import TRLTrainer

    rows = bench.rows(4 * STEPS, 32 if bench.tiny else 256)
    plan = [rows[i : i + 4] for i in range(0, len(rows), 4)]

    def on_step(step: int, loss: float) -> None:
        if step == stop:
            os.kill(os.getpid(), 9)

    out, states = bench.folder / "resumed", bench.folder / "states"
    trainer = TRLTrainer(dtype=bench.dtype, save_every=2)  # type: ignore[arg-type]
    trainer.train(
        bench.model, plan, SFT(), Optimizer(learning_rate=1e-4), out, on_step=on_step, states=states
    )


def resume(bench: Bench) -> None:
    """A call that is killed and gone on with, beside one that is not: the weights."""
    from safetensors.torch import load_file

    def ran(stop: int) -> int:
        code = CHILD.format(
            root=str(ROOT), here=str(Path(__file__).parent), shape=bench.shape, device=bench.device,
            folder=str(bench.folder), stop=stop,
        )  # fmt: skip
        return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode

    def weights() -> Any:
        found = load_file(bench.folder / "resumed" / "model.safetensors")
        shutil.rmtree(bench.folder / "resumed")
        shutil.rmtree(bench.folder / "states", ignore_errors=True)
        return found

    assert ran(0) == 0
    whole = weights()
    assert ran(STEPS - 1) == -9 and ran(0) == 0
    again = weights()
    gap = max((whole[name].float() - again[name].float()).abs().max().item() for name in whole)
    bench.say("killed and resumed: largest difference of a weight", gap, "", "0 is bit for bit")


def fsdp(bench: Bench) -> None:
    """FSDP2 in one process, started as a study starts it."""
    if bench.device == "cpu":
        raise Lacking("FSDP is for GPUs")
    from repro.config import Training
    from repro.objectives import SFT, Optimizer
    from repro.training.launch import LaunchedTrainer

    path = bench.folder / "fsdp.yaml"
    path.write_text(FSDP)
    rows = bench.rows(16, 256)
    out = bench.folder / "sharded"
    start = perf_counter()
    trainer = LaunchedTrainer(Training(accelerate=path, dtype="bfloat16", micro_batch=8))
    trained = trainer.train(bench.model, [rows[:8], rows[8:]], SFT(), Optimizer(learning_rate=1e-6), out)
    bench.say(
        "FSDP2 on one GPU: two steps", perf_counter() - start, "s", f"with its start; loss {trained.loss:.3f}"
    )
    shutil.rmtree(out)


class Lacking(Exception):
    """The machine lacks what a measurement needs."""


MEASUREMENTS: list[Callable[[Bench], None]] = [
    machine, make_model, ledger, sft, sft_padding_free, dpo, transformers_sampler, vllm_sampler, bfloat16,
    resume, fsdp,
]  # fmt: skip


def about(device: str) -> list[str]:
    """The machine and the versions, a line each."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    found = [f"device: {name}", f"python {platform.python_version()}"]
    for library in (*NEEDED, "vllm"):
        try:
            found.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            found.append(f"{library}: not installed")
    return found


def table(bench: Bench) -> str:
    lines = [f"| {what} | {number} | {unit} | {remark} |" for what, number, unit, remark in bench.lines]
    return "\n".join([f"## {bench.shape}\n", "| what | | unit | |", "|---|---:|---|---|", *lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--shape", choices=list(SHAPES), nargs="+", default=["0.5B", "1.5B"])
    parser.add_argument("--minutes", type=float, default=9.0, help="begin no measurement after these")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "gpu.md")
    asked = parser.parse_args()

    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        sys.exit(
            f"bench: {', '.join(lacking)} not installed here; install them, or use the suite's environment"
        )
    import torch

    if asked.device == "cuda" and not torch.cuda.is_available():
        sys.exit("bench: torch finds no GPU here; --device cpu --shape tiny tries the command without one")
    if importlib.util.find_spec("repro") is None:
        sys.exit(
            f"bench: the suite is not on the path; run it as PYTHONPATH={ROOT} python {' '.join(sys.argv)}"
        )

    start, texts = perf_counter(), []
    for shape in asked.shape:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(shape, asked.device, Path(folder))
            for measure in MEASUREMENTS:
                print(f"{shape}: {measure.__name__}", flush=True)
                if perf_counter() - start > 60 * asked.minutes:
                    bench.lines.append((measure.__name__, "", "", "left out: the time was over"))
                    continue
                try:
                    measure(bench)
                except Exception as error:  # whatever it is, the others are measured
                    if not isinstance(error, Lacking):
                        traceback.print_exc()
                    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                    bench.lines.append((measure.__name__, "", "", f"not measured: {reason}"))
        texts.append(table(bench))
    text = "\n".join(["# One GPU\n", "\n".join(f"- {line}" for line in about(asked.device)), "", *texts])
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(text)
    print(f"\n{text}\n{asked.out}: {perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
