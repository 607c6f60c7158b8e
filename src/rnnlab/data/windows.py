"""Windows of series: the steps that a forecast looks back on, and those that it forecasts."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rnnlab.data.batch import Baseline, Batch


@dataclass
class Panel:
    """One or more series, one after the other in one table; each ends with a horizon of rows without targets."""

    values: Tensor  # (rows, columns) float32: targets, then past covariates, then future covariates
    targets: tuple[str, ...]  # names of the columns
    covariates: tuple[str, ...]
    future_covariates: tuple[str, ...]  # the last of them, which are known in advance
    names: list[str]  # of the series
    first: np.ndarray  # (series,) first row
    end: np.ndarray  # (series,) the row after the last target
    times: np.ndarray  # (rows,) datetimes or numbers; row numbers if there is no time column
    freq: str | None = None  # step of `times`, as pandas writes it; None for numbers
    filled: Tensor | None = None  # (rows, targets) whether a missing value was filled in; None if none was
    interpolated: np.ndarray | None = None  # (rows,) whether a filled value depends on later ones; None if none does

    def series_of(self, rows: Tensor) -> Tensor:
        """The index of the series that each row belongs to."""
        return torch.searchsorted(torch.from_numpy(self.first), rows, right=True) - 1

    def columns_at(self, rows: Tensor) -> Tensor:
        """All columns of rows of any shape: (..., columns)."""
        return self.values.index_select(0, rows.flatten()).view(*rows.shape, -1)

    def targets_at(self, rows: Tensor) -> Tensor:
        """The targets of rows of any shape: (..., targets)."""
        return self.columns_at(rows)[..., : len(self.targets)]

    def observed_at(self, rows: Tensor) -> Tensor:
        """`targets_at` with nan for values that were filled in, which are neither learnt nor scored."""
        values = self.targets_at(rows)
        return values if self.filled is None else values.masked_fill(self.filled[rows], torch.nan)


class Windows(Dataset):
    """Windows of a panel, cut out when they are indexed with (batch,) integers.

    x is (batch, context, channels), y is (batch, horizon, targets) with nan where it is unknown. The channels are all
    columns, then the future covariates `horizon` steps later, so that a window holds those of the steps to forecast.

    **Arguments:**

    - `origins`: (windows,) row of the first step to forecast.
    - `known_until`: (series,) row from which on y is hidden, for windows at the end of the training split.
    - `season`, `mase_scale`: for a `Baseline` in each batch; `mase_scale` is (series, targets).
    """

    def __init__(
        self,
        panel: Panel,
        origins: np.ndarray,
        context: int,
        horizon: int,
        known_until: np.ndarray | None = None,
        season: int = 1,
        mase_scale: Tensor | None = None,
    ):
        self.panel = panel
        self.origins = torch.from_numpy(origins)
        self.past = torch.arange(-context, 0)
        self.future = torch.arange(horizon)
        self.known_until = None if known_until is None else torch.from_numpy(known_until)
        self.season = season
        self.mase_scale = mase_scale

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, index: Tensor) -> Batch:
        panel, origins = self.panel, self.origins[index]
        rows = origins[:, None] + self.future
        x, y = self.inputs(origins), panel.observed_at(rows)
        if self.known_until is not None:
            ends = self.known_until[panel.series_of(origins)]
            y = y.masked_fill((rows >= ends[:, None])[..., None], torch.nan)
        if self.mase_scale is None:
            return Batch(x, y)
        baseline = Baseline(
            seasonal_naive=panel.targets_at(origins[:, None] - self.season + self.future % self.season),
            last_value=panel.targets_at(origins[:, None] - 1),
            mase_scale=self.mase_scale[panel.series_of(origins)][:, None],
        )
        return Batch(x, y, baseline=baseline)

    def inputs(self, origins: Tensor) -> Tensor:
        """x of windows with these (batch,) origins."""
        rows = origins[:, None] + self.past
        x = self.panel.columns_at(rows)
        if not self.panel.future_covariates:
            return x
        ahead = self.panel.columns_at(rows + len(self.future))[..., -len(self.panel.future_covariates) :]
        return torch.cat((x, ahead), dim=-1)
