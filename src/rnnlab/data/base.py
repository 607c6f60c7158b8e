"""What every dataset shares: whole batches by index, in an order that does not depend on the number of processes."""

import math
import os
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from rnnlab.data.files import require_memory
from rnnlab.spec import Kind, SequenceSpec

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("val", "train", "test")  # as they are fit for a look at the data
DRAWN = 1 << 13  # places in the order of an epoch that are drawn at once


class TrainBatches(Sampler[Any]):
    """The indices of an epoch's batches, which can be entered in its middle. A subclass defines `read`.

    **Arguments:**

    - `steps`: batches of an epoch.
    - `seed`: of the order, which is a function of seed and epoch.
    """

    def __init__(self, steps: int, seed: int):
        self.steps = steps
        self.seed = seed
        self.epoch = 0
        self.position = 0  # batches that this epoch has yielded
        self.resumed: dict[str, Any] | None = None

    def read(self, position: int) -> Iterator[Any]:
        """Yield the batches of `self.epoch` from number `position` on."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Where a run that is resumed has to go on."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on there with the next epoch that is read, if it is the one that was left; else at its beginning."""
        self.resumed = state

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        left, self.resumed = self.resumed, None
        self.position = left["position"] % self.steps if left and left["epoch"] == self.epoch else 0
        for batch in self.read(self.position):
            self.position += 1
            yield batch


class GlobalBatches(TrainBatches):
    """Shuffled training batches: batch k of an epoch is the same set of samples on any number of ranks.

    A set smaller than an epoch is shuffled and gone through again.

    **Arguments:**

    - `size`: samples of the set.
    - `batch_size`: samples a step, all ranks together; each rank gets every `world_size`-th of them.
    - `steps`: batches of an epoch; `None` is one pass, without the last samples if they do not fill a batch.
    - `seed`: of the order.
    - `rank`, `world_size`: which share of each batch to yield.
    """

    def __init__(self, size: int, batch_size: int, steps: int | None, seed: int, rank: int = 0, world_size: int = 1):
        super().__init__(steps or max(1, size // batch_size), seed)
        self.size = size
        self.batch_size = batch_size
        self.share = slice(rank, None, world_size)

    def read(self, position: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        at_once = max(1, DRAWN // self.batch_size)  # batches: an epoch may be longer than memory
        left = torch.empty(0, dtype=torch.int64)
        for first in range(0, self.steps, at_once):
            number = min(at_once, self.steps - first)
            needed = number * self.batch_size
            passes = math.ceil((needed - len(left)) / self.size)
            drawn = torch.cat((left, *(torch.randperm(self.size, generator=generator) for _ in range(passes))))
            batches, left = drawn[:needed].view(number, self.batch_size), drawn[needed:]
            yield from batches[max(0, position - first) :, self.share]


class EvenBatches(Sampler[Tensor]):
    """Every sample once, in order, in batches of nearly the same size; the ranks share them without padding.

    A set with fewer samples than ranks is seen whole by each rank, which leaves every metric as it is.
    """

    def __init__(self, size: int, batch_size: int, rank: int = 0, world_size: int = 1):
        if size < world_size:
            rank, world_size = 0, 1
        self.size = size
        self.number = min(size, world_size * math.ceil(size / (world_size * batch_size)))  # of all ranks
        self.mine = range(rank, self.number, world_size)

    def __len__(self) -> int:
        return len(self.mine)

    def __iter__(self) -> Iterator[Tensor]:
        least, longer = divmod(self.size, self.number)  # samples of a batch, and how many have one more
        for k in self.mine:
            first = k * least + min(k, longer)
            yield torch.arange(first, first + least + (k < longer))


class SequenceData(pl.LightningDataModule):
    """A dataset that knows its `spec` after `setup` and serves whole batches by indexing tensors.

    A subclass defines `make`, which sets `self.spec` and returns a `Dataset` for each split. These take a tensor of
    indices and return a pair (x, y) of tensors whose first dimension is the batch.

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

    def example(self, size: int) -> Any:
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
        return tuple(part.to(device, non_blocking=True) if isinstance(part, Tensor) else part for part in batch)

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
