"""The table of many runs."""

import json

import pytest
from test_errors import message_of


def run(folder, name, cell, seed, metrics, experiment="memory/latch", monitor="val/accuracy"):
    """What a run leaves of itself."""
    path = folder / name / ".hydra"
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(f"monitor: {monitor}\nseed: {seed}\ncell: {{hidden_size: 8}}\n")
    (path / "hydra.yaml").write_text(
        f"hydra: {{runtime: {{choices: {{cell: {cell}, data: latch, experiment: {experiment}}}}}}}\n"
    )
    if metrics is not None:
        (path.parent / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture
def folder(tmp_path):
    runs = tmp_path / "runs"
    for seed, accuracy in enumerate((0.25, 0.5, 0.75)):
        run(runs, f"a/{seed}", "rnn", seed, {"test/accuracy": accuracy, "test/loss": 1.0})
        run(runs, f"b/{seed}", "gru", seed, {"test/accuracy": 1.0, "test/loss": 2.0 + seed} if seed else None)
    run(runs, "c", "rnn", 0, {"test/loss": 0.17}, "memory/adding", "val/loss")
    run(runs, "d", "gru", 0, None, "memory/adding", "val/loss")
    return runs


def table(script, folder, *arguments):
    printed = script("results", f"logs={folder}", "format=markdown", *arguments).stdout
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if "|" in line]


def test_seeds_are_folded_and_failures_shown(script, folder):
    run(folder, "evaluation", "rnn", 0, {"test/accuracy": 0.0})
    (folder / "evaluation" / ".hydra" / "config.yaml").write_text("ckpt: x\n")  # no training
    assert table(script, folder, "rows=experiment") == [
        ["", "rnn", "gru"],
        ["---"] * 3,
        ["memory/latch, test/accuracy", "0.500 ± 0.250", "1.00 ± 0.00 (2)"],
        ["memory/adding, test/loss", "0.170 (1)", "no result"],
    ]


def test_any_metric_and_setting(script, folder):
    assert table(script, folder, "rows=cell", "columns=cell.hidden_size", "metric=test/loss")[2:] == [
        ["rnn, test/loss", "0.792 ± 0.415"],
        ["gru, test/loss", "3.50 ± 0.71 (2)"],
    ]


def test_in_the_terminal(script, folder):
    done = script("results", f"logs={folder}")
    assert "0.500 ± 0.250" in done.stdout
    assert "standard deviation of 3 runs" in done.stderr


def test_a_damaged_run_is_left_out(script, folder):
    (folder / "a" / "0" / "metrics.json").write_text('{"test/accu')
    (folder / "a" / "1" / ".hydra" / "config.yaml").write_text("a: [")
    (folder / "a" / "2" / "metrics.json").write_text('{"test/accuracy": Infinity}')
    done = script("results", f"logs={folder}", "format=markdown", "rows=experiment")
    assert done.stderr.count("is left out") == 2
    assert "| memory/latch, test/accuracy | 1.00 ± 0.00 (2) | no result |" in done.stdout


def test_nothing_to_compare(script, folder, tmp_path):
    message_of(script("results", f"logs={tmp_path}/none", check=False), "none", "no run below it")
    message_of(script("results", f"logs={folder}", "metric=test/acc", check=False), "test/acc", "test/accuracy")
    message_of(script("results", f"logs={folder}", "rows=dat", check=False), "rows=dat", "no run has")
    message_of(script("results", f"logs={folder}", "rows=cell", "columns=data", "metric=x", check=False), "metric=x")
    message_of(script("results", f"logs={folder}", "columns=seed.x", check=False), "columns=seed.x")
    message_of(script("results", f"logs={folder}", "rows=null", check=False), "rows=None must be a group or a key")
    message_of(script("results", f"logs={folder}", "format=html", check=False), "format=html", "markdown")


def test_a_sweep_of_presets(script, tmp_path):
    presets = "experiment=memory/latch,memory/parity"
    small = ("++data.seq_len=10", "++data.epoch_steps=3", "trainer.max_epochs=1", "logger=none")
    script("train", "-m", presets, *small, "cell=rnn,mingru", f"hydra.sweep.dir={tmp_path}/sweep")
    jobs = sorted(path.parent.name for path in (tmp_path / "sweep").glob("*/metrics.json"))
    assert len(jobs) == 4
    assert jobs[0].startswith("0_latch_")
    rows = table(script, tmp_path / "sweep", "rows=experiment")
    assert rows[0] == ["", "rnn", "mingru"]
    assert [row[0] for row in rows[2:]] == ["memory/latch, test/accuracy", "memory/parity, test/accuracy"]
    # the recipe gives each cell a learning rate, by a reference that only a run's own choices resolve
    rates = {
        tuple(row[:1]): [bool(field) for field in row[1:]]
        for row in table(script, tmp_path / "sweep", "rows=optim.lr")[2:]
    }
    assert {name.partition(",")[0]: fields for (name,), fields in rates.items()} == {
        "0.003": [True, False],
        "0.01": [False, True],
        "0.001": [False, True],
    }
