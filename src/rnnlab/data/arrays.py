"""Labelled sequences out of NPZ files and long tables. Every fault of a file is told with its sequences or rows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import numpy as np

from rnnlab.data.tables import (
    SHOWN,
    check_order,
    import_pandas,
    listed,
    more,
    name_rows,
    read_columns,
    read_names,
    read_numbers,
    read_times,
)
from rnnlab.utils.errors import UserError, require
from rnnlab.utils.files import one_word, open_file, require_memory


@dataclass
class Sequences:
    """Labelled sequences of any lengths, one after the other in one table.

    **Arguments:**

    - `values`: (steps of all sequences, features) finite numbers.
    - `lengths`: (sequences,) steps of each.
    - `labels`: (sequences,) the class of each, an index into `classes`.
    - `classes`: names of the classes.
    - `ids`: what the sequences are called.
    - `features`: names of the features; empty if they have none.
    """

    values: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    classes: list[str]
    ids: Sequence[Any]
    features: tuple[str, ...] = ()


def read_arrays(path: Path) -> Sequences:
    """Read and check an NPZ file, see `LabelledData`. Nothing in it is run.

    **Raises:** `UserError` if it is no NPZ file, lacks an array, or an array is not as it should be.
    """
    what = f"data.path={path}"
    with open_file(path, what) as file, one_word(f"{what} cannot be read as an NPZ file of plain arrays"):
        whole = is_zipfile(file)
        require(whole, f"{what} is no NPZ file, or not all of one. Write it with np.savez(FILE, x=x, y=y).")
        with ZipFile(file) as archive:
            x, y, lengths, classes = (_array(what, archive, name) for name in ("x", "y", "lengths", "classes"))
    numbers = x.dtype.kind in "biuf" and x.ndim in (2, 3)
    require(numbers, f"{what}: x is {x.dtype} of shape {x.shape}; it has to be numbers, (sequences, time, features).")
    require(x.size > 0, f"{what}: x is empty, its shape is {x.shape}.")
    require_memory(9 * x.size, f"{what}: the {x.size:,} numbers in x", "Use a part of it.")
    x = x[..., None] if x.ndim == 2 else x
    number, steps, size = x.shape
    _check_column(what, "y", y, number, "biuU", "integers or strings")
    if lengths is None:
        values, lengths = x.reshape(-1, size), np.full(number, steps)
    else:
        _check_column(what, "lengths", lengths, number, "iu", "integers")
        wrong = np.flatnonzero((lengths < 1) | (lengths > steps))
        require(not len(wrong), f"{what}: lengths have to be from 1 to {steps}, that of {_told(wrong, lengths)}.")
        lengths = lengths.astype(np.int64)
        values = x[np.arange(steps) < lengths[:, None]]
    with np.errstate(over="ignore"):
        wrong = np.flatnonzero(~np.isfinite(values.astype(np.float32, copy=False)).all(1))  # what a network reads
    if len(wrong):
        ends = lengths.cumsum()
        whose = np.searchsorted(ends, wrong[:SHOWN], side="right")
        places = wrong[:SHOWN] - (ends - lengths)[whose] + 1
        cells = ", ".join(f"sequence {k} step {step}" for k, step in zip(whose, places, strict=True))
        raise UserError(
            f"{what}: x is not a finite number in {cells}{more(wrong)}. If it pads sequences, give an array lengths."
        )
    if classes is None:
        found, labels = np.unique(y, return_inverse=True)
        labels, names = _numbered(labels, [str(name) for name in found.tolist()])
    else:
        names, labels = _named(what, y, classes), y.astype(np.int64)
    return Sequences(values, lengths, labels, names, range(number))


def read_table(
    path: Path, sequence_id: str, time: str | None, label: str, features: list[str] | None, dayfirst: bool | None
) -> Sequences:
    """Read and check a long table, see `LabelledData` for the arguments. Rows are counted from 1, without the header.

    **Raises:** `UserError` for a column that is missing; cells that are empty, infinite or no numbers; times that are
    twice in a sequence; a sequence with two labels.
    """
    pd, what = import_pandas(), f"data.path={path}"
    given = [name for name in (sequence_id, time, label) if name is not None]
    frame = read_columns(pd, path, [*given, *(features or [])], [sequence_id, label], rest=features is None)
    names = list(frame.columns)[len(given) :]
    require(names != [], f"{what} has only the columns {', '.join(given)}: those of the features are missing.")
    series, ids = read_names(pd, path, frame[sequence_id])
    labels, classes = read_names(pd, path, frame[label])
    values = np.column_stack([read_numbers(pd, path, frame[name]) for name in names])
    for name, column in zip(names, values.T, strict=True):
        empty = np.flatnonzero(np.isnan(column)) + 1
        require(not len(empty), f"{what}: {name} is empty in {name_rows(empty)}.")
    rows = np.arange(1, len(frame) + 1)
    if time is None:
        order = np.argsort(series, kind="stable")
    else:
        times = read_times(pd, path, frame[time], dayfirst)
        order = np.lexsort((times, series))
        check_order(path, time, times[order], series[order], rows[order])
    del frame
    rows, labels = rows[order], labels[order]
    lengths = np.bincount(series)
    begin = lengths.cumsum() - lengths
    first = np.repeat(begin, lengths)  # the first row of each row's sequence
    mixed = np.flatnonzero(labels != labels[first])
    if len(mixed):
        row = mixed[0]
        raise UserError(
            f"{what}: sequence {ids[series[order][row]]} has two labels, {classes[labels[first[row]]]} in row "
            f"{rows[first[row]]} and {classes[labels[row]]} in row {rows[row]}."
        )
    labels, classes = _numbered(labels[begin], classes)
    return Sequences(values[order], lengths, labels, classes, ids, tuple(names))


def _array(what: str, archive: ZipFile, name: str) -> Any:
    """An array of an NPZ file; `None` if there is none of lengths or classes. A pickled one is not read."""
    members = [member for member in archive.infolist() if member.filename == f"{name}.npy"]
    if not members and name in ("lengths", "classes"):
        return None
    has = listed([member[:-4] for member in archive.namelist() if member.endswith(".npy")]) or "none"
    require(members != [], f"{what} has no array {name}. It has: {has}.")
    require(len(members) == 1, f"{what} has {len(members)} arrays {name}.")
    size = members[0].file_size
    require_memory(size, f"{what}: the {size:,} bytes of {name}", "Use a part of it.")
    with archive.open(members[0]) as raw:
        array = np.lib.format.read_array(raw, allow_pickle=False)
    require(array.nbytes <= size and array.itemsize > 0, f"{what}: {name} is {array.dtype} of shape {array.shape}.")
    if array.dtype.kind == "U":
        array.astype(object)  # characters that there are
    return array


def _check_column(what: str, name: str, column: np.ndarray, number: int, kinds: str, right: str) -> None:
    require(
        column.dtype.kind in kinds and column.shape == (number,),
        f"{what}: {name} is {column.dtype} of shape {column.shape}; it has to be {right} of shape ({number},), one for "
        "each sequence of x.",
    )


def _named(what: str, y: np.ndarray, classes: np.ndarray) -> list[str]:
    """The names that a file gives to its classes."""
    fit = classes.dtype.kind in "iuU" and classes.ndim == 1
    names = [str(name) for name in classes.tolist()] if fit else []
    fit = fit and len(set(names)) == len(names)
    require(fit, f"{what}: classes have to be different names, not {classes.dtype} of shape {classes.shape}.")
    require(y.dtype.kind in "iu", f"{what}: y is {y.dtype}; with classes it has to be integers, indices of these.")
    wrong = np.flatnonzero((y < 0) | (y >= len(names)))
    require(not len(wrong), f"{what}: {len(names)} classes are 0 to {len(names) - 1}, the label of {_told(wrong, y)}.")
    return names


def _numbered(labels: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Labels and their names with these sorted, integers by their value."""
    integers = all(re.fullmatch("-?[0-9]{1,18}", name) for name in names)
    ordered = sorted(names, key=(lambda name: (int(name), name)) if integers else None)
    place = {name: k for k, name in enumerate(ordered)}
    return np.array([place[name] for name in names])[labels], ordered


def _told(wrong: np.ndarray, values: np.ndarray) -> str:
    """`sequence 3 is 7, sequence 5 is 9`."""
    return ", ".join(f"sequence {k} is {values[k]}" for k in wrong[:SHOWN]) + more(wrong)
