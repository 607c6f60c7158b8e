"""The batch that every dataset serves and every task reads."""

from typing import NamedTuple

import torch
from torch import Tensor


class Baseline(NamedTuple):
    """Naive forecasts that the forecasts of a batch are compared with.

    - `seasonal_naive`: (batch, horizon, targets) the last season, repeated.
    - `last_value`: (batch, 1, targets) the last value.
    - `mase_scale`: (batch, 1, targets) in-sample MAE of the seasonal-naive forecast; 0 where it makes no errors.
    """

    seasonal_naive: Tensor
    last_value: Tensor
    mase_scale: Tensor


class Batch(NamedTuple):
    """One batch of sequences and their targets; shapes of `x` and `y` are those of `SequenceSpec.kind`.

    - `x`: (batch, time, features), or (batch, time) integers.
    - `y`: targets.
    - `lengths`: (batch,) steps of each sequence if some are padded at their end, on the CPU.
    - `carry_state`: whether each sequence continues the same row of the previous batch (truncated BPTT);
      `None` if batches are independent of each other.
    - `baseline`: for series, in validation and test.
    """

    x: Tensor
    y: Tensor
    lengths: list[int] | None = None
    carry_state: bool | None = None
    baseline: Baseline | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors on another device."""
        baseline = self.baseline and Baseline(*(part.to(device, non_blocking=True) for part in self.baseline))
        x, y = (part.to(device, non_blocking=True) for part in (self.x, self.y))
        return self._replace(x=x, y=y, baseline=baseline)
