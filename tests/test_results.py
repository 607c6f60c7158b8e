"""What many runs found: the table, the file and the picture."""

import csv
import io
import json
import math
import os
import socket
from itertools import count, product

import matplotlib.image
import pytest
from conftest import ROOT
from omegaconf import OmegaConf
from test_errors import message_of

from rnnlab.commands.results import results
from rnnlab.sweeps.plots import plot_runs
from rnnlab.sweeps.results import summarise
from rnnlab.sweeps.runs import differing, read_runs
from rnnlab.training import run_record as records
from rnnlab.utils.errors import UserError

GONE = 2**22 + 1  # more than the largest process id of Linux
numbers = count()


def run(folder, *overrides, metrics=None, status="finished", name=None, curves=True, settings=None, **record):
    """A folder as a run leaves it, and its path."""
    path = folder / (name or f"{next(numbers)}_job")
    path.mkdir(parents=True)
    given = dict(override.split("=", 1) for override in overrides)
    defaults = {
        "experiment": None, "data": "hello", "model": "char", "cell": "rnn", "optim": "adam", "trainer": "auto",
        "seed": 1, "monitor": "val/loss", "mode": "min", "optim.lr": 0.01, "cell.hidden_size": 8,
        "optim.optimizer.betas": [0.9, 0.999], "logger.tensorboard.save_dir": str(path),
    }  # fmt: skip
    values = {**defaults, **(settings or {})}
    for key, text in given.items():
        values[key] = text if "=" not in key and not text.replace(".", "").isdigit() else json.loads(text)
    values["name"] = f"{values['data']}_{values['cell']}"
    values["cell._target_"] = f"torch.nn.{values['cell'].upper()}"
    if values["cell"] == "rnn":
        values["cell.nonlinearity"] = "tanh"
    said = {
        "status": status, "message": "", "overrides": list(overrides), "settings": values,
        "monitor": values["monitor"], "mode": values["mode"], "score": None, "parameters": 148, "seconds": 2.5,
        "host": socket.gethostname(), "pid": GONE, **record,
    }  # fmt: skip
    (path / "run.json").write_text(json.dumps(said))
    if metrics is not None:
        (path / "metrics.json").write_text(json.dumps(metrics))
    if curves:
        points = [[10 * step, math.exp(-step)] for step in range(1, 5)]
        (path / "curves.json").write_text(json.dumps({"train/loss": points, values["monitor"]: points}))
    return path


def latch(folder, cell, seed, metrics, experiment="memory/latch", monitor="val/accuracy"):
    settings = {"monitor": monitor, "mode": "max" if monitor == "val/accuracy" else "min", "data": "latch"}
    status = "finished" if metrics else "failed"
    overrides = (f"experiment={experiment}", f"cell={cell}", f"seed={seed}")
    run(folder, *overrides, metrics=metrics, status=status, settings=settings, message="train/loss is inf.\nLonger.")


@pytest.fixture
def folder(tmp_path):
    runs = tmp_path / "runs"
    for seed, accuracy in enumerate((0.25, 0.5, 0.75)):
        latch(runs, "rnn", seed, {"test/accuracy": accuracy, "test/loss": 1.0})
        latch(runs, "gru", seed, {"test/accuracy": 1.0, "test/loss": 2.0 + seed} if seed else None)
    latch(runs, "rnn", 0, {"test/loss": 0.17}, "memory/adding", "val/loss")
    latch(runs, "gru", 0, None, "memory/adding", "val/loss")
    return runs


@pytest.fixture
def table(capsys, monkeypatch):
    """`table(folder, key=value)`: the lines of the table, which `results` prints, as lists of cells."""
    monkeypatch.setenv("COLUMNS", "120")

    def call(folder, format="markdown", **given):
        cfg = OmegaConf.load(ROOT / "conf" / "results.yaml")
        del cfg.defaults, cfg.hydra
        results(OmegaConf.merge(cfg, {"logs": str(folder), "format": format, **given}), {})
        printed = capsys.readouterr().out
        if format == "csv":
            return list(csv.reader(io.StringIO(printed)))
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if "|" in line]

    return call


def columns(lines):
    return dict(zip(lines[0], map(list, zip(*lines[2:], strict=True)), strict=True))


def test_what_differs_is_shown_seeds_folded_best_first(folder, table, capsys):
    found = columns(table(folder))
    assert list(found) == ["experiment", "cell", "runs", "test/accuracy", "test/loss", "time", "parameters", "status"]
    assert found["experiment"] == ["memory/latch", "memory/latch", "memory/adding", "memory/adding"]
    assert found["cell"] == ["gru", "rnn", "rnn", "gru"]  # of the accuracy the highest, of the loss the lowest first
    assert found["test/accuracy"] == ["1.00 ± 0.00", "0.500 ± 0.250", "", ""]
    assert found["test/loss"] == ["3.50 ± 0.71", "1.00 ± 0.00", "0.170", ""]
    assert found["runs"] == ["3", "3", "1", "1"]
    assert found["status"] == ["1 failed", "", "", "1 failed"]
    assert found["time"][0] == "2.5 s"


def test_for_programs(folder, table):
    header, best, *_ = table(folder, "csv")
    found = dict(zip(header, best, strict=True))
    assert header[:6] == ["experiment", "cell", "runs", "finished", "test/accuracy", "test/accuracy_std"]
    assert found["runs"] == "3"
    assert found["finished"] == "2"
    assert float(found["test/loss_std"]) == pytest.approx(0.5**0.5, rel=1e-12)
    assert found["status"] == "2 finished, 1 failed"
    header, *lines = table(folder, "csv", fold=False)
    assert len(lines) == 8
    found = [dict(zip(header, line, strict=True)) for line in lines]
    assert {line["seed"] for line in found} == {"0", "1", "2"}
    assert [line["message"] for line in found if line["status"] == "failed"] == ["train/loss is inf.\nLonger."] * 2
    assert all((folder.parent / line["folder"] / "run.json").exists() for line in found)


def test_in_the_terminal(script, folder, tmp_path):
    odd = folder.rename(tmp_path / "a=b, [c] d")
    done = script("results", str(odd), f"plot={tmp_path}/x, y=z.png")
    assert "0.500 ± 0.250" in done.stdout
    assert done.stdout.startswith("8 runs, all with data=latch model=char optim=adam\n")
    assert done.stdout.count("_job: train/loss is inf.\n") == 2
    assert matplotlib.image.imread(tmp_path / "x, y=z.png").std() > 0
    again = script("results", f"logs={odd}", "rows=experiment", "columns=cell")
    assert "standard deviation of 3 runs" in again.stderr


def test_rows_and_columns(folder, table):
    assert table(folder, rows="experiment", columns="cell") == [
        ["experiment, metric", "rnn", "gru"],
        ["---"] * 3,
        ["memory/latch, test/accuracy", "0.500 ± 0.250", "1.00 ± 0.00 (2)"],
        ["memory/adding, test/loss", "0.170 (1)", "no result"],
    ]
    assert table(folder, rows="cell", columns="cell.hidden_size", metric="test/loss")[2:] == [
        ["rnn, test/loss", "0.792 ± 0.415"],
        ["gru, test/loss", "3.50 ± 0.71 (2)"],
    ]
    crossed = table(folder, "csv", rows="experiment", columns="cell")
    assert crossed[0] == ["experiment", "metric", "rnn", "gru", "rnn_std", "gru_std"]
    assert crossed[2] == ["memory/adding", "test/loss", "0.17", "", "", ""]


@pytest.mark.parametrize(
    ("overrides", "shown"),
    [
        # a group brings keys of its own
        ([["cell=rnn"], ["cell=gru"], ["cell=rnn", "seed=2"]], ["cell"]),
        # runs without an override in common
        ([["cell=gru"], ["optim.lr=0.1"], []], ["cell", "optim.lr"]),
        # a default that was written out
        ([["optim.lr=0.01"], ["cell=rnn"], []], []),
        ([["optim.lr=0.1", "cell.hidden_size=4"], ["cell.hidden_size=9"]], ["optim.lr", "cell.hidden_size"]),
    ],
)
def test_consequences_are_not_shown(overrides, shown, tmp_path):
    for each in overrides:
        run(tmp_path, *each, metrics={"test/loss": 1.0})
    assert differing(read_runs(tmp_path)) == shown


def test_what_nobody_set_by_hand_is_shown_where_nothing_else_explains_it(tmp_path):
    """A yaml was edited between two runs."""
    for momentum in (0.5, 0.9):
        for seed in (1, 2):
            settings = {"optim.momentum": momentum, "data.seed": seed}  # which follows the seed
            run(tmp_path, "cell=gru", f"seed={seed}", settings=settings)
    run(tmp_path, "cell=gru")  # before there was a momentum
    assert differing(read_runs(tmp_path)) == ["optim.momentum"]


def test_what_became_of_runs(tmp_path, table, capsys):
    run(tmp_path, "cell=rnn", "optim.lr=0.01", "seed=1", metrics={"test/loss": 0.5})
    living = {"pid": os.getpid(), "born": records.process_start_time(os.getpid())}
    run(tmp_path, "cell=rnn", "seed=2", status="running", **living, score=0.1, seconds=90.0)
    run(tmp_path, "cell=rnn", "seed=3", status="running", host="elsewhere", seconds=90.0)
    run(tmp_path, "cell=gru", "seed=1", status="running", score=0.1)
    run(tmp_path, "cell=gru", "seed=2", status="pruned", score=0.2)
    # killed before it could say what it is
    nothing = {"settings": {}, "status": "killed", "monitor": None, "mode": None}
    (run(tmp_path, name="9_lost") / "run.json").write_text(
        json.dumps({**nothing, "overrides": ["cell=gru", "optim.lr=1e-2", "seed=3"]})
    )
    found = columns(table(tmp_path))
    assert found["cell"] == ["rnn", "gru"]
    assert found["status"] == ["2 running", "2 killed, 1 pruned"]
    assert found["test/loss"] == ["0.500", ""]
    assert found["time"] == ["2.5 s", "2.5 s"]  # of finished runs, if there are any
    header, *lines = table(tmp_path, "csv", fold=False)
    assert sorted(line[header.index("val/loss")] for line in lines) == ["", "", "", "0.1", "0.1", "0.2"]


def test_damaged_runs_are_left_out(folder, table, capsys):
    paths = sorted(folder.iterdir(), key=lambda path: int(path.name.split("_")[0]))
    (paths[0] / "run.json").write_text('{"status": "fini')
    (paths[2] / "metrics.json").write_text('{"test/accuracy": ')
    (paths[4] / "run.json").write_text("[1]")
    cfg = OmegaConf.create({"logs": str(folder), "rows": None, "columns": None, "metric": None, "format": "rich",
                            "fold": True, "plot": None})  # fmt: skip
    results(cfg, {})
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(" is left out: ")[0] for line in told] == [str(paths[number]) for number in (0, 2, 4)]
    assert len(read_runs(folder)) == 5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"logs": "none"}, ["logs=none", "no run below it"]),
        ({"metric": "test/acc"}, ["metric=test/acc", "test/accuracy, test/loss"]),
        ({"rows": "dat", "columns": "cell"}, ["rows=dat", "No run has"]),
        ({"rows": "cell"}, ["both rows= and columns="]),
        ({"format": "html"}, ["format=html", "markdown"]),
        ({"plot": "nowhere/x.png"}, ["plot=nowhere/x.png cannot be written"]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_nothing_to_compare(settings, words, folder, table, capsys):
    with pytest.raises(UserError) as raised:
        table(**{"folder": settings.pop("logs", folder), **settings})
    assert all(word in str(raised.value) for word in words), raised.value
    assert str(raised.value).count("\n") == 0


def test_one_folder_at_a_time(script, folder):
    message_of(script("results", "a", f"{folder}", check=False), "a ", f"{folder}: give one folder")
    message_of(script("results", f"{folder}", "logs=b", check=False), "logs=b: give one folder")


def labels(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()] if figure.legends else []


def test_the_picture_of_a_grid(tmp_path):
    for cell, lr, seed in product(("rnn", "gru"), (0.001, 0.01, 0.1), (1, 2)):
        loss = (1 if cell == "rnn" else 0.1) * abs(math.log10(lr) + 1.5) * seed
        run(tmp_path, f"cell={cell}", f"optim.lr={lr}", f"seed={seed}", metrics={"test/loss": loss})
    left, right = (figure := plot_runs(read_runs(tmp_path))).axes
    assert (left.get_xlabel(), left.get_ylabel(), left.get_xscale()) == ("optim.lr", "test/loss", "log")
    assert [label.get_text() for label in left.get_xticklabels()] == ["0.001", "0.01", "0.1"]
    assert left.get_title() == "mean ± standard deviation of 2 runs"
    assert labels(figure) == ["rnn", "gru"]
    assert len(right.lines) == 12
    assert (right.get_ylabel(), right.get_yscale()) == ("val/loss", "log")
    assert right.get_title() == "strong: the best setting of each"
    colours = {line.get_color() for line in right.lines}
    assert len(colours) == 2
    assert colours == {container.lines[0].get_color() for container in left.containers}


def test_pictures_of_other_sweeps(folder, tmp_path):
    # presets of two metrics: that of more runs, and a word on the others
    figure = plot_runs(read_runs(folder), None, "experiment", "cell")
    assert figure.axes[0].get_ylabel() == "test/accuracy"
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["memory/latch"]
    assert labels(figure) == ["rnn", "gru"]
    assert "2 of 8 runs, compared by test/loss" in figure.get_supxlabel()
    # names only: each has a colour
    for cell in ("rnn", "gru", "lstm"):
        run(tmp_path / "names", f"cell={cell}", metrics={"test/loss": 1.0})
    figure = plot_runs(read_runs(tmp_path / "names"))
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == labels(figure) == ["rnn", "gru", "lstm"]
    # a search draws all anew: dots with a bar of colours
    for number in range(20):
        overrides = (f"optim.lr={10 ** (-4 + number / 7.3):.6f}", f"cell.hidden_size={number + 8}")
        run(tmp_path / "search", *overrides, metrics={"test/loss": 1 / (number + 1)}, status="finished")
    figure = plot_runs(read_runs(tmp_path / "search"))
    assert len(figure.axes) == 3
    assert len(figure.axes[1].lines) == 20
    # nothing at all
    run(tmp_path / "none", curves=False)
    assert plot_runs(read_runs(tmp_path / "none")) is None


def test_the_end_of_a_sweep(folder, tmp_path, capsys):
    records = summarise(folder)
    assert [record["status"] for record in records].count("failed") == 2
    printed = capsys.readouterr()
    assert "0.500 ± 0.250" in printed.out
    assert printed.out.splitlines()[-1] == f"results: {folder}/results.csv, {folder}/results.png"
    assert printed.err == ""
    with open(folder / "results.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 8
    assert matplotlib.image.imread(folder / "results.png").std() > 0


def test_the_end_of_a_sweep_of_which_nothing_came(tmp_path, capsys):
    assert summarise(tmp_path / "nothing") == []
    for number, text in enumerate(("[bold]{}", "", 'new\nline,"', "|")):
        run(tmp_path, f"data.text={text or 'x'}", status="failed", message=text, parameters=None,
            settings={"data.more": {"deep": [number, None]}}, curves=number == 0)  # fmt: skip
    assert len(summarise(tmp_path)) == 4
    printed = capsys.readouterr()
    assert "_job: [bold]{}\n" in printed.out
    assert not (tmp_path / "results.png").exists()
    assert (tmp_path / "results.csv").exists()


def test_a_sweep_of_presets(script, tmp_path):
    presets = "experiment=memory/latch,memory/parity"
    small = ("++data.seq_len=10", "++data.epoch_steps=3", "trainer.max_epochs=1", "logger=none")
    script("train", "-m", presets, *small, "cell=rnn,mingru", f"hydra.sweep.dir={tmp_path}/sweep")
    jobs = sorted(path.parent.name for path in (tmp_path / "sweep").glob("*/metrics.json"))
    assert len(jobs) == 4
    assert jobs[0].startswith("0_latch_")
    # the recipe gives each cell a learning rate, by a reference that only a run's own choices resolve
    crossed = script("results", f"{tmp_path}/sweep", "format=csv", "rows=optim.lr", "columns=cell").stdout
    rates = {row["optim.lr"]: (bool(row["rnn"]), bool(row["mingru"])) for row in csv.DictReader(io.StringIO(crossed))}
    assert rates == {"0.003": (True, False), "0.01": (False, True), "0.001": (False, True)}
