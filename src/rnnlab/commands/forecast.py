"""What a trained forecaster is for: the steps after the last one that is known."""

import csv
import math
import warnings
from collections.abc import Iterator
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from rnnlab.config.validate import check_parts
from rnnlab.data.windows import ForecastData, Panel, Windows
from rnnlab.tasks.forecaster import Forecaster
from rnnlab.tasks.plots import draw_forecasts
from rnnlab.training import checkpoint
from rnnlab.training.devices import use_tf32
from rnnlab.utils.console import tell
from rnnlab.utils.errors import UserError, require, require_other_file

BATCH = 1024  # windows that are forecast at once
PRINTED = 40  # rows


@torch.inference_mode()
def forecast(cfg: DictConfig, literal: dict[str, str]) -> None:
    """Forecast the next steps of every series, or with `cfg.backtest` from every rolling origin of the test part.

    **Arguments:**

    - `cfg`: the composed `forecast.yaml`.
    - `literal`: values of `ckpt`, `data.path`, `out` and `plot`, as they stand on the command line.

    **Raises:** `UserError` for a checkpoint of another task, data that do not fit it, and files that cannot be written.
    """
    how = SimpleNamespace(**{**OmegaConf.to_container(cfg), **literal})  # type: ignore[dict-item]
    data = {**how.data, **({"path": literal["data.path"]} if "data.path" in literal else {})}
    check_parts(OmegaConf.create({"data": data, "device": how.device, "backtest": how.backtest}))
    require(how.ckpt != "???", "ckpt is needed: give ckpt=PATH. --help shows examples.")
    require(how.device == "cpu" or torch.cuda.is_available(), f"device={how.device}: torch finds no GPU. Use cpu.")
    use_tf32(False)
    model, datamodule = checkpoint.load_parts(how.ckpt, data)
    if not isinstance(model, Forecaster):
        raise UserError(
            f"ckpt={how.ckpt} holds a {type(model).__name__}; forecasts come from a run of model=forecaster."
        )
    for key in ("out", "plot"):
        path = getattr(datamodule, "path", None)
        require_other_file(key, getattr(how, key), ckpt=how.ckpt, **{"data.path": path and str(path)})
    model = model.to(how.device).eval()
    windows = _windows(model, datamodule, how.backtest)
    values = torch.cat(
        [
            model.forecast(windows.window(origins[:, None]).to(how.device)).cpu()
            for origins in windows.origins.split(BATCH)
        ]
    )
    rows = windows.origins.numpy()[:, None] + np.arange(model.spec.horizon)
    if how.out is not None:
        _write(how.out, _table(model, datamodule, rows, values, how.backtest))
    if how.plot is not None:
        _draw(how.plot, model, datamodule.panel, rows, values)
    tell(_printed(_table(model, datamodule, rows, values, how.backtest), rows.size))


def _windows(model: Forecaster, datamodule: ForecastData, backtest: bool) -> Windows:
    """The window at the end of each series, or those of the test part; of the validation part if there is none."""
    if backtest:
        datamodule.setup("test")
        parts: Any = datamodule.splits
        require(len(parts) > 1, "backtest=true needs a test part: give data.test=STEPS.")
        return parts.get("test") or parts["val"]
    panel, context = datamodule.panel, model.spec.seq_len
    lengths = panel.end - panel.first
    short = int(lengths.argmin())
    require(
        int(lengths[short]) >= context,
        f"{datamodule.named(short)} has {lengths[short]:,} steps; a forecast looks back data.context={context:,}.",
    )
    datamodule.standardise()
    windows = Windows(panel, panel.end, context, model.spec.horizon)
    known = windows.window(windows.origins[:, None]).isfinite().all(dim=(1, 2))
    require(
        bool(known.all()),
        f"{datamodule.named(int(known.int().argmin()))} ends without {', '.join(panel.ahead)} of the next "
        f"{model.spec.horizon} steps: add rows that hold these, and no {', '.join(panel.targets)}.",
    )
    return windows


def _table(
    model: Forecaster, datamodule: ForecastData, rows: np.ndarray, values: torch.Tensor, backtest: bool
) -> Iterator[list[str]]:
    """A header, then a row for each step of each forecast."""
    panel = datamodule.panel
    times = _written(panel.times)
    levels = [f"_{level:g}" for level in model.quantiles]
    levels[model.point : model.point + 1] = [""]  # the forecast itself goes by the name of what is forecast
    header = ["series"] * (len(panel.names) > 1) + ["origin"] * backtest + ["time"]
    for target in panel.targets:
        header += [f"{target}{level}" for level in levels or [""]] + [f"{target}_true"] * backtest
    yield header
    series = panel.series(torch.from_numpy(rows[:, 0].copy())).tolist()
    for whose, steps, cells in zip(series, rows, values, strict=True):
        start = [panel.names[whose]] * (len(panel.names) > 1) + [times[steps[0] - 1]] * backtest
        if backtest:
            truth = panel.values[steps, : len(panel.targets)]
            truth = truth if panel.filled is None else truth.masked_fill(panel.filled[steps], torch.nan)
        told = torch.cat((cells, truth[..., None]), dim=-1) if backtest else cells
        for row, forecast in zip(steps, told.flatten(1).tolist(), strict=True):
            yield [*start, times[row], *("" if math.isnan(cell) else f"{cell:.7g}" for cell in forecast)]


def _written(times: np.ndarray) -> np.ndarray:
    """Times as text: dates without an hour where there are no hours."""
    if times.dtype.kind != "M":
        return times.astype(str)
    rounded = (times.astype(f"datetime64[{unit}]") for unit in ("D", "s", "ms", "us", "ns"))
    return np.datetime_as_string(next(coarse for coarse in rounded if (coarse == times).all()))


def _write(out: str, table: Iterator[list[str]]) -> None:
    try:
        with open(out, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(table)
    except OSError as error:
        raise UserError(f"out={out} cannot be written: {error.strerror}.") from error


def _draw(plot: str, model: Forecaster, panel: Panel, rows: np.ndarray, values: torch.Tensor) -> None:
    charts = model.charts(panel, torch.from_numpy(rows[:, 0].copy()))
    try:
        with warnings.catch_warnings(action="ignore"):  # of letters that no font has
            draw_forecasts(charts, model.quantiles, panel.freq).savefig(plot, dpi=110)
    except (OSError, ValueError) as error:
        raise UserError(f"plot={plot} cannot be written: {error}") from error


def _printed(table: Iterator[list[str]], number: int) -> Table:
    more = f"{number - PRINTED:,} more rows: out=FILE writes all" if number > PRINTED else None
    printed = Table(*next(table), caption=more)
    for row in islice(table, PRINTED):
        printed.add_row(*row)
    return printed
