"""Process reward models that transformers runs: TRL's token classifiers, value heads such as Skywork's, and
Math-Shepherd's causal models."""

from __future__ import annotations

import gc
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForTokenClassification

from repro.config import RewardModel
from repro.errors import UserError
from repro.flops import ModelShape
from repro.models import loading, pretrained
from repro.rewards.models import ModelScorer, Row, head_shape
from repro.shapes import counted

VALUE_HEAD = ("v_head.summary.weight", "v_head.summary.bias")
GOOD, BAD, TAG = "+", "-", "ки"  # of Math-Shepherd: a good step, a bad one, the end of a step


class TransformersScorer(ModelScorer):
    """A model in this process, on the GPU if there is one; ``batch_size`` completions in one pass."""

    auto_class: Any

    def __init__(self, spec: RewardModel) -> None:
        super().__init__(spec)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model: Any = None

    @property
    def model(self) -> Any:
        if self._model is None:
            mend = f"it is no reward model of kind {self.spec.kind}: mend process_rewards"
            dtype = getattr(torch, self.spec.dtype)
            with loading(self.folder, "reward model"):
                model = pretrained(self.auto_class, self.folder, mend, dtype=dtype)
            self._model = model.to(self.device).eval()
        return self._model

    def close(self) -> None:
        self._model = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _margins(self, rows: Sequence[Row]) -> list[list[float]]:
        # Like lengths together: little padding.
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
        margins: list[list[float]] = [[]] * len(rows)
        for start in range(0, len(order), self.spec.batch_size):
            batch = order[start : start + self.spec.batch_size]
            width = len(rows[batch[-1]].ids)
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            mask = torch.zeros_like(ids)  # padding on the right changes nothing to the left of it
            for k, i in enumerate(batch):
                ids[k, : len(rows[i].ids)] = torch.tensor(rows[i].ids)
                mask[k, : len(rows[i].ids)] = 1
            owners = torch.tensor([k for k, i in enumerate(batch) for _ in rows[i].marks])
            marks = torch.tensor([mark for i in batch for mark in rows[i].marks])
            answers = self._answers(ids.to(self.device), mask.to(self.device), (owners, marks)).double()
            found = iter((answers[:, 1] - answers[:, 0]).tolist())
            for i in batch:
                margins[i] = [next(found) for _ in rows[i].marks]
        return margins

    def _answers(self, ids: torch.Tensor, mask: torch.Tensor, at: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Logits (bad, good) at these positions, shape ``[positions, 2]``."""
        raise NotImplementedError


class TokenClassifier(TransformersScorer):
    """A model with two labels per token, as TRL's ``PRMTrainer`` saved it (TRL 1.16 no longer has it).

    Its rows are the tokens of the question, after the tokenizer's leading one, then those of each step and of
    the separator, each tokenized by itself; the label of a step stands at the last token of its separator.
    """

    auto_class = AutoModelForTokenClassification

    def _shape(self, where: str) -> ModelShape:
        labels = len(self.config.get("id2label", (0, 1)))  # left out of config.json: two
        if labels != 2:
            raise UserError(
                f"{where}: the model has {labels} labels, where a reward model of kind token_classification "
                "has 2 (a wrong step, a right one); mend process_rewards"
            )
        return head_shape(self.config, where, columns=labels)

    def _row(self, question: str, steps: Sequence[str]) -> Row:
        mark = self.tokenizer.encode(self.spec.separator, add_special_tokens=False)
        if not mark:
            raise UserError(
                f"The tokenizer in {self.folder} finds no tokens in the separator {self.spec.separator!r}; "
                "set process_rewards.separator to the one that the model was trained with"
            )
        begin = self.tokenizer.bos_token_id
        prompt = [] if begin is None else [begin]
        return self._pieces(prompt + self.tokenizer.encode(question, add_special_tokens=False), steps, mark)

    def _answers(self, ids: torch.Tensor, mask: torch.Tensor, at: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return self.model(input_ids=ids, attention_mask=mask).logits[at]


class ValueHeadScorer(TransformersScorer):
    """A language model with a scalar value head, as Skywork-o1-Open-PRM: the sigmoid of the value at the end
    of each step is its reward.

    Its rows are ``<bos>question``, a new line, and the tokens of each step, tokenized by itself, with the
    last token of the separator (Skywork's is a new line) after it. The head is one linear layer, in the
    model's safetensors under the names of TRL's value heads; no code of the model's own is run.
    """

    auto_class = AutoModel

    def __init__(self, spec: RewardModel) -> None:
        super().__init__(spec)
        self._head: Any = None

    @property
    def head(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight ``[hidden]`` and bias ``[]`` of the head."""
        if self._head is None:
            found: dict[str, torch.Tensor] = {}
            for path in sorted(self.folder.glob("*.safetensors")):
                with safe_open(path, framework="pt") as file:
                    found |= {name: file.get_tensor(name) for name in {*VALUE_HEAD} & {*file.keys()}}
            weight, bias = (found.get(name) for name in VALUE_HEAD)
            if weight is None or bias is None or weight.numel() != self.config.get("hidden_size"):
                raise UserError(
                    f"The model in {self.folder} has no value head ({' and '.join(VALUE_HEAD)}) of its "
                    "hidden size: it is no reward model of kind value_head; mend process_rewards"
                )
            self._head = tuple(part.flatten().squeeze().to(self.device).double() for part in (weight, bias))
        return self._head

    def close(self) -> None:
        self._head = None
        super().close()

    def _shape(self, where: str) -> ModelShape:
        return head_shape(self.config, where, columns=1)

    def _logits(self, row: Row) -> int:
        return len(row.marks)

    def _row(self, question: str, steps: Sequence[str]) -> Row:
        mark = self.tokenizer.encode(self.spec.separator, add_special_tokens=False)[-1:]
        if not mark:
            raise UserError(
                f"The tokenizer in {self.folder} finds no tokens in the separator {self.spec.separator!r}; "
                "set process_rewards.separator to the one that the model was trained with"
            )
        text = f"{self.tokenizer.bos_token or ''}{question}\n"
        return self._pieces(self.tokenizer.encode(text, add_special_tokens=False), steps, mark)

    def _answers(self, ids: torch.Tensor, mask: torch.Tensor, at: tuple[torch.Tensor, ...]) -> torch.Tensor:
        weight, bias = self.head
        hidden = self.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        value = hidden[at].double() @ weight + bias
        return torch.stack([torch.zeros_like(value), value], dim=1)  # softmax of (0, v) is sigmoid(v)


class CausalScorer(TransformersScorer):
    """A language model that says ``+`` or ``-`` after the tag of each step, as Math-Shepherd's does.

    Its text is ``question step ки``, a new line, ``step ки`` and so on, tokenized as one. Where a tag stands
    is known from the characters that a token covers, so a step that spells the tag adds no reward.
    """

    auto_class = AutoModelForCausalLM

    def __init__(self, spec: RewardModel) -> None:
        super().__init__(spec)
        self._candidates: list[int] = []

    @property
    def candidates(self) -> list[int]:
        """Token ids of the bad and of the good answer."""
        if not self._candidates:
            tag, *answers = map(self._single, (TAG, BAD, GOOD))
            if tag not in self.tokenizer.encode(f"1 {TAG}\n", add_special_tokens=False):
                raise UserError(
                    f"The tokenizer in {self.folder} merges the tag {TAG!r} with the text around it, "
                    "so the model is no reward model of kind causal"
                )
            self._candidates = answers
        return self._candidates

    def _single(self, text: str) -> int:
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if len(ids) != 1 or ids[0] == self.tokenizer.unk_token_id:
            raise UserError(
                f"The tokenizer in {self.folder} has no single token for {text!r}, "
                "which a reward model of kind causal needs; mend process_rewards"
            )
        return ids[0]

    def _shape(self, where: str) -> ModelShape:
        return counted(self.config, where).shape

    def _logits(self, row: Row) -> int:
        return len(row.marks)

    def _row(self, question: str, steps: Sequence[str]) -> Row:
        assert self.candidates  # the tokenizer is fit for it
        text = question
        ends: list[int] = []  # characters before the end of each tag
        for step in steps:
            text += ("\n" if ends else " ") + f"{step} {TAG}"
            ends.append(len(text))
        encoded = self.tokenizer(text, return_offsets_mapping=True)
        covered = [end for _, end in encoded["offset_mapping"]]  # characters, after each token
        marks = [bisect_left(covered, end) for end in ends]
        return Row(encoded["input_ids"], bisect_right(covered, len(question)), marks)

    def _answers(self, ids: torch.Tensor, mask: torch.Tensor, at: tuple[torch.Tensor, ...]) -> torch.Tensor:
        hidden = self.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return self.model.get_output_embeddings()(hidden[at])[:, self.candidates]
