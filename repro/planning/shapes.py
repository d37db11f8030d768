"""Sizes of a study's models before their weights are here: from ``config.json`` in the model folder or the
hub's cache, else from a table of well-known models. Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repro import files
from repro.config import Folder, HubModel, LadderProblems, RandomModel, RewardModel, Study
from repro.errors import UserError
from repro.flops import ModelShape


def _sizes(
    family: str, hidden: int, layers: int, heads: int, kv_heads: int, mlp: int, vocab: int, tied: bool,
    **more: int,
) -> dict[str, Any]:  # fmt: skip
    return {
        "model_type": family, "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "intermediate_size": mlp,
        "vocab_size": vocab, "tie_word_embeddings": tied, **more,
    }  # fmt: skip


# By the model's name without its owner: a copy keeps the name, and `-Instruct` has the sizes of its base.
KNOWN: dict[str, dict[str, Any]] = {
    "Qwen2.5-0.5B": _sizes("qwen2", 896, 24, 14, 2, 4864, 151936, True),
    "Qwen2.5-1.5B": _sizes("qwen2", 1536, 28, 12, 2, 8960, 151936, True),
    "Qwen2.5-3B": _sizes("qwen2", 2048, 36, 16, 2, 11008, 151936, True),
    "Qwen2.5-7B": _sizes("qwen2", 3584, 28, 28, 4, 18944, 152064, False),
    "Qwen2.5-Math-PRM-7B": _sizes("qwen2", 3584, 28, 28, 4, 18944, 152064, False),
    "Llama-3.2-1B": _sizes("llama", 2048, 16, 32, 8, 8192, 128256, True, head_dim=64),
    "Llama-3.2-3B": _sizes("llama", 3072, 28, 24, 8, 8192, 128256, True, head_dim=128),
    "Llama-3.1-8B": _sizes("llama", 4096, 32, 32, 8, 14336, 128256, False),
    "Mistral-7B-v0.1": _sizes("mistral", 4096, 32, 32, 8, 14336, 32000, False),
    "Mistral-7B-v0.3": _sizes("mistral", 4096, 32, 32, 8, 14336, 32768, False),
    "math-shepherd-mistral-7b-prm": _sizes("mistral", 4096, 32, 32, 8, 14336, 32000, False),
    "gemma-7b": _sizes("gemma", 3072, 28, 16, 16, 24576, 256000, True, head_dim=256),
}


def hub_file(name: str, revision: str, file: str) -> Path | None:
    """A file of a hub model in the local cache; None where it is not there. Never touches the network."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, file, revision=revision)
    return Path(found) if isinstance(found, str) else None


def base_shape(study: Study, file: Path) -> tuple[ModelShape, str]:
    """The shape of the base model and where it was found; ``file`` is the study's. Raises UserError where
    nothing says it."""
    spec = study.base_model
    if isinstance(spec, Folder):
        return _from_folder(spec.path, "base_model.path")
    if isinstance(spec, HubModel):
        return _from_hub(spec.name, spec.revision, file)
    if isinstance(spec, RandomModel):
        sizes = {**spec.config, "vocab_size": spec.vocabulary}
    else:
        from repro.problems import ladder

        assert isinstance(study.problems, LadderProblems)  # a warm start is of the ladder
        words = ladder.vocabulary(ladder.WORLDS[study.problems.world])
        special = 3  # padding, end of text, unknown word
        sizes = {"model_type": "llama", **spec.config, "vocab_size": len(words) + special}
    return ModelShape.from_config(sizes, f"{file}: base_model.config"), "base_model.config"


def reward_shape(model: RewardModel, file: Path) -> tuple[ModelShape, str]:
    """The shape of a process reward model and where it was found. Raises UserError where nothing says it."""
    if model.path is not None:
        return _from_folder(model.path, "process_rewards.path")
    assert model.name and model.revision
    return _from_hub(model.name, model.revision, file)


def _from_folder(folder: Path, key: str) -> tuple[ModelShape, str]:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{key}: {path} does not exist; name a transformers model folder")
    return ModelShape.from_config(files.read_json(path), str(path)), str(path)


def _from_hub(name: str, revision: str, file: Path) -> tuple[ModelShape, str]:
    cached = hub_file(name, revision, "config.json")
    if cached is not None:
        return ModelShape.from_config(files.read_json(cached), str(cached)), "config.json in the hub's cache"
    sizes = KNOWN.get(name.split("/")[-1].removesuffix("-Instruct"))
    if sizes is None:
        raise UserError(
            f"config.json of {name} at {revision[:7]} is not in the hub's cache, and no table has its sizes; "
            f"run `repro fetch {file}` where there is a network"
        )
    return ModelShape.from_config(sizes, name), "table of known models"
