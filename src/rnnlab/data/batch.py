"""The batch that every dataset serves and every task reads."""

from typing import NamedTuple

import torch
from torch import Tensor


class Baseline(NamedTuple):
    """Naive forecasts that the forecasts of a batch are compared with."""

    seasonal_naive: Tensor  # (batch, horizon, targets) the last season, repeated
    last_value: Tensor  # (batch, 1, targets)
    mase_scale: Tensor  # (batch, 1, targets) in-sample MAE of the seasonal-naive forecast; 0 where it has no errors


class Batch(NamedTuple):
    """A batch of sequences and their targets; `SequenceSpec.kind` tells the shapes of `x` and `y`."""

    x: Tensor
    y: Tensor
    lengths: list[int] | None = None  # (batch,) steps of each sequence, on the CPU; None if none is padded
    # whether each sequence continues the same row of the previous batch (truncated BPTT); None: batches are independent
    carry_state: bool | None = None
    baseline: Baseline | None = None  # of series, in validation and test

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors on another device."""
        baseline = self.baseline and Baseline(*(part.to(device, non_blocking=True) for part in self.baseline))
        x, y = (part.to(device, non_blocking=True) for part in (self.x, self.y))
        return self._replace(x=x, y=y, baseline=baseline)
