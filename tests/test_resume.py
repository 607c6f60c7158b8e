"""A run that goes on, or is made again, is the same run."""

import json
import random
import signal
import subprocess
from importlib.metadata import version

import numpy as np
import pytest
import torch
from conftest import ROOT, composed, needs, options
from hydra.utils import get_class
from packaging.requirements import Requirement
from test_errors import message_of
from test_kills import KILLS, same, scalars
from test_runs import kind_of

from rnnlab.training.callbacks import random_state

BARE = ("callbacks=none", "logger=none", "trainer=cpu")


def model_for(data):
    kinds = {get_class(composed(f"model={name}").model._target_).kind: name for name in options("model")}
    return kinds[kind_of(data)]


@pytest.mark.parametrize("data", options("data")[:: 1 if KILLS > 1 else 3])  # all take their time
def test_every_dataset_goes_on_in_the_middle_of_an_epoch(data, script, tmp_path):
    few = ("trainer.limit_train_batches=12", "trainer.limit_val_batches=2", "trainer.limit_test_batches=2")
    arguments = (f"model={model_for(data)}", f"data={data}", *needs(data), "cell=lstm", "cell.num_layers=2",
                 "cell.dropout=0.5", "cell.hidden_size=8", "data.batch_size=4", *few, *BARE)  # fmt: skip
    arguments += ("trainer.max_steps=40", "trainer.max_epochs=40", "checkpoint.every_minutes=1e-9")
    whole = script("train", *arguments, folder="whole")

    def kill(process):
        while not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists():
            process.join(0.002)
        process.kill()

    killed = script("train", *arguments, killer=kill, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert 0 < killed.last["global_step"] < 12
    resumed = script("train", *arguments)
    assert "goes on at step" in resumed.stdout
    one, other = whole.last, resumed.last
    assert one["global_step"] == other["global_step"] == 40
    for part in ("state_dict", "optimizer_states"):
        assert same(one[part], other[part])
    assert resumed.metrics == whole.metrics


def test_a_run_that_stopped_early_has_nothing_left_to_train(script):
    stopping = "{_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/loss, patience: 1, mode: max}"
    arguments = ("data=hello", "trainer.max_epochs=9", "data.epoch_steps=10", f"+callbacks.stopping={stopping}", *BARE)
    whole = script("train", *arguments, folder="whole")
    assert whole.last["global_step"] == 20  # the loss falls
    ckpt = f"ckpt={whole.folder / 'checkpoints' / 'last.ckpt'}"  # as it was written at the second validation
    resumed = script("train", *arguments, ckpt, folder="resumed")
    assert resumed.last["global_step"] == 20
    assert resumed.metrics == whole.metrics


def test_all_random_numbers_go_on(tmp_path):
    def draw():
        return torch.rand(3).tolist(), np.random.normal(size=3).tolist(), [random.gauss(0, 1) for _ in range(3)]

    draw()
    torch.save(random_state.state(), tmp_path / "state.pt")
    expected = draw()
    random_state.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == expected


def test_a_run_that_begins_anew_in_its_folder_does_not_mix_with_the_old(script):
    arguments = ("data=hello", "trainer=cpu", "data.epoch_steps=10", "logger=[tensorboard,csv]")
    first = script("train", *arguments, "trainer.max_epochs=3")
    again = script("train", *arguments, "trainer.max_epochs=2")
    assert "replaces the one that was in" in again.stdout
    rows = (first.folder / "metrics.csv").read_text().splitlines()[1:]
    assert max(int(row.partition(",")[0]) for row in rows) == 20
    assert (first.folder / "old.metrics.csv").exists()
    assert max(step for _, step, _ in scalars(first.folder)) == 20


def test_a_run_is_made_again_from_its_folder(script, tmp_path):
    arguments = ("data=hello", "cell=gru", "data.text='hello, again'", "optim.lr=3e-3", "data.epoch_steps=20", *BARE)
    first = script("train", *arguments, folder="first")
    again = script("train", f"again={first.folder}", folder="again")
    assert same(again.last["state_dict"], first.last["state_dict"])
    assert again.metrics == first.metrics
    other = script("train", f"again={again.folder}", "seed=2", "cell=lstm", folder="other")
    saved = other.last["rnnlab"]
    assert (saved["model"]["cell"]["_target_"], saved["data"]["text"]) == ("torch.nn.LSTM", "hello, again")
    config = first.folder / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("hidden_size: 32", "hidden_size: 33"))  # as if conf/ had changed
    refused = script("train", f"again={first.folder}", check=False)
    message_of(refused, f"again={first.folder}", "conf/ has changed", "cell.hidden_size is 32 and was 33")
    script("train", f"again={first.folder}", "cell.hidden_size=33", folder="as it was")
    message_of(script("train", f"again={tmp_path / 'none'}", check=False), f"again={tmp_path / 'none'}", "no run")


def test_where_a_run_was_made(script):
    result = script("train", "data=hello", "data.epoch_steps=2", *BARE)
    (start,) = json.loads((result.folder / "environment.json").read_text())
    assert {name: start["packages"][name] for name in ("torch", "lightning", "hydra-core", "rnnlab")} == {
        name: version(name) for name in ("torch", "lightning", "hydra-core", "rnnlab")
    }
    assert start["threads"] == 1
    assert start["command"][1:3] == ["data=hello", "data.epoch_steps=2"]
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if commit.returncode == 0:
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
        assert (start["commit"], start["clean"]) == (commit.stdout.strip(), not changes)
    ckpt = f"ckpt={result.folder / 'checkpoints' / 'last.ckpt'}"
    script("train", "data=hello", "data.epoch_steps=2", "trainer.max_epochs=2", ckpt, *BARE)
    assert len(json.loads((result.folder / "environment.json").read_text())) == 2  # a start each


def test_releases_of_lightning_that_were_compromised_are_refused():
    found = [line.strip(' ",') for line in (ROOT / "pyproject.toml").read_text().splitlines() if '"lightning' in line]
    (needed,) = map(Requirement, found)
    assert [release for release in ("2.6.1", "2.6.2", "2.6.3", "2.6.6") if release in needed.specifier] == ["2.6.6"]
