"""Sizes of a study's models before their weights are here: from ``config.json`` in the model folder or the
hub's cache, else from the table of well-known models by name. Loads torch only for a model that is none."""

from __future__ import annotations

from pathlib import Path

from repro import files
from repro.config import Folder, HubModel, LadderProblems, RandomModel, RewardModel, Study
from repro.errors import UserError
from repro.shapes import Decoder, decoder, named


def hub_file(name: str, revision: str, file: str) -> Path | None:
    """A file of a hub model in the local cache; None where it is not there. Never touches the network."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, file, revision=revision)
    return Path(found) if isinstance(found, str) else None


def base_model(study: Study, file: Path) -> tuple[Decoder, str]:
    """The base model and where it was found; ``file`` is the study's. Raises UserError where
    nothing says it."""
    spec = study.base_model
    if isinstance(spec, Folder):
        return _from_folder(spec.path, "base_model.path")
    if isinstance(spec, HubModel):
        return _from_hub(spec.name, spec.revision, file)
    if isinstance(spec, RandomModel):
        sizes = {**spec.config, "vocab_size": spec.vocabulary, "pad_token_id": 0, "eos_token_id": 1}
    else:
        from repro.problems import ladder

        assert isinstance(study.problems, LadderProblems)  # a warm start is of the ladder
        words = ladder.vocabulary(ladder.WORLDS[study.problems.world])
        special = 3  # padding, end of text, unknown word
        sizes = {"model_type": "llama", **spec.config, "vocab_size": len(words) + special}
    return decoder(sizes, f"{file}: base_model.config"), "base_model.config"


def reward_model(model: RewardModel, file: Path) -> tuple[Decoder, str]:
    """A process reward model and where it was found. Raises UserError where nothing says it."""
    if model.path is not None:
        return _from_folder(model.path, "process_rewards.path")
    assert model.name and model.revision
    return _from_hub(model.name, model.revision, file)


def _from_folder(folder: Path, key: str) -> tuple[Decoder, str]:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{key}: {path} does not exist; name a transformers model folder")
    return decoder(files.read_json(path), str(path)), str(path)


def _from_hub(name: str, revision: str, file: Path) -> tuple[Decoder, str]:
    cached = hub_file(name, revision, "config.json")
    if cached is not None:
        return decoder(files.read_json(cached), str(cached)), "config.json in the hub's cache"
    found = named(name)
    if found is None:
        raise UserError(
            f"config.json of {name} at {revision[:7]} is not in the hub's cache, and no table has its sizes; "
            f"run `repro fetch {file}` where there is a network"
        )
    return found, "table of known models"
