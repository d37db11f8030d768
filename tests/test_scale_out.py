"""The profiles: what they promise to Snakemake, and a study on a real SLURM of one node.

The SLURM runs on loopback from a temporary folder, with a munge, a controller and a node daemon of its own.
Its GPUs are other device files: it hands them out and sets CUDA_VISIBLE_DEVICES as with real ones, and torch,
which finds none, computes on the CPU.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest
import yaml
from test_end_to_end import MICRO, PATIENCE, ROOT, STUDY, Project, wait_for

PROFILES = sorted(ROOT.glob("profiles/*/config.yaml")) + sorted(
    ROOT.glob("benchmarks/profiles/*/config.yaml")
)
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
SEARCHED = f"{os.environ['PATH']}:/usr/sbin"
ABSENT = [name for name in PROGRAMS if not shutil.which(name, path=SEARCHED)]
DEVICES = ("/dev/null", "/dev/zero")  # for SLURM a GPU is any device file

CONFIGURATION = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
MinJobAge=600
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=500000 Gres=gpu:2
PartitionName=batch Nodes=node Default=YES PriorityTier=1 MaxTime=INFINITE
PartitionName=urgent Nodes=node PriorityTier=2 MaxTime=INFINITE
"""


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def poll(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} seconds for {what}"
        time.sleep(0.2)


@contextmanager
def ended(configuration: Path) -> Iterator[None]:
    """Nothing that was started with this configuration of SLURM outlives the block."""
    try:
        yield
    finally:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("SLURM_CONF") == str(configuration) and process.pid != os.getpid():
                    process.kill()


@dataclass(frozen=True)
class Slurm:
    """What the queue of a running SLURM says."""

    def jobs(self, comment: str) -> dict[str, str]:
        """State by id of all jobs, finished ones included, whose comment starts so; oldest first."""
        rows = output("squeue", "--noheader", "--states=all", "--sort=i", "--format=%i|%T|%k").splitlines()
        fields = [row.split("|") for row in rows]
        return {job: state for job, state, said in fields if said.startswith(comment)}

    def restarts(self, job: str) -> int:
        return int(output("squeue", "--noheader", "--states=all", f"--jobs={job}", "--Format=RestartCnt"))


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """A SLURM of one node with two GPUs and two partitions: jobs of `urgent` preempt those of `batch`."""
    folder = tmp_path / "slurm"
    configuration = folder / "slurm.conf"
    for name in ("bin", "state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    (folder / "gres.conf").write_text("".join(f"Name=gpu File={device}\n" for device in DEVICES))
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    values = {"folder": folder, "host": socket.gethostname(), "user": getpass.getuser()}
    ports = {"controller_port": free_port(), "node_port": free_port()}
    configuration.write_text(CONFIGURATION.format(**values, **ports))
    monkeypatch.setenv("SLURM_CONF", str(configuration))
    # The executor drops SLURM_CONF before it calls srun within a job; on a cluster that file has its usual place.
    srun = folder / "bin" / "srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={configuration} exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}:{SEARCHED}")

    def start(*command: str) -> None:
        with open(folder / f"{command[0]}.log", "ab") as log:
            subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def answers() -> bool:
        states = subprocess.run(["sinfo", "--noheader", "--format=%t"], capture_output=True, text=True)
        return "idle" in states.stdout

    with ended(configuration):
        of_munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        # --force: the folder is closed to other users, and munge would rather have them reach its socket.
        start("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *of_munge)
        poll((folder / "munge.socket").exists, "munge")
        start("slurmctld", "-D")
        start("slurmd", "-D", "-N", "node")
        poll(answers, f"SLURM's node; see the logs in {folder}")
        yield Slurm()


@pytest.mark.slow
@pytest.mark.skipif(bool(ABSENT), reason=f"no SLURM here ({', '.join(ABSENT)}): apt install slurm-wlm munge")
def test_a_preempted_and_a_cancelled_job_go_on_where_they_were(slurm: Slurm, tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project")
    small = {"methods": ["star"], "budgets": [2e9, 12e9], "gpus": 1}
    (project.root / STUDY).write_text(yaml.safe_dump({**yaml.safe_load(MICRO), **small}))
    profile = ("--workflow-profile", "benchmarks/profiles/slurm")
    impatient = ("--slurm-init-seconds-before-status-checks", "2", "--slurm-status-command", "squeue")

    study = project.start("snakemake", *profile, *impatient, "--config", f"study={STUDY}")
    wait_for(partial(project.has_journaled, 2, "star"), study)
    (job,) = slurm.jobs("rule_train")
    output("sbatch", "--partition=urgent", "--gpus=2", "--output=/dev/null", "--wrap=sleep 3")
    wait_for(lambda: slurm.restarts(job) == 1, study)
    finished = project.finished()

    wait_for(partial(project.has_journaled, len(project.journal()) + 2), study)
    output("scancel", job)
    wait_for(lambda: slurm.jobs("rule_train")[job] == "CANCELLED", study)
    finished |= project.finished()
    manifest = project.root / "work/micro/runs/star-0.json"
    assert not manifest.exists()

    printed, _ = study.communicate(timeout=PATIENCE)
    assert study.returncode == 0, printed + project.logs()
    assert list(slurm.jobs("rule_train").values()) == ["CANCELLED", "COMPLETED"]
    assert {path: path.stat().st_mtime_ns for path in finished} == finished  # nothing was done twice
    assert manifest.exists() and (project.root / "results/micro/report.html").exists()

    assert "gres:gpu:1" in output("scontrol", "show", "job", job)
    log = (project.root / "work/micro/logs/train-star-0.log").read_text()
    assert log.count("using GPUs") == 3  # those that SLURM gave, each time it was started
