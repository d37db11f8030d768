"""FLOPs as a pure function of integers: a model's shape and a tally of the tokens it processed.

The ledger stores tallies; FLOPs are recomputed from them, so tables need neither torch nor a model.

**Official convention: model FLOPs of the algorithm.** One multiply-add is 2 FLOPs. Counted are the matrix
products with weights (the LM head wherever logits are computed; the embedding look-up is free) and the two
attention products over the query-key pairs that the model's masks leave: all causal ones, or those within a
sliding window. Of a mixture of experts a token is multiplied with the router and the experts that it is sent
to. Norms, softmax, activations, rotary tables and biases are not counted, nor are padding, re-computation
(gradient checkpointing, preempted requests) or what an engine skips beyond the algorithm. With W body weights
that a token meets, H weights of the LM head (tied or not), and S the sum over layers of heads times the sizes
of a query and a value, S_w that of layers with a window::

    forward = 2*W*tokens + 2*H*logits + 2*(S*pairs + S_w*windowed)

(L layers of width d with h query heads, g key-value heads of size e and a gated MLP of width f have
W = L * (d*e*(h + 2g) + h*e*d + 3*d*f) and S = 2*L*h*e.) Where a shape comes from, and which models have none,
says :mod:`repro.shapes`.

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

    training = 2 * (2*W*tokens + 2*H*logits) + 3 * (2*(S*pairs + S_w*windowed) + 2*A*tokens)

The forward pass of DPO's reference, like all sampling and evaluation, reads merged weights and has no
adapters. (At rank 16 and 512 tokens a step of Qwen2.5-7B is 2.02 forward passes.)

torch's ``FlopCounterMode`` reports the same integers but for three stated differences: it counts the full
square of attention (``T*T`` for the causal ``T*(T+1)/2``, or for what is within the window) and the rotary
table, and with LoRA it misses one pass over the first layer's q, k and v, weights and adapters' input sides,
as nobody asks for the gradient of the embeddings.

**What TRL 1.16 executes instead.** ``SFTTrainer`` and ``DPOTrainer`` project hidden states through a fused
LM head that never builds the logits: on CUDA only at positions whose next token is in the completion,
elsewhere at all but the last, and once more in the backward pass. ``DPOTrainer`` runs chosen and rejected
as one batch padded to the longest of both, the prompt on each side, and the reference likewise. The
convention charges full sequences: logits at every position, each side with its own prompt, no padding and
no second projection. Hence, where prompts are long and the vocabulary outweighs the body, it charges more
than the GPU executes: on CUDA the head costs 4 passes over completion tokens, here 3 over all tokens.

**The papers' convention** (:func:`papers_flops`) is 2 FLOPs per parameter, embeddings included, and padded
token, 6 in training, with the prompt of every sample counted anew and attention ignored. Experts that a token
is not sent to do not count.

Integers are Python's, which do not overflow; a study's total may exceed 64 bits, so store tallies, not FLOPs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from operator import index

from repro.errors import UserError

FORWARD_PASSES = 1
TRAINING_PASSES = 3  # forward, and a backward pass of twice its cost


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a decoder that its FLOPs depend on."""

    body: int  # weights that a token is multiplied with before the LM head (W)
    head: int  # weights of the LM head, tied or not (H)
    attention: int  # heads * (size of a query + size of a value), summed over layers that see all keys (S)
    windowed: int  # the same over layers that see a window (S_w)
    window: int  # keys that such a layer sees, a query's own included; 0: there are none
    parameters: int  # all of them, embeddings included; tied ones once
    idle: int  # parameters of the experts that a token is not sent to
    sides: int  # inputs + outputs of the body's linear layers, which LoRA adapts; 0: it cannot be counted
    adapter: int = 0  # weights of the LoRA adapters that alone are trained; 0: all weights are

    def __post_init__(self) -> None:
        _as_python_ints(self)
        if bool(self.windowed) != bool(self.window):
            raise ValueError(f"layers with a window of {self.window} have attention {self.windowed}")

    def with_lora(self, rank: int) -> ModelShape:
        """The shape when it is trained through adapters of this rank on all linear layers but the LM head.

        Raises :class:`UserError` for a mixture of experts, whose adapters cost the same for any tokens.
        """
        if rank and not self.sides:
            raise UserError(
                "LoRA adapts experts as whole tensors, which no count of tokens can be charged for; leave "
                "out `lora`, or name a model without experts"
            )
        return replace(self, adapter=rank * self.sides)

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
    windowed: int = 0  # of the pairs those within the model's window; 0 where it has none

    def __post_init__(self) -> None:
        _as_python_ints(self)

    def __add__(self, other: Tally) -> Tally:
        if not isinstance(other, Tally):
            return NotImplemented
        return Tally(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @classmethod
    def zero(cls) -> Tally:
        """The tally of nothing; the start of ``sum(tallies, Tally.zero())``."""
        return cls(*[0] * len(fields(cls)))

    @classmethod
    def from_json(cls, row: Mapping[str, int]) -> Tally:
        return cls(**row)

    def to_json(self) -> dict[str, int]:
        return asdict(self)


def sample_tally(
    prompt: int,
    completions: Sequence[int],
    padded_prompt: int | None = None,
    shared: int = 0,
    window: int = 0,
) -> Tally:
    """Tally of one request: completions of these lengths from one prompt of ``prompt`` tokens.

    All completions share one prefill, which yields the first token of each; a completion of G tokens then
    takes G - 1 decoding steps, the i-th of which attends to ``prompt + i`` keys. No completion, no prefill.
    The first ``shared`` tokens of the prompt were read for an earlier request: they are attended to, and not
    processed again. ``padded_prompt`` is the length the papers' convention counts per completion (default:
    ``prompt``), ``window`` the model's (:class:`ModelShape`). Raises ``ValueError`` for a length below 1, a
    padded prompt shorter than the prompt, and a prompt that is all shared: its last token yields the first of
    the completion.
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

    def pairs(window: int | None) -> int:
        read = _pairs(prompt, window)
        return read - _pairs(shared, window) + sum(_pairs(prompt + n - 1, window) - read for n in lengths)

    return Tally(
        sequences=len(lengths),
        prompt_tokens=prompt * len(lengths),
        completion_tokens=generated,
        tokens=prompt - shared + decoded,
        logits=1 + decoded,
        pairs=pairs(None),
        padded=padded_prompt * len(lengths) + generated,
        windowed=pairs(window),
    )


def sequence_tally(lengths: Iterable[tuple[int, int]], logits: int | None = None, window: int = 0) -> Tally:
    """Tally of one forward pass over a batch of full sequences, given as (prompt, completion) token counts.

    For training and scoring alike; the passes are named when FLOPs are asked for. DPO's batch
    holds both sides of every pair. ``logits`` is the number of positions whose logits are computed
    (default: all; 0 for a model without an LM head), ``window`` the model's. The papers' convention pads
    every sequence to the longest of the batch, so tallies of two batches add up but do not merge into one of
    both.
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
        pairs=sum(_pairs(total) for total in totals),
        padded=len(totals) * max(totals, default=0),
        windowed=sum(_pairs(total, window) for total in totals),
    )


def batch_tally(rows: Sequence[Tally]) -> Tally:
    """Tally of one batch of rows, padded as the papers count it: sequences times the longest of the batch."""
    total = sum(rows, Tally.zero())
    longest = max(row.padded // row.sequences for row in rows)
    return replace(total, padded=longest * total.sequences)


def flops(shape: ModelShape, tally: Tally, passes: int) -> int:
    """FLOPs in the official convention. ``passes`` counts forward passes: one of the constants above.

    Raises ``ValueError`` for a tally that was made without the window that the shape has.
    """
    if shape.window and tally.pairs and not tally.windowed:
        raise ValueError(f"the tally knows nothing of the model's window of {shape.window}")
    body = 2 * shape.body * tally.tokens
    head = 2 * shape.head * tally.logits
    attention = 2 * (shape.attention * tally.pairs + shape.windowed * tally.windowed)
    if shape.adapter and passes >= TRAINING_PASSES:
        adapters = TRAINING_PASSES * 2 * shape.adapter * tally.tokens
        return (passes - 1) * (body + head) + passes * attention + adapters
    return passes * (body + head + attention)


def papers_flops(shape: ModelShape, tally: Tally, passes: int) -> int:
    """FLOPs in the papers' convention: 2 per parameter, padded token and pass (hence 6 in training)."""
    return passes * 2 * (shape.parameters - shape.idle) * tally.padded


def _pairs(tokens: int, window: int | None = None) -> int:
    """Causal query-key pairs of a sequence; with a window, those whose key is one of the query's last so
    many. No pair is within a window of 0, which stands for none."""
    beyond = 0 if window is None else max(0, tokens - window)
    return (tokens * (tokens + 1) - beyond * (beyond + 1)) // 2


def _as_python_ints(record: ModelShape | Tally) -> None:
    # Counts read back from a table are numpy's 64-bit integers, in which FLOPs would overflow silently.
    for field in fields(record):
        value = index(getattr(record, field.name))
        if value < 0:
            raise ValueError(f"{type(record).__name__}.{field.name} is {value}; counts are not negative")
        object.__setattr__(record, field.name, value)
