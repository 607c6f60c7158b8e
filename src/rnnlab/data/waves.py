"""Synthetic series."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from rnnlab.data.forecasting import ForecastData
from rnnlab.data.windows import Panel
from rnnlab.utils.errors import require


class WavesData(ForecastData):
    """Sums of sines with a trend and noise: sum_k sin(2 pi t / p_k + phi_k) + slope t + noise.

    **Arguments:** see `conf/data/waves.yaml`; `split` are those of `ForecastData`.
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
        self.num_series = num_series
        self.length = length
        self.num_waves = num_waves
        self.trend = trend
        self.noise = noise
        self.seed = seed

    def read(self) -> Panel:
        rows = self.length + self.horizon
        first = np.arange(self.num_series) * rows
        generator = torch.Generator().manual_seed(self.seed)
        waves = (self.num_series, self.num_waves, 1)
        periods = 5 * (self.context / 5) ** torch.rand(waves, generator=generator)
        phases = 2 * math.pi * torch.rand(waves, generator=generator)
        slopes = self.trend * torch.randn(self.num_series, 1, generator=generator)
        noise = self.noise * torch.randn(self.num_series, self.length, generator=generator)
        time = torch.arange(self.length)
        values = torch.sin(2 * math.pi * time / periods + phases).sum(1) + slopes * time / self.length + noise
        values = F.pad(values, (0, self.horizon), value=torch.nan).view(-1, 1)
        names = [str(number) for number in range(self.num_series)]
        times = np.tile(np.arange(rows), self.num_series)
        return Panel(values, ("value",), (), (), names, first, first + self.length, times)
