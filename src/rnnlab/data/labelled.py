"""Sequences with a label each, split so that every split has the same mixture of classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rnnlab.data.arrays import LabelledSequences, read_arrays, read_table
from rnnlab.data.base import SequenceData, Split
from rnnlab.data.batch import Batch
from rnnlab.data.spec import SequenceSpec
from rnnlab.data.tables import listed
from rnnlab.utils.errors import require
from rnnlab.utils.files import locate, reading


class SequenceSubset(Dataset):
    """Some of the sequences of a table, cut out when asked for.

    **Arguments:** (steps of all sequences + 1, features) values, zeros in the last row; (sequences,) lengths and labels
    of all of them; (chosen sequences,) which.

    Indexing with (batch,) integers gives a `Batch`, with `lengths` unless all sequences of the table have the same.
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


class ClassificationData(SequenceData):
    """Sequences with a label each. A subclass defines `read`.

    **Arguments:** those of `conf/data/digits.yaml`; with `standardise` each feature is brought to mean 0 and standard
    deviation 1 in the training split.
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
        self.split_ids: dict[Split, list[Any]] = {}
        self.what = "The data"  # for messages

    def read(self) -> LabelledSequences:
        raise NotImplementedError

    def ids(self, split: Split) -> list[Any]:
        """Names or numbers of the sequences of a split, in its order."""
        return self.split_ids[split]

    def setup(self, stage: str) -> None:
        require(stage != "fit" or self.shares[0] > 0, f"data.split={list(self.shares)} leaves nothing to train on.")
        super().setup(stage)

    def make(self) -> dict[Split, Dataset]:
        data = self.read()
        several = self.spec is not None or len(data.classes) > 1
        require(several, f"{self.what}: all sequences have the label {data.classes[0]}.")
        # by the file's own labels, so that a checkpoint that knows more classes finds the same splits
        chosen = stratify(data.labels, self.shares, self.seed)
        for split, share in zip(chosen, self.shares, strict=True):
            require(
                share == 0 or len(chosen[split]) > 0,
                f"{self.what}: data.split={list(self.shares)} of {len(data.ids):,} sequences leaves the {split} split "
                "empty.",
            )
        if self.spec is None:
            self.spec = SequenceSpec(
                "labels",
                input_size=data.values.shape[1],
                output_size=len(data.classes),
                seq_len=int(data.lengths.max()),
                classes=tuple(data.classes),
                covariates=data.features,
                scale=_fit_scale(data, chosen["train"]) if self.standardise else (),
            )
        labels = torch.from_numpy(self._map_labels(data))
        values, lengths = torch.from_numpy(self._scaled_values(data)), torch.from_numpy(data.lengths)
        self.split_ids = {split: [data.ids[k] for k in numbers.tolist()] for split, numbers in chosen.items()}
        return {
            split: SequenceSubset(values, lengths, labels, torch.from_numpy(numbers))
            for split, numbers in chosen.items()
            if len(numbers)
        }

    def _map_labels(self, data: LabelledSequences) -> np.ndarray:
        """The labels as `spec` numbers them."""
        spec: Any = self.spec
        size = data.values.shape[1]
        message = f"{self.what}: {size} features a step, the checkpoint was trained for {spec.input_size}."
        require(size == spec.input_size, message)
        classes = list(spec.classes or map(str, range(spec.output_size)))
        unknown = [name for name in data.classes if name not in classes]
        message = f"{self.what}: the checkpoint does not know the label {listed(unknown)}. It knows {listed(classes)}."
        require(not unknown, message)
        return np.array([classes.index(name) for name in data.classes])[data.labels]

    def _scaled_values(self, data: LabelledSequences) -> np.ndarray:
        """What the network reads, (steps + 1, features) of float32; the last row is padding."""
        spec: Any = self.spec
        scaled = np.zeros((len(data.values) + 1, data.values.shape[1]), dtype=np.float32)
        mean, deviation = np.array(spec.scale or [(0.0, 1.0)]).T  # in float64, for values far from 0
        scaled[:-1] = (data.values - mean) / deviation
        return scaled


class LabelledData(ClassificationData):
    """Labelled sequences of an NPZ, CSV or Parquet file, which may be of different lengths.

    Features are standardised by the training split; data for a checkpoint use its classes, features and scale.

    **Arguments:** those of `conf/data/labelled.yaml`, where the formats are described.
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
        self.sequence_id = sequence_id
        self.time = time
        self.label = label
        self.features = features
        self.dayfirst = dayfirst

    def read(self) -> LabelledSequences:
        with reading(self.what):
            if self.path.suffix.lower() == ".npz":
                return read_arrays(self.path)
            features = self.features
            if self.spec is not None and self.spec.covariates:
                features = list(self.spec.covariates)
                message = f"The checkpoint was trained for data.features=[{','.join(features)}], in this order."
                require(self.features in (None, features), message)
            return read_table(self.path, self.sequence_id, self.time, self.label, features, self.dayfirst)


def stratify(labels: np.ndarray, shares: Sequence[float], seed: int) -> dict[Split, np.ndarray]:
    """Split sequences at random so that all classes have the same proportion in each split.

    The sequences of each class are spread evenly over one line, which is cut at the shares. A class with a single
    sequence is in the first split.

    **Arguments:** (sequences,) labels from 0; shares of training, validation and test, of sum 1.
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


def _fit_scale(data: LabelledSequences, train: np.ndarray) -> tuple[tuple[float, float], ...]:
    """The mean and the standard deviation of each feature over the steps of these sequences; 1 where nothing varies."""
    inside = np.isin(np.arange(len(data.lengths)), train)
    columns = data.values[np.repeat(inside, data.lengths)].T
    scale = []
    for steps in (column.astype(np.float64) for column in columns):
        varies = steps.min() < steps.max()  # rounding may leave a deviation where nothing varies
        scale.append((steps.mean().item(), steps.std().item() if varies else 1.0))
    return tuple(scale)
