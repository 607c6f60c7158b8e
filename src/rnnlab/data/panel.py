"""Arranges the rows of one or more series on an even grid of times."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rnnlab.data.tables import listed
from rnnlab.utils.console import tell
from rnnlab.utils.errors import require

CALENDAR = {"hour": 24, "day_of_week": 7, "month": 12, "day_of_year": 365.2425}  # pandas' names, and their periods


class Grid(NamedTuple):
    """Where rows are in time."""

    steps: np.ndarray  # (rows,) since the first one of the series
    times_of: Callable[[int, int], np.ndarray]  # times of the first steps of a series, which may go on behind its end
    freq: str | None = None  # for dates, the step as pandas writes it


def find_grid(path: Path, times: np.ndarray, series: np.ndarray, horizon: int, fill: str | None) -> Grid:
    """The even grid of the (rows,) times of series 0, 1, ...; it goes on for `horizon` steps behind the last time.

    Rows whose times are not even are one step apart, which is reported, or with `fill` refused.
    """
    gaps = np.diff(times)[np.diff(series) == 0]
    usual = np.sort(gaps)[len(gaps) // 2] if len(gaps) else times[0] - times[0] + 1
    dated = times.dtype.kind == "M"
    if not len(gaps) or (times.max() - times.min()) / usual < 1000 * len(times):  # more would be gaps
        even = _date_grid(times, series, horizon) if dated and len(gaps) else _number_grid(times, series, usual)
        if even is not None:
            return even
    uneven = f"{path}: the times are not evenly spaced."
    require(fill is None, f"{uneven} data.fill={fill} needs times that are even but for gaps.")
    tell(f"{uneven} Each row counts as one step.")
    begin = np.flatnonzero(np.diff(series, prepend=-1))
    parts = np.split(times, begin[1:])

    def times_of(number: int, size: int) -> np.ndarray:
        part = parts[number]
        return np.append(part, part[-1] + usual * np.arange(1, size - len(part) + 1))

    return Grid(np.arange(len(times)) - begin[series], times_of)


def _number_grid(times: np.ndarray, series: np.ndarray, usual: np.ndarray) -> Grid | None:
    start = times[np.flatnonzero(np.diff(series, prepend=-1))]
    exact = (times - start[series]) / usual
    steps = np.rint(exact).astype(np.int64)
    if np.abs(steps - exact).max() > 1e-3 or not _mostly_even(steps, series):
        return None
    return Grid(steps, lambda number, size: start[number] + usual * np.arange(size))


def _date_grid(times: np.ndarray, series: np.ndarray, horizon: int) -> Grid | None:
    freq = _frequency(times, series)
    if freq is None:
        return None
    index = pd.date_range(times.min(), times.max(), freq=freq)
    grid = index.append(pd.date_range(index[-1], periods=horizon + 1, freq=freq)[1:]).to_numpy()
    place = np.searchsorted(grid, times)
    if (grid[place] != times).any() or not _mostly_even(place, series):
        return None
    start = place[np.flatnonzero(np.diff(series, prepend=-1))]
    return Grid(place - start[series], lambda number, size: grid[start[number] :][:size], index.freqstr)


def _mostly_even(steps: np.ndarray, series: np.ndarray) -> bool:
    """Whether most rows of a series are one step apart; otherwise times are uneven rather than full of gaps."""
    apart = np.diff(steps)[np.diff(series) == 0]
    return bool((apart > 0).all() and 2 * np.count_nonzero(apart == 1) >= len(apart))


def _frequency(times: np.ndarray, series: np.ndarray) -> Any:
    """The frequency of most stretches of ten rows, two weeks of business days, or if all have gaps of three rows.

    Dates on the same day of each month, for which pandas has no name, are months apart.
    """
    dates = pd.DatetimeIndex(times)
    for length in (10, 3):
        starts = np.flatnonzero(series[length - 1 :] == series[: max(0, len(series) - length + 1)])
        some = starts[:: len(starts) // 50 + 1]
        found = Counter(pd.infer_freq(dates[start : start + length]) for start in some)
        found.pop(None, None)
        if found:
            return found.most_common(1)[0][0]
        months = np.diff(dates.year * 12 + dates.month)[np.diff(series) == 0]
        if (dates.day == dates.day[0]).all() and months.min() > 0:
            return pd.DateOffset(months=int(months.min()))
    return None


def check_gaps(
    path: Path, row_at: np.ndarray, times: np.ndarray, missing: np.ndarray, first: np.ndarray, fill: str | None
) -> None:
    """Raise `UserError` unless the (steps, columns) missing cells can be filled; otherwise report how many steps are.

    `row_at` is the row of the file that each step is in, from 1, or 0; `first` is the first step of each series.
    """
    holes: Any = missing.any(1)
    starts = np.flatnonzero(np.diff(holes, prepend=False) & holes)
    shown = zip(pd.Index(times[starts[:3]]).astype(str), row_at[starts[:3] - 1], strict=True)
    gaps = listed([f"{time} (after row {row})" for time, row in shown], len(starts))
    require(
        fill is not None,
        f"data.path={path} has gaps, which begin at {gaps}. Complete the file, or set data.fill=linear or "
        "data.fill=ffill.",
    )
    require(not holes[first].any(), f"data.path={path}: a series begins with a gap, which cannot be filled.")
    rows = np.count_nonzero(row_at)
    tell(f"{path}: {holes.sum():,} steps, for {rows:,} rows, are filled with data.fill={fill}; they are not scored.")


def calendar_features(name: str, times: np.ndarray) -> np.ndarray:
    """A field of dates on a circle, (steps, 2)."""
    field = np.asarray(getattr(pd.DatetimeIndex(times), name), dtype=np.float64)
    angle = 2 * np.pi * field / CALENDAR[name]
    return np.column_stack((np.sin(angle), np.cos(angle)))
