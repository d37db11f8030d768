"""A run: one method with one seed, from the base model to its checkpoints at every budget."""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from repro import __version__, base_model, files, problems
from repro.config import Study, WarmStart
from repro.discovery import BASELINES, load_method
from repro.errors import RunFailed, UserError
from repro.lab import Cut, Engines, Lab
from repro.layout import Layout
from repro.ledger import by_account
from repro.method import BudgetSpent, Method, Unavailable
from repro.problems import ProblemSet
from repro.problems.prompts import stops
from repro.rewards import scorer_for
from repro.sampling import sampler_for
from repro.training import trainer_for
from repro.verify import VERSION as VERIFIER_VERSION
from repro.verify import Verifier

Log = logging.getLogger("repro.run")
IDLE_ROUNDS = 3  # rounds in a row that spend nothing before a run is given up


def train(study: Study, name: str, seed: int, layout: Layout, baselines: Path = BASELINES) -> dict[str, Any]:
    """Run the method and write its manifest. A failure of the method itself is a row with a status.

    Raises UserError for what the user can mend (missing input, full disk).
    """
    method = load_method(study, name, baselines)
    training_set = problems.read(layout.problems / "train.jsonl")
    if not files.sealed(layout.base):
        raise UserError(
            f"the base model {layout.base} is missing or damaged; "
            f"delete {layout.base_manifest} and run `snakemake`"
        )
    key = files.digest(
        __version__, name, files.sha256(baselines / f"{name}.py"), method.model_dump(mode="json"), seed,
        training_set.digest, files.sha256(layout.base / files.COMPLETE), study.budgets,
        study.sampling.model_dump(), study.training.model_dump(), study.process_rewards, VERIFIER_VERSION,
        stops(study.prompt),
    )  # fmt: skip
    groups = [[budget] for budget in study.budgets] if method.per_budget else [list(study.budgets)]
    rows: list[dict[str, Any]] = []
    visits: Counter[str] = Counter()
    status, reason, mode = "ok", "", ""
    with Verifier() as verifier:
        parts = engines(study, verifier)
        for index, budgets in enumerate(groups):
            suffix = f"-budget{index}" if method.per_budget else ""
            folder = layout.work / "runs" / f"{name}-{seed}-{key}{suffix}"
            # A job of a killed Snakemake may still be at it: what it journals is not done again.
            with files.lease(folder, wait=True):
                lab = Lab(
                    f"{name}/{seed}", folder, layout.base, training_set, budgets, parts,
                    method.uses_gold, method.uses_corpus,
                )  # fmt: skip
                top = budgets[-1] / 1e12
                Log.info("%s, seed %d: budget %.3f TFLOP, state in %s", method.title, seed, top, folder)
                status, reason = _play(method, lab)
                if status != "ok":
                    break
                rows += [_row(lab, cut, layout.work) for cut in lab.finish()]
                visits, mode = lab.visits, lab.mode
                seconds = {name: round(value, 2) for name, value in lab.seconds.items()}
                Log.info("done: %d rounds, %d steps; seconds in engines: %s", lab.round, lab.steps, seconds)
    manifest = {
        "method": name,
        "title": method.title,
        "role": str(method.role),
        "paper": method.paper,
        "seed": seed,
        "status": status,
        "reason": reason,
        "mode": mode,
        "hyperparameters": method.model_dump(mode="json"),
        "key": key,
        "budgets": rows if status == "ok" else [],
        "visits": _visits(training_set, visits) if status == "ok" else [],
    }
    files.write_json(layout.run(name, seed), manifest)
    return manifest


def engines(study: Study, verifier: Verifier) -> Engines:
    warm = isinstance(study.base_model, WarmStart)
    return Engines(
        sampler=sampler_for(study.sampling),
        trainer=trainer_for(study.training),
        verifier=verifier,
        scorer=scorer_for(study.process_rewards),
        corpus=(lambda n, seed: base_model.corpus_rows(study, n, seed)) if warm else None,
        max_tokens=study.sampling.max_tokens,
        chunk=study.sampling.chunk,
        max_length=study.training.max_length,
        stop=stops(study.prompt),
        lora_rank=study.training.lora.rank if study.training.lora else 0,
    )


def _play(method: Method, lab: Lab) -> tuple[str, str]:
    """Rounds until the budget is spent; (status, reason)."""
    idle = 0
    try:
        state = method.start(lab)
        while True:
            lab.round += 1
            before = lab.spent
            method.round(lab, state)
            idle = idle + 1 if lab.spent == before else 0
            if idle == IDLE_ROUNDS:
                return "failed", f"{IDLE_ROUNDS} rounds in a row spent nothing, so the budget would never end"
    except BudgetSpent:
        return "ok", ""
    except Unavailable as error:
        return "unavailable", str(error)
    except RunFailed as error:
        return "failed", str(error)
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        Log.error("%s", traceback.format_exc())
        return "failed", f"{type(error).__name__} in round {lab.round}: {error}"


def _row(lab: Lab, cut: Cut, work: Path) -> dict[str, Any]:
    entries = lab.ledger[: cut.entries]
    assert sum(entry.flops for entry in entries) == cut.spent, "the ledger must sum to what was spent"
    return {
        "budget": cut.budget,
        "spent": cut.spent,
        "papers_flops": sum(entry.papers_flops for entry in entries),
        "rounds": cut.round,
        "steps": cut.steps,
        "checkpoint": str(cut.model.relative_to(work)),
        "accounts": by_account(entries),
        "ledger": [entry.to_json() for entry in entries],
    }


def _visits(training_set: ProblemSet, visits: Counter[str]) -> list[dict[str, Any]]:
    """By tier: training sequences consumed, distinct problems among them, problems in the pool."""
    tiers = sorted({problem.tier for problem in training_set.problems})
    pool = {tier: [p.id for p in training_set.problems if p.tier == tier] for tier in tiers}
    return [
        {
            "tier": tier,
            "trained": sum(visits[name] for name in names),
            "problems": sum(name in visits for name in names),
            "pool": len(names),
        }
        for tier, names in pool.items()
    ]
