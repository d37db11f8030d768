"""The one place that touches the network: files of the Hugging Face hub, at pinned revisions.

``repro fetch STUDY`` downloads on a machine that has a network (a login node); everything else reads what it
left in the hub's cache and in the data folder.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from repro import files
from repro.config import HubModel, RewardModel, Study
from repro.errors import UserError
from repro.models import lacking, refuse_code
from repro.shapes import decoder

Log = logging.getLogger("repro.fetch")

# Of a model's repository: no pickled weights, and not the second copy of the weights in another layout.
WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
UNWANTED = ["original/*", "consolidated*"]


def models(study: Study) -> None:
    """Download the study's hub models, base and reward, into the hub's cache. Raises UserError, naming the
    model, where one cannot be had, has no safetensors weights or is none that the suite can run; its config
    comes first, before gigabytes of weights that would be of no use."""
    from huggingface_hub import hf_hub_download, snapshot_download

    for name, revision, own_code in hub_models(study):
        what = f"the model {name} at {revision}"
        with _reported(f"config.json of {what}"):
            config = Path(hf_hub_download(name, "config.json", revision=revision))
        decoder(files.read_json(config, keys=("model_type",)), f"{what}: config.json")
        refuse_code(config.parent, besides=own_code)
        with _reported(what):
            folder = Path(
                snapshot_download(name, revision=revision, allow_patterns=WANTED, ignore_patterns=UNWANTED)
            )
        refuse_code(folder, besides=own_code)
        if missing := lacking(folder):
            raise UserError(f"{what} has no {missing}; name a model that has")
        Log.info("%s at %s is in %s", name, revision, folder)


def hub_models(study: Study) -> list[tuple[str, str, tuple[str, ...]]]:
    """(name, revision, configs that may name code of its own) of each hub model that the study uses."""
    found: list[tuple[str, str, tuple[str, ...]]] = []
    if isinstance(study.base_model, HubModel):
        found.append((study.base_model.name, study.base_model.revision, ()))
    rewards = study.process_rewards
    if isinstance(rewards, RewardModel) and rewards.name is not None and rewards.revision is not None:
        found.append((rewards.name, rewards.revision, rewards.own_code))
    return found


def model_path(name: str, revision: str) -> Path:
    """The folder of a fetched hub model. No network; raises UserError where it is not there as a whole."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    mend = "run `repro fetch STUDY` where there is a network, or set HF_HOME to the cache that has it"
    try:
        folder = Path(
            snapshot_download(
                name, revision=revision, local_files_only=True,
                allow_patterns=WANTED, ignore_patterns=UNWANTED,
            )
        )  # fmt: skip
    except LocalEntryNotFoundError:
        raise UserError(
            f"the model {name} at {revision} is not whole in the hub's cache on this machine; {mend}"
        ) from None
    if missing := lacking(folder):
        raise UserError(f"the model {name} in {folder} lacks {missing}; {mend}")
    return folder


def dataset_rows(name: str, revision: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of some files (.parquet or .jsonl) of a hub data set, in order. Raises UserError naming it
    where they cannot be had."""
    import pyarrow.parquet
    from huggingface_hub import hf_hub_download

    rows: list[dict[str, Any]] = []
    for file in names:
        with _reported(f"{file} of the data set {name} at {revision}"):
            path = Path(hf_hub_download(name, file, repo_type="dataset", revision=revision))
        try:
            if path.suffix == ".parquet":
                rows += pyarrow.parquet.read_table(path).to_pylist()
            else:
                rows += [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        except ValueError as error:  # of either format, and of text that is not UTF-8
            raise UserError(f"{path} is damaged ({_reason(error)}); delete it and fetch again") from None
    return rows


@contextmanager
def _reported(what: str) -> Iterator[None]:
    """A failed download as one sentence."""
    import httpx

    Log.info("fetching %s", what)
    try:
        yield
    except (OSError, httpx.HTTPError) as error:  # the hub's own errors are both
        raise UserError(
            f"{what} could not be downloaded ({_reason(error)}); check the name, the network and the disk, "
            "and for a gated model accept its licence on the hub and run `hf auth login`"
        ) from None


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
