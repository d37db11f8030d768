"""A study: one validated YAML file. Unknown or impossible keys give one clear sentence.

Upper bounds are far above what a study can want, and below what would fill the memory or never end: they
catch a slip of the keyboard before it costs anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from repro.benchmarks import BENCHMARKS, OWN
from repro.benchmarks import Benchmark as BenchmarkRow
from repro.errors import UserError
from repro.numerics import Numerics
from repro.objectives import Optimizer
from repro.records import Role
from repro.schema import FORGETTING
from repro.validation import shown, validated
from repro.yaml_files import read_yaml

PRESETS = Path(__file__).resolve().parent.parent / "benchmarks" / "presets"
NUMBERS = 3  # raise when the suite's own code makes other numbers of the same settings


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    SPLIT: ClassVar[frozenset[str]] = frozenset()  # keys that say how work is split up, and change no number

    def numbers(self) -> dict[str, Any]:
        """The settings that numbers depend on, beyond rounding."""
        return self.model_dump(mode="json", exclude=set(self.SPLIT))


def _whole(value: Any) -> Any:
    """YAML reads ``6e11`` as text and ``6.0e+11`` as a float; both are meant as whole FLOPs."""
    try:
        return int(float(value)) if isinstance(value, str | float) else value
    except (ValueError, OverflowError):
        return value


def _distinct(values: Sequence[Any]) -> Sequence[Any]:
    twice = next((value for i, value in enumerate(values) if value in values[:i]), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is there twice; remove one of them")
    return values


def is_path(method: str) -> bool:
    """Whether a study names a method by its file, and not by its name."""
    return "/" in method or method.endswith(".py")


def method_name(method: str) -> str:
    """What hyper-parameters of a method go by: its name, or that of its file without ``.py``."""
    return Path(method).stem if is_path(method) else method


def _named(method: str) -> str:
    if not re.fullmatch(NAME, method_name(method)):
        raise ValueError("a method is named by small letters, digits and underscores, as is its file")
    return method


def _no_keyword(name: str) -> str:
    if name == "all":
        raise ValueError("no row can be called `all`, which stands for every file in baselines/")
    return name


def _rows(value: Any) -> Any:
    """Rows from their short forms: a list of methods, a row without keys, and one of the method that it is
    named after."""
    if isinstance(value, str) and value != "all":
        raise ValueError(f"a list of methods is wanted, such as [{value}], or all")
    if isinstance(value, list):
        for method in value:
            if not isinstance(method, str):
                raise ValueError(f"{shown(method)} is no name of a method")
        names = _distinct([method_name(method) for method in value])
        return {name: {"method": method} for name, method in zip(names, value, strict=True)}
    if isinstance(value, dict):
        given = {name: {} if row is None else row for name, row in value.items()}
        return {
            name: {"method": name, **row} if isinstance(row, dict) else row for name, row in given.items()
        }
    return value


SIZES = {  # of a model that the suite makes, and the largest that may be asked for
    "hidden_size": 2**16, "num_hidden_layers": 1_000, "num_attention_heads": 2**10,
    "num_key_value_heads": 2**10, "head_dim": 2**12, "intermediate_size": 2**18,
    "max_position_embeddings": 2**24,
}  # fmt: skip
TOKENS = ("vocab_size", "pad_token_id", "eos_token_id", "bos_token_id")


def fitting_sizes(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A transformers config, or the part of one that is given, whose sizes can be those of a model.

    Raises ValueError where they cannot: transformers accepts many that fail only when the model runs.
    """
    sizes = {key: config[key] for key in SIZES if config.get(key) is not None}
    for key, size in sizes.items():
        if type(size) is not int or not 1 <= size <= SIZES[key]:
            raise ValueError(f"{key} is {size!r}, where a whole number from 1 to {SIZES[key]} is wanted")
    heads, hidden = sizes.get("num_attention_heads"), sizes.get("hidden_size")
    shared, head = sizes.get("num_key_value_heads"), sizes.get("head_dim")
    if heads and shared and heads % shared:
        raise ValueError(
            f"num_key_value_heads is {shared}, which does not divide num_attention_heads, {heads}"
        )
    if heads and hidden and not head:
        if hidden % heads:
            raise ValueError(
                f"num_attention_heads is {heads}, which does not divide hidden_size, {hidden}; "
                "mend one of them or set head_dim"
            )
        head = hidden // heads
    if head and head % 2:
        raise ValueError(f"the size of a head is {head}, where rotary embeddings need an even one")
    return config


def _made_config(config: dict[str, Any]) -> dict[str, Any]:
    for key in TOKENS:
        if key in config:
            raise ValueError(f"{key} follows from the tokenizer, which the suite makes; remove it")
    fitting_sizes(config)
    return config


def _one_line(text: str) -> str:
    if len(text.splitlines()) > 1:
        raise ValueError("one line is wanted")
    return text


def _repository(name: str) -> str:
    if ".." in name or "--" in name:
        raise ValueError("no name of a model of the hub, such as Qwen/Qwen2.5-0.5B")
    return name


Flops = Annotated[int, BeforeValidator(_whole), Field(gt=0, le=10**28)]  # the largest trainings took 5e26
Seed = Annotated[int, Field(ge=0, lt=2**31)]  # what all libraries take as one
Size = Annotated[int, Field(ge=0, le=10**6)]  # problems lie in memory
Shots = Annotated[int, Field(ge=0, le=1_000)]
Batch = Annotated[int, Field(gt=0, le=2**16)]  # rows of one pass or step
Chunk = Annotated[int, Field(gt=0, le=10**6)]  # completions, which lie in memory
Steps = Annotated[int, Field(gt=0, le=10**6)]  # of an optimizer
Tokens = Annotated[int, Field(gt=0, le=2**20)]  # the longest contexts that there are
Gpus = Annotated[int, Field(le=1024)]
Config = Annotated[dict[str, Any], AfterValidator(_made_config)]
Title = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_one_line)]
Text = Annotated[str, Field(min_length=1, max_length=1_000)]
Stops = Annotated[list[Text], Field(max_length=64)]
NAME = r"[a-z][a-z0-9_]*"
UNSET = Field(default=None, exclude_if=lambda value: value is None)  # a key that is nowhere until it is given
MethodId = Annotated[str, Field(pattern=f"^{NAME}$", max_length=100)]
RowId = Annotated[MethodId, AfterValidator(_no_keyword)]
MethodSource = Annotated[str, Field(min_length=1, max_length=1_000), AfterValidator(_named)]
Repository = Annotated[  # by the hub's own rule
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=96),
    AfterValidator(_repository),
]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]  # the same weights for all


class LadderProblems(Section):
    """The procedural set of :mod:`repro.problems.ladder`; its test problems are the benchmark ``ladder``."""

    source: Literal["ladder"]
    world: Literal["things", "miles"] = "things"  # operations and words
    train: Size = Field(gt=0)
    validation: Size = 0
    test: Size = Field(gt=0)
    seed: Seed = 0


class Rows(Section):
    """Which rows of a training set are used."""

    train: Annotated[Size, Field(gt=0)] | Literal["all"] = "all"  # rows drawn by `seed`
    validation: Size = 0  # rows held out, drawn before those to train on
    exclude: list[str] = []  # ids of problems to leave out, such as one whose gold answer cannot be read
    seed: Seed = 0


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
    shots: Shots = 0  # worked examples before the question, taken out of the training rows
    chat: bool = False  # rendered by the base model's chat template
    system: str | None = None  # system message of the chat
    stop: Stops | None = None  # texts that end a completion, instead of the style's
    thinking: bool | None = UNSET  # the chat template's enable_thinking; true: the answer follows </think>

    @model_validator(mode="after")
    def _has_fields(self) -> Prompt:
        if self.template is not None and "{question}" not in self.template:
            raise ValueError("template must contain {question}")
        if self.hinted is not None and not ("{question}" in self.hinted and "{answer}" in self.hinted):
            raise ValueError("hinted must contain {question} and {answer}")
        if self.system is not None and not self.chat:
            raise ValueError("system is a message of a chat; set chat: true, or put it into template")
        if self.thinking is not None and not self.chat:
            raise ValueError("thinking is a switch of chat templates; set chat: true, or remove it")
        return self


class WarmStart(Section):
    """A model trained from nothing on the imperfect corpus of the ladder."""

    source: Literal["warm_start"]
    config: Config  # of transformers' LlamaConfig
    hinted: float = Field(ge=0, lt=1)  # share of corpus rows whose prompt shows the answer they arrive at
    steps: Steps
    batch_size: Batch
    optimizer: Optimizer
    seed: Seed = 0

    @model_validator(mode="after")
    def _in_memory(self) -> WarmStart:
        if self.steps * self.batch_size > 10**7:
            raise ValueError(
                f"steps x batch_size is {self.steps * self.batch_size} rows, which lie in memory; ask for at "
                "most 10 million"
            )
        return self


class RandomModel(Section):
    """Random weights in a given architecture, with a BPE tokenizer trained on the training problems."""

    source: Literal["random"]
    config: Config  # of a transformers config; `model_type` names the architecture
    vocabulary: int = Field(default=512, ge=300, le=2**18)
    seed: Seed = 0


class Folder(Section):
    """A transformers model folder: config, safetensors, tokenizer."""

    source: Literal["folder"]
    path: Path


class HubModel(Section):
    """A model of the Hugging Face hub. ``repro fetch`` downloads it; nothing else touches the network."""

    source: Literal["hub"]
    name: Repository
    revision: Commit


BaseModelSource = Annotated[WarmStart | RandomModel | Folder | HubModel, Field(discriminator="source")]


class Sampling(Section):
    SPLIT: ClassVar[frozenset[str]] = frozenset(
        {"batch_size", "chunk", "memory", "reuse", "tensor_parallel", "data_parallel"}
    )

    engine: Literal["transformers", "vllm"] = "transformers"
    batch_size: Batch = 512  # completions decoded together (transformers)
    chunk: Chunk = 2048  # completions per journal entry: what a killed run loses at most
    max_tokens: Tokens
    dtype: Literal["float32", "bfloat16"] = "float32"
    tensor_parallel: Gpus = Field(default=1, gt=0)  # GPUs that share one copy of the model (vllm)
    data_parallel: Gpus = Field(default=1, gt=0)  # copies of the model, which share the prompts (vllm)
    memory: float = Field(default=0.9, gt=0, lt=1)  # share of a GPU's memory that the engine takes (vllm)
    reuse: bool = False  # keep the engine through training, asleep, and reload its weights (vllm)


class LoRA(Section):
    """Low-rank adapters (Hu et al. 2021) in place of full fine-tuning."""

    rank: int = Field(default=32, gt=0, le=2**12)
    alpha: float = Field(default=64, gt=0, le=2**16)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class Training(Section):
    SPLIT: ClassVar[frozenset[str]] = frozenset(
        {"micro_batch", "gradient_checkpointing", "padding_free", "save_every", "keep", "accelerate"}
    )

    max_length: Tokens = 2048  # tokens; a longer response loses its end
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the passes; weights and moments are float32
    micro_batch: Batch | None = None  # rows or pairs in one pass; default: the batch
    gradient_checkpointing: bool = False  # less memory, more time
    padding_free: bool = False  # rows of a pass in one sequence, each attending to itself
    lora: LoRA | None = None  # default: all weights are trained
    accelerate: Path | None = None  # config of `accelerate launch`: FSDP or copies, processes
    save_every: Steps | None = None  # steps after which a killed training call can go on
    # What stays of a finished run: the weights of every budget, and the moments from which a higher budget
    # goes on; or those weights; or nothing, once they are evaluated.
    keep: Literal["moments", "weights", "nothing"] = "moments"


class RewardModel(Section):
    """A process reward model. Steps are the parts of a completion between separators."""

    kind: Literal["token_classification", "value_head", "causal", "pooling"]  # see repro/rewards
    path: Path | None = None  # a model folder, or
    name: Repository | None = None  # a model of the hub
    revision: Commit | None = None  # with its commit
    separator: Text = "\n\n"
    batch_size: Batch = 8  # completions scored together
    tensor_parallel: Gpus = Field(default=1, gt=0)  # GPUs that share the model (pooling)
    dtype: Literal["float32", "bfloat16"] = "float32"

    @property
    def own_code(self) -> tuple[str, ...]:
        """Configs of the model that may name code of its own: it is not run, where the engine has the
        architecture itself."""
        return ("config.json",) if self.kind == "pooling" else ()

    @model_validator(mode="after")
    def _named_once(self) -> RewardModel:
        if (self.path is None) == (self.name is None) or (self.name is None) != (self.revision is None):
            raise ValueError("name the model by path, or by name and revision")
        if self.tensor_parallel > 1 and self.kind != "pooling":
            raise ValueError(
                f"tensor_parallel is of kind pooling, which vLLM runs; {self.kind} takes one GPU"
            )
        return self


BenchmarkName = Annotated[str, Field(pattern=f"^{NAME}$", max_length=100)]


class Benchmark(Section):
    """What a study does otherwise than its profile, on one benchmark; and what one of its own is."""

    limit: Size | None = Field(default=None, gt=0)  # problems, drawn by problems.seed; default: all
    samples: int | None = Field(default=None, gt=0, le=10_000)  # k of avg@k
    max_tokens: Tokens | None = UNSET  # of a completion; default: evaluation.max_tokens
    stop: Stops | None = UNSET  # texts that end a completion; default: those of the prompt
    file: Path | None = UNSET  # problems of your own, as in docs/problems.md, and with them:
    title: Title | None = UNSET  # in tables; default: the benchmark's name
    tiers_alike: bool | None = UNSET  # whether a score is the mean over tiers; default: over problems

    @model_validator(mode="after")
    def _is_own(self) -> Benchmark:
        for key in ("title", "tiers_alike"):
            if getattr(self, key) is not None and self.file is None:
                raise ValueError(f"{key} is of a benchmark of your own; name its file, or remove {key}")
        return self


class Forgetting(Section):
    """A generative task of lm-eval's collection, on which checkpoints are compared with the base model."""

    task: Title  # or group, such as mmlu_pro or bbh_cot_fewshot
    limit: Size = Field(gt=0)  # documents of each task, the first, as lm-eval's --limit has it
    filter: Text | None = UNSET  # that reads the answer; default: the group's, else the task's first
    max_tokens: Tokens | None = UNSET  # of a completion; default: the task's
    folder: Path | None = UNSET  # of tasks of your own; default: lm-eval's collection


def _known(given: dict[str, Benchmark]) -> dict[str, Benchmark]:
    for name, benchmark in given.items():
        shipped = name in BENCHMARKS
        if shipped and benchmark.file is not None:
            raise ValueError(f"{name} is a benchmark of the suite; give the one of your file another name")
        if not shipped and benchmark.file is None:
            known = ", ".join(BENCHMARKS)
            raise ValueError(f"{name} is unknown; name its file if it is your own; known: {known}")
    return given


class Evaluation(Section):
    benchmarks: Annotated[
        dict[BenchmarkName, Benchmark], Field(min_length=1, max_length=100), AfterValidator(_known)
    ]
    profile: Literal["pocket", "quick", "paper"] = "paper"  # see repro/profiles.py
    max_tokens: Tokens | None = None  # of a completion; default: the profile's
    # Which problems: the benchmarks' own, or those that the study holds out of its training set, asked as the
    # one benchmark's are. Trials of a tuning look at these.
    split: Literal["test", "validation"] = "test"
    forgetting: Forgetting | None = UNSET
    # What the records keep, beside numbers:
    texts: float = Field(default=0.05, ge=0, le=1)  # completions of this share of the problems
    questions: bool = False  # and answers; those of problems that the suite makes are kept in any case

    @model_validator(mode="after")
    def _apart(self) -> Evaluation:
        if self.forgetting is not None and FORGETTING in self.benchmarks:
            raise ValueError(
                f"{FORGETTING} is what the records call its task; give the benchmark another name"
            )
        return self

    def row(self, name: BenchmarkName) -> BenchmarkRow:
        """A benchmark of the study as the suite's table has it, or as the study says of its own."""
        own = self.benchmarks[name]
        if own.file is None:
            return BENCHMARKS[name]
        return BenchmarkRow(own.title or name, None, OWN, tiers_alike=bool(own.tiers_alike))


class Tuning(Section):
    """Trials of hyper-parameters: every row as it is, and at each of its points, on the validation split."""

    seeds: Annotated[list[Seed], Field(min_length=2, max_length=100), AfterValidator(_distinct)]
    points: dict[
        MethodId, Annotated[list[dict[str, Any]], Field(min_length=1, max_length=5)]
    ]  # by row or method


class Tuned(Section):
    """The trials whose choices are a study's hyper-parameters."""

    file: Path  # what `repro tune` wrote
    digest: str  # its SHA-256


class MethodRow(Section):
    """A row of a study: a method, with hyper-parameters of its own in all other keys."""

    model_config = ConfigDict(extra="allow", frozen=True)

    method: MethodSource  # a file in baselines/ without .py, a package's entry point, or the path of a file
    title: Title | None = None  # in tables; default: the class's, with the row's own hyper-parameters
    role: Role | None = None  # default: the class's

    @property
    def hyperparameters(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Study(Section):
    """Everything that defines a study's results."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)  # of folders and files
    title: Title
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=1_000), AfterValidator(_distinct)]
    budgets: list[Flops] = Field(min_length=1, max_length=1_000)  # FLOPs, ascending
    methods: Annotated[
        Literal["all"] | Annotated[dict[RowId, MethodRow], Field(min_length=1, max_length=1_000)],
        BeforeValidator(_rows),
    ] = "all"  # every file in baselines/
    numerics: Numerics = "fast"  # portable: the same bits on every processor; see repro/numerics.py
    gpus: Gpus = Field(default=0, ge=0)  # that one job uses; 0: it runs on the CPU, or on what there is
    data_dir: Path | None = None  # where benchmarks lie; default: $REPRO_DATA_DIR, else data
    problems: Problems
    prompt: Prompt = Prompt()
    base_model: BaseModelSource
    process_rewards: Literal["ladder"] | RewardModel | None = None
    sampling: Sampling
    training: Training = Training()
    evaluation: Evaluation
    target_accuracies: Annotated[
        list[Annotated[float, Field(ge=0, le=1)]], Field(max_length=100), AfterValidator(_distinct)
    ] = []
    hyperparameters: dict[MethodId, dict[str, Any]] = {}  # by method, for all its rows
    tuning: Tuning | None = None  # trials to make; see docs/tuning.md
    tuned: Tuned | None = None  # trials whose choices are used; default: hyper-parameters as they are above

    @model_validator(mode="after")
    def _possible(self) -> Study:
        for budget, following in pairwise(self.budgets):
            if budget >= following:
                raise ValueError(f"budgets must ascend without repeats, not {budget:g}, {following:g}")
        if isinstance(self.base_model, WarmStart) and not isinstance(self.problems, LadderProblems):
            raise ValueError("base_model.source warm_start needs problems.source ladder, which has a corpus")
        if self.process_rewards == "ladder" and not isinstance(self.problems, LadderProblems):
            raise ValueError("process_rewards ladder can only score solutions of problems.source ladder")
        if ("ladder" in self.evaluation.benchmarks) != isinstance(self.problems, LadderProblems):
            raise ValueError("the benchmark ladder goes with problems.source ladder, and with it alone")
        if self.evaluation.split == "validation" and (
            len(self.evaluation.benchmarks) > 1 or not self.problems.validation
        ):
            raise ValueError(
                "evaluation.split validation needs one benchmark, and problems.validation above 0"
            )
        if self.tuning is not None:
            if not self.problems.validation:
                raise ValueError("tuning looks at the validation split; set problems.validation above 0")
            for seed in self.tuning.seeds:
                if seed in self.seeds:
                    raise ValueError(f"seed {seed} is of tuning and of the study; tune with others")
        if self.prompt.chat and isinstance(self.base_model, WarmStart | RandomModel):
            raise ValueError("prompt.chat needs a base model with a chat template (source hub or folder)")
        dtypes = (self.sampling.dtype, self.training.dtype)
        if self.numerics == "portable" and (
            self.gpus or self.sampling.engine != "transformers" or dtypes != ("float32", "float32")
        ):
            raise ValueError(
                "numerics portable is for the CPU: it goes with gpus 0, sampling.engine transformers and "
                "dtype float32"
            )
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
    """The study in a YAML file, on the presets that it names. Raises UserError naming the file, the key and
    the mend."""
    layers = _layers(path, "name a study in UTF-8, such as benchmarks/studies/pocket.yaml")
    values: dict[str, Any] = {}
    for layer in layers.values():
        values = merged(values, layer)
    return validated(Study, values, str(path), dict(reversed(layers.items())))


def _layers(path: Path, mend: str, above: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """What the files hold that a study is made of, the lowest first: presets may stand on others."""
    if str(path) in above:
        raise UserError(f"{above[-1]}: `preset` leads back to {path}; remove it from one of them")
    own = _mapping(path, mend)
    found: dict[str, dict[str, Any]] = {}
    for preset in _presets(path, own):
        found |= _layers(preset, "name a preset in UTF-8", (*above, str(path)))
    return found | {str(path): own}


def _mapping(path: Path, mend: str) -> dict[str, Any]:
    values = read_yaml(path, mend)
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise UserError(f"{path}: a study is a mapping of keys, such as `name: pocket`, and not a {kind}")
    return values


def _presets(path: Path, study: dict[str, Any]) -> list[Path]:
    """The files of the presets that a study names by its key `preset`, which is taken out of it."""
    named = study.pop("preset", [])
    found = []
    for name in named if isinstance(named, list) else [named]:
        if not isinstance(name, str):
            raise UserError(f"{path}: `preset` names presets, one or a list of them, and not {shown(name)}")
        file = Path(name) if "/" in name or name.endswith(".yaml") else PRESETS / f"{name}.yaml"
        if not file.is_file():
            there = ", ".join(sorted(one.stem for one in PRESETS.glob("*.yaml"))) or "none"
            raise UserError(f"{path}: `preset` names `{name}`, but {file} does not exist; there are: {there}")
        found.append(file)
    return found


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """``above`` on top of ``below``: mappings key by key, anything else replaced."""
    both = {
        key: merged(below[key], above[key])
        for key in below.keys() & above.keys()
        if isinstance(below[key], dict) and isinstance(above[key], dict)
    }
    return below | above | both
