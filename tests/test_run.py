"""A run from its settings to its manifest, before engines in memory: what becomes a row and what does not,
what keys a run, and what of old state goes."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from fake_engines import ADAM, PROBLEM_SET, PROBLEMS, Crash, World, make_base
from safetensors import SafetensorError

from repro import cleaning, files, identity, run
from repro.config import Study
from repro.errors import RunFailed, UserError
from repro.flops import flops
from repro.lab import Engines
from repro.layout import Layout
from repro.ledger import Entry
from repro.method import Example, Method, Unavailable
from repro.problems import FIELDS, ProblemSet
from repro.schema import INSIDE

BUDGETS = [160_000, 320_000]


class Toy(Method):
    """Two samples of every problem, and steps on all of them."""

    title = "Toy"
    paper = "Nobody 2026"
    role = "ablation"  # type: ignore[assignment]

    steps: int = 2
    n: int = 2

    def round(self, lab: Any, state: Any) -> None:
        drawn = lab.sample(lab.problems, self.n)
        data = [Example(c.problem, c.text) for completions in drawn for c in completions]
        lab.train(data, optimizer=ADAM, batch_size=2, steps=self.steps)


class Planner(Toy):
    title = "Planner"
    plans: Literal[True] = True

    def round(self, lab: Any, state: Any) -> None:
        lab.sample(lab.problems[: lab.budget // BUDGETS[0]], 1)
        lab.train([Example(PROBLEMS[0], "w1 w2")], optimizer=ADAM, batch_size=1)


def made_study(**more: Any) -> Study:
    return Study.model_validate(
        {
            "name": "made", "title": "Made", "seeds": [0, 1], "budgets": BUDGETS, "methods": ["star"],
            "problems": {"source": "gsm8k"}, "base_model": {"source": "folder", "path": "base"},
            "sampling": {"max_tokens": 8, "chunk": 4}, "training": {"max_length": 64},
            "evaluation": {"benchmarks": {"gsm8k": {}}},
            **more,
        }
    )  # fmt: skip


class Bench:
    """A study's folder, with engines in memory."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.layout = Layout(root, "made")
        self.world = World()
        self.method: Method = Toy()
        make_base(self.layout.base)
        problem_set(self.layout.problems / "train.jsonl", PROBLEM_SET)
        hashes = {"train": files.sha256(self.layout.problems / "train.jsonl")}
        files.write_checked(self.layout.problems / "report.json", {"files": hashes})
        patch.setattr(run, "load_method", lambda study, name: self.method)
        patch.setattr(cleaning, "load_method", lambda study, name: self.method)
        patch.setattr(run, "engines", self.engines)
        patch.setattr("os.fsync", lambda descriptor: None)

    def engines(self, study: Study, verifier: Any) -> Engines:
        return Engines(
            self.world, self.world, self.world, None, None, study.sampling.max_tokens,  # type: ignore[arg-type]
            study.sampling.chunk, study.training.max_length,
        )  # fmt: skip

    def train(self, study: Study | None = None, seed: int = 0) -> dict[str, Any]:
        self.world = World()
        manifest = run.train(study or made_study(), "star", seed, self.layout)
        assert manifest == files.read_checked(self.layout.run("star", seed))
        return manifest

    def folders(self) -> set[str]:
        return {path.name for path in self.layout.runs.glob("star-*-*")}


def problem_set(path: Path, problems: ProblemSet) -> None:
    rows = [
        dict(zip(FIELDS, (
            p.id, p.question, p.tier, list(p.knowledge), problems.golds[p.id].answer,
            problems.golds[p.id].solution, problems.prompts[p.id], problems.few_shot[p.id],
            problems.hinted[p.id],
        ), strict=True))
        for p in problems.problems
    ]  # fmt: skip
    files.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


# --- the manifest -------------------------------------------------------------------------------------


def test_a_manifest_says_what_was_done(bench: Bench) -> None:
    manifest = bench.train(seed=1)
    facts = {
        "method": "star", "title": "Toy", "role": "ablation", "paper": "Nobody 2026", "seed": 1,
        "status": "ok", "plans": False,
    }  # fmt: skip
    assert {name: manifest[name] for name in facts} == facts
    assert manifest["hyperparameters"] == {"plans": False, "rounds": None, "steps": 2, "n": 2}
    assert manifest["base"] == files.fingerprint(bench.layout.base)
    assert [row["budget"] for row in manifest["budgets"]] == BUDGETS
    spent = 0
    for row in manifest["budgets"]:  # each has the entries since the one before
        entries = [Entry.from_json(entry) for entry in row["ledger"]]
        spent += sum(flops(e.shape, e.tally, e.passes) for e in entries if e.account in INSIDE)
        assert row["spent"] == spent <= row["budget"]
        model = bench.layout.work / row["checkpoint"]
        assert files.sealed(model) and files.fingerprint(model) == row["fingerprint"]
    first, last = manifest["budgets"]
    assert 0 < first["steps"] < last["steps"] and 1 <= first["rounds"] <= last["rounds"]
    for row in manifest["budgets"]:  # a cut ends with the round that it found
        round, until, values = row["monitors"][-1]
        assert (round, until) == (row["rounds"], row["spent"]) and values["training_frequency"] > 0
    rounds = [round for row in manifest["budgets"] for round, *_ in row["monitors"]]
    assert rounds == sorted(rounds) and set(rounds) == set(range(1, last["rounds"] + 1))
    (tier,) = manifest["visits"]
    assert tier["trained"] == 2 * last["steps"] and tier["pool"] == len(PROBLEMS)
    assert {row["account"] for row in manifest["machine"]} == {"sample", "verify", "train"}
    assert all(row["device"] and row["flops"] == 0 for row in manifest["machine"])


def test_what_a_killed_process_did_in_vain_is_in_the_manifest(bench: Bench) -> None:
    bench.world = World(crash=1)  # in its first sampling
    with pytest.raises(Crash):
        run.train(made_study(), "star", 0, bench.layout)
    manifest = bench.train()
    (wasted,) = (row for row in manifest["machine"] if row["account"] == "wasted")
    first = Entry.from_json(manifest["budgets"][0]["ledger"][0])  # a chunk of it
    assert wasted["flops"] == first.flops and wasted["seconds"] == 0
    assert not any(row["flops"] for row in manifest["machine"] if row is not wasted)


def test_a_method_that_plans_gets_a_run_for_each_budget(bench: Bench) -> None:
    bench.method = Planner()
    manifest = bench.train()
    assert manifest["plans"] and len(bench.folders()) == 2
    low, high = manifest["budgets"]
    sampled = [row["ledger"][0]["tally"]["sequences"] for row in (low, high)]
    assert sampled == [1, 2]  # each looked at its own budget
    assert {row["budget"] for row in manifest["machine"]} == set(BUDGETS)
    assert bench.train(made_study(budgets=[*BUDGETS, 480_000]))["budgets"][:2] == [low, high]
    assert len(bench.folders()) == 3 and len(bench.world.requests) == 3  # the new one's, and no other


# --- what a run is ------------------------------------------------------------------------------------


@pytest.mark.promise(
    "The same numbers", "A finished run goes on when its top budget rises; it does not begin anew."
)
def test_a_finished_run_goes_on_when_the_top_budget_rises(bench: Bench) -> None:
    before = bench.train()
    sampled, trained = len(bench.world.requests), len(bench.world.rows)
    after = bench.train(made_study(budgets=[*BUDGETS, 640_000]))
    assert after["budgets"][:2] == before["budgets"] and len(bench.folders()) == 1
    more = len(bench.world.requests), len(bench.world.rows)
    shutil.rmtree(bench.layout.runs)
    assert bench.train(made_study(budgets=[*BUDGETS, 640_000]))["budgets"] == after["budgets"]
    # Together as much as one run: nothing twice.
    assert (sampled + more[0], trained + more[1]) == (len(bench.world.requests), len(bench.world.rows))


@pytest.mark.parametrize(
    "more",
    [
        {"budgets": BUDGETS[:1]},
        {"budgets": BUDGETS[1:]},
        {"sampling": {"max_tokens": 8, "chunk": 7, "batch_size": 7, "memory": 0.5}},
        {"sampling": {"max_tokens": 8, "chunk": 4, "tensor_parallel": 2, "data_parallel": 2}},
        {"training": {"max_length": 64, "micro_batch": 1, "save_every": 1, "gradient_checkpointing": True}},
        {
            "training": {
                "max_length": 64,
                "padding_free": True,
                "accelerate": "any.yaml",
                "keep": "nothing",
            }
        },
        {"title": "Another", "target_accuracies": [0.5], "seeds": [0, 1, 2], "gpus": 1},
        {"evaluation": {"benchmarks": {"gsm8k": {"samples": 9}}, "profile": "quick"}},
    ],
)
def test_what_changes_no_number_trains_nothing_again(bench: Bench, more: dict[str, Any]) -> None:
    before = bench.train()
    after = bench.train(made_study(**more))
    assert not bench.world.requests and not bench.world.rows
    assert after["key"] == before["key"]
    kept = [row for row in before["budgets"] if row["budget"] in made_study(**more).budgets]
    assert [row["fingerprint"] for row in after["budgets"]] == [row["fingerprint"] for row in kept]


def test_a_budget_in_between_samples_nothing_again(bench: Bench) -> None:
    before = bench.train()
    after = bench.train(made_study(budgets=[60_000, 220_000, 320_000]))
    assert not bench.world.requests and after["budgets"][-1]["spent"] == before["budgets"][-1]["spent"]
    shutil.rmtree(bench.layout.runs)
    assert bench.train(made_study(budgets=[60_000, 220_000, 320_000]))["budgets"] == after["budgets"]


@pytest.mark.promise(
    "The same numbers",
    "Only what changed runs again: words in a method's file or titles retrain nothing, another setting does.",
)
def test_what_changes_numbers_is_another_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(study: Study | None = None, method: Method | None = None, seed: int = 0, base: str = "b") -> str:
        return identity.run_key(study or made_study(), method or Toy(), "star", seed, PROBLEM_SET, base)

    first = key()
    assert first == key()
    of = (getattr(PROBLEM_SET, name) for name in ("golds", "prompts", "few_shot", "hinted"))
    fewer = ProblemSet(PROBLEMS[1:], *of)
    studies = [
        {"sampling": {"max_tokens": 9}},
        {"sampling": {"max_tokens": 8, "dtype": "bfloat16"}},
        {"training": {"max_length": 65}},
        {"training": {"max_length": 64, "lora": {}}},
        {"prompt": {"stop": ["Q:"]}},
    ]
    keys = [first, key(seed=1), key(method=Toy(n=3)), key(base="c"), *(key(made_study(**s)) for s in studies)]
    keys.append(identity.run_key(made_study(methods=["rft"]), Toy(), "rft", 0, PROBLEM_SET, "b"))
    keys.append(identity.run_key(made_study(), Toy(), "star", 0, fewer, "b"))
    monkeypatch.setattr(identity, "version", lambda name: "9.9")
    keys.append(key())
    monkeypatch.undo()
    monkeypatch.setattr(identity, "NUMBERS", 99)
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_a_reward_models_contents_are_part_of_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "judge"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    spec = {"process_rewards": {"kind": "causal", "path": str(folder), "batch_size": 8}}
    first = identity.rewards(made_study(**spec))
    moved = shutil.copytree(folder, tmp_path / "moved")
    again = {"process_rewards": {**spec["process_rewards"], "path": str(moved), "batch_size": 2}}
    assert identity.rewards(made_study(**again)) == first  # where it lies changes nothing
    (moved / "model.safetensors").write_bytes(b"other")
    identity._contents.cache_clear()
    assert identity.rewards(made_study(**again)) != first
    with pytest.raises(UserError, match="does not exist"):
        identity.rewards(made_study(process_rewards={"kind": "causal", "path": str(tmp_path / "none")}))


@pytest.mark.promise(
    "The same numbers",
    "Only what changed runs again: words in a method's file or titles retrain nothing, another setting does.",
)
def test_words_in_a_method_do_not_change_it(tmp_path: Path) -> None:
    path = tmp_path / "method.py"
    text = '"""One."""\n\nclass A:\n    """Two."""\n    x = 1  # three\n    def f(self):\n        "four"\n'
    path.write_text(text)
    first = identity.code(path)
    path.write_text(text.replace("One", "Eins").replace("# three", "").replace("four", "vier") + "\n\n")
    assert identity.code(path) == first
    named = 'title: ClassVar[str] = "A"\n    role: ClassVar[Role] = Role.UPPER\n    x = 1'
    path.write_text(text.replace("x = 1", named))
    assert identity.code(path) == first  # what tables call it
    path.write_text(path.read_text().replace("x = 1", "x = 2"))
    assert identity.code(path) != first


# --- whose fault --------------------------------------------------------------------------------------


def raising(error: BaseException) -> Callable[..., Any]:
    def fails(*args: Any, **kwargs: Any) -> Any:
        raise error

    return fails


@pytest.mark.parametrize(
    "fault",
    [
        lambda lab: np.zeros(3)[7],  # its own code, or a library that it called
        lambda lab: {}["absent"],
        lambda lab: sys.exit(3),
        lambda lab: lab.sample(lab.problems, [1]),  # called the Lab as it cannot be called
        lambda lab: lab.budget,
        lambda lab: lab.train([], optimizer=ADAM, batch_size=1, steps=1),
        raising(RunFailed("the loss is nan")),
    ],
)
def test_what_the_method_itself_causes_is_a_row(bench: Bench, fault: Callable[[Any], Any]) -> None:
    class Faulty(Toy):
        def round(self, lab: Any, state: Any) -> None:
            fault(lab)

    bench.method = Faulty()
    manifest = bench.train()
    assert manifest["status"] == "failed" and manifest["reason"] and manifest["budgets"] == []


def test_what_a_study_lacks_is_a_row(bench: Bench) -> None:
    class Needy(Toy):
        def round(self, lab: Any, state: Any) -> None:
            raise Unavailable("no gold")

    class Idle(Toy):
        def round(self, lab: Any, state: Any) -> None:
            return

    bench.method = Needy()
    assert (bench.train()["status"], bench.train()["reason"]) == ("unavailable", "no gold")
    bench.method = Idle()
    assert "spent nothing" in bench.train()["reason"]


@pytest.mark.promise(
    "Runs that are killed", "A fault of the machine is never recorded as a result of a method."
)
@pytest.mark.parametrize(
    "fault",
    [
        RuntimeError("CUDA out of memory"),
        SafetensorError("No space left on device"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EIO, "Input/output error"),
        MemoryError(),
        KeyError("weights"),
    ],
    ids=lambda fault: type(fault).__name__,
)
@pytest.mark.parametrize("engine", ["sample", "verify", "train", "load"])
def test_a_fault_of_the_machine_is_no_row(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, engine: str, fault: Exception
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(World, engine, raising(fault))
        with pytest.raises((UserError, OSError, MemoryError)):
            bench.train()
    assert not bench.layout.run("star", 0).exists()
    assert bench.train()["status"] == "ok"  # and is run again


def test_damage_is_no_row(bench: Bench) -> None:
    bench.train()
    bench.layout.run("star", 0).unlink()
    (entry,) = bench.layout.runs.glob("star-0-*/journal/000002.json")
    entry.write_text(entry.read_text().replace("correct", "Correct").replace("wrong", "Wrong"))
    with pytest.raises(UserError, match=r"000002\.json is damaged"):
        bench.train()
    assert not bench.layout.run("star", 0).exists()


def test_a_mistake_of_the_suite_is_no_row(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.lab.sample_tally", None)  # called from a frame of the suite
    with pytest.raises(TypeError):
        bench.train()
    assert not bench.layout.run("star", 0).exists()


def test_a_checkpoint_in_anothers_place_is_not_taken_for_it(bench: Bench) -> None:
    def swap(one: Path, other: Path) -> None:
        one.rename(one.with_name("aside"))
        other.rename(one)
        one.with_name("aside").rename(other)

    bench.train()
    low, top = sorted(bench.layout.runs.glob("star-0-*/models/*/step-*"))[-2:]
    swap(low, top)
    bench.layout.run("star", 0).unlink()
    with pytest.raises(UserError, match="damaged, or another's; delete it and run again"):
        bench.train()
    swap(low, top)
    shutil.copytree(top.parent, top.parent.with_name("000006.bak"))  # a copy that somebody made
    first = bench.train()
    shutil.rmtree(low)  # what the message asks for: the weights are made again
    shutil.rmtree(top)
    assert bench.train()["budgets"] == first["budgets"] and not bench.world.requests


def test_problems_that_are_not_as_they_were_prepared_are_refused(bench: Bench) -> None:
    path = bench.layout.problems / "train.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(UserError, match=r"train\.jsonl is not as it was prepared"):
        bench.train()


def test_a_manifest_has_a_check(bench: Bench) -> None:
    bench.train()
    path = bench.layout.run("star", 0)
    text = path.read_text()
    path.write_text(text.replace('"steps": ', '"steps": 1', 1))
    with pytest.raises(UserError, match=r"star-0\.json is damaged"):
        files.read_checked(path)


def test_a_base_model_that_is_not_whole_is_named(bench: Bench) -> None:
    (bench.layout.base / "weights").write_text("others")
    with pytest.raises(UserError, match=r"the base model .* is missing or damaged; delete .*base\.json"):
        bench.train()


# --- old state ----------------------------------------------------------------------------------------


def test_old_state_is_listed_with_its_size_and_removed(bench: Bench) -> None:
    bench.train()
    (kept,) = bench.folders()
    bench.method = Toy(n=3)
    bench.train()
    bench.method = Toy()
    bench.train()
    evaluations = bench.layout.evaluations
    for part in ("star-0/gsm8k-new", "star-0/gsm8k-old", "star-1/gsm8k-begun", "rft-0/gsm8k-x"):
        files.write_text(evaluations / part / "samples", "x" * 1000)
    files.write_json(bench.layout.run("rft", 0), {})
    rows = files.read_checked(bench.layout.run("star", 0))["budgets"]
    evaluated = {"parts": ["gsm8k-new"], "budgets": {str(row["budget"]): row for row in rows}}
    files.write_checked(bench.layout.samples("star", 0).with_suffix(".json"), evaluated)

    found = cleaning.stale(made_study(), bench.layout)
    (other,) = bench.folders() - {kept}
    names = {str(one.path.relative_to(bench.layout.work)) for one in found}
    assert names == {
        f"runs/{other}", "runs/rft-0.json", "evaluations/star-0/gsm8k-old", "evaluations/rft-0"
    }  # fmt: skip
    sizes = {one.path.name: one.bytes for one in found}
    assert 1000 <= sizes["gsm8k-old"] < 20_000
    cleaning.remove(found)
    assert cleaning.stale(made_study(), bench.layout) == []
    assert bench.folders() == {kept} and (evaluations / "star-0/gsm8k-new/samples").exists()
    bench.train()
    assert not bench.world.requests and not bench.world.rows

    bench.method = Toy(n=3)  # evaluated again it will be; until then nothing of it is old
    bench.train()
    (evaluations / "star-0/gsm8k-begun").mkdir()
    left = {
        str(one.path.relative_to(bench.layout.work)) for one in cleaning.stale(made_study(), bench.layout)
    }
    assert left == {f"runs/{kept}"}


def test_a_run_at_work_is_not_removed(bench: Bench) -> None:
    bench.train()
    bench.method = Toy(n=3)
    (old,) = bench.folders()
    found = cleaning.stale(made_study(), bench.layout)
    with files.lease(bench.layout.runs / old), pytest.raises(UserError, match="is in use by process"):
        cleaning.remove(found)
    assert bench.folders() == {old}
