"""FLOPs equal torch's ``FlopCounterMode`` on the meta device (no weights, no GPU), integer for integer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PreTrainedModel
from transformers.masking_utils import sliding_window_causal_mask_function

from repro.flops import (
    FORWARD_PASSES,
    TRAINING_PASSES,
    ModelShape,
    Tally,
    flops,
    papers_flops,
    sample_tally,
    sequence_tally,
)
from repro.shapes import counted, decoder, known


def config(model_type, hidden, layers, heads, kv_heads, mlp, vocab, tied=None, **more):
    sizes = {
        "model_type": model_type,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": mlp,
        "vocab_size": vocab,
    }
    return sizes | ({} if tied is None else {"tie_word_embeddings": tied}) | more


def shape_of(sizes: dict) -> ModelShape:
    return decoder(sizes, "test").shape


POCKET = config("llama", 128, 4, 4, 1, 384, 160, tied=True, head_dim=32)
QWEN_05 = known()["Qwen2.5-0.5B"][0]

# With the published counts of parameters.
REAL = {
    name: (known()[name][0], parameters)
    for name, parameters in {
        "Qwen2.5-0.5B": 494_032_768,
        "Qwen2.5-1.5B": 1_543_714_304,
        "Qwen2.5-3B": 3_085_938_688,
        "Qwen2.5-7B": 7_615_616_512,
        "Llama-3.2-1B": 1_235_814_400,
        "Llama-3.2-3B": 3_212_749_824,
        "Llama-3.1-8B": 8_030_261_248,
        "Mistral-7B-v0.1": 7_241_732_096,
        "Mistral-7B-v0.3": 7_248_023_552,
        "gemma-7b": 8_537_680_896,
        "Qwen3-8B": 8_190_735_360,
        "Qwen3-30B-A3B": 30_532_122_624,
        "gemma-2-9b": 9_241_705_984,
        "gemma-3-1b": 999_885_952,
        "phi-4": 14_659_507_200,
        "SmolLM3-3B": 3_075_098_624,
        "Mixtral-8x7B-v0.1": 46_702_792_704,
        "gpt-oss-20b": 20_914_757_184,
    }.items()
}
every_real_model = pytest.mark.parametrize(("sizes", "parameters"), REAL.values(), ids=REAL.keys())


# ---------------------------------------------------------------------------------------------------------
# What torch counts


def build(sizes: dict, attention: str = "eager") -> PreTrainedModel:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**sizes), attn_implementation=attention, experts_implementation="batched_mm"
        )
    return model.eval()


@contextmanager
def counting() -> Iterator[Callable[[], int]]:
    """What ``FlopCounterMode`` has counted so far, less the rotary tables, which no convention charges."""
    with FlopCounterMode(display=False) as counter:

        def so_far() -> int:
            rotary = [n for name, n in counter.flop_counts.items() if name.endswith(".rotary_emb")]
            return counter.get_total_flops() - sum(sum(n.values()) for n in rotary)

        yield so_far


def forward(model: PreTrainedModel, batch: int, length: int, **more) -> torch.Tensor:
    # A four-dimensional mask keeps transformers from reading values, which meta tensors do not have.
    ids = torch.zeros(batch, length, dtype=torch.long, device="meta")
    mask = torch.zeros(1, 1, 1, 1, device="meta")
    return model(input_ids=ids, attention_mask=mask, **more).logits


def count_training(model: PreTrainedModel, batch: int, length: int) -> tuple[int, int]:
    """FLOPs of (the forward pass, forward and backward together)."""
    with counting() as so_far:
        loss = forward(model, batch, length, use_cache=False).sum()
        forward_only = so_far()
        loss.backward()
        return forward_only, so_far()


def count_reference(model: PreTrainedModel, batch: int, length: int) -> int:
    with counting() as so_far, torch.no_grad():
        forward(model, batch, length, use_cache=False)
        return so_far()


def count_sampling(model: PreTrainedModel, prompt: int, completions: list[int]) -> int:
    """One prefill, then the decoding steps of each completion over the prompt's cache."""
    cache = DynamicCache(config=model.config)
    with counting() as so_far, torch.no_grad():
        forward(model, 1, prompt, past_key_values=cache, logits_to_keep=1)
        for length in completions:
            for step in range(1, length):
                forward(model, 1, 1, past_key_values=cache, logits_to_keep=1)
                assert cache.get_seq_length() == prompt + step
            if length > 1:
                cache.crop(-(length - 1))
        return so_far()


# ---------------------------------------------------------------------------------------------------------
# ... and the same from a tally: torch counts the full square of attention, the suite the causal half


def square(tally: Tally) -> Tally:
    """Of full sequences: T*T = 2 * T*(T+1)/2 - T. It has the whole square of layers with a window, too."""
    pairs = 2 * tally.pairs - tally.tokens
    return replace(tally, pairs=pairs, windowed=pairs)


def square_prefill(tally: Tally, prompt: int) -> Tally:
    """Decoding steps have one query, so only the prefill's P*(P+1)/2 becomes P*P."""
    pairs = tally.pairs + prompt * (prompt - 1) // 2
    return replace(tally, pairs=pairs, windowed=pairs)


def dpo(shape: ModelShape, tally: Tally) -> int:
    """A first visit: training on both sides, and the reference's pass over them."""
    return flops(shape, tally, TRAINING_PASSES) + flops(shape, tally, FORWARD_PASSES)


# ---------------------------------------------------------------------------------------------------------
# The pocket model, by hand and by torch
#
#   q, k, v   128 * 32 * (4 + 2*1)           =  24,576
#   o         4 * 32 * 128                   =  16,384
#   MLP       3 * 128 * 384                  = 147,456
#   W         4 * (24,576 + 16,384 + 147,456) = 753,664
#   H         128 * 160                      =  20,480
#   per pair  4 * 4 layers * 4 heads * 32    =   2,048
#   norms     128 * (2*4 + 1)                =   1,152
#   parameters, tied: 753,664 + 20,480 + 1,152 = 775,296


def test_pocket_parameters():
    assert shape_of(POCKET).parameters == 775_296
    assert build(POCKET).num_parameters() == 775_296


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_pocket_sft(attention):
    # One sequence of 3 + 2 = 5 tokens, 1+2+3+4+5 = 15 pairs:
    #   body 2 * 753,664 * 5 = 7,536,640;  head 2 * 20,480 * 5 = 204,800;  attention 2,048 * 15 = 30,720
    #   forward 7,772,160;  training 3 * 7,772,160 = 23,316,480
    shape, tally = shape_of(POCKET), sequence_tally([(3, 2)])
    assert flops(shape, tally, FORWARD_PASSES) == 7_772_160
    assert flops(shape, tally, TRAINING_PASSES) == 23_316_480
    # In torch's square 25 pairs, 10 more: 3 * 2,048 * 10 = 61,440; 23,316,480 + 61,440 = 23,377,920
    assert flops(shape, square(tally), TRAINING_PASSES) == 23_377_920
    assert count_training(build(POCKET, attention), 1, 5)[1] == 23_377_920


def test_pocket_dpo():
    # Chosen 3 + 2 = 5 tokens, rejected 3 + 4 = 7: 12 tokens, 15 + 28 = 43 pairs:
    #   body 2 * 753,664 * 12 = 18,087,936;  head 2 * 20,480 * 12 = 491,520;  attention 2,048 * 43 = 88,064
    #   forward 18,667,520;  policy 3x + reference 1x = 74,670,080
    shape, tally, model = shape_of(POCKET), sequence_tally([(3, 2), (3, 4)]), build(POCKET)
    assert dpo(shape, tally) == 74_670_080
    # Each side alone, since torch would count a batch's padding.
    policy = count_training(model, 1, 5)[1] + count_training(model, 1, 7)[1]
    reference = count_reference(model, 1, 5) + count_reference(model, 1, 7)
    assert policy + reference == dpo(shape, square(tally))
    assert reference == flops(shape, square(tally), FORWARD_PASSES)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_pocket_sampling(attention):
    # A prompt of 7 tokens, three completions of 3, 1 and 2: 2 + 0 + 1 decoding steps.
    #   tokens 7 + 3 = 10;  logits 1 + 3 = 4;  pairs 28 + (8 + 9) + (8) = 53
    #   body 2 * 753,664 * 10 = 15,073,280;  head 2 * 20,480 * 4 = 163,840;  attention 2,048 * 53 = 108,544
    shape, tally = shape_of(POCKET), sample_tally(7, [3, 1, 2])
    assert (tally.tokens, tally.logits, tally.pairs) == (10, 4, 53)
    assert flops(shape, tally, FORWARD_PASSES) == 15_345_664
    counted = count_sampling(build(POCKET, attention), 7, [3, 1, 2])
    assert counted == flops(shape, square_prefill(tally, 7), FORWARD_PASSES)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_pocket_shared_prefix(attention):
    # Prompts of 4 shared tokens and 3 of their own; the second request reads its 3 behind a cache of 4:
    #   first   7 + 2 = 9 tokens, 1 + 2 = 3 logits, 28 + (8 + 9) = 45 pairs
    #   second  3 + 2 = 5 tokens, 3 logits, (5 + 6 + 7) + (8 + 9) = 35 pairs
    shape = shape_of(POCKET)
    first, second = sample_tally(7, [3]), sample_tally(7, [3], shared=4)
    assert (first.tokens, first.logits, first.pairs) == (9, 3, 45)
    assert (second.tokens, second.logits, second.pairs) == (5, 3, 35)
    assert second.prompt_tokens == first.prompt_tokens and second.padded == first.padded
    model = build(POCKET, attention)
    cache = DynamicCache(config=model.config)
    with counting() as so_far, torch.no_grad():
        forward(model, 1, 4, past_key_values=cache, logits_to_keep=1)  # the shared prefix, before
        before = so_far()
        forward(model, 1, 3, past_key_values=cache, logits_to_keep=1)
        for _ in range(2):
            forward(model, 1, 1, past_key_values=cache, logits_to_keep=1)
        counted = so_far() - before
    square = replace(second, pairs=3 * 7 + 8 + 9)  # torch: each of three queries against all seven keys
    assert counted == flops(shape, square, FORWARD_PASSES)


@given(st.integers(2, 200), st.lists(st.integers(1, 50), min_size=1, max_size=4), st.data())
def test_what_is_shared_is_read_once(prompt, completions, data):
    shared = data.draw(st.integers(0, prompt - 1))
    alone, behind = sample_tally(prompt, completions), sample_tally(prompt, completions, shared=shared)
    assert alone.tokens - behind.tokens == shared
    assert alone.pairs - behind.pairs == shared * (shared + 1) // 2
    assert replace(behind, tokens=alone.tokens, pairs=alone.pairs) == alone
    with pytest.raises(ValueError, match="impossible lengths"):
        sample_tally(prompt, completions, shared=prompt)


# ---------------------------------------------------------------------------------------------------------
# Qwen2.5-0.5B, by hand
#
#   q, k, v   896 * 64 * (14 + 2*2)          =     1,032,192
#   o         14 * 64 * 896                  =       802,816
#   MLP       3 * 896 * 4,864                =    13,074,432
#   W         24 * 14,909,440                =   357,826,560
#   H         896 * 151,936                  =   136,134,656
#   per pair  4 * 24 layers * 14 heads * 64  =        86,016
#   biases    24 * 64 * (14 + 2*2)           =        27,648
#   norms     896 * (2*24 + 1)               =        43,904
#   parameters, tied: 357,826,560 + 136,134,656 + 27,648 + 43,904 = 494,032,768


def test_qwen_by_hand():
    # An SFT batch of 120 + 200 and 80 + 100 tokens: 500 tokens,
    #   pairs 320*321/2 + 180*181/2 = 51,360 + 16,290 = 67,650
    #   body 2 * 357,826,560 * 500 = 357,826,560,000;  head 2 * 136,134,656 * 500 = 136,134,656,000
    #   attention 86,016 * 67,650 = 5,818,982,400;  forward 499,780,198,400;  training 1,499,340,595,200
    # The papers' convention: 2 sequences padded to 320 are 640 tokens; 6 * 494,032,768 * 640
    shape, tally = shape_of(QWEN_05), sequence_tally([(120, 200), (80, 100)])
    assert flops(shape, tally, TRAINING_PASSES) == 1_499_340_595_200
    assert papers_flops(shape, tally, TRAINING_PASSES) == 1_897_085_829_120
    # Four completions of 200 tokens from a prompt of 120: 120 + 4*199 = 916 tokens, 1 + 4*199 = 797 logits,
    #   pairs 7,260 + 4 * (319*320/2 - 7,260) = 7,260 + 4 * 43,780 = 182,380
    #   body 2 * 357,826,560 * 916 = 655,538,257,920;  head 2 * 136,134,656 * 797 = 216,998,641,664
    #   attention 86,016 * 182,380 = 15,687,598,080;  in all 888,224,497,664
    # The papers' convention, prompts padded to 150: 4 * (150 + 200) = 1,400 tokens; 2 * 494,032,768 * 1,400
    tally = sample_tally(120, [200] * 4, padded_prompt=150)
    assert flops(shape, tally, FORWARD_PASSES) == 888_224_497_664
    assert papers_flops(shape, tally, FORWARD_PASSES) == 1_383_291_750_400


@pytest.mark.promise(
    "Budgets and FLOPs",
    "FLOPs are exact: of more than sixty architectures they are those that torch itself counts.",
)
@pytest.mark.slow
@every_real_model
def test_real_models(sizes, parameters):
    """Full depth: parameters, SFT forward and backward, DPO with its reference."""
    shape, model = shape_of(sizes), build(sizes)
    assert shape.parameters == parameters == sum(p.numel() for p in model.parameters())
    tally = square(sequence_tally([(4, 3), (5, 2)]))  # chosen and rejected of one length: no padding
    reference, policy = count_training(model, 2, 7)  # the reference repeats the policy's forward pass
    assert policy == flops(shape, tally, TRAINING_PASSES)
    assert policy + reference == dpo(shape, tally)


@pytest.mark.slow
@every_real_model
def test_real_models_sample(sizes, parameters):
    """Full width; two layers, as more of the same add only time."""
    sizes = sizes | {"num_hidden_layers": 2}  # of Gemma 3, both with a window
    shape, tally = counted(sizes, "test").shape, square_prefill(sample_tally(7, [3, 1, 2]), 7)
    assert count_sampling(build(sizes), 7, [3, 1, 2]) == flops(shape, tally, FORWARD_PASSES)


# ---------------------------------------------------------------------------------------------------------
# LoRA


def test_pocket_lora():
    # Rank 8, adapters per layer:
    #   q and o   2 * (128 + 128) = 512;  k and v  2 * (128 + 32) = 320;  MLP  3 * (128 + 384) = 1,536
    #   A         4 layers * 8 * 2,368 = 75,776
    # Five tokens (15 pairs) as in test_pocket_sft:
    #   body and head twice  2 * (7,536,640 + 204,800) = 15,482,880;  attention 3 * 30,720 = 92,160
    #   adapters  3 * 2 * 75,776 * 5 = 2,273,280;  in all 17,848,320
    shape, tally = shape_of(POCKET), sequence_tally([(3, 2)])
    adapted = shape.with_lora(8)
    assert adapted.adapter == 75_776
    assert flops(adapted, tally, TRAINING_PASSES) == 17_848_320
    # DPO's reference reads merged weights: 17,848,320 + 7,772,160
    assert dpo(adapted, tally) == 25_620_480
    assert flops(adapted, tally, FORWARD_PASSES) == flops(shape, tally, FORWARD_PASSES)
    for passes in (FORWARD_PASSES, TRAINING_PASSES):
        assert papers_flops(adapted, tally, passes) == papers_flops(shape, tally, passes)


@pytest.mark.parametrize("sizes", [POCKET, QWEN_05, REAL["Llama-3.2-1B"][0]], ids=["pocket", "qwen", "llama"])
def test_lora_as_torch_counts_it(sizes):
    rank, tokens = 16, 14
    model = get_peft_model(build(sizes), LoraConfig(r=rank, target_modules="all-linear"))
    shape = shape_of(sizes).with_lora(rank)
    assert shape.adapter == model.get_nb_trainable_parameters()[0]
    # Nothing asks for the gradient of the embeddings: the first q, k and v send none to their inputs.
    d, h, g = (sizes[f"{key}"] for key in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    e = sizes.get("head_dim", d // h)
    unsent = 2 * tokens * (d * e * (h + 2 * g) + 3 * d * rank)
    expected = flops(shape, square(sequence_tally([(4, 3), (5, 2)])), TRAINING_PASSES) - unsent
    assert count_training(model, 2, 7)[1] == expected


# ---------------------------------------------------------------------------------------------------------
# Tallies

counts = st.integers(1, 10**12)
nothing = st.just(0)
shapes = st.builds(ModelShape, counts, counts, counts, nothing, nothing, counts, nothing, counts)
prompts = st.integers(1, 300)
completion_lengths = st.lists(st.integers(1, 300), min_size=1, max_size=6)
batches = st.lists(st.tuples(st.integers(0, 200), st.integers(1, 200)), max_size=6)
tallies = st.one_of(st.builds(sample_tally, prompts, completion_lengths), st.builds(sequence_tally, batches))
passes = st.sampled_from([FORWARD_PASSES, TRAINING_PASSES])
conventions = st.sampled_from([flops, papers_flops])


@given(shapes, tallies, tallies, passes, conventions)
def test_flops_add_up(shape, a, b, passes, convention):
    assert a + b == b + a
    assert a + Tally.zero() == a == sum([a], Tally.zero())
    assert convention(shape, a + b, passes) == convention(shape, a, passes) + convention(shape, b, passes)
    assert convention(shape, a, passes) == passes * convention(shape, a, FORWARD_PASSES)


@given(prompts, completion_lengths, st.data())
def test_completions_share_one_prefill(prompt, completions, data):
    """Charged together or in two calls: the second call pays the prefill again, and nothing else."""
    cut = data.draw(st.integers(1, len(completions)))
    parts = sample_tally(prompt, completions[:cut]) + sample_tally(prompt, completions[cut:])
    whole = sample_tally(prompt, completions)
    again = sample_tally(prompt, [1]) if cut < len(completions) else Tally.zero()
    for count in ("tokens", "logits", "pairs"):
        assert getattr(parts, count) - getattr(whole, count) == getattr(again, count)
    for count in ("sequences", "prompt_tokens", "completion_tokens", "padded"):
        assert getattr(parts, count) == getattr(whole, count)
    assert whole == sample_tally(prompt, list(reversed(completions)))


@given(prompts, st.integers(1, 300))
def test_sampling_is_a_forward_pass_but_for_the_last_token(prompt, completion):
    """The last token is never fed back: the body costs what a forward pass over the others costs."""
    sampled, read = sample_tally(prompt, [completion]), sequence_tally([(prompt, completion - 1)])
    assert (sampled.tokens, sampled.pairs) == (read.tokens, read.pairs)
    assert sampled.logits == completion


@given(prompts, completion_lengths, st.integers(1, 50))
def test_longer_costs_more(prompt, completions, more):
    shape = shape_of(POCKET)
    base = flops(shape, sample_tally(prompt, completions), FORWARD_PASSES)
    longer = [completions[0] + more, *completions[1:]]
    assert flops(shape, sample_tally(prompt, longer), FORWARD_PASSES) > base
    # Another completion of one token is read off the prefill.
    assert flops(shape, sample_tally(prompt, [*completions, 1]), FORWARD_PASSES) == base
    assert flops(shape, sample_tally(prompt + more, completions), FORWARD_PASSES) > base


@given(batches)
def test_batches_add_up_but_for_padding(batch):
    whole, parts = sequence_tally(batch), sum((sequence_tally([row]) for row in batch), Tally.zero())
    assert replace(whole, padded=0) == replace(parts, padded=0)
    assert parts.padded == whole.tokens <= whole.padded


def test_padded_counts_of_the_papers():
    assert sample_tally(120, [10, 30], padded_prompt=650).padded == 2 * 650 + 40
    assert sample_tally(120, [10, 30]).padded == 2 * 120 + 40
    assert sequence_tally([(3, 2), (3, 9)]).padded == 2 * 12


def test_a_model_without_lm_head():
    tally = sequence_tally([(3, 2), (3, 9)], logits=0)
    assert tally == replace(sequence_tally([(3, 2), (3, 9)]), logits=0)


def test_nothing_costs_nothing():
    assert sample_tally(100, []) == sequence_tally([]) == Tally.zero()


@given(st.integers(1, 60), st.integers(1, 60))
def test_pairs_within_a_window_are_those_of_the_mask(length, window):
    seen = sliding_window_causal_mask_function(window)
    positions = torch.arange(length)
    mask = seen(0, 0, positions[:, None], positions[None])
    tally = sequence_tally([(length, 0)], window=window)
    assert tally.windowed == mask.sum() and tally.pairs == length * (length + 1) // 2


@given(prompts.filter(lambda n: n > 1), completion_lengths, st.integers(1, 50), st.data())
def test_sampling_within_a_window(prompt, completions, window, data):
    """Each query that is read, of the prompt and of every decoding step, sees the last keys of its window."""
    shared = data.draw(st.integers(0, prompt - 1))
    tally = sample_tally(prompt, completions, shared=shared, window=window)
    read = sum(min(i + 1, window) for i in range(shared, prompt))
    decoded = sum(min(prompt + i + 1, window) for length in completions for i in range(length - 1))
    assert tally.windowed == read + decoded
    assert sample_tally(prompt, completions, shared=shared).windowed == 0


def test_a_tally_without_the_window_is_refused():
    shape = shape_of(REAL["gpt-oss-20b"][0])
    assert shape.window == 128
    with pytest.raises(ValueError, match="knows nothing of the model's window of 128"):
        flops(shape, sequence_tally([(300, 20)]), FORWARD_PASSES)
    assert flops(shape, sequence_tally([(300, 20)], window=128), FORWARD_PASSES)
    with pytest.raises(ValueError, match="layers with a window of 0 have attention"):
        replace(shape, window=0)


def test_idle_experts_cost_the_papers_nothing():
    # Two of eight experts of Mixtral are at work: 46.7 billion parameters, of which 12.9 are active
    shape, tally = shape_of(REAL["Mixtral-8x7B-v0.1"][0]), sequence_tally([(300, 200)])
    assert shape.idle == 32 * 6 * 3 * 4096 * 14336
    assert papers_flops(shape, tally, TRAINING_PASSES) == 6 * (46_702_792_704 - shape.idle) * 500
    assert round((shape.parameters - shape.idle) / 1e9, 1) == 12.9


@pytest.mark.parametrize("bad", [(0, [1]), (5, [0]), (5, [3, -1]), (5, [1], 4)])
def test_impossible_sampling(bad):
    with pytest.raises(ValueError, match="impossible lengths"):
        sample_tally(*bad)


@pytest.mark.parametrize("bad", [[(0, 0)], [(5, -1)], [(-1, 5)]])
def test_impossible_batch(bad):
    with pytest.raises(ValueError, match="impossible"):
        sequence_tally(bad)


@given(shapes, tallies)
def test_json_round_trip(shape, tally):
    assert ModelShape.from_json(json.loads(json.dumps(shape.to_json()))) == shape
    assert Tally.from_json(json.loads(json.dumps(tally.to_json()))) == tally


def test_counts_from_a_table_do_not_overflow():
    """numpy's integers, as pandas returns them, wrap around at 9.2e18, which a 7B model's FLOPs soon pass."""
    shape = shape_of(REAL["Qwen2.5-7B"][0])
    row = {name: np.int64(n) for name, n in sequence_tally([(10**3, 10**3)]).to_json().items()}
    tally = replace(Tally.from_json(row), tokens=np.int64(10**10), pairs=np.int64(10**13))
    body, head, attention = shape.body * 10**10, shape.head * 2000, 2 * 28 * 28 * 128 * 10**13
    assert flops(shape, tally, TRAINING_PASSES) == 6 * (body + head + attention) > 2**63
    with pytest.raises(TypeError):
        replace(tally, tokens=1.0)
    with pytest.raises(ValueError, match="tokens is -1"):
        replace(tally, tokens=-1)


def test_needs_no_torch():
    code = "import sys, repro.flops; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
