"""Synthetic series."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rnnlab.data.windows import ForecastData, Panel
from rnnlab.utils.errors import require
from rnnlab.utils.files import require_memory


class WavesData(ForecastData):
    """Sums of sines with a trend and noise.

    A series is sum_k sin(2 pi t / p_k + phi_k) + trend + noise, with periods p_k log-uniform between 5 steps and one
    context, phases phi_k uniform, and a slope drawn for each series.

    **Arguments:**

    - `num_series`, `length`: how many series, of how many steps.
    - `num_waves`: sines a series.
    - `trend`: standard deviation of the rise over a whole series.
    - `noise`: standard deviation of what is added at each step.
    - `seed`: of the series.
    - `split`: see `ForecastData`.

    **Raises:** `UserError` if a context is shorter than the shortest wave.
    """

    def __init__(
        self,
        num_series: int = 8,
        length: int = 500,
        num_waves: int = 3,
        trend: float = 1.0,
        noise: float = 0.1,
        seed: int = 0,
        **split: Any,
    ):
        super().__init__(**split)
        require(self.context >= 5, f"data.context={self.context} is too short: the shortest wave has 5 steps.")
        self.shape = (num_series, length)
        self.num_waves = num_waves
        self.trend = trend
        self.noise = noise
        self.seed = seed

    def read(self) -> Panel:
        num_series, length = self.shape
        rows = length + self.horizon
        require_memory(
            8 * num_series * (length * self.num_waves + rows),
            f"data.num_series={num_series:,} of data.length={length:,} + data.horizon={self.horizon:,} steps, made of "
            f"data.num_waves={self.num_waves:,},",
        )
        first = np.arange(num_series) * rows
        values = F.pad(self._series(), (0, self.horizon), value=torch.nan).view(-1, 1)
        names = [str(number) for number in range(num_series)]
        return Panel(values, ("value",), (), (), names, first, first + length, np.tile(np.arange(rows), num_series))

    def _series(self) -> Tensor:
        num_series, length = self.shape
        generator = torch.Generator().manual_seed(self.seed)
        waves = (num_series, self.num_waves, 1)
        periods = 5 * (self.context / 5) ** torch.rand(waves, generator=generator)
        phases = 2 * math.pi * torch.rand(waves, generator=generator)
        slopes = self.trend * torch.randn(num_series, 1, generator=generator)
        noise = self.noise * torch.randn(num_series, length, generator=generator)
        time = torch.arange(length)
        return torch.sin(2 * math.pi * time / periods + phases).sum(1) + slopes * time / length + noise
