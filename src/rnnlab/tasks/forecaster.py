"""Forecasts of series."""

import math
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.table import Table
from torch import Tensor, nn
from torchmetrics import Metric

from rnnlab.data.batch import Batch
from rnnlab.data.windows import ForecastData, Panel, Windows
from rnnlab.nn.rnn import SimpleRNN
from rnnlab.tasks.base import Task
from rnnlab.tasks.metrics import ForecastScores, median, pinball
from rnnlab.tasks.plots import Forecast, draw_errors, draw_forecasts
from rnnlab.tasks.window_rnn import PATCH, WindowRNN, divisors
from rnnlab.utils.errors import require

NAIVE = ("seasonal_naive", "last_value")  # what a forecast is compared with
LOSSES: dict[str, Any] = {"mae": F.l1_loss, "huber": F.huber_loss, "mse": F.mse_loss}
SHOWN = 4  # charts in a picture: series, or targets of the first series
FORECASTS = 8  # in a chart


class Forecaster(Task):
    """Forecasts the next `spec.horizon` steps of series from the last `spec.seq_len`.

    Every window is brought to a scale of its own and the forecast back from it, so that a network that was trained at
    one level goes on at another (Kim et al. 2022). The loss is measured on that scale, all scores on the data's.

    **Arguments:**

    - `cell`, `optim`, `spec`: see `Task`.
    - `loss`: `pinball` of all `quantiles`, or `mae`, `huber` or `mse` of a point forecast.
    - `quantiles`: levels of the forecast quantiles, rising.
    - `norm`: what is subtracted from a window, and what it is divided by. `last`: its last value and its standard
      deviation. `std`: its mean and its standard deviation. `mean`: nothing, and its mean absolute value. `none`: the
      training part's mean and deviation. A logarithm has the same unit at any level, so there `last` and `std` divide
      by the training part's deviation, too.
    - `log`: take the logarithm of the targets before all that; they must be positive. `None` does so for those whose
      swings grow with their level in the training part, see `ForecastData`.
    - `head`: `direct` forecasts all steps at once. `recursive` forecasts one step, reads its own forecast, and goes on;
      its quantiles are those of a single step. It is trained to tell the next step at every step (teacher forcing).
    - `patch`: steps of a window that the cell reads at once; `None` takes the largest divisor of the context up to 12.
      `recursive` reads one.
    - `noise`: what is added to windows in training, so that few of them are not learnt by heart: its standard deviation
      on the network's scale is this times sqrt(context / training windows), and not more than this.
    - `shift`: standard deviation of what is added to all of a window and its targets in training, on the same scale:
      the level of a forecast is to come from more than the last value.

    **Raises:** `UserError` for what does not fit together.
    """

    kind = "series"
    uneven = True  # what is not known is not forecast
    levels: Tensor
    logs: Tensor
    scale: Tensor

    def __init__(
        self,
        cell: dict[str, Any],
        optim: dict[str, Any],
        spec: dict[str, Any],
        loss: Literal["pinball", "mae", "huber", "mse"] = "pinball",
        quantiles: tuple[float, ...] = (0.1, 0.5, 0.9),
        norm: Literal["last", "std", "mean", "none"] = "last",
        log: bool | None = None,
        head: Literal["direct", "recursive"] = "direct",
        patch: int | None = None,
        noise: float = 0.0,
        shift: float = 0.0,
    ):
        self.objective = loss
        self.quantiles = tuple(quantiles) if loss == "pinball" else ()
        self.loss_label = f"{loss} loss on the network's scale"
        self.norm = norm
        self.recursive = head == "recursive"
        more = spec["input_size"] - len(spec["targets"])  # channels
        self.require_fit(
            {"cell": cell, "head": head, "patch": patch}, {"context": spec["seq_len"], "covariates": [""] * more}
        )
        super().__init__(cell, optim, spec, patch=patch)
        self.point = median(self.quantiles)
        self.register_buffer("levels", torch.tensor(self.quantiles), persistent=False)
        require(
            not log or all(self.spec.log_scale),
            "model.log=true needs targets that are positive in all of the training part: set model.log=false or null.",
        )
        logs = [log] * len(self.spec.targets) if log is not None else list(self.spec.grows)
        scales = [(self.spec.log_scale if is_log else self.spec.scale)[n] for n, is_log in enumerate(logs)]
        self.noise = noise * min(1.0, math.sqrt(self.spec.seq_len / max(1, self.spec.num_windows)))
        self.shift = shift
        self.register_buffer("logs", torch.tensor(logs), persistent=False)
        scale = torch.tensor(scales).T[:, None]  # mean and deviation, (2, 1, targets)
        self.register_buffer("scale", scale, persistent=False)

    def make_network(self, cell: dict[str, Any], patch: int | None) -> nn.Module:  # type: ignore[override]
        spec, outputs = self.spec, max(1, len(self.quantiles))
        if self.recursive:
            return SimpleRNN(cell, spec.input_size, spec.input_size * outputs, "all")
        patch = patch or max(number for number in range(1, PATCH + 1) if spec.seq_len % number == 0)
        return WindowRNN(cell, spec.input_size, len(spec.targets), spec.seq_len, spec.horizon, patch, outputs)

    @classmethod
    def require_fit(cls, model: dict[str, Any], data: dict[str, Any]) -> None:
        patch, context = model.get("patch"), data.get("context")
        if model.get("head") == "recursive":
            require(patch in (None, 1), f"model.head=recursive reads one step at a time, not model.patch={patch}.")
            require(
                not any(data.get(name) for name in ("covariates", "future_covariates", "calendar")),
                "model.head=recursive reads its own forecast: leave out covariates, future_covariates and calendar.",
            )
            require(
                not model["cell"].get("bidirectional"),
                "cell.bidirectional=true lets model.head=recursive see the steps that it learns to tell: leave it out.",
            )
        elif patch is not None and context is not None:
            listed = ", ".join(map(str, divisors(context)))
            require(context % patch == 0, f"model.patch={patch} does not divide data.context={context}; {listed} do.")

    def loss(self, out: Tensor, y: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
        """`out` is (..., outputs), `y` is (...), and not a number where it is not known, which costs nothing."""
        known = ~y.isnan()
        y = y.where(known, out[..., 0].detach())
        if self.objective == "pinball":
            costs = pinball(out, y, self.levels).mean(-1)
        else:
            costs = LOSSES[self.objective](out[..., 0], y, reduction="none")
        total = (costs * known).sum()
        return total if reduction == "sum" else total / known.sum().clamp_min(1)

    def count(self, y: Tensor) -> Tensor:
        return (~y.isnan()).sum()

    def make_metrics(self) -> dict[str, Metric]:
        how = (self.spec.horizon, self.spec.targets, self.quantiles)
        naive = NAIVE[self.spec.season == 1 :]  # without a season the two are one
        return {"model": ForecastScores(*how), **{name: ForecastScores(*how, f"_{name}") for name in naive}}

    def predict(self, batch: Batch, state: Any = None) -> tuple[Tensor, Tensor, None]:
        window, standards = self._standardise(batch.x)
        y = self._scaled(batch.y, standards)
        if self.training and (self.noise or self.shift):
            shift = self.shift * torch.randn_like(y[:, :1])
            y = y + shift
            window = window + self.noise * torch.randn_like(window)
            window[..., : y.shape[-1]] += shift
        if not self.recursive:
            return self.network(window)[0].to(y.dtype), y, None
        if self.training:
            return *self._teacher_forced(window, y), None
        return self._feed_back(window).to(y.dtype), y, None

    def _teacher_forced(self, window: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions of the next step at every step of the windows and their targets, and these steps."""
        steps = torch.cat((window, y), dim=1)
        return self._steps(self.network(steps[:, :-1].nan_to_num())[0]).to(y.dtype), steps[:, 1:]

    def probe_loss(self, batch: Batch) -> Tensor:
        if not self.recursive:
            return super().probe_loss(batch)
        window, standards = self._standardise(batch.x)
        return self.loss(*self._teacher_forced(window, self._scaled(batch.y, standards)))

    def forecast(self, x: Tensor) -> Tensor:
        """Windows (batch, context, channels) -> (batch, horizon, targets, outputs), all on the scale of the data.

        The outputs are the quantiles, rising, or the point forecast alone.
        """
        window, standards = self._standardise(x)
        out = self._feed_back(window) if self.recursive else self.network(window)[0]
        return self._unscaled(out.to(x.dtype), standards)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.forecast(batch.x)

    def _measure(self, batch: Batch, split: str) -> None:
        y, baseline = batch.y, batch.baseline
        out, scaled = self.evaluate(batch)
        scores = dict(self._split(split))
        scores["loss"].update(*self._total(out, scaled))
        if baseline is not None:  # batches of the training part have none
            _, standards = self._standardise(batch.x)
            scores["model"].update(self._unscaled(out, standards), y, baseline.mase_scale)
            last_value = baseline.last_value[..., None].expand_as(y[..., None])
            scores["last_value"].update(last_value, y, baseline.mase_scale)
            if "seasonal_naive" in scores:
                scores["seasonal_naive"].update(baseline.seasonal_naive[..., None], y, baseline.mase_scale)

    def _standardise(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """A window on the network's scale, and (location, spread) of its targets, (batch, 1, targets) each."""
        known = len(self.spec.targets)
        window = self._logged(x[..., :known])
        mean, deviation = self.scale
        location, spread = mean, deviation
        if self.norm == "mean":
            location, spread = torch.zeros_like(mean), window.abs().mean(1, keepdim=True)
        elif self.norm != "none":
            location = window[:, -1:] if self.norm == "last" else window.mean(1, keepdim=True)
            spread = torch.where(self.logs, deviation, window.std(1, keepdim=True, correction=0))
        # rounding gives a constant window a spread, too, which must not become its unit
        spread = torch.where(spread > 1e-6 * location.abs(), spread, deviation)
        return torch.cat(((window - location) / spread, x[..., known:]), dim=-1), (location, spread)

    def _scaled(self, y: Tensor, standards: tuple[Tensor, Tensor]) -> Tensor:
        location, spread = standards
        return (self._logged(y) - location) / spread

    def _unscaled(self, out: Tensor, standards: tuple[Tensor, Tensor]) -> Tensor:
        location, spread = (standard[..., None] for standard in standards)
        values = out.sort(dim=-1).values * spread + location  # quantiles that cross are put in order
        return torch.where(self.logs[:, None], values.exp(), values)

    def _logged(self, values: Tensor) -> Tensor:
        mean, deviation = self.scale
        # a later value may be 0 or less: it counts as ten deviations below what was seen
        return torch.where(self.logs, values.clamp_min(1e-30).log().maximum(mean - 10 * deviation), values)

    def _steps(self, out: Tensor) -> Tensor:
        return out.unflatten(-1, (len(self.spec.targets), -1))

    def _feed_back(self, window: Tensor) -> Tensor:
        """Forecast a step, read the point forecast as if it were true, and go on."""
        out, state = self.network(window)
        steps = [self._steps(out[:, -1])]
        while len(steps) < self.spec.horizon:
            out, state = self.network.step(steps[-1][..., self.point], state)  # type: ignore[operator]
            steps.append(self._steps(out))
        return torch.stack(steps, dim=1)

    def table(self, scores: dict[str, float]) -> RenderableType:
        """The model's scores beside those of the naive forecasts, and a word if it is no better."""
        others = [name for name in NAIVE if any(score.endswith(name) for score in scores)]
        table = Table("score", "model", *(name.replace("_", " ") for name in others))
        warnings = []
        for name, score in scores.items():
            if name.endswith(NAIVE):
                continue
            beside = {other: scores.get(f"{name}_{other}") for other in others}
            table.add_row(name, *("" if value is None else f"{value:.6g}" for value in (score, *beside.values())))
            if name.endswith("/mae"):
                warnings += [
                    f"The model does not beat the {other.replace('_', '-')} forecast: {name} {score:.4g} against "
                    f"{value:.4g}. Use that one, or try a longer data.context or more training."
                    for other, value in beside.items()
                    if value is not None and not score < value
                ]
        return Group(table, *warnings)

    def figures(self, datamodule: ForecastData, split: Any) -> dict[str, Figure]:  # type: ignore[override]
        """Forecasts over the truth, one after the other, and the error at each step of the horizon."""
        if split not in datamodule.splits:  # debug=overfit validates without it
            return {}
        panel: Panel = datamodule.panel
        windows: Any = datamodule.splits[split]
        scores = dict(self._split(split))
        one = len(panel.names) == len(panel.targets) == 1
        errors = {
            name.replace("_", " "): score.by_step[0 if one else 1].mean(-1).cpu().numpy()
            for name, score in scores.items()
            if isinstance(score, ForecastScores) and score.by_step is not None
        }
        unit = "mean absolute error" if one else "mean absolute scaled error (MASE)"
        charts = self.charts(panel, windows.origins)
        drawn = {f"{split}_forecast": draw_forecasts(charts, self.quantiles, panel.freq)}
        return drawn | ({f"{split}_error_by_step": draw_errors(errors, unit)} if errors else {})

    def charts(self, panel: Panel, origins: Tensor) -> list[Forecast]:
        """What a picture has room for: the first series, or the targets of the first one."""
        series = panel.series(origins).unique().tolist()
        several = len(panel.targets) > 1
        which = [(series[0], target) for target in range(len(panel.targets))] if several else [(n, 0) for n in series]
        return [self._chart(panel, origins.numpy(), *place) for place in which[:SHOWN]]

    @torch.no_grad()
    def _chart(self, panel: Panel, origins: np.ndarray, series: int, target: int) -> Forecast:
        """What a picture shows of one series and target: its last forecasts that do not overlap, over the truth."""
        context, horizon = self.spec.seq_len, self.spec.horizon
        own = origins[panel.series(torch.from_numpy(origins)).numpy() == series]
        chosen = [own[-1]]
        for origin in own[-2::-1]:
            if chosen[-1] - origin >= horizon and len(chosen) < FORECASTS:
                chosen.append(origin)
        rows = np.array(chosen[::-1])[:, None]
        x = Windows(panel, rows[:, 0], context, horizon).window(torch.from_numpy(rows))
        values = self.forecast(x.to(self.device))[:, :, target].cpu()
        known = np.arange(rows[0, 0] - context, min(rows[-1, 0] + horizon, panel.end[series]))
        title = f"series {panel.names[series]}" if len(panel.names) > 1 else ""
        ahead = panel.times[rows + np.arange(horizon)]
        return Forecast(title, panel.targets[target], panel.times[known], panel.values[known, target], ahead, values)
