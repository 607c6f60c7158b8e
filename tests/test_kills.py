"""A run that is killed, and started again by the same command, ends as if nothing had happened.

`KILLS=20 pytest tests/test_kills.py -n 1 -rP` kills each kind of run 20 times, and 50 saves; it prints when.
"""

import os
import random
import signal
import time

import pytest
import torch
from conftest import TEXT
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from rnnlab.training import checkpoint_file

KILLS = int(os.environ.get("KILLS", "1"))
SAVES = 50 if KILLS > 1 else 10  # kills aimed at a save

OFTEN = ("trainer=cpu", "logger=[tensorboard,csv]", "checkpoint.every_minutes=0.003", "callbacks.pictures=null")
RUNS = {
    "hello": ("trainer.max_epochs=12",),
    "text": (
        "model=char", "data=text", f"data.path={TEXT}", "data.seq_len=32", "data.batch_size=8", "data.epoch_steps=40",
        "trainer.max_epochs=4", "+trainer.val_check_interval=15", "cell=lstm", "cell.num_layers=2", "cell.dropout=0.3",
        "model.dropout=0.2", "model.embedding=16", "optim=adamw_cosine", "trainer.limit_val_batches=4",
        "trainer.limit_test_batches=4",
    ),
    "waves": ("model=forecaster", "data=waves", "cell=gru", "data.num_series=2", "data.length=300",
              "trainer.max_epochs=6", "trainer.accumulate_grad_batches=3", "callbacks=gradient_flow",
              "callbacks.gradient_flow.every=10"),
    "adding": ("model=regressor", "data=adding", "data.seq_len=20", "data.num_val=100", "data.num_test=100",
               "data.epoch_steps=50", "trainer.max_epochs=6", "cell=mingru", "optim.interval=epoch",
               "++optim.scheduler={_target_: torch.optim.lr_scheduler.ReduceLROnPlateau, _partial_: true, patience: 0, "
               "threshold: 1.0}"),
    "ddp_cpu": ("model=classifier", "data=random", "data.num_train=512", "cell.num_layers=2", "cell.dropout=0.5",
                "trainer=ddp_cpu", "trainer.max_epochs=40"),
}  # fmt: skip


def scalars(folder):
    """Tag, step and value of every scalar in all files of TensorBoard's."""
    found = []
    for path in folder.glob("*tfevents*"):
        for event in EventFileLoader(str(path)).Load():
            found += [
                (value.tag, event.step, value.tensor.float_val[0])
                for value in event.summary.value
                if value.metadata.plugin_data.plugin_name == "scalars"
            ]
    return sorted(found)


def outcome(folder):
    """All that two equal runs have in common."""
    last, best = (torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("last", "best"))
    texts = [(folder / name).read_text() for name in ("metrics.json", "metrics.csv", "curves.json")]
    return last, best, scalars(folder), texts


def same(one, other):
    """Whether nested values are equal, bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one.view(torch.uint8) if one.dim() else one, other.view(torch.uint8) if one.dim() else other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def require_same(whole, again):
    for one, other in zip(whole[:2], again[:2], strict=True):
        assert one["global_step"] == other["global_step"]
        for part in ("state_dict", "optimizer_states", "lr_schedulers"):
            assert same(one[part], other[part]), part
    assert again[2] == whole[2]
    assert len({(tag, step) for tag, step, _ in again[2]}) == len(again[2])  # none twice
    assert again[3] == whole[3]


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_that_is_killed_ends_as_if_it_had_not_been(kind, script, tmp_path):
    arguments = (*OFTEN, *RUNS[kind])
    seconds = []  # from the start to the first checkpoint, and to the end

    def measure(process):
        began = time.monotonic()
        while not (tmp_path / "whole" / "checkpoints").exists():
            process.join(0.01)
        seconds.append(time.monotonic() - began)
        process.join()
        seconds.append(time.monotonic() - began)

    whole = outcome(script("train", *arguments, folder="whole", killer=measure).folder)
    first, end = seconds
    chances = random.Random(kind)
    kills = number = 0
    while kills < KILLS:
        number += 1
        wait = chances.uniform(0 if number % 4 == 1 else first, end)

        def kill(process, wait=wait):
            process.join(wait)
            process.kill()

        folder = f"killed_{number}"
        killed = script("train", *arguments, folder=folder, killer=kill, check=False)
        kills += killed.returncode == -signal.SIGKILL  # else it was over by then
        kept = checkpoint_file.kept(killed.folder)
        step = checkpoint_file.load(kept[0])["global_step"] if kept else None
        print(f"{kind} {number}: ended by {killed.returncode} after {wait:.2f} of {end:.2f} s, at step {step}")
        again = script("train", *arguments, folder=folder)
        require_same(whole, outcome(again.folder))


def test_a_kill_in_the_middle_of_a_save_leaves_a_checkpoint(script, tmp_path):
    arguments = ("data=hello", "cell=lstm", "cell.hidden_size=256", "trainer=cpu", "logger=none", "callbacks=none",
                 "trainer.max_epochs=-1", "checkpoint.every_minutes=1e-9")  # fmt: skip
    chances = random.Random(1)
    inside = 0
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    partial = last.with_suffix(".partial")
    for _ in range(SAVES):

        def kill(process):
            deadline = time.monotonic() + 60
            before = last.stat().st_mtime_ns if last.exists() else 0
            while not (last.exists() and last.stat().st_mtime_ns > before and partial.exists()):
                assert time.monotonic() < deadline
            time.sleep(chances.uniform(0, 0.01))
            process.kill()

        script("train", *arguments, killer=kill, check=False)
        inside += partial.exists()
        checkpoint_file.load(last)
    print(f"{inside} of {SAVES} kills came while a file was being written")
    assert inside > SAVES / 10
