"""Tuning: which trials are made, what they look at, what is chosen, and how a study takes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from synthetic import facts_of, run_line, solved
from synthetic import write as write_records
from test_config import GOOD

from repro import files, problems, trials
from repro.config import Study, load_study
from repro.discovery import load_method, load_methods
from repro.errors import UserError
from repro.identity import run_key
from repro.layout import Layout
from repro.planning import tuning
from repro.run import base_fingerprint

LOW, HIGH = {"optimizer": {"learning_rate": 1e-4}}, {"optimizer": {"learning_rate": 1e-2}}
POINTS = {"star": [LOW, HIGH], "control_gold": [LOW, {"batch_size": 3}]}


def study(folder: Path, **changes: Any) -> Study:
    values = GOOD | {
        "methods": {
            "star": None,
            "small": {"method": "star", "title": "Small", "n_problems": 7},
            "control_gold": None,
            "control_base": None,
        },
        "hyperparameters": {"star": {"optimizer": {"learning_rate": 1e-3, "warmup_steps": 5}}},
        "problems": GOOD["problems"] | {"validation": 8},
        "tuning": {"seeds": [10, 11], "points": POINTS},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(values | changes, sort_keys=False))
    return load_study(path)


def test_every_row_that_trains_is_tried_as_it_is_and_at_its_points(tmp_path: Path) -> None:
    tried = tuning.trials(study(tmp_path))
    assert tried.name == "tiny-trials" and tried.seeds == [10, 11] and tried.budgets == [2 * 10**9]
    methods = load_methods(tried)
    rows = ("star", "small", "control_gold")
    assert list(methods) == [f"{row}__{point}" for row in rows for point in range(3)]
    found = {name: method.model_dump() for name, method in methods.items()}
    as_it_is = load_methods(study(tmp_path))
    for row in rows:
        assert found[f"{row}__0"] == as_it_is[row].model_dump()
    # A point changes what it names and nothing beside it.
    optimizer = found["small__0"]["optimizer"]
    assert optimizer["warmup_steps"] == 5
    assert found["small__2"] == found["small__0"] | {"optimizer": optimizer | {"learning_rate": 1e-2}}
    assert found["small__0"]["n_problems"] == 7 != found["star__0"]["n_problems"]
    assert found["control_gold__2"] == found["control_gold__0"] | {"batch_size": 3}
    assert {str(method.role) for method in methods.values()} == {"method", "upper"}


@pytest.mark.promise("A fair comparison", "No hyper-parameter is chosen on test problems.")
def test_trials_ask_problems_held_out_of_training_and_none_of_the_test(tmp_path: Path) -> None:
    whole = study(tmp_path)
    drawn, tried = problems.draw(whole), problems.draw(tuning.trials(whole))
    assert drawn.tests["ladder"] != drawn.validation
    assert tried.tests == {"ladder": drawn.validation} and tried.train == drawn.train
    asked = {problem.id for problem, _ in tried.tests["ladder"]}
    others = {problem.id for problem, _ in (*drawn.train, *drawn.tests["ladder"])}
    assert len(asked) == 8 and not asked & others


def test_the_study_of_trials_is_a_file_that_any_command_takes(tmp_path: Path) -> None:
    whole = study(tmp_path)
    assert load_study(tuning.write(whole, Layout(tmp_path, whole.name))) == tuning.trials(whole)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tuning": None}, "has no key `tuning`"),
        ({"tuning": {"seeds": [1, 10], "points": POINTS}}, "seed 1 is of tuning and of the study"),
        ({"tuning": {"seeds": [10, 11], "points": {"star": [LOW]}}}, "has none for the row `control_gold`"),
        (
            {"tuning": {"seeds": [10, 11], "points": POINTS | {"small": [LOW]}}},
            "has 1 for the row `small` and 2",
        ),
        ({"tuning": {"seeds": [10, 11], "points": POINTS | {"rft": [LOW]}}}, "names `rft`, which is no row"),
        ({"tuning": {"seeds": [10, 11], "points": POINTS | {"star": [LOW] * 6}}}, "at most 5"),
        ({"tuning": {"seeds": [10, 11], "points": POINTS | {"star": [LOW, {"nn": 1}]}}}, "unknown key `nn`"),
        ({"tuning": {"seeds": [10], "points": POINTS}}, "at least 2"),
        ({"tuning": {"seeds": [10, 11], "points": POINTS | {"star": [LOW, {}]}}}, "star.1 sets nothing"),
        ({"tuning": {"seeds": [10, 11], "points": POINTS | {"star": [LOW, LOW]}}}, "star.1 is there before"),
        (
            {"tuning": {"seeds": [10, 11], "points": POINTS | {"star": [LOW, {"method": "rft"}]}}},
            "star.1 sets `method`, which is of a row",
        ),
        ({"problems": GOOD["problems"]}, "set problems.validation above 0"),
    ],
)
def test_what_no_tuning_can_be(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_methods(tuning.trials(study(tmp_path, **changes)))


@pytest.mark.parametrize(
    ("scores", "point"),
    [
        ([[0.40, 0.42], [0.50, 0.52], [0.45, 0.47]], 1),  # better by far
        ([[0.40, 0.44], [0.43, 0.45], [0.10, 0.12]], 0),  # within a standard error, 0.021: as it is
        ([[0.40, 0.44], [0.44, 0.46], [0.10, 0.12]], 1),  # just beyond it
        ([[0.40, 0.50], [0.47, 0.57], [0.0, 0.1]], 0),  # seeds that differ more
        ([[0.40, 0.42], [np.nan, 0.99], [0.39, 0.41]], 0),  # a point that fails is none
        ([[np.nan, 0.42], [0.20, 0.22], [0.10, 0.12]], 1),  # but where the row as it is fails
        ([[np.nan, np.nan], [np.nan, 0.2], [np.nan, np.nan]], 0),
        ([[0.4, 0.4], [0.4, 0.4], [0.3, 0.3]], 0),
    ],
)
def test_the_best_point_and_the_row_as_it_is_where_that_is_as_good(scores: Any, point: int) -> None:
    assert tuning.best_point(np.array(scores)) == point


def place(folder: Path, whole: Study) -> Layout:
    """Where trials were run: their problems and a base model."""
    layout = Layout(folder, f"{whole.name}-trials")
    problems.prepare(tuning.trials(whole), layout.problems)
    with files.building(layout.base) as base:
        (base / "model.safetensors").write_bytes(b"weights")
    return layout


def made(folder: Path, whole: Study, layout: Layout, spoilt: str = "") -> Path:
    """Records of the trials: point 1 of each row solves most, and the run ``spoilt`` failed."""
    tried, top = tuning.trials(whole), whole.budgets[-1]
    training_set, base = problems.read_prepared(layout.problems, "train"), base_fingerprint(layout)
    runs, samples = [], []
    for name, method in load_methods(tried).items():
        for seed in (10, 11):
            key = run_key(tried, method, name, seed, training_set, base)
            if name == spoilt:
                lack = {"status": "failed", "reason": "broken", "steps": 0, "rounds": 0}
                runs.append(run_line(name, seed, top, key=key, **lack))
                continue
            runs.append(run_line(name, seed, top, key=key, spent=1000 + seed))
            samples += solved(name, seed, top, [4 if name.endswith("1") else 1] * 6 + [seed - 10])
    benchmark = facts_of()["benchmarks"][0] | {"tiers": ["1"]}
    facts = facts_of(seeds=[10, 11], budgets=[top], benchmarks=[benchmark])
    return write_records(folder, facts, runs=runs, samples=samples)


def test_what_is_chosen_is_what_a_study_takes(tmp_path: Path) -> None:
    whole = study(tmp_path)
    layout = place(tmp_path, whole)
    records = made(tmp_path / "records", whole, layout, spoilt="control_gold__1")
    found = tuning.choose(whole, records, layout)
    assert len(found) == 3 * 3 * 2
    assert {trial.flops for trial in found if trial.method == "star"} == {1010, 1011}
    scores = [trial.score for trial in found if trial.method == "star" and trial.seed == 11]
    assert scores == pytest.approx([7 / 28, 25 / 28, 7 / 28])
    assert {(trial.method, trial.point) for trial in found if trial.chosen} == {
        ("star", 1), ("small", 1), ("control_gold", 0),
    }  # fmt: skip

    path = tmp_path / "tuning.csv"
    trials.write(path, found)
    rounded = [replace(one, score=one.score and round(one.score, 6)) for one in found]
    assert trials.read(path, "mend") == rounded
    with_it = study(tmp_path, tuned={"file": str(path), "digest": files.sha256(path)})
    before, after = load_method(whole, "small").model_dump(), load_method(with_it, "small").model_dump()
    assert after == before | {"optimizer": before["optimizer"] | {"learning_rate": 1e-4}}
    assert load_method(with_it, "small").title == "Small"
    as_it_is = load_method(whole, "control_gold").model_dump()
    assert load_method(with_it, "control_gold").model_dump() == as_it_is
    assert tuning.trials(with_it) == tuning.trials(whole)  # choosing anew does not begin where it ended


def test_a_study_names_the_very_file(tmp_path: Path) -> None:
    path = tmp_path / "tuning.csv"
    trials.write(path, [trials.Trial("star", 0, {}, 10, 5, 0.5, True)])
    with pytest.raises(UserError, match=r"tuned.digest: .* has the digest .* and the study names 0000"):
        load_methods(study(tmp_path, tuned={"file": str(path), "digest": "0000"}))
    with pytest.raises(UserError, match=r"tuned.file: .*nowhere.csv does not exist"):
        load_methods(study(tmp_path, tuned={"file": str(tmp_path / "nowhere.csv"), "digest": "0000"}))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("method,point", "lacks the column .settings."),
        ("star,x,{},1,2,,0", "line 2"),
        ('star,1,"{}x,100,5,0.5,1', "not CSV .unexpected end"),
        ("star,0,[],1,2,,0", "line 2"),
    ],
)
def test_a_file_that_holds_no_trials_is_refused_by_its_line(tmp_path: Path, line: str, sentence: str) -> None:
    path = tmp_path / "tuning.csv"
    trials.write(path, [])
    path.write_text(line + "\n" if "method" in line else path.read_text() + line + "\n")
    with pytest.raises(UserError, match=sentence):
        trials.read(path, "restore it")


def test_records_of_other_trials_are_refused(tmp_path: Path) -> None:
    whole = study(tmp_path)
    layout = place(tmp_path, whole)
    records = made(tmp_path / "records", whole, layout)

    def again(seeds: list[int], points: dict[str, Any], **changes: Any) -> None:
        tuning.choose(study(tmp_path, tuning={"seeds": seeds, "points": points}, **changes), records, layout)

    again([10, 11], POINTS)
    with pytest.raises(UserError, match="are of other trials"):
        again([10, 12], POINTS)
    with pytest.raises(UserError, match="lack the trial star__3"):
        again([10, 11], {name: [*points, {"batch_size": 2}] for name, points in POINTS.items()})
    with pytest.raises(UserError, match="have the trial star__2 with other settings"):
        again([10, 11], POINTS | {"star": [LOW, {"batch_size": 2}]})


def test_a_study_that_is_tuned_can_be_tuned_again(tmp_path: Path) -> None:
    """Whatever has become of the file that it names."""
    lost = study(tmp_path, tuned={"file": str(tmp_path / "lost.csv"), "digest": "0000"})
    assert tuning.trials(lost) == tuning.trials(study(tmp_path))
