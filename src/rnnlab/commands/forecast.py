"""Forecasts of a trained model: the steps after the end of each series, or those of the test split."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf

from rnnlab.config.validate import check_parts
from rnnlab.data.windows import Windows
from rnnlab.tasks.forecaster import Forecaster
from rnnlab.tasks.plots import draw_forecasts
from rnnlab.training import checkpoint
from rnnlab.training.devices import use_tf32
from rnnlab.utils.console import tell
from rnnlab.utils.errors import UserError, require, require_other_file

BATCH_SIZE = 1024
PRINTED_ROWS = 40


@torch.inference_mode()
def forecast(cfg: DictConfig, literal: dict[str, str]) -> None:
    """Forecast the next steps of every series, or with `cfg.backtest` from every origin of the test split.

    **Arguments:** the composed `forecast.yaml`; `ckpt`, `data.path`, `out` and `plot` as they are on the command line.
    """
    settings: dict[str, Any] = {**OmegaConf.to_container(cfg), **literal}  # type: ignore[dict-item]
    data, device, backtest, ckpt = (settings[key] for key in ("data", "device", "backtest", "ckpt"))
    if "data.path" in literal:
        data["path"] = literal["data.path"]
    check_parts(OmegaConf.create({"data": data, "device": device, "backtest": backtest}))
    require(ckpt != "???", "ckpt is needed: give ckpt=PATH. --help shows examples.")
    require(device == "cpu" or torch.cuda.is_available(), f"device={device}: torch finds no GPU. Use cpu.")
    use_tf32(False)
    model, datamodule = checkpoint.load_parts(ckpt, data)
    if not isinstance(model, Forecaster):
        raise UserError(f"ckpt={ckpt} holds a {type(model).__name__}; forecasts need a run of model=forecaster.")
    path = getattr(datamodule, "path", None)
    for key in ("out", "plot"):
        require_other_file(key, settings[key], ckpt=ckpt, **{"data.path": path and str(path)})
    model = model.to(device).eval()
    if backtest:
        datamodule.setup("test")
        require("test" in datamodule.splits, "backtest=true needs a test split: give data.test=STEPS.")
    windows = datamodule.splits["test"] if backtest else datamodule.latest_windows()
    table = _table(windows, model, backtest)
    try:
        if settings[key := "out"] is not None:
            table.to_csv(settings[key], index=False, float_format="%.7g")
        if settings[key := "plot"] is not None:
            with warnings.catch_warnings(action="ignore"):  # letters that no font has
                draw_forecasts(windows, model).savefig(settings[key], dpi=110)
    except (OSError, ValueError) as error:
        raise UserError(f"{key}={settings[key]} cannot be written: {error}") from error
    tell(table.to_string(index=False, float_format="{:.7g}".format, na_rep="", max_rows=PRINTED_ROWS))


def _table(windows: Windows, model: Forecaster, backtest: bool) -> pd.DataFrame:
    """A row for each step of each forecast, and with `backtest` the true values beside it."""
    panel, horizon = windows.panel, len(windows.future)
    batches = windows.origins.split(BATCH_SIZE)
    values = torch.cat([model.forecast(windows.inputs(origins).to(model.device)).cpu() for origins in batches])
    rows = (windows.origins[:, None] + windows.future).flatten()
    times = panel.times if panel.times.dtype.kind == "M" else panel.times.astype(str)
    columns: dict[str, Any] = {}
    if len(panel.names) > 1:
        columns["series"] = np.array(panel.names)[panel.series_of(windows.origins)].repeat(horizon)
    if backtest:
        columns["origin"] = times[windows.origins - 1].repeat(horizon)
    columns["time"] = times[rows]
    levels = ["" if level == 0.5 else f"_{level:g}" for level in model.quantiles] or [""]
    for target, name in enumerate(panel.targets):
        for output, level in enumerate(levels):
            columns[f"{name}{level}"] = values[:, :, target, output].flatten().double()
        if backtest:
            columns[f"{name}_true"] = panel.observed_at(rows)[:, target].double()
    return pd.DataFrame(columns)
