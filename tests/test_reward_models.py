"""Process reward models against plain forward passes and hand arithmetic, on tiny random models.

The tokenizer has a token for each byte, so that lengths can be read off the text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Model,
)

from repro.config import RewardModel
from repro.errors import UserError
from repro.flops import FORWARD_PASSES, flops, sequence_tally
from repro.records import Completion, Problem, Verdict
from repro.rewards import ProcessScorer, Scored, pooling, scorer_for
from repro.rewards.models import steps_of
from repro.rewards.pooling import PoolingScorer

QUESTION = "2 + 3 * 4?"
TEXTS = [
    "3 * 4 = 12\n\n2 + 12 = 14",
    "5 * 4 = 20",
    "one\n\ntwo\n\nthree\n\n" + "four " * 20,
    "",
    "2 + 3 = 5\n\n\n\n5 * 4 = 20\n\n",
    "\\boxed{14}",
]
STEPS = [2, 1, 4, 1, 2, 1]
FAMILIES = ["llama", "qwen2", "mistral", "gemma"]
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"


def save_tokenizer(folder: Path, *words: str, **special: str) -> None:
    """One token for each byte, then one for each of ``words``."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: i for i, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.chat_template = CHAT
    fast.save_pretrained(folder)


def config(family: str, **settings: Any) -> Any:
    sizes = {
        "vocab_size": 264,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
    }
    return CONFIG_MAPPING[family](**(sizes | ({"head_dim": 32} if family == "gemma" else {}) | settings))


def head() -> dict[str, torch.Tensor]:
    """A value head under the names that TRL stores it by."""
    weight = torch.linspace(-1, 1, 64)[None] * 0.3
    return {"v_head.summary.weight": weight, "v_head.summary.bias": torch.tensor([0.25])}


def make(folder: Path, kind: str, family: str = "qwen2", **settings: Any) -> Path:
    """A random reward model of ``kind``."""
    torch.manual_seed(7)
    if kind == "value_head":
        save_tokenizer(folder, bos_token="<bos>")
        AutoModelForCausalLM.from_config(config(family, **settings)).save_pretrained(folder)
        path = folder / "model.safetensors"
        save_file(load_file(path) | head(), path, {"format": "pt"})
    elif kind == "causal":
        save_tokenizer(folder, "ки")
        AutoModelForCausalLM.from_config(config(family, **settings)).save_pretrained(folder)
    else:
        save_tokenizer(folder, bos_token="<bos>")
        AutoModelForTokenClassification.from_config(config(family, **settings)).save_pretrained(folder)
    return folder


def spec(folder: Path, kind: str, **settings: Any) -> RewardModel:
    return RewardModel(kind=kind, path=folder, **({"batch_size": 4} | settings))


def scorer(folder: Path, kind: str, **settings: Any) -> ProcessScorer:
    made = scorer_for(spec(folder, kind, **settings))
    assert made is not None
    return made


def completions(texts: Sequence[str] = TEXTS, question: str = QUESTION) -> list[Completion]:
    problem = Problem("p", question, "1")
    return [Completion(problem, text, 1, 1, "stop", Verdict.WRONG) for text in texts]


def ids_of(folder: Path, text: str) -> list[int]:
    ids: list[int] = AutoTokenizer.from_pretrained(folder).encode(text, add_special_tokens=False)
    return ids


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("a\n\nb", ["a", "b"]),
        ("\n\na \n\n \n\n\n\nb\nc\n", ["a", "b\nc"]),
        ("a", ["a"]),
        ("", [""]),
        ("\n\n \n", [""]),
    ],
)
def test_steps_lie_between_separators(text: str, steps: list[str]) -> None:
    assert steps_of(text, "\n\n") == steps


# --- rewards ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_classifier_reads_label_1_at_the_end_of_each_separator(tmp_path: Path, family: str) -> None:
    folder = make(tmp_path / "prm", "token_classification", family)
    model = AutoModelForTokenClassification.from_pretrained(folder).eval()
    vocabulary = AutoTokenizer.from_pretrained(folder)
    found = scorer(folder, "token_classification").score(completions())
    for completion, scored in zip(completions(), found, strict=True):
        # As TRL lays it out: <bos> question, and each step with the separator after it.
        ids, ends = [vocabulary.bos_token_id, *ids_of(folder, QUESTION)], []
        for step in steps_of(completion.text, "\n\n"):
            ids += ids_of(folder, step + "\n\n")
            ends.append(len(ids) - 1)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, ends]
        assert scored.rewards == pytest.approx(logits.softmax(-1)[:, 1].tolist(), abs=1e-5)
        assert scored.prompt_tokens == 1 + len(QUESTION) and scored.prompt_tokens + scored.tokens == len(ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_value_head_is_read_after_the_last_token_of_each_separator(tmp_path: Path, family: str) -> None:
    folder = make(tmp_path / "prm", "value_head", family)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    begin = AutoTokenizer.from_pretrained(folder).bos_token_id
    judge = scorer(folder, "value_head", separator="\n\n")
    for completion, scored in zip(completions(), judge.score(completions()), strict=True):
        ids, ends = [begin, *ids_of(folder, f"{QUESTION}\n")], []
        for step in steps_of(completion.text, "\n\n"):
            ids += ids_of(folder, step) + ids_of(folder, "\n")
            ends.append(len(ids) - 1)
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0, ends]
        values = (states @ head()["v_head.summary.weight"][0] + 0.25).tolist()
        assert scored.rewards == pytest.approx([1 / (1 + math.exp(-v)) for v in values], abs=1e-5)
        assert scored.prompt_tokens == 2 + len(QUESTION) and scored.prompt_tokens + scored.tokens == len(ids)
        assert scored.logits == len(ends)


def test_a_model_without_a_value_head_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "prm", "causal")
    with pytest.raises(UserError, match=r"prm has no value head \(v_head.summary.weight and v_head"):
        scorer(folder, "value_head").score(completions())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_causal_model_says_plus_or_minus_after_each_tag(tmp_path: Path, family: str) -> None:
    folder = make(tmp_path / "prm", "causal", family)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    plus, minus, tag = (ids_of(folder, text)[0] for text in ("+", "-", "ки"))
    for completion, scored in zip(completions(), scorer(folder, "causal").score(completions()), strict=True):
        text = f"{QUESTION} " + "\n".join(f"{step} ки" for step in steps_of(completion.text, "\n\n"))
        ids = torch.tensor([ids_of(folder, text)])
        with torch.no_grad():
            logits = model(ids).logits[0][ids[0] == tag][:, [plus, minus]]
        assert scored.rewards == pytest.approx(logits.softmax(-1)[:, 0].tolist(), abs=1e-5)
        assert scored.prompt_tokens + scored.tokens == ids.shape[1]
        assert scored.prompt_tokens == len(QUESTION)


def test_a_tag_may_hold_the_space_before_it(tmp_path: Path) -> None:
    """As in Mistral's tokenizer, where the tag and the answers are words with their leading spaces."""
    folder = make(tmp_path / "prm", "causal", "mistral")
    letters = ["▁", "\n", "к", "и", "+", "-", "=", "?", *"0123456789"]
    words = {token: i for i, token in enumerate(["<unk>", "<s>", *letters, "ки", "▁ки", "▁+", "▁-"])}
    merges = [("к", "и"), ("▁", "ки"), ("▁", "+"), ("▁", "-")]
    tokenizer = Tokenizer(models.BPE(words, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    begin = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", words["<s>"])])
    tokenizer.post_processor = begin
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>").save_pretrained(
        folder
    )
    judge: Any = scorer(folder, "causal")
    assert judge.candidates == [words["▁-"], words["▁+"]]
    row = judge._row("1 + 2 ?", ["1 + 2 = 3", "3ки"])
    assert [i for i, token in enumerate(row.ids) if token == words["▁ки"]] == row.marks
    assert len(row.marks) == 2 and row.marks[-1] == len(row.ids) - 1
    assert row.ids[: row.prompt_tokens] == judge.tokenizer.encode("1 + 2 ?")


@pytest.mark.parametrize("kind", ["token_classification", "value_head", "causal"])
def test_rewards_do_not_depend_on_the_batch(tmp_path: Path, kind: str) -> None:
    folder = make(tmp_path / "prm", kind)
    one_by_one = scorer(folder, kind, batch_size=1).score(completions())
    assert [len(scored.rewards) for scored in one_by_one] == STEPS
    assert len({round(reward, 4) for scored in one_by_one for reward in scored.rewards}) > 8  # not constant
    judge = scorer(folder, kind, batch_size=5)
    for texts, back in [(TEXTS, slice(None)), (TEXTS[::-1], slice(None, None, -1))]:
        together = judge.score(completions(texts))[back]
        for alone, other in zip(one_by_one, together, strict=True):
            assert other.rewards == pytest.approx(alone.rewards, abs=1e-5)
            assert (other.prompt_tokens, other.tokens, other.logits) == (
                alone.prompt_tokens, alone.tokens, alone.logits,
            )  # fmt: skip
        judge.close()  # and again from the folder


@pytest.mark.parametrize("kind", ["token_classification", "value_head", "causal"])
def test_steps_that_the_model_has_no_positions_for_have_reward_0(tmp_path: Path, kind: str) -> None:
    text = "first\n\n" + "x" * 40 + "\n\nthird"
    (whole,) = scorer(make(tmp_path / "long", kind), kind).score(completions([text]))
    short = scorer(make(tmp_path / "short", kind, max_position_embeddings=32), kind)
    (cut,) = short.score(completions([text]))
    assert cut.rewards == pytest.approx((whole.rewards[0], 0, 0), abs=1e-5) and min(whole.rewards) > 0
    assert cut.prompt_tokens + cut.tokens <= 32 < whole.prompt_tokens + whole.tokens
    assert short.score(completions([text], "a long question " * 9)) == [Scored((0.0, 0.0, 0.0))]


@pytest.mark.parametrize("kind", ["token_classification", "value_head", "causal"])
def test_a_step_that_spells_the_mark_is_one_step(tmp_path: Path, kind: str) -> None:
    judge = scorer(make(tmp_path / "prm", kind), kind, separator=";")
    (scored,) = judge.score(completions(["5 ки ки = 5; 6 = 6\n\n7"], "ки ?"))
    assert len(scored.rewards) == 2


def test_bfloat16_rewards_are_near(tmp_path: Path) -> None:
    folder = make(tmp_path / "prm", "token_classification", initializer_range=0.05)
    exact, rough = (
        scorer(folder, "token_classification", dtype=dtype).score(completions())
        for dtype in ("float32", "bfloat16")
    )
    for one, other in zip(exact, rough, strict=True):
        assert other.rewards == pytest.approx(one.rewards, abs=0.02) and other.tokens == one.tokens


@pytest.mark.parametrize("kind", ["token_classification", "value_head", "causal"])
def test_rewards_that_are_no_numbers_are_an_error(tmp_path: Path, kind: str) -> None:
    judge: Any = scorer(make(tmp_path / "prm", kind), kind)
    judge.model.base_model.norm.weight.data.fill_(math.nan)
    with pytest.raises(UserError, match="reward model prm gives rewards that are no numbers"):
        judge.score(completions())


# --- cost -------------------------------------------------------------------------------------------


def test_flops_of_a_token_classifier_by_hand(tmp_path: Path) -> None:
    judge = scorer(make(tmp_path / "prm", "token_classification"), "token_classification")
    (scored,) = judge.score(completions(["5 * 4 = 20\n\nso 20"]))
    assert judge.shape is not None
    tally = sequence_tally([(scored.prompt_tokens, scored.tokens)], scored.logits)
    tokens = 1 + 10 + (10 + 2) + (5 + 2)  # <bos> question, then each step with its separator
    assert tally.tokens == scored.logits == tokens == 30
    # q and o of 2 heads, k and v of one, of size 32; three matrices of the MLP
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96
    body, head, attention = 2 * 2 * layer * tokens, 2 * 64 * 2 * tokens, 4 * 2 * 64 * (30 * 31 // 2)
    assert flops(judge.shape, tally, FORWARD_PASSES) == body + head + attention


def test_flops_of_a_causal_model_by_hand(tmp_path: Path) -> None:
    judge = scorer(make(tmp_path / "prm", "causal", "mistral"), "causal")
    (scored,) = judge.score(completions(["5 * 4 = 20\n\nso 20"]))
    assert judge.shape is not None
    assert judge.shape.window == 4096  # Mistral's, beyond what is scored here
    tally = sequence_tally([(scored.prompt_tokens, scored.tokens)], scored.logits, judge.shape.window)
    tokens = 10 + (1 + 10 + 1 + 1) + (1 + 5 + 1 + 1)  # a space or new line, the step, a space, the tag
    assert tally.tokens == tokens == 31 and scored.logits == 2
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96
    body, head, attention = 2 * 2 * layer * tokens, 2 * 64 * 264 * 2, 4 * 2 * 64 * (31 * 32 // 2)
    assert flops(judge.shape, tally, FORWARD_PASSES) == body + head + attention


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_all_parameters_are_counted(tmp_path: Path, family: str, tied: bool) -> None:
    folder = make(tmp_path / "prm", "token_classification", family, tie_word_embeddings=tied)
    shape = scorer(folder, "token_classification").shape
    model = AutoModelForTokenClassification.from_pretrained(folder)
    assert shape is not None and shape.parameters == sum(p.numel() for p in model.parameters())

    folder = make(tmp_path / "value", "value_head", family, tie_word_embeddings=tied)
    shape = scorer(folder, "value_head").shape
    body = AutoModel.from_pretrained(folder)
    assert shape is not None and shape.parameters == sum(p.numel() for p in body.parameters()) + 65


# --- what a user can get wrong ----------------------------------------------------------------------


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere holds no reward model .* process_rewards\.path"):
        scorer(tmp_path / "nowhere", "causal")


def test_a_model_without_a_head_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "lm", "causal")
    with pytest.raises(UserError, match=r"no weights score\..* kind token_classification"):
        scorer(folder, "token_classification").score(completions())


def test_other_labels_than_two_are_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "prm", "token_classification", num_labels=3)
    with pytest.raises(UserError, match="3 labels"):
        scorer(folder, "token_classification")


def test_a_separator_without_tokens_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "prm", "token_classification")
    words = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)
    with pytest.raises(UserError, match=r"no tokens in the separator '\\n\\n'"):
        scorer(folder, "token_classification").score(completions())


def test_a_tokenizer_without_the_tag_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "prm", "causal")
    save_tokenizer(folder)  # the tag is four bytes
    with pytest.raises(UserError, match="no single token for 'ки'"):
        scorer(folder, "causal").score(completions())
    save_tokenizer(folder, "ки", "ки\n")
    with pytest.raises(UserError, match="merges the tag 'ки'"):
        scorer(folder, "causal").score(completions())


def test_a_pooling_model_is_known_by_its_architecture(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Qwen2ForProcessRewardModel"):
        scorer(make(tmp_path / "lm", "causal"), "pooling")


# --- pooling ----------------------------------------------------------------------------------------


def make_pooling(folder: Path) -> tuple[Path, Any, torch.nn.Module]:
    """Qwen2.5-Math-PRM's architecture: the folder, the decoder and its head."""
    torch.manual_seed(7)
    folder.mkdir()
    save_tokenizer(folder, "<extra_0>")
    settings = config("qwen2", architectures=["Qwen2ForProcessRewardModel"], use_cache=False)
    body = Qwen2Model(settings).eval()
    head = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
    for weight in head.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    settings.save_pretrained(folder)
    weights = {f"model.{name}": value for name, value in body.state_dict().items()}
    weights |= {f"score.{name}": value for name, value in head.state_dict().items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder, body, head


def conversation(text: str) -> str:
    system = "Please reason step by step, and put your final answer within \\boxed{}."
    marked = "".join(f"{step}<extra_0>" for step in steps_of(text, "\n\n"))
    return f"<system>{system}\n<user>{QUESTION}\n<assistant>{marked}"


def test_a_pooling_model_gets_the_chat_and_all_its_weights_count(tmp_path: Path) -> None:
    folder, body, head = make_pooling(tmp_path / "prm")
    judge: Any = scorer(folder, "pooling")
    row = judge._row(QUESTION, ["one", "two"])
    assert row.ids == ids_of(folder, conversation("one\n\ntwo"))
    assert [row.ids[mark] for mark in row.marks] == ids_of(folder, "<extra_0>") * 2
    assert judge.shape.head == 64 * 64 + 64 * 2
    parameters = sum(p.numel() for module in (body, head) for p in module.parameters())
    assert judge.shape.parameters == parameters


def fake_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    program = tmp_path / "fake.py"
    program.write_text(f"import json, sys\noptions = json.loads(sys.argv[1])\n{body}")
    monkeypatch.setattr(pooling, "WORKER", program)


def test_the_worker_is_asked_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, *_ = make_pooling(tmp_path / "prm")
    reply = (
        "print(json.dumps([[m / len(ids) for m in marks] for ids, marks in json.loads(line)]), flush=True)"
    )
    fake_worker(tmp_path, monkeypatch, f"for line in sys.stdin:\n    {reply}")
    judge = PoolingScorer(spec(folder, "pooling"))
    for _ in range(2):
        (scored,) = judge.score(completions(["one\n\ntwo"]))
        ids = ids_of(folder, conversation("one\n\ntwo"))
        first, last = (i / len(ids) for i, token in enumerate(ids) if token == ids[-1])
        assert scored.rewards == pytest.approx([1 / (1 + math.exp(-z)) for z in (first, last)])
        assert scored.prompt_tokens + scored.tokens == scored.logits == len(ids)
    judge.close()
    judge.close()
    assert judge.score([]) == []


def test_a_worker_that_dies_is_an_error_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, *_ = make_pooling(tmp_path / "prm")
    fake_worker(tmp_path, monkeypatch, "sys.exit('no room for ' + options['dtype'])")
    judge = PoolingScorer(spec(folder, "pooling"))
    with pytest.raises(UserError, match=r"reward model prm, ended with status 1 \(no room for float32\)"):
        judge.score(completions())
    fake_worker(tmp_path, monkeypatch, "for line in sys.stdin: print(json.dumps([[0.0]]), flush=True)")
    assert judge.score(completions(["one"]))[0].rewards == (0.5,)  # the next call starts a new one
    judge.close()


def test_a_worker_that_dies_at_work_is_started_anew_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, *_ = make_pooling(tmp_path / "prm")
    started = tmp_path / "started"
    once = f"""
from pathlib import Path
Path({str(started)!r}).open("a").write(str(options["tensor_parallel_size"]))
for i, line in enumerate(sys.stdin):
    if i: sys.exit("lost a GPU")
    print(json.dumps([[0.0]]), flush=True)
"""
    fake_worker(tmp_path, monkeypatch, once)
    judge = PoolingScorer(spec(folder, "pooling", tensor_parallel=2))
    for starts in ("2", "22", "222"):  # each answers once
        assert judge.score(completions(["one"]))[0].rewards == (0.5,)
        assert started.read_text() == starts
    fake_worker(tmp_path, monkeypatch, "sys.exit('gone for good')")
    with pytest.raises(UserError, match="gone for good"):
        judge.score(completions(["one"]))


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_gives_the_rewards_of_a_plain_forward_pass(tmp_path: Path) -> None:
    folder, body, head = make_pooling(tmp_path / "prm")
    texts = [*TEXTS, "a step that spells <extra_0> itself\n\n" + "and a long one " * 20]
    judge = scorer(folder, "pooling")
    scored = judge.score(completions(texts))
    again = judge.score(completions(texts[::-1]))[::-1]
    judge.close()
    for text, one, other in zip(texts, scored, again, strict=True):
        ids = torch.tensor([ids_of(folder, conversation(text))])
        marks = [i for i, token in enumerate(ids[0].tolist()) if token == ids[0, -1]]
        if "spells" in text:
            marks = marks[1:]  # the first is the step's own words
        with torch.no_grad():
            rewards = head(body(ids).last_hidden_state[0, marks]).softmax(-1)[:, 1]
        assert one.rewards == pytest.approx(rewards.tolist(), abs=1e-4)
        assert other.rewards == pytest.approx(one.rewards, abs=1e-4)
        assert one.prompt_tokens + one.tokens == one.logits == ids.shape[1]


def test_the_kinds_of_a_study_have_their_scorers(tmp_path: Path) -> None:
    assert scorer_for(None) is None
    ladder = scorer_for("ladder")
    assert ladder is not None and (ladder.name, ladder.shape) == ("ladder rules", None)
    folder = make(tmp_path / "my-prm", "causal")
    assert scorer(folder, "causal").name == "my-prm"
