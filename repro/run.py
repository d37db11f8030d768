"""A run: one method with one seed, from the base model to its checkpoints at every budget."""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import repro
from repro import base_model, files, identity, numerics, problems
from repro.config import Study, WarmStart
from repro.discovery import load_method, own_modules
from repro.errors import RunFailed, UserError
from repro.lab import Cut, Engines, Lab
from repro.layout import Layout
from repro.method import BudgetSpent, Method, Misuse, Unavailable
from repro.objectives import OBJECTIVES
from repro.problems import ProblemSet
from repro.problems.prompts import stops
from repro.provenance import Process
from repro.rewards import scorer_for
from repro.sampling import sampler_for
from repro.schema import INSIDE
from repro.training import trainer_for
from repro.verify import Verifier

Log = logging.getLogger("repro.run")
IDLE_ROUNDS = 3  # rounds in a row that spend nothing before a run is given up


def train(study: Study, name: str, seed: int, layout: Layout) -> dict[str, Any]:
    """Run the method and write its manifest. A failure of the method itself is a row with a status.

    Raises UserError for what the user can mend (missing input, full disk).
    """
    numerics.check(study.numerics)
    process = Process()
    method = load_method(study, name)
    training_set = problems.read_prepared(layout.problems, "train")
    base = base_fingerprint(layout)
    key = identity.run_key(study, method, name, seed, training_set, base)
    groups = [[budget] for budget in study.budgets] if method.plans else [list(study.budgets)]
    rows: list[dict[str, Any]] = []
    machine: list[dict[str, Any]] = []
    visits: Counter[str] = Counter()
    status, reason, mode = "ok", "", ""
    objectives: set[str] = set()
    with Verifier() as verifier:
        parts = engines(study, verifier)
        for budgets in groups:
            folder = layout.runs / identity.folder_name(name, seed, key, method, budgets[-1])
            # A job of a killed Snakemake may still be at it: what it journals is not done again.
            with files.lease(folder, wait=True):
                lab = Lab(
                    f"{name}/{seed}", folder, layout.base, training_set, budgets, _as_begun(parts, folder),
                    method.reads_gold, method.uses_corpus, method.plans,
                )  # fmt: skip
                top = budgets[-1] / 1e12
                Log.info("%s, seed %d: budget %.3f TFLOP, state in %s", method.title, seed, top, folder)
                status, reason = _play(method, lab)
                cuts = lab.finish() if status == "ok" else []
                machine += [{"budget": budgets[-1], **row} for row in _machine(lab)]
                if status != "ok":
                    break
                rows += _rows(lab, cuts, layout.work)
                visits, mode = lab.visits, lab.mode
                objectives |= lab.objectives
                Log.info("done: %d rounds, %d steps", lab.round, lab.steps)
    manifest = {
        "method": name,
        "title": method.title,
        "role": str(method.role),
        "paper": method.paper,
        "origin": identity.origin(study, name),
        "seed": seed,
        "plans": method.plans,
        "asked": study.budgets,
        "status": status,
        "reason": reason,
        "mode": mode,
        "objective": " + ".join(name for name in OBJECTIVES if name in objectives),
        "hyperparameters": method.model_dump(mode="json"),
        "key": key,
        "base": base,
        "budgets": rows if status == "ok" else [],
        "visits": _visits(training_set, visits) if status == "ok" else [],
        "machine": machine,
        "process": process.facts(study.sampling.engine),
    }
    files.write_checked(layout.run(name, seed), manifest)
    return manifest


def base_fingerprint(layout: Layout) -> str:
    """The base model's. Raises UserError where it is missing or damaged."""
    if not files.sealed(layout.base):
        raise UserError(
            f"the base model {layout.base} is missing or damaged; "
            f"delete {layout.base_manifest} and run `snakemake`"
        )
    return files.fingerprint(layout.base)


def _as_begun(parts: Engines, folder: Path) -> Engines:
    """With the journal's chunks as the run began with: another size makes other entries of the same run."""
    path = folder / "begun.json"
    if not path.exists():
        files.write_checked(path, {"chunk": parts.chunk})
    return replace(parts, chunk=files.read_checked(path, ("chunk",))["chunk"])


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
        thinking=bool(study.prompt.thinking),
        lora_rank=study.training.lora.rank if study.training.lora else 0,
        keep_moments=study.training.keep == "moments",
    )


def _play(method: Method, lab: Lab) -> tuple[str, str]:
    """Rounds until the budget is spent; (status, reason)."""
    idle = 0
    try:
        state = method.start(lab)
        while lab.round != method.rounds:
            lab.round += 1
            before = lab.spent
            method.round(lab, state)
            idle = idle + 1 if lab.spent == before else 0
            if idle == IDLE_ROUNDS:
                return "failed", f"{IDLE_ROUNDS} rounds in a row spent nothing, so the budget would never end"
    except BudgetSpent:
        pass
    except Unavailable as error:
        return "unavailable", str(error)
    except RunFailed as error:
        return "failed", str(error)
    except (UserError, OSError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        if not _own_fault(error, method):
            raise
        Log.error("%s", traceback.format_exc())
        return "failed", f"{type(error).__name__} in round {lab.round}: {error}"
    return "ok", ""


def _own_fault(error: BaseException, method: Method) -> bool:
    """Whether the method itself caused it, and not the suite under it: it called the Lab as it cannot be
    called, or what was at work was its own code, or a library that it called."""
    if isinstance(error, Misuse):
        return True
    frames = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    own, suite = {*own_modules(type(method).__module__).values()}, Path(repro.__file__).parent
    return next((path in own for path in reversed(frames) if path in own or suite in path.parents), False)


def _rows(lab: Lab, cuts: list[Cut], work: Path) -> list[dict[str, Any]]:
    """A row for each budget, with the ledger's entries and the monitors since the one before."""
    rows = []
    first = seen = 0
    for cut in cuts:
        inside = [entry for entry in lab.ledger[: cut.entries] if entry.account in INSIDE]
        assert sum(entry.flops for entry in inside) == cut.spent, "the ledger must sum to what was spent"
        rows.append(
            {
                "budget": cut.budget,
                "spent": cut.spent,
                "papers_flops": sum(entry.papers_flops for entry in inside),
                "rounds": cut.round,
                "steps": cut.steps,
                "checkpoint": str(cut.model.relative_to(work)),
                "fingerprint": files.fingerprint(cut.model),
                "ledger": [entry.to_json() for entry in lab.ledger[first : cut.entries]],
                "monitors": [round.to_json() for round in lab.monitors.rounds[seen : cut.seen]],
            }
        )
        first, seen = cut.entries, cut.seen
    return rows


def _machine(lab: Lab) -> list[dict[str, Any]]:
    """What the machine took for a run, by device and account; FLOPs are those lost in crashes."""
    taken: dict[tuple[str, str], dict[str, Any]] = {}

    def row(account: str, device: str) -> dict[str, Any]:
        empty = {"account": account, "device": device, "seconds": 0.0, "joules": None, "flops": 0}
        return taken.setdefault((account, device), empty)

    for call in lab.machine:
        for account, seconds in call["seconds"].items():
            row(account, call["device"])["seconds"] += seconds
        for account, joules in call["joules"].items():
            found = row(account, call["device"])
            found["joules"] = (found["joules"] or 0.0) + joules
        if call["wasted"]:
            row("wasted", call["device"])["flops"] += call["wasted"]
    return [
        {**found, "seconds": round(found["seconds"], 2), "joules": found["joules"] and round(found["joules"])}
        for found in taken.values()
    ]


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
