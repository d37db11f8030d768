"""The TRL trainer against arithmetic done by hand, on tiny random models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from repro.errors import RunFailed, UserError
from repro.objectives import DPO, SFT, Optimizer
from repro.training import PairRow, Row, encode, learning_rate_factor
from repro.training.trl import TRLTrainer

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
    return [[Row(tokens(g, 2, 8), (*tokens(g, 1, 9), END)) for _ in range(size)] for _ in range(steps)]


def dpo_batches(steps: int = 4, size: int = 6) -> list[list[PairRow]]:
    g = torch.Generator().manual_seed(2)
    return [
        [PairRow(tokens(g, 2, 8), (*tokens(g, 1, 9), END), (*tokens(g, 1, 9), END)) for _ in range(size)]
        for _ in range(steps)
    ]


def log_probability(model: Any, prompt: Sequence[int], response: Sequence[int]) -> torch.Tensor:
    """Log-probability of each token of ``response``, one row at a time and without padding."""
    logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def distance(a: Path, b: Path) -> float:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    return max((left[name] - right[name]).abs().max().item() for name in left)


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
    mean = TRLTrainer().train(
        base, batches, SFT(), COSINE, tmp_path, on_step=lambda step, loss: seen.append((step, loss))
    )

    def loss_of(model: Any, reference: Any, batch: list[Row]) -> torch.Tensor:
        return -torch.cat([log_probability(model, row.prompt, row.response) for row in batch]).mean()

    losses, model = bare_loop(base, batches, loss_of, COSINE)
    assert difference(tmp_path, model) < 1e-5
    assert [step for step, _ in seen] == list(range(1, 11))
    assert [loss for _, loss in seen] == pytest.approx(losses, abs=1e-5)
    assert mean == pytest.approx(sum(losses) / 10, abs=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("nll", [0.0, 0.5])
def test_dpo_equals_a_bare_loop(base: Path, tmp_path: Path, smoothing: float, nll: float) -> None:
    batches = dpo_batches()
    objective = DPO(beta=0.3, label_smoothing=smoothing, nll_weight=nll)
    mean = TRLTrainer().train(base, batches, objective, COSINE, tmp_path)

    def loss_of(model: Any, reference: Any, batch: list[PairRow]) -> torch.Tensor:
        margins, chosen = [], []
        for row in batch:
            sides = row.chosen, row.rejected
            good, bad = (log_probability(model, row.prompt, side) for side in sides)
            good0, bad0 = (log_probability(reference, row.prompt, side) for side in sides)
            margins.append(0.3 * (good.sum() - good0.sum() - bad.sum() + bad0.sum()))
            chosen.append(good)
        x = torch.stack(margins)
        preference = (-(1 - smoothing) * logsigmoid(x) - smoothing * logsigmoid(-x)).mean()
        return preference - nll * torch.cat(chosen).mean()

    losses, model = bare_loop(base, batches, loss_of, COSINE)
    assert mean == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert difference(tmp_path, model) < 2e-5


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
                float(log_probability(model, row.prompt, row.chosen).sum())
                - float(log_probability(model, row.prompt, row.rejected).sum())
                for row in batch
            )

    assert margin(tmp_path) > margin(base)


@pytest.mark.parametrize("objective", [SFT(), DPO()])
def test_snapshots_are_the_weights_of_shorter_runs(base: Path, tmp_path: Path, objective: Any) -> None:
    batches: Any = sft_batches(6) if isinstance(objective, SFT) else dpo_batches(6)
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
    for file in ("model.safetensors", "optimizer.safetensors"):  # bit for bit
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


@pytest.mark.parametrize("micro_batch", [1, 4])
@pytest.mark.parametrize("objective", [SFT(), DPO(label_smoothing=0.1, nll_weight=1.0)])
def test_micro_batches_do_not_change_the_result(
    base: Path, tmp_path: Path, objective: Any, micro_batch: int
) -> None:
    batches: Any = sft_batches(4, 7) if isinstance(objective, SFT) else dpo_batches(4, 7)
    whole = TRLTrainer().train(base, batches, objective, COSINE, tmp_path / "whole")
    parts = TRLTrainer(micro_batch=micro_batch).train(base, batches, objective, COSINE, tmp_path / "parts")
    assert parts == pytest.approx(whole, abs=1e-5)
    assert distance(tmp_path / "whole", tmp_path / "parts") < 2e-5


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
    with pytest.raises(UserError, match=r"no readable optimizer\.safetensors"):
        train(base, sft_batches(1), SFT(), COSINE, tmp_path, inherit=base)
    save_file({"exp_avg.x": torch.zeros(1)}, tmp_path / "optimizer.safetensors", metadata={"steps": "3"})
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
    assert factors(6, warmup_steps=2, schedule="linear") == [0, 0.5, 1, 0.75, 0.5, 0.25]
    assert factors(4, schedule="cosine") == pytest.approx([1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2])


def test_encode(base: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    assert encode(tokenizer, "w1 w2", "w3 w4", 8) == Row((4, 5), (6, 7, END))
    assert encode(tokenizer, "w1 w2", "w3 w4", 4) == Row((4, 5), (6, 7))  # cut: does not end
    with pytest.raises(UserError, match="max_length is 2"):
        encode(tokenizer, "w1 w2", "w3 w4", 2)
