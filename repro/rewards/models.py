"""Process reward models: how a completion becomes tokens, what is read of them, and what it costs.

The steps of a completion are the parts between separators. Every kind of model sees the question and then
the steps, each closed by a mark, and rates a step at its mark: with the logits ``z`` of its two answers
there, the reward is P(good) = softmax(z)[good].

===================== ================================================ ==========================
kind                  a step and its mark                              answers
===================== ================================================ ==========================
token_classification  the step, the separator; read at its last token  labels 0 and 1
value_head            the step, the separator; read at its last token  0 and a value
causal                ``step ки`` on a line of its own                  next tokens ``-`` and ``+``
pooling               the step, ``<extra_0>``; the question in a chat  labels 0 and 1
===================== ================================================ ==========================

Tokens beyond the model's positions (``max_position_embeddings``) are cut off, and a step whose mark is cut
off has reward 0: what the model cannot see is not trusted.

**FLOPs.** A head of labels stands in the model's shape as an LM head of as many columns over
every token, which is exact: 2 for TRL's linear head, hidden size + 2 for Qwen's two layers. The LM head of a
causal model and a value head, of one column, are applied, and counted, at the marks alone. Tokens after the
last mark are not processed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoTokenizer

from repro import files
from repro.config import RewardModel
from repro.errors import UserError
from repro.flops import ModelShape
from repro.models import loading, refuse_code
from repro.records import Completion
from repro.rewards import Scored
from repro.shapes import counted


class Row(NamedTuple):
    """A completion in tokens."""

    ids: list[int]
    prompt_tokens: int
    marks: list[int]  # positions at which its steps are read


class ModelScorer(ABC):
    """:class:`repro.rewards.ProcessScorer` by a model; a kind of model adds its layout, engine and head."""

    def __init__(self, spec: RewardModel) -> None:
        self.spec = spec
        self.folder = model_folder(spec)
        self.name = spec.name.split("/")[-1] if spec.name else self.folder.resolve().name
        where = self.folder / "config.json"
        if not where.is_file():
            raise UserError(
                f"{self.folder} holds no reward model (no config.json): "
                "mend process_rewards.path, or name a model of the hub"
            )
        refuse_code(self.folder, spec.own_code)
        self.config: dict[str, Any] = files.read_json(where, keys=("model_type",))
        self.shape = self._shape(str(where))
        self.positions = self.config.get("max_position_embeddings")
        if type(self.positions) is not int or self.positions < 1:
            raise UserError(f"{where}: 'max_position_embeddings' is missing; set it to the model's length")
        self._tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        if self._tokenizer is None:
            with loading(self.folder, "tokenizer", self.spec.own_code):
                self._tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        return self._tokenizer

    def score(self, completions: Sequence[Completion]) -> list[Scored]:
        whole = [self._row(c.problem.question, steps_of(c.text, self.spec.separator)) for c in completions]
        rows = [self._cut(row) for row in whole]
        read = iter(self._margins([row for row in rows if row.marks]))
        scored = []
        for row, uncut in zip(rows, whole, strict=True):
            margins = next(read) if row.marks else []
            if any(map(math.isnan, margins)):
                raise UserError(f"The reward model {self.name} gives rewards that are no numbers; check it.")
            unseen = len(uncut.marks) - len(row.marks)
            rewards = [0.5 + 0.5 * math.tanh(margin / 2) for margin in margins] + [0.0] * unseen
            tokens = len(row.ids) - row.prompt_tokens
            scored.append(Scored(tuple(rewards), row.prompt_tokens, tokens, self._logits(row)))
        return scored

    def _cut(self, row: Row) -> Row:
        """The row up to the last mark that the model has a position for; nothing where it has none."""
        marks = [mark for mark in row.marks if mark < self.positions]
        return Row(row.ids[: marks[-1] + 1], row.prompt_tokens, marks) if marks else Row([], 0, [])

    @abstractmethod
    def _shape(self, where: str) -> ModelShape:
        """The model's shape, from its config."""

    @abstractmethod
    def _row(self, question: str, steps: Sequence[str]) -> Row:
        """The completion in tokens, as long as it is."""

    @abstractmethod
    def _margins(self, rows: Sequence[Row]) -> list[list[float]]:
        """The good answer's logit less the bad one's, at each mark of each row."""

    def _logits(self, row: Row) -> int:
        """Positions that the head is applied to."""
        return len(row.ids)

    @abstractmethod
    def close(self) -> None: ...

    def _pieces(self, prompt: Sequence[int], steps: Sequence[str], mark: Sequence[int]) -> Row:
        """The prompt and then each step, tokenized by itself, with its mark."""
        ids, marks = list(prompt), []
        for step in steps:
            ids += self.tokenizer.encode(step, add_special_tokens=False)
            ids += mark
            marks.append(len(ids) - 1)
        return Row(ids, len(prompt), marks)


def steps_of(text: str, separator: str) -> list[str]:
    """The parts of ``text`` between separators, stripped, without empty ones; of a blank text one empty."""
    return [part.strip() for part in text.split(separator) if part.strip()] or [""]


def head_shape(config: dict[str, Any], where: str, columns: int) -> ModelShape:
    """The shape of a model whose LM head is replaced by a head of ``columns``, each with a bias."""
    body = counted({**config, "tie_word_embeddings": True}, where)
    parameters = body.shape.parameters + columns * (body.hidden + 1)
    return replace(body.shape, head=columns * body.hidden, parameters=parameters)


def model_folder(spec: RewardModel) -> Path:
    """Where the model lies. Raises :class:`UserError` where one of the hub has not been fetched."""
    if spec.path is not None:
        return spec.path
    from repro.fetch import model_path

    assert spec.name and spec.revision
    return model_path(spec.name, spec.revision)
