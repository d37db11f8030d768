"""The TRL trainer against arithmetic done by hand, on tiny random models."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.functional import logsigmoid
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils import is_flash_attn_2_available
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
from trl.trainer.utils import add_fused_lm_head

from repro.config import LoRA, Training
from repro.errors import RunFailed, UserError
from repro.files import building
from repro.objectives import DPO, SFT, Optimizer, PolicyGradient
from repro.training import Row, Trained, encode, learning_rate_factor, trainer_for
from repro.training.checkpoints import MOMENTS, base_of
from repro.training.plan import Plan, columns
from repro.training.trl import PlannedTrainer, TRLTrainer, collate

VOCABULARY = 24
END = 2


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    words = ["<pad>", "<bos>", "<eos>"] + [f"w{i}" for i in range(VOCABULARY - 3)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>").save_pretrained(
        folder
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=1,
            initializer_range=0.2,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=END,
        )
    )
    model.generation_config.eos_token_id = [END, 5]  # several end-of-text tokens must survive training
    model.save_pretrained(folder)
    return folder


def tokens(generator: torch.Generator, low: int, high: int) -> tuple[int, ...]:
    length = int(torch.randint(low, high, (), generator=generator))
    return tuple(torch.randint(3, VOCABULARY, (length,), generator=generator).tolist())


def sft_batches(steps: int = 10, size: int = 6) -> list[list[Row]]:
    g = torch.Generator().manual_seed(1)
    return [[Row(tokens(g, 2, 8), ((*tokens(g, 1, 9), END),)) for _ in range(size)] for _ in range(steps)]


def dpo_batches(steps: int = 4, size: int = 6) -> list[list[Row]]:
    g = torch.Generator().manual_seed(2)
    return [
        [Row(tokens(g, 2, 8), ((*tokens(g, 1, 9), END), (*tokens(g, 1, 9), END))) for _ in range(size)]
        for _ in range(steps)
    ]


def weighted_batches(steps: int = 4, size: int = 6) -> list[list[Row]]:
    """Examples with weights of both signs, and one row that comes twice."""
    g = torch.Generator().manual_seed(3)
    found = [
        [replace(row, weight=torch.randn((), generator=g).item()) for row in batch]
        for batch in sft_batches(steps, size)
    ]
    found[-1][0] = found[0][0]
    return found


def log_probability(model: Any, prompt: Sequence[int], response: Sequence[int]) -> torch.Tensor:
    """Log-probability of each token of ``response``, one row at a time and without padding."""
    logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def distances(a: Path, b: Path) -> tuple[float, float]:
    """The largest and the mean difference of two folders' weights."""
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    apart = torch.cat([(left[name] - right[name]).abs().flatten() for name in left])
    return apart.max().item(), apart.mean().item()


def distance(a: Path, b: Path) -> float:
    return distances(a, b)[0]


def bare_loop(
    base: Path, batches: Sequence[Sequence[Any]], loss_of: Any, optimizer: Optimizer
) -> tuple[list[float], Any]:
    """A loop in bare torch over ``loss_of(model, reference, batch)``: each step's loss, and the model."""
    model = AutoModelForCausalLM.from_pretrained(base)
    reference = AutoModelForCausalLM.from_pretrained(base).requires_grad_(False)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": optimizer.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, optimizer.learning_rate, betas=(optimizer.beta1, optimizer.beta2))
    losses = []
    for step, batch in enumerate(batches):
        for group in adam.param_groups:
            factor = learning_rate_factor(step, optimizer, len(batches))
            group["lr"] = optimizer.learning_rate * factor
        loss = loss_of(model, reference, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optimizer.max_grad_norm)
        adam.step()
        adam.zero_grad()
        losses.append(loss.item())
    return losses, model


def difference(folder: Path, model: Any) -> float:
    """The largest difference between the weights in ``folder`` and those of ``model``."""
    trained = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    expected = model.state_dict()
    return max((trained[name] - expected[name]).abs().max().item() for name in expected)


COSINE = Optimizer(
    learning_rate=3e-3, warmup_steps=2, schedule="cosine", weight_decay=0.1, beta2=0.98, max_grad_norm=0.5
)


def test_sft_equals_a_bare_loop(base: Path, tmp_path: Path) -> None:
    batches = sft_batches()
    seen: list[tuple[int, float]] = []
    mean = (
        TRLTrainer()
        .train(base, batches, SFT(), COSINE, tmp_path, on_step=lambda step, loss: seen.append((step, loss)))
        .loss
    )
    losses, model = bare_loop(base, batches, sft_loss, COSINE)
    assert difference(tmp_path, model) < 1e-5
    assert [step for step, _ in seen] == list(range(1, 11))
    assert [loss for _, loss in seen] == pytest.approx(losses, abs=1e-5)
    assert mean == pytest.approx(sum(losses) / 10, abs=1e-5)


def sft_loss(model: Any, reference: Any, batch: list[Row]) -> torch.Tensor:
    return -torch.cat([log_probability(model, row.prompt, *row.responses) for row in batch]).mean()


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("qwen3", {}),
        ("qwen3_moe", {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}),
        ("gemma3_text", {"sliding_window": 4}),
    ],
)
def test_other_architectures_are_trained_by_the_objective_alone(
    base: Path, tmp_path: Path, family: str, more: dict[str, Any]
) -> None:
    """TRL would balance experts by a loss of its own, and leave models that compute it when they sample."""
    start = shutil.copytree(base, tmp_path / "start")
    config = CONFIG_MAPPING[family](
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2, pad_token_id=0,
        bos_token_id=None, eos_token_id=END, **more,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(start)
    trained = TRLTrainer().train(start, sft_batches(4), SFT(), COSINE, tmp_path / "trained")
    losses, model = bare_loop(start, sft_batches(4), sft_loss, COSINE)
    assert difference(tmp_path / "trained", model) < 1e-5
    assert trained.loss == pytest.approx(sum(losses) / 4, abs=1e-5)
    assert not json.loads((tmp_path / "trained/config.json").read_text()).get("output_router_logits")


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("nll", "how"), [(0.0, "token"), (0.5, "token"), (0.5, "sequence")])
def test_dpo_equals_a_bare_loop(base: Path, tmp_path: Path, smoothing: float, nll: float, how: Any) -> None:
    batches = dpo_batches()
    objective = DPO(beta=0.3, label_smoothing=smoothing, nll_weight=nll, nll_normalization=how)
    mean = TRLTrainer(micro_batch=4).train(base, batches, objective, COSINE, tmp_path).loss

    def loss_of(model: Any, reference: Any, batch: list[Row]) -> torch.Tensor:
        margins, chosen = [], []
        for row in batch:
            sides = row.responses
            good, bad = (log_probability(model, row.prompt, side) for side in sides)
            good0, bad0 = (log_probability(reference, row.prompt, side) for side in sides)
            margins.append(0.3 * (good.sum() - good0.sum() - bad.sum() + bad0.sum()))
            chosen.append(good)
        x = torch.stack(margins)
        preference = (-(1 - smoothing) * logsigmoid(x) - smoothing * logsigmoid(-x)).mean()
        if how == "token":
            return preference - nll * torch.cat(chosen).mean()
        return preference - nll * torch.stack([each.mean() for each in chosen]).mean()

    losses, model = bare_loop(base, batches, loss_of, COSINE)
    assert mean == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert difference(tmp_path, model) < 2e-5


def test_examples_of_weight_1_are_sfts(base: Path, tmp_path: Path) -> None:
    """In gradient; the loss that is reported is a surrogate, minus the mean of weight times ratio."""
    batch = sft_batches(1)[0]
    for name, objective in (("sft", SFT()), ("ours", PolicyGradient(normalization="token"))):
        TRLTrainer().train(base, [batch], objective, PLAIN, tmp_path / name)
    ours, sft = gradient(tmp_path / "ours"), gradient(tmp_path / "sft")
    for name in sft:
        torch.testing.assert_close(ours[name], sft[name], atol=1e-6, rtol=0)


CLIP = {"clip_low": 0.02, "clip_high": 0.1}


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (PolicyGradient(**CLIP), lambda r, k: -((2 * r[0] + 2 * r[1]) / 2 - r[2]) / 2),
        (PolicyGradient(normalization="token", **CLIP), lambda r, k: -(2 * r[0] + 2 * r[1] - r[2]) / 3),
        (
            PolicyGradient(normalization="constant", max_tokens=4, **CLIP),
            lambda r, k: -(2 * r[0] + 2 * r[1] - r[2]) / 8,
        ),
        (
            PolicyGradient(kl=0.5, **CLIP),
            lambda r, k: (0.5 * k[0] - 2 * r[0] + 0.5 * k[1] - 2 * r[1]) / 4 + (0.5 * k[2] + r[2]) / 2,
        ),
    ],
    ids=["sequence", "token", "constant", "kl"],
)
def test_a_batch_worked_by_hand(base: Path, tmp_path: Path, objective: Any, expected: Any) -> None:
    """Two responses, of two tokens and weight 2, and of one token and weight -1. After a first step its ratio
    r counts as 1.1 where it is above and the weight positive, as 0.98 where it is below and the weight
    negative; k is exp(d) - d - 1."""
    batch = [Row((4, 5), ((6, END),), 2.0), Row((7,), ((8,),), -1.0)]
    far = Optimizer(learning_rate=1e-3)
    TRLTrainer().train(base, [batch], objective, far, tmp_path / "moved", base=base)
    was, now = (
        torch.cat([log_probability(model, row.prompt, *row.responses) for row in batch]).tolist()
        for model in map(AutoModelForCausalLM.from_pretrained, (base, tmp_path / "moved"))
    )
    r1, r2, r3 = (math.exp(b - a) for a, b in zip(was, now, strict=True))
    clipped = (min(r1, 1.1), min(r2, 1.1), max(r3, 0.98))
    divergence = [math.exp(a - b) - (a - b) - 1 for a, b in zip(was, now, strict=True)]
    losses: list[float] = []
    trained = TRLTrainer().train(
        base, [batch, batch], objective, far, tmp_path / "out", base=base,
        on_step=lambda step, loss: losses.append(loss),
    )  # fmt: skip
    assert losses[1] == pytest.approx(expected(clipped, divergence), abs=1e-5)
    share = ((r1 > 1.1) + (r2 > 1.1) + (r3 < 0.98)) / 3
    assert max(r1, r2) > 1.1 and r3 < 0.98
    assert trained.monitors["clipped"] == pytest.approx(share)
    if objective.kl:
        assert trained.monitors["kl"] == pytest.approx(sum(divergence) / 3, abs=1e-5)
    ((first, (one,)), (second, (two,))) = trained.start
    assert [first, second] == batch
    assert [one, two] == pytest.approx([was[0] + was[1], was[2]], abs=1e-5)


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Models in double precision, but for what their own code rounds to float32."""
    read = AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        AutoModelForCausalLM,
        "from_pretrained",
        lambda folder, **settings: read(folder, **settings | {"dtype": torch.float64}),
    )
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


PLAIN = Optimizer(learning_rate=1e-9, beta1=0, max_grad_norm=0)  # whose first moment is the gradient


def gradient(folder: Path) -> dict[str, torch.Tensor]:
    """Of a call's last step with :data:`PLAIN`."""
    start = "exp_avg."
    return {n.removeprefix(start): v for n, v in load_file(folder / MOMENTS).items() if n.startswith(start)}


@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        (PolicyGradient(), {"loss_type": "grpo"}),
        (PolicyGradient(normalization="token"), {"loss_type": "bnpo"}),
        (PolicyGradient(normalization="token"), {"loss_type": "dapo"}),
        (PolicyGradient(normalization="constant", max_tokens=9), {"loss_type": "dr_grpo"}),
        (PolicyGradient(kl=0.3), {"loss_type": "grpo", "beta": 0.3}),
        (PolicyGradient(clip_low=0.1, clip_high=0.2), {"loss_type": "grpo"}),
    ],
    ids=lambda value: repr(value) if isinstance(value, PolicyGradient) else value["loss_type"],
)
def test_a_policy_gradient_equals_trls(
    base: Path, tmp_path: Path, float64: Any, objective: PolicyGradient, settings: Any
) -> None:
    """The gradient of one step, and, where it clips, that of the second: the first has gone astray."""
    batch = weighted_batches(1)[0]
    rewards = torch.tensor([row.weight for row in batch])
    advantages = (rewards - rewards.mean()) / rewards.std()
    batch = [replace(row, weight=weight.item()) for row, weight in zip(batch, advantages, strict=True)]
    far = Optimizer(learning_rate=3e-3, beta1=0, max_grad_norm=0)
    TRLTrainer().train(base, [batch], PolicyGradient(), far, tmp_path / "start")
    start, steps = (base, 2) if objective.clips else (tmp_path / "start", 1)
    trained = TRLTrainer().train(start, [batch] * steps, objective, far, tmp_path / "ours", base=base)
    found = gradient(tmp_path / "ours")

    if objective.clips:  # what the first step has made of it
        TRLTrainer().train(base, [batch], objective, far, tmp_path / "moved", base=base)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tmp_path / "moved" if objective.clips else start),
        reward_funcs=lambda completions, **kwargs: [0.0] * len(completions),
        args=GRPOConfig(
            str(tmp_path), per_device_train_batch_size=6, num_generations=6, max_completion_length=9,
            epsilon=0.1, epsilon_high=0.2, use_bias_correction_kl=False, num_iterations=1, use_cpu=True,
            bf16=False, report_to="none", gradient_checkpointing=False, **settings,
        ),
        train_dataset=Dataset.from_list([{"prompt": "w1"}]),
        processing_class=tokenizer,
    )  # fmt: skip
    inputs = collate([columns(row, objective) for row in batch], 0)
    inputs["num_items_in_batch"] = inputs["completion_mask"].sum()

    def under(folder: Path) -> torch.Tensor:
        model = AutoModelForCausalLM.from_pretrained(folder)
        add_fused_lm_head(model, outputs=("log_probs", "entropy"))
        ids, mask = (
            torch.cat([inputs[f"{part}_{what}"] for part in ("prompt", "completion")], dim=1)
            for what in ("ids", "mask")
        )
        width = inputs["completion_ids"].size(1)
        with torch.no_grad():
            return trainer._get_per_token_logps_and_entropies(model, ids, mask, width)[0].double()

    if objective.clips:
        inputs["old_per_token_logps"] = under(base)
    if objective.kl:
        inputs["ref_per_token_logps"] = under(base)
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.compute_loss(trainer.model.train(), inputs)
    loss.backward()
    for name, weight in trainer.model.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, atol=1e-12, rtol=0)
    if objective.clips:
        assert 0 < trained.monitors["clipped"] < 1
    else:
        assert trained.loss == pytest.approx(loss.item(), abs=1e-12)


def test_what_a_call_reports_of_pairs(base: Path, tmp_path: Path) -> None:
    """Of the last step, under the weights that it starts from; and what the first rows start from."""
    batches = dpo_batches(2, 9)
    trained = TRLTrainer(micro_batch=4).train(
        base, batches, DPO(beta=0.3), Optimizer(learning_rate=1e-3), tmp_path / "two"
    )
    TRLTrainer().train(base, batches[:1], DPO(beta=0.3), Optimizer(learning_rate=1e-3), tmp_path / "one")

    def sums(folder: Path, batch: Sequence[Row]) -> torch.Tensor:
        model = AutoModelForCausalLM.from_pretrained(folder)
        sides = [[log_probability(model, row.prompt, r).sum().item() for r in row.responses] for row in batch]
        return torch.tensor(sides)

    before, after = sums(base, batches[1]), sums(tmp_path / "one", batches[1])
    margins = 0.3 * (after - before) @ torch.tensor([1.0, -1.0])
    assert trained.monitors == pytest.approx(
        {
            "chosen_log_probability": after[:, 0].mean().item(),
            "rejected_log_probability": after[:, 1].mean().item(),
            "chosen_drift": (after - before)[:, 0].mean().item(),
            "rejected_drift": (after - before)[:, 1].mean().item(),
            "reward_margin": margins.mean().item(),
            "reward_accuracy": (margins > 0).float().mean().item(),
        },
        abs=1e-4,
    )
    rows, found = zip(*trained.start, strict=True)
    assert len(rows) == 8 and set(rows) <= set(batches[0])
    assert torch.tensor(found) == pytest.approx(sums(base, rows), abs=1e-4)
    supervised = TRLTrainer().train(base, sft_batches(1), SFT(), COSINE, tmp_path / "sft")
    assert supervised.monitors == {} and len(supervised.start) == 6
    model = AutoModelForCausalLM.from_pretrained(base)
    for row, (value,) in supervised.start:
        expected = log_probability(model, row.prompt, *row.responses).sum().item()
        assert value == pytest.approx(expected, abs=1e-4)


def test_dpo_starts_at_ln_2_and_widens_the_margin(base: Path, tmp_path: Path) -> None:
    batch = dpo_batches(1)[0]
    losses: list[float] = []
    TRLTrainer().train(
        base,
        [batch] * 3,
        DPO(),
        Optimizer(learning_rate=1e-3),
        tmp_path,
        on_step=lambda step, loss: losses.append(loss),
    )
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[2] < losses[1] < losses[0]

    def margin(folder: Path) -> float:
        model = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            return sum(
                float(log_probability(model, row.prompt, row.responses[0]).sum())
                - float(log_probability(model, row.prompt, row.responses[1]).sum())
                for row in batch
            )

    assert margin(tmp_path) > margin(base)


def policy_loss(objective: PolicyGradient) -> Any:
    """As the formula has it; ``base`` is the model of the divergence, by default where the call starts."""

    def loss_of(model: Any, reference: Any, batch: list[Row], base: Any = None) -> torch.Tensor:
        terms = []
        for row in batch:
            now = log_probability(model, row.prompt, *row.responses)
            ratio = (now - now.detach()).exp()
            gain = ratio * row.weight
            if objective.clip_low is not None and objective.clip_high is not None:
                ratio = (now - log_probability(reference, row.prompt, *row.responses)).exp()
                kept = ratio.clamp(1 - objective.clip_low, 1 + objective.clip_high)
                gain = torch.minimum(ratio * row.weight, kept * row.weight)
            if objective.kl:
                apart = log_probability(base or reference, row.prompt, *row.responses) - now
                gain = gain - objective.kl * (apart.exp() - apart - 1)
            terms.append(gain)
        match objective.normalization:
            case "sequence":
                return -torch.stack([gain.mean() for gain in terms]).mean()
            case "token":
                return -torch.cat(terms).mean()
            case "constant":
                return -torch.cat(terms).sum() / (len(batch) * (objective.max_tokens or 0))

    return loss_of


@pytest.mark.parametrize(
    "objective",
    [
        PolicyGradient(),
        PolicyGradient(normalization="token"),
        PolicyGradient(normalization="constant", max_tokens=20),
        PolicyGradient(clip_low=0.01, clip_high=0.02),
        PolicyGradient(normalization="token", clip_low=0.02, clip_high=0.01, kl=0.5),
        PolicyGradient(kl=2.0),
    ],
    ids=repr,
)
def test_a_policy_gradient_equals_a_bare_loop(base: Path, tmp_path: Path, objective: Any) -> None:
    batches = weighted_batches()
    trained = TRLTrainer(micro_batch=4).train(base, batches, objective, COSINE, tmp_path, base=base)
    losses, model = bare_loop(base, batches, policy_loss(objective), COSINE)
    assert trained.loss == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert difference(tmp_path, model) < 2e-5


@pytest.mark.parametrize("objective", [SFT(), DPO(), PolicyGradient()])
def test_snapshots_are_the_weights_of_shorter_runs(base: Path, tmp_path: Path, objective: Any) -> None:
    batches = some_rows(objective, 6)
    train = TRLTrainer().train
    train(
        base,
        batches,
        objective,
        COSINE,
        tmp_path / "whole",
        snapshots={2: tmp_path / "two", 6: tmp_path / "six"},
    )
    train(base, batches[:2], objective, COSINE, tmp_path / "short", horizon=6)
    train(base, batches, objective, COSINE, tmp_path / "again", seed=0)
    assert distance(tmp_path / "two", tmp_path / "short") < 1e-6  # DPO: reference batched otherwise
    assert distance(tmp_path / "two", tmp_path / "whole") > 1e-4
    assert distance(tmp_path / "six", tmp_path / "whole") == 0
    for file in ("model.safetensors", MOMENTS):  # bit for bit
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    for name in ("two", "whole"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert model.generation_config.eos_token_id == [END, 5]
        assert PreTrainedTokenizerFast.from_pretrained(tmp_path / name)("w1 w2")["input_ids"] == [4, 5]


def test_an_inherited_call_goes_on_where_the_last_one_stopped(base: Path, tmp_path: Path) -> None:
    batches = sft_batches()
    train = TRLTrainer().train
    train(base, batches, SFT(), COSINE, tmp_path / "whole")
    train(base, batches[:5], SFT(), COSINE, tmp_path / "a", horizon=10)
    train(tmp_path / "a", batches[5:], SFT(), COSINE, tmp_path / "b", inherit=tmp_path / "a", horizon=10)
    train(tmp_path / "a", batches[5:], SFT(), COSINE, tmp_path / "fresh")
    assert distance(tmp_path / "b", tmp_path / "whole") == 0
    assert distance(tmp_path / "fresh", tmp_path / "whole") > 1e-4


OBJECTIVES = [
    SFT(),
    DPO(label_smoothing=0.1, nll_weight=1.0, nll_normalization="sequence"),
    PolicyGradient(clip_low=0.01, clip_high=0.02),
]
KINDS = ["sft", "dpo", "policy"]


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, float]]:
    """By objective: four steps of seven rows in one pass each, and their mean loss."""
    found = {}
    for objective in OBJECTIVES:
        folder = tmp_path_factory.mktemp("whole")
        loss = TRLTrainer().train(base, seven_rows(objective), objective, COSINE, folder).loss
        found[repr(objective)] = folder, loss
    return found


def some_rows(objective: Any, steps: int, size: int = 6) -> Any:
    make = {SFT: sft_batches, DPO: dpo_batches, PolicyGradient: weighted_batches}
    return make[type(objective)](steps, size)


def seven_rows(objective: Any) -> Any:
    return some_rows(objective, 4, 7)


@pytest.mark.parametrize(
    "how",
    [
        {"micro_batch": 1},
        {"micro_batch": 2},
        {"micro_batch": 4},
        {"micro_batch": 7},
        {"gradient_checkpointing": True},
        {"padding_free": True},
        {"padding_free": True, "micro_batch": 3, "gradient_checkpointing": True},
    ],
    ids=lambda how: " ".join(f"{key}={value}" for key, value in how.items()),
)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=KINDS)
def test_how_a_step_is_computed_does_not_change_the_result(
    base: Path, tmp_path: Path, whole: Any, objective: Any, how: Any
) -> None:
    folder, expected = whole[repr(objective)]
    loss = TRLTrainer(**how).train(base, seven_rows(objective), objective, COSINE, tmp_path).loss
    largest, mean = distances(folder, tmp_path)
    assert loss == pytest.approx(expected, abs=1e-5)
    assert largest < 2e-5 and mean < 1e-6
    assert distances(folder, base)[1] > 1e-4  # what was learnt is a hundred times that


@pytest.mark.parametrize("objective", OBJECTIVES, ids=KINDS)
def test_bfloat16_is_of_the_passes_only(base: Path, tmp_path: Path, whole: Any, objective: Any) -> None:
    _, expected = whole[repr(objective)]
    loss = TRLTrainer(dtype="bfloat16").train(base, seven_rows(objective), objective, COSINE, tmp_path).loss
    assert loss == pytest.approx(expected, rel=0.02) and loss != expected
    for tensors in (weights(tmp_path), load_file(tmp_path / MOMENTS)):
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert any((w != w.bfloat16()).any() for w in weights(tmp_path).values())


def test_padding_free_rows_do_not_see_each_other(base: Path) -> None:
    """The log-probabilities of a row, and the gradient of its loss, whatever else is in the pass."""
    model = AutoModelForCausalLM.from_pretrained(base)
    first, second, third = sft_batches(1, 3)[0]
    collate = DataCollatorForLanguageModeling(0, padding_free=True)

    def of_the_first(*rows: Row) -> tuple[torch.Tensor, torch.Tensor]:
        batch = collate([columns(row, SFT()) for row in rows])
        ids, length = batch["input_ids"], first.tokens
        logits = model(ids, position_ids=batch["position_ids"], use_cache=False).logits
        found = logits[0, : length - 1].log_softmax(-1).gather(1, ids[0, 1:length, None])[:, 0]
        (gradient,) = torch.autograd.grad(found.sum(), model.model.embed_tokens.weight)
        return found, gradient

    alone = log_probability(model, first.prompt[:1], (*first.prompt[1:], *first.responses[0]))
    for others in ([second], [third], [second, third]):
        found, gradient = of_the_first(first, *others)
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(gradient, of_the_first(first)[1], atol=1e-4, rtol=1e-4)
    # And those in front of it are not seen either.
    batch = collate([columns(row, SFT()) for row in (second, first)])
    logits = model(batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    start = second.tokens
    behind = logits[0, start:-1].log_softmax(-1).gather(1, batch["input_ids"][0, start + 1 :, None])[:, 0]
    torch.testing.assert_close(behind, alone, atol=1e-5, rtol=0)


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=4),
    st.none() | st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_a_step_is_dealt_out_whole_whatever_the_processes(
    sizes: list[int], micro_batch: int | None, processes: int, resumed: int
) -> None:
    numbers = iter(range(99))
    batches = [[Row((1,), ((2,) * (i % 3 + 1), (i,))) for i in islice(numbers, size)] for size in sizes]
    plan = Plan.of(batches, micro_batch, processes, 0, COSINE, 0, 0, 9, DPO())
    plan.resumed = min(resumed, len(batches) - 1)
    chunks = [plan.chunks(process) for process in range(processes)]
    shares = [plan.shares(process) for process in range(processes)]
    passes = len(chunks[0])
    assert {len(own) for own in chunks} == {passes} and passes == plan.accumulation * len(
        batches[plan.resumed :]
    )
    for together in zip(*chunks, strict=True):
        (width,) = {len(chunk) for chunk in together}  # which processes must have in common
        assert 1 <= width <= (micro_batch or max(sizes))
    for k, batch in enumerate(batches[plan.resumed :]):
        part = slice(k * plan.accumulation, (k + 1) * plan.accumulation)
        dealt = [i for own in chunks for chunk in own[part] for i in chunk if i < len(plan.rows)]
        assert sorted(plan.rows[i]["rejected_ids"] for i in dealt) == [
            list(row.responses[1]) for row in batch
        ]
        rows, filler, tokens = zip(*(share for own in shares for share in own[part]), strict=True)
        scale = plan.accumulation * processes
        assert sum(rows) - sum(filler) == pytest.approx(scale) == pytest.approx(sum(tokens))
        if processes == 1 and len(batch) >= plan.accumulation:
            assert not any(filler)


@pytest.mark.gpu
def test_padding_free_with_flash_attention(base: Path, tmp_path: Path) -> None:
    if not is_flash_attn_2_available():
        pytest.skip("flash-attn is not installed")
    how = {"dtype": "bfloat16"}
    padded = TRLTrainer(**how).train(base, seven_rows(SFT()), SFT(), COSINE, tmp_path / "padded").loss  # type: ignore[arg-type]
    free = (
        TRLTrainer(padding_free=True, **how)
        .train(base, seven_rows(SFT()), SFT(), COSINE, tmp_path / "free")
        .loss
    )  # type: ignore[arg-type]
    assert free == pytest.approx(padded, rel=0.02)
    assert distances(tmp_path / "padded", tmp_path / "free")[1] < 1e-3


# --- LoRA -------------------------------------------------------------------------------------------

ADAPTED = TRLTrainer(lora=LoRA(rank=4, alpha=8))


def adapted_logits(folder: Path) -> torch.Tensor:
    """From the adapter, over the model that it points to."""
    base = base_of(folder)
    assert base is not None
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder / "adapter")
    return model(torch.arange(3, 19)[None]).logits


@pytest.mark.parametrize("objective", OBJECTIVES, ids=KINDS)
def test_lora_leaves_a_whole_model_and_its_adapter(base: Path, tmp_path: Path, objective: Any) -> None:
    with building(tmp_path / "models" / "1") as folder:  # which takes this name when it is done
        ADAPTED.train(
            base, seven_rows(objective), objective, COSINE, folder, snapshots={2: folder / "step-2"}
        )
    for out in (tmp_path / "models" / "1", tmp_path / "models" / "1" / "step-2"):
        assert base_of(out) == base
        merged = AutoModelForCausalLM.from_pretrained(out)
        torch.testing.assert_close(
            merged(torch.arange(3, 19)[None]).logits, adapted_logits(out), atol=1e-5, rtol=0
        )
        assert PreTrainedTokenizerFast.from_pretrained(out)("w1 w2")["input_ids"] == [4, 5]
        before, after = weights(base), weights(out)
        moved = {name for name in before if (before[name] != after[name]).any()}
        linear = {name for name in before if name.endswith("_proj.weight")}
        assert before.keys() == after.keys() and moved == linear and linear
    moments = load_file(tmp_path / "models" / "1" / MOMENTS)
    assert moments and all(".lora_" in name for name in moments)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=KINDS)
def test_an_adapter_goes_on_where_the_last_call_stopped(base: Path, tmp_path: Path, objective: Any) -> None:
    batches = some_rows(objective, 6)
    a, b = tmp_path / "a", tmp_path / "b"
    ADAPTED.train(base, batches, objective, COSINE, tmp_path / "whole")
    ADAPTED.train(base, batches[:3], objective, COSINE, a, horizon=6)
    ADAPTED.train(a, batches[3:], objective, COSINE, b, inherit=a, horizon=6)
    assert base_of(b) == base
    if isinstance(objective, SFT):
        assert distance(b, tmp_path / "whole") < 1e-6
    else:  # whose reference was the base model throughout, and of the second call is what it started from
        assert distance(b, tmp_path / "whole") > 1e-6
    if isinstance(objective, DPO):
        losses: list[float] = []
        flat = Optimizer(learning_rate=1e-9)
        ADAPTED.train(
            a, batches[:1], DPO(), flat, tmp_path / "c", on_step=lambda step, loss: losses.append(loss)
        )
        assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    ADAPTED.train(base, batches[3:], objective, COSINE, tmp_path / "anew")
    assert distance(tmp_path / "anew", tmp_path / "whole") > 1e-4


def test_an_adapter_and_its_merged_weights_have_one_loss(base: Path, tmp_path: Path) -> None:
    """The loss of what an adapter has learnt is that of its merged weights, however it is computed."""
    batches = sft_batches(3)
    ADAPTED.train(base, batches[:2], SFT(), COSINE, tmp_path / "a")
    still = Optimizer(learning_rate=1e-9)
    full = TRLTrainer().train(tmp_path / "a", batches[2:], SFT(), still, tmp_path / "b").loss
    more = ADAPTED.train(tmp_path / "a", batches[2:], SFT(), still, tmp_path / "c").loss
    checked = TRLTrainer(lora=ADAPTED.lora, gradient_checkpointing=True, micro_batch=2, padding_free=True)
    again = checked.train(tmp_path / "a", batches[2:], SFT(), still, tmp_path / "d").loss
    assert full == pytest.approx(more, abs=1e-5) and again == pytest.approx(more, abs=1e-5)
    assert base_of(tmp_path / "b") is None  # full fine-tuning has no adapter to go on with


def test_an_adapter_without_its_base_is_named(base: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    shutil.copytree(base, gone)
    ADAPTED.train(gone, sft_batches(1), SFT(), COSINE, tmp_path / "a")
    shutil.rmtree(gone)
    with pytest.raises(
        UserError, match=r"adapter_config\.json adapts the model in .*gone, which is not there"
    ):
        ADAPTED.train(tmp_path / "a", sft_batches(1), SFT(), COSINE, tmp_path / "b")
    AutoModelForCausalLM.from_pretrained(tmp_path / "a")  # the model is whole all the same
    wider = TRLTrainer(lora=LoRA(rank=8))
    shutil.copytree(base, gone)
    with pytest.raises(UserError, match="belongs to another model"):
        wider.train(tmp_path / "a", sft_batches(1), SFT(), COSINE, tmp_path / "b")


# --- killed and resumed -----------------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.mark.promise(
    "Runs that are killed", "A killed run goes on where it was and ends as if nothing had been, bit for bit."
)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=KINDS)
@pytest.mark.parametrize("lora", [None, LoRA(rank=4, alpha=8, dropout=0.2)], ids=["full", "lora"])
def test_a_killed_call_goes_on_from_its_last_state(
    base: Path, tmp_path: Path, objective: Any, lora: LoRA | None
) -> None:
    batches = some_rows(objective, 8, 4)
    trainer = TRLTrainer(lora=lora, save_every=3)
    seen: dict[str, list[int]] = {}

    def train(name: str, states: Path | None, dies_at: int = 0) -> Trained:
        steps = seen.setdefault(name, [])

        def on_step(step: int, loss: float) -> None:
            steps.append(step)
            if step == dies_at:
                raise Killed

        out = tmp_path / name
        snapshots = {2: tmp_path / "snapshots" / "2", 7: tmp_path / "snapshots" / "7"}
        return trainer.train(
            base, batches, objective, COSINE, out, snapshots=snapshots, on_step=on_step, states=states
        )

    expected = train("plain", None)
    snapshot = (tmp_path / "snapshots" / "2" / "model.safetensors").read_bytes()
    states = tmp_path / "states"
    with pytest.raises(Killed):
        train("killed", states, dies_at=5)
    with pytest.raises(Killed):
        train("killed", states, dies_at=7)
    assert [folder.name for folder in states.iterdir()] == ["000006"]  # older ones have made room
    (states / "000009").mkdir()  # as a torn one would look
    assert train("killed", states) == expected
    assert seen["killed"] == [1, 2, 3, 4, 5, 4, 5, 6, 7, 7, 8]
    for file in ("model.safetensors", MOMENTS):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()
    assert (tmp_path / "snapshots" / "2" / "model.safetensors").read_bytes() == snapshot


@pytest.mark.parametrize("objective", [*OBJECTIVES, PolicyGradient(kl=0.1)], ids=[*KINDS, "kl"])
def test_a_call_that_a_budget_cut_goes_on_where_it_ended(
    base: Path, tmp_path: Path, objective: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = some_rows(objective, 8, 4)
    referred: list[int] = []  # pairs that the reference was run over
    passes = PlannedTrainer.scored

    def scored(self: Any, model: Any, rows: list[Any]) -> Any:
        referred.append(len(rows))
        return passes(self, model, rows)

    monkeypatch.setattr(PlannedTrainer, "scored", scored)

    def train(name: str, steps: int, states: Path | None, seen: list[int]) -> Trained:
        return TRLTrainer().train(
            base, batches[:steps], objective, COSINE, tmp_path / name, horizon=8, states=states,
            keep_state=steps < 8, on_step=lambda step, loss: seen.append(step), base=base,
        )  # fmt: skip

    expected = train("whole", 8, None, [])
    distinct = sum(referred)
    steps: list[int] = []
    train("cut", 5, tmp_path / "states", steps)
    assert [folder.name for folder in (tmp_path / "states").iterdir()] == ["000005"]
    assert train("grown", 8, tmp_path / "states", steps) == expected
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8]
    assert sum(referred) == 2 * distinct  # once for a row, and not again by the call that went on
    # Killed after the state of the last step, before the model was written: that is all that is left to do.
    train("cut", 5, tmp_path / "again", [])
    assert train("written", 5, tmp_path / "again", steps) and len(steps) == 8
    for file in ("model.safetensors", MOMENTS):
        assert (tmp_path / "written" / file).read_bytes() == (tmp_path / "cut" / file).read_bytes()
    for file in ("model.safetensors", MOMENTS):
        assert (tmp_path / "grown" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_study_chooses_its_trainer(tmp_path: Path) -> None:
    assert trainer_for(Training()) == TRLTrainer()
    settings = Training(micro_batch=2, dtype="bfloat16", padding_free=True, lora=LoRA(rank=3), save_every=7)
    assert trainer_for(settings) == TRLTrainer(2, "bfloat16", False, True, LoRA(rank=3), 7)


def test_the_order_of_batches_and_short_batches_are_respected(base: Path, tmp_path: Path) -> None:
    batches = sft_batches(5)
    batches[2] = batches[2][:1]
    seen: dict[bool, list[float]] = {}
    for backwards in (False, True):
        losses: list[float] = seen.setdefault(backwards, [])
        TRLTrainer().train(
            base,
            batches[::-1] if backwards else batches,
            SFT(),
            Optimizer(learning_rate=1e-9),
            tmp_path,
            on_step=lambda step, loss, losses=losses: losses.append(loss),
        )
    assert seen[True] == pytest.approx(seen[False][::-1], abs=1e-4)
    assert len(set(seen[False])) == 5


def test_what_is_not_finite_is_an_error_that_names_the_step(base: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"step [2-6] of this training call"):
        TRLTrainer().train(base, sft_batches(6), SFT(), Optimizer(learning_rate=1e30), tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors").exists()

    broken = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        broken.model.norm.weight[0] = torch.nan
    broken.save_pretrained(tmp_path / "broken")
    PreTrainedTokenizerFast.from_pretrained(base).save_pretrained(tmp_path / "broken")
    with pytest.raises(RunFailed, match="loss is nan at step 1"):
        TRLTrainer().train(tmp_path / "broken", dpo_batches(1), DPO(), COSINE, tmp_path / "out")


def test_inheriting_needs_fitting_moments(base: Path, tmp_path: Path) -> None:
    train = TRLTrainer().train
    with pytest.raises(UserError, match=r"no readable optimizer/moments\.safetensors"):
        train(base, sft_batches(1), SFT(), COSINE, tmp_path, inherit=base)
    (tmp_path / MOMENTS).parent.mkdir()
    save_file({"exp_avg.x": torch.zeros(1)}, tmp_path / MOMENTS, metadata={"steps": "3"})
    with pytest.raises(UserError, match="belongs to another model"):
        train(base, sft_batches(1), SFT(), COSINE, tmp_path / "out", inherit=tmp_path)
    with pytest.raises(UserError, match="cosine schedule is over after 3 steps"):
        train(base, sft_batches(1), SFT(), COSINE, tmp_path / "out", inherit=tmp_path, horizon=3)


def test_schedules() -> None:
    def factors(horizon: int, **settings: Any) -> list[float]:
        optimizer = Optimizer(learning_rate=1, **settings)
        return [learning_rate_factor(step, optimizer, horizon) for step in range(horizon)]

    assert factors(3) == [1, 1, 1]
    assert factors(6, warmup_steps=2) == [0, 0.5, 1, 1, 1, 1]
    assert factors(6, warmup_steps=1, warmup_ratio=0.1) == [0, 0.5, 1, 1, 1, 1]  # 1 + ceil(0.6)
    assert factors(1, warmup_ratio=0.03) == [1]  # a ratio leaves a step to learn in, also the only one
    assert factors(2, warmup_ratio=0.9) == [0, 1]
    assert factors(1, warmup_steps=1) == [0]
    assert factors(6, warmup_steps=2, schedule="linear") == [0, 0.5, 1, 0.75, 0.5, 0.25]
    assert factors(4, schedule="cosine") == pytest.approx([1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2])


def test_encode(base: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    assert encode(tokenizer, "w1 w2", ["w3 w4"], 8) == Row((4, 5), ((6, 7, END),))
    assert encode(tokenizer, "w1 w2", ["w3 w4", "w5"], 4) == Row(
        (4, 5), ((6, 7), (8, END))
    )  # cut: does not end
    with pytest.raises(UserError, match="max_length is 2"):
        encode(tokenizer, "w1 w2", ["w3 w4"], 2)
