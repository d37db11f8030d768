"""The profiles: what they promise to Snakemake, and a study on a real SLURM of one node.

The SLURM runs on loopback from a temporary folder, with a munge, a controller and a node daemon of its own.
Its GPUs are other device files: it hands them out and sets CUDA_VISIBLE_DEVICES as with real ones, and torch,
which finds none, computes on the CPU.
"""

from __future__ import annotations

import ctypes
import getpass
import os
import re
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
from test_end_to_end import MICRO, PATIENCE, ROOT, STUDY, Project, copy_tree, wait_for

PROFILES = sorted([*ROOT.glob("profiles/*/config.yaml"), *ROOT.glob("benchmarks/profiles/*/config.yaml")])
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
SEARCHED = f"{os.environ['PATH']}:/usr/sbin"
ABSENT = [name for name in PROGRAMS if not shutil.which(name, path=SEARCHED)]
PR_SET_CHILD_SUBREAPER = 36  # of prctl(2)
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


def small_study(project: Project, profile: str, gpus: int) -> list[str]:
    """Write it; the arguments of Snakemake that run it with one of benchmarks/profiles."""
    small = {
        "methods": ["star"],
        "budgets": [2e9, 8e9],
        "gpus": gpus,
        "prompt": {"template": "{question}", "hinted": "{question} ( {answer} )"},
        "evaluation": {"profile": "pocket", "benchmarks": {"ladder": {"samples": 2}}},
    }
    (project.root / STUDY).write_text(yaml.safe_dump({**yaml.safe_load(MICRO), **small}))
    return ["--workflow-profile", f"benchmarks/profiles/{profile}", "--config", f"study={STUDY}"]


def resources(planned: str, rule: str) -> dict[str, str]:
    """What a dry run says that a rule asks for."""
    found = re.search(rf"^rule {rule}:.*?^    resources: (.*?)$", planned, re.M | re.S)
    assert found, planned
    return dict(item.split("=") for item in found[1].split(", "))


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.parent.name)
def test_no_profile_hides_what_must_run_again(profile: Path) -> None:
    settings = yaml.safe_load(profile.read_text())
    assert not {"rerun-triggers", "keep-incomplete", "ignore-incomplete"} & settings.keys()
    assert settings["rerun-incomplete"] and settings["keep-going"] and settings["nolock"]


def test_profiles_name_rules_that_exist() -> None:
    rules = set(re.findall(r"^rule (\w+):", (ROOT / "Snakefile").read_text(), re.M))
    for profile in PROFILES:
        assert set(yaml.safe_load(profile.read_text()).get("set-resources", {})) <= rules


def test_a_gpu_box_counts_the_gpus_of_a_job(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project")
    planned = project.run(
        "snakemake", "-n", *small_study(project, "local-gpu", gpus=2), "--resources", "gpu=4"
    )
    assert [resources(planned, rule)["gpu"] for rule in ("base_model", "train", "evaluate")] == ["2"] * 3


def test_slurm_is_asked_for_one_process_on_one_machine(tmp_path: Path) -> None:
    pytest.importorskip("snakemake_executor_plugin_slurm", reason='pip install -e ".[slurm]"')
    project = Project.make(tmp_path / "project")
    mine = ("--default-resources", "slurm_partition=fast", "slurm_account=me")
    planned = project.run("snakemake", "-n", *small_study(project, "slurm", gpus=2), *mine)
    for rule in ("base_model", "train", "evaluate"):
        asked = resources(planned, rule)
        assert (asked["gpu"], asked["nodes"], asked["tasks_per_gpu"]) == ("2", "1", "0")
        assert int(asked["mem_mb"]) > 0 and int(asked["runtime"]) > 0  # minutes
        assert (asked["slurm_partition"], asked["slurm_account"]) == ("fast", "me")
    assert "gpu" not in resources(planned, "problems")


def test_the_kubernetes_job_runs_a_shipped_study_on_what_it_mounts(tmp_path: Path) -> None:
    volume, job = yaml.safe_load_all((ROOT / "benchmarks/profiles/kubernetes/job.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (fetch,) = pod["initContainers"]
    claims = {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
    assert claims == {volume["metadata"]["name"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts["/repro/work"] == mounts["/repro/results"] == mounts["/volume"] == "volume"
    assert all(entry["value"].startswith("/volume/") for entry in fetch["env"])
    assert fetch["env"] == container["env"] and fetch["image"] == container["image"]

    # Its very command plans the study: a dry run, in a copy of the project instead of the image.
    program, *arguments = container["command"]
    assert fetch["command"] == ["repro", "fetch", arguments[-1].removeprefix("study=")]
    copy_tree(tmp_path / "project")
    planned = Project(tmp_path / "project").run(program, "-n", *arguments)
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert f"gpu={gpus}" in arguments and int(resources(planned, "train")["gpu"]) <= gpus


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
def nothing_left() -> Iterator[None]:
    """What was started within the block does not outlive it, daemons and orphans included."""
    before = set(psutil.Process().children(recursive=True))
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0  # orphans become children of ours
    try:
        yield
    finally:
        while started := set(psutil.Process().children(recursive=True)) - before:
            for process in started:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(started, timeout=10)
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


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
    # The executor drops SLURM_CONF before it calls srun in a job; a cluster's slurm.conf has its usual place.
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

    with nothing_left():
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
    profile = small_study(project, "slurm", gpus=1)
    impatient = ("--slurm-init-seconds-before-status-checks", "2", "--slurm-status-command", "squeue")

    study = project.start("snakemake", *profile, *impatient)
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
    assert "using GPUs" in (project.root / "work/micro/logs/train-star-0.log").read_text()
