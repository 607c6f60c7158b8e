"""Series cut into windows: what forecasts are made from, trained on and scored against."""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rnnlab.data.base import SequenceData, Split
from rnnlab.data.batch import Baseline, Batch
from rnnlab.data.spec import SequenceSpec
from rnnlab.utils.console import tell
from rnnlab.utils.errors import UserError, require


@dataclass
class Panel:
    """One or more series, one after the other in one table.

    **Arguments:**

    - `values`: (rows, columns) of float32: targets, then covariates known of the past, then those known ahead.
    - `targets`, `covariates`: names of the columns.
    - `ahead`: names of the last of these, which are known ahead.
    - `names`: of the series.
    - `first`, `end`: (series,) rows: the first one, and the one after the last target. From there on a series has as
      many rows more as a forecast looks ahead, in which only columns that are known ahead have values.
    - `times`: (rows,) numpy's datetimes, or numbers; row numbers where there is no time column.
    - `freq`: the step of `times`, as pandas writes it; `None` for numbers.
    - `filled`: (rows, targets) what was no value in the file, which is neither learnt nor scored; `None` if nothing.
    - `bridged`: (rows,) whether a value was filled in that looks at later ones; `None` if none does.
    """

    values: Tensor
    targets: tuple[str, ...]
    covariates: tuple[str, ...]
    ahead: tuple[str, ...]
    names: list[str]
    first: np.ndarray
    end: np.ndarray
    times: np.ndarray
    freq: str | None = None
    filled: Tensor | None = None
    bridged: np.ndarray | None = None

    def series(self, rows: Tensor) -> Tensor:
        """To which series rows belong."""
        return torch.searchsorted(torch.from_numpy(self.first), rows, right=True) - 1


GROWTH = 0.5  # from this power of the level on, the swings of a logarithm are steadier than those of the values


class Windows(Dataset):
    """Windows of a panel and what follows them, cut out when asked for.

    **Arguments:**

    - `panel`: the series.
    - `origins`: (windows,) rows of the first step that is to be forecast.
    - `context`, `horizon`: steps before that row, and steps from it on.
    - `until`: (series,) rows from which on y is not known, for windows at the end of a training part.
    - `season`, `mase_scale`: if each window is to come with what its forecast is compared with, the steps after which
      a series repeats itself, and (series, targets) what the seasonal-naive forecast misses by before this part.

    Indexing with (batch,) integers gives x, (batch, context, channels), and y, (batch, horizon, targets), with nan
    where it is not known. The channels of a step are all columns, then those known ahead a second time, as they will be
    `horizon` steps later: the last `horizon` steps of a window hold all that is known of the steps to be forecast.

    With `mase_scale` the batch has a `Baseline`.
    """

    def __init__(
        self,
        panel: Panel,
        origins: np.ndarray,
        context: int,
        horizon: int,
        until: np.ndarray | None = None,
        season: int = 1,
        mase_scale: Tensor | None = None,
    ):
        self.panel = panel
        self.origins = torch.from_numpy(origins)
        self.past = torch.arange(-context, 0)
        self.future = torch.arange(horizon)
        self.until = None if until is None else torch.from_numpy(until)
        self.season = season
        self.mase_scale = mase_scale

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, index: Tensor) -> Batch:
        starts = self.origins[index]
        origins = starts[:, None]
        rows = origins + self.future
        x, y = self.window(origins), self._targets(rows)
        if self.panel.filled is not None:
            y = y.masked_fill(self.panel.filled[rows], torch.nan)
        if self.until is not None:
            y = y.masked_fill((rows >= self.until[self.panel.series(starts)][:, None])[..., None], torch.nan)
        if self.mase_scale is None:
            return Batch(x, y)
        naive = self._targets(origins - self.season + self.future % self.season)
        mase_scale = self.mase_scale[self.panel.series(starts)][:, None]
        return Batch(x, y, baseline=Baseline(naive, self._targets(origins - 1), mase_scale))

    def window(self, origins: Tensor) -> Tensor:
        """What is known at (batch, 1) rows, x."""
        rows = origins + self.past
        x = self._rows(rows)
        if not self.panel.ahead:
            return x
        return torch.cat((x, self._rows(rows + len(self.future))[..., -len(self.panel.ahead) :]), dim=-1)

    def _targets(self, rows: Tensor) -> Tensor:
        return self._rows(rows)[..., : len(self.panel.targets)]

    def _rows(self, rows: Tensor) -> Tensor:
        return self.panel.values.index_select(0, rows.flatten()).view(*rows.shape, -1)


class ForecastData(SequenceData):
    """Series that are split by time: the last steps of each are the test part, those before them the validation part.

    The windows of a part look back over its border, what they forecast lies behind it. Whatever is fitted, the scale of
    the columns and the average seasonal difference, is fitted on the training part. A subclass defines `read`.

    **Arguments:**

    - `context`: steps that a forecast looks back.
    - `horizon`: steps that it looks ahead.
    - `season`: steps after which a series repeats itself; 1 if it does not.
    - `val`, `test`: a share of each series, or its number of steps from 1 on; 0 leaves that part out.
    - `stride`: steps from one origin of a validation or test forecast to the next.
    - `batch_size`: see `SequenceData`.
    - `epoch_steps`: optimizer steps between validations; `None` is 40 sqrt(training windows / 300), from 40 to 100,
      because few windows are soon learnt by heart.

    **Raises:** `UserError` for parts without a forecast, and with the least length if a series is too short.
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
        self.sizes: dict[Split, float] = {"val": val, "test": test}
        require(val % 1 + test % 1 < 1, f"data.val={val:g} and data.test={test:g} leave nothing to train on.")
        for split, size in self.sizes.items():
            whole = size == 0 or size < 1 or size >= horizon
            require(whole, f"data.{split}={size:g} is shorter than data.horizon={horizon}: use 0, or more steps.")
        self.stride = stride

    def read(self) -> Panel:
        """The series."""
        raise NotImplementedError

    @cached_property
    def panel(self) -> Panel:
        """The series, read once.

        **Raises:** `UserError` if they are not what `spec`, that of a checkpoint, was made for.
        """
        panel, spec = self.read(), self.spec
        if spec is not None:
            for what, here, there in (
                ("data.context", self.context, spec.seq_len),
                ("data.horizon", self.horizon, spec.horizon),
                ("data.season", self.season, spec.season),
                ("The number of targets", len(panel.targets), len(spec.targets)),
                ("What is known beside the targets", ", ".join(panel.covariates), ", ".join(spec.covariates)),
            ):
                require(
                    here == there,
                    f"{what} is {here or 'nothing'}, the checkpoint was trained for {there or 'nothing'}.",
                )
            mixed = panel.targets != spec.targets and sorted(panel.targets) == sorted(spec.targets)
            require(not mixed, f"The checkpoint was trained for data.target=[{','.join(spec.targets)}], in this order.")
            if panel.freq != spec.freq:
                tell(f"The steps of the times are {panel.freq}, the checkpoint was trained for {spec.freq}.")
        return panel

    def make(self) -> dict[Split, Dataset]:
        panel = self.panel
        lengths = panel.end - panel.first
        shortest = int(lengths.argmin())
        least = self._least()
        require(
            int(lengths[shortest]) >= least,
            f"{self.named(shortest)} has {lengths[shortest]:,} steps. With data.context={self.context}, data.horizon="
            f"{self.horizon}, data.season={self.season}, data.val={self.sizes['val']:g} and data.test="
            f"{self.sizes['test']:g} it needs {least:,} or more: use a longer series or smaller values.",
        )
        val, test = (panel.first[:, None] + [self._borders(length) for length in lengths]).T  # rows
        trained = self._before_bridges(val)
        for number in np.flatnonzero(trained - panel.first <= self.context).tolist():
            raise UserError(
                f"{self.named(number)} has no data.context={self.context} steps to learn from before a gap."
            )
        steps = [panel.values[first:end].double() for first, end in zip(panel.first, trained, strict=True)]
        if self.spec is None:
            self.spec = self._spec(steps)
        self.standardise()
        how = (self.context, self.horizon)
        splits: dict[Split, Dataset] = {
            "train": Windows(panel, self._origins("train", panel.first + self.context, trained), *how, until=trained)
        }
        if self.epoch_steps is None:
            self.epoch_steps = round(min(max(40 * math.sqrt(len(splits["train"]) / 300), 40), 100))  # type: ignore[arg-type]
        others: tuple[tuple[Split, np.ndarray, np.ndarray], ...] = (("val", val, test), ("test", test, panel.end))
        for split, start, end in others:
            if self.sizes[split]:
                origins = self._origins(split, start, end - self.horizon + 1, self.stride)
                mase_scale = self._mase_scale(start)
                splits[split] = Windows(panel, origins, *how, season=self.season, mase_scale=mase_scale)
        return splits

    def named(self, series: int) -> str:
        """What to call a series in a message."""
        return f"Series {self.panel.names[series]}" if len(self.panel.names) > 1 else "The series"

    def _borders(self, length: int) -> tuple[int, int]:
        """Steps before the validation part, and before the test part."""
        val, test = (int(size if size >= 1 else size * length) for size in self.sizes.values())
        return length - test - val, length - test

    def _least(self) -> int:
        """The shortest series of which every part has a window."""
        needed = max(self.context + self.horizon, self.season + 1)
        shares = [size for size in self.sizes.values() if 0 < size < 1]
        steps = needed + sum(size for size in self.sizes.values() if size >= 1)
        # rounding may take a step or two more
        for length in count(math.ceil(max(steps / (1 - sum(shares)), *(self.horizon / share for share in shares), 1))):
            val, test = self._borders(length)
            parts = {"val": test - val, "test": length - test}
            if val >= needed and all(parts[split] >= self.horizon for split, size in self.sizes.items() if size):
                break
        return length

    def _origins(self, split: Split, low: np.ndarray, high: np.ndarray, stride: int = 1) -> np.ndarray:
        """Every `stride`-th row from `low` to before `high` of each series that a forecast can be made from."""
        rows = np.concatenate([np.arange(*limits, stride) for limits in zip(low, high, strict=True)])
        panel, last = self.panel, torch.from_numpy(rows) + self.horizon - 1
        possible = np.ones(len(rows), dtype=bool)
        if panel.ahead:  # which a file need not tell for all of the horizon
            possible &= panel.values[last, -len(panel.ahead) :].isfinite().all(1).numpy()
        if panel.bridged is not None:  # a value bridged over a gap looks at the value behind it
            possible &= ~panel.bridged[rows - 1]
        if panel.filled is not None:  # something has to be known
            known = np.append(0, (~panel.filled).any(1).numpy().cumsum())  # rows before each that are
            possible &= known[rows + self.horizon] > known[rows]
        require(bool(possible.any()), f"The {split} part has no steps to forecast: its gaps are too long.")
        return rows[possible]

    def _before_bridges(self, ends: np.ndarray) -> np.ndarray:
        """Where parts end if a gap that is filled from both sides may not reach over their ends."""
        if self.panel.bridged is None:
            return ends
        solid = np.where(self.panel.bridged, 0, np.arange(len(self.panel.bridged)))
        return np.maximum.accumulate(solid)[ends - 1] + 1

    def _spec(self, steps: list[Tensor]) -> SequenceSpec:
        """What the training part, (steps, columns) of each series, says of the data."""
        panel = self.panel
        targets = [step[:, : len(panel.targets)] for step in steps]
        positive = torch.stack([(step > 0).all(0) for step in targets]).all(0).tolist()
        log_scale = zip(positive, _window_scale([step.log() for step in targets], self.context), strict=True)
        growth = torch.stack([_growth(step, self.season) for step in targets]).median(0).values
        covariates = torch.cat([step[:, len(panel.targets) :] for step in steps])
        return SequenceSpec(
            "series",
            input_size=panel.values.shape[1] + len(panel.ahead),
            output_size=len(panel.targets),
            seq_len=self.context,
            horizon=self.horizon,
            season=self.season,
            targets=panel.targets,
            covariates=panel.covariates,
            scale=(*_window_scale(targets, self.context), *_scale(covariates)),
            log_scale=tuple(scale if is_positive else () for is_positive, scale in log_scale),
            grows=tuple((growth > GROWTH).tolist()),
            freq=panel.freq,
            num_windows=sum(max(0, len(step) - self.context - self.horizon + 1) for step in steps),
        )

    def _mase_scale(self, ends: np.ndarray) -> Tensor:
        """What a seasonal-naive forecast misses the targets by before these rows, (series, targets): MASE's unit."""
        values, season = self.panel.values[:, : len(self.panel.targets)].double(), self.season
        if self.panel.filled is not None:
            values = values.masked_fill(self.panel.filled, torch.nan)
        parts = zip(self.panel.first, ends, strict=True)
        means = [(values[a + season : b] - values[a : b - season]).abs().nanmean(0) for a, b in parts]
        return torch.stack(means).nan_to_num(0).float()

    def standardise(self) -> None:
        """Bring the covariates to the scale of the training part. The targets stay: a forecaster scales each window."""
        spec: Any = self.spec
        known = len(self.panel.targets)
        for column, (mean, deviation) in enumerate(spec.scale[known:], known):
            self.panel.values[:, column].sub_(mean).div_(deviation)


def _scale(rows: Tensor) -> tuple[tuple[float, ...], ...]:
    """The mean and the standard deviation of each column; 1 where nothing varies."""
    deviation = (rows - rows.mean(0)).square().mean(0).sqrt()
    deviation[deviation == 0] = 1.0
    return tuple(zip(rows.mean(0).tolist(), deviation.tolist(), strict=True))


def _window_scale(series: list[Tensor], context: int) -> tuple[tuple[float, ...], ...]:
    """The mean of each column and its mean standard deviation within a window; 1 where nothing varies."""
    apart = max(1, context // 4)  # neighbours tell nearly the same
    deviation = torch.cat([steps.unfold(0, context, apart).std(-1, correction=0) for steps in series]).mean(0)
    deviation[deviation == 0] = 1.0
    return tuple(zip(torch.cat(series).mean(0).tolist(), deviation.tolist(), strict=True))


def _growth(steps: Tensor, season: int) -> Tensor:
    """By which power of its level each column swings: 0 if its swings stay, 1 if they grow in proportion to the level.

    The slope of log(standard deviation) over log(mean) of blocks of a season (Guerrero 1993), of 12 steps if there is
    none; 0 where values are not positive or fewer than three blocks tell.
    """
    size = season if season > 1 else 12
    blocks = steps[len(steps) % size :].unflatten(0, (-1, size))
    slopes = []
    for values in blocks.unbind(-1) if len(blocks) >= 3 else ():
        level, swing = values.mean(1), values.std(1)
        level, swing = level[swing > 0].log(), swing[swing > 0].log()
        level = level - level.mean()
        told = bool((steps > 0).all()) and len(level) >= 3 and bool(level.any())
        slopes.append((level @ swing / level.square().sum()).item() if told else 0.0)
    return torch.tensor(slopes or [0.0] * steps.shape[1])
