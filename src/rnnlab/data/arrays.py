"""Labelled sequences out of NPZ files and tables; whatever is wrong is reported with its sequences or rows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np

from rnnlab.data.tables import check_order, listed, read_columns, read_names, read_numbers, read_times, show_cells
from rnnlab.utils.errors import UserError, require


@dataclass
class LabelledSequences:
    """Labelled sequences of any lengths, one after the other in one table.

    - `values`: (steps of all sequences, features) finite numbers.
    - `lengths`: (sequences,) steps of each.
    - `labels`: (sequences,) the class of each, an index into `classes`.
    - `classes`: names of the classes.
    - `ids`: names or numbers of the sequences.
    - `features`: names of the features; empty if they have none.
    """

    values: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    classes: list[str]
    ids: Sequence[Any]
    features: tuple[str, ...] = ()


def read_arrays(path: Path) -> LabelledSequences:
    """Read and check an NPZ file, see `LabelledData`; arrays of Python objects are refused, nothing is unpickled.

    **Raises:** `UserError` if an array is missing, or has a wrong type, shape or value.
    """
    what = f"data.path={path}"
    with path.open("rb") as file:
        require(is_zipfile(file), f"{what} is not a complete NPZ file. Write it with np.savez(FILE, x=x, y=y).")
        file.seek(0)
        arrays: Any = np.load(file, allow_pickle=False)
        for name in ("x", "y"):
            require(name in arrays, f"{what} has no array {name}. It has: {listed(arrays.files) or 'none'}.")
        x, y, lengths, names = (arrays.get(name) for name in ("x", "y", "lengths", "classes"))
    is_numeric = x.dtype.kind in "biuf" and x.ndim in (2, 3)
    require(
        is_numeric, f"{what}: x is {x.dtype} of shape {x.shape}; it has to be numbers, (sequences, time, features)."
    )
    require(x.size > 0, f"{what}: x is empty, its shape is {x.shape}.")
    x = x[..., None] if x.ndim == 2 else x
    number, steps = x.shape[:2]
    _check_column(what, "y", y, number, "biuU", "integers or strings")
    if lengths is None:
        lengths = np.full(number, steps)
    _check_column(what, "lengths", lengths, number, "iu", "integers")
    cells = show_cells(lengths, (lengths < 1) | (lengths > steps), "sequence")
    require(cells == "", f"{what}: lengths have to be from 1 to {steps}: {cells}.")
    lengths = lengths.astype(np.int64)
    inside = np.arange(steps) < lengths[:, None]
    finite = np.isfinite(x.astype(np.float32)).all(2)  # what the network computes with
    wrong = np.argwhere(inside & ~finite)
    places = listed([f"sequence {k} step {step + 1}" for k, step in wrong[:3]], total=len(wrong))
    require(
        places == "",
        f"{what}: x is not a finite number in {places}. If it pads sequences, add an array lengths.",
    )
    if names is None:
        found, labels = np.unique(y, return_inverse=True)
        labels, classes = _sort_classes(labels, [str(name) for name in found.tolist()])
    else:
        labels, classes = y.astype(np.int64), _named_classes(what, y, names)
    return LabelledSequences(x[inside], lengths, labels, classes, range(number))


def read_table(
    path: Path, sequence_id: str, time: str | None, label: str, features: list[str] | None, dayfirst: bool | None
) -> LabelledSequences:
    """Read and check a table, see `LabelledData`. Rows are counted from 1, without the header.

    **Raises:** `UserError` for columns that are missing; cells that are empty, infinite or not numbers; times that
    occur twice in a sequence; a sequence with two labels.
    """
    what = f"data.path={path}"
    keys = [name for name in (sequence_id, time, label) if name is not None]
    frame = read_columns(path, [*keys, *(features or [])], [sequence_id, label], others=features is None)
    names = list(frame.columns)[len(keys) :]
    require(names != [], f"{what} has only the columns {', '.join(keys)}: those of the features are missing.")
    series, ids = read_names(path, frame[sequence_id])
    labels, classes = read_names(path, frame[label])
    values = np.column_stack([read_numbers(path, frame[name], empty=False) for name in names])
    rows = np.arange(1, len(frame) + 1)
    order = np.argsort(series, kind="stable")
    if time is not None:
        times = read_times(path, frame[time], dayfirst)
        order = np.lexsort((times, series))
        check_order(path, time, times[order], series[order], rows[order])
    rows, labels = rows[order], labels[order]
    lengths = np.bincount(series)
    begin = lengths.cumsum() - lengths
    first = np.repeat(begin, lengths)  # the first row of each row's sequence
    for row in np.flatnonzero(labels != labels[first])[:1]:
        raise UserError(
            f"{what}: sequence {ids[series[order][row]]} has two labels, {classes[labels[first[row]]]} in row "
            f"{rows[first[row]]} and {classes[labels[row]]} in row {rows[row]}."
        )
    labels, classes = _sort_classes(labels[begin], classes)
    return LabelledSequences(values[order], lengths, labels, classes, ids, tuple(names))


def _check_column(what: str, name: str, column: np.ndarray, number: int, kinds: str, right: str) -> None:
    require(
        column.dtype.kind in kinds and column.shape == (number,),
        f"{what}: {name} is {column.dtype} of shape {column.shape}; it has to be {right} of shape ({number},), one for "
        "each sequence of x.",
    )


def _named_classes(what: str, y: np.ndarray, names: np.ndarray) -> list[str]:
    classes = [str(name) for name in names.ravel().tolist()]
    require(len(set(classes)) == len(classes), f"{what}: classes have to be different names.")
    require(y.dtype.kind in "iu", f"{what}: y is {y.dtype}; with classes it has to be integers, indices of these.")
    cells = show_cells(y, (y < 0) | (y >= len(classes)), "sequence")
    require(cells == "", f"{what}: labels have to be from 0 to {len(classes) - 1}: {cells}.")
    return classes


def _sort_classes(labels: np.ndarray, classes: list[str]) -> tuple[np.ndarray, list[str]]:
    """Labels and the classes with these sorted, integers by their value."""
    integers = all(re.fullmatch("-?[0-9]{1,18}", name) for name in classes)
    ordered = sorted(classes, key=(lambda name: (int(name), name)) if integers else None)
    place = {name: k for k, name in enumerate(ordered)}
    return np.array([place[name] for name in classes])[labels], ordered
