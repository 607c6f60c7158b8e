"""Sweeps: every job in a folder of its own, none lost with another, none run twice."""

import csv
import fcntl
import json
import os
import signal
import sqlite3

import pytest
import torch

from rnnlab.training import run_record

OWN = """
import json, os, signal
import lightning.pytorch as pl
import torch

class Die(pl.Callback):
    # kills the run in which `value` is `at` in its third epoch, so many `times`
    def __init__(self, value, at, times=1):
        self.here, self.times = value == at, times

    def on_train_epoch_end(self, trainer, module):
        marks = trainer.default_root_dir + "/deaths"
        deaths = os.path.getsize(marks) if os.path.exists(marks) else 0
        if self.here and trainer.current_epoch == 2 and deaths < self.times:
            with open(marks, "a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)

class Spy(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, index):
        seen = {"rank": trainer.global_rank, "hidden_size": module.network.cell.hidden_size,
                "lr": trainer.optimizers[0].param_groups[0]["lr"], "random": torch.rand(1).item()}
        with open(f"{trainer.default_root_dir}/rank{trainer.global_rank}.json", "w") as file:
            json.dump(seen, file)
"""
SMALL = ("data=hello", "data.epoch_steps=5", "trainer.max_epochs=4", "logger=none", "trainer=cpu")


@pytest.fixture
def own(tmp_path):
    """Where callbacks of one's own are found."""
    (tmp_path / "own.py").write_text(OWN)
    return {"PYTHONPATH": str(tmp_path)}


def records(folder):
    """What the jobs of a sweep say, by what was swept."""
    found = [json.loads(path.read_text()) | {"folder": path.parent} for path in folder.glob("*/run.json")]
    return {said["settings"]["seed"]: said for said in found}


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_a_job_that_fails_leaves_the_others_alone(script, tmp_path):
    arguments = ("train", "-m", *SMALL, "callbacks.pictures=null", "optim.lr=-1,0.01",
                 f"hydra.sweep.dir={tmp_path}/sweep")  # fmt: skip
    result = script(*arguments, check=False)
    assert result.returncode == 1
    assert "Error: 1 of 2 jobs have no result" in result.stderr
    assert "optim.lr=-1 must be a number above 0" in result.stdout
    assert "2 of 2 jobs are over, 1 failed" in result.stdout
    assert f"hydra.sweep.dir={tmp_path}/sweep" in result.stderr  # how to go on
    rows = list(csv.DictReader((tmp_path / "sweep" / "results.csv").read_text().splitlines()))
    assert [(row["optim.lr"], row["status"]) for row in rows] == [("0.01", "finished"), ("-1", "failed")]
    assert float(rows[0]["test/loss"]) > 0
    assert "must be a number" in rows[1]["message"]
    assert (tmp_path / "sweep" / "results.png").stat().st_size > 5000

    # with one more value: the job that failed is run again, the one that is finished is not, the new one is added
    times = [{path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").glob("*/run.json")}]
    more = script(*arguments[:-2], "optim.lr=0.1,-1,0.01", arguments[-1], check=False)
    assert "1 of 3 jobs are finished already" in more.stdout
    times += [{path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").glob("*/run.json")}]
    assert len(times[1]) == 3
    assert [times[0][path] == times[1][path] for path in sorted(times[0])] == [False, True]


def test_a_sweep_that_was_killed_goes_on_where_it_was(script, tmp_path, own):
    arguments = ("train", "-m", *SMALL, "seed=1,2,3", "+callbacks.die={_target_: own.Die, value: ${seed}, at: 2}",
                 f"hydra.sweep.dir={tmp_path}/sweep")  # fmt: skip
    assert script(*arguments, check=False, **own).returncode == -signal.SIGKILL
    assert {seed: said["status"] for seed, said in records(tmp_path / "sweep").items()} == {1: "finished", 2: "running"}
    shown = script("results", str(tmp_path / "sweep")).stdout
    assert "1 killed" in shown
    again = script(*arguments, **own)
    assert "goes on at step 15" in again.stdout
    assert again.stdout.count("layer") == 2  # the second and the third
    assert all(said["status"] == "finished" for said in records(tmp_path / "sweep").values())
    whole = script("train", *SMALL, "seed=2", folder="whole")
    one, other = weights(whole.folder), weights(records(tmp_path / "sweep")[2]["folder"])
    assert all(map(torch.equal, one.values(), other.values()))


def test_sigterm_ends_a_sweep(script, tmp_path):
    def terminate(process):
        while process.is_alive() and not (tmp_path / "sweep" / "progress.json").exists():
            process.join(0.002)
        process.terminate()

    arguments = (*SMALL, "callbacks=none", "seed=1,2", f"hydra.sweep.dir={tmp_path}/sweep")
    ended = script("train", "-m", *arguments, killer=terminate, check=False)
    assert ended.returncode == 128 + signal.SIGTERM
    assert "To go on with what is missing: python " in ended.stderr


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_job_that_is_killed_leaves_the_others_alone(launcher, script, tmp_path, own):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    arguments = ("train", "-m", f"hydra/launcher={launcher}", *SMALL, "seed=1,2,3",
                 f"hydra.sweep.dir={tmp_path}/sweep")  # fmt: skip
    die = "+callbacks.die={_target_: own.Die, value: ${seed}, at: 2, times: 2}"  # joblib runs lost jobs again
    result = script(*arguments, die, check=False, **own)
    assert result.returncode == 1
    assert "1 killed" in result.stdout
    assert {seed: said["status"] for seed, said in records(tmp_path / "sweep").items()} == {
        1: "finished", 2: "killed", 3: "finished",
    }  # fmt: skip


def test_a_job_is_known_by_its_overrides_wherever_its_folder_is(script, tmp_path):
    where = (f"hydra.sweep.dir={tmp_path}/sweep", "hydra.sweep.subdir=${seed}/${hydra.job.override_dirname}")
    other = tmp_path / "sweep" / "other"  # failed, and not asked for here: it has no say in the exit code
    other.mkdir(parents=True)
    (other / "run.json").write_text(json.dumps({"overrides": ["seed=9"], "settings": {}, "status": "failed"}))
    swept = (*SMALL, "callbacks=none", "seed=1,1,2", "monitor=val/accuracy", "mode=max")
    first = script("train", "-m", *swept, *where)
    assert "2 of 2 jobs are over" in first.stdout
    again = script("train", "-m", *reversed(swept), *where)  # in another order
    assert "2 of 2 jobs are finished already" in again.stdout
    assert len(list((tmp_path / "sweep").rglob("run.json"))) == 2 + 1


def test_a_folder_of_another_run(script):
    script("train", *SMALL, "callbacks=none")
    record = json.loads(((run := script("train", *SMALL, "callbacks=none", "seed=2")).folder / "run.json").read_text())
    assert f"this run replaces the one that was in {run.folder}" in run.stdout
    assert record["settings"]["seed"] == 2
    (run.folder / "run.json").write_text(json.dumps({**record, "status": "stopped"}))
    refused = script("train", *SMALL, "callbacks=none", "seed=3", check=False)
    assert "holds another run, which was interrupted" in refused.stderr
    # a start that fails before it trains loses nothing
    typo = f"ckpt={run.folder}/checkpoints/lst.ckpt"
    missing = script("train", *SMALL, "callbacks=none", "seed=2", typo, check=False)
    assert "lst.ckpt: there is no such file" in missing.stderr
    gone = script("train", *SMALL, "callbacks=none", "seed=2")
    assert "goes on at step 20" in gone.stdout
    assert (run.folder / "checkpoints" / "last.old").exists()  # of seed 1
    living = {**record, "status": "running", "pid": os.getpid(), "born": run_record.process_start_time(os.getpid())}
    (run.folder / "run.json").write_text(json.dumps(living))
    assert f"process {os.getpid()} is at this run" in script("train", *SMALL, check=False).stderr


def test_a_sweep_is_one_process_at_a_time(script, tmp_path):
    (tmp_path / "sweep").mkdir()
    with (tmp_path / "sweep" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = script("train", "-m", *SMALL, "seed=1,2", f"hydra.sweep.dir={tmp_path}/sweep", check=False)
    assert "another process is at this sweep" in refused.stderr
    interval = script("train", "-m", "optim.lr=interval(1e-3,1e-2)", f"hydra.sweep.dir={tmp_path}/sweep", check=False)
    assert "Add sweep=optuna" in interval.stderr


def test_five_seeds(script, tmp_path):
    result = script("train", "sweep=seeds", *SMALL, "callbacks=none", "seed=3,4", f"hydra.sweep.dir={tmp_path}/sweep")
    assert sorted(records(tmp_path / "sweep")) == [3, 4]  # the command line replaces the values of a preset
    assert "±" in result.stdout


SEARCH = ("sweep=optuna", *SMALL, "callbacks.pictures=null", "cell=rnn,gru", "hydra.sweeper.n_trials=8")


def test_a_search_that_was_killed_goes_on(script, tmp_path, own):
    arguments = ("train", *SEARCH, "+callbacks.die={_target_: own.Die, value: ${callbacks.pruning.trial}, at: 4}",
                 f"hydra.sweep.dir={tmp_path}/sweep")  # fmt: skip
    assert script(*arguments, check=False, **own).returncode == -signal.SIGKILL
    assert "4 of 8 jobs are finished already" in script(*arguments, **own).stdout
    with sqlite3.connect(tmp_path / "sweep" / "optuna.db") as study:
        states = study.execute("select number, state from trials").fetchall()
        values = "select group_concat(param_value) from trial_params group by trial_id"
        chosen = study.execute(values).fetchall()
    assert [number for number, _ in states] == list(range(8))
    assert {state for _, state in states} <= {"COMPLETE", "PRUNED"}
    assert len(set(chosen)) == 8
    folders = [path.parent.name.partition("_")[0] for path in (tmp_path / "sweep").glob("*/run.json")]
    assert sorted(folders) == sorted(map(str, range(8)))

    other = script(*arguments[:-1], "cell=rnn,lstm", arguments[-1], check=False, **own)
    assert "holds another search: cell=rnn,gru there, cell=rnn,lstm here" in other.stderr


def test_both_ranks_of_a_trial_have_the_same_settings(script, tmp_path, own):
    script("train", *SEARCH[:-1], "hydra.sweeper.n_trials=2", "trainer=ddp_cpu", "+callbacks.spy._target_=own.Spy",
           f"hydra.sweep.dir={tmp_path}/sweep", **own)  # fmt: skip
    jobs = [path for path in (tmp_path / "sweep").iterdir() if path.is_dir()]
    assert len(jobs) == 2
    for job in jobs:
        first, second = (json.loads((job / f"rank{rank}.json").read_text()) for rank in (0, 1))
        assert first.pop("random") != second.pop("random")  # dropout
        settings = json.loads((job / "run.json").read_text())["settings"]
        assert (first.pop("rank"), second.pop("rank")) == (0, 1)
        assert first == second == {"hidden_size": settings["cell.hidden_size"], "lr": settings["optim.lr"]}


def test_a_hopeless_trial_is_given_up(script, tmp_path):
    script("train", *SEARCH[:-1], "hydra.sweeper.n_trials=12", "cell.hidden_size=8", "optim.lr=1e-9,1e-2", "cell=rnn",
           "callbacks.pruning.pruner.n_startup_trials=2", f"hydra.sweep.dir={tmp_path}/sweep")  # fmt: skip
    said = [json.loads(path.read_text()) for path in (tmp_path / "sweep").glob("*/run.json")]
    pruned = [run for run in said if run["status"] == "pruned"]
    assert 1e-9 in [run["settings"]["optim.lr"] for run in pruned]
    assert all("given up at step " in run["message"] for run in pruned)


def test_a_search_without_a_choice(script, tmp_path):
    fixed = ("optim.lr=0.1", "cell.hidden_size=8", f"hydra.sweep.dir={tmp_path}/sweep")
    result = script("train", "sweep=optuna", *SMALL, *fixed, check=False)
    assert "nothing to search for" in result.stderr
    assert result.returncode == 1
