"""Forgetting: a task of lm-eval's own beside the benchmarks, with its own prompts, filters and metric."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval
import pandas as pd
import pytest
import yaml
from lm_eval.tasks import TaskManager
from test_evaluation import Scripted, collected, made_run, made_study, make_model, number_of, write_manifest

from repro import forgetting, identity
from repro.collect import collect
from repro.config import Forgetting, Study
from repro.errors import UserError
from repro.evaluation import COLUMNS, SamplerModel, evaluate_run, remember
from repro.files import read_checked, read_json
from repro.flops import sample_tally
from repro.planning import plan, tuning
from repro.reporting.analysis import Analysis
from repro.reporting.recount import recount
from repro.reporting.results import load
from repro.reporting.tables import leaderboard, overview

SIZES = {"small": 3, "large": 9}  # documents of the tasks of the group


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` keeps of data files goes nowhere else."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Tasks of one's own: sums in two sizes, a group of both, and the same where both count alike."""
    own = tmp_path / "tasks"
    own.mkdir()
    metric: dict[str, Any] = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    for name, size in SIZES.items():
        docs = [{"a": n, "target": str(n + 1)} for n in range(size)]
        (own / f"{name}.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
        regex = [
            {
                "name": reads,
                "filter": [{"function": "regex", "regex_pattern": pattern}, {"function": "take_first"}],
            }
            for reads, pattern in (("strict", r"answer is (\d+)"), ("last", r"(\d+)\W*$"))
        ]
        write(own, f"sums_{name}", {
            "task": f"sums_{name}", "dataset_path": "json", "test_split": "test", "fewshot_split": "test",
            "dataset_kwargs": {"data_files": {"test": str(own / f"{name}.jsonl")}},
            "output_type": "generate_until", "doc_to_text": "{{a}} + 1 =", "doc_to_target": "{{target}}",
            "num_fewshot": 1, "repeats": 2, "metric_list": [metric], "filter_list": regex,
            "metadata": {"version": 1.5},
            "generation_kwargs": {"do_sample": True, "temperature": 0.7, "until": "\n\n", "max_gen_toks": 40},
        })  # fmt: skip
    names = [f"sums_{name}" for name in SIZES]
    for group, by_size in (("sums", True), ("sums_alike", False)):
        score = {"metric": "exact_match", "weight_by_size": by_size, "filter_list": "last"}
        write(own, f"_{group}", {"group": group, "task": names, "aggregate_metric_list": [score]})
    return own


def write(folder: Path, name: str, config: dict[str, Any]) -> None:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))


def changed(folder: Path, name: str, **keys: Any) -> None:
    """Set keys of a task."""
    config = yaml.safe_load((folder / f"{name}.yaml").read_text())
    write(folder, name, config | keys)


def say(prompt: str, _: int = 0) -> str:
    """What is right of even numbers, in words of which only the filter `last` finds the answer of 4 and 8."""
    n = int(prompt.rpartition("\n\n")[2].split()[0])
    return f"It is {n + 1}." if n % 4 == 0 else f"The answer is {n + 1 + n % 2}."


def watched(folder: Path, task: str = "sums", **keys: Any) -> Forgetting:
    return Forgetting.model_validate({"task": task, "folder": folder, "limit": 5} | keys)


# ---------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize(
    ("task", "reads"), [("sums", "last"), ("sums_alike", "last"), ("sums_large", "strict")]
)
def test_scores_are_those_of_lm_eval(folder: Path, task: str, reads: str) -> None:
    ours, other = Scripted(say), Scripted(say)
    found = remember(ours, watched(folder, task)).samples
    with forgetting.quiet():
        theirs = lm_eval.simple_evaluate(
            SamplerModel(other, 0), tasks=[task], limit=5, bootstrap_iters=0,
            task_manager=TaskManager(include_path=folder, include_defaults=False),
        )  # fmt: skip
    wanted = (theirs.get("groups") or theirs["results"])[task][f"exact_match,{reads}"]
    asked = forgetting.describe(watched(folder, task))
    assert (asked.filter, asked.metric) == (reads, "exact_match")
    by_task = found.groupby("tier")["correct"].mean()
    assert (by_task.mean() if asked.alike else found["correct"].mean()) == pytest.approx(wanted)
    assert 0 < wanted < 1
    (mine,), (its,) = ([[r.prompt for r in asked] for _, asked in one.calls] for one in (ours, other))
    assert mine == its  # the worked examples, too


def test_samples_are_rows_like_those_of_a_benchmark(folder: Path) -> None:
    found = remember(Scripted(say), watched(folder, filter="strict"))
    rows = found.samples
    assert list(rows.columns) == list(COLUMNS)
    assert set(rows["benchmark"]) == {"forgetting"} and set(rows["mode"]) == {"greedy"}
    assert rows.groupby("tier").size().to_dict() == {"sums_large": 5, "sums_small": 3}  # the limit is of each
    assert rows.loc[rows["tier"] == "sums_large", "correct"].tolist() == [False, False, True, False, False]
    assert (
        rows["problem"].str.match(r"sums_(small|large)-0000\d-[0-9a-f]{8}$").all()
        and rows["problem"].is_unique
    )
    assert found.task_versions == {"sums_small": 1.5, "sums_large": 1.5}


def test_it_asks_greedily_with_the_task_s_own_prompts(folder: Path) -> None:
    sampler = Scripted(say)
    found = remember(sampler, watched(folder, "sums_large"))
    ((params, requests),) = sampler.calls
    assert (params.temperature, params.max_tokens, params.stop) == (0.0, 40, ("\n\n",))
    assert all(
        request.prompt.endswith(f"\n\n{n} + 1 =") for n, request in enumerate(requests)
    )  # a shot before
    assert {len(request.seeds) for request in requests} == {1}
    tallies = [sample_tally(len(r.prompt.split()), [len(say(r.prompt).split()) + 1]) for r in requests]
    assert found.tally == sum(tallies[1:], tallies[0])
    again = Scripted(say)
    remember(again, watched(folder, "sums_large", max_tokens=7))
    assert again.calls[0][0].max_tokens == 7
    assert again.calls[0][1] == requests  # the same worked examples for all checkpoints


def test_a_document_that_changed_is_another(folder: Path) -> None:
    ids = set(remember(Scripted(say), watched(folder)).samples["problem"])
    docs = (folder / "small.jsonl").read_text()
    (folder / "small.jsonl").write_text(docs.replace('"target": "2"', '"target": "9"'))
    now = set(remember(Scripted(say), watched(folder)).samples["problem"])
    assert len(ids - now) >= 1 and {one.rpartition("-")[0] for one in ids} == {
        one.rpartition("-")[0] for one in now
    }


# --------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"output_type": "multiple_choice"}, "sums_small asks for log-likelihoods .*multiple_choice"),
        ({"unsafe_code": True}, "sums_small runs the code that a model writes"),
        ({"dataset_kwargs": {"trust_remote_code": True}}, "sums_small runs code from the hub"),
        ({"metric_list": [{"metric": "exact_match", "hf_evaluate": True}]}, "runs code from the hub"),
        ({"metric_list": [{"metric": "bleu"}]}, "exact_match of sums_small is no mean that should be high"),
        ({"metric_list": [{"metric": "exact_match", "higher_is_better": False}]}, "is no mean"),
        ({"doc_to_image": "picture"}, "sums_small shows more than text"),
        ({"class": "module.Task"}, "sums_small is a program"),
        ({"filter_list": None}, "sums_small has no filter last; it has none"),
        ({"dataset_kwargs": {"data_files": {"test": "gone.jsonl"}}}, "cannot be loaded .*repro fetch"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_in_a_sentence(
    folder: Path, keys: dict[str, Any], complaint: str
) -> None:
    changed(folder, "sums_small", **keys)
    with pytest.raises(UserError, match=complaint) as caught:
        forgetting.load(watched(folder))
    assert "\n" not in str(caught.value)


def test_unknown_names_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tasks has no task or group nothing; name one"):
        forgetting.describe(watched(folder, "nothing"))
    with pytest.raises(UserError, match="lm-eval has no task or group nothing; name one, such as"):
        forgetting.describe(Forgetting(task="nothing", limit=1))
    with pytest.raises(UserError, match=r"folder: .*gone does not exist"):
        forgetting.describe(watched(tmp_path / "gone"))
    changed(folder, "_sums", task=["sums_small", "elsewhere"])
    with pytest.raises(UserError, match="elsewhere is neither a task nor a plain list"):
        forgetting.describe(watched(folder))
    changed(folder, "_sums", task=["sums_small"], num_fewshot=3)
    with pytest.raises(UserError, match="sums is neither a task nor a plain list"):
        forgetting.describe(watched(folder))
    changed(folder, "_sums_alike", aggregate_metric_list=None)
    with pytest.raises(UserError, match="group sums_alike has no score"):
        forgetting.describe(watched(folder, "sums_alike"))


def test_a_score_between_right_and_wrong_is_refused(folder: Path) -> None:
    (folder / "half.py").write_text("def score(doc, found):\n    return {'exact_match': 0.5}\n")
    text = (folder / "sums_small.yaml").read_text()
    (folder / "sums_small.yaml").write_text(f"{text}process_results: !function half.score\n")
    with pytest.raises(
        UserError, match=r"exact_match of a document of sums_small is 0\.5, and neither 0 nor 1"
    ):
        remember(Scripted(say), watched(folder))


@pytest.mark.parametrize(
    ("task", "tasks", "reads", "shots", "tokens"),
    [
        ("mmlu_pro_math", 1, "custom-extract", 5, 2048),
        ("mmlu_pro", 14, "custom-extract", 5, 2048),
        ("bbh_cot_fewshot_navigate", 1, "get-answer", 3, 1024),
        ("bbh_cot_fewshot", 27, "get-answer", 3, 1024),
        ("gpqa_main_cot_zeroshot", 1, "strict-match", 0, 256),
        ("gpqa_diamond_generative_n_shot", 1, "strict-match", 0, 256),
    ],
)
def test_tasks_of_lm_eval_itself(task: str, tasks: int, reads: str, shots: int, tokens: int) -> None:
    """Their YAML as it is installed; nothing of their data."""
    asked = forgetting.describe(Forgetting(task=task, limit=1))
    assert (len(asked.tasks), asked.metric, asked.filter) == (tasks, "exact_match", reads)
    assert (asked.shots, asked.max_tokens, asked.alike) == (shots, tokens, False)


@pytest.mark.parametrize(
    ("task", "complaint"),
    [
        ("gpqa_main_zeroshot", "gpqa_main_zeroshot asks for log-likelihoods"),
        ("leaderboard_mmlu_pro", "leaderboard_mmlu_pro asks for log-likelihoods"),
        ("humaneval", "humaneval runs the code that a model writes"),
    ],
)
def test_tasks_of_lm_eval_that_are_refused(task: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        forgetting.describe(Forgetting(task=task, limit=1))


# ----------------------------------------------------------------------------------------------- a study


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    def answer(prompt: str, i: int) -> str:
        return f"#### {number_of(prompt)}" if prompt.count("\n") == 0 else say(prompt, i)

    sampler = Scripted(answer)
    monkeypatch.setattr("repro.sampling.sampler_for", lambda sampling: sampler, raising=False)
    return sampler


def study_of(folder: Path, **keys: Any) -> Study:
    return made_study(forgetting={"task": "sums", "folder": folder, "limit": 5} | keys)


def test_a_study_s_records_have_its_column(
    tmp_path: Path, folder: Path, model: Path, engine: Scripted
) -> None:
    study = study_of(folder)
    layout = made_run(tmp_path, study, model)
    rows = read_checked(layout.run("star", 3))["budgets"]
    write_manifest(layout, study, "control_base", rows)
    names = ["control_base", "star"]
    evaluate_run(study, "control_base", 3, layout)
    remembered = engine.say
    engine.say = lambda prompt, i: remembered(prompt, i).replace("answer is ", "answer is 9")
    evaluate_run(study, "star", 3, layout)
    facts = collected(layout, study, *names)["forgetting"]
    assert facts["tiers"] == ["sums_large", "sums_small"] and facts["title"] == "sums"
    assert (facts["metric"], facts["samples_per_problem"], facts["macro"]) == (
        "exact_match (last), greedy",
        0,
        False,
    )
    records = layout.results / "records"
    found = load(records)
    assert [one.name for one in found.benchmarks] == ["gsm8k", "aime24"]  # it is none of these
    assert found.forgetting and len(found.forgetting.tier_of) == 8
    # The ledger has what it took: no difference of samples and what `evaluate` is charged.
    assert not [one for one in recount(records).differences if "samples.parquet" in one]
    samples = pd.read_parquet(records / "samples.parquet")
    assert (samples["benchmark"] == "forgetting").sum() == 2 * 2 * 8
    board = overview([Analysis(found, one.name) for one in found.benchmarks])
    assert "Δ sums\n(forgetting)" in board.cells.columns
    # 0, 2 and 0, 2, 4 of 8 documents are right; both twos are forgotten.
    assert board.data.set_index("method")["forgetting"].to_dict() == {"control_base": None, "star": -0.25}
    assert any(note.startswith("Forgetting: change of exact_match (last)") for note in board.notes)
    assert any("which has 62.5 %" in note for note in board.notes)
    assert any(facts["content"] in note for note in board.notes)


def test_parts_are_done_once(tmp_path: Path, folder: Path, model: Path, engine: Scripted) -> None:
    study = study_of(folder)
    layout = made_run(tmp_path, study, model)
    evaluate_run(made_study(), "star", 3, layout)
    before = len(engine.calls)
    evaluate_run(study, "star", 3, layout)
    assert len(engine.calls) == before + 2  # one a checkpoint, and no benchmark again
    done = layout.samples("star", 3).read_bytes()
    evaluate_run(study, "star", 3, layout)
    assert len(engine.calls) == before + 2 and layout.samples("star", 3).read_bytes() == done
    facts = read_json(layout.samples("star", 3).with_suffix(".json"))
    assert facts["tasks"]["sums_large"] == 1.5 and facts["settings"]["forgetting"]["limit"] == 5
    with pytest.raises(UserError, match="other settings of `evaluation`"):
        collect(study_of(folder, limit=4), ["star"], layout, Path("made.yaml"))
    changed(folder, "sums_small", num_fewshot=0)
    with pytest.raises(UserError, match="other problems or task files"):
        collect(study, ["star"], layout, Path("made.yaml"))


@pytest.mark.parametrize(
    "keys", [{"limit": 4}, {"task": "sums_large"}, {"filter": "strict"}, {"max_tokens": 9}]
)
def test_a_part_is_told_by_what_is_asked(
    tmp_path: Path, folder: Path, model: Path, keys: dict[str, Any]
) -> None:
    study = study_of(folder)
    layout = made_run(tmp_path, study, model)
    names = identity.part_names(study, layout, "weights", 3)
    assert list(names) == ["gsm8k", "aime24", "forgetting"]
    other = identity.part_names(study_of(folder, **keys), layout, "weights", 3)
    assert other.pop("forgetting") != names.pop("forgetting") and other == names


def test_plan_counts_it_as_evaluation(
    tmp_path: Path, folder: Path, made: Callable[..., tuple[Study, Path]]
) -> None:
    (study, file), (bare, _) = made({"task": "sums", "folder": str(folder), "limit": 5}), made(None)
    layout = _layout(tmp_path)
    found, without = plan.make(study, layout, file), plan.make(bare, layout, file)
    *others, last = found.benchmarks
    assert others == without.benchmarks
    assert (last.name, last.problems, last.samples, last.max_tokens) == ("forgetting", 10, 0, 40)
    base = next(run for run in found.runs if run.method == "control_base")
    assert base.evaluate == sum(one.flops for one in found.benchmarks) * len(study.seeds)
    assert any("10 documents of sums" in sentence for sentence in found.assumptions)
    assert "greedy" in plan.render(found, []) and "forgetting" not in plan.render(without, [])


def _layout(root: Path) -> Any:
    from repro.layout import Layout

    return Layout(root, "made")


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., tuple[Study, Path]]:
    """The smoke study of two rows, which is watched or not."""
    from repro.config import load_study

    def make(spec: dict[str, Any] | None, *methods: str) -> tuple[Study, Path]:
        root = Path(__file__).parents[1]
        values = yaml.safe_load((root / "benchmarks/studies/smoke.yaml").read_text())
        values |= {"methods": list(methods) or ["control_base", "rft"]}
        values["hyperparameters"] = {"rft": values["hyperparameters"]["rft"]}
        values["evaluation"] |= {"forgetting": spec} if spec else {}
        file = tmp_path / f"study{len(methods)}.yaml"
        file.write_text(yaml.safe_dump(values))
        return load_study(file), file

    return make


def test_doctor_looks_at_the_data_and_for_the_base_model(
    tmp_path: Path, folder: Path, made: Callable[..., tuple[Study, Path]]
) -> None:
    from repro.planning.doctor import diagnose

    def problems(*methods: str) -> list[str]:
        _, file = made({"task": "sums", "folder": str(folder), "limit": 5}, *methods)
        found = diagnose(file, tmp_path)
        assert (
            any("sums: 8 documents of 2 tasks" in one.text for one in found)
            == (folder / "small.jsonl").exists()
        )
        return [one.text for one in found if not one.ok and one.check in ("data", "methods")]

    assert not problems()
    assert problems("rft") == [
        "evaluation.forgetting compares rows with the base model; add its row to methods"
    ]
    (folder / "small.jsonl").unlink()
    (lack,) = problems()
    assert "the data of sums cannot be loaded" in lack


def test_trials_are_not_watched(folder: Path, made: Callable[..., tuple[Study, Path]]) -> None:
    study, _ = made({"task": "sums", "folder": str(folder), "limit": 5})
    values = study.model_dump(mode="json") | {"tuning": {"seeds": [7, 8], "points": {"rft": [{"k_max": 4}]}}}
    tuned = Study.model_validate(values)
    assert tuned.evaluation.forgetting and tuning.trials(tuned).evaluation.forgetting is None


def test_the_name_is_taken() -> None:
    with pytest.raises(ValueError, match="give the benchmark another name"):
        made_study(
            benchmarks={"forgetting": {"file": "a.jsonl"}}, forgetting={"task": "mmlu_pro", "limit": 5}
        )


def test_nothing_is_recorded_of_a_study_without(tmp_path: Path, model: Path, engine: Scripted) -> None:
    study = made_study()
    assert "forgetting" not in study.model_dump(mode="json")["evaluation"]
    layout = made_run(tmp_path, study, model)
    evaluate_run(study, "star", 3, layout)
    assert "forgetting" not in collected(layout, study, "star")
    found = load(layout.results / "records")
    assert found.forgetting is None
    board = leaderboard(Analysis(found))
    assert not [name for name in (*board.cells.columns, *board.data.columns) if "forget" in name]
