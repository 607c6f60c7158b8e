"""A scale for each window, so that a network trained at one level forecasts at another (Kim et al. 2022)."""

from typing import Literal

import torch
from torch import Tensor, nn

from rnnlab.data.spec import SequenceSpec
from rnnlab.utils.errors import require

Norm = Literal["last", "std", "mean", "none"]
Scale = tuple[Tensor, Tensor]  # location and spread of the targets in a window, (batch, 1, targets) each


class WindowScaler(nn.Module):
    """Takes logarithms of targets where they are asked for, subtracts a location and divides by a spread.

    **Arguments:** `norm`, `log`: see `conf/model/forecaster.yaml`.
    """

    log: Tensor  # (targets,) whether logarithms are taken
    mean: Tensor  # (1, targets) of the training split
    deviation: Tensor

    def __init__(self, spec: SequenceSpec, norm: Norm, log: bool | None):
        super().__init__()
        require(
            not log or all(spec.log_scale),
            "model.log=true needs targets that are positive in all of the training split: set model.log=false or null.",
        )
        self.norm = norm
        logs = list(spec.grows) if log is None else [log] * len(spec.targets)
        scales = [(spec.log_scale if is_log else spec.scale)[target] for target, is_log in enumerate(logs)]
        mean, deviation = torch.tensor(scales).T[:, None]
        self.register_buffer("log", torch.tensor(logs), persistent=False)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("deviation", deviation, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Scale]:
        """A window (batch, context, channels) on the network's scale, and that scale."""
        num_targets = len(self.log)
        targets = self._logarithm(x[..., :num_targets])
        location, spread = self.mean, self.deviation
        if self.norm == "mean":
            location, spread = torch.zeros_like(self.mean), targets.abs().mean(1, keepdim=True)
        elif self.norm != "none":
            location = targets[:, -1:] if self.norm == "last" else targets.mean(1, keepdim=True)
            # a logarithm has the same unit at any level
            spread = torch.where(self.log, self.deviation, targets.std(1, keepdim=True, correction=0))
        # rounding errors of a constant window are no spread
        spread = torch.where(spread > 1e-6 * location.abs(), spread, self.deviation)
        return torch.cat(((targets - location) / spread, x[..., num_targets:]), dim=-1), (location, spread)

    def scale(self, y: Tensor, scale: Scale) -> Tensor:
        """Targets (batch, horizon, targets) on the network's scale."""
        location, spread = scale
        return (self._logarithm(y) - location) / spread

    def unscale(self, out: Tensor, scale: Scale) -> Tensor:
        """Network outputs (batch, horizon, targets, outputs) on the scale of the data, in rising order."""
        location, spread = (value[..., None] for value in scale)
        values = out.sort(dim=-1).values * spread + location  # quantiles may have crossed
        return torch.where(self.log[:, None], values.exp(), values)

    def _logarithm(self, values: Tensor) -> Tensor:
        # values that are not positive count as ten deviations below the training mean
        logarithm = values.clamp_min(1e-30).log().maximum(self.mean - 10 * self.deviation)
        return torch.where(self.log, logarithm, values)
