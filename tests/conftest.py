"""What several test files share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import crash
import numpy as np
import pytest

from repro.files import building, lease, sealed, write_text

GUESSES = [str(n) for n in range(1, 13)]
ENDINGS = {"hashes": "#### {}", "boxed": "\\boxed{{{}}}"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew-golden", action="store_true", help="write the transcripts of tests/golden anew")
    parser.addoption("--crash-table", type=Path, help="write what became of each crash to this file")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The crash matrix, where tests of it ran: see tests/test_crash.py."""
    reports = [one for kind in ("passed", "failed") for one in terminalreporter.stats.get(kind, [])]
    points = [value for one in reports for name, value in one.user_properties if name == "crash"]
    if points:
        table = crash.table(points)
        terminalreporter.write_line(table)
        if path := config.getoption("--crash-table"):
            write_text(path, table)


@contextmanager
def made_once(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[tuple[Path, bool]]:
    """A folder that all workers of pytest-xdist share, and whether this one has to make it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with lease(shared / f"{name}-lease", wait=True):
        yield shared / name, not sealed(shared / name)


@pytest.fixture(scope="session")
def guesser_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a tiny model of an architecture that answers every question with a sentence and a guess from 1 to
    12: now and then it is right about a real problem, which is what self-training starts from. vLLM can load
    it too."""
    from repro.base_model import _bpe_tokenizer, _initialise
    from repro.objectives import SFT, Optimizer
    from repro.training import encode
    from repro.training.trl import TRLTrainer

    def make(model_type: str, **more: Any) -> Path:
        with made_once(tmp_path_factory, f"guesser-{model_type}") as (folder, wanted):
            if wanted:
                questions = ["How many apples does Ann have?", "Compute $\\frac{6}{2} + x^2$ if x = 1."]
                tokenizer = _bpe_tokenizer([*questions, "So the answer is. #### \\boxed{}"], 300)
                start = folder.with_name(f"{folder.name}-start")
                start.mkdir(exist_ok=True)
                sizes = {
                    "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
                    "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 96,
                    "max_position_embeddings": 4096, "tie_word_embeddings": True,
                }  # fmt: skip
                _initialise({"model_type": model_type, **sizes, **more}, tokenizer, 0, start)
                random = np.random.default_rng(0)
                batches = []
                for _ in range(60):
                    rows = []
                    for _ in range(8):
                        guess = random.choice(GUESSES)
                        boxed = random.random() < 0.5
                        asked = "Put it into \\boxed{}." if boxed else "Answer:"
                        length = int(random.integers(5, 120))
                        prompt = "".join(random.choice(list("abc 123$\\{}xyz.,?"), length)) + f"\n{asked}\n"
                        ending = ENDINGS["boxed" if boxed else "hashes"].format(guess)
                        rows.append(encode(tokenizer, prompt, [f"So the answer is {ending}"], 512))
                    batches.append(rows)
                with building(folder) as unfinished:
                    TRLTrainer().train(start, batches, SFT(), Optimizer(learning_rate=5e-3), unfinished)
                    shutil.rmtree(unfinished / "optimizer")
        return folder

    return make


@pytest.fixture(scope="session")
def guesser(guesser_of: Callable[..., Path]) -> Path:
    """A Qwen2 that guesses."""
    return guesser_of("qwen2")
