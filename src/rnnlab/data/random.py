"""Gaussian sequences with targets from a random teacher."""

from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rnnlab.data.base import SequenceData, Split, TensorBatches
from rnnlab.data.spec import Kind, SequenceSpec
from rnnlab.utils.errors import require

DECAY = 0.8  # of the teacher's memory: a fifth of an input is left after 7 steps


class RandomData(SequenceData):
    """Sequences x_t ~ N(0, 1) with targets from a teacher that a small network can learn.

    The teacher has the state s_t = 0.8 s_{t-1} + x_t and a random matrix W with unit rows. `target="values"` is W s_T,
    scaled to unit variance, `"labels"` is argmax W s_T. `"noise"` is a random label: a network can only memorise it, so
    that the training loss measures capacity and the test accuracy stays at 1 / output_size.
    """

    kinds: tuple[Kind, ...] = ("labels", "values")

    def __init__(
        self,
        target: Literal["labels", "values", "noise"] = "labels",
        input_size: int = 5,
        output_size: int = 2,
        seq_len: int = 7,
        num_train: int = 1024,
        num_val: int = 256,
        num_test: int = 256,
        batch_size: int = 32,
        epoch_steps: int | None = None,
        seed: int = 0,
    ):
        super().__init__(batch_size, epoch_steps)
        require(target == "values" or output_size >= 2, "data.output_size=1 leaves one label: use 2 or more classes.")
        self.target = target
        self.kinds = ("values",) if target == "values" else ("labels",)
        self.shape = (seq_len, input_size)
        self.output_size = output_size
        self.sizes: dict[Split, int] = {"train": num_train, "val": num_val, "test": num_test}
        self.seed = seed

    def make(self) -> dict[Split, Dataset]:
        seq_len, input_size = self.shape
        self.spec = SequenceSpec(self.kinds[0], input_size, self.output_size, seq_len)
        # each split has a generator of its own, so that num_train does not change the test set
        generators = [torch.Generator().manual_seed(4 * self.seed + number) for number in range(4)]
        teacher = torch.randn(self.output_size, input_size, generator=generators[0])
        teacher /= teacher.norm(dim=1, keepdim=True)
        splits = zip(self.sizes.items(), generators[1:], strict=True)
        return {split: self._samples(size, teacher, generator) for (split, size), generator in splits}

    def _samples(self, size: int, teacher: Tensor, generator: torch.Generator) -> TensorBatches:
        x = torch.randn(size, *self.shape, generator=generator)
        weights = DECAY ** torch.arange(x.shape[1] - 1, -1, -1)
        y = torch.einsum("ntf,t->nf", x, weights / weights.norm()) @ teacher.T
        if self.target == "labels":
            y = y.argmax(1)
        elif self.target == "noise":
            y = torch.randint(self.output_size, (size,), generator=generator)
        return TensorBatches(x, y)
