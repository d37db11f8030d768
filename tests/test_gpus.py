"""GPU slots: free devices, each for one job, given back when the job ends however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from repro import gpus
from repro.errors import UserError


@pytest.fixture(autouse=True)
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,5,7")
    monkeypatch.setattr(gpus, "POLL", 0.01)


def test_jobs_share_the_devices_out(tmp_path: Path) -> None:
    with gpus.claim(2, tmp_path) as first:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ",".join(first) == "0,2"
        os.environ["CUDA_VISIBLE_DEVICES"] = "0,2,5,7"  # as another process sees it
        with gpus.claim(2, tmp_path) as second:
            assert second == ["5", "7"]
    with gpus.claim(4, tmp_path) as all_of_them:
        assert all_of_them == ["0", "2", "5", "7"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,2,5,7"


def test_a_job_waits_for_all_that_it_needs_and_holds_none_meanwhile(tmp_path: Path) -> None:
    got = threading.Event()

    def job() -> None:
        with gpus.claim(3, tmp_path):
            got.set()

    with gpus.claim(2, tmp_path):
        os.environ["CUDA_VISIBLE_DEVICES"] = "0,2,5,7"
        waiting = threading.Thread(target=job)
        waiting.start()
        assert not got.wait(0.1)
        with gpus.claim(2, tmp_path):  # the one that waits for three has not taken the two that are left
            pass
    waiting.join(5)
    assert got.is_set()


def test_a_killed_job_gives_its_devices_back(tmp_path: Path) -> None:
    lines = [
        "from pathlib import Path",
        "from repro.gpus import claim",
        f"with claim(4, Path({str(tmp_path)!r})): print('held', flush=True); input()",
    ]
    program = "\n".join(lines)
    job = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert job.stdout and job.stdout.readline() == "held\n"
    job.send_signal(signal.SIGKILL)
    job.wait()
    with gpus.claim(4, tmp_path) as held:
        assert len(held) == 4


def test_too_few_devices_are_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(UserError, match="asks for 5 GPUs per job and 4 are visible here"),
        gpus.claim(5, tmp_path),
    ):
        pass
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(UserError, match="and 0 are visible"), gpus.claim(1, tmp_path):
        pass
    with gpus.claim(0, tmp_path):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"  # a job that asks for none is left alone
