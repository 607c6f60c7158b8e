"""Series out of a CSV or Parquet file, on an even grid of times. Every fault of a file is told with its rows."""

import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import torch

from rnnlab.data.windows import Panel
from rnnlab.utils.console import tell
from rnnlab.utils.errors import UserError, require
from rnnlab.utils.files import decode, one_word, open_file, read_pieces, require_memory

CALENDAR = {"hour": 24, "day_of_week": 7, "month": 12, "day_of_year": 365.2425}  # pandas' names, and their periods
SHOWN = 3  # faults that a message names
LOOKED_AT = 10  # rows that tell the step of a column of times: two weeks of business days

LISTED = 20  # names that a message lists
FARTHEST = 2**62  # what a time may be: differences of two are still 64 bits
LAST = 253_402_300_799_000_000  # the end of the year 9999 in microseconds

TimeAt = Callable[[np.ndarray, np.ndarray], np.ndarray]
Columns = tuple[list[str], Callable[[list[int], list[int]], Any]]  # names, and what reads those at these places


def import_pandas() -> ModuleType:
    """pandas, which reads files and knows calendars; nothing else needs it."""
    try:
        import pandas
    except ImportError as error:
        raise UserError(
            'CSV and Parquet files need pandas: pip install "rnnlab[data]", in a clone -e ".[data]".'
        ) from error
    return pandas


def read_panel(
    path: Path,
    target: list[str],
    time: str | None,
    series_id: str | None,
    covariates: list[str],
    future_covariates: list[str],
    calendar: list[str],
    dayfirst: bool | None,
    fill: str | None,
    horizon: int,
) -> Panel:
    """Read, check and place what a file holds.

    **Arguments:**

    - `path`: a CSV file with a header, or a Parquet file (`.parquet`).
    - `target`: columns to be forecast.
    - `time`: column of dates or numbers that orders the rows; `None` takes the rows as they come.
    - `series_id`: column that tells the series of one long table apart.
    - `covariates`: columns that are known of the past.
    - `future_covariates`: columns that are known ahead; the last rows of a series may hold these alone.
    - `calendar`: what of each time to add to these, as sine and cosine: names in `CALENDAR`.
    - `dayfirst`: whether 01/02/2020 is the first of February; `None` finds out, and refuses dates that could be both.
    - `fill`: what to put where rows or cells are missing: `linear`, `ffill`, or `None`, which refuses them.
    - `horizon`: steps that the panel goes on behind the end of each series.

    **Raises:** `UserError` for a file or column that is missing; cells that are empty, infinite or no numbers; times
    that are unsorted or twice; gaps. Rows are counted from 1, without the header.
    """
    pd = import_pandas()
    require_memory(8 * horizon, f"The steps of data.horizon={horizon:,}")
    numbers = [*target, *covariates, *future_covariates]
    wanted = [name for name in (*numbers, time, series_id) if name is not None]
    frame = read_columns(pd, path, wanted, texts=[] if series_id is None else [series_id])
    require_memory(
        len(frame) * (16 * len(numbers) + 48),
        f"data.path={path}: {len(frame):,} rows of {len(numbers)} columns",
        "Use a part of it.",
    )
    rows = np.arange(1, len(frame) + 1)
    cells = np.column_stack([read_numbers(pd, path, frame[name]) for name in numbers])
    series, names = np.zeros(len(frame), dtype=np.int64), [""]
    if series_id is not None:
        series, names = read_names(pd, path, frame[series_id])
    times = rows if time is None else read_times(pd, path, frame[time], dayfirst)
    del frame
    if "pyarrow" in sys.modules:  # keeps what reading took, twice the table
        sys.modules["pyarrow"].default_memory_pool().release_unused()
    if np.count_nonzero(np.diff(series)) >= len(names):  # not one series after the other
        order = np.argsort(series, kind="stable")
        rows, cells, series, times = rows[order], cells[order], series[order], times[order]
    begin = np.flatnonzero(np.diff(series, prepend=-1))
    if time is None:
        times = times - times[begin][series] + 1
    else:
        check_order(path, time, times, series, rows)
    steps, time_at, freq = _grid(pd, path, times, series, begin, horizon, fill)

    count = np.append(steps[begin[1:] - 1], steps[-1]) + 1
    length = count
    if future_covariates or fill is not None:
        told = ~np.isnan(cells[:, : len(target)]).all(1)
        length = np.maximum.reduceat(np.where(told, steps + 1, 0), begin)
    size = np.maximum(count, length + horizon)
    first = size.cumsum() - size
    end = first + length
    place = first[series] + steps
    require_memory(
        int(size.sum()) * (12 * cells.shape[1] + 24),
        f"data.path={path}: {size.sum():,} steps, from the first time of each series to {horizon:,} behind its last,",
        "Are the times read as they are meant?",
    )
    values = np.full((size.sum(), cells.shape[1]), np.nan)
    values[place] = cells
    row_at = np.zeros(len(values), dtype=np.int64)  # 0: the file has no such row
    row_at[place] = rows
    whose = np.repeat(np.arange(len(names)), size)
    times = time_at(whose, np.arange(len(values)) - first[whose])
    inside = np.arange(len(values)) < end[whose]
    missing = np.isnan(values) & inside[:, None]
    if missing.any():
        faults = f"data.path={path}: {_faults(numbers, row_at, times, missing)}"
        require(fill is not None, f"{faults} Mend the file, or set data.fill=linear or data.fill=ffill.")
        begins = name_rows(row_at[first[missing[first].any(1)]])
        require(not missing[first].any(), f"data.path={path}: {begins} cannot be filled: a series begins there.")
        filled = int(np.count_nonzero(missing.any(1)))
        tell(f"{path}: {filled:,} of {inside.sum():,} steps are filled, data.fill={fill}. They are not scored.")
        begins = ", ".join(_shown(moment) for moment in times[place[:SHOWN]])
        require(
            filled <= len(rows),
            f"data.path={path}: more steps would be filled, {filled:,}, than there are rows. Is {time} read as it is "
            f"meant? It begins {begins}.",
        )
        _fill(values, missing, end[whose], linear=fill == "linear")
    dated = time is not None and times.dtype.kind == "M"
    require(dated or not calendar, f"data.calendar={calendar} needs dates: data.time={time or 'null'} gives none.")
    ahead = (*future_covariates, *(f"{part} of {name}" for name in calendar for part in ("sine", "cosine")))
    columns = [values, *(_calendar(pd, name, times) for name in calendar)]
    return Panel(
        torch.from_numpy(np.concatenate(columns, axis=1, dtype=np.float32, casting="same_kind")),
        tuple(target),
        (*covariates, *ahead),
        ahead,
        names,
        first,
        end,
        times,
        freq,
        torch.from_numpy(missing[:, : len(target)]) if missing.any() else None,
        missing.any(1) if fill == "linear" and missing.any() else None,
    )


def read_columns(pd: ModuleType, path: Path, wanted: list[str], texts: list[str], rest: bool = False) -> Any:
    """The wanted columns of a file, with `rest` all others behind them, in the order of its rows.

    **Arguments:**

    - `texts`: columns of names, which `read_names` takes; of a CSV file they are text.

    **Raises:** `UserError` if the file is missing, is no table, has no rows or lacks a column.
    """
    what = f"data.path={path}"
    twice = [name for name, times in Counter(wanted).items() if times > 1]
    require(not twice, f"data asks for column {', '.join(twice)} more than once.")
    with open_file(path, what) as file, one_word(f"{what} cannot be read as a table"):
        names, read = (_parquet if path.suffix.lower() in (".parquet", ".pq") else _csv)(pd, path, file)
        times = Counter(names)
        for name in wanted:
            require(name in times, f"{what} has no column {name}. It has: {listed(names)}.")
        if rest:
            require("" not in times, f"{what} has a column without a name. Name it, or take it out.")
            wanted = list(dict.fromkeys((*wanted, *names)))
        for name in wanted:
            require(times[name] == 1, f"{what} has more than one column {name}.")
        place = {name: k for k, name in enumerate(names)}
        frame = read([place[name] for name in wanted], [place[name] for name in texts])
        frame.columns = wanted
    require(len(frame) > 0, f"{what} has no rows.")
    return frame


def _csv(pd: ModuleType, path: Path, file: BinaryIO) -> Columns:
    """A CSV file: as pandas reads it, but that what is no text or has too many cells is refused."""
    what = f"data.path={path}"
    require_memory(os.fstat(file.fileno()).st_size, f"The cells of {what}", "Use a part of it, or a Parquet file.")
    head = ""
    for text in decode(read_pieces(path, what), what, "Save it as UTF-8."):
        require(
            "\0" not in text, f"{what} has a character of the code 0: it is no text, or not UTF-8. Save it as that."
        )
        head = head or re.sub('"[^"]*"', "", text)
    line = next((line for line in head.splitlines() if line.strip()), None)
    require(line is not None, f"{what} does not begin with the names of its columns.")

    def parse(**how: Any) -> Any:
        file.seek(0)
        return pd.read_csv(file, sep=max(",;\t", key=str(line).count), skipinitialspace=True, **how)

    def read(places: list[int], texts: list[int]) -> Any:
        frame = parse()  # all columns: with usecols pandas cuts rows that are too long, without a word
        wanted = [frame.iloc[:, place] for place in places]
        if not all(_is_text(pd, frame.iloc[:, place]) for place in texts):  # 007 and NA are names
            text = parse(usecols=texts, dtype=str, keep_default_na=False)
            for column, place in enumerate(sorted(texts)):
                wanted[places.index(place)] = text.iloc[:, column]
        return pd.concat(wanted, axis=1)

    # with a row, which is refused here if it is longer than that of the names: pandas would take cells for an index
    return parse(header=None, nrows=2, dtype=str, keep_default_na=False).iloc[0].tolist(), read


def _parquet(pd: ModuleType, path: Path, file: BinaryIO) -> Columns:
    """A Parquet file, of which only plain columns are read, and nothing of what pandas or Arrow say of them beside."""
    import pyarrow as pa
    from pyarrow import parquet, types

    what = f"data.path={path}"
    table = parquet.ParquetFile(file)
    schema, promised = table.schema_arrow, table.metadata.num_rows
    plain = (types.is_integer, types.is_floating, types.is_boolean, types.is_null, types.is_timestamp, types.is_date,
             types.is_decimal, types.is_string, types.is_large_string, types.is_string_view)  # fmt: skip

    def read(places: list[int], texts: list[int]) -> Any:
        names, columns = [schema.names[place] for place in places], []
        for name in names:
            kind = schema.field(name).type
            kind = kind.value_type if types.is_dictionary(kind) else kind
            require(any(is_one(kind) for is_one in plain), f"{what}: {name} is {kind}: no numbers, dates or text.")
        require_memory(8 * promised * len(names), f"{what}: {promised:,} rows of {len(names):,} columns", "Use a part.")
        # a text that stands in a million rows is kept once
        text = [name for name in names if types.is_string(schema.field(name).type)]
        whole = parquet.ParquetFile(file, metadata=table.metadata, read_dictionary=text).read(columns=names)
        whole.validate(full=True)
        for name in names:
            column = whole.column(name)
            kind = column.type
            if types.is_timestamp(kind):  # in UTC, whatever its time zone is called
                column = column.cast(pa.int64()).cast(pa.timestamp(kind.unit))
            elif types.is_date(kind):
                column = column.cast(pa.timestamp("s" if types.is_date32(kind) else "ms"))
            elif types.is_decimal(kind):
                column = column.cast(pa.float64())
            elif types.is_string_view(kind):
                column = column.cast(pa.string())
            columns.append(column)
        return pa.table(columns, names=names).to_pandas(ignore_metadata=True)

    return schema.names, read


def _is_text(pd: ModuleType, column: Any) -> bool:
    return not column.isna().any() and pd.api.types.infer_dtype(column) == "string"


def read_names(pd: ModuleType, path: Path, column: Any) -> tuple[np.ndarray, list[str]]:
    """A column of names: which one each row has, and the names in the order of their first rows."""
    try:
        which, found = pd.factorize(column)
    except TypeError as error:
        raise UserError(
            f"data.path={path}: {column.name} holds what is no name: row 1: {column.iloc[0]!s:.40}."
        ) from error
    empty = np.flatnonzero((which < 0) | (column == "")) + 1
    require(not len(empty), f"data.path={path}: {column.name} is empty in {name_rows(empty)}.")
    return which, [str(name) for name in found]


def read_numbers(pd: ModuleType, path: Path, column: Any) -> np.ndarray:
    """A column as float64, empty cells as not a number."""
    values = column
    if not pd.api.types.is_numeric_dtype(column):
        values = _of_each(pd, column, lambda cells: pd.to_numeric(cells.astype(object), errors="coerce"))
        _refuse(path, column, values.isna() & column.notna(), "number")
    values = values.to_numpy(dtype=np.float64, na_value=np.nan)
    with np.errstate(over="ignore"):
        stored = values.astype(np.float32)  # what the network computes with
    infinite = np.flatnonzero(np.isinf(stored))
    require(not len(infinite), f"data.path={path}: {column.name} is infinite in {name_rows(infinite + 1)}.")
    known = ~np.isnan(values)
    moves = np.diff(values[known])
    require(
        np.abs(np.diff(stored[known].astype(np.float64)) - moves).sum() <= 0.01 * np.abs(moves).sum(),
        f"data.path={path}: {column.name} moves so little at its level that numbers of 32 bits cannot tell its values "
        "apart: subtract a constant from it.",
    )
    return values


def read_times(pd: ModuleType, path: Path, column: Any, dayfirst: bool | None) -> np.ndarray:
    """A column of times as numpy's datetimes, those with a time zone in UTC, or as numbers of 64 bits."""
    times = column
    if not pd.api.types.is_numeric_dtype(column):
        begins = [f"{cell!s:.40}".strip() for cell in column.head(1000).unique()]
        if not any(re.match(r"\d{1,2}\D\d{1,2}\D\d", cell) for cell in begins):
            times = _parse(pd, column, dayfirst=False)
        else:
            ways = {first: _parse(pd, column, first) for first in (True, False) if dayfirst in (None, first)}
            whole = {first: dates for first, dates in ways.items() if not dates.isna().any()}
            require(
                len(whole) < 2 or whole[True].equals(whole[False]),
                f"data.path={path}: the dates in {column.name} could begin with the day or with the month: set "
                "data.dayfirst=true or false.",
            )
            times = next(iter((whole or ways).values()))
    elif pd.api.types.is_integer_dtype(column):
        for digits, form in ((8, "%Y%m%d"), (6, "%Y%m")):
            if column.between(1900 * 10 ** (digits - 4), 2200 * 10 ** (digits - 4)).all():
                dates = pd.to_datetime(column.astype(str), errors="coerce", format=form)
                times = times if dates.isna().any() else dates
    if pd.api.types.is_numeric_dtype(times):
        _refuse(path, column, ~((times >= -FARTHEST) & (times <= FARTHEST)), "time")
        return times.to_numpy(np.float64 if times.dtype.kind == "f" else np.int64)
    _refuse(path, column, times.isna(), "time")
    exact = times.to_numpy()
    coarse = exact.astype("datetime64[us]")
    return coarse if (coarse == exact).all() else exact


def _refuse(path: Path, column: Any, wrong: Any, kind: str) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        cells = ", ".join(f"row {row + 1}: {column.iloc[row]!s:.40}" for row in rows[:SHOWN])
        raise UserError(f"data.path={path}: {column.name} holds what is no {kind}: {cells}{more(rows)}.")


def _of_each(pd: ModuleType, column: Any, parse: Callable[[Any], Any]) -> Any:
    """What `parse` makes of the cells; of text that a Parquet file holds once and names often, of each once."""
    if column.dtype != "category":
        return parse(column)
    parsed = parse(pd.Series(column.cat.categories))
    return parsed.reindex(column.cat.codes).set_axis(column.index)


def _parse(pd: ModuleType, column: Any, dayfirst: bool) -> Any:
    """Text as dates in UTC, those that cannot be read as NaT."""

    def parse(cells: Any) -> Any:
        if not pd.api.types.is_datetime64_any_dtype(cells):
            text = cells if pd.api.types.is_string_dtype(cells) else cells.astype(str)
            if (long := text.str.len() > 100).any():  # pandas takes seconds to find that such a text is no date
                cells = cells.where(~long)
        dates = pd.to_datetime(cells, errors="coerce", dayfirst=dayfirst, utc=True)
        if dates.isna().any():  # dates, some with a time of day
            dates = dates.fillna(pd.to_datetime(cells, errors="coerce", format="ISO8601", utc=True))
        return dates.dt.tz_convert(None)

    with warnings.catch_warnings(action="ignore"):  # of a column without one format
        dates = _of_each(pd, column, parse)
    return dates.where(dates.dt.year.between(1000, 9999))  # Jan-20 is no day of the year 1


def check_order(path: Path, time: str, times: np.ndarray, series: np.ndarray, rows: np.ndarray) -> None:
    same = np.diff(series) == 0
    for how, wrong in (
        ("has the time of", np.flatnonzero(same & (times[1:] == times[:-1]))),
        ("is earlier than", np.flatnonzero(same & (times[1:] < times[:-1]))),
    ):
        faults = ", ".join(
            f"row {rows[row + 1]} ({_shown(times[row + 1])}) {how} row {rows[row]}" for row in wrong[:SHOWN]
        )
        require(
            not len(wrong), f"data.path={path}: {time} has to rise from row to row of a series: {faults}{more(wrong)}."
        )


def _grid(
    pd: ModuleType, path: Path, times: np.ndarray, series: np.ndarray, begin: np.ndarray, horizon: int, fill: str | None
) -> tuple[np.ndarray, TimeAt, str | None]:
    """The step of each row since its series began, what time a step of a series is, and the frequency.

    Rows whose times are on no even grid are taken as one step each, which is told.
    """
    start = times[begin]
    gaps = np.diff(times)[np.diff(series) == 0]
    dated = times.dtype.kind == "M"
    if not len(gaps):  # of series of one row
        step = np.timedelta64(1, "D").astype(gaps.dtype) if dated else times.dtype.type(1)
        _require_room(path, times, step, horizon)
        return np.zeros(len(times), dtype=np.int64), lambda whose, steps: start[whose] + steps * step, None
    usual = np.sort(gaps)[len(gaps) // 2]
    _require_room(path, times, usual, horizon)
    with np.errstate(over="ignore"):
        number = (times.max() - times.min()) / usual
    if number < 1000 * len(times):  # more would be gaps
        require_memory(16 * int(number), f"data.path={path}: {number:,.0f} steps from the first time to the last")
        if not dated:
            steps = (times - start[series]) / usual
            whole = np.rint(steps).astype(np.int64)
            if np.abs(steps - whole).max() < 1e-3 and _mostly_even(whole, series):
                return whole, lambda whose, step: start[whose] + step * usual, None
        elif (freq := _frequency(pd, times, series, gaps)) is not None:
            with one_word(f"data.path={path}: the times cannot go on for data.horizon={horizon} steps"):
                index = pd.date_range(times.min(), times.max(), freq=freq)
                grid = index.append(pd.date_range(index[-1], periods=horizon + 1, freq=freq)[1:]).to_numpy()
            place = np.minimum(np.searchsorted(grid, times), len(grid) - 1)
            if (grid[place] == times).all() and _mostly_even(place, series):
                return place - place[begin][series], lambda whose, step: grid[place[begin][whose] + step], index.freqstr
    low, high = (pd.Timedelta(gap) if dated else gap for gap in (gaps.min(), gaps.max()))
    uneven = f"{path}: the times are not evenly spaced: steps are from {low} to {high}"
    if low == high:
        uneven = f"{path}: the series have the same step, {low}, but not the same times"
    require(fill is None, f"{uneven}. data.fill={fill} needs times that are even but for gaps.")
    tell(f"{uneven}. Each row counts as one step.")
    count = np.bincount(series)

    def time_at(whose: np.ndarray, step: np.ndarray) -> np.ndarray:
        behind = np.maximum(step - count[whose] + 1, 0)
        return times[begin[whose] + step - behind] + behind * usual

    return np.arange(len(times)) - begin[series], time_at, None


def _require_room(path: Path, times: np.ndarray, step: Any, horizon: int) -> None:
    """Refuse times that come to the end of the calendar, or of numbers, before the horizon does."""
    last = int(times.max().astype(np.int64)) + (horizon + 1) * int(step.astype(np.int64))
    limit = LAST if times.dtype == "datetime64[us]" else 2**63 - 1
    require(last <= limit, f"data.path={path}: the times cannot go on for data.horizon={horizon:,} steps.")


def _mostly_even(place: np.ndarray, series: np.ndarray) -> bool:
    """Whether most rows of a series are one step after another, and no two at one.

    Else its times are uneven, rather than full of gaps.
    """
    steps = np.diff(place)[np.diff(series) == 0]
    return bool(steps.min() > 0 and 2 * np.count_nonzero(steps == 1) >= len(steps))


def _frequency(pd: ModuleType, times: np.ndarray, series: np.ndarray, gaps: np.ndarray) -> Any:
    """The step that most stretches of the times agree on; with gaps in all of them, the smallest step there is."""
    looked_at = min(LOOKED_AT, int(np.bincount(series).max()))
    places = np.linspace(0, len(times) - looked_at, 50, dtype=np.int64)
    stretches = [times[row : row + looked_at] for row in places if series[row] == series[row + looked_at - 1]]
    stretches.append(times[np.flatnonzero(series == np.bincount(series).argmax())][:looked_at])
    with warnings.catch_warnings(action="ignore"):  # from pandas 4 on it is an offset
        found = Counter(pd.infer_freq(pd.DatetimeIndex(stretch)) for stretch in stretches if looked_at >= 3)
    found.pop(None, None)
    if found:
        return found.most_common(1)[0][0]
    index = pd.DatetimeIndex(times)
    if gaps.min() < np.timedelta64(28, "D"):
        workdays = gaps.min() == np.timedelta64(1, "D") and (index.day_of_week < 5).all()
        days, rest = divmod(pd.Timedelta(gaps.min()), pd.Timedelta(days=1))
        return "B" if workdays else f"{days}D" if not rest else pd.Timedelta(gaps.min())
    months = index.year * 12 + index.month
    apart = np.diff(months.to_numpy())[np.diff(series) == 0]
    if apart.min() == 0:
        return None
    return f"{apart.min()}ME" if index.is_month_end.all() else pd.DateOffset(months=int(apart.min()))


def _faults(columns: list[str], row_at: np.ndarray, times: np.ndarray, missing: np.ndarray) -> str:
    """Where rows and cells are missing."""
    absent = missing.any(1) & (row_at == 0)
    runs = np.flatnonzero(np.diff(absent.astype(np.int8), prepend=0) == 1)
    told = []
    for start in runs:
        number = int(np.argmin(absent[start:]))
        told.append(f"after row {row_at[start - 1]} the time{'s' if number > 1 else ''} {_shown(times[start])}"
                    f"{f' to {_shown(times[start + number - 1])} are' if number > 1 else ' is'} missing")  # fmt: skip
    for place in np.flatnonzero(missing.any(1) & ~absent):
        told.append(f"row {row_at[place]}: {', '.join(np.array(columns)[missing[place]])} is empty")
    return f"{'; '.join(told[:SHOWN])}{more(told)}."


def _fill(values: np.ndarray, missing: np.ndarray, end: np.ndarray, linear: bool) -> None:
    """Fill missing cells in place, from the last value before or on a line to the next one of the series."""
    place = np.arange(len(values))
    for column, holes in zip(values.T, missing.T, strict=True):
        before = np.maximum.accumulate(np.where(holes, 0, place))
        after = np.minimum.accumulate(np.where(holes, len(values), place)[::-1])[::-1]
        hole = np.flatnonzero(holes)
        low, high = before[hole], after[hole]
        column[hole] = column[low]
        if linear:
            hole, low, high = (part[high < end[hole]] for part in (hole, low, high))
            column[hole] += (column[high] - column[low]) * (hole - low) / (high - low)


def _calendar(pd: ModuleType, name: str, times: np.ndarray) -> np.ndarray:
    """What a calendar says of times, on a circle: (rows, 2)."""
    index = pd.DatetimeIndex(times)
    angle = 2 * np.pi * np.asarray(getattr(index, name), dtype=np.float64) / CALENDAR[name]
    return np.column_stack((np.sin(angle), np.cos(angle)))


def _shown(time: Any) -> str:
    """A time, or a span, as people write it."""
    return str(time).replace("T00:00:00", "").removesuffix(".000000")


def name_rows(rows: np.ndarray) -> str:
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows[:SHOWN]))}{more(rows)}"


def listed(names: Any) -> str:
    hidden = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return f"{', '.join(names[:LISTED])}{hidden}"


def more(faults: Any) -> str:
    return f" and {len(faults) - SHOWN:,} more" if len(faults) > SHOWN else ""
