"""What one training call of the Lab takes over from another, and what it does not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from fake_engines import ADAM, PROBLEMS, World, make, make_base

from repro.method import Example


def test_two_trainings_on_the_same_data(tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    world = World()
    lab = make(tmp_path / "base", tmp_path / "run", world)
    data = [Example(problem, "w1 w2") for problem in PROBLEMS]
    for _ in range(2):
        lab.train(data, optimizer=ADAM, batch_size=4, steps=2, inherit_optimizer=True)

    (_, _, first_horizon, first_seed), (_, _, second_horizon, second_seed) = world.trainings
    assert (first_horizon, second_horizon) == (2, 4)  # the schedule goes on behind the first call's steps
    assert first_seed != second_seed
    first, second = world.rows[:8], world.rows[8:]
    assert first != second and set(first) == set(second)  # shuffled anew
    assert sorted(lab.visits.values()) == sorted(Counter(world.rows).values()) and lab.visits.total() == 16
