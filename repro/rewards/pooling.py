"""Process reward models that vLLM runs as pooling models: Qwen2.5-Math-PRM.

vLLM lives in a child process, so that its memory really returns when the scorer is closed. It has the
architecture of these models itself: no code of the model's repository is run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from repro.config import RewardModel
from repro.errors import UserError
from repro.flops import ModelShape
from repro.rewards.models import ModelScorer, Row, head_shape

WORKER = Path(__file__).with_name("worker.py")
MARK = "<extra_0>"
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."  # as the model was trained

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives in the child process, and ends with it
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",  # nothing is compiled
}


class PoolingScorer(ModelScorer):
    """A Qwen2.5-Math-PRM: the question in the model's chat template, ``<extra_0>`` after each step."""

    def __init__(self, spec: RewardModel) -> None:
        super().__init__(spec)
        self._engine: _Engine | None = None

    def close(self) -> None:
        if self._engine is not None:
            self._engine.end()
        self._engine = None

    def _shape(self, where: str) -> ModelShape:
        known = self.config.get("architectures")
        if known != ["Qwen2ForProcessRewardModel"]:
            raise UserError(
                f"{where}: architectures are {known}, where a reward model of kind pooling has "
                "Qwen2ForProcessRewardModel; mend process_rewards.kind"
            )
        # Linear(d, d), ReLU, Linear(d, 2): as many weights and biases as d + 2 columns have.
        return head_shape(self.config, where, columns=self.config.get("hidden_size", 0) + 2)

    def _row(self, question: str, steps: Sequence[str]) -> Row:
        mark = self.tokenizer.encode(MARK, add_special_tokens=False)
        if len(mark) != 1 or not self.tokenizer.chat_template:
            raise UserError(
                f"The tokenizer in {self.folder} lacks a chat template or the token {MARK}, "
                "so the model is no reward model of kind pooling"
            )
        chat = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
        prompt = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return self._pieces(self.tokenizer.encode(prompt, add_special_tokens=False), steps, mark)

    def _margins(self, rows: Sequence[Row]) -> list[list[float]]:
        if not rows:
            return []
        worked = self._engine is not None
        try:
            return self._ask(rows)
        except _Died:
            if not worked:
                raise
            return self._ask(rows)  # one that has answered before is started anew, once

    def _ask(self, rows: Sequence[Row]) -> list[list[float]]:
        if self._engine is None:
            options = {
                "model": str(self.folder),
                "dtype": self.spec.dtype,
                "max_model_len": self.positions,
                "max_num_seqs": self.spec.batch_size,
                "tensor_parallel_size": self.spec.tensor_parallel,
            }
            self._engine = _Engine(options, self.name)
        try:
            return self._engine.ask([[row.ids, row.marks] for row in rows])
        except BaseException:
            self.close()  # an engine still at work would answer the next question
            raise


class _Died(UserError):
    """The engine ended before it answered."""


class _Engine:
    """The child process: ``repro/rewards/worker.py``, one line of JSON in and one out."""

    def __init__(self, options: dict[str, str | int], name: str) -> None:
        self._name = name
        self._errors = TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        # A plain program, not multiprocessing: no pickle, no second run of the caller's __main__.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ, **ENVIRONMENT},
            process_group=0,  # so that an interrupt at the terminal reaches the caller alone
            encoding="ascii",
        )

    def ask(self, rows: Sequence[Sequence[Sequence[int]]]) -> list[list[float]]:
        assert self._process.stdin and self._process.stdout
        with suppress(BrokenPipeError):  # it has died: its replies end
            self._process.stdin.write(json.dumps(rows) + "\n")
            self._process.stdin.flush()
        reply = self._process.stdout.readline()
        if not reply:
            self._process.wait()
            self._errors.seek(0)
            said = [
                line for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()
            ]
            raise _Died(
                f"vLLM, which runs the reward model {self._name}, ended with status "
                f"{self._process.returncode} ({said[-1] if said else 'it said nothing'}); "
                "see that it is installed and that the model fits the GPU, and run again"
            )
        return json.loads(reply)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin and self._process.stdout
        self._process.stdout.close()
        with suppress(BrokenPipeError):  # a request that was never read
            self._process.stdin.close()
        self._errors.close()
