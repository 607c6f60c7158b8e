"""Base class of the datasets: whole batches by indexing."""

import os
from collections.abc import Sequence
from itertools import islice
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from rnnlab.data.batch import Batch
from rnnlab.data.samplers import GlobalBatches, even_batches
from rnnlab.data.spec import Kind, SequenceSpec

Split = Literal["train", "val", "test"]


class TensorBatches(Dataset):
    """Samples in two tensors, (samples, ...) each; indexing with (batch,) integers gives a `Batch`."""

    def __init__(self, x: Tensor, y: Tensor):
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor) -> Batch:
        return Batch(self.x[index], self.y[index])


class SequenceData(pl.LightningDataModule):
    """A dataset that sets `spec` in `setup` and serves whole batches.

    A subclass defines `make`. If `spec` is set before `setup`, its vocabulary or scale is used in place of the
    dataset's own, so that a trained model can be tested on other data.
    """

    kinds: tuple[Kind, ...]  # possible values of `spec.kind`

    def __init__(self, batch_size: int, epoch_steps: int | None = None):
        super().__init__()
        self.batch_size = batch_size
        self.epoch_steps = epoch_steps
        self.resumed: dict[str, Any] | None = None
        self.train_batches: Any = None
        self.spec: SequenceSpec | None = None
        self.splits: dict[Split, Dataset] = {}
        self.further_tests: list[Dataset] = []  # test sets with sequences of `spec.test_lengths` steps

    def make(self) -> dict[Split, Dataset]:
        """Set `self.spec` and return the splits, which give a `Batch` for a tensor of indices."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        if not self.splits:
            self.splits = self.make()

    def example(self, size: int) -> Batch:
        """The first `size` samples of the validation set, or of the training or test set if there is none."""
        dataset: Any = self.splits.get("val") or self.splits.get("train") or self.splits["test"]
        return dataset[torch.arange(min(size, len(dataset)))]

    def batches(self, split: Split, rank: int, world_size: int) -> Sampler | Sequence[Tensor]:
        """The indices of the batches of a split that one of `world_size` ranks reads."""
        size = len(self.splits[split])  # type: ignore[arg-type]
        if split == "train":
            return GlobalBatches(size, self.batch_size * world_size, self.epoch_steps, self.run_seed, rank, world_size)
        return even_batches(size, self.batch_size, rank, world_size)

    @property
    def run_seed(self) -> int:
        return int(os.environ.get("PL_GLOBAL_SEED", "0"))

    def train_dataloader(self) -> DataLoader:
        if (overfit := self._overfit_loader()) is not None:
            return overfit
        # Lightning restores no loader state once a scheduler has asked for the number of steps
        self.train_batches = self.batches("train", *self._rank())
        if self.resumed:
            self.train_batches.load_state_dict(self.resumed)
            self.resumed = None
        return self._loader(self.splits["train"], self.train_batches)

    def val_dataloader(self) -> DataLoader | list:
        return self._overfit_loader() or self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader | list:
        test = self._evaluation_loader("test")
        further = [
            self._loader(dataset, even_batches(len(dataset), self.batch_size, *self._rank()))  # type: ignore[arg-type]
            for dataset in self.further_tests
        ]
        return [test, *further] if further else test

    def state_dict(self) -> dict[str, Any]:
        return self.train_batches.state_dict() if self.train_batches else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.resumed = state_dict

    def _overfit_loader(self) -> DataLoader | None:
        """With `trainer.overfit_batches`, the first training batches, for training and validation."""
        number = getattr(self.trainer, "overfit_batches", 0)
        if not number:
            return None
        indices: Any = self.batches("train", *self._rank())
        number = number if isinstance(number, int) else max(1, int(number * len(indices)))
        batches: Any = [self.splits["train"][index] for index in islice(indices, number)]
        return DataLoader(batches, batch_size=None)  # in order, which Lightning requires here

    def _evaluation_loader(self, split: Split) -> DataLoader | list:
        return self._loader(self.splits[split], self.batches(split, *self._rank())) if split in self.splits else []

    def _loader(self, dataset: Dataset, batches: Sampler | Sequence[Tensor]) -> DataLoader:
        # batch_size=None: a batch is one index into the dataset, nothing is collated.
        # Without a generator of its own a loader draws from the random numbers that dropout uses.
        return DataLoader(
            dataset,
            sampler=batches,
            batch_size=None,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            generator=torch.Generator(),
        )

    def _rank(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
