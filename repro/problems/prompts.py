r"""Prompts: how a question becomes exactly the text that the model continues.

A style has a version, which is raised when its text changes. Templates hold ``{question}`` and, for hints,
``{answer}``; all other braces, such as those of ``\boxed{}``, stand for themselves. Worked examples (shots)
come before the question, as text or as turns of a chat, where completions are sampled to train on; training
and evaluation see the question alone, as in STaR and AdaSTaR.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from repro import files
from repro.config import Benchmark, Folder, HubModel, Prompt, Study
from repro.errors import UserError, out_of_memory
from repro.fetch import model_path
from repro.models import loading
from repro.records import Gold, Problem


@dataclass(frozen=True)
class Style:
    version: int
    template: str
    hinted: str  # STaR's rationalization (Zelikman et al. 2022): the answer is shown
    stop: tuple[str, ...] = ()  # what a base model writes when it goes on to a question of its own


STYLES = {
    "plain": Style(1, "{question}", "{question} ( {answer} )"),
    "question_answer": Style(
        1,
        "Question: {question}\nAnswer:\n",
        "Question: {question} (The answer is {answer}.)\nAnswer:\n",
        stop=("\nQuestion:",),
    ),
    "boxed": Style(
        1,
        "{question}\nReason step by step, and put the final answer in \\boxed{}.\n",
        "{question} (The answer is {answer}.)\nReason step by step, and put the final answer in \\boxed{}.\n",
    ),
}
BETWEEN_SHOTS = "\n\n"
_FIELD = re.compile(r"\{(question|answer)\}")
# Llama's chat templates put in the day they are rendered on, unless given one. This is their default.
CHAT = {"date_string": "26 Jul 2024"}


def fill(template: str, question: str, answer: str = "") -> str:
    """The template with its fields filled in; what is filled in is not searched for fields."""
    values = {"question": question, "answer": answer}
    return _FIELD.sub(lambda match: values[match[1]], template)


def templates(prompt: Prompt) -> tuple[str, str]:
    """(template, hinted template) of a study's prompt."""
    style = STYLES[prompt.style]
    return prompt.template or style.template, prompt.hinted or style.hinted


def stops(prompt: Prompt, benchmark: Benchmark | None = None) -> tuple[str, ...]:
    """Texts that end a completion of a study's prompt, on a benchmark that may have its own."""
    own = prompt.stop if benchmark is None or benchmark.stop is None else benchmark.stop
    return STYLES[prompt.style].stop if own is None else tuple(own)


def worked(prompt: Prompt, gold: Gold) -> str | None:
    r"""The solution as a model should write it: for ``boxed``, GSM8K's last line ``#### n`` becomes a box."""
    if prompt.style != "boxed" or gold.solution is None or "\\boxed" in gold.solution:
        return gold.solution
    steps, mark, _ = gold.solution.rpartition("####")
    return f"{steps.rstrip()}\nThe final answer is $\\boxed{{{gold.answer}}}$." if mark else gold.solution


def answer_line(gold: Gold) -> str:
    r"""The line of a solution that states its answer, as its source writes it: ``#### n`` or a box."""
    boxed = gold.solution is None or "\\boxed" in gold.solution
    return f"\\boxed{{{gold.answer}}}" if boxed else f"#### {gold.answer}"


class Prompter:
    """Renders the prompts of a study. ``shots`` are problems with worked solutions; ``tokenizer`` has the
    chat template that ``prompt.chat`` asks for."""

    def __init__(
        self, prompt: Prompt, shots: Sequence[tuple[Problem, Gold]] = (), tokenizer: Any = None
    ) -> None:
        self._prompt = prompt
        self._tokenizer = tokenizer
        self._shots = [(problem.question, gold.answer, worked(prompt, gold) or "") for problem, gold in shots]
        self._template, self._hinted = templates(prompt)

    def plain(self, question: str) -> str:
        """The prompt that is trained on and evaluated with."""
        return self._render(self._template, question, "", [])

    def few_shot(self, question: str) -> str:
        """The prompt that is sampled from: the shots, and the question."""
        return self._render(self._template, question, "", self._shots)

    def hinted(self, question: str, answer: str) -> str:
        """The same with the answer shown, to the question and to those of the shots."""
        return self._render(self._hinted, question, answer, self._shots)

    @property
    def digest(self) -> str:
        """Of all in a prompt but its question: style, templates, shots, system message, chat template, and
        whether the model thinks."""
        rendered = self.few_shot("{question}"), self.hinted("{question}", "{answer}")
        return files.digest(
            self._prompt.style, STYLES[self._prompt.style].version, *rendered, *self._switch.items()
        )

    @property
    def _switch(self) -> dict[str, bool]:
        """The chat template's own name for thinking; nothing where the study leaves it to the template."""
        thinking = self._prompt.thinking
        return {} if thinking is None else {"enable_thinking": thinking}

    def _render(
        self, template: str, question: str, answer: str, shots: Sequence[tuple[str, str, str]]
    ) -> str:
        asked = [(fill(template, *shot[:2]), shot[2]) for shot in shots]
        last = fill(template, question, answer)
        if not self._prompt.chat:
            return "".join(f"{text}{solution}{BETWEEN_SHOTS}" for text, solution in asked) + last
        system = self._prompt.system
        turns = [{"role": "system", "content": system}] if system else []
        for text, solution in asked:
            turns.append({"role": "user", "content": text.strip()})
            turns.append({"role": "assistant", "content": solution})
        turns.append({"role": "user", "content": last.strip()})
        return self._chat(turns)

    def _chat(self, turns: list[dict[str, str]]) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True, **CHAT, **self._switch
            )
        except Exception as error:  # jinja's, or whatever a template comes to
            if out_of_memory(error):
                raise
            raise UserError(
                f"the chat template of {self._tokenizer.name_or_path} refuses the prompt ({error}); where it "
                "knows no system message, put that into prompt.template"
            ) from None
        return text


def chat_tokenizer(study: Study) -> Any:
    """The base model's tokenizer, for its chat template. Raises UserError where there is none."""
    from transformers import AutoTokenizer

    source = study.base_model
    assert isinstance(source, Folder | HubModel), "the study's own check lets only these chat"
    path = source.path if isinstance(source, Folder) else model_path(source.name, source.revision)
    with loading(path, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    if not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer in {path} has no chat template; set prompt.chat to false or name one that chats"
        )
    return tokenizer
