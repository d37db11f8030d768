"""Sampling with transformers: the engine for CPU and for machines without vLLM.

``generate`` spends most of its time on rows that are finished and on prompts it has seen; this loop prefills
each prompt once, drops finished rows from the cache, and draws each row from its own random stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
)
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

from repro.errors import UserError
from repro.models import loading, pretrained
from repro.sampling import Progress, Request, Sample, Sampled, SamplingParams, decode, end_ids, prompt_ids

SPARE = 32  # positions that a cache layer grows by
PREFILL = 4096  # prompt tokens in one forward pass: more no longer fit the CPU's caches
RETIRE = 0.9  # rebuild the cache when fewer than this share of its rows is unfinished; rebuilding copies it


class TransformersSampler:
    """:class:`repro.sampling.Sampler` over any causal language model that transformers can load.

    ``batch_size`` is the number of completions decoded together; ``device`` is the GPU if there is one.
    """

    def __init__(
        self,
        batch_size: int = 512,
        dtype: Literal["float32", "bfloat16"] = "float32",
        device: str | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.dtype = getattr(torch, dtype)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model: Any = None
        self.model_dir: Path | None = None

    def load(self, model_dir: Path) -> None:
        if not (Path(model_dir) / "config.json").is_file():
            raise UserError(f"{model_dir} holds no model (no config.json): name a folder that has weights.")
        with loading(model_dir):
            self.tokenizer: Any = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
            model = pretrained(AutoModelForCausalLM, model_dir, dtype=self.dtype)
        self.model = model.to(self.device).eval()
        self.model_dir = model_dir
        if self.device.type == "cpu" and model.config._attn_implementation == "sdpa":
            model.set_attn_implementation("grouped")
        ends = end_ids(self.tokenizer, model.generation_config, model_dir)
        self.ends = torch.tensor(ends, device=self.device)

    def close(self) -> None:
        self.model = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def sample(
        self, requests: Sequence[Request], params: SamplingParams, progress: Progress | None = None
    ) -> list[Sampled]:
        if self.model_dir is None:
            raise RuntimeError("load() a model folder before sample()")
        if self.model is None:
            self.load(self.model_dir)
        prompts = [prompt_ids(self.tokenizer, request.prompt) for request in requests]
        # Like lengths together: little padding. The sort is stable, so batches repeat from call to call.
        order = sorted(range(len(requests)), key=lambda i: len(prompts[i]))
        rows = [(i, k) for i in order for k in range(len(requests[i].seeds))]
        samples: list[list[Any]] = [[None] * len(request.seeds) for request in requests]
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            groups = [(i, len(list(members))) for i, members in groupby(batch, key=lambda row: row[0])]
            seeds = [requests[i].seeds[k] for i, k in batch]
            done = self._decode([prompts[i] for i, _ in groups], [n for _, n in groups], seeds, params)
            for (i, k), sample in zip(batch, done, strict=True):
                samples[i][k] = sample
            if progress:
                progress(len(batch))
        return [Sampled(len(ids), tuple(row)) for ids, row in zip(prompts, samples, strict=True)]

    def _decode(
        self, prompts: list[list[int]], repeats: list[int], seeds: list[int], params: SamplingParams
    ) -> list[Sample]:
        """Completions of one batch: ``repeats[p]`` of prompt ``p``, one seed each."""
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=self.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        uniform = torch.from_numpy(np.stack([uniforms(seed, params.max_tokens) for seed in seeds], axis=1))
        uniform = uniform.to(self.device)

        position = (mask.cumsum(1) - 1).clamp(min=0)
        cache, logits = self._prefill(ids, mask, position)
        owner = torch.repeat_interleave(torch.tensor(repeats, device=self.device))
        cache.batch_select_indices(owner)
        logits = logits[owner]
        mask = torch.cat([mask[owner], mask.new_ones(len(seeds), params.max_tokens)], dim=1)
        position = position[owner, -1:]

        tokens = torch.zeros(len(seeds), params.max_tokens, dtype=torch.long, device=self.device)
        log_probability = torch.zeros(len(seeds), dtype=torch.double, device=self.device)
        length = torch.full((len(seeds),), params.max_tokens, device=self.device)
        stopped = torch.zeros(len(seeds), dtype=torch.bool, device=self.device)
        by_token = stopped.clone()
        alive = torch.arange(len(seeds), device=self.device)  # the row of the batch in each row of the cache
        for step in range(params.max_tokens):
            drawn = draw(logits, uniform[step, alive], params)
            tokens[alive, step] = drawn
            log_probability[alive] += torch.where(stopped[alive], 0.0, log_probabilities(logits, drawn))
            ended = torch.isin(drawn, self.ends) & ~stopped[alive]
            by_token[alive[ended]] = True
            if params.stop:
                ended |= self._holds(params.stop, tokens[alive, : step + 1]) & ~stopped[alive]
            length[alive[ended]] = step + 1
            stopped[alive[ended]] = True
            keep = (~stopped[alive]).nonzero()[:, 0]
            if len(keep) == 0 or step + 1 == params.max_tokens:
                break
            if len(keep) < RETIRE * len(alive):
                cache.batch_select_indices(keep)
                alive, mask, position, drawn = alive[keep], mask[keep], position[keep], drawn[keep]
            position = position + 1
            logits = self._forward(drawn[:, None], mask[:, : width + step + 1], position, cache)

        kept = [row[:n] for row, n in zip(tokens.tolist(), length.tolist(), strict=True)]
        done = zip(kept, by_token.tolist(), log_probability.tolist(), strict=True)
        return decode(self.tokenizer, list(done), params.stop)

    def _holds(self, stop: tuple[str, ...], tokens: torch.Tensor) -> torch.Tensor:
        """Whether the end of each row of ``tokens`` has one of the texts ``stop`` in it."""
        window = max(map(len, stop)) + 4  # a token has a character at least, but for parts of rare ones
        texts = self.tokenizer.batch_decode(tokens[:, -window:], skip_special_tokens=True)
        found = [any(text in end for text in stop) for end in texts]
        return torch.tensor(found, device=self.device)

    def _prefill(
        self, ids: torch.Tensor, mask: torch.Tensor, position: torch.Tensor
    ) -> tuple[DynamicCache, torch.Tensor]:
        """The cache of the prompts, and the logits after them; a few prompts at a time."""
        caches, logits = [], []
        rows = max(1, PREFILL // ids.shape[1])
        for part in zip(ids.split(rows), mask.split(rows), position.split(rows), strict=True):
            cache = DynamicCache(config=self.model.config)
            cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
            logits.append(self._forward(*part, cache))
            caches.append(cache)
        for layer, *others in zip(*(cache.layers for cache in caches), strict=True):
            layer.keys = torch.cat([layer.keys, *(other.keys for other in others)])
            layer.values = torch.cat([layer.values, *(other.values for other in others)])
            layer.room = None
        return caches[0], torch.cat(logits)

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, position: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """Logits ``[rows, vocabulary]`` after the last position; the cache grows by ``ids``."""
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1].float()


def uniforms(seed: int, count: int) -> np.ndarray:
    """``count`` numbers in [0, 1) of the counter-based stream of ``seed``: 24 bits each, exact in float32."""
    raw = np.random.Philox(key=seed).random_raw(count)
    return (raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def draw(logits: torch.Tensor, uniform: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """One token per row of ``logits`` ``[rows, vocabulary]`` by inverting the cumulative distribution at
    ``uniform`` ``[rows]``; greedy at temperature 0."""
    if params.temperature == 0:
        return logits.argmax(-1)
    logits = logits / params.temperature
    if 0 < params.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(params.top_k).values[:, -1:], -torch.inf)
    probs = logits.softmax(-1)
    if params.top_p < 1:
        ranked, index = probs.sort(dim=-1, descending=True, stable=True)
        outside = ranked.cumsum(-1) - ranked >= params.top_p  # the mass before it suffices
        probs = probs.masked_fill(torch.zeros_like(outside).scatter(-1, index, outside), 0.0)
    cumulative = probs.cumsum(-1)
    # u < 1 and `right`: the first token whose cumulative mass exceeds u, so never one of probability 0.
    return torch.searchsorted(cumulative, (uniform[:, None] * cumulative[:, -1:]), right=True)[:, 0]


def log_probabilities(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Natural log-probability of one token per row of ``logits`` ``[rows, vocabulary]``."""
    return logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)


class RoomyLayer(DynamicLayer):
    """A cache layer that appends in place, where ``DynamicLayer`` copies all it holds at every token."""

    room: torch.Tensor | None = None  # [2, rows, key-value heads, positions, head size]; keys, values view it

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, heads, new, size = key_states.shape
        start = self.get_seq_length()
        if self.room is None or start + new > self.room.shape[3]:
            room = key_states.new_empty(2, rows, heads, start + new + SPARE, size)
            if start and self.keys is not None and self.values is not None:
                room[0, :, :, :start], room[1, :, :, :start] = self.keys, self.values
            self.room = room
        self.room[0, :, :, start : start + new] = key_states
        self.room[1, :, :, start : start + new] = value_states
        self.keys, self.values = self.room[:, :, :, : start + new]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self.room = None


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """``sdpa`` that, for single queries, does not repeat the key-value heads: the query heads that share one
    become the queries of one attention. On CPU this halves the cost of a decoding step's attention."""
    rows, heads, queries, size = query.shape
    if queries > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    query = query.reshape(rows, key.shape[1], -1, size)
    if attention_mask is not None:
        attention_mask = attention_mask.expand(-1, key.shape[1], query.shape[2], -1)
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attention_mask, scale=scaling)
    return out.reshape(rows, 1, heads, size), None


AttentionInterface.register("grouped", grouped_attention)
AttentionMaskInterface.register("grouped", eager_mask)
