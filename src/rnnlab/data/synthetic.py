"""Synthetic sequences computed from their index: as many as needed, the same on any number of processes."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from rnnlab.data.base import SequenceData, Split
from rnnlab.data.batch import Batch
from rnnlab.data.samplers import TrainBatches
from rnnlab.data.spec import Kind, SequenceSpec
from rnnlab.utils.errors import require

# the constants of SplitMix64, as torch's signed integers
GAMMA, FIRST, SECOND = (number - 2**64 for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def uniform(key: int, indices: Tensor, count: int) -> Tensor:
    """`count` random numbers for each of (batch,) `indices`, which depend only on key and index.

    They are those of SplitMix64 (Steele et al. 2014) with the state `key`: (batch, count) of 24 bits in [0, 1).
    """
    position = indices[:, None] * count + torch.arange(1, count + 1)
    return _shift_right(_mix(key + position * GAMMA), 40).float() * 2.0**-24


def derive_key(*numbers: int) -> int:
    """A key for `uniform` that depends on all `numbers`."""
    key = torch.zeros((), dtype=torch.int64)
    for number in numbers:
        key = _mix(key + GAMMA + number)
    return int(key)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift_right(z, 30)) * FIRST
    z = (z ^ _shift_right(z, 27)) * SECOND
    return z ^ _shift_right(z, 31)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """A logical shift: zeros come in, not the sign."""
    return (z >> bits) & (2 ** (64 - bits) - 1)


class Samples(Dataset):
    """Samples of a task, computed from their index; their random numbers depend on `data.seed` and `key`, too."""

    def __init__(self, data: "SyntheticData", seq_len: int, size: int, *key: int):
        self.data = data
        self.seq_len = seq_len
        self.size = size
        self.key = derive_key(data.seed, *key)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, indices: Tensor) -> Batch:
        return Batch(*self.data.sample(partial(uniform, self.key, indices), self.seq_len))


class FreshBatches(TrainBatches):
    """Batches of samples that no earlier batch contained; `batch_size` is over all ranks."""

    def __init__(self, batch_size: int, steps: int, rank: int = 0, world_size: int = 1):
        super().__init__(steps, seed=0)
        self.samples = torch.arange(rank, batch_size, world_size)
        self.batch_size = batch_size

    def read(self, position: int) -> Iterator[Tensor]:
        for batch in range(self.epoch * self.steps + position, (self.epoch + 1) * self.steps):
            yield self.samples + batch * self.batch_size


class SyntheticData(SequenceData):
    """A task with unlimited training samples: each is used once, so that a network has to find the rule.

    A subclass sets the fields of the spec and defines `sample`. Training samples depend on `seed` and the seed of the
    run, validation and test samples on `seed` only.
    """

    kinds: tuple[Kind, ...] = ("labels",)
    input_size: int
    output_size: int
    classes: tuple[str, ...] = ()
    every_step = False
    min_seq_len = 2

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
        shortest = min((seq_len, *test_lengths))
        require(
            shortest >= self.min_seq_len,
            f"data.seq_len={shortest} is too short: this task needs {self.min_seq_len} or more steps.",
        )
        self.seq_len = seq_len
        self.sizes: dict[Split, int] = {"train": batch_size * epoch_steps, "val": num_val, "test": num_test}
        self.seed = seed
        self.test_lengths = tuple(test_lengths)

    def sample(self, uniform: Callable[[int], Tensor], seq_len: int) -> tuple[Tensor, Tensor]:
        """(x, y) of a batch; `uniform(count)` gives (batch, count) random numbers in [0, 1)."""
        raise NotImplementedError

    def make(self) -> dict[Split, Dataset]:
        self.spec = SequenceSpec(
            self.kinds[0],
            self.input_size,
            self.output_size,
            self.seq_len,
            classes=self.classes,
            every_step=self.every_step,
            test_lengths=self.test_lengths,
        )
        keys: dict[Split, tuple[int, ...]] = {"train": (0, self.run_seed), "val": (1,), "test": (2,)}
        self.further_tests = [Samples(self, length, self.sizes["test"], 2, length) for length in self.test_lengths]
        return {split: Samples(self, self.seq_len, size, *keys[split]) for split, size in self.sizes.items()}

    def batches(self, split: Split, rank: int, world_size: int) -> Sampler | Sequence[Tensor]:
        if split == "train":
            return FreshBatches(self.batch_size * world_size, self.epoch_steps, rank, world_size)  # type: ignore[arg-type]
        return super().batches(split, rank, world_size)
