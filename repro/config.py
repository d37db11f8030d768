"""A study: one validated YAML file. Unknown or impossible keys give one clear sentence."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from repro import benchmarks
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
    """The procedural set of :mod:`repro.problems.ladder`; its test problems are the benchmark ``ladder``."""

    source: Literal["ladder"]
    train: int = Field(gt=0)
    validation: int = Field(default=0, ge=0)
    test: int = Field(gt=0)
    seed: int = 0


class Rows(Section):
    """Which rows of a training set are used."""

    train: Annotated[int, Field(gt=0)] | Literal["all"] = "all"  # rows drawn by `seed`
    validation: int = Field(default=0, ge=0)  # rows held out, drawn before those to train on
    exclude: list[str] = []  # ids of problems to leave out, such as one whose gold answer cannot be read
    seed: int = 0


class Gsm8kProblems(Rows):
    """The training set of GSM8K: ``gsm8k/train.jsonl`` in the data folder."""

    source: Literal["gsm8k"]


class MathProblems(Rows):
    """The training set of MATH: ``math/train.jsonl`` in the data folder, subjects as knowledge points."""

    source: Literal["math"]


class JsonlProblems(Rows):
    """Problems of your own; the fields of a row are in docs/problems.md."""

    source: Literal["jsonl"]
    file: Path


Problems = Annotated[
    LadderProblems | Gsm8kProblems | MathProblems | JsonlProblems, Field(discriminator="source")
]


class Prompt(Section):
    """How a question becomes the text that the model continues."""

    style: Literal["plain", "question_answer", "boxed"] = "plain"  # see repro/problems/prompts.py
    template: str | None = None  # instead of the style's
    hinted: str | None = None  # the same for hints (STaR): the answer is shown
    shots: int = Field(default=0, ge=0)  # worked examples before the question, taken out of the training rows
    chat: bool = False  # rendered by the base model's chat template
    system: str | None = None  # system message of the chat
    stop: list[str] | None = None  # texts that end a completion, instead of the style's

    @model_validator(mode="after")
    def _has_fields(self) -> Prompt:
        if self.template is not None and "{question}" not in self.template:
            raise ValueError("template must contain {question}")
        if self.hinted is not None and not ("{question}" in self.hinted and "{answer}" in self.hinted):
            raise ValueError("hinted must contain {question} and {answer}")
        if self.system is not None and not self.chat:
            raise ValueError("system is a message of a chat; set chat: true, or put it into template")
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


class HubModel(Section):
    """A model of the Hugging Face hub. ``repro fetch`` downloads it; nothing else touches the network."""

    source: Literal["hub"]
    name: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")  # a commit: the same weights for all


BaseModelSource = Annotated[WarmStart | RandomModel | Folder | HubModel, Field(discriminator="source")]


class Sampling(Section):
    engine: Literal["transformers", "vllm"] = "transformers"
    batch_size: int = Field(default=512, gt=0)  # completions decoded together (transformers)
    chunk: int = Field(default=2048, gt=0)  # completions per journal entry: what a killed run loses at most
    max_tokens: int = Field(gt=0)
    dtype: Literal["float32", "bfloat16"] = "float32"
    tensor_parallel: int = Field(default=1, gt=0)  # GPUs that share one copy of the model (vllm)
    data_parallel: int = Field(default=1, gt=0)  # copies of the model, which share the prompts (vllm)
    memory: float = Field(default=0.9, gt=0, lt=1)  # share of a GPU's memory that the engine takes (vllm)
    reuse: bool = False  # keep the engine through training, asleep, and reload its weights (vllm)


class LoRA(Section):
    """Low-rank adapters (Hu et al. 2021) in place of full fine-tuning."""

    rank: int = Field(default=32, gt=0)
    alpha: float = Field(default=64, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class Training(Section):
    max_length: int = Field(default=2048, gt=0)  # tokens; a longer response loses its end
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the passes; weights and moments are float32
    micro_batch: int | None = Field(default=None, gt=0)  # rows or pairs in one pass; default: the batch
    gradient_checkpointing: bool = False  # less memory, more time
    padding_free: bool = False  # rows of a pass in one sequence, each attending to itself
    lora: LoRA | None = None  # default: all weights are trained
    accelerate: Path | None = None  # config of `accelerate launch`: FSDP or copies, processes
    save_every: int | None = Field(default=None, gt=0)  # steps after which a killed training call can go on
    keep_moments: bool = True  # of a finished run: a higher budget then goes on where it ended


class RewardModel(Section):
    """A process reward model. Steps are the parts of a completion between separators."""

    kind: Literal["token_classification", "causal", "pooling"]  # see repro/rewards
    path: Path | None = None  # a model folder, or
    name: str | None = Field(default=None, pattern=r"^[\w.-]+/[\w.-]+$")  # a model of the hub
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")  # with its commit
    separator: str = "\n\n"
    batch_size: int = Field(default=8, gt=0)  # completions scored together
    dtype: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _named_once(self) -> RewardModel:
        if (self.path is None) == (self.name is None) or (self.name is None) != (self.revision is None):
            raise ValueError("name the model by path, or by name and revision")
        return self


BenchmarkName = Annotated[str, AfterValidator(benchmarks.known)]


class Benchmark(Section):
    """What a study does otherwise than its profile, on one benchmark."""

    limit: int | None = Field(default=None, gt=0)  # problems, drawn by problems.seed; default: all
    samples: int | None = Field(default=None, gt=0)  # k of avg@k


class Evaluation(Section):
    benchmarks: dict[BenchmarkName, Benchmark] = Field(min_length=1)
    profile: Literal["pocket", "quick", "paper"] = "paper"  # see repro/evaluation.py
    max_tokens: int | None = Field(default=None, gt=0)  # of a completion; default: the profile's


class Study(Section):
    """Everything that defines a study's results."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    title: str
    seeds: list[int] = Field(min_length=1)
    budgets: list[Flops] = Field(min_length=1)  # FLOPs, ascending
    methods: Literal["all"] | list[str] = "all"  # files in baselines/
    gpus: int = Field(default=0, ge=0)  # that one job uses; 0: it runs on the CPU, or on what there is
    data_dir: Path | None = None  # where benchmarks lie; default: $REPRO_DATA_DIR, else data
    problems: Problems
    prompt: Prompt = Prompt()
    base_model: BaseModelSource
    process_rewards: Literal["ladder"] | RewardModel | None = None
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
        if ("ladder" in self.evaluation.benchmarks) != isinstance(self.problems, LadderProblems):
            raise ValueError("the benchmark ladder goes with problems.source ladder, and with it alone")
        if self.prompt.chat and isinstance(self.base_model, WarmStart | RandomModel):
            raise ValueError("prompt.chat needs a base model with a chat template (source hub or folder)")
        engines = self.sampling.tensor_parallel * self.sampling.data_parallel
        if self.gpus and engines > self.gpus:
            raise ValueError(
                f"sampling.tensor_parallel x sampling.data_parallel is {engines}: more than {self.gpus} gpus"
            )
        return self

    def data_folder(self) -> Path:
        """Where the files of GSM8K, MATH and the benchmarks lie."""
        return self.data_dir or Path(os.environ.get("REPRO_DATA_DIR", "data"))


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
        tags = {"ladder", "gsm8k", "math", "jsonl", "warm_start", "random", "folder", "hub"}
        location = list(first["loc"])
        if location[0:1] in (["problems"], ["base_model"]) and location[1:2] and location[1] in tags:
            del location[1]  # the tag of the union, which is not a key
        key = ".".join(str(part) for part in location if not re.search(r"\W", str(part)))
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
