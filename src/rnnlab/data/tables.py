"""Columns of a CSV or Parquet file as names, numbers and times; whatever is wrong is reported with its rows."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_integer_dtype, is_numeric_dtype

from rnnlab.utils.errors import UserError, require


def read_columns(path: Path, columns: list[str], text: list[str | None], others: bool = False) -> pd.DataFrame:
    """The given columns of a file; those in `text` are names such as 007 or NA. With `others` all others follow."""
    frame = _read_parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _read_csv(path, text)
    for name in columns:
        require(name in frame, f"data.path={path} has no column {name}. It has: {listed(list(frame))}.")
    if others:
        require("" not in frame, f"data.path={path} has a column without a name: name it or remove it.")
        columns = columns + [name for name in frame if name not in columns]
    require(len(frame) > 0, f"data.path={path} has no rows.")
    frame = frame[columns]
    repeated = frame.columns[frame.columns.duplicated()].unique()
    require(repeated.empty, f"data.path={path}: column {', '.join(repeated)} more than once.")
    return frame


def _read_csv(path: Path, text: list[str | None]) -> pd.DataFrame:
    with path.open(encoding="utf-8-sig") as file:
        header = next((line for line in file if line.strip()), "")
    unquoted = re.sub('"[^"]*"', "", header)
    options: Any = {"sep": max(",;\t", key=unquoted.count), "skipinitialspace": True}
    # a row that is longer than the header is refused if both are data; pandas would take its first cells for an index
    head = pd.read_csv(path, header=None, nrows=2, dtype=str, keep_default_na=False, **options)
    # all columns: with usecols pandas would cut longer rows without a message
    frame = pd.read_csv(path, **options).set_axis(head.iloc[0].tolist(), axis=1)
    for name in {*text} & {*frame}:  # 007, NA
        frame[name] = pd.read_csv(path, usecols=[name], dtype=str, keep_default_na=False, **options)
    return frame


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except ImportError as error:
        raise UserError('Parquet files need pyarrow: pip install "rnnlab[data]", in a clone -e ".[data]".') from error
    return frame.reset_index(drop=not any(frame.index.names))


def read_names(path: Path, column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """The number of each row's name, (rows,), and the names in the order of their first rows."""
    numbers, names = pd.factorize(column)
    refuse(path, column, (numbers < 0) | (column == ""), "empty cells")
    return numbers, [str(name) for name in names]


def read_numbers(path: Path, column: pd.Series, empty: bool = True) -> np.ndarray:
    """A column as float64, (rows,), with nan for empty cells, which may be refused."""
    numbers = column
    if not is_numeric_dtype(column):
        numbers = pd.to_numeric(column.astype(object), errors="coerce")
        refuse(path, column, numbers.isna() & column.notna(), "cells that are not numbers")
    values = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    known = ~np.isnan(values)
    refuse(path, column, ~known & (not empty), "empty cells")
    stored = values.astype(np.float32)  # what the network computes with
    refuse(path, column, np.isinf(stored), "infinite cells")
    changes = np.diff(values[known])
    errors = np.diff(stored[known].astype(np.float64)) - changes
    require(
        np.abs(errors).sum() <= 0.01 * np.abs(changes).sum(),
        f"data.path={path}: {column.name} changes too little for its level to be resolved by float32: subtract a "
        "constant from it.",
    )
    return values


def read_times(path: Path, column: pd.Series, dayfirst: bool | None) -> np.ndarray:
    """A column of dates as datetime64, in UTC where there are time zones, of numbers as int64 or float64, (rows,).

    Integers such as 20240131 or 202401 are dates.
    """
    times = _compact_dates(column) if is_numeric_dtype(column) else _dates(path, column, dayfirst)
    if not is_numeric_dtype(times):
        refuse(path, column, times.isna(), "cells that are not dates")
        return times.to_numpy()
    refuse(path, column, ~times.between(-(2**62), 2**62), "cells that are not times")  # nan, infinite
    return times.to_numpy(np.float64 if times.dtype.kind == "f" else np.int64)


def _compact_dates(column: pd.Series) -> pd.Series:
    """Integers as dates if all of them are."""
    for form, low, high in (("%Y%m%d", 19000101, 22001231), ("%Y%m", 190001, 220012)):
        if is_integer_dtype(column) and column.between(low, high).all():
            dates = pd.to_datetime(column.astype(str), format=form, errors="coerce")
            if dates.notna().all():
                return dates
    return column


def _dates(path: Path, column: pd.Series, dayfirst: bool | None) -> pd.Series:
    """Text as dates; without `dayfirst`, 13/01/2020 tells the order of all, and 01/02/2020 alone is refused."""
    if not column.head(1000).astype(str).str.match(r"\s*\d{1,2}\D\d{1,2}\D\d").any():
        return _parse(column, dayfirst=False)
    parsed = [_parse(column, order) for order in ([True, False] if dayfirst is None else [dayfirst])]
    complete = [dates for dates in parsed if dates.notna().all()]
    require(
        len(complete) < 2 or complete[0].equals(complete[1]),
        f"data.path={path}: the dates in {column.name} could begin with the day or with the month: set "
        "data.dayfirst=true or false.",
    )
    return (complete or parsed)[0]


def _parse(column: pd.Series, dayfirst: bool) -> pd.Series:
    """Dates in UTC, NaT where they cannot be read."""
    dates = pd.to_datetime(column, errors="coerce", dayfirst=dayfirst, utc=True)
    if dates.isna().any():  # only some have a time of day
        dates = dates.fillna(pd.to_datetime(column, errors="coerce", format="ISO8601", utc=True))
    return dates.dt.tz_convert(None).where(dates.dt.year.between(1000, 9999))  # Jan-20 is not in year 1


def check_order(path: Path, column: pd.Series, times: np.ndarray, series: np.ndarray) -> None:
    """Raise `UserError` unless times rise within each series; rows are sorted by series."""
    late = (np.diff(series) == 0) & (times[1:] <= times[:-1])
    refuse(path, column, np.append(False, late), "times that are not later than the one before")


def refuse(path: Path, column: pd.Series, wrong: Any, fault: str) -> None:
    """Raise `UserError` with the rows and the cells where a column is wrong; its index counts rows from 0."""
    cells = column[np.asarray(wrong, dtype=bool)]
    rows = [f"row {row + 1}" + f" ({cell!s:.40})" * (str(cell) not in ("", "nan")) for row, cell in cells[:3].items()]
    require(cells.empty, f"data.path={path}: {column.name} has {fault}: {listed(rows, len(cells))}.")


def listed(items: Any, total: int | None = None) -> str:
    """The first items of a list, or all that are shown of `total`."""
    shown = items[:20]
    hidden = (len(items) if total is None else total) - len(shown)
    return ", ".join(shown) + (f" and {hidden:,} more" if hidden else "")
