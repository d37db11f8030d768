"""Samplers: prompts in, completions out. Records and the protocol; each engine is a module of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol
from zlib import crc32

import numpy as np

from repro.config import Sampling
from repro.errors import UserError

Progress = Callable[[int], object]  # called now and then with the number of completions newly finished


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample. ``temperature=0`` is greedy, ``top_k=0`` and ``top_p=1`` are off; filters apply after
    the temperature, ``top_k`` before ``top_p``. ``max_tokens`` counts the end-of-text token. A completion
    also ends once its text holds one of ``stop``."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and one 64-bit seed for each completion wanted of it."""

    prompt: str
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion. When ``finish == "stop"``, ``tokens`` includes the end-of-text token, or the text that
    stopped it, and ``text`` does not. ``finish == "length"`` is a truncated completion.

    ``log_probability`` is the sum over these tokens of their natural log-probabilities under the policy as it
    is: at temperature 1 and without filters, whatever they were drawn with. It rounds as the batch does.
    ``checksum`` is that of their ids.
    """

    text: str
    tokens: int
    finish: Literal["stop", "length"]
    log_probability: float = field(compare=False)
    checksum: int


@dataclass(frozen=True, slots=True)
class Sampled:
    """The answer to one request; ``samples`` are in the order of its seeds."""

    prompt_tokens: int
    samples: tuple[Sample, ...]


class Sampler(Protocol):
    """An engine. Each completion is a function of (weights, prompt, seed, params) alone, up to rounding: it
    does not depend on its neighbours in the batch. The same call on the same machine repeats exactly."""

    def load(self, model_dir: Path) -> None:
        """Use the weights of this model folder from now on. Raises :class:`~repro.errors.UserError` where
        it holds no model."""

    def sample(
        self, requests: Sequence[Request], params: SamplingParams, progress: Progress | None = None
    ) -> list[Sampled]:
        """One :class:`Sampled` for each request, in order."""

    def close(self) -> None:
        """Give the memory of model and cache back. A later ``sample()`` loads the weights again."""


def sampler_for(spec: Sampling) -> Sampler:
    """The engine that a study names. Raises :class:`~repro.errors.UserError` where this machine lacks it."""
    if spec.engine == "vllm":
        from repro.sampling.vllm import VLLMSampler

        return VLLMSampler(
            spec.dtype, spec.tensor_parallel, spec.data_parallel, spec.memory, reuse=spec.reuse
        )
    from repro.sampling.transformers import TransformersSampler

    return TransformersSampler(spec.batch_size, spec.dtype)


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Token ids of a prompt, as every engine and trainer must see it: with the tokenizer's own leading
    special tokens, unless the text (a rendered chat template) already opens with them.
    Raises :class:`~repro.errors.UserError` where the prompt has no tokens."""
    opened = bool(tokenizer.bos_token) and prompt.startswith(tokenizer.bos_token)
    ids: list[int] = tokenizer(prompt, add_special_tokens=not opened)["input_ids"]
    if not ids:
        raise UserError(
            f"The tokenizer in {tokenizer.name_or_path} finds no tokens in the prompt {prompt!r}: "
            "check that the tokenizer files belong to the model."
        )
    return ids


def end_ids(tokenizer: Any, generation_config: Any, model_dir: Path) -> list[int]:
    """Ids of the tokens that end a completion: those of the model's generation config, else the tokenizer's
    end-of-text token. Raises :class:`~repro.errors.UserError` where neither names one."""
    ends = generation_config.eos_token_id
    if ends is None:
        ends = tokenizer.eos_token_id
    if ends is None:
        raise UserError(f"{model_dir} names no end-of-text token: set eos_token_id in its config.json.")
    return list(ends) if isinstance(ends, list) else [ends]


def checksum(ids: Sequence[int]) -> int:
    """Of token ids, to tell whether a text was sampled as it is tokenised."""
    return crc32(np.asarray(ids, "<i4").tobytes())


def decode(
    tokenizer: Any, rows: Sequence[tuple[list[int], bool, float]], stop: tuple[str, ...] = ()
) -> list[Sample]:
    """Samples of rows ``(token ids, whether the last of them ended the completion, log-probability)``, cut
    before the first of the texts ``stop``."""
    texts = tokenizer.batch_decode(
        [ids[:-1] if end else ids for ids, end, _ in rows], skip_special_tokens=True
    )
    samples = []
    for text, (ids, end, log_probability) in zip(texts, rows, strict=True):
        cut = min((at for at in map(text.find, stop) if at >= 0), default=None)
        finish: Literal["stop", "length"] = "length" if cut is None and not end else "stop"
        samples.append(Sample(text[:cut], len(ids), finish, log_probability, checksum(ids)))
    return samples
