"""Sweeps and runs on engines that few machines have: a real Slurm and a real Ray, both on loopback."""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import pytest
from conftest import ENVIRONMENT, ROOT, wait_until
from test_processes import LONG, SMALL, TRAIN, end, start, state

needs_slurm = pytest.mark.skipif(
    shutil.which("slurmctld") is None or socket.gethostbyname(socket.gethostname()) != "127.0.0.1",
    reason="NO SLURM HERE: tests/slurm/slurm install brings it, and the host's name has to be 127.0.0.1",
)
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins.hydra_ray_launcher") is None, reason='NO RAY HERE: pip install -e ".[ray]"'
)
SLURM = str(ROOT / "tests" / "slurm" / "slurm")


def sh(command, **environment):
    return subprocess.run(command, env={**os.environ, **ENVIRONMENT, **environment}, shell=True, check=True,
                          capture_output=True, text=True, timeout=120).stdout  # fmt: skip


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment in which a Slurm of one node is used."""
    folder = tmp_path_factory.mktemp("slurm")
    settings = sh(f"{SLURM} start {folder}").removeprefix("export ").split()
    try:
        yield {key: os.path.expandvars(value) for key, value in (setting.split("=", 1) for setting in settings)}
    finally:
        sh(f"{SLURM} stop {folder}")


def records(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/run.json"))]


@needs_slurm
def test_a_job_of_a_slurm_sweep_that_is_queued_again_goes_on(slurm, tmp_path):
    sweep = start(TRAIN, "-m", "hydra/launcher=submitit_slurm", "hydra.launcher.mem_gb=2", *LONG, "trainer=cpu",
                  "trainer.max_epochs=800", "seed=1,2", f"hydra.sweep.dir={tmp_path}", **slurm)  # fmt: skip
    wait_until(lambda: len(list(tmp_path.glob("[01]_*/checkpoints/last.ckpt"))) == 2)
    jobs = sorted(tmp_path.glob("[01]_*/checkpoints/last.ckpt"))
    number = sh("squeue --noheader --array --format=%i --states=running", **slurm).split()[0]
    sh(f"scontrol requeue {number}", **slurm)
    running = "squeue --noheader --array --format=%i --states=running"
    wait_until(lambda: number not in sh(running, **slurm).split())
    time.sleep(3)
    sh(f"scontrol update JobId={number} StartTime=now", **slurm)  # Slurm itself waits for two minutes
    errors = end(sweep, 120)[1]
    assert sweep.returncode == 0, errors
    assert [said["status"] for said in records(tmp_path)] == ["finished"] * 2
    logs = "".join(path.read_text() for path in tmp_path.glob(".submitit/*/*_log.out"))
    assert logs.count("Stopped by SIGTERM at step") == logs.count("goes on at step") == 1
    assert {state(path.parents[1])["global_step"] for path in jobs} == {3200}


@needs_slurm
def test_srun_is_one_process_with_the_same_global_batch(slurm, tmp_path):
    small = " ".join((*SMALL, "trainer.max_epochs=2"))
    run = f"{sys.executable} {TRAIN} {small}"
    sh(f"{run} trainer=cpu data.batch_size=32 hydra.run.dir={tmp_path}/alone")
    printed = sh(f"srun --ntasks=2 {run} trainer=slurm trainer.precision=32-true data.batch_size=16 "
                 f"'hydra.run.dir={tmp_path}/runs/${{oc.env:RNNLAB_START}}'", **slurm)  # fmt: skip
    assert "batch of a step: 32 = 2 processes x 1 batches x 16" in printed
    (folder,) = (tmp_path / "runs").iterdir()
    alone = json.loads((tmp_path / "alone" / "metrics.json").read_text())
    assert json.loads((folder / "metrics.json").read_text()) == pytest.approx(alone, abs=1e-5)


JOB = """#!/bin/sh
#SBATCH --ntasks=2 --mem=2G --output={folder}/log --open-mode=append --requeue
srun {run} trainer=slurm trainer.precision=32-true 'hydra.run.dir={folder}/${{oc.env:RNNLAB_START}}'
"""


@needs_slurm
def test_a_job_that_slurm_warns_queues_itself_again_and_goes_on(slurm, tmp_path):
    run = " ".join((sys.executable, TRAIN, *LONG, "trainer.max_epochs=1000"))
    (tmp_path / "job").write_text(JOB.format(folder=tmp_path, run=run))
    number = sh(f"sbatch --parsable {tmp_path}/job", **slurm).strip()
    folder = tmp_path / f"slurm_{number}_0"
    wait_until((folder / "checkpoints" / "last.ckpt").exists)
    sh(f"scancel --signal=USR1 {number}", **slurm)
    wait_until(lambda: "Stopped by SIGUSR1" in (tmp_path / "log").read_text())
    wait_until(lambda: "PENDING" in sh(f"squeue --noheader --format=%T --jobs={number}", **slurm))
    time.sleep(3)
    sh(f"scontrol update JobId={number} StartTime=now", **slurm)
    wait_until((folder / "metrics.json").exists)
    log = (tmp_path / "log").read_text()
    assert log.count("Stopped by SIGUSR1 at step") == log.count("goes on at step") == 1
    wait_until(lambda: records(tmp_path)[0]["status"] == "finished")


@pytest.fixture(scope="module")
def ray():
    """The environment of a Ray cluster on loopback."""
    folder = tempfile.mkdtemp()  # with a short name, as the names of sockets have to be
    # without the first Ray takes the machine's address in place of 127.0.0.1
    environment = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_TMPDIR": folder}
    sh(f"{sys.executable} -m ray.scripts.scripts start --head --node-ip-address=127.0.0.1 --num-cpus=2 "
       "--include-dashboard=false --object-store-memory=100000000 --disable-usage-stats", **environment)  # fmt: skip
    try:
        yield environment
    finally:
        sh(f"{sys.executable} -m ray.scripts.scripts stop --force", **environment)
        shutil.rmtree(folder)


@needs_ray
def test_a_ray_cluster_runs_a_sweep_and_a_killed_job_again(ray, tmp_path):
    sweep = start(TRAIN, "-m", "hydra/launcher=ray", "hydra.launcher.ray.init.address=auto",
                  "+hydra.launcher.ray.init.object_store_memory=null", *LONG, "trainer=cpu", "trainer.max_epochs=800",
                  "seed=1,2,3", f"hydra.sweep.dir={tmp_path}", **ray)  # fmt: skip
    wait_until(lambda: list(tmp_path.glob("*/checkpoints/last.ckpt")))
    (first, *_) = sorted(tmp_path.glob("*/checkpoints/last.ckpt"))
    os.kill(json.loads((first.parents[1] / "run.json").read_text())["pid"], signal.SIGKILL)
    printed, errors = end(sweep, 120)
    assert sweep.returncode == 0, errors
    assert [said["status"] for said in records(tmp_path)] == ["finished"] * 3
    assert "goes on at step" in printed
