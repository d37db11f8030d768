"""A study: one validated YAML file. Unknown or impossible keys give one clear sentence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from repro.errors import UserError
from repro.objectives import Optimizer

T = TypeVar("T", bound=BaseModel)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _whole(value: Any) -> Any:
    """YAML reads ``6e11`` as text and ``6.0e+11`` as a float; both are meant as whole FLOPs."""
    try:
        return int(float(value)) if isinstance(value, str | float) else value
    except (ValueError, OverflowError):
        return value


Flops = Annotated[int, BeforeValidator(_whole), Field(gt=0)]


class LadderProblems(Section):
    """The procedural set of :mod:`repro.problems.ladder`."""

    source: Literal["ladder"]
    train: int = Field(gt=0)
    validation: int = Field(default=0, ge=0)
    test: int = Field(gt=0)
    seed: int = 0


class Gsm8kProblems(Section):
    """Rows of GSM8K: ``train.jsonl`` and ``test.jsonl`` with fields ``question`` and ``answer``."""

    source: Literal["gsm8k"]
    folder: Path | None = None  # default: the folder `gsm8k` in $REPRO_DATA_DIR
    train: int = Field(gt=0)  # rows drawn by `seed` from train.jsonl
    validation: int = Field(default=0, ge=0)  # rows held out of train.jsonl
    test: int = Field(gt=0)
    seed: int = 0

    def directory(self) -> Path:
        """The data folder. Raises UserError where neither the study nor the environment names one."""
        if self.folder is not None:
            return self.folder
        if "REPRO_DATA_DIR" not in os.environ:
            raise UserError(
                "problems: source gsm8k needs its files; set problems.folder in the study, or REPRO_DATA_DIR "
                "to a folder that holds gsm8k/train.jsonl and gsm8k/test.jsonl"
            )
        return Path(os.environ["REPRO_DATA_DIR"]) / "gsm8k"


class Prompt(Section):
    """How a question becomes the text that the model continues."""

    template: str = "{question}"
    hinted: str = "{question} ( {answer} )"  # STaR's rationalisation: the final answer is shown

    @model_validator(mode="after")
    def _has_fields(self) -> Prompt:
        if "{question}" not in self.template:
            raise ValueError("template must contain {question}")
        if "{question}" not in self.hinted or "{answer}" not in self.hinted:
            raise ValueError("hinted must contain {question} and {answer}")
        return self


class WarmStart(Section):
    """A model trained from nothing on the imperfect corpus of the ladder."""

    source: Literal["warm_start"]
    config: dict[str, Any]  # of transformers' LlamaConfig
    hinted: float = Field(ge=0, lt=1)  # share of corpus rows whose prompt shows the answer they arrive at
    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    optimizer: Optimizer
    seed: int = 0


class RandomModel(Section):
    """Random weights in a given architecture, with a BPE tokenizer trained on the training problems."""

    source: Literal["random"]
    config: dict[str, Any]  # of a transformers config; `model_type` names the architecture
    vocabulary: int = Field(default=512, ge=300)
    seed: int = 0


class Folder(Section):
    """A transformers model folder: config, safetensors, tokenizer."""

    source: Literal["folder"]
    path: Path


class Sampling(Section):
    batch_size: int = Field(default=512, gt=0)  # completions decoded together
    chunk: int = Field(default=2048, gt=0)  # completions per journal entry: what a killed run loses at most
    max_tokens: int = Field(gt=0)
    dtype: Literal["float32", "bfloat16"] = "float32"


class Training(Section):
    max_length: int = Field(default=2048, gt=0)  # tokens; a longer response loses its end
    dtype: Literal["float32", "bfloat16"] = "float32"


class Evaluation(Section):
    tasks: list[str] = Field(min_length=1)  # lm-eval tasks in benchmarks/tasks
    samples: int = Field(default=4, gt=0)  # k of avg@k


class Study(Section):
    """Everything that defines a study's results."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    title: str
    seeds: list[int] = Field(min_length=1)
    budgets: list[Flops] = Field(min_length=1)  # FLOPs, ascending
    methods: Literal["all"] | list[str] = "all"  # files in baselines/
    problems: LadderProblems | Gsm8kProblems = Field(discriminator="source")
    prompt: Prompt = Prompt()
    base_model: WarmStart | RandomModel | Folder = Field(discriminator="source")
    process_rewards: Literal["ladder"] | None = None
    sampling: Sampling
    training: Training = Training()
    evaluation: Evaluation
    target_accuracies: list[float] = []
    hyperparameters: dict[str, dict[str, Any]] = {}  # by method: overrides of its fields

    @model_validator(mode="after")
    def _possible(self) -> Study:
        if sorted(set(self.budgets)) != self.budgets:
            raise ValueError(f"budgets must ascend without repeats, not {self.budgets}")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds repeat: {self.seeds}")
        if isinstance(self.base_model, WarmStart) and not isinstance(self.problems, LadderProblems):
            raise ValueError("base_model.source warm_start needs problems.source ladder, which has a corpus")
        if self.process_rewards == "ladder" and not isinstance(self.problems, LadderProblems):
            raise ValueError("process_rewards ladder can only score solutions of problems.source ladder")
        return self


def load_study(path: Path) -> Study:
    """The study in a YAML file. Raises UserError naming the file, the key and the mend."""
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); name a study, such as benchmarks/studies/pocket.yaml"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", error)
        raise UserError(f"{path}{where}: not YAML ({problem}); mend that line") from None
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise UserError(f"{path}: a study is a mapping of keys, such as `name: pocket`, and not a {kind}")
    return validated(Study, values, str(path))


def validated(model: type[T], values: dict[str, Any], where: str) -> T:
    """``model`` from ``values``; the first thing wrong becomes a UserError in one sentence."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        # A misspelt key is unknown, and what it was meant for missing: say the former.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        location = list(first["loc"])
        if location[0:1] in (["problems"], ["base_model"]):
            del location[1:2]  # the tag of the union, which is not a key
        key = ".".join(map(str, location))
        if first["type"] == "extra_forbidden":
            known = ", ".join(_fields_at(model, first["loc"][:-1]))
            raise UserError(f"{where}: unknown key `{key}`; known here: {known}") from None
        if first["type"] == "missing":
            raise UserError(f"{where}: key `{key}` is missing; add it") from None
        given = "" if isinstance(first["input"], dict) else f" (it is {first['input']!r})"
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{where}: `{key}`: {message}{given}" if key else f"{where}: {message}") from None


def _fields_at(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Field names of the section that an error's location points into."""
    for part in location:
        field = model.model_fields.get(str(part))
        if field is None:
            continue  # the tag of a discriminated union, or a list index
        sections = [
            option
            for option in (field.annotation, *get_args(field.annotation))
            if isinstance(option, type) and issubclass(option, BaseModel)
        ]
        for section in sections:
            source = section.model_fields.get("source")
            if source is None or get_args(source.annotation)[0] in location:
                model = section
                break
    return list(model.model_fields)
