"""Forecasts: what the network sees, what comes back, how it is scored, and what a user gets of it."""

import json
import math
import os

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SERIES, composed, options
from omegaconf import OmegaConf
from PIL import Image

from rnnlab.data.batch import Batch
from rnnlab.data.waves import WavesData
from rnnlab.tasks.forecaster import Forecaster
from rnnlab.tasks.metrics import ForecastScores

CONTEXT, HORIZON = 12, 5
SHOPS = (
    "experiment=series", f"data.path={SERIES}", "data.target=sales", "data.time=month", "data.series_id=shop",
    "data.context=24", "data.horizon=6", "data.season=12", "data.val=0.15", "data.test=24", "data.epoch_steps=5",
    "trainer.max_epochs=1",
)  # fmt: skip


def cell_of(name):
    return OmegaConf.to_container(composed(f"cell={name}").cell)


def forecaster(cell="gru", targets=1, more=0, positive=True, **arguments):
    """A forecaster with random weights everywhere, of series with a mean of 10 and windows that vary by 2."""
    torch.manual_seed(0)
    spec = {
        "kind": "series", "input_size": targets + more, "output_size": targets, "seq_len": CONTEXT, "horizon": HORIZON,
        "season": 4, "targets": [f"y{number}" for number in range(targets)], "num_windows": 100,
        "scale": [[10.0, 2.0]] * (targets + more), "log_scale": [[2.3, 0.2] if positive else []] * targets,
        "grows": [False] * targets,
    }  # fmt: skip
    task = Forecaster(cell_of(cell), {}, spec, **arguments)
    for parameter in task.network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return task.eval()


def windows(number=3, channels=1):
    return 10 + 2 * torch.rand(number, CONTEXT, channels, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("cell", options("cell"))
@pytest.mark.parametrize("how", [{}, {"patch": 4}, {"norm": "std"}, {"head": "recursive"}, {"log": True}], ids=str)
def test_every_step_of_the_forecast_sees_every_step_of_the_window(cell, how):
    """Decoding step k at position context - horizon + k, as others do, hides the newest values from the first steps."""
    task = forecaster(cell, **how)
    x = windows().requires_grad_()
    forecast = task.forecast(x)
    for step in range(HORIZON):
        for output in range(3):
            (gradient,) = torch.autograd.grad(forecast[:, step, 0, output].sum(), x, retain_graph=True)
            assert (gradient != 0).all()


def test_covariates_are_seen():
    task = forecaster(more=2)
    x = windows(channels=3).requires_grad_()
    task.forecast(x)[:, 0].sum().backward()
    assert (x.grad != 0).all()


@pytest.mark.parametrize("norm", ["last", "std", "mean", "none"])
@pytest.mark.parametrize("targets", [1, 2])
def test_the_scale_of_a_window_is_undone(norm, targets):
    task = forecaster(norm=norm, targets=targets)
    x, y = windows(channels=targets), torch.rand(3, HORIZON, targets)
    out, scaled, _ = task.predict(Batch(x, y))
    target = x[:, -1:] if norm == "last" else x.mean(1, keepdim=True)
    spread = x.std(1, keepdim=True, correction=0)
    if norm == "mean":
        target, spread = torch.zeros_like(target), x.abs().mean(1, keepdim=True)
    elif norm == "none":
        target, spread = torch.full_like(target, 10), torch.full_like(spread, 2)
    torch.testing.assert_close(scaled, (y - target) / spread)
    expected = (out * spread[..., None] + target[..., None]).sort(dim=-1).values
    torch.testing.assert_close(task.forecast(x), expected)


@pytest.mark.parametrize("norm", ["last", "std"])
def test_another_level_and_unit_change_nothing_else(norm):
    task, x = forecaster(norm=norm), windows()
    torch.testing.assert_close(task.forecast(5 * x - 30), 5 * task.forecast(x) - 30, rtol=1e-4, atol=1e-4)
    logged = forecaster(norm=norm, log=True)
    torch.testing.assert_close(logged.forecast(5 * x), 5 * logged.forecast(x), rtol=1e-4, atol=1e-4)
    assert (logged.forecast(x) > 0).all()


@pytest.mark.parametrize("how", [{}, {"norm": "std"}, {"norm": "mean"}, {"log": True}], ids=str)
def test_windows_without_change_have_finite_forecasts(how):
    task = forecaster(**how)
    for value in (0.0, 7.3, 1e6, -1.0):
        assert task.forecast(torch.full((2, CONTEXT, 1), value)).isfinite().all()


def test_the_recursive_head_reads_its_own_forecast():
    task, x = forecaster(head="recursive", norm="none", loss="mse"), windows()
    steps, values = (x - 10) / 2, []
    for _ in range(HORIZON):
        out, _ = task.network(steps)
        values.append(out[:, -1:])
        steps = torch.cat((steps, out[:, -1:]), dim=1)
    torch.testing.assert_close(task.forecast(x)[..., 0], torch.cat(values, dim=1) * 2 + 10)


def test_only_training_adds_noise():
    task = forecaster(noise=0.5, shift=0.2)
    batch = Batch(windows(), torch.rand(3, HORIZON, 1))
    (out, y, _), (same, other, _) = task.predict(batch), task.predict(batch)
    assert torch.equal(out, same)
    assert torch.equal(y, other)
    noisy, shifted, _ = task.train().predict(batch)
    assert not torch.equal(noisy, out)
    difference = shifted - y
    torch.testing.assert_close(difference, difference[:, :1].expand_as(difference))  # one for a whole window


@pytest.mark.parametrize("loss", ["pinball", "mae", "huber", "mse"])
def test_losses(loss):
    task = forecaster(loss=loss)
    out, y = torch.randn(4, HORIZON, 1, 3 if loss == "pinball" else 1), torch.randn(4, HORIZON, 1)
    error = (y[..., None] - out).numpy()
    levels = np.array([0.1, 0.5, 0.9])
    expected = {
        "pinball": lambda: np.where(error > 0, levels * error, (levels - 1) * error),
        "mae": lambda: np.abs(error),
        "huber": lambda: np.where(np.abs(error) < 1, error**2 / 2, np.abs(error) - 0.5),
        "mse": lambda: error**2,
    }[loss]()
    assert task.loss(out, y).item() == pytest.approx(expected.mean(), rel=1e-5)
    y[2:, 3:] = torch.nan  # not known: out of the mean, and out of the gradient
    out.requires_grad_()
    cost = task.loss(out, y)
    known = ~np.isnan(y.numpy()[..., 0])
    assert cost.item() == pytest.approx(expected[known].mean(), rel=1e-5)
    cost.backward()
    assert (out.grad[2:, 3:] == 0).all()


@pytest.mark.parametrize("number", [1, 3])
def test_the_picture_of_errors_by_step_shows_mae_of_one_series_and_mase_of_several(number, monkeypatch):
    data = WavesData(num_series=number, length=200, context=CONTEXT, horizon=HORIZON, season=4)
    data.setup("test")
    task = Forecaster(cell_of("gru"), {}, data.spec.as_dict()).eval()
    batch = data.splits["test"][torch.arange(len(data.splits["test"]))]
    x, y, (naive, last, mase_scale) = batch.x, batch.y, batch.baseline
    with torch.no_grad():
        task.test_step(batch, 0)
        median = task.forecast(x)[..., 1]
    monkeypatch.setattr(task, "log_dict", lambda *_, **__: None)
    task.on_test_epoch_end()
    axes = task.figures(data, "test")["test_error_by_step"].axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert "MASE" in axes.get_ylabel() if number > 1 else axes.get_ylabel() == "mean absolute error"
    for name, forecast in (("model", median), ("seasonal naive", naive), ("last value", last)):
        errors = (y - forecast).abs() / (mase_scale if number > 1 else 1)
        assert lines[name].get_xdata().tolist() == list(range(1, HORIZON + 1))
        np.testing.assert_allclose(lines[name].get_ydata(), errors.mean((0, 2)), rtol=1e-4)


def scored(forecast, y, mase_scale, quantiles=()):
    scores = ForecastScores(y.shape[1], ("y",), quantiles)
    scores.update(forecast, y, mase_scale)
    return scores.compute()


def test_scores_that_would_divide_by_zero():
    zero, scale = torch.zeros(4, 6, 1), torch.tensor([0.0, 0, 2, 2])[:, None, None]
    scores = scored(zero[..., None].expand(4, 6, 1, 3), zero, scale, (0.1, 0.5, 0.9))
    assert scores["smape"] == 0
    assert scores["mase"] == 0
    one = scored(zero[..., None] + 1, zero, scale)
    assert one["smape"] == 200
    assert one["mase"] == 0.5  # of the series with a scale
    assert "coverage" not in one
    assert math.isnan(scored(zero[..., None], zero, zero[:, :1])["mase"])


def size_of(picture):
    with Image.open(picture) as image:
        return image.size


def rows_of(path):
    return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")


@pytest.fixture(scope="module")
def shops(tmp_path_factory):
    """A folder with a short training on two shops."""
    return tmp_path_factory.mktemp("shops")


@pytest.fixture
def trained(script, shops):
    """The checkpoint of that training."""
    ckpt = shops / "checkpoints" / "best.ckpt"
    if not ckpt.exists():
        script("train", *SHOPS, f"hydra.run.dir={shops}")
    return ckpt


def test_the_metrics_are_those_of_the_backtest(script, trained, shops, tmp_path):
    """Every score, naive ones included, computed anew by its definition from the table of all forecasts."""
    script("forecast", f"ckpt={trained}", "backtest=true", "out=backtest.csv")
    table, frame = pd.read_csv(tmp_path / "backtest.csv"), pd.read_csv(SERIES)
    metrics = json.loads((shops / "metrics.json").read_text())
    assert len(table) == 2 * (24 - 6 + 1) * 6
    sales = np.stack([frame[frame.shop == shop].sales for shop in ("north", "south")])
    shop, rest = np.divmod(np.arange(len(table)), 19 * 6)
    origin, step = 96 + rest // 6, rest % 6
    assert table.series.tolist() == np.array(["north", "south"])[shop].tolist()
    months = pd.date_range("2010-01-01", periods=120, freq="MS").astype(str)
    assert table.time.tolist() == months[origin + step].tolist()
    assert table.origin.tolist() == months[origin - 1].tolist()
    truth = sales[shop, origin + step]
    np.testing.assert_allclose(table.sales_true, truth, rtol=1e-5)
    unit = np.abs(sales[:, 12:96] - sales[:, :84]).mean(1)[shop]
    low, point, high = (table[name].to_numpy() for name in ("sales_0.1", "sales", "sales_0.9"))
    expected = {
        "pinball": np.mean([np.maximum(q * (truth - f), (q - 1) * (truth - f))
                            for q, f in ((0.1, low), (0.5, point), (0.9, high))]),
        "smape": (200 * np.abs(truth - point) / (np.abs(truth) + np.abs(point))).mean(),
        "mae_first_step": np.abs(truth - point)[step == 0].mean(),
    }  # fmt: skip
    naive = {"_seasonal_naive": sales[shop, origin + step - 12], "_last_value": sales[shop, origin - 1]}
    for name, forecast in {"": point, **naive}.items():
        expected[f"mae{name}"] = np.abs(truth - forecast).mean()
        expected[f"rmse{name}"] = np.sqrt(np.square(truth - forecast).mean())
        expected[f"mase{name}"] = (np.abs(truth - forecast) / unit).mean()
    for name, value in expected.items():
        assert metrics[f"test/{name}"] == pytest.approx(value, rel=1e-4), name
    assert metrics["test/coverage"] == pytest.approx(((low <= truth) & (truth <= high)).mean(), abs=0.01)


def test_a_model_that_beats_nothing_says_so(script):
    """Without training a forecast is the last value."""
    still = ("optim=sgd", "optim.lr=1e-12")
    result = script("train", "model=forecaster", "data=waves", *still, "data.epoch_steps=1", "trainer.max_epochs=1")
    assert "The model does not beat the last-value forecast" in result.stdout
    assert result.metrics["test/mae"] == pytest.approx(result.metrics["test/mae_last_value"], rel=1e-4)


def test_forecasts_from_the_end_of_a_file_that_goes_on(script, trained, tmp_path):
    script("forecast", f"ckpt={trained}", "out=old.csv", "plot=old.png")
    old = rows_of(tmp_path / "old.csv")
    assert list(old[0]) == ["series", "time", "sales_0.1", "sales", "sales_0.9"]
    assert [row["time"] for row in old[:6]] == [f"2020-{month:02d}-01" for month in range(1, 7)]
    assert [row["series"] for row in old] == ["north"] * 6 + ["south"] * 6
    assert all(float(row["sales_0.1"]) <= float(row["sales"]) <= float(row["sales_0.9"]) for row in old)
    assert size_of(tmp_path / "old.png")[0] > 500

    frame = pd.read_csv(SERIES)
    newer = frame[frame.shop == "north"].sales.iloc[-2:]
    more = pd.DataFrame({"month": ["2020-01", "2020-02"], "shop": "north", "sales": newer.to_numpy()})
    pd.concat([frame[frame.shop == "north"], more]).to_csv(tmp_path / "newer, file.csv", index=False)
    script("forecast", f"ckpt={trained}", "data.path=newer, file.csv", "out=new.csv")
    new = rows_of(tmp_path / "new.csv")
    assert [row["time"] for row in new] == [f"2020-{month:02d}-01" for month in range(3, 9)]

    frame.iloc[:-10].to_csv(tmp_path / "older.csv", index=False)  # the south ends earlier
    done = script("forecast", f"ckpt={trained}", "data.path=older.csv", "out=older_forecast.csv")
    older = rows_of(tmp_path / "older_forecast.csv")
    assert older[:6] == old[:6]
    assert older[6]["time"] == "2019-03-01"
    assert "2019-03-01" in done.stdout


def test_the_future_does_not_change_a_forecast(script, trained, tmp_path):
    frame = pd.read_csv(SERIES)
    frame.loc[frame.month >= "2019-01", "sales"] *= 7
    frame.to_csv(tmp_path / "changed.csv", index=False)
    for name in (SERIES, tmp_path / "changed.csv"):
        script("forecast", f"ckpt={trained}", "backtest=true", f"data.path={name}", f"out={name.stem}_out.csv")
    one, other = (
        [{key: value for key, value in row.items() if key != "sales_true"} for row in rows if row["origin"] < "2019-01"]
        for rows in (rows_of(tmp_path / "series_out.csv"), rows_of(tmp_path / "changed_out.csv"))
    )
    assert one == other != []


def test_what_is_known_ahead_is_given_by_further_rows(script, tmp_path):
    ahead = ("data.future_covariates=[holiday]", "data.covariates=[visitors]", "data.calendar=[month]")
    trained = script("train", *SHOPS, *ahead)
    ckpt = trained.folder / "checkpoints" / "best.ckpt"
    refused = script("forecast", f"ckpt={ckpt}", check=False)
    assert refused.returncode == 1
    assert "The file ends without holiday" in refused.stderr
    assert "next 6 steps" in refused.stderr
    frame = pd.read_csv(SERIES)
    for holiday in (0, 1):
        rows = [
            pd.DataFrame({"month": [f"2020-{month:02d}" for month in range(1, 7)], "shop": shop, "holiday": holiday})
            for shop in ("north", "south")
        ]
        pd.concat([frame, *rows]).to_csv(tmp_path / "ahead.csv", index=False)
        script("forecast", f"ckpt={ckpt}", "data.path=ahead.csv", f"out={holiday}.csv")
    none, every = rows_of(tmp_path / "0.csv"), rows_of(tmp_path / "1.csv")
    assert [row["time"] for row in none[:6]] == [f"2020-{month:02d}-01" for month in range(1, 7)]
    assert all(one["sales"] != other["sales"] for one, other in zip(none, every, strict=True))


def test_what_forecast_refuses(script, trained, tmp_path):
    frame = pd.read_csv(SERIES)
    frame.groupby("shop").head(20).to_csv(tmp_path / "short.csv", index=False)
    hello = script("train", "debug=fast", "callbacks=none", "logger=none").folder / "checkpoints" / "best.ckpt"
    for argument, expected in (
        ("data.path=short.csv", "Series north has 20 steps, fewer than data.context=24"),
        ("plot=plot.xyz", "plot=plot.xyz cannot be written"),
        (f"out={SERIES}", f"out={SERIES} would replace data.path"),
        (f"plot={trained}", "would replace ckpt"),
        ("data.horizon=3", "data.horizon is 3, the checkpoint was trained with 6"),
        ("data.target=[sales,visitors]", "The number of targets is 2, the checkpoint was trained with 1"),
        (f"ckpt={hello}", "holds a CharModel; forecasts need a run of model=forecaster"),
        ("ckpt=???", "ckpt is needed"),
    ):
        ckpt = () if argument.startswith("ckpt=") else (f"ckpt={trained}",)
        result = script("forecast", *ckpt, argument, check=False)
        assert result.returncode == 1
        assert result.stderr.startswith("Error: ")
        assert expected in result.stderr
    refused = script("generate", f"ckpt={trained}", check=False)
    assert refused.stderr.startswith(f"Error: ckpt={trained} holds a Forecaster")


def test_a_sine_without_noise_is_forecast_to_a_hundredth(script):
    sine = ("data.num_series=1", "data.num_waves=1", "data.trend=0", "data.noise=0", "model.noise=0", "model.shift=0")
    result = script("train", "experiment=waves", *sine, "callbacks=none", "logger=none")
    assert result.metrics["test/mae"] < 0.01
    assert result.metrics["test/mae_last_value"] > 0.3


def test_gaps_in_the_test_part_are_not_scored(script, tmp_path):
    frame = pd.read_csv(SERIES)
    frame[frame.month != "2019-03"].to_csv(tmp_path / "gap.csv", index=False)
    result = script("train", *SHOPS, f"data.path={tmp_path}/gap.csv", "data.fill=ffill")
    ckpt = result.folder / "checkpoints" / "best.ckpt"
    script("forecast", f"ckpt={ckpt}", "backtest=true", "out=backtest.csv")
    rows = rows_of(tmp_path / "backtest.csv")
    assert {row["time"] for row in rows if not row["sales_true"]} == {"2019-03-01"}
    errors = [abs(float(row["sales_true"]) - float(row["sales"])) for row in rows if row["sales_true"]]
    assert result.metrics["test/mae"] == pytest.approx(np.mean(errors), rel=1e-4)


def test_training_on_all_there_is(script, tmp_path):
    """For production: no test part, and no rows ahead of the last one yet."""
    ahead = ("data.future_covariates=[holiday]", "data.val=0", "data.test=0")
    result = script("train", *SHOPS, *ahead)
    assert "Nothing is scored" in result.stdout
    assert json.loads((result.folder / "metrics.json").read_text()) == {}


def test_several_targets_have_scores_of_their_own(script):
    result = script("train", *SHOPS, "data.target=[sales,visitors]", "logger=csv")
    assert result.metrics["test/visitors/mae"] > result.metrics["test/sales/mae"]
    mean = (result.metrics["test/visitors/mase"] + result.metrics["test/sales/mase"]) / 2
    assert result.metrics["test/mase"] == pytest.approx(mean, rel=1e-5)
    assert size_of(result.folder / "figures" / "test_forecast.png")[1] > 600  # a chart for each


def test_a_point_forecast(script, tmp_path):
    result = script("train", "model=forecaster", "data=waves", "model.loss=mae", "debug=fast")
    assert "test/coverage" not in result.metrics
    ckpt = result.folder / "checkpoints" / "best.ckpt"
    script("forecast", f"ckpt={ckpt}", "out=out.csv", "plot=out.pdf", "data.seed=3")
    assert list(rows_of(tmp_path / "out.csv")[0]) == ["series", "time", "value"]
    assert (tmp_path / "out.pdf").read_bytes().startswith(b"%PDF")
    assert not [name for name in os.listdir(tmp_path) if name not in ("run", "out.csv", "out.pdf")]
