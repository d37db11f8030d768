"""The base model of a study: an ordinary transformers folder (config, safetensors, tokenizer), made once and
shared by all runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from repro import fetch, files, identity, numerics, problems
from repro.config import Folder, HubModel, LadderProblems, RandomModel, Study, WarmStart
from repro.errors import UserError
from repro.flops import TRAINING_PASSES, Tally, batch_tally, flops, papers_flops
from repro.models import config_of, refuse_code
from repro.objectives import SFT
from repro.problems import ladder
from repro.problems.prompts import fill, templates
from repro.provenance import Process
from repro.seeds import generator, stream_seed
from repro.shapes import shape_of
from repro.training import encode
from repro.training.batches import batches
from repro.training.trl import TRLTrainer

PAD, END, UNKNOWN = "<pad>", "<eos>", "<unk>"
Progress = Callable[[int, int, float], None]  # called with (step, steps, loss)


def prepare(study: Study, problem_folder: Path, out: Path, progress: Progress) -> dict[str, Any]:
    """Make the study's base model in ``out``; what it cost, how it came to be, its shape, and what made it.

    A model that was made there from the same settings is kept: it is trained once, whoever is killed when.
    """
    numerics.check(study.numerics)
    process = Process()
    spec = study.base_model
    train = problem_folder / "train.jsonl"
    key = identity.base_key(study, train)
    with files.lease(out.with_name(f"{out.name}-lease"), wait=True):
        if (out / files.ORIGIN).is_file() and files.sealed(out) and not isinstance(spec, Folder):
            facts: dict[str, Any] = files.read_json(out / files.ORIGIN)
            if facts["key"] == key:
                return facts
        with files.building(out) as folder:
            facts = {"key": key, **_make(study, train, folder, progress)}
            facts |= {"shape": shape_of(folder).to_json(), "process": process.facts()}
            files.write_json(folder / files.ORIGIN, facts)
    return facts


def _make(study: Study, train: Path, folder: Path, progress: Progress) -> dict[str, Any]:
    spec = study.base_model
    if isinstance(spec, Folder):
        _link(spec.path, folder)
        return {"description": spec.path.name, "warm_start": None}
    if isinstance(spec, HubModel):
        _link(fetch.model_path(spec.name, spec.revision), folder)
        return {"description": f"{spec.name}@{spec.revision[:7]}", "warm_start": None}
    if isinstance(spec, RandomModel):
        texts = [problem.question for problem in problems.read(train).problems]
        _initialise(spec.config, _bpe_tokenizer(texts, spec.vocabulary), spec.seed, folder)
        return {"description": f"random {spec.config.get('model_type')}", "warm_start": None}
    cost = _warm_start(study, spec, folder, progress)
    return {"description": "trained from nothing on the ladder's imperfect corpus", "warm_start": cost}


def _link(source: Path, folder: Path) -> None:
    """Links to the model's files: gigabytes need no second copy, and their hashes are sealed all the same."""
    if not (source / "config.json").is_file():
        raise UserError(f"base model {source} holds no config.json; name a transformers model folder")
    refuse_code(source)
    if not list(source.glob("*.safetensors")):
        raise UserError(f"base model {source} holds no safetensors weights; convert the model first")
    kept = {".json", ".safetensors", ".txt", ".model", ".jinja"}
    for path in source.iterdir():
        if path.suffix in kept and path.name != files.COMPLETE:
            (folder / path.name).symlink_to(path.resolve())


def _word_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """One token per word: numbers too, which a small model learns faster than digits."""
    vocabulary = {word: index for index, word in enumerate([PAD, END, UNKNOWN, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN
    )


def _bpe_tokenizer(texts: list[str], size: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)


def _initialise(config: dict[str, Any], tokenizer: PreTrainedTokenizerFast, seed: int, folder: Path) -> None:
    resolved = config_of(
        config,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(stream_seed("initialise", seed) % 2**63)
    AutoModelForCausalLM.from_config(resolved, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def corpus_rows(study: Study, size: int, seed: int) -> list[tuple[str, str]]:
    """(prompt, response) rows of the warm-start corpus.

    A share of the prompts shows, as STaR's hint does, the answer that the solution arrives at, right or
    wrong: so the model learns what a hint is without being told gold answers.
    """
    assert isinstance(study.base_model, WarmStart)
    random = generator("corpus hints", seed)
    plain, with_hint = templates(study.prompt)
    rows = []
    for question, solution, answer in ladder.corpus(size, seed, _world(study)):
        hinted = random.random() < study.base_model.hinted
        rows.append((fill(with_hint if hinted else plain, question, answer), solution))
    return rows


def _world(study: Study) -> ladder.World:
    assert isinstance(study.problems, LadderProblems)  # a warm start is of the ladder
    return ladder.WORLDS[study.problems.world]


def _warm_start(study: Study, spec: WarmStart, folder: Path, progress: Progress) -> dict[str, Any]:
    """Train from nothing with the suite's own trainer; FLOPs and tokens of it."""
    tokenizer = _word_tokenizer(ladder.vocabulary(_world(study)))
    start = folder / "start"
    _initialise({"model_type": "llama", **spec.config}, tokenizer, spec.seed, start)
    text = corpus_rows(study, spec.steps * spec.batch_size, spec.seed)
    rows = [encode(tokenizer, prompt, [response], study.training.max_length) for prompt, response in text]
    lengths = [row.tokens for row in rows]
    order = batches(lengths, spec.batch_size, generator("warm start", spec.seed))
    plan = [[rows[i] for i in next(order)] for _ in range(spec.steps)]
    TRLTrainer(dtype=study.training.dtype).train(
        start,
        plan,
        SFT(),
        spec.optimizer,
        folder,
        on_step=lambda step, loss: progress(step, spec.steps, loss),
    )
    shutil.rmtree(start)
    shutil.rmtree(folder / "optimizer")
    shape = shape_of(folder)
    steps = (batch_tally([row.tally(shape.window) for row in batch]) for batch in plan)
    tally = sum(steps, Tally.zero())
    return {
        "flops": flops(shape, tally, TRAINING_PASSES),
        "papers_flops": papers_flops(shape, tally, TRAINING_PASSES),
        "tally": tally.to_json(),
        "steps": spec.steps,
    }
