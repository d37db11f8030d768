"""Folders of models in transformers' format: what is looked at before anything in them is loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from repro import files
from repro.config import fitting_sizes
from repro.errors import UserError, out_of_memory
from repro.shapes import counted

LARGEST = 2 * 10**10  # parameters of a model that the suite makes: they lie in memory, in float32


def lacking(folder: Path) -> str:
    """What a model folder lacks to be loaded, such as ``config.json``; empty where it lacks nothing. Pickled
    weights (``.bin``) are none, since loading them can run code."""
    if not (folder / "config.json").is_file():
        return "config.json"
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = files.read_json(index, keys=("weight_map",))["weight_map"]
        if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
            return "a weight_map of files in model.safetensors.index.json"
        return next((shard for shard in sorted(set(shards.values())) if not (folder / shard).is_file()), "")
    return "" if list(folder.glob("*.safetensors")) else "safetensors weights"


def refuse_code(folder: Path, besides: Collection[str] = ()) -> None:
    """Raise UserError where a model folder brings code of its own, which ``auto_map`` in one of its configs
    names: transformers would ask on a terminal whether to run it.

    ``besides`` are configs whose code has no say, as the engine has the architecture itself.
    """
    for path in sorted(folder.glob("*config.json")):
        if path.name in besides:
            continue
        config = files.read_json(path)
        if not isinstance(config, dict):
            raise UserError(f"{path} holds no mapping; put a whole model into {folder}")
        if "auto_map" in config:
            raise UserError(
                f"{path} has `auto_map`: the model runs code of its own, which the suite never does; name a "
                "model of an architecture that transformers has, or remove that key if it needs none"
            )


@contextmanager
def loading(folder: Path, what: str = "model", besides: Collection[str] = ()) -> Iterator[None]:
    """Around what transformers loads from a model folder: refuses one with code of its own (``besides`` as in
    :func:`refuse_code`), and makes of whatever is raised a UserError."""
    refuse_code(Path(folder), besides)
    try:
        yield
    except Exception as error:  # transformers, tokenizers and safetensors raise whatever comes
        if isinstance(error, UserError) or out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"Cannot load the {what} in {folder} ({reason}); see that a whole model lies there, its weights "
            "in safetensors"
        ) from error


def pretrained(kind: Any, folder: Path, mend: str = "put a whole model there", **settings: Any) -> Any:
    """The model in ``folder`` by a class of transformers. Raises UserError, with its ``mend``, where a weight
    is missing, which transformers would draw at random with no more than a warning."""
    model, report = kind.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **settings
    )
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"The model in {folder} has no weights {missing[0]}; {mend}")
    return model


def config_of(sizes: Mapping[str, Any], **tokens: int | None) -> Any:
    """transformers' config of a model that the suite makes from ``base_model.config``; ``tokens`` are the
    size of its vocabulary and ids of its special tokens.

    Raises UserError naming a key that is unknown, which transformers would keep without a word, and for sizes
    of which no model can be built, or none whose FLOPs can be counted exactly.
    """
    where = "base_model.config"
    family = str(sizes.get("model_type"))
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if family not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(
            f"{where}: `model_type` is {sizes.get('model_type')!r}; set it to that of a causal language "
            "model of transformers, such as llama or qwen3"
        )
    given = {key: value for key, value in sizes.items() if key != "model_type"}
    kind: Any = CONFIG_MAPPING[family]
    names = {field.name for field in fields(kind)} - tokens.keys()
    # Where keys have heads of their own, models read `head_dim`, also if their config does not name it.
    known = sorted(names | ({"head_dim"} if "num_key_value_heads" in names else set()))
    for key in given:
        if key not in known:
            raise UserError(f"{where}: unknown key `{key}`; {family} knows {', '.join(known)}")
    try:
        config = kind(**given, **tokens)
        fitting_sizes(config.to_dict())
    except Exception as error:  # there is hardly a kind that transformers does not raise
        reason = f"{type(error).__name__}: {str(error).splitlines()[-1].strip() if str(error) else 'unknown'}"
        raise UserError(f"{where}: no {family} model can be built of it ({reason}); mend that") from None
    if (parameters := counted(config.to_dict(), where).shape.parameters) > LARGEST:
        raise UserError(f"{where}: {parameters:,} parameters are too many; ask for at most {LARGEST:,}")
    return config
