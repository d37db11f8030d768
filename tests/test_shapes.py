"""Shapes are read off models and admitted only where torch counts the same FLOPs; what is not is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from repro import files, shapes
from repro.errors import UserError
from repro.flops import FORWARD_PASSES, flops, sequence_tally
from repro.shapes import TABLE, Decoder, counted, decoder, known, named

# Sizes of a tiny model under all the names that configs have for them.
SIZES: dict[str, Any] = {
    "hidden_size": 64, "n_embd": 64, "d_model": 64,
    "num_hidden_layers": 4, "n_layer": 4, "num_layers": 4, "decoder_layers": 4, "encoder_layers": 4,
    "num_attention_heads": 4, "n_head": 4, "decoder_attention_heads": 4, "attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 50, "max_position_embeddings": 64,
    "intermediate_size": 96, "n_inner": 96, "ffn_dim": 96, "decoder_ffn_dim": 96,
    "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "num_experts": 4,
    "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2,
    "n_group": 1, "topk_group": 1, "moe_k": 2, "n_shared_experts": 1,
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12,
    "sliding_window": 6, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "is_decoder": True,
}  # fmt: skip


def tiny(family: str, **more: Any) -> dict[str, Any]:
    kind: Any = CONFIG_MAPPING[family]
    names = set(kind.__dataclass_fields__) - set(kind.sub_configs)
    config = kind(**{name: size for name, size in SIZES.items() if name in names} | more)
    return {"model_type": family, **config.to_dict()}


EXACT = [
    "afmoe", "apertus", "arcee", "bart", "bigbird_pegasus", "biogpt", "bitnet", "blenderbot",
    "blenderbot-small", "camembert", "cohere", "cohere2", "cohere2_moe", "ctrl", "cwm", "data2vec-text",
    "dots1", "ernie4_5", "ernie4_5_moe", "exaone4", "exaone_moe", "flex_olmo", "gemma", "gemma2",
    "gemma3_text", "gemma4_text", "gemma4_unified_text", "glm", "glm4", "glm4_moe", "gpt2", "gpt_bigcode",
    "gpt_neox", "gpt_oss", "granite", "granite_swa", "granitemoe", "granitemoe_swa", "granitemoeshared",
    "helium", "hunyuan_v1_dense", "hunyuan_v1_moe", "hy_v3", "hyperclovax", "jais2", "laguna", "llama",
    "marian", "mbart", "mellum", "mimo_v2_flash", "minimax_m2", "ministral", "ministral3", "mistral",
    "mixtral", "modernbert-decoder", "nanochat", "nemotron", "olmo", "olmo2", "olmo3", "olmoe", "opt",
    "pegasus", "persimmon", "phi", "phi3", "phi4_multimodal", "phimoe", "plbart", "qwen2", "qwen2_moe",
    "qwen3", "qwen3_moe", "roberta", "roberta-prelayernorm", "seed_oss", "smollm3", "solar_open",
    "stablelm", "starcoder2", "vaultgemma", "xlm-roberta", "xlm-roberta-xl",
]  # fmt: skip


def test_many_architectures_are_exact() -> None:
    assert len(set(EXACT)) == len(EXACT) >= 60


@pytest.mark.promise(
    "Budgets and FLOPs",
    "FLOPs are exact: of more than sixty architectures they are those that torch itself counts.",
)
@pytest.mark.parametrize("family", EXACT)
def test_torch_counts_the_same_with_the_models_own_attention(family: str) -> None:
    """Reading admits a model by attention of our own; here transformers' has the same products, too."""
    config, tokens = tiny(family), 5
    shape = counted(config, family).shape
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(
            CONFIG_MAPPING[family].from_dict(config), attn_implementation="eager",
            experts_implementation="batched_mm",
        )  # fmt: skip
    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    # Of four dimensions, a mask is used as it is; but OPT counts positions by one of two.
    mask = torch.ones(1, tokens, device="meta") if family == "opt" else torch.zeros(1, 1, 1, 1, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(input_ids=ids, attention_mask=mask, use_cache=False)
    rotary = [n for name, n in counter.flop_counts.items() if "rotary" in name]
    found = counter.get_total_flops() - sum(sum(n.values()) for n in rotary)
    attention = 2 * (shape.attention + shape.windowed) * tokens**2  # torch counts the square
    assert found == 2 * (shape.body + shape.head) * tokens + attention
    assert shape.parameters == sum(p.numel() for p in model.parameters())


# What is counted, by hand


def test_a_mixture_of_experts_by_hand() -> None:
    # q and o 2 * 64 * 64, k and v 2 * 64 * 32; two of four experts of 3 * 64 * 32, a router of 64 * 4
    config = tiny("qwen3_moe", head_dim=16)
    found = counted(config, "test")
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 2 * 3 * 64 * 32 + 64 * 4
    assert found.shape.body == 4 * layer and found.shape.head == 64 * 50
    assert found.shape.idle == 4 * 2 * 3 * 64 * 32
    assert found.shape.attention == 4 * 4 * (16 + 16) and found.shape.windowed == found.shape.window == 0
    assert found.shape.sides == 0
    with pytest.raises(UserError, match=r"LoRA adapts experts as whole tensors, .* leave out `lora`"):
        found.shape.with_lora(8)
    assert found.shape.with_lora(0) == found.shape
    assert (found.layers, found.hidden, found.queries, found.cache) == (4, 64, 64, 4 * 2 * 32)
    assert found.vocab == 50


def test_windows_are_read_off_masks() -> None:
    # Gemma 2: every other layer has a window; Phi-3.5-MoE hands it to nobody but its masks
    shape = counted(tiny("gemma2"), "test").shape
    assert (shape.attention, shape.windowed, shape.window) == (2 * 4 * 32, 2 * 4 * 32, 6)
    assert counted(tiny("phimoe"), "test").shape.window == 6
    assert counted(tiny("llama"), "test").shape.window == 0
    # Beyond the window of 6 a query sees 6 keys, in half of the layers
    tally = sequence_tally([(20, 0)], window=6)
    assert tally.windowed == 21 + 14 * 6
    attention = flops(shape, tally, FORWARD_PASSES) - 2 * (shape.body + shape.head) * 20
    assert attention == 2 * 256 * (210 + 105)


def test_keys_and_values_of_different_sizes() -> None:
    # Queries and keys of 16, values of 12; keys and values have two heads, and four in layers with a window
    found = counted(tiny("mimo_v2_flash"), "test")
    assert found.shape.attention + found.shape.windowed == 4 * 4 * (16 + 12)
    assert found.shape.windowed == 3 * found.shape.attention
    assert found.cache == (2 + 3 * 4) * (16 + 12)


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "phi3", "gemma2"])
def test_adapters_are_those_of_peft(family: str) -> None:
    config = CONFIG_MAPPING[family].from_dict(tiny(family))
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    adapted: Any = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    shape = counted(tiny(family), family).shape
    assert shape.with_lora(4).adapter == adapted.get_nb_trainable_parameters()[0]


# What cannot be counted is refused in a sentence


@pytest.mark.parametrize(
    ("family", "more", "said"),
    [
        ("mamba", {}, r"torch counts [\d,]+ FLOPs of backbone\.layers\.\d\.mixer in 8 tokens, and .* have"),
        ("qwen3_next", {}, r"torch counts [\d,]+ FLOPs of model\.layers\.0\.linear_attn in 8 tokens, and"),
        ("llama4_text", {}, r"feed_forward\.experts \(Llama4TextExperts\) has weights in three dimensions"),
        ("roberta", {"is_decoder": False}, r"of 8 queries of .*self the first and .* see \(8, 8, 8\) keys"),
        ("bert", {}, r"bert\.embeddings \(BertEmbeddings\) stops over 2097152 tokens without data"),
        ("falcon", {}, r"its attention does not go through transformers' interface"),
        ("bloom", {}, r"of transformer\.h\.\d\.self_attention in 8 tokens"),
        ("deepseek_v3", {}, r"of model\.layers\.\d\.self_attn\.kv_b_proj in 1 tokens"),  # anew for each key
        ("doge", {}, r"model\.layers\.0\.self_attn attends by a mask that is neither causal nor a window"),
    ],
)  # fmt: skip
def test_refusals(family: str, more: dict[str, Any], said: str) -> None:
    sizes = {**tiny(family), **more}
    refused = f"^some/config: the FLOPs of {family} cannot be counted exactly: .*"
    with pytest.raises(UserError, match=refused + said):
        counted(sizes, "some/config")


def test_chunked_attention_is_neither_all_nor_a_window() -> None:
    sizes = tiny("llama4_text", num_local_experts=1, interleave_moe_layer_step=5, moe_layers=[])
    with pytest.raises(UserError, match="self_attn attends by a mask that is neither causal nor a window"):
        counted(sizes, "x")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "nothing"}, "x: model_type 'nothing' is no causal language model of transformers"),
        ({}, "x: model_type None is no causal"),
        ({"model_type": "llama", "hidden_size": "128"}, "x: no llama model can be built of it"),
        ({"model_type": "llama", "num_attention_heads": 0}, "x: no llama model can be built of it"),
    ],
)
def test_configs_that_are_none(config: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        counted(config, "x")
    assert "\n" not in str(caught.value)


# Well-known models


def test_well_known_models_need_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from repro.shapes import *; name, (config, found) = next(iter(known().items()));"
        "assert decoder({**config, 'bos_token_id': 7}, '') == found == named('someone/' + name + '-it');"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_other_sizes_than_a_well_known_models_are_counted() -> None:
    config, found = known()["pocket"]
    other = decoder({**config, "intermediate_size": 96}, "x")
    assert other.shape.body == found.shape.body - 3 * 3 * 96 * (288 - 96)
    assert named("nobody/unheard-of") is None


@pytest.mark.slow
@pytest.mark.parametrize("name", known())
def test_the_table_is_what_torch_counts(name: str, request: pytest.FixtureRequest) -> None:
    """At full size. ``--renew-golden`` writes the table anew from the sizes in it."""
    config, found = known()[name]
    now = counted(config, name)
    if request.config.getoption("--renew-golden"):
        table = json.loads(TABLE.read_text())
        table[name] = {"config": config, **now.to_json()}
        files.write_text(TABLE, json.dumps(table, indent=1) + "\n")
    else:
        assert now == found
    assert Decoder.from_json(json.loads(json.dumps(now.to_json()))) == now


# Base models


def test_a_base_model_has_its_shape_beside_it(tmp_path: Any) -> None:
    config, found = known()["pocket"]
    files.write_json(tmp_path / "config.json", config)
    assert shapes.shape_of(tmp_path) == found.shape
    other = counted(tiny("qwen3"), "x").shape
    files.write_json(tmp_path / files.ORIGIN, {"key": "abc", "shape": other.to_json()})
    assert shapes.shape_of(tmp_path) == other
    files.write_json(tmp_path / files.ORIGIN, {"key": "abc"})  # by an earlier version
    assert shapes.shape_of(tmp_path) == found.shape
