"""Which weights has an engine loaded? Log-probabilities of fixed token ids say, up to rounding.

An engine that reloads its weights in place may keep old ones, or make a muddle of them, and report success.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from repro.models import loading, pretrained

PROMPTS, LENGTH = 4, 32
DRIFT = 3  # times its rounding at the start that an engine may be off: the weights have changed since
RESOLUTION = 1e-5  # nats per token: what float32 cannot tell apart

Shown = tuple[list[list[float]], list[list[float]]]  # log-probabilities: an engine's, and the saved weights'


def probe(vocabulary: int) -> list[list[int]]:
    """The fixed prompts: ids drawn evenly from a vocabulary, so that training anywhere in it shows."""
    return np.random.default_rng(0).integers(vocabulary, size=(PROMPTS, LENGTH)).tolist()


@torch.inference_mode()
def log_probs(model_dir: Path, prompts: list[list[int]], dtype: str) -> list[list[float]]:
    """By transformers, from the saved weights: natural log-probability of each token but the first.
    Takes the memory of a second model until it returns."""
    with loading(model_dir):
        model = pretrained(
            AutoModelForCausalLM,
            model_dir,
            dtype=getattr(torch, dtype),
            device_map="sequential",  # over several GPUs only if one has no room
        )
    ids = torch.tensor(prompts)
    logits = model.eval()(input_ids=ids.to(model.device)).logits[:, :-1].float().cpu()
    found = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0].tolist()
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found


def agrees(first: Shown, last: Shown, now: Shown) -> bool:
    """Whether an engine that started with ``first``, and had ``last`` until it reloaded, has the weights of
    ``now``. It must be no further off than rounding had it when it was new, and must have moved at least half
    as far as the weights have: training may move them by less than rounding, an engine that keeps old ones
    moves not at all.
    """
    rounding, off = distance(*first), distance(*now)
    moved, should = (distance(a, b) for a, b in zip(last, now, strict=True))
    return off <= max(DRIFT * rounding, RESOLUTION) and moved >= should / 2


def distance(a: list[list[float]], b: list[list[float]]) -> float:
    """Nats per token."""
    return float(np.abs(np.subtract(a, b)).mean())
