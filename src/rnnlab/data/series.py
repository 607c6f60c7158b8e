"""Series of a file, or of a package."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from rnnlab.data.forecasting import ForecastData
from rnnlab.data.panel import calendar_features, check_gaps, find_grid
from rnnlab.data.tables import check_order, read_columns, read_names, read_numbers, read_times
from rnnlab.data.windows import Panel
from rnnlab.utils.errors import UserError, require
from rnnlab.utils.files import locate, reading


class SeriesData(ForecastData):
    """Series of a CSV or Parquet file.

    **Arguments:** those of `conf/data/series.yaml`; `split` are those of `ForecastData`.
    """

    def __init__(
        self,
        path: str,
        target: str | list[str],
        time: str | None = None,
        series_id: str | None = None,
        covariates: list[str] | None = None,
        future_covariates: list[str] | None = None,
        calendar: list[str] | None = None,
        dayfirst: bool | None = None,
        fill: str | None = None,
        **split: Any,
    ):
        super().__init__(**split)
        self.path = locate(path)
        self.targets = target if isinstance(target, list) else [str(target)]
        self.time = time
        self.series_id = series_id
        self.covariates = covariates or []
        self.future_covariates = future_covariates or []
        self.calendar = calendar or []
        self.dayfirst = dayfirst
        self.fill = fill

    def read(self) -> Panel:
        with reading(f"data.path={self.path}"):
            return self._read()

    def _read(self) -> Panel:
        columns = [*self.targets, *self.covariates, *self.future_covariates]
        keys = [name for name in (self.time, self.series_id) if name is not None]
        frame = read_columns(self.path, [*columns, *keys], text=[self.series_id])
        cells = np.column_stack([read_numbers(self.path, frame[name]) for name in columns])
        series, names = np.zeros(len(frame), dtype=np.int64), ["1"]
        if self.series_id is not None:
            series, names = read_names(self.path, frame[self.series_id])
        order = np.argsort(series, kind="stable")
        rows, cells, series = order + 1, cells[order], series[order]
        begin = np.flatnonzero(np.diff(series, prepend=-1))
        if self.time is None:
            times = np.arange(1, len(rows) + 1) - begin[series]
        else:
            times = read_times(self.path, frame[self.time], self.dayfirst)[order]
            check_order(self.path, frame[self.time].iloc[order], times, series)
        message = f"data.calendar={self.calendar} needs dates: data.time={self.time} has none."
        require(times.dtype.kind == "M" or not self.calendar, message)
        grid = find_grid(self.path, times, series, self.horizon, self.fill)

        # rows of the panel: the steps of each series, without gaps, and the horizon after its last target
        count = np.maximum.reduceat(grid.steps, begin) + 1
        has_target = ~np.isnan(cells[:, : len(self.targets)]).all(1)
        length = np.maximum.reduceat(np.where(has_target, grid.steps + 1, 0), begin)
        if not self.future_covariates and self.fill is None:
            length = count  # an empty cell at the end is a gap
        size = np.maximum(count, length + self.horizon)
        first = size.cumsum() - size
        place = first[series] + grid.steps
        values = np.full((size.sum(), len(columns)), np.nan)
        values[place] = cells
        row_at = np.zeros(len(values), dtype=np.int64)  # 0 where the file has no row
        row_at[place] = rows
        times = np.concatenate([grid.times_of(*numbers) for numbers in enumerate(size)])

        steps = np.arange(len(values)) - np.repeat(first, size)
        missing = np.isnan(values) & (steps < np.repeat(length, size))[:, None]
        if missing.any():
            check_gaps(self.path, row_at, times, missing, first, self.fill)
            for start, stop in zip(first, first + length, strict=True):
                part = pd.DataFrame(values[start:stop])
                values[start:stop] = part.interpolate() if self.fill == "linear" else part.ffill()
        circles = [f"{part} of {name}" for name in self.calendar for part in ("sine", "cosine")]
        ahead = [*self.future_covariates, *circles]
        table = np.column_stack([values, *(calendar_features(name, times) for name in self.calendar)])
        return Panel(
            torch.from_numpy(table.astype(np.float32)),
            tuple(self.targets),
            (*self.covariates, *ahead),
            tuple(ahead),
            names,
            first,
            first + length,
            times,
            grid.freq,
            torch.from_numpy(missing[:, : len(self.targets)]) if missing.any() else None,
            missing.any(1) if missing.any() and self.fill == "linear" else None,
        )


class WeatherData(SeriesData):
    """Four years of daily weather in Seattle, which the package vega-datasets carries (NOAA, public domain)."""

    def __init__(self, **columns: Any):
        package = find_spec("vega_datasets")
        if package is None or package.origin is None:
            raise UserError('data=weather needs a package: pip install "rnnlab[data]", in a clone -e ".[data]".')
        path = Path(package.origin).with_name("_data") / "seattle-weather.csv"
        super().__init__(path=str(path), time="date", **columns)
