"""How far a study is, as it can be seen from outside: state by state, and that looking touches nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import Any

import pandas as pd
import pytest
from fake_engines import Crash
from test_run import BUDGETS, Bench, Planner, Toy, made_study
from typer.testing import CliRunner

from repro import cli, files, identity
from repro.journal import PROGRESS
from repro.method import Unavailable
from repro.planning import status
from repro.planning.serving import server
from repro.planning.status import State, Status, Watch, duration


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path, monkeypatch)
    files.write_checked(made.layout.base_manifest, {"fingerprint": files.fingerprint(made.layout.base)})
    monkeypatch.setattr(status, "load_methods", lambda study: {"star": made.method})
    return made


def look(bench: Bench, **more: Any) -> Status:
    return Watch(made_study(**more), bench.layout).look()


def states(found: Status) -> dict[int, State]:
    return {run.seed: run.state for run in found.runs}


def evaluated(bench: Bench, manifest: dict[str, Any], right: list[tuple[str, str, int, bool]]) -> None:
    """An evaluation with these sampled completions: tier, problem, budget, whether it is right."""
    samples = bench.layout.samples("star", manifest["seed"])
    rows = [
        ("star", manifest["seed"], b, "gsm8k", "sampled", tier, problem, ok) for tier, problem, b, ok in right
    ]
    rows.append(("star", manifest["seed"], BUDGETS[-1], "gsm8k", "greedy", "a", "p1", True))
    columns = ["method", "seed", "budget", "benchmark", "mode", "tier", "problem", "correct"]
    samples.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=columns).to_parquet(samples)
    files.write_checked(samples.with_suffix(".json"), {"key": manifest["key"]})


def only_folder(bench: Bench) -> Path:
    (folder,) = (path for path in bench.layout.runs.iterdir() if path.is_dir())
    return folder


def test_a_study_goes_from_state_to_state(bench: Bench) -> None:
    assert states(look(bench)) == {0: State.WAITING, 1: State.WAITING}
    manifest = bench.train()
    found = look(bench)
    assert states(found) == {0: State.TRAINED, 1: State.WAITING}
    run = found.runs[0]
    assert run.spent == manifest["budgets"][-1]["spent"] and run.share == run.spent / BUDGETS[-1]
    assert run.round == manifest["budgets"][-1]["rounds"]
    assert run.seconds == sum(row["seconds"] for row in manifest["machine"])
    with files.lease(bench.layout.samples("star", 0).with_suffix("")):
        assert states(look(bench))[0] is State.EVALUATING
    right = [("a", "p1", BUDGETS[-1], True), ("a", "p1", BUDGETS[-1], True), ("a", "p2", BUDGETS[-1], False),
             ("a", "p2", BUDGETS[0], True)]  # fmt: skip
    evaluated(bench, manifest, right)
    found = look(bench)
    assert states(found)[0] is State.EVALUATED and found.runs[0].score == 0.5 and not found.over
    evaluated(bench, bench.train(seed=1), right)
    assert look(bench).over


def test_a_run_at_work_says_how_far_it_is(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Status] = []

    class Watched(Toy):
        def round(self, lab: Any, state: Any) -> None:
            if lab.round == 3:
                seen.append(look(bench))
                assert seen[-1].runs[0].spent == lab.spent
            super().round(lab, state)

    bench.method = Watched()
    bench.train()
    (found,) = seen
    run = found.runs[0]
    assert run.state is State.RUNNING and run.round == 2 and 0 < (run.share or 0) < 1
    assert run.holder == f"{os.getpid()} on {os.uname().nodename}"


def test_a_killed_run_has_stopped_and_keeps_its_place(bench: Bench) -> None:
    class Killed(Toy):
        def round(self, lab: Any, state: Any) -> None:
            if lab.round == 3:
                raise Crash
            super().round(lab, state)

    bench.method = Killed()
    with pytest.raises(BaseException):  # noqa: B017 (as a process that dies)
        bench.train()
    run = look(bench).runs[0]
    assert run.state is State.STOPPED and run.holder is None and run.round == 2 and run.spent
    folder = only_folder(bench)
    for text in ("", '{"spent": 3', "[]", '{"spent": "x", "seconds": 1, "round": 1}'):
        (folder / PROGRESS).write_text(text)
        run = look(bench).runs[0]
        assert run.state is State.STOPPED and run.spent is None


def test_time_left_is_at_the_run_s_own_pace_or_that_of_all(bench: Bench) -> None:
    study = made_study()
    watch = Watch(study, bench.layout)
    watch.look()
    folder = bench.layout.runs / identity.folder_name(
        "star", 0, watch._keys["star", 0], bench.method, BUDGETS[-1]
    )
    folder.mkdir(parents=True)
    files.write_lightly(folder / PROGRESS, json.dumps({"spent": 80_000, "seconds": 20.0, "round": 1}))
    found = watch.look()
    assert [run.share for run in found.runs] == [0.25, None] and found.runs[0].rate == 4_000
    assert [found.left(run) for run in found.runs] == [60.0, 80.0]
    assert "1 waiting, 1 stopped" in found.sentence() and "2 min of training left" in found.sentence()
    assert "80,000 FLOP of 640,000 FLOP spent (12.5 %)" in found.sentence()


def test_a_method_that_plans_is_the_sum_of_its_budgets(bench: Bench) -> None:
    bench.method = Planner()
    assert look(bench).runs[0].due == sum(BUDGETS)
    manifest = bench.train()
    run = look(bench).runs[0]
    assert run.state is State.TRAINED
    assert run.spent == sum(row["spent"] for row in manifest["budgets"])


def test_failures_have_their_reason(bench: Bench) -> None:
    class Failing(Toy):
        def round(self, lab: Any, state: Any) -> None:
            raise Unavailable("there is no scorer") if self.n == 2 else ValueError("no")

    bench.method = Failing()
    bench.train()
    run = look(bench).runs[0]
    assert run.state is State.UNAVAILABLE and run.reason == "there is no scorer"
    assert "there is no scorer" in look(bench).table().text()
    bench.method = Failing(n=3)
    assert states(look(bench))[0] is State.WAITING  # that was another run
    bench.train()
    run = look(bench).runs[0]
    assert run.state is State.FAILED and "in round 1: no" in run.reason


def test_old_and_half_written_manifests_are_none(bench: Bench) -> None:
    manifest = bench.train()
    path = bench.layout.run("star", 0)
    whole = path.read_bytes()
    for data in (b"", whole[:100], whole.replace(b'"ok"', b'"no"'), b"[1]"):
        path.write_bytes(data)
        assert states(look(bench))[0] is State.STOPPED
    path.write_bytes(whole)
    assert states(look(bench, budgets=[160_000]))[0] is not State.TRAINED  # asked for others
    assert states(look(bench))[0] is State.TRAINED
    evaluated(bench, manifest | {"key": "other"}, [])
    assert states(look(bench))[0] is State.TRAINED
    bench.layout.samples("star", 0).write_bytes(b"half")
    files.write_checked(bench.layout.samples("star", 0).with_suffix(".json"), {"key": manifest["key"]})
    run = look(bench).runs[0]
    assert run.state is State.EVALUATED and run.score is None


def test_what_a_study_lacks_is_said(bench: Bench) -> None:
    bench.layout.base_manifest.unlink()
    found = look(bench)
    assert found.lacks == "The base model is not made yet." and states(found)[0] is State.WAITING
    (bench.layout.problems / "report.json").unlink()
    assert look(bench).lacks == "The problems are not prepared yet."
    json.loads(found.to_json())


def test_a_second_look_sees_what_has_changed(bench: Bench) -> None:
    watch = Watch(made_study(), bench.layout)
    assert watch.look().runs[0].state is State.WAITING
    bench.train()
    assert watch.look().runs[0].state is State.TRAINED
    bench.layout.run("star", 0).unlink()
    assert watch.look().runs[0].state is State.STOPPED


def test_looking_writes_nothing_and_takes_no_lock(bench: Bench) -> None:
    bench.train()

    def tree() -> dict[Path, tuple[int, int]]:
        found = {path: path.stat() for path in bench.layout.root.rglob("*")}
        return {path: (one.st_mtime_ns, one.st_size) for path, one in found.items()}

    before = tree()
    look(bench).html()
    assert tree() == before
    with files.lease(only_folder(bench)):  # a run that asks for its lease while somebody looks gets it
        assert "trained" in look(bench).table().text()


def test_the_command_says_it_of_a_study_that_has_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = Path(__file__).parent.parent / "benchmarks" / "studies" / "smoke.yaml"
    result = CliRunner().invoke(cli.app, ["status", str(study), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert {run["state"] for run in found["runs"]} == {"waiting"} and not found["over"]
    assert found["workflow"] is None and not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------- who holds it

HOLD = """
import sys, time
from pathlib import Path
from repro.files import lease
with lease(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_holder_is_seen_until_it_ends_or_dies(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert files.holder(folder) is None
    with files.lease(folder):
        assert files.holder(folder) == f"{os.getpid()} on {os.uname().nodename}"
    assert files.holder(folder) is None
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "held\n"
    assert files.holder(folder) == f"{process.pid} on {os.uname().nodename}"
    process.kill()
    process.wait()
    assert (folder / "lease").read_text() and files.holder(folder) is None  # its name is all that is left
    (folder / "lease").write_text("7 on elsewhere")
    assert files.holder(folder) == "7 on elsewhere"


# ----------------------------------------------------------------------------------------------- the page


@pytest.fixture
def port(bench: Bench) -> Iterator[int]:
    bench.train()
    with server(Watch(made_study(title="<i>Made</i>"), bench.layout), 0) as page:
        thread = Thread(target=page.serve_forever)
        thread.start()
        assert page.server_address[0] == "127.0.0.1"
        yield page.server_address[1]
        page.shutdown()
        thread.join()


def ask(port: int, path: str = "/", host: str = "", method: str = "GET") -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, headers={"Host": host or f"localhost:{port}"})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


@pytest.mark.promise("Files and code of others", "The page of `repro status` answers this machine alone.")
def test_the_page_is_for_this_machine_alone(port: int) -> None:
    code, text = ask(port)
    assert code == 200 and "trained" in text and 'http-equiv="refresh"' in text
    assert "&lt;i&gt;Made&lt;/i&gt;" in text and "<i>" not in text
    assert ask(port, host=f"127.0.0.1:{port}")[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "localhost", f"localhost:{port + 1}"):
        assert ask(port, host=host)[0] == 403
    for method in ("POST", "PUT", "DELETE", "HEAD"):
        assert ask(port, method=method)[0] == 501
    assert ask(port, "/../pyproject.toml")[0] == 404
    code, text = ask(port, "/status.json")
    assert code == 200 and json.loads(text)["runs"][0]["state"] == "trained"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.2, "1 s"),
        (59, "59 s"),
        (61, "1 min"),
        (3599, "1 h 0 min"),
        (3700, "1 h 2 min"),
        (100_000, "1 d 4 h"),
    ],
)
def test_durations_are_for_people(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
