"""GPUs that ``repro plan`` knows: what they compute and hold."""

from __future__ import annotations

from dataclasses import dataclass

from repro.errors import UserError

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    flops: float  # FLOP/s: dense bfloat16 with float32 accumulation, the maker's peak
    memory: int  # bytes, as `nvidia-smi` reports them


GPUS = {
    # NVIDIA Ampere GA102 whitepaper, table 9
    "RTX 3090": Gpu(71.0e12, 24_576 * 2**20),
    # NVIDIA Ada whitepaper, appendix A (FP32 accumulate)
    "RTX 4090": Gpu(165.2e12, 24_564 * 2**20),
    # NVIDIA RTX Blackwell architecture, appendix A (FP32 accumulate)
    "RTX 5090": Gpu(209.5e12, 32_607 * 2**20),
    # NVIDIA A100 datasheet
    "A100-40": Gpu(312.0e12, 40_960 * 2**20),
    "A100-80": Gpu(312.0e12, 81_920 * 2**20),
    # NVIDIA L40S datasheet (half of the figure with sparsity)
    "L40S": Gpu(362.0e12, 46_068 * 2**20),
    # NVIDIA H100 datasheet, SXM (half of the figure with sparsity)
    "H100": Gpu(989.4e12, 81_559 * 2**20),
    # NVIDIA H200 datasheet (half of the figure with sparsity)
    "H200": Gpu(989.4e12, 143_771 * 2**20),
    # NVIDIA HGX B200 datasheet (half of the figure with sparsity)
    "B200": Gpu(2250.0e12, 183_359 * 2**20),
}


def gpu_names(name: str | None) -> list[str]:
    """The GPU of that name, whatever its case, spaces and hyphens, with or without its first word (``4090``);
    for None all. Raises UserError for another name."""
    if name is None:
        return list(GPUS)
    found = [known for known in GPUS if _plain(name) in (_plain(known), _plain(known.split()[-1]))]
    if not found:
        raise UserError(f"--gpu {name} is not in the table of GPUs; name one of {', '.join(GPUS)}")
    return found


def _plain(name: str) -> str:
    return name.casefold().removeprefix("nvidia").replace(" ", "").replace("-", "")
