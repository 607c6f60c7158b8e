"""Several processes in one run, and what happens when one is stopped or lost."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, environment, wait_until

TRAIN = str(ROOT / "scripts" / "train.py")
SMALL = ("model=classifier", "data=random", "data.num_train=128", "data.num_test=101", "data.num_val=33", "logger=none",
         "callbacks.pictures=null")  # fmt: skip
LONG = (*SMALL, "cell.num_layers=2", "cell.dropout=0.5", "trainer.max_epochs=100000")


def start(*command, **given):
    return subprocess.Popen([sys.executable, *command], env=environment(**given), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)  # fmt: skip


def end(process, within=180):
    """What it printed to standard output and standard error; its exit code is there then."""
    try:
        return process.communicate(timeout=within)
    finally:
        process.kill()


def status(folder):
    return json.loads((folder / "run.json").read_text())["status"]


def state(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def addresses(pid):
    """Where a process listens, as the system tells: four bytes, the first last."""
    sockets = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.exists() or path.is_symlink()}
    rows = [line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
    found = {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}
    return {socket.inet_ntoa(bytes.fromhex(address)[::-1]) if len(address) == 8 else address for address in found}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The test metrics of one process."""
    folder = tmp_path_factory.mktemp("alone")
    end(start(TRAIN, *SMALL, "trainer=cpu", "data.batch_size=32", "trainer.max_epochs=2", f"hydra.run.dir={folder}"))
    return json.loads((folder / "metrics.json").read_text())


TORCHRUN = ("-m", "torch.distributed.run")


def test_torchrun_is_one_process_with_the_same_global_batch(alone, tmp_path):
    arguments = (*SMALL, "trainer=ddp_cpu", "data.batch_size=16", "trainer.max_epochs=2", "name=together")
    process = start(*TORCHRUN, "--nproc_per_node=2", TRAIN, *arguments, f"hydra.run.dir={tmp_path}/${{name}}/"
                    "${oc.env:RNNLAB_START}")  # fmt: skip
    printed, errors = end(process)
    assert process.returncode == 0, errors
    assert "batch of a step: 32 = 2 processes x 1 batches x 16" in printed
    (folder,) = (tmp_path / "together").iterdir()  # a single one
    assert json.loads((folder / "metrics.json").read_text()) == pytest.approx(alone, abs=1e-5)


def test_two_machines_are_one_process_with_the_same_global_batch(alone, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    agent = (*TORCHRUN, "--nnodes=2", "--nproc_per_node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}",
             "--local-addr=127.0.0.1", TRAIN, *SMALL, "trainer=ddp_cpu", "data.batch_size=16", "trainer.max_epochs=2",
             f"hydra.run.dir={tmp_path}/run")  # fmt: skip
    agents = [start(*agent), start(*agent)]
    for process in agents:
        errors = end(process)[1]
        assert process.returncode == 0, errors
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == pytest.approx(alone, abs=1e-5)


DIE = """
import os, signal
import lightning.pytorch as pl

class Die(pl.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if trainer.global_step == 10 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_torchrun_starts_a_run_again_where_it_was(tmp_path):
    (tmp_path / "die.py").write_text(DIE)
    process = start(*TORCHRUN, "--nproc_per_node=2", "--max-restarts=1", TRAIN, *SMALL, "trainer=ddp_cpu",
                    "trainer.max_epochs=4", "data.batch_size=16", "+callbacks.die._target_=die.Die",
                    f"hydra.run.dir={tmp_path}/runs/${{oc.env:RNNLAB_START}}", PYTHONPATH=str(tmp_path))  # fmt: skip
    printed, errors = end(process)
    assert process.returncode == 0, errors
    assert "goes on at step 8" in printed  # of the second of four epochs of four steps
    (folder,) = (tmp_path / "runs").iterdir()
    assert status(folder) == "finished"


def test_a_sweep_under_torchrun_is_refused(script, tmp_path):
    ranks = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0",
             "TORCHELASTIC_RESTART_COUNT": "0"}  # fmt: skip
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True)
    result = script("train", "-m", *SMALL, "seed=1,2", f"hydra.sweep.dir={tmp_path}/sweep", check=False,
                    MASTER_ADDR="127.0.0.1", MASTER_PORT=str(store.port), **ranks)  # fmt: skip
    assert "use -m with trainer=ddp" in result.stderr


@pytest.mark.parametrize(("trainer", "number"), [("cpu", signal.SIGINT), ("ddp_cpu", signal.SIGTERM)])
def test_a_signal_ends_a_run_after_a_step_and_loses_nothing(trainer, number, script, tmp_path):
    folder = tmp_path / "run"
    process = start(TRAIN, *LONG, f"trainer={trainer}", f"hydra.run.dir={folder}")
    wait_until((folder / "checkpoints" / "last.ckpt").exists)
    time.sleep(0.3)
    listening = addresses(process.pid)
    process.send_signal(number)
    printed, errors = end(process)
    assert process.returncode == 128 + number, errors
    assert listening == ({"127.0.0.1"} if trainer == "ddp_cpu" else set())
    step = state(folder)["global_step"]
    assert f"Stopped by {number.name} at step {step}. To go on: ckpt={folder}" in printed
    assert status(folder) == "stopped"
    assert (folder / "figures" / "loss.png").exists()
    if trainer == "cpu":  # it goes on as if it had not been stopped
        further = (*LONG, "trainer=cpu", f"trainer.max_steps={step + 5}")
        resumed = script("train", *further, f"ckpt={folder}/checkpoints/last.ckpt", folder="resumed")
        whole = script("train", *further, folder="whole")
        one, other = (state(run.folder)["state_dict"] for run in (resumed, whole))
        assert all(map(torch.equal, one.values(), other.values()))


def test_a_second_ctrl_c_ends_a_run_in_the_middle_of_a_step(script, tmp_path):
    step = ("data=hello", "data.epoch_steps=1000000", "trainer.accumulate_grad_batches=1000000", "trainer=cpu")
    bare = ("callbacks=none", "logger=none", "+trainer.val_check_interval=10")  # which saves within the step

    def interrupt(process):
        while process.is_alive() and not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists():
            process.join(0.01)
        os.kill(process.pid, signal.SIGINT)
        process.join(1.2)  # the same signal within a second is the first one
        assert process.is_alive()
        os.kill(process.pid, signal.SIGINT)
        process.join(20)
        process.kill()

    ended = script("train", *step, *bare, killer=interrupt, check=False)
    assert ended.returncode == -signal.SIGINT


def test_a_signal_before_training_and_in_the_last_validation_ends_a_run(script, tmp_path):
    arguments = (*SMALL, "trainer=cpu", "data.num_val=30000", "trainer.max_epochs=1", "checkpoint.every_minutes=1e-9")

    def terminate_at(sign, wait):
        def terminate(process):
            while process.is_alive() and not (tmp_path / "run" / sign).exists():
                process.join(0.002)
            process.join(wait)
            process.terminate()

        return terminate

    for sign, wait in (("environment.json", 0), ("checkpoints/last.ckpt", 0.3)):  # which the first step leaves
        ended = script("train", *arguments, killer=terminate_at(sign, wait), check=False)
        assert ended.returncode == 128 + signal.SIGTERM
        assert "Stopped by SIGTERM" in ended.stdout
        assert (tmp_path / "run" / sign).exists()
        assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_run_that_loses_a_process_says_so_and_can_go_on(script, tmp_path):
    folder = tmp_path / "run"
    process = start(TRAIN, *LONG, "trainer=ddp_cpu", f"hydra.run.dir={folder}")
    wait_until((folder / "checkpoints" / "last.ckpt").exists)
    (second,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(second), signal.SIGKILL)
    _, errors = end(process)
    assert process.returncode == 1
    assert "Error: Process 1 of this run ended with code -9." in errors
    assert status(folder) == "killed"
    step = state(folder)["global_step"]
    further = ("trainer=ddp_cpu", f"trainer.max_steps={step}", f"ckpt={folder}/checkpoints/last.ckpt")
    assert f"goes on at step {step}" in script("train", *LONG, *further).stdout
