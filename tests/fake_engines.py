"""Engines that live in memory, and a problem set and a base model for them.

The weights of a fake model are a digest of all batches behind them, so that a checkpoint tells exactly which
steps it has seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from repro import files
from repro.flops import FORWARD_PASSES, TRAINING_PASSES, ModelShape, flops, sample_tally, sequence_tally
from repro.lab import Engines, Lab
from repro.method import Completion, Objective, Optimizer, Problem
from repro.problems import ProblemSet
from repro.records import Gold, Verdict
from repro.rewards import Scored
from repro.sampling import Request, Sample, Sampled, SamplingParams, checksum
from repro.seeds import stream_seed
from repro.shapes import counted
from repro.training import Row, Trained, newest_state

CONFIG = {
    "model_type": "llama", "num_hidden_layers": 1, "hidden_size": 4, "num_attention_heads": 1,
    "num_key_value_heads": 1, "intermediate_size": 4, "vocab_size": 40,
}  # fmt: skip
SHAPE = counted(CONFIG, "fake").shape
JUDGE = counted(CONFIG | {"num_hidden_layers": 2}, "judge").shape
PLENTY = 10**15
ADAM = Optimizer(learning_rate=1e-3)
WORDS = [f"w{i}" for i in range(32)]
VOCABULARY = {word: i for i, word in enumerate(["<eos>", "<unk>", "(", ")", *WORDS])}


def make_base(folder: Path) -> None:
    """A sealed model folder with a tokenizer of whole words."""
    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "weights").write_text("base")
    files.seal(folder)


class Crash(BaseException):
    """As a kill: no handler of the suite takes it for its own."""


@dataclass(frozen=True)
class Part:
    """What a budget may cut before: one request, or one optimizer step."""

    cost: int
    weights: str  # after it
    step: bool


@dataclass
class World:
    """The engines. ``crash`` numbers the entry (sampler, verifier, scorer, each training step) that dies."""

    crash: int = 0
    save_every: int = 0  # steps of a training after which it saves its state
    entries: int = 0
    finished: int = 0  # calls of the sampler with its verifier, of the scorer, and of the trainer
    requests: list[Request] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    fresh: bool = True  # whether the next request is the first of its call
    starts: list[tuple[str, str]] = field(default_factory=list)  # of trainings: weights, inherited call
    trainings: list[tuple[Objective, Optimizer, int, int]] = field(default_factory=list)  # horizon, seed
    params: list[SamplingParams] = field(default_factory=list)
    weights: str = ""

    def enter(self) -> None:
        self.entries += 1
        if self.entries == self.crash:
            raise Crash

    def load(self, model_dir: Path) -> None:
        self.weights = (model_dir / "weights").read_text()

    def close(self) -> None:
        self.weights = ""

    def sample(
        self, requests: Sequence[Request], params: SamplingParams, progress: Any = None
    ) -> list[Sampled]:
        assert self.weights, "the Lab knows that it closed the sampler"
        self.enter()
        drawn = []
        self.params.append(params)
        for request in requests:
            prompt = len(request.prompt.split())
            samples = tuple(self.complete(request.prompt, seed) for seed in request.seeds)
            shared = 0 if self.fresh else SHARED[")" in request.prompt]
            tally = sample_tally(prompt, [sample.tokens for sample in samples], shared=shared)
            self.parts.append(Part(flops(SHAPE, tally, FORWARD_PASSES), self.weights, step=False))
            self.fresh = False
            drawn.append(Sampled(prompt, samples))
        self.requests += requests
        return drawn

    def complete(self, prompt: str, seed: int) -> Sample:
        number = stream_seed(self.weights, prompt, seed)
        words = [WORDS[number >> 5 * i & 31] for i in range(number % 7 + 1)]
        ids = [VOCABULARY[word] for word in (*words, "<eos>")]
        return Sample(" ".join(words), len(ids), "stop", log_probability(self.weights, ids), checksum(ids))

    def verify(self, texts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        self.enter()
        self.finished += 1
        right = [stream_seed(text, answer) % 2 for text, answer in zip(texts, answers, strict=True)]
        return [Verdict.CORRECT if each else Verdict.WRONG for each in right]

    def train(
        self,
        model_dir: Path,
        batches: Sequence[Sequence[Row]],
        objective: Any,
        optimizer: Optimizer,
        out_dir: Path,
        *,
        snapshots: Mapping[int, Path] | None = None,
        inherit: Path | None = None,
        horizon: int | None = None,
        seed: int = 0,
        on_step: Callable[[int, float], None] | None = None,
        states: Path | None = None,
        keep_state: bool = False,
        base: Path | None = None,
    ) -> Trained:
        assert not self.weights, "the sampler still holds its memory"
        weights = (model_dir / "weights").read_text()
        self.starts.append((weights, inherit.parent.name if inherit else ""))
        self.trainings.append((objective, optimizer, horizon or 0, seed))
        assert base is not None and (base / "weights").read_text() == "base"
        if inherit:
            weights = files.digest(weights, (inherit / "optimizer" / "moments").read_text())
        state = newest_state(states) if states else None
        done = int(state.name) if state else 0
        weights = (state / "weights").read_text() if state else weights
        end = horizon if optimizer.schedule != "constant" else None  # a constant one has none
        for step, batch in enumerate(batches[done:], done + 1):
            self.enter()
            weights = files.digest(weights, end, [repr(row) for row in batch])
            new = set(batch) - {row for earlier in batches[: step - 1] for row in earlier}
            reference = sum(flops(SHAPE, row.tally(0), FORWARD_PASSES) for row in new) * objective.references
            training = sum(flops(SHAPE, row.tally(0), TRAINING_PASSES) for row in batch)
            self.parts.append(Part(training + reference, weights, step=True))
            self.rows += batch
            if snapshots and step in snapshots:
                with files.building(snapshots[step]) as snapshot:
                    write_weights(snapshot, weights)
            last = step == len(batches)
            if states and (keep_state if last else self.save_every and step % self.save_every == 0):
                with files.building(states / f"{step:06d}") as saved:
                    write_weights(saved, weights)
            if on_step:
                on_step(step, 1.0)
        write_weights(out_dir, weights)
        write_weights(out_dir / "optimizer", weights, "moments")
        self.finished += 1
        start = [(row, tuple(float(-len(response)) for response in row.responses)) for row in batches[0][:2]]
        return Trained(len(batches) / 7, {"steps": float(len(batches))}, start)


@dataclass
class Judge:
    """A reward model. It has no room for the longest completions, of which it sees nothing."""

    world: World
    name: str = "judge-7b"
    shape: ModelShape = JUDGE
    scored: list[str] = field(default_factory=list)
    closed: int = 0

    def score(self, completions: Sequence[Completion]) -> list[Scored]:
        self.world.enter()
        for completion in completions:
            weights = self.world.parts[-1].weights if self.world.parts else "base"
            scored = judged(completion)
            self.world.parts.append(Part(cost_of_scoring(scored), weights, step=False))
        self.scored += [completion.text for completion in completions]
        self.world.finished += 1
        return [judged(completion) for completion in completions]

    def close(self) -> None:
        self.closed += 1


def judged(completion: Completion) -> Scored:
    words = completion.text.split()
    if len(words) == 7:
        return Scored((0.0,) * 3)
    rewards = tuple(stream_seed(word) / 2**64 for word in words)
    return Scored(rewards, len(completion.problem.question.split()), len(words) + 1, len(words))


def cost_of_scoring(scored: Scored) -> int:
    if not scored.logits:
        return 0
    return flops(JUDGE, sequence_tally([(scored.prompt_tokens, scored.tokens)], scored.logits), 1)


def log_probability(weights: str, ids: Sequence[int]) -> float:
    """Of a response: what any engine with these weights would say."""
    return -(stream_seed(weights, *ids) % 4096) / 16


def write_weights(folder: Path, weights: str, name: str = "weights") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(weights)


PROBLEMS = [Problem(f"p{i}", " ".join(WORDS[: i + 2]), "1") for i in range(6)]
PROBLEM_SET = ProblemSet(
    PROBLEMS,
    {p.id: Gold(str(i), f"w{i}") for i, p in enumerate(PROBLEMS)},
    {p.id: p.question for p in PROBLEMS},
    {p.id: f"w31 {p.question}" for p in PROBLEMS},
    {p.id: f"w31 {p.question} ( w{i} )" for i, p in enumerate(PROBLEMS)},
)


# Tokens that all prompts begin with: "w31 w0 w1", of which the shortest, which is just that, keeps its last.
SHARED = {False: 2, True: 3}  # hinted or not


def make(
    base: Path, folder: Path, world: World, *budgets: int, chunk: int = 4, name: str = "run/0", **how: Any
) -> Lab:
    """A Lab in ``folder``; ``how``: what else Engines and Lab take."""
    scorer, corpus = how.pop("scorer", Judge(world)), how.pop("corpus", None)
    engines = Engines(
        world, world, world, scorer, corpus, max_tokens=8, chunk=chunk, max_length=64,
        lora_rank=how.pop("lora_rank", 0), keep_moments=how.pop("keep_moments", True),
        thinking=how.pop("thinking", False),
    )  # type: ignore[arg-type]  # fmt: skip
    return Lab(name, folder, base, PROBLEM_SET, budgets or [PLENTY], engines, **how)
