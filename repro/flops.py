"""FLOPs as a pure function of integers: a model's shape and a tally of the tokens it processed.

The ledger stores tallies; FLOPs are recomputed from them, so tables need neither torch nor a model.

**Official convention: model FLOPs of the algorithm.** One multiply-add is 2 FLOPs. Counted are the matrix
products with weights (the LM head wherever logits are computed; the embedding look-up is free) and the two
attention products over the causal query-key pairs. Norms, softmax, activations, rotary tables and biases are
not counted, nor are padding, re-computation (gradient checkpointing, preempted requests) or what an engine
skips beyond the algorithm. With L layers, width d, h query heads, g key-value heads of size e, MLP width f
and vocabulary V::

    W = L * (d*e*(h + 2g) + h*e*d + 3*d*f)                            body weights
    H = d * V                                                         LM head, tied or not
    forward = 2*W*tokens + 2*H*logits + 4*L*h*e*pairs

A training step is three forward passes (backward is two). DPO trains on both sides. Its reference is the
policy that the call starts from, which does not change: one forward pass over both sides of each *distinct*
pair, charged in the step that first needs it, however often the pair is visited. A policy gradient that
clips pays likewise for the policy that the call starts from, and one with a divergence for the base model:
one forward pass each over every distinct row.

All samples of a call are drawn from one policy, so what their prompts share is read once: the K completions
of a problem share its prompt, and all prompts of a call share the tokens that every prompt of the problem set
begins with (worked examples, a system message), which the first request pays for. An engine that caches
prefixes computes just that; one that does not does more than the algorithm needs, which is not charged.

With LoRA the weights are frozen and need no gradient of their own, so that of the three passes of training
their products take part in two. Attention has all three, and so have the adapters, which are A weights: rank
times (inputs + outputs) of each linear layer of the body::

    training = 2 * (2*W*tokens + 2*H*logits) + 3 * (4*L*h*e*pairs + 2*A*tokens)

The forward pass of DPO's reference, like all sampling and evaluation, reads merged weights and has no
adapters. (At rank 16 and 512 tokens a step of Qwen2.5-7B is 2.02 forward passes.)

torch's ``FlopCounterMode`` reports the same integers but for three stated differences: it counts the full
square of attention (``T*T`` for the causal ``T*(T+1)/2``) and the rotary table (``e`` per position and
call), and with LoRA it misses one pass over the first layer's q, k and v, weights and adapters' input sides,
as nobody asks for the gradient of the embeddings. Sliding windows are charged as full causal attention,
which is exact up to the window.

**What TRL 1.16 executes instead.** ``SFTTrainer`` and ``DPOTrainer`` project hidden states through a fused
LM head that never builds the logits: on CUDA only at positions whose next token is in the completion,
elsewhere at all but the last, and once more in the backward pass. ``DPOTrainer`` runs chosen and rejected
as one batch padded to the longest of both, the prompt on each side, and the reference likewise. The
convention charges full sequences: logits at every position, each side with its own prompt, no padding and
no second projection. Hence, where prompts are long and the vocabulary outweighs the body, it charges more
than the GPU executes: on CUDA the head costs 4 passes over completion tokens, here 3 over all tokens.

**The papers' convention** (:func:`papers_flops`) is 2 FLOPs per parameter, embeddings included, and padded
token, 6 in training, with the prompt of every sample counted anew and attention ignored.

Integers are Python's, which do not overflow; a study's total may exceed 64 bits, so store tallies, not FLOPs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from operator import index
from typing import Any

from repro.errors import UserError

FORWARD_PASSES = 1
FAMILIES = ("gemma", "llama", "mistral", "qwen2")  # architectures whose FLOPs are known
TRAINING_PASSES = 3  # forward, and a backward pass of twice its cost


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a decoder that its FLOPs depend on."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    parameters: int  # all of them, embeddings included; tied ones once
    adapter: int = 0  # weights of the LoRA adapters that alone are trained; 0: all weights are

    def __post_init__(self) -> None:
        _as_python_ints(self)

    @property
    def body_weights(self) -> int:
        """Weights that every processed token is multiplied with (W)."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)  # q and o; k and v
        return self.layers * (attention + 3 * self.hidden * self.mlp)

    @property
    def head_weights(self) -> int:
        """Weights of the LM head (H)."""
        return self.hidden * self.vocab

    def with_lora(self, rank: int) -> ModelShape:
        """The shape when it is trained through adapters of this rank on all linear layers but the LM head."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        sides = 2 * (self.hidden + q) + 2 * (self.hidden + kv) + 3 * (self.hidden + self.mlp)
        return replace(self, adapter=rank * self.layers * sides)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], where: str = "config.json") -> ModelShape:
        """The shape of a transformers ``config.json`` of a Llama, Qwen2, Mistral or Gemma model.

        Raises :class:`UserError`, naming ``where``, for another architecture or a missing or bad size.
        """
        family = config.get("model_type")
        if family not in FAMILIES:
            raise UserError(
                f"{where}: model_type {family!r} is not supported; use one of {', '.join(FAMILIES)}"
            )

        def size(key: str) -> int:
            value = config.get(key)
            if type(value) is not int or value < 1:
                found = f"is {value!r}" if key in config else "is missing"
                raise UserError(f"{where}: {key!r} {found}; set it to the model's positive integer.")
            return value

        layers, d, heads = size("num_hidden_layers"), size("hidden_size"), size("num_attention_heads")
        kv_heads, f, vocab = size("num_key_value_heads"), size("intermediate_size"), size("vocab_size")
        # Gemma's head size is not hidden / heads, so there it must be given.
        given = family == "gemma" or config.get("head_dim") is not None
        e = size("head_dim") if given else d // heads

        biased = family in ("llama", "gemma") and config.get("attention_bias", False)
        biases = e * (heads + 2 * kv_heads) if family == "qwen2" or biased else 0
        biases += d if biased else 0
        biases += 2 * f + d if family == "llama" and config.get("mlp_bias", False) else 0
        tied = config.get("tie_word_embeddings", family == "gemma")

        shape = cls(layers, d, heads, kv_heads, e, f, vocab, parameters=0)
        norms = d * (2 * layers + 1)
        embeddings = shape.head_weights * (1 if tied else 2)
        parameters = shape.body_weights + layers * biases + norms + embeddings
        return cls(layers, d, heads, kv_heads, e, f, vocab, parameters)

    @classmethod
    def from_json(cls, row: Mapping[str, int]) -> ModelShape:
        return cls(**row)

    def to_json(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Tally:
    """What one model processed, in counts that add up: ``a + b`` is the tally of both."""

    sequences: int  # completions sampled, or sequences of a batch
    prompt_tokens: int  # over all sequences; a prompt shared by K completions counts K times
    completion_tokens: int  # over all sequences
    tokens: int  # positions that the body processes
    logits: int  # positions whose logits are computed
    pairs: int  # causal query-key pairs, a query's own key included
    padded: int  # tokens in the papers' convention

    def __post_init__(self) -> None:
        _as_python_ints(self)

    def __add__(self, other: Tally) -> Tally:
        if not isinstance(other, Tally):
            return NotImplemented
        return Tally(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @classmethod
    def zero(cls) -> Tally:
        """The tally of nothing; the start of ``sum(tallies, Tally.zero())``."""
        return cls(0, 0, 0, 0, 0, 0, 0)

    @classmethod
    def from_json(cls, row: Mapping[str, int]) -> Tally:
        return cls(**row)

    def to_json(self) -> dict[str, int]:
        return asdict(self)


def sample_tally(
    prompt: int, completions: Sequence[int], padded_prompt: int | None = None, shared: int = 0
) -> Tally:
    """Tally of one request: completions of these lengths from one prompt of ``prompt`` tokens.

    All completions share one prefill, which yields the first token of each; a completion of G tokens then
    takes G - 1 decoding steps, the i-th of which attends to ``prompt + i`` keys. No completion, no prefill.
    The first ``shared`` tokens of the prompt were read for an earlier request: they are attended to, and not
    processed again. ``padded_prompt`` is the length the papers' convention counts per completion (default:
    ``prompt``). Raises ``ValueError`` for a length below 1, a padded prompt shorter than the prompt, and a
    prompt that is all shared: its last token yields the first of the completion.
    """
    prompt, lengths, shared = index(prompt), [index(length) for length in completions], index(shared)
    padded_prompt = prompt if padded_prompt is None else index(padded_prompt)
    if prompt < 1 or min(lengths, default=1) < 1 or padded_prompt < prompt or not 0 <= shared < prompt:
        raise ValueError(
            f"impossible lengths: prompt {prompt} ({shared} shared) padded to {padded_prompt}, then {lengths}"
        )
    if not lengths:
        return Tally.zero()
    generated, decoded = sum(lengths), sum(lengths) - len(lengths)
    return Tally(
        sequences=len(lengths),
        prompt_tokens=prompt * len(lengths),
        completion_tokens=generated,
        tokens=prompt - shared + decoded,
        logits=1 + decoded,
        pairs=_causal(prompt)
        - _causal(shared)
        + sum(_causal(prompt + length - 1) - _causal(prompt) for length in lengths),
        padded=padded_prompt * len(lengths) + generated,
    )


def sequence_tally(lengths: Iterable[tuple[int, int]], logits: int | None = None) -> Tally:
    """Tally of one forward pass over a batch of full sequences, given as (prompt, completion) token counts.

    For training and scoring alike; the passes are named when FLOPs are asked for. DPO's batch
    holds both sides of every pair. ``logits`` is the number of positions whose logits are computed
    (default: all; 0 for a model without an LM head). The papers' convention pads every sequence to the
    longest of the batch, so tallies of two batches add up but do not merge into one of both.
    Raises ``ValueError`` for a negative length or an empty sequence.
    """
    pairs = [(index(prompt), index(completion)) for prompt, completion in lengths]
    totals = [prompt + completion for prompt, completion in pairs]
    if any(min(pair) < 0 for pair in pairs) or min(totals, default=1) < 1:
        raise ValueError(f"impossible (prompt, completion) lengths: {pairs}")
    tokens, prompt_tokens = sum(totals), sum(prompt for prompt, _ in pairs)
    return Tally(
        sequences=len(pairs),
        prompt_tokens=prompt_tokens,
        completion_tokens=tokens - prompt_tokens,
        tokens=tokens,
        logits=tokens if logits is None else logits,
        pairs=sum(map(_causal, totals)),
        padded=len(totals) * max(totals, default=0),
    )


def batch_tally(rows: Sequence[Tally]) -> Tally:
    """Tally of one batch of rows, padded as the papers count it: sequences times the longest of the batch."""
    total = sum(rows, Tally.zero())
    longest = max(row.padded // row.sequences for row in rows)
    return replace(total, padded=longest * total.sequences)


def flops(shape: ModelShape, tally: Tally, passes: int) -> int:
    """FLOPs in the official convention. ``passes`` counts forward passes: one of the constants above."""
    body = 2 * shape.body_weights * tally.tokens
    head = 2 * shape.head_weights * tally.logits
    attention = 4 * shape.layers * shape.heads * shape.head_dim * tally.pairs
    if shape.adapter and passes >= TRAINING_PASSES:
        adapters = TRAINING_PASSES * 2 * shape.adapter * tally.tokens
        return (passes - 1) * (body + head) + passes * attention + adapters
    return passes * (body + head + attention)


def papers_flops(shape: ModelShape, tally: Tally, passes: int) -> int:
    """FLOPs in the papers' convention: 2 per parameter, padded token and pass (hence 6 in training)."""
    return passes * 2 * shape.parameters * tally.padded


def _causal(tokens: int) -> int:
    return tokens * (tokens + 1) // 2


def _as_python_ints(record: ModelShape | Tally) -> None:
    # Counts read back from a table are numpy's 64-bit integers, in which FLOPs would overflow silently.
    for field in fields(record):
        value = index(getattr(record, field.name))
        if value < 0:
            raise ValueError(f"{type(record).__name__}.{field.name} is {value}; counts are not negative")
        object.__setattr__(record, field.name, value)
