"""Samples that are made from their index: as many as are wanted, the same on any number of workers and ranks."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rnnlab.data.base import SequenceData, Split
from rnnlab.data.batch import Batch
from rnnlab.data.samplers import TrainBatches
from rnnlab.data.spec import SequenceSpec
from rnnlab.utils.errors import require

GOLDEN, FIRST, SECOND = (
    number - 2**64 for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)  # as torch's signed integers
Draw = Callable[[Tensor], tuple[Tensor, Tensor]]


def uniform(key: int, indices: Tensor, count: int) -> Tensor:
    """Random numbers that depend on their place alone: those of SplitMix64 (Steele et al. 2014), entered anywhere.

    **Arguments:**

    - `key`: the generator's state, 64 bits: another key, other numbers.
    - `indices`: (batch,) which samples, 0 or more.
    - `count`: numbers of a sample.

    **Returns:** (batch, count) numbers of 24 bits, in [0, 1).
    """
    place = indices[:, None] * count + torch.arange(1, count + 1)
    return (_right(_mixed(key + place * GOLDEN), 40)).float() * 2.0**-24


def _mixed(z: Tensor) -> Tensor:
    z = (z ^ _right(z, 30)) * FIRST
    z = (z ^ _right(z, 27)) * SECOND
    return z ^ _right(z, 31)


def _right(z: Tensor, bits: int) -> Tensor:
    """Shifted without the sign."""
    return (z >> bits) & (2 ** (64 - bits) - 1)


def key_of(*parts: int) -> int:
    """One key out of several numbers."""
    key = torch.zeros((), dtype=torch.int64)
    for part in parts:
        key = _mixed(key + GOLDEN + part)
    return int(key)


class Samples(Dataset):
    """What `draw` makes of the random numbers of the samples that are asked for.

    **Arguments:**

    - `draw`: makes (x, y) of a (batch, count) tensor of numbers in [0, 1).
    - `count`: see there.
    - `key`: of the random numbers.
    - `size`: samples that are counted as the set; more can be asked for.
    """

    def __init__(self, draw: Draw, count: int, key: int, size: int):
        self.draw = draw
        self.count = count
        self.key = key
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, indices: Tensor) -> Batch:
        return Batch(*self.draw(uniform(self.key, indices, self.count)))


class FreshBatches(TrainBatches):
    """Batches of samples that no batch before held; the ranks share each.

    **Arguments:**

    - `batch_size`: samples a step, all ranks together.
    - `steps`: batches of an epoch.
    - `rank`, `world_size`: which share of each batch to yield.
    """

    def __init__(self, batch_size: int, steps: int, rank: int = 0, world_size: int = 1):
        super().__init__(steps, seed=0)
        self.samples = torch.arange(rank, batch_size, world_size)
        self.batch_size = batch_size

    def read(self, position: int) -> Iterator[Tensor]:
        for number in range(self.epoch * self.steps + position, (self.epoch + 1) * self.steps):
            yield self.samples + number * self.batch_size


class EndlessData(SequenceData):
    """A task whose training samples are always new, so that a network can learn it only by finding the rule.

    A subclass defines `describe`, `numbers` and `draw`. Training samples follow from `seed` and the run's seed,
    validation and test samples from `seed` alone.

    **Arguments:**

    - `seq_len`: steps of a sequence.
    - `batch_size`, `epoch_steps`: see `SequenceData`; there is no pass to take, so `epoch_steps` is a number.
    - `num_val`, `num_test`: sequences of these parts.
    - `seed`: of the samples.
    - `test_lengths`: steps of the sequences of further test parts.

    **Raises:** `UserError` if sequences are shorter than the task allows, or `epoch_steps` is `None`.
    """

    least: int  # steps, below which there is no task

    def __init__(
        self,
        seq_len: int,
        batch_size: int = 32,
        epoch_steps: int = 250,
        num_val: int = 512,
        num_test: int = 1024,
        seed: int = 0,
        test_lengths: tuple[int, ...] = (),
    ):
        super().__init__(batch_size, epoch_steps)
        require(epoch_steps is not None, "data.epoch_steps=null: these samples have no end, so give a number.")
        self.seq_len = seq_len
        for length in (seq_len, *test_lengths):
            require(
                length >= self.least, f"data.seq_len={length} is too short: this task has {self.least} or more steps."
            )
        self.sizes: dict[Split, int] = {"train": batch_size * epoch_steps, "val": num_val, "test": num_test}
        self.seed = seed
        self.test_lengths = tuple(dict.fromkeys(test_lengths))

    def describe(self) -> SequenceSpec:
        """The spec, but for `test_lengths`."""
        raise NotImplementedError

    def numbers(self, seq_len: int) -> int:
        """How many random numbers make a sample."""
        raise NotImplementedError

    def draw(self, numbers: Tensor, seq_len: int) -> tuple[Tensor, Tensor]:
        """(x, y) for a batch, made of (batch, `numbers(seq_len)`) random numbers in [0, 1)."""
        raise NotImplementedError

    def make(self) -> dict[Any, Dataset]:
        self.spec = replace(self.describe(), test_lengths=self.test_lengths)
        keys = {"train": (0, self.run_seed), "val": (1,), "test": (2,)}
        parts: dict[Any, Dataset] = {
            split: self._part(self.seq_len, size, keys[split]) for split, size in self.sizes.items()
        }
        for length in self.test_lengths:
            parts[f"test_{length}"] = self._part(length, self.sizes["test"], (2, length))
        return parts

    def batches(self, split: Any, rank: int, world_size: int) -> Any:
        if split == "train":
            return FreshBatches(self.batch_size * world_size, self.epoch_steps, rank, world_size)  # type: ignore[arg-type]
        return super().batches(split, rank, world_size)

    def _part(self, seq_len: int, size: int, key: tuple[int, ...]) -> Samples:
        return Samples(
            lambda numbers: self.draw(numbers, seq_len), self.numbers(seq_len), key_of(self.seed, *key), size
        )
