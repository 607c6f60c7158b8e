"""Labelled sequences out of NPZ files and tables; whatever is wrong is reported with its sequences or rows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile

from rnnlab.data.tables import check_order, listed, read_columns, read_names, read_numbers, read_times, refuse
from rnnlab.utils.errors import require


@dataclass
class LabelledSequences:
    """Labelled sequences of any lengths, one after the other in one table."""

    values: np.ndarray  # (steps of all sequences, features) finite numbers
    lengths: np.ndarray  # (sequences,) steps of each
    labels: np.ndarray  # (sequences,) indices of classes
    classes: list[str]
    ids: Sequence[Any]  # names or numbers of the sequences
    features: tuple[str, ...] = ()  # names; empty if they have none


def read_arrays(path: Path) -> LabelledSequences:
    """Read and check an NPZ file; arrays of Python objects are refused, nothing is unpickled."""
    what = f"data.path={path}"
    with path.open("rb") as file, NpzFile(file) as arrays:
        x, y, lengths, names = arrays["x"], arrays["y"], arrays.get("lengths"), arrays.get("classes")
    require(
        x.dtype.kind in "biuf" and x.ndim in (2, 3) and x.size > 0,
        f"{what}: x is {x.dtype} of shape {x.shape}; it has to be numbers, (sequences, time, features).",
    )
    x = x[..., None] if x.ndim == 2 else x
    number, steps = x.shape[:2]
    lengths = np.full(number, steps) if lengths is None else lengths
    for name, array, kinds, right in (("y", y, "biuU", "integers or strings"), ("lengths", lengths, "iu", "integers")):
        require(
            array.dtype.kind in kinds and array.shape == (number,),
            f"{what}: {name} is {array.dtype} of shape {array.shape}; it has to be {right} of shape ({number},), one "
            "for each sequence of x.",
        )
    require(lengths.min() >= 1 and lengths.max() <= steps, f"{what}: lengths have to be from 1 to {steps}.")
    inside = np.arange(steps) < lengths[:, None]
    wrong = np.argwhere(inside & ~np.isfinite(x.astype(np.float32)).all(2))  # what the network computes with
    places = listed([f"sequence {k} step {step + 1}" for k, step in wrong[:3]], len(wrong))
    require(not places, f"{what}: x is not a finite number in {places}. If it pads sequences, add an array lengths.")
    if names is None:
        found, labels = np.unique(y, return_inverse=True)
        labels, classes = _sort_classes(labels, [str(name) for name in found.tolist()])
    else:
        labels, classes = y, [str(name) for name in names.ravel().tolist()]
        require(
            y.dtype.kind in "iu" and y.min() >= 0 and y.max() < len(classes) == len(set(classes)),
            f"{what}: classes have to be different names, and y their indices, from 0 to {len(classes) - 1}.",
        )
    return LabelledSequences(x[inside], lengths.astype(int), labels.astype(int), classes, range(number))


def read_table(
    path: Path, sequence_id: str, time: str | None, label: str, features: list[str] | None, dayfirst: bool | None
) -> LabelledSequences:
    """Read and check a table with a row for each step; messages count rows from 1, without the header."""
    keys = [name for name in (sequence_id, time, label) if name is not None]
    frame = read_columns(path, [*keys, *(features or [])], [sequence_id, label], others=features is None)
    names = list(frame.columns)[len(keys) :]
    require(names != [], f"data.path={path} has only the columns {listed(keys)}: those of the features are missing.")
    series, ids = read_names(path, frame[sequence_id])
    labels, classes = read_names(path, frame[label])
    values = np.column_stack([read_numbers(path, frame[name], empty=False) for name in names])
    order = np.argsort(series, kind="stable")
    if time is not None:
        times = read_times(path, frame[time], dayfirst)
        order = np.lexsort((times, series))
        check_order(path, frame[time].iloc[order], times[order], series[order])
    labels, lengths = labels[order], np.bincount(series)
    begin = lengths.cumsum() - lengths
    other = labels != labels[np.repeat(begin, lengths)]
    refuse(path, frame[label].iloc[order], other, "labels that differ from the first one of their sequence")
    labels, classes = _sort_classes(labels[begin], classes)
    return LabelledSequences(values[order], lengths, labels, classes, ids, tuple(names))


def _sort_classes(labels: np.ndarray, classes: list[str]) -> tuple[np.ndarray, list[str]]:
    """Labels and the classes with these sorted, integers by their value."""
    integers = all(re.fullmatch("-?[0-9]{1,18}", name) for name in classes)
    ordered = sorted(classes, key=(lambda name: (int(name), name)) if integers else None)
    place = {name: k for k, name in enumerate(ordered)}
    return np.array([place[name] for name in classes])[labels], ordered
