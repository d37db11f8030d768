"""Which weights has an engine loaded? Log-probabilities of fixed token ids say, up to rounding.

An engine that reloads its weights in place may keep old ones, or make a muddle of them, and report success.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from repro.models import loading

PROMPTS, LENGTH = 4, 32
ROUNDING = {"float32": 1e-3, "bfloat16": 0.1}  # nats per token that engines of one dtype may differ by


def probe(vocabulary: int) -> list[list[int]]:
    """The fixed prompts: ids drawn evenly from a vocabulary, so that training anywhere in it shows."""
    return np.random.default_rng(0).integers(vocabulary, size=(PROMPTS, LENGTH)).tolist()


@torch.inference_mode()
def log_probs(model_dir: Path, prompts: list[list[int]], dtype: str) -> list[list[float]]:
    """By transformers, from the saved weights: natural log-probability of each token but the first.
    Takes the memory of a second model until it returns."""
    with loading(model_dir):
        model: Any = AutoModelForCausalLM.from_pretrained(
            model_dir, local_files_only=True, use_safetensors=True, dtype=getattr(torch, dtype)
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ids = torch.tensor(prompts, device=device)
    logits = model.to(device).eval()(input_ids=ids).logits[:, :-1].float()
    found = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0].tolist()
    del model, logits
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def agrees(
    before: list[list[float]],
    after: list[list[float]],
    was: list[list[float]],
    now: list[list[float]],
    dtype: str,
) -> bool:
    """Whether an engine that showed ``before`` and, reloaded, shows ``after`` went from the weights whose
    log-probabilities are ``was`` to those of ``now``. It must arrive there, up to rounding. Training may move
    them by less than that, so it must also have moved as the weights have: most of the rounding is in both
    ends and drops out.
    """
    engine, weights = np.array([before, after]), np.array([was, now])
    off = np.abs(engine[1] - weights[1]).mean()
    moved = weights[1] - weights[0]
    strayed = np.abs((engine[1] - engine[0]) - moved).mean()
    return bool(off <= ROUNDING[dtype] and strayed <= np.abs(moved).mean() / 2)
