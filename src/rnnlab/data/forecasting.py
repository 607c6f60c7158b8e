"""Series that are split by time and served as windows to forecast from."""

import math
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rnnlab.data.base import SequenceData, Split
from rnnlab.data.spec import SequenceSpec
from rnnlab.data.windows import Panel, Windows
from rnnlab.utils.console import tell
from rnnlab.utils.errors import require

LOG_EXPONENT = 0.5  # logarithms are steadier than values that vary with a higher power of their level


class ForecastData(SequenceData):
    """Series that are split by time: the last steps are the test split, those before them the validation split.

    Windows look back on the split before theirs. Scales are estimated on the training split. A subclass defines `read`.

    **Arguments:** see `conf/data/series.yaml`.
    """

    kinds = ("series",)

    def __init__(
        self,
        context: int = 36,
        horizon: int = 12,
        season: int = 1,
        val: float = 0.15,
        test: float = 0.15,
        stride: int = 1,
        batch_size: int = 64,
        epoch_steps: int | None = None,
    ):
        super().__init__(batch_size, epoch_steps)
        self.context = context
        self.horizon = horizon
        self.season = season
        self.stride = stride
        self.sizes: dict[Split, float] = {"val": val, "test": test}

    def read(self) -> Panel:
        raise NotImplementedError

    @cached_property
    def panel(self) -> Panel:
        """The series, read once; they have to fit `spec` if a checkpoint gives it."""
        panel, spec = self.read(), self.spec
        if spec is None:
            return panel
        for name, here, there in (
            ("data.context", self.context, spec.seq_len),
            ("data.horizon", self.horizon, spec.horizon),
            ("data.season", self.season, spec.season),
            ("The number of targets", len(panel.targets), len(spec.targets)),
            ("The list of covariates", list(panel.covariates), list(spec.covariates)),
        ):
            require(here == there, f"{name} is {here}, the checkpoint was trained with {there}.")
        reordered = panel.targets != spec.targets and sorted(panel.targets) == sorted(spec.targets)
        require(not reordered, f"data.target has another order than in the checkpoint: {', '.join(spec.targets)}.")
        if panel.freq != spec.freq:
            tell(f"The frequency of the times is {panel.freq}, the checkpoint was trained with {spec.freq}.")
        return panel

    def make(self) -> dict[Split, Dataset]:
        panel, sizes = self.panel, (self.context, self.horizon)
        val, test = self._split_rows()
        train_end = self._train_end(val)
        origins = self._origins("train", panel.first + self.context, train_end)
        if self.spec is None:
            train = [panel.values[first:end].double() for first, end in zip(panel.first, train_end, strict=True)]
            self.spec = self._make_spec([steps for steps in train if len(steps) > self.context])
        self.standardise()
        splits: dict[Split, Dataset] = {"train": Windows(panel, origins, *sizes, known_until=train_end)}
        if self.epoch_steps is None:  # few windows are soon learnt by heart
            self.epoch_steps = round(min(max(40 * math.sqrt(len(origins) / 300), 40), 100))
        rows: dict[Split, tuple[np.ndarray, np.ndarray]] = {"val": (val, test), "test": (test, panel.end)}
        for split, (start, end) in rows.items():
            if self.sizes[split]:
                origins = self._origins(split, start, end - self.horizon + 1, self.stride)
                splits[split] = Windows(panel, origins, *sizes, None, self.season, self._mase_scale(start))
        return splits

    def latest_windows(self) -> Windows:
        """The window at the end of each series, to forecast what is not known yet."""
        panel = self.panel
        lengths = panel.end - panel.first
        short = int(lengths.argmin())
        message = f"Series {panel.names[short]} has {lengths[short]:,} steps, fewer than data.context={self.context:,}."
        require(lengths[short] >= self.context, message)
        self.standardise()
        windows = Windows(panel, panel.end, self.context, self.horizon)
        require(
            bool(windows.inputs(windows.origins).isfinite().all()),
            f"The file ends without {', '.join(panel.future_covariates)} of the next {self.horizon} steps: add rows "
            f"that hold these, and no {', '.join(panel.targets)}.",
        )
        return windows

    def _split_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """The first rows of the validation and of the test split, (series,) each."""
        panel = self.panel
        lengths = panel.end - panel.first
        val, test = (np.where(size < 1, size * lengths, size).astype(int) for size in self.sizes.values())
        short = int(lengths.argmin())
        for split, steps, needed in (
            ("train", lengths - val - test, max(self.context + self.horizon, self.season + 1)),
            ("val", val, self.horizon if self.sizes["val"] else 0),
            ("test", test, self.horizon if self.sizes["test"] else 0),
        ):
            require(
                steps[short] >= needed,
                f"Series {panel.names[short]} has {lengths[short]:,} steps. The {split} split gets {steps[short]:,} "
                f"and needs {needed:,}: use a longer series, or less data.context, horizon, season, val or test.",
            )
        return panel.end - test - val, panel.end - test

    def _train_end(self, ends: np.ndarray) -> np.ndarray:
        """`ends`, moved to before interpolated values, which depend on later ones."""
        if self.panel.interpolated is None:
            return ends
        rows = np.arange(len(self.panel.interpolated))
        return np.maximum.accumulate(np.where(self.panel.interpolated, 0, rows))[ends - 1] + 1

    def _origins(self, split: Split, low: np.ndarray, high: np.ndarray, stride: int = 1) -> np.ndarray:
        """Every `stride`-th row from `low` to before `high` of each series that can be forecast and scored."""
        panel = self.panel
        rows = np.concatenate([np.arange(*limits, stride) for limits in zip(low, high, strict=True)])
        usable = np.ones(len(rows), dtype=bool)
        if panel.future_covariates:  # a file may end before the horizon does
            last = torch.from_numpy(rows) + self.horizon - 1
            usable &= panel.values[last, -len(panel.future_covariates) :].isfinite().all(1).numpy()
        if panel.interpolated is not None:  # the last value of a window must not depend on what is to be forecast
            usable &= ~panel.interpolated[rows - 1]
        if panel.filled is not None:  # some step has to be observed
            observed = np.append(0, (~panel.filled).any(1).numpy().cumsum())  # number of rows before each
            usable &= observed[rows + self.horizon] > observed[rows]
        require(bool(usable.any()), f"The {split} split has no steps to forecast: its gaps are too long.")
        return rows[usable]

    def _make_spec(self, train: list[Tensor]) -> SequenceSpec:
        """The spec of the training split, (steps, columns) of each series."""
        panel, num_targets = self.panel, len(self.panel.targets)
        targets = [steps[:, :num_targets] for steps in train]
        positive = torch.stack([(steps > 0).all(0) for steps in targets]).all(0).tolist()
        log_scale = _window_scale([steps.log() for steps in targets], self.context)
        exponents = torch.stack([_spread_exponent(steps, self.season) for steps in targets]).median(0).values
        return SequenceSpec(
            "series",
            input_size=panel.values.shape[1] + len(panel.future_covariates),
            output_size=num_targets,
            seq_len=self.context,
            horizon=self.horizon,
            season=self.season,
            targets=panel.targets,
            covariates=panel.covariates,
            scale=(*_window_scale(targets, self.context), *_scale([steps[:, num_targets:] for steps in train])),
            log_scale=tuple(scale if whole else () for whole, scale in zip(positive, log_scale, strict=True)),
            grows=tuple((exponents > LOG_EXPONENT).tolist()),
            freq=panel.freq,
            num_windows=sum(max(0, len(steps) - self.context - self.horizon + 1) for steps in train),
        )

    def _mase_scale(self, ends: np.ndarray) -> Tensor:
        """The in-sample MAE of the seasonal-naive forecast of each series before `ends`, (series, targets)."""
        values = self.panel.observed_at(torch.arange(len(self.panel.values))).double()
        series = [values[first:end] for first, end in zip(self.panel.first, ends, strict=True)]
        errors = [(steps[self.season :] - steps[: -self.season]).abs().nanmean(0) for steps in series]
        return torch.stack(errors).nan_to_num(0).float()

    def standardise(self) -> None:
        """Standardise the covariates in place, by the training split. Targets stay: a forecaster scales each window."""
        spec: Any = self.spec
        num_targets = len(self.panel.targets)
        for column, (mean, deviation) in enumerate(spec.scale[num_targets:], num_targets):
            self.panel.values[:, column].sub_(mean).div_(deviation)


def _scale(series: list[Tensor]) -> tuple[tuple[float, ...], ...]:
    """(mean, standard deviation) of each column; 1 for a constant column."""
    rows = torch.cat(series)
    return _pairs(rows.mean(0), (rows - rows.mean(0)).square().mean(0).sqrt())  # there may be no column


def _window_scale(series: list[Tensor], context: int) -> tuple[tuple[float, ...], ...]:
    """(mean, mean standard deviation within a window) of each column; 1 for a constant column."""
    stride = max(1, context // 4)  # neighbouring windows hold nearly the same
    deviations = torch.cat([steps.unfold(0, context, stride).std(-1, correction=0) for steps in series])
    return _pairs(torch.cat(series).mean(0), deviations.mean(0))


def _pairs(mean: Tensor, deviation: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(zip(mean.tolist(), deviation.where(deviation != 0, 1.0).tolist(), strict=True))


def _spread_exponent(steps: Tensor, season: int) -> Tensor:
    """The power of its level that the standard deviation of each column is proportional to.

    The slope of log(standard deviation) over log(mean) of blocks of a season (Guerrero 1993), of 12 steps if there is
    none; 0 where values are not positive or there are fewer than three blocks.
    """
    size = season if season > 1 else 12
    blocks = steps[len(steps) % size :].unflatten(0, (-1, size))
    slopes = torch.zeros(steps.shape[1])
    if len(blocks) < 3 or not (steps > 0).all():
        return slopes
    for column, values in enumerate(blocks.unbind(-1)):
        varies = values.std(1) > 0
        level, spread = values.mean(1)[varies].log(), values.std(1)[varies].log()
        level = level - level.mean()
        if len(level) >= 3 and level.any():
            slopes[column] = level @ spread / level.square().sum()
    return slopes
