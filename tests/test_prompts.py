"""Prompts: styles, templates, hints, shots and chats, and the digest that tells them apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from repro.config import Prompt, Study
from repro.errors import UserError
from repro.problems.prompts import STYLES, Prompter, chat_tokenizer, fill, worked
from repro.records import Gold, Problem
from repro.verify import extract

QUESTION = r"How many are $\{1, 2\}$ of {question} and {answer}?"
SHOTS = [
    (Problem("a", "1+1?", "all"), Gold("2", "Count.\n#### 2")),
    (Problem("b", "2+2?", "all"), Gold("4", r"So $\boxed{4}$.")),
]
CHAT = (
    "{% if date_string is not defined %}{{ raise_exception('the day of today') }}{% endif %}"
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SWITCH = "{% if enable_thinking is defined %}<think>{{ '' if enable_thinking else '</think>' }}{% endif %}"


def tokenizer(template: str | None = CHAT) -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<s>": 0})), bos_token="<s>")
    made.chat_template = template
    return made


@pytest.mark.parametrize("style", STYLES)
def test_a_style_shows_the_question_and_only_a_hint_the_answer(style: Any) -> None:
    prompter = Prompter(Prompt(style=style))
    assert QUESTION in prompter.plain(QUESTION) and QUESTION in prompter.hinted(QUESTION, "37 apples")
    assert "37 apples" in prompter.hinted(QUESTION, "37 apples")
    assert prompter.hinted(QUESTION, "1") != prompter.plain(QUESTION)


def test_the_texts_of_version_1() -> None:
    """A change of these needs a new version of the style."""
    assert {name: style.version for name, style in STYLES.items()} == dict.fromkeys(STYLES, 1)
    assert Prompter(Prompt()).hinted("q", "a") == "q ( a )"
    assert Prompter(Prompt(style="question_answer")).plain("q") == "Question: q\nAnswer:\n"
    boxed = "q\nReason step by step, and put the final answer in \\boxed{}.\n"
    assert Prompter(Prompt(style="boxed")).plain("q") == boxed
    assert Prompter(Prompt(style="boxed")).hinted("q", "a") == boxed.replace("q", "q (The answer is a.)", 1)


@given(st.text(), st.text())
def test_filling_in_touches_nothing_but_the_fields(question: str, answer: str) -> None:
    assert fill(r"\boxed{} {{question} {x} {answer", question) == rf"\boxed{{}} {{{question} {{x}} {{answer"
    assert fill("{answer}|{question}", question, answer) == f"{answer}|{question}"


def test_templates_of_the_study_come_before_the_styles() -> None:
    prompter = Prompter(Prompt(style="boxed", template="Solve {question}"))
    assert prompter.plain("q") == "Solve q"
    assert prompter.hinted("q", "a") == fill(STYLES["boxed"].hinted, "q", "a")


def test_shots_are_worked_examples_before_the_question() -> None:
    prompter = Prompter(Prompt(style="question_answer", shots=2), SHOTS)
    assert prompter.plain("3+3?") == "Question: 3+3?\nAnswer:\n"
    assert prompter.few_shot("3+3?") == (
        "Question: 1+1?\nAnswer:\nCount.\n#### 2\n\nQuestion: 2+2?\nAnswer:\nSo $\\boxed{4}$.\n\n"
        "Question: 3+3?\nAnswer:\n"
    )
    assert prompter.hinted("3+3?", "6").count("(The answer is") == 3


def test_solutions_end_as_the_boxed_prompt_asks() -> None:
    boxed, plain = Prompt(style="boxed"), Prompt()
    for _, gold in SHOTS:
        text = worked(boxed, gold)
        assert text is not None and "#" not in text and extract(text) == gold.answer
        assert worked(plain, gold) == gold.solution
    assert worked(boxed, SHOTS[0][1]) == "Count.\nThe final answer is $\\boxed{2}$."
    assert worked(boxed, Gold("1")) is None and worked(boxed, Gold("1", "One.")) == "One."


def test_a_chat_has_turns_and_no_date() -> None:
    prompter = Prompter(Prompt(style="boxed", chat=True, system="Be exact."), SHOTS[:1], tokenizer())
    ask = "Reason step by step, and put the final answer in \\boxed{}."
    assert prompter.few_shot("3+3?") == (
        f"<s><system>Be exact.</><user>1+1?\n{ask}</>"
        "<assistant>Count.\nThe final answer is $\\boxed{2}$.</>"
        f"<user>3+3?\n{ask}</><assistant>"
    )


@pytest.mark.parametrize(("thinking", "end"), [(None, ""), (True, "<think>"), (False, "<think></think>")])
def test_the_chat_template_is_told_whether_to_think(thinking: bool | None, end: str) -> None:
    prompter = Prompter(Prompt(chat=True, thinking=thinking), (), tokenizer(CHAT + SWITCH))
    assert prompter.plain("3+3?") == f"<s><user>3+3?</><assistant>{end}"
    assert prompter.hinted("3+3?", "6").endswith(f"<assistant>{end}")


def test_a_chat_template_that_refuses_is_an_error_with_a_mend() -> None:
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    prompter = Prompter(Prompt(chat=True, system="Be exact."), (), tokenizer(refuses))
    with pytest.raises(
        UserError, match=r"refuses the prompt \(no system role\).* put that into prompt\.templ"
    ):
        prompter.plain("3+3?")


@pytest.mark.promise("Files and code of others", "The chat template of a model runs in a sandbox.")
@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{{ messages[0]",
        "{{ 1 / 0 }}",
    ],
)
def test_a_hostile_chat_template_is_one_sentence(template: str) -> None:
    with pytest.raises(UserError, match=r"^the chat template of .* refuses the prompt \(.*\); where it"):
        Prompter(Prompt(chat=True), (), tokenizer(template)).plain("3+3?")


def test_the_digest_changes_with_everything_but_the_question() -> None:
    prompts = [
        Prompter(Prompt()),
        Prompter(Prompt(style="boxed")),
        Prompter(Prompt(template="Q {question}")),
        Prompter(Prompt(hinted="{question}{answer}")),
        Prompter(Prompt(), SHOTS),
        Prompter(Prompt(), SHOTS[::-1]),
        Prompter(Prompt(chat=True), (), tokenizer()),
        Prompter(Prompt(chat=True, system="Be exact."), (), tokenizer()),
        Prompter(Prompt(chat=True), (), tokenizer(CHAT + "!")),
        # Also where the template has no such switch: what is scored of a completion is another part.
        Prompter(Prompt(chat=True, thinking=True), (), tokenizer()),
        Prompter(Prompt(chat=True, thinking=False), (), tokenizer()),
    ]
    assert len({prompter.digest for prompter in prompts}) == len(prompts)
    assert Prompter(Prompt(), SHOTS).digest == prompts[4].digest


def test_the_tokenizer_of_a_chat_is_that_of_the_base_model(tmp_path: Path) -> None:
    def study(folder: Path) -> Study:
        return Study.model_validate(
            {
                "name": "tiny", "title": "Tiny", "seeds": [0], "budgets": [1],
                "problems": {"source": "gsm8k"}, "base_model": {"source": "folder", "path": folder},
                "sampling": {"max_tokens": 8}, "evaluation": {"benchmarks": {"gsm8k": {}}},
                "prompt": {"chat": True},
            }
        )  # fmt: skip

    tokenizer().save_pretrained(tmp_path / "chat")
    assert chat_tokenizer(study(tmp_path / "chat")).chat_template == CHAT
    tokenizer(None).save_pretrained(tmp_path / "base")
    with pytest.raises(UserError, match=r"base has no chat template; set prompt\.chat to false"):
        chat_tokenizer(study(tmp_path / "base"))
    with pytest.raises(
        UserError, match=r"Cannot load the tokenizer in .*nowhere \(.*; see that a whole model"
    ):
        chat_tokenizer(study(tmp_path / "nowhere"))
