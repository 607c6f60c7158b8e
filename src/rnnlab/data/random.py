"""Gaussian sequences and a random teacher."""

from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rnnlab.data.base import SequenceData, Split, TensorBatches
from rnnlab.data.spec import Kind, SequenceSpec
from rnnlab.utils.errors import require
from rnnlab.utils.files import require_memory

DECAY = 0.8  # of the teacher's memory: after 7 steps a fifth of an input is left


class RandomData(SequenceData):
    """Sequences x_t ~ N(0, 1) with targets from a teacher that a small network can learn.

    The teacher keeps s_t = 0.8 s_{t-1} + x_t and knows a random matrix W of unit rows. With `target="labels"` a
    sequence's label is argmax W s_T, with `"values"` its values are W s_T, scaled to unit variance. With `"noise"`
    labels are drawn by chance: nothing can be learned, only the training set remembered, so the training loss measures
    capacity and the test accuracy stays at 1 / output_size.

    x is (samples, seq_len, input_size); y is (samples,) for labels and noise, (samples, output_size) for values.

    **Arguments:**

    - `target`: `"labels"`, `"values"` or `"noise"`.
    - `input_size`, `output_size`, `seq_len`: features a step, classes or values, steps.
    - `num_train`, `num_val`, `num_test`: sequences of each split.
    - `seed`: of sequences and teacher.
    - `batch_size`, `epoch_steps`: see `SequenceData`.

    **Raises:** `UserError` for another target, or for labels of fewer than two classes.
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
        targets = ("labels", "values", "noise")
        require(target in targets, f"data.target={target!r} is not known: use {', '.join(targets)}.")
        require(target == "values" or output_size >= 2, "data.output_size=1 leaves one label: use 2 or more classes.")
        self.target = target
        self.kinds = ("values",) if target == "values" else ("labels",)
        self.shape = (seq_len, input_size)
        self.output_size = output_size
        self.sizes: dict[Split, int] = {"train": num_train, "val": num_val, "test": num_test}
        self.seed = seed

    def make(self) -> dict[Split, Dataset]:
        seq_len, input_size = self.shape
        samples = sum(self.sizes.values())
        require_memory(
            4 * (samples * (seq_len * input_size + self.output_size) + self.output_size * input_size),
            f"data.num_train + num_val + num_test={samples:,} sequences of data.seq_len={seq_len:,} x "
            f"data.input_size={input_size:,} and data.output_size={self.output_size:,}",
        )
        kind: Kind = "values" if self.target == "values" else "labels"
        self.spec = SequenceSpec(kind, input_size, self.output_size, seq_len)
        teacher = torch.randn(self.output_size, input_size, generator=self._generator(0))
        teacher /= teacher.norm(dim=1, keepdim=True)
        return {split: self._split(size, teacher, k) for k, (split, size) in enumerate(self.sizes.items(), 1)}

    def _split(self, size: int, teacher: Tensor, k: int) -> TensorBatches:
        generator = self._generator(k)  # of its own, so that num_train does not change the test set
        x = torch.randn(size, *self.shape, generator=generator)
        weights = DECAY ** torch.arange(x.shape[1] - 1, -1, -1)
        values = torch.einsum("ntf,t->nf", x, weights / weights.norm()) @ teacher.T
        if self.target == "values":
            return TensorBatches(x, values)
        if self.target == "labels":
            return TensorBatches(x, values.argmax(1))
        return TensorBatches(x, torch.randint(self.output_size, (size,), generator=generator))

    def _generator(self, k: int) -> torch.Generator:
        return torch.Generator().manual_seed(4 * self.seed + k)
