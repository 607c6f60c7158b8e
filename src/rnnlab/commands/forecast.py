"""Forecasts of a trained model: the steps after the end of each series, or those of the test split."""

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from rnnlab.config.validate import check_parts
from rnnlab.data.forecasting import ForecastData
from rnnlab.data.windows import Windows
from rnnlab.tasks.forecaster import Forecaster
from rnnlab.training import checkpoint
from rnnlab.training.devices import use_tf32
from rnnlab.utils.console import tell
from rnnlab.utils.errors import UserError, require, require_other_file

BATCH_SIZE = 1024
PRINTED_ROWS = 40


@torch.inference_mode()
def forecast(cfg: DictConfig, literal: dict[str, str]) -> None:
    """Forecast the next steps of every series, or with `cfg.backtest` from every origin of the test split.

    **Arguments:**

    - `cfg`: the composed `forecast.yaml`.
    - `literal`: `ckpt`, `data.path`, `out` and `plot` as they stand on the command line.

    **Raises:** `UserError` for a checkpoint of another task, data that do not fit it, and files that cannot be written.
    """
    settings: Any = SimpleNamespace(**{**OmegaConf.to_container(cfg), **literal})  # type: ignore[dict-item]
    data = {**settings.data, **({"path": literal["data.path"]} if "data.path" in literal else {})}
    check_parts(OmegaConf.create({"data": data, "device": settings.device, "backtest": settings.backtest}))
    ckpt, device = settings.ckpt, settings.device
    require(ckpt != "???", "ckpt is needed: give ckpt=PATH. --help shows examples.")
    require(device == "cpu" or torch.cuda.is_available(), f"device={device}: torch finds no GPU. Use cpu.")
    use_tf32(False)
    model, datamodule = checkpoint.load_parts(ckpt, data)
    if not isinstance(model, Forecaster):
        raise UserError(f"ckpt={ckpt} holds a {type(model).__name__}; forecasts need a run of model=forecaster.")
    for key in ("out", "plot"):
        path = getattr(datamodule, "path", None)
        require_other_file(key, getattr(settings, key), ckpt=ckpt, **{"data.path": path and str(path)})
    model = model.to(device).eval()
    windows = _test_windows(datamodule) if settings.backtest else datamodule.latest_windows()
    batches = windows.origins.split(BATCH_SIZE)
    values = torch.cat([model.forecast(windows.inputs(origins).to(device)).cpu() for origins in batches])
    table = _table(windows, values, model.quantiles, settings.backtest)
    try:
        if settings.out is not None:
            key = "out"
            table.to_csv(settings.out, index=False, float_format="%.7g")
        if settings.plot is not None:
            key = "plot"
            with warnings.catch_warnings(action="ignore"):  # letters that no font has
                model.draw_forecasts(windows).savefig(settings.plot, dpi=110)
    except (OSError, ValueError) as error:
        raise UserError(f"{key}={getattr(settings, key)} cannot be written: {error}") from error
    tell(_printed(table))


def _test_windows(datamodule: ForecastData) -> Windows:
    """The windows of the test split, of the validation split if there is none."""
    datamodule.setup("test")
    splits: Any = datamodule.splits
    require(len(splits) > 1, "backtest=true needs a test split: give data.test=STEPS.")
    return splits.get("test") or splits["val"]


def _table(windows: Windows, values: torch.Tensor, quantiles: tuple[float, ...], backtest: bool) -> Any:
    """A DataFrame with a row for each step of each forecast."""
    import pandas as pd  # other commands start faster without it

    panel, times = windows.panel, _as_text(windows.panel.times)
    rows = windows.origins[:, None] + windows.future
    columns: dict[str, Any] = {}
    if len(panel.names) > 1:
        columns["series"] = np.array(panel.names)[panel.series_of(windows.origins)].repeat(rows.shape[1])
    if backtest:
        columns["origin"] = times[windows.origins - 1].repeat(rows.shape[1])
    columns["time"] = times[rows.flatten()]
    levels = ["" if level == 0.5 else f"_{level:g}" for level in quantiles] or [""]
    for target, name in enumerate(panel.targets):
        for output, level in enumerate(levels):
            columns[f"{name}{level}"] = values[:, :, target, output].flatten().double()
        if backtest:
            columns[f"{name}_true"] = panel.observed_at(rows.flatten())[:, target].double()
    return pd.DataFrame(columns)


def _as_text(times: np.ndarray) -> np.ndarray:
    """Times as text: dates without an hour where there are no hours."""
    if times.dtype.kind != "M":
        return times.astype(str)
    rounded = (times.astype(f"datetime64[{unit}]") for unit in ("D", "s", "ms", "us", "ns"))
    return np.datetime_as_string(next(coarse for coarse in rounded if (coarse == times).all()))


def _printed(table: Any) -> Table:
    more = len(table) - PRINTED_ROWS
    printed = Table(*table.columns, caption=f"{more:,} more rows: out=FILE writes all" if more > 0 else None)
    shown = table.head(PRINTED_ROWS).map(lambda cell: f"{cell:.7g}" if isinstance(cell, float) else cell)
    for row in shown.replace("nan", "").itertuples(index=False):
        printed.add_row(*row)
    return printed
