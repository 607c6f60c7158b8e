"""Sequences with a label each, split so that every part has the same mixture of classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rnnlab.data.arrays import Sequences, read_arrays, read_table
from rnnlab.data.base import SequenceData, Split
from rnnlab.data.batch import Batch
from rnnlab.data.spec import SequenceSpec
from rnnlab.data.tables import listed
from rnnlab.utils.console import tell
from rnnlab.utils.errors import UserError, require
from rnnlab.utils.files import locate, require_memory


class Part(Dataset):
    """Some of the sequences of a table, cut out when asked for.

    **Arguments:**

    - `values`: (steps of all sequences + 1, features), zeros in the last row.
    - `lengths`, `labels`: (sequences,) of all of them.
    - `chosen`: (sequences of this part,) which.

    Indexing with (batch,) integers gives a `Batch` of x, (batch, time, features), and y, (batch,). If the sequences of
    the table are not all of one length, shorter ones are padded with zeros and the batch has `lengths`.
    """

    def __init__(self, values: Tensor, lengths: Tensor, labels: Tensor, chosen: Tensor):
        self.values = values
        self.labels = labels[chosen]
        self.lengths = lengths[chosen]
        self.first = (lengths.cumsum(0) - lengths)[chosen]
        self.chosen = chosen
        even = bool((lengths == lengths[0]).all())
        self.whole = values[:-1].unflatten(0, (len(lengths), -1)) if even else None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> Batch:
        if self.whole is not None:
            return Batch(self.whole[self.chosen[index]], self.labels[index])
        lengths = self.lengths[index]
        steps = torch.arange(int(lengths.max()))
        rows = (self.first[index, None] + steps).where(steps < lengths[:, None], len(self.values) - 1)
        x = self.values.index_select(0, rows.flatten()).view(*rows.shape, -1)
        return Batch(x, self.labels[index], lengths.tolist())


class ClassData(SequenceData):
    """Sequences with a label each. A subclass defines `read`.

    **Arguments:**

    - `split`: shares of training, validation and test part, each with the same mixture of classes; a share of 0 leaves
      that part out.
    - `standardise`: whether each feature is brought to mean 0 and standard deviation 1 in the training part.
    - `seed`: of the split.
    - `batch_size`, `epoch_steps`: see `SequenceData`.

    **Raises:** `UserError` for fewer than two classes, parts without a sequence, and what does not fit the checkpoint
    that `spec` is from.
    """

    kinds = ("labels",)

    def __init__(
        self,
        split: Sequence[float] = (0.7, 0.15, 0.15),
        standardise: bool = False,
        seed: int = 0,
        batch_size: int = 32,
        epoch_steps: int | None = None,
    ):
        super().__init__(batch_size, epoch_steps)
        self.shares = split
        self.standardise = standardise
        self.seed = seed
        self.names: dict[Split, list[Any]] = {}
        self.what = "The data"  # for messages

    def read(self) -> Sequences:
        """All sequences."""
        raise NotImplementedError

    def ids(self, split: Split) -> list[Any]:
        """What the sequences of a part are called, in its order."""
        return self.names[split]

    def setup(self, stage: str) -> None:
        super().setup(stage)
        require(stage != "fit" or "train" in self.splits, f"data.split={list(self.shares)} leaves nothing to train on.")

    def make(self) -> dict[Split, Dataset]:
        data = self.read()
        several = self.spec is not None or len(data.classes) >= 2
        require(several, f"{self.what}: all sequences have the label {', '.join(data.classes)}.")
        require_memory(
            16 * len(data.classes) ** 2,  # in validation and test
            f"{self.what}: counts of which of {len(data.classes):,} labels is taken for which",
            "Is it the labels that are read as such?",
        )
        # by the file's own labels, so that a checkpoint that knows more classes finds the same parts
        parts = stratify(data.labels, self.shares, self.seed)
        for split, share in zip(parts, self.shares, strict=True):
            empty = share > 0 and not len(parts[split])
            require(
                not empty,
                f"{self.what}: data.split={list(self.shares)} of {len(data.ids):,} sequences leaves the {split} part "
                "empty: use more sequences or other shares.",
            )
        if self.spec is None:
            self.spec = self._spec(data, parts["train"])
        labels = self._known_labels(data)
        values = torch.from_numpy(self._table(data))
        lengths = torch.from_numpy(data.lengths)
        self.names = {split: [data.ids[k] for k in chosen.tolist()] for split, chosen in parts.items()}
        return {
            split: Part(values, lengths, torch.from_numpy(labels), torch.from_numpy(chosen))
            for split, chosen in parts.items()
            if len(chosen)
        }

    def _spec(self, data: Sequences, train: np.ndarray) -> SequenceSpec:
        require(len(train) > 0, f"data.split={list(self.shares)} leaves nothing to train on.")
        absent = np.bincount(data.labels[train], minlength=len(data.classes)) == 0
        if absent.any():
            names = listed(np.array(data.classes)[absent])
            tell(f"{self.what}: no sequence of the training part has the label {names}.")
        return SequenceSpec(
            "labels",
            input_size=data.values.shape[1],
            output_size=len(data.classes),
            seq_len=int(data.lengths.max()),
            classes=tuple(data.classes),
            covariates=data.features,
            scale=_scale(data, train) if self.standardise else (),
        )

    def _known_labels(self, data: Sequences) -> np.ndarray:
        """The labels as `spec` numbers them."""
        spec: Any = self.spec
        require(not spec.every_step, f"{self.what}: a label for each sequence; the checkpoint gives one to each step.")
        size = data.values.shape[1]
        require(
            size == spec.input_size,
            f"{self.what}: {size} feature{'s' * (size > 1)} a step, the checkpoint was trained for {spec.input_size}"
            f"{': ' if spec.covariates else ''}{listed(spec.covariates)}.",
        )
        classes = spec.classes or tuple(map(str, range(spec.output_size)))
        place = {name: k for k, name in enumerate(classes)}
        labels = np.array([place.get(name, -1) for name in data.classes])[data.labels]
        if (labels < 0).any():
            strange = int(np.argmax(labels < 0))
            raise UserError(
                f"{self.what}: sequence {data.ids[strange]} has the label {data.classes[data.labels[strange]]}, which "
                f"the checkpoint does not know. It knows {listed(classes)}."
            )
        return labels

    def _table(self, data: Sequences) -> np.ndarray:
        """The values as the network reads them, (steps + 1, features) float32; the last row is what pads."""
        spec: Any = self.spec
        table = np.zeros((len(data.values) + 1, data.values.shape[1]), dtype=np.float32)
        table[:-1] = data.values
        for column, (mean, deviation) in enumerate(spec.scale):
            # in 64 bits, which tell values apart that are far from 0
            with np.errstate(over="ignore"):
                table[:-1, column] = (data.values[:, column].astype(np.float64) - mean) / deviation
            near = bool(np.isfinite(table[:, column]).all())
            require(near, f"{self.what}: values are too far from those that the checkpoint was trained on.")
        return table


class LabelledData(ClassData):
    """Labelled sequences of a file, which may be of different lengths.

    An NPZ file holds arrays `x`, (sequences, time, features) or (sequences, time) numbers, and `y`, (sequences,)
    integers or strings; also `lengths`, (sequences,) steps of each sequence, if some are padded at their end, and
    `classes`, names of which `y` then holds the indices. Messages count its sequences from 0 and steps from 1.

    A table, CSV or Parquet, has a row for each step: the sequence's id, the time, the label, which is the same in all
    rows of a sequence, and the features.

    Features are standardised by the training part. A checkpoint's classes, features and scale are used where there is
    one.

    **Arguments:**

    - `path`: the file; `.npz` is an NPZ file, all else a table.
    - `sequence_id`, `label`: columns of a table.
    - `time`: column of dates or numbers that orders the rows of a sequence; `None` takes the rows as they come.
    - `features`: columns to be read; `None` reads all others.
    - `dayfirst`: whether 01/02/2020 is the first of February; `None` refuses dates that could be both.
    - `split`: see `ClassData`.

    **Raises:** `UserError` for whatever is wrong with the file, with its rows or sequences.
    """

    def __init__(
        self,
        path: str,
        sequence_id: str = "sequence_id",
        time: str | None = "time",
        label: str = "label",
        features: list[str] | None = None,
        dayfirst: bool | None = None,
        **split: Any,
    ):
        super().__init__(standardise=True, **split)
        self.path = locate(path)
        self.what = f"data.path={self.path}"
        self.columns = {
            "sequence_id": str(sequence_id),
            "time": None if time is None else str(time),
            "label": str(label),
            "dayfirst": dayfirst,
        }
        self.features = features

    def read(self) -> Sequences:
        if self.path.suffix.lower() == ".npz":
            return read_arrays(self.path)
        features = self.features
        if self.spec is not None and self.spec.covariates:
            trained = list(self.spec.covariates)
            require(
                features in (None, trained),
                f"The checkpoint was trained for data.features=[{','.join(trained)}], in this order.",
            )
            features = trained
        return read_table(self.path, features=features, **self.columns)  # type: ignore[arg-type]


def stratify(labels: np.ndarray, shares: Sequence[float], seed: int) -> dict[Split, np.ndarray]:
    """Split sequences at random into parts that have all classes in the same proportion.

    The sequences of each class are spread evenly over one line, which is cut at the shares: parts are as large as the
    shares say, and each class within about one sequence. A class with a single sequence is in the first part.

    **Arguments:**

    - `labels`: (sequences,) integers from 0.
    - `shares`: of training, validation and test part, of sum 1.
    - `seed`: of the permutation.

    **Returns:** the sequences of each part, in rising order.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # class by class
    counts = np.bincount(labels)
    ranks = np.arange(len(labels)) - np.repeat(counts.cumsum() - counts, counts)
    place = (ranks + np.repeat(generator.random(len(counts)), counts)) / np.repeat(counts, counts)
    place[ranks == 0] = 0
    cuts = np.rint(np.cumsum(shares)[:2] * len(labels)).astype(np.int64)
    train, val, test = (np.sort(part) for part in np.split(order[np.argsort(place, kind="stable")], cuts))
    return {"train": train, "val": val, "test": test}


def _scale(data: Sequences, train: np.ndarray) -> tuple[tuple[float, float], ...]:
    """The mean and the standard deviation of each feature over the steps of these sequences; 1 where nothing varies."""
    inside = np.zeros(len(data.lengths), dtype=bool)
    inside[train] = True
    scale = []
    for column in data.values[np.repeat(inside, data.lengths)].T:
        steps = column.astype(np.float64)
        deviation = (
            steps.std().item() if steps.min() < steps.max() else 0.0
        )  # rounding may leave one where there is none
        scale.append((steps.mean().item(), deviation or 1.0))
    return tuple(scale)
