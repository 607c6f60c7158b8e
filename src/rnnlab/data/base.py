"""The base class of every dataset: whole batches by index."""

import os
from itertools import islice
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rnnlab.data.batch import Batch
from rnnlab.data.samplers import EvenBatches, GlobalBatches, TrainBatches
from rnnlab.data.spec import Kind, SequenceSpec
from rnnlab.utils.files import require_memory

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("val", "train", "test")  # as they are fit for a look at the data


class TensorBatches(Dataset):
    """Samples that are held in two tensors, (samples, ...) each; (batch,) indices give a `Batch` of them."""

    def __init__(self, x: Tensor, y: Tensor):
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor) -> Batch:
        return Batch(self.x[index], self.y[index])


class SequenceData(pl.LightningDataModule):
    """A dataset that knows its `spec` after `setup` and serves whole batches by indexing tensors.

    A subclass defines `make`, which sets `self.spec` and returns a `Dataset` for each split. These take a tensor of
    indices and return a `Batch`.

    **Arguments:**

    - `batch_size`: samples a step and device.
    - `epoch_steps`: optimizer steps between validations; `None` is one pass over the training set.

    `spec` may be set before `setup`: then its vocabulary or scale is used in place of this set's own, which is how a
    trained model is tested on other data.
    """

    kinds: tuple[Kind, ...]  # what `spec.kind` can become

    def __init__(self, batch_size: int, epoch_steps: int | None = None):
        super().__init__()
        self.batch_size = batch_size
        self.epoch_steps = epoch_steps
        self.resumed: dict[str, Any] | None = None
        self.train_batches: TrainBatches | None = None
        self.spec: SequenceSpec | None = None
        self.splits: dict[Split, Dataset] = {}

    def make(self) -> dict[Split, Dataset]:
        """Build the splits and set `self.spec`."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Build the splits, once.

        **Raises:** `UserError` if a batch is more than memory holds.
        """
        if not self.splits:
            self.splits = self.make()
        spec: Any = self.spec
        size = self.batch_size
        if stage != "fit":  # training repeats samples to fill a batch
            size = min(size, max(map(len, self.splits.values())))  # type: ignore[arg-type]
        steps = max(spec.seq_len, *spec.test_lengths, 0)
        asked = spec.output_size if spec.kind == "tokens" or spec.every_step else 0
        width = 1 if torch.cuda.is_available() else spec.input_size + asked  # a GPU has memory of its own for these
        require_memory(
            4 * size * steps * width,
            f"Batches of data.batch_size={self.batch_size:,} x {steps:,} steps x {spec.input_size:,} signs or features",
            "Use a smaller data.batch_size, or smaller data.",
        )

    def example(self, size: int) -> Batch:
        """The first `size` samples of the validation set, or if there is none of another, as one batch."""
        dataset: Any = next(self.splits[split] for split in SPLITS if split in self.splits)
        return dataset[torch.arange(min(size, len(dataset)))]

    def state_dict(self) -> dict[str, Any]:
        return self.train_batches.state_dict() if self.train_batches else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.resumed = state_dict

    def batches(self, split: Split, rank: int, world_size: int) -> Any:
        """The indices of the batches of a split that one of `world_size` ranks reads."""
        size = len(self.splits[split])  # type: ignore[arg-type]
        if split == "train":
            return GlobalBatches(size, self.batch_size * world_size, self.epoch_steps, self.run_seed, rank, world_size)
        return EvenBatches(size, self.batch_size, rank, world_size)

    @property
    def run_seed(self) -> int:
        """The run's seed, from Lightning's seed_everything."""
        return int(os.environ.get("PL_GLOBAL_SEED", "0"))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device)

    def train_dataloader(self) -> DataLoader:
        if (overfit := self._overfit_loader()) is not None:
            return overfit
        loader = self._loader("train")
        # Lightning could resume the loader by itself, but not once a scheduler has asked how long the training is
        batches: Any = loader.sampler
        self.train_batches = batches
        if self.resumed:
            batches.load_state_dict(self.resumed)
            self.resumed = None
        return loader

    def val_dataloader(self) -> DataLoader | list:
        return self._overfit_loader() or self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader | list:
        more = [split for split in self.splits if split.startswith("test_")]
        return [self._loader(split) for split in ("test", *more)] if more else self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader | list:
        return self._evaluation_loader("test")

    def _overfit_loader(self) -> DataLoader | None:
        """With `trainer.overfit_batches=N`, the first N training batches, the same for training and validation."""
        number = getattr(self.trainer, "overfit_batches", 0)
        if not number:
            return None
        indices = self.batches("train", *self._place())
        number = number if isinstance(number, int) else max(1, int(number * len(indices)))  # type: ignore[arg-type]
        batches: Any = [self.splits["train"][index] for index in islice(indices, number)]
        return DataLoader(batches, batch_size=None)  # in order, which is what Lightning insists on here

    def _evaluation_loader(self, split: Split) -> DataLoader | list:
        return self._loader(split) if split in self.splits else []

    def _loader(self, split: Split) -> DataLoader:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        # batch_size=None: the sampler's indices go to the dataset as one tensor, nothing is collated.
        # A generator of its own: a loader's iterator would draw from the random numbers that dropout uses.
        return DataLoader(
            self.splits[split],
            sampler=self.batches(split, *self._place()),
            batch_size=None,
            pin_memory=on_gpu,
            generator=torch.Generator(),
        )

    def _place(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
