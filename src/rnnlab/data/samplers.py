"""Order of the batches: independent of the number of processes, and resumable within an epoch."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler


class TrainBatches(Sampler[Any]):
    """The indices of an epoch's `steps` training batches, in an order that is a function of seed and epoch."""

    def __init__(self, steps: int, seed: int):
        self.steps = steps
        self.seed = seed
        self.epoch = 0
        self.position = 0  # batches of this epoch that were read
        self.resumed: dict[str, Any] | None = None

    def read(self, position: int) -> Iterator[Any]:
        """Yield the batches of `self.epoch` from number `position` on."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start the next iteration at the saved position if it is of the saved epoch."""
        self.resumed = state

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        saved, self.resumed = self.resumed, None
        self.position = saved["position"] % self.steps if saved and saved["epoch"] == self.epoch else 0
        for batch in self.read(self.position):
            self.position += 1
            yield batch


class GlobalBatches(TrainBatches):
    """Shuffled training batches: batch k of an epoch is the same set of samples on any number of ranks.

    A dataset smaller than an epoch is shuffled and read again.

    **Arguments:**

    - `size`: samples of the dataset.
    - `batch_size`: over all ranks; each rank reads every `world_size`-th sample of a batch.
    - `steps`: batches of an epoch; `None`: one pass, without the last samples if they do not fill a batch.
    """

    def __init__(self, size: int, batch_size: int, steps: int | None, seed: int, rank: int = 0, world_size: int = 1):
        super().__init__(steps or max(1, size // batch_size), seed)
        self.size = size
        self.batch_size = batch_size
        self.share = slice(rank, None, world_size)

    def read(self, position: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.empty(0, dtype=torch.int64)
        for step in range(self.steps):
            passes = math.ceil((self.batch_size - len(order)) / self.size)
            if passes > 0:
                order = torch.cat((order, *(torch.randperm(self.size, generator=generator) for _ in range(passes))))
            batch, order = order[: self.batch_size], order[self.batch_size :]
            if step >= position:
                yield batch[self.share]


def even_batches(size: int, batch_size: int, rank: int = 0, world_size: int = 1) -> tuple[Tensor, ...]:
    """Every sample once, in order, in batches of nearly equal size; the ranks share them without padding.

    A dataset with fewer samples than ranks is read whole by each rank, which does not change any metric.
    """
    if size < world_size:
        rank, world_size = 0, 1
    batches = min(size, world_size * math.ceil(size / (world_size * batch_size)))
    return torch.arange(size).tensor_split(batches)[rank::world_size]
