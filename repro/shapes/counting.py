"""The shape of a decoder, read off the model itself, and admitted only where torch counts the same FLOPs.

The model is built on torch's meta device, where tensors have sizes and no numbers, so it needs no memory, and
passes over millions of tokens take no time. What a pass calls is watched: linear layers, routers and experts,
whose weights make the body, and attention, with the keys that transformers' own masks let a query see. Then
``FlopCounterMode`` must find what the shape says, to the integer, in every kind of pass there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CONFIG_MAPPING,
    AttentionInterface,
    AutoModelForCausalLM,
    DynamicCache,
    PreTrainedModel,
)
from transformers.masking_utils import AttentionMaskInterface
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D
from transformers.utils.logging import ERROR, get_verbosity, set_verbosity

from repro.errors import UserError
from repro.flops import TRAINING_PASSES, ModelShape
from repro.shapes import Decoder

NAME = "repro_counted"  # of our attention and its masks, among transformers'
SHORT, LONG = 8, 2**21  # tokens; the latter is beyond every sliding window there is


class _Refused(Exception):
    """Why the model's FLOPs cannot be counted exactly."""


@dataclass(frozen=True)
class _Attention:
    """One call of attention. ``size`` is that of a query and a value, together, over all heads."""

    module: str
    size: int
    queries: int
    keys: int
    seen: tuple[int, ...] | None  # keys that the first and the last two queries see; None: unknown
    width: int  # numbers of a token's queries
    cache: int  # numbers of a token's keys and values

    @property
    def products(self) -> int:
        return self.size * self.queries * self.keys


@dataclass
class _Pass:
    """What was called in one pass over ``tokens``, behind ``cached`` ones, and the FLOPs that torch counted.
    ``head`` is the LM head's module."""

    tokens: int
    cached: int
    head: str
    logits: int = 0
    called: set[str] = field(default_factory=set)  # all modules
    weights: Counter[str] = field(default_factory=Counter)  # by module, those that a token is multiplied with
    idle: Counter[str] = field(default_factory=Counter)  # by module, of experts that a token is not sent to
    sides: Counter[str] = field(default_factory=Counter)  # by linear layer, inputs and outputs
    experts: bool = False  # whether there are any
    attention: list[_Attention] = field(default_factory=list)
    forward: Counter[str] = field(default_factory=Counter)  # by module; "" is the model
    backward: int = 0


class _Watched:
    """A model on the meta device, and what its passes call."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        given = {key: config[key] for key in config.keys() - {"auto_map", "quantization_config"}}
        made = CONFIG_MAPPING[config["model_type"]].from_dict(deepcopy(given))
        _plain_rotary(made)
        AttentionInterface.register(NAME, self._attend)
        AttentionMaskInterface.register(NAME, _mask)
        with torch.device("meta"):
            self.model = AutoModelForCausalLM.from_config(
                made, attn_implementation=NAME, experts_implementation="batched_mm", dtype=torch.float32
            ).eval()
        self.config = self.model.config.get_text_config(decoder=True)
        self.names = {module: name for name, module in self.model.named_modules()}
        self.head = self.names.get(self.model.get_output_embeddings(), "")
        self._at: list[nn.Module] = []  # the modules that are at work, outermost first
        for module in self.names:
            if isinstance(module, PreTrainedModel):  # it looks for padding among tokens, to warn of it
                module.warn_if_padding_and_no_attention_mask = lambda *_: None  # type: ignore[method-assign]
            module.register_forward_pre_hook(self._enter, with_kwargs=True)
            module.register_forward_hook(self._leave)

    def run(self, tokens: int, cache: DynamicCache, cached: int = 0, backward: bool = False) -> _Pass:
        """One pass behind a cache of so many tokens; even of none, for without one transformers would read
        positions. Raises whatever the model raises; :meth:`where` then says in which module."""
        self.found, self._at = _Pass(tokens, cached, self.head), []
        ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
        with torch.set_grad_enabled(backward), FlopCounterMode(display=False) as counter:
            logits = self.model(input_ids=ids, past_key_values=cache, use_cache=True).logits
            self.found.logits = logits.shape[1]
            self.found.forward, forward = self._counted(counter), counter.get_total_flops()
            if backward:
                logits.sum().backward()
                self.found.backward = counter.get_total_flops() - forward
        return self.found

    def cache(self) -> DynamicCache:
        return DynamicCache(config=self.model.config)

    def where(self) -> str:
        """The module that was at work when a pass broke off."""
        module = self._at[-1] if self._at else self.model
        return f"{self.names[module] or 'the model'} ({type(module).__name__})"

    def _counted(self, counter: FlopCounterMode) -> Counter[str]:
        """FLOPs by module ("" is the model), less those of rotary tables, which no convention charges."""
        found: Counter[str] = Counter()
        for name, counts in counter.get_flop_counts().items():
            if name != "Global":
                found[name.partition(".")[2]] = sum(counts.values())
        for module, name in self.names.items():
            if "Rotary" in type(module).__name__ and (rotary := found.pop(name, 0)):
                for outer in _outer(name):
                    found[outer] -= rotary
        return found

    def _attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **more: Any
    ) -> tuple[Tensor, None]:
        """Attention as two products, which torch counts in full; what becomes of masks costs nothing."""
        (_, heads, queries, size), (_, kv_heads, keys, depth) = query.shape, value.shape
        seen = getattr(attention_mask, "seen", None)
        self.found.attention.append(
            _Attention(
                self.names[module], heads * (size + depth), queries, keys, seen,
                heads * size, kv_heads * (size + depth),
            )
        )  # fmt: skip
        key, value = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (key, value))
        return (query @ key.transpose(2, 3) @ value).transpose(1, 2).contiguous(), None

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        name, found = self.names[module], self.found
        self._at.append(module)
        found.called.add(name)
        own = dict(module.named_parameters(recurse=False))
        if isinstance(module, nn.Linear | Conv1D):
            found.weights[name] += module.weight.numel()
            found.sides[name] += sum(module.weight.shape)
        elif stacked := [weight for weight in own.values() if weight.dim() == 3]:  # all experts in one
            sent = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.dtype == torch.long]
            if len(sent) != 1:
                raise _Refused(f"{self.where()} has weights in three dimensions, and no choice of experts")
            found.experts = True
            for weight in stacked:
                used = weight[0].numel() * sent[0].shape[-1]
                found.weights[name] += used
                found.idle[name] += weight.numel() - used
        elif not isinstance(module, nn.Embedding) and "weight" in own and own["weight"].dim() == 2:
            found.weights[name] += own["weight"].numel()  # a router

    def _leave(self, *_: Any) -> None:
        self._at.pop()


def _mask(
    batch_size: int, q_length: int, kv_length: int, q_offset: int = 0, kv_offset: int = 0,
    mask_function: Any = None, **_: Any,
) -> Tensor:  # fmt: skip
    """A mask that says how many keys the first and the last two queries see, by transformers' rule for it."""
    keys, zero = torch.arange(kv_length) + kv_offset, torch.tensor(0)

    def seen(query: int) -> int:
        return int(torch.broadcast_to(mask_function(zero, zero, torch.tensor(query), keys), keys.shape).sum())

    mask: Any = torch.zeros((), device="meta").expand(batch_size, 1, q_length, kv_length)
    with suppress(RuntimeError):  # by data, which is not there
        mask.seen = tuple(seen(q_offset + i) for i in _probed(q_length))
    return mask


def _probed(queries: int) -> tuple[int, int, int]:
    """Queries that tell masks apart: of a window the last two see as many keys, of chunks they do not."""
    return 0, max(0, queries - 2), queries - 1


def _plain_rotary(config: Any) -> None:
    """Rotary tables that change with the length read it from data; as they cost nothing, plain ones do."""
    for part in (config, *(getattr(config, name) for name in config.sub_configs)):
        rope = getattr(part, "rope_parameters", None) or {}
        for one in (rope, *(value for value in rope.values() if isinstance(value, dict))):
            if "rope_type" in one:
                one["rope_type"] = "default"


def _outer(name: str) -> Iterator[str]:
    """The modules around a module, from the nearest to the model itself, which is ""."""
    while name:
        name = name.rpartition(".")[0]
        yield name


def read(config: Mapping[str, Any]) -> Decoder:
    """The decoder of a transformers config, whose FLOPs torch counts as its shape says.

    Raises :class:`UserError`, naming the module, where it does not or no model can be built.
    """
    family = config.get("model_type")
    if family not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(
            f"model_type {family!r} is no causal language model of transformers; name one that is"
        )
    verbosity = get_verbosity()
    set_verbosity(ERROR)  # it warns of what does not matter here
    try:
        watched = _built(config)
        try:
            return _read(watched)
        except _Refused:
            raise
        except Exception as error:  # a model that asks for numbers, which there are none of
            said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise _Refused(
                f"{watched.where()} stops over {watched.found.tokens} tokens without data ({said})"
            ) from error
    except _Refused as refused:
        reason = str(refused)
    finally:
        set_verbosity(verbosity)
    raise UserError(
        f"the FLOPs of {family} cannot be counted exactly: {reason}; name a model that is made of "
        "attention, linear layers and experts alone"
    )


def _built(config: Mapping[str, Any]) -> _Watched:
    try:
        return _Watched(config)
    except Exception as error:  # there is hardly a kind that transformers does not raise
        if isinstance(error, KeyError) and error.args == (NAME,):
            raise _Refused("its attention does not go through transformers' interface") from None
        said = f"{type(error).__name__}: {(str(error).strip() or 'unknown').splitlines()[-1].strip()}"
        raise UserError(f"no {config['model_type']} model can be built of it ({said}); mend that") from None


def _read(watched: _Watched) -> Decoder:
    """The decoder by what a long pass calls, if that, a short one with its backward pass, and decoding behind
    the short one's cache all cost what its shape says."""
    cache = watched.cache()
    short = watched.run(SHORT, cache, backward=True)
    _check(short)  # before a long pass, which is long indeed where a model goes step by step
    step = watched.run(1, cache, cached=SHORT)
    found = watched.run(LONG, watched.cache())
    sizes: Counter[int] = Counter()  # by window; 0: none
    windows: dict[str, int] = {}
    for call in found.attention:
        if call.seen is None:
            raise _Refused(f"{call.module} attends by a mask that is neither causal nor a window")
        windows[call.module] = call.seen[-1] % LONG
        sizes[windows[call.module]] += call.size
    full = sizes.pop(0, 0)
    if len(sizes) > 1:
        raise _Refused(f"layers have different windows, of {', '.join(map(str, sorted(sizes)))} keys")
    if not found.weights[watched.head]:
        raise _Refused("the LM head is no linear layer")
    layers = watched.config.num_hidden_layers
    if len(found.attention) < layers:
        raise _Refused(f"only {len(found.attention)} of {layers} layers attend by transformers' interface")
    window, windowed = next(iter(sizes.items()), (0, 0))
    shape = ModelShape(
        body=found.weights.total() - found.weights[watched.head],
        head=found.weights[watched.head],
        attention=full,
        windowed=windowed,
        window=window,
        parameters=watched.model.num_parameters(),
        idle=found.idle.total(),
        sides=0 if found.experts else found.sides.total() - found.sides[watched.head],
    )
    for one in (short, step, found):
        _fit(one, shape, windows)
    return Decoder(
        shape,
        layers=len(found.attention),
        hidden=watched.model.get_input_embeddings().weight.shape[1],
        queries=max(call.width for call in found.attention),
        cache=sum(call.cache for call in found.attention),
    )


def _check(found: _Pass) -> None:
    """Raise :class:`_Refused` where torch counts products in a pass that are of no layer we know, or not as
    often: the innermost module says most."""
    due: Counter[str] = Counter()
    for name, weights in found.weights.items():
        due[name] += 2 * weights * (found.logits if name == found.head else found.tokens)
    for call in found.attention:
        due[call.module] += 2 * call.products
    for name, count in list(due.items()):
        for outer in _outer(name):
            due[outer] += count
    for name in sorted(found.called, key=lambda name: (-name.count(".") - bool(name), name)):
        if due[name] != found.forward[name]:
            raise _Refused(
                f"torch counts {found.forward[name]:,} FLOPs of {name or 'the model'} in {found.tokens} "
                f"tokens, and its attention, linear layers and experts have {due[name]:,}"
            )


def _fit(found: _Pass, shape: ModelShape, windows: Mapping[str, int]) -> None:
    """Raise :class:`_Refused` unless torch counts for a pass what the shape says, with attention to all keys
    at hand, and masks leave of these what the windows say."""
    _check(found)
    before = [found.cached + 1 + i for i in _probed(found.tokens)]  # keys, causal ones
    for call in found.attention:
        window = windows.get(call.module) or before[-1]
        if call.seen != tuple(min(keys, window) for keys in before):
            raise _Refused(
                f"of {found.tokens} queries of {call.module} the first and the last two see {call.seen} "
                "keys, which are neither all before them nor a window"
            )
    if sum(call.size for call in found.attention) != shape.attention + shape.windowed:
        raise _Refused("it attends in one pass as it does not in another")
    products = sum(call.products for call in found.attention)
    said = 2 * (shape.body * found.tokens + shape.head * found.logits + products)
    if said != found.forward[""]:
        raise _Refused(
            f"torch counts {found.forward['']:,} FLOPs in {found.tokens} tokens, and the shape has {said:,}"
        )
    if found.backward not in (0, (TRAINING_PASSES - 1) * said):
        raise _Refused(f"torch counts {found.backward:,} FLOPs backward, for {said:,} forward")
