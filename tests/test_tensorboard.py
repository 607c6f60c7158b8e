"""What TensorBoard serves, asked over HTTP."""

import json
import re
import subprocess
import sys
import urllib.parse
import urllib.request

import pytest
from conftest import wait_until


@pytest.fixture
def board(tmp_path):
    """Starts a real TensorBoard on loopback; `board(path, **query)` asks it."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path / "logs"), "--host", "127.0.0.1"]
    log = tmp_path / "tensorboard.log"
    servers = []

    def start():
        with log.open("w") as file:
            servers.append(subprocess.Popen([*command, "--port", "0"], stdout=file, stderr=file))
        address = re.compile(r"http://127\.0\.0\.1:\d+/")
        wait_until(lambda: address.search(log.read_text()))
        return address.search(log.read_text())[0]

    def ask(path, **query):
        if not servers:
            ask.address = start()
        with urllib.request.urlopen(f"{ask.address}data/{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            return json.load(answer)

    yield ask
    for server in servers:
        server.terminate()
        server.wait()


def test_a_sweep_serves_both_losses_of_every_job(script, board, tmp_path):
    script("train", "-m", "data=hello", "cell=rnn,lstm,gru", "seed=1,2")
    sweeps = list((tmp_path / "logs" / "sweeps").glob("*/*"))
    assert len(sweeps) == 1
    assert len([path for path in sweeps[0].iterdir() if path.is_dir()]) == 6

    def complete():
        tags = board("plugin/scalars/tags")
        return len(tags) == 6 and all({"train/loss", "val/loss", "test/loss"} <= set(run) for run in tags.values())

    wait_until(complete)
    tags = board("plugin/scalars/tags")
    for run, names in tags.items():
        assert {"train/grad_norm", "train/lr", "val/accuracy", "test/accuracy"} <= set(names)
        train, val = (board("plugin/scalars/scalars", run=run, tag=tag) for tag in ("train/loss", "val/loss"))
        assert [step for _, step, _ in train] == list(range(10, 101, 10))
        assert [step for _, step, _ in val] == [100]
        assert train[-1][2] < train[0][2]
        assert abs(train[-1][2] - val[-1][2]) < 0.1 * train[0][2]
    layout = board("plugin/custom_scalars/layout")
    assert "train/loss" in str(layout)
    assert "val/loss" in str(layout)
    texts = board("plugin/text/tags")
    assert all({"config/text_summary", "sample/text_summary"} <= set(names) for names in texts.values())


def test_waves_serve_figures_of_the_first_and_the_last_validation(script, board, tmp_path):
    result = script("train", "model=forecaster", "data=waves", "data.epoch_steps=75", "trainer.max_epochs=3",
                    f"hydra.run.dir={tmp_path}/logs/run")  # fmt: skip
    wait_until(lambda: "val_forecast" in board("plugin/images/tags").get("run", {}))
    images = board("plugin/images/images", run="run", tag="val_forecast", sample=0)
    steps = [image["step"] for image in images]
    assert (steps[0], steps[-1]) == (75, 225)
    for name in ("loss", "val_forecast", "val_error_by_step", "test_forecast", "test_error_by_step"):
        assert (tmp_path / "logs" / "run" / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "step 225/225" in result.stdout


def test_hparams_show_the_settings_and_metrics_of_every_run(script, board, tmp_path):
    """TensorBoard once took the columns of whichever run it read first."""
    script("train", "data=hello", f"hydra.run.dir={tmp_path}/logs/hello")
    script("train", "-m", "model=forecaster", "data=waves", "data.context=10,20", "trainer.max_epochs=1",
           f"hydra.sweep.dir={tmp_path}/logs/waves")  # fmt: skip

    wait_until(lambda: len(board("plugin/scalars/tags")) == 3)
    experiment = board("plugin/hparams/experiment", request="{}")
    columns = {column["name"]: column.get("differs") for column in experiment["hparamInfos"]}
    assert columns["data.context"]
    assert columns["model"]
    assert not columns["seed"]
    metrics = {column["name"]["tag"] for column in experiment["metricInfos"]}
    assert {"test/accuracy", "test/mase"} <= metrics
    request = json.dumps({"startIndex": 0, "sliceSize": 100, "allowedStatuses": ["STATUS_SUCCESS"]})
    rows = board("plugin/hparams/session_groups", request=request)["sessionGroups"]
    measured = [{value["name"]["tag"] for value in row["metricValues"]} for row in rows]
    assert len([tags for tags in measured if "test/mase" in tags]) == 2
    assert len([tags for tags in measured if "test/perplexity" in tags]) == 1
