"""Synthetic series."""

import math

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rnnlab.data.base import SequenceData, Split
from rnnlab.errors import require
from rnnlab.spec import SequenceSpec

TRAIN, VAL = 0.7, 0.15  # shares of each series; the rest is the test part


class Windows(Dataset):
    """Every window of several series and the value that follows it, cut out when asked for.

    **Arguments:**

    - `series`: (series, time).
    - `window`: steps of x.

    Indexing with (batch,) integers gives x (batch, window, 1) and y (batch, 1), ordered by series, then time.
    """

    def __init__(self, series: Tensor, window: int):
        self.views = series.unfold(1, window + 1, 1)  # (series, positions, window + 1), no copy

    def __len__(self) -> int:
        return self.views.shape[0] * self.views.shape[1]

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        windows = self.views[index // self.views.shape[1], index % self.views.shape[1]]
        return windows[:, :-1, None], windows[:, -1:]


class WavesData(SequenceData):
    """Sums of sines with a trend and noise; from each window of a series the next value is to be told.

    A series is sum_k sin(2 pi t / p_k + phi_k) + trend + noise, with periods p_k log-uniform between 5 steps and one
    window, phases phi_k uniform, and a slope drawn for each series. It is split by time, and standardised by the mean
    and deviation of all training parts; windows of the validation and test parts may look back over the border, their
    targets lie behind it.

    x is (windows, window, 1), y is (windows, 1), both standardised; `spec.scale` leads back.

    **Arguments:**

    - `num_series`, `length`: how many series, of how many steps.
    - `window`: steps that the network sees.
    - `num_waves`: sines a series.
    - `trend`: standard deviation of the rise over a whole series.
    - `noise`: standard deviation of what is added at each step.
    - `seed`: of the series.
    - `batch_size`, `epoch_steps`: see `SequenceData`.

    **Raises:** `UserError` if a series' training part is not longer than a window.
    """

    kinds = ("values",)

    def __init__(
        self,
        num_series: int = 8,
        length: int = 500,
        window: int = 50,
        num_waves: int = 3,
        trend: float = 1.0,
        noise: float = 0.1,
        batch_size: int = 32,
        epoch_steps: int | None = None,
        seed: int = 0,
    ):
        super().__init__(batch_size, epoch_steps)
        require(window >= 5, f"data.window={window} is too short: the shortest wave has 5 steps.")
        shortest = math.ceil((window + 1) / TRAIN)
        require(
            length >= shortest,
            f"data.length={length} is too short: 70 % of it must hold a window of {window} and its target, "
            f"so use data.length={shortest} or more, or a shorter data.window.",
        )
        self.shape = (num_series, length)
        self.window = window
        self.num_waves = num_waves
        self.trend = trend
        self.noise = noise
        self.seed = seed

    def make(self) -> dict[Split, Dataset]:
        length = self.shape[1]
        series = self._series()
        val, test = int(TRAIN * length), int((TRAIN + VAL) * length)
        if self.spec is None or self.spec.scale is None:
            scale = (series[:, :val].mean().item(), series[:, :val].std().item())
            self.spec = SequenceSpec("values", 1, 1, self.window, scale=scale)
        mean, deviation = self.spec.scale or (0.0, 1.0)
        series = (series - mean) / deviation
        return {
            "train": Windows(series[:, :val], self.window),
            "val": Windows(series[:, val - self.window : test], self.window),
            "test": Windows(series[:, test - self.window :], self.window),
        }

    def _series(self) -> Tensor:
        num_series, length = self.shape
        generator = torch.Generator().manual_seed(self.seed)
        waves = (num_series, self.num_waves, 1)
        periods = 5 * (self.window / 5) ** torch.rand(waves, generator=generator)
        phases = 2 * math.pi * torch.rand(waves, generator=generator)
        slopes = self.trend * torch.randn(num_series, 1, generator=generator)
        noise = self.noise * torch.randn(num_series, length, generator=generator)
        time = torch.arange(length)
        return torch.sin(2 * math.pi * time / periods + phases).sum(1) + slopes * time / length + noise
