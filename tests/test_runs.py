"""Whole runs, started as a user starts them."""

import json
import re
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, composed, needs, options
from hydra.utils import get_class, instantiate
from torch import nn

from rnnlab.data.spec import SequenceSpec
from rnnlab.training import checkpoint
from rnnlab.training.checkpoint_file import FORMAT


@cache
def kind_of(data):
    """What a dataset gives with its defaults."""
    datamodule = instantiate(composed(f"data={data}", *needs(data)).data)
    datamodule.setup("fit")
    return datamodule.spec.kind


def jobs(folder):
    return sorted(path.parent for path in folder.glob("*/metrics.json"))


def test_hello_is_learned_by_every_cell_for_20_seeds(script, tmp_path):
    done = script(
        "train", "-m", "experiment=tutorial/hello", "cell=rnn,lstm,gru", "seed=range(20)", "logger=none",
        "callbacks=none", f"hydra.sweep.dir={tmp_path}/sweep",
    )  # fmt: skip
    finished = jobs(tmp_path / "sweep")
    assert len(finished) == 60
    assert all(json.loads((job / "metrics.json").read_text())["test/accuracy"] == 1.0 for job in finished)
    assert done.stdout.count("'hell' -> 'ello'") == 60


def test_the_run_is_the_plain_loop(script):
    result = script("train", "experiment=tutorial/hello", "seed=7", "logger=csv", "trainer.log_every_n_steps=1")
    rows = [line.split(",") for line in (result.folder / "metrics.csv").read_text().splitlines()]
    losses, norms = (
        [float(row[column]) for row in rows[1:] if row[column]]
        for column in map(rows[0].index, ("train/loss", "train/grad_norm"))
    )

    torch.manual_seed(7)
    rnn, head = nn.RNN(4, 8, batch_first=True), nn.Linear(8, 4)
    optimizer = torch.optim.Adam([*rnn.parameters(), *head.parameters()], lr=0.01)
    x, y = torch.eye(4)[torch.tensor([[0, 1, 2, 2]])], torch.tensor([1, 2, 2, 3])
    expected, lengths = [], []
    for _ in range(100):
        loss = F.cross_entropy(head(rnn(x)[0])[0], y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
        gradient = [weight.grad.flatten() for weight in (*rnn.parameters(), *head.parameters())]
        lengths.append(torch.cat(gradient).square().sum().sqrt().item())
    assert losses == pytest.approx(expected, abs=1e-6)
    assert norms == pytest.approx(lengths, abs=1e-6)


def test_parameter_counts_of_the_tutorials(script, tmp_path):
    expected = {
        "hello": [112, 36, 148],
        "classify_random": [120, 18, 138],
        "regress_random": [640, 21, 661],
        "binary_random": [640, 42, 682],
        "value_random": [130, 11, 141],
    }
    presets = ",".join(f"tutorial/{name}" for name in expected)
    done = script("train", "-m", f"experiment={presets}", "trainer.max_epochs=1", f"hydra.sweep.dir={tmp_path}/sweep")
    counts = re.findall(r"│\s*(?:cell|head|total)\s*│.*│\s*([\d,]+)\s*│", done.stdout)
    assert [int(count.replace(",", "")) for count in counts] == [count for row in expected.values() for count in row]
    for shapes in ("(3, 7, 5)", "(3, 2)", "(1, 4, 8), (1, 1, 8)", "(5, 10, 10), (1, 5, 10)"):
        assert shapes in done.stdout


def test_parameter_count_of_the_shakespeare_recipe():
    cfg = composed("experiment=shakespeare", "data.path=any")
    signs = 65  # of tinyshakespeare
    model = instantiate(cfg.model, spec=SequenceSpec("tokens", signs, signs, 64).as_dict())
    lstm = 4 * 640 * (64 + 640 + 2)
    assert sum(map(torch.numel, model.parameters())) == signs * 64 + lstm + 641 * signs  # 1.9 M


@pytest.mark.parametrize("model", options("model"))
@pytest.mark.parametrize("data", options("data"))
def test_every_pair_trains_or_says_what_fits(model, data, script, tmp_path):
    task = get_class(composed(f"model={model}").model._target_)
    if task.kind != kind_of(data):
        refused = script("train", f"model={model}", f"data={data}", *needs(data), check=False)
        assert refused.returncode == 1
        message = f"model={model} reads {task.kind}, data={data} gives {kind_of(data)}: use model="
        assert refused.stderr.startswith(f"Error: {message}")
        assert refused.stderr.count("\n") == 1
        return
    # every cell with a task's first dataset, a quarter of them with each other one
    number = [name for name in options("data") if kind_of(name) == task.kind].index(data)
    cells = options("cell")[number % 4 :: 4] if number else options("cell")
    common = ("-m", f"model={model}", f"data={data}", *needs(data), "trainer.max_epochs=2",
              "trainer.limit_train_batches=5", "trainer.limit_val_batches=20", "trainer.limit_test_batches=20",
              f"hydra.sweep.dir={tmp_path}/sweep")  # fmt: skip
    script("train", *common, f"cell={cells[0]}")
    # what a task shows, which takes most of the time, does not depend on the cell
    others = (f"cell={','.join(cells[1:])}", "callbacks.pictures=null", "hydra.sweep.subdir=more_${hydra.job.num}")
    script("train", *common, *others)
    finished = jobs(tmp_path / "sweep")
    assert len(finished) == len(cells)
    for job in finished:
        assert all(name.startswith("test/") for name in json.loads((job / "metrics.json").read_text()))
        assert (job / "figures" / "loss.png").stat().st_size > 1000
        for kept in ("best", "last"):
            saved = checkpoint.load(job / "checkpoints" / f"{kept}.ckpt")
            rebuilt = checkpoint.load_model(saved, job)
            by_lightning = task.load_from_checkpoint(job / "checkpoints" / f"{kept}.ckpt", weights_only=True)
            assert all(map(torch.equal, rebuilt.state_dict().values(), by_lightning.cpu().state_dict().values()))


@pytest.mark.parametrize(
    "overrides",
    [("data=hello", "cell=lstm"), ("model=classifier", "data=random"), ("model=forecaster", "data=waves")],
)
def test_evaluate_gives_the_metrics_of_training_to_the_last_digit(overrides, script):
    trained = script("train", *overrides, "trainer.max_epochs=2", "mode=max")
    ckpt = trained.folder / "checkpoints" / "best.ckpt"
    best, last = (torch.load(ckpt.with_stem(name), weights_only=True) for name in ("best", "last"))
    assert best["rnnlab"]["format"] == FORMAT
    assert best["global_step"] < last["global_step"]  # the loss falls
    evaluated = script("evaluate", f"ckpt={ckpt}", folder="evaluation")
    assert evaluated.metrics == trained.metrics
    table = re.compile(r"│ (test/\S+)\s*│ (\S+)\s*│")
    assert table.findall(evaluated.stdout) == table.findall(trained.stdout) != []


def test_evaluate_on_other_data(script):
    trained = script("train", "experiment=tutorial/hello")
    ckpt = trained.folder / "checkpoints" / "best.ckpt"
    other = script("evaluate", f"ckpt={ckpt}", "+data.text=hell", folder="hell")
    assert "'hel' -> 'ell'" in other.stdout
    unknown = script("evaluate", f"ckpt={ckpt}", "data=hello", "data.text=world", folder="world", check=False)
    assert unknown.returncode == 1
    assert "'wrd'" in unknown.stderr


def test_ddp_is_one_process_with_the_same_global_batch(script):
    """With SGD at learning rate 1 a step subtracts the gradient, so equal weights are equal gradients."""

    def final(folder, *overrides):
        result = script("train", "model=classifier", "data=random", "data.num_test=101", "data.num_val=33",
                        *overrides, folder=folder)  # fmt: skip
        weights = result.last["state_dict"]
        return result, weights

    gradient = ("optim=sgd", "optim.lr=1", "optim.optimizer.momentum=0", "trainer.max_steps=1")
    _, alone = final("one-step", "trainer=cpu", "data.batch_size=32", *gradient)
    _, together = final("one-step-ddp", "trainer=ddp_cpu", "data.batch_size=16", *gradient)
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)

    one, alone = final("run", "trainer=cpu", "data.batch_size=32", "trainer.max_epochs=2")
    two, together = final("run-ddp", "trainer=ddp_cpu", "data.batch_size=16", "trainer.max_epochs=2")
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert two.metrics == pytest.approx(one.metrics, abs=1e-6)
    assert two.stdout.startswith("batch of a step: 32 = 2 processes x 1 batches x 16\n")
    assert len(two.stdout.splitlines()) == len(one.stdout.splitlines()) + 1  # nothing is printed twice
    names = [path.name for path in two.folder.iterdir()]
    assert sum(name.startswith("events") for name in names) == sum(
        path.name.startswith("events") for path in one.folder.iterdir()
    )
    assert not two.stderr


def test_ranks_with_different_numbers_of_predictions(script):
    """Some windows of a batch have fewer known steps: the loss is the mean over those of all ranks."""

    def gradient(folder, *overrides):
        result = script("train", "model=forecaster", "data=waves", "model.noise=0", "model.shift=0", "optim=sgd",
                        "optim.lr=1", "optim.optimizer.momentum=0", "trainer.max_steps=1", "callbacks=none",
                        "logger=none", *overrides, folder=folder)  # fmt: skip
        return result, result.last["state_dict"]

    one, alone = gradient("one", "trainer=cpu", "data.batch_size=32")
    two, together = gradient("two", "trainer=ddp_cpu", "data.batch_size=16")
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    assert two.metrics == pytest.approx(one.metrics, rel=1e-3, abs=1e-3)


def test_a_set_smaller_than_the_ranks_trains_under_ddp(script):
    assert script("train", "experiment=tutorial/hello", "trainer=ddp_cpu").metrics["test/accuracy"] == 1.0


@pytest.mark.parametrize("optim", options("optim"))
def test_resume_goes_on_as_if_it_had_not_stopped(optim, script):
    small = ("model=classifier", "data=random", "data.num_train=128", "cell=gru", f"optim={optim}", "trainer=cpu")
    small += ("trainer.max_epochs=4",)

    def weights(result):
        return result.last["state_dict"]

    whole = script("train", *small, folder="runs/whole")
    script("train", *small, "trainer.max_steps=8", folder="runs/half")
    resumed = script("train", *small, "ckpt=last", folder="runs/resumed")
    assert "step 16/16" in resumed.stdout
    if optim != "adamw_cosine":  # its schedule ends with the steps that a run is given, so half a run is another run
        assert all(map(torch.equal, weights(resumed).values(), weights(whole).values()))
        assert resumed.metrics == whole.metrics
    done = script("train", *small, "ckpt=last", folder="runs/again")
    assert "Nothing left to train at step 16" in done.stdout
    assert done.metrics == resumed.metrics


def test_a_run_that_has_nothing_left_to_train_keeps_its_checkpoints(script):
    small = ("model=classifier", "data=random", "data.num_train=64", "optim.interval=epoch", "trainer.max_epochs=2")
    small += ("++optim.scheduler={_target_: torch.optim.lr_scheduler.ExponentialLR, _partial_: true, gamma: 0.5}",)
    whole = script("train", *small)
    names = ("last", "previous", "best")

    def kept():
        return [(whole.folder / "checkpoints" / f"{name}.ckpt").read_bytes() for name in names]

    before = kept()
    assert "Nothing left to train" in script("train", *small, "ckpt=last").stdout
    assert kept() == before
    assert not list(whole.folder.glob("checkpoints/*.partial"))


@pytest.mark.parametrize(
    "overrides",
    [
        # plain lists must stay plain, or the checkpoint needs omegaconf to load
        ("optim.optimizer._target_=torch.optim.NAdam", "~optim.optimizer.fused"),
        ("optim.scheduler={_target_: torch.optim.lr_scheduler.StepLR, _partial_: true, step_size: 5}",),
        ("trainer.precision=bf16-mixed", "trainer.gradient_clip_val=1.0"),
        ("cell=lstm", "+cell.proj_size=4", "cell.bidirectional=true", "cell.num_layers=2", "cell.dropout=0.1"),
        ("debug=fast", "data.batch_size=1"),
    ],
    ids=["NAdam", "StepLR", "bf16", "projected", "one-sample"],
)
def test_settings_of_torch_and_lightning_work(overrides, script):
    small = ("model=forecaster", "data=waves", "data.num_series=1", "data.length=200", "trainer.max_epochs=2")
    result = script("train", *small, *overrides)
    assert "Error" not in result.stderr
    assert checkpoint.load(result.folder / "checkpoints" / "best.ckpt")["state_dict"]
    assert result.metrics["test/loss"] > 0


def test_accumulated_gradients_leave_the_loss_as_it_is(script):
    still = ("model=classifier", "data=random", "optim.lr=1e-9", "trainer.max_epochs=1", "logger=csv")
    still += ("trainer.gradient_clip_val=1e-3",)
    result = script("train", *still, "trainer.accumulate_grad_batches=4", "trainer.log_every_n_steps=4")
    rows = [line.split(",") for line in (result.folder / "metrics.csv").read_text().splitlines()]
    table = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    train = [float(row["train/loss"]) for row in table if row["train/loss"]]
    val = [float(row["val/loss"]) for row in table if row["val/loss"]]
    assert sum(train) / len(train) == pytest.approx(val[0], rel=0.1)
    assert all(float(row["train/grad_norm"]) > 0.01 for row in table if row["train/grad_norm"])  # before clipping


OWN_CELL = """
import rnnlab
import torch

print("rnnlab:", rnnlab.__file__)

class RunningSum(torch.nn.Module):
    def __init__(self, input_size, hidden_size, batch_first):
        super().__init__()
        self.hidden_size = hidden_size
        self.enter = torch.nn.Linear(input_size, hidden_size)

    def forward(self, x, state=None):
        out = self.enter(x).cumsum(1) + (0 if state is None else state[:, None])
        return out, out[:, -1]
"""


def test_a_cell_of_ones_own(script, tmp_path):
    """All that the contract asks for: `cell(x, state) -> (out, state)` with `hidden_size`, a class and a yaml."""
    (tmp_path / "conf" / "cell").mkdir(parents=True)
    (tmp_path / "conf" / "cell" / "sum.yaml").write_text("_target_: my_cell.RunningSum\nhidden_size: 6\n")
    (tmp_path / "my_cell.py").write_text(OWN_CELL)
    arguments = ("--config-dir", str(tmp_path / "conf"))
    trained = script("train", *arguments, "cell=sum", "model=classifier", "data=random", PYTHONPATH=str(tmp_path))
    ckpt = trained.folder / "checkpoints" / "best.ckpt"
    evaluated = script("evaluate", *arguments, f"ckpt={ckpt}", folder="evaluation", PYTHONPATH=str(tmp_path))
    assert evaluated.metrics == trained.metrics
    assert f"rnnlab: {ROOT / 'src'}" in trained.stdout  # not another one that is installed
    refused = script("evaluate", f"ckpt={ckpt}", folder="refused", check=False, PYTHONPATH=str(tmp_path))
    assert "my_cell.RunningSum" in refused.stderr


@pytest.mark.parametrize("debug", options("debug"))
def test_debug_presets_run(debug, script):
    result = script("train", f"debug={debug}", "model=classifier", "data=random", "data.num_train=64")
    if debug == "profile":
        assert "run_training_batch" in (result.folder / "fit-profile.txt").read_text()
    if debug == "fast":
        assert result.last["global_step"] == 1
    if debug == "overfit":
        assert "step 100/100" in result.stdout


def test_benchmark_measures_both_loops(script):
    result = script("benchmark", "experiment=tutorial/hello", "repeats=1", "data.epoch_steps=20")
    figures = json.loads((result.folder / "benchmark.json").read_text())
    assert figures["steps"] == 20
    ratio = figures["rnnlab / plain loop"]["median"]
    assert ratio == figures["rnnlab (steps/s)"]["median"] / figures["plain loop (steps/s)"]["median"] > 0


@pytest.mark.parametrize("name", ["train", "evaluate", "generate", "forecast", "results", "benchmark"])
def test_help_and_completion_are_instant(name, script):
    no_groups = name in ("generate", "forecast", "results")
    for arguments in (("--help",), ("-sc", "query=bash")):
        env = {"COMP_LINE": f"python scripts/{name}.py data=", "COMP_POINT": "99", "PYTHONPROFILEIMPORTTIME": "1"}
        done = script(name, *arguments, **env)
        assert "hydra" in done.stderr
        assert arguments[0] != "-sc" or no_groups or "data=waves" in done.stdout.split()
        assert not re.search(r"\| +(torch|lightning|matplotlib)$", done.stderr, re.MULTILINE)
    helped = script(name, "--help").stdout
    assert f"python scripts/{name}.py" in helped
    assert no_groups or f"data: {', '.join(options('data'))}" in helped
