"""Every method for a round on real rows of GSM8K and MATH: real prompts, real golds, a model that guesses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from repro import base_model, problems
from repro.config import Study, load_study
from repro.discovery import BASELINES, load_method
from repro.lab import Lab
from repro.layout import Layout
from repro.method import BudgetSpent
from repro.records import Role
from repro.run import engines
from repro.schema import INSIDE, Account
from repro.verify import Verifier

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("REPRO_DATA_DIR" not in os.environ, reason="REPRO_DATA_DIR is not set: no real rows"),
]
ONLINE: dict[str, Any] = {"n_queries": 60, "n_wanted": 30, "k": 4, "steps": 4, "batch_size": 8}
SMALL: dict[str, dict[str, Any]] = {
    "sft_answers": {},
    "star_acc": {"first_steps": 2},
    "star_acc_full": {},
    "star_acc_full_k": {},
    "star_full": {},
    "rest_em": {"k": 6},
    "iterative_dpo": {"problems_per_round": 60, "batch_size": 8},
    "iterative_rpo": {"n": 6, "batch_size": 8},
    "online_rft": ONLINE,
    "iterative_rft": ONLINE,
    "grpo": {"n_problems": 16},
    "raft": {"n_problems": 32, "updates": 2},
    "reinforce_rej": {"n_problems": 32, "updates": 2},
    "greso": {"n_problems": 8, "batch": 16, "least": 8},
    "dart": {"k": 2, "most_tries": 8, "batch_size": 8},
    "star": {"first_steps": 4, "temperature": 1.0, "top_p": 1.0},
    "rft": {"k_max": 2, "batch_size": 8},
    "adastar": {"first_steps": 2},
    "hs_star": {"problems_per_round": 60, "batch_size": 8},
    "sai_dpo": {
        "n_clusters": 6, "probe_per_cluster": 6, "k": 4, "n_candidates": 40, "n_selected": 30,
        "batch_size": 4,
    },
    "b_star": {
        **ONLINE, "n_probe": 10, "temperatures": [0.7, 1.0],
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=["gsm8k", "math"])
def prepared(
    request: pytest.FixtureRequest, guesser: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Study, Layout]:
    folder = tmp_path_factory.mktemp(request.param)
    values = {
        "name": request.param,
        "title": request.param,
        "seeds": [0],
        "budgets": ["1.2e10"],
        "problems": {"source": request.param, "train": 60},
        "prompt": {"style": "question_answer" if request.param == "gsm8k" else "boxed"},
        "base_model": {"source": "folder", "path": str(guesser)},
        "sampling": {"max_tokens": 32, "chunk": 512},
        "evaluation": {"profile": "quick", "benchmarks": {request.param: {"limit": 20}}},
        "hyperparameters": SMALL,
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(values))
    study = load_study(folder / "study.yaml")
    layout = Layout(folder, study.name)
    problems.prepare(study, layout.problems)
    base_model.prepare(study, layout.problems, layout.base, lambda *_: None)
    return study, layout


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    """One for all methods: its workers take longer to start than a round's answers to check."""
    with Verifier() as verifier:
        yield verifier


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_round_of_every_method(
    prepared: tuple[Study, Layout], verifier: Verifier, name: str, tmp_path: Path
) -> None:
    study, layout = prepared
    method = load_method(study, name)
    training_set = problems.read(layout.problems / "train.jsonl")
    budget = 10**10 if method.one_round else 10**13  # which spends all it has in its round
    lab = Lab(
        name, tmp_path, layout.base, training_set, [budget], engines(study, verifier),
        method.reads_gold, method.uses_corpus, method.plans,
    )  # fmt: skip
    state = method.start(lab)
    with suppress(BudgetSpent):
        while not lab.steps:  # a round that finds nothing to train on just returns
            lab.round += 1
            method.round(lab, state)
            assert lab.round < 4
    assert lab.steps > 0
    trained = {name for name, count in lab.visits.items() if count}
    assert trained <= set(training_set.golds)
    accounts = {entry.account for entry in lab.ledger if entry.flops}
    assert Account.TRAIN in accounts and (Account.SAMPLE in accounts) is (name != "sft_answers")
    assert sum(entry.flops for entry in lab.ledger if entry.account in INSIDE) == lab.spent <= budget


def test_these_are_all_the_methods(prepared: tuple[Study, Layout]) -> None:
    study, _ = prepared
    named = [path.stem for path in BASELINES.glob("[!_]*.py")]
    assert {name for name in named if load_method(study, name).role is Role.METHOD} == set(SMALL)
