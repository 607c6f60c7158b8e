"""The order of batches, which does not depend on the number of processes and can be resumed within an epoch."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

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
