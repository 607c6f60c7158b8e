"""Forecasts of series."""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.table import Table
from torch import Tensor, nn
from torchmetrics import Metric

from rnnlab.data.batch import Batch
from rnnlab.data.forecasting import ForecastData
from rnnlab.nn.rnn import SimpleRNN
from rnnlab.tasks.base import Task
from rnnlab.tasks.metrics import ForecastScores, median_index, pinball
from rnnlab.tasks.plots import draw_errors, draw_forecasts
from rnnlab.tasks.window_rnn import WindowRNN
from rnnlab.tasks.window_scaler import Norm, WindowScaler
from rnnlab.utils.errors import require

NAIVE = ("seasonal_naive", "last_value")  # forecasts to compare with
POINT_LOSSES: dict[str, Any] = {"mae": F.l1_loss, "huber": F.huber_loss, "mse": F.mse_loss}


class Forecaster(Task):
    """Forecasts the next `spec.horizon` steps of series from the last `spec.seq_len`.

    Windows are scaled, the network forecasts, the forecast is scaled back. The loss is computed on the network's
    scale, metrics on that of the data.

    **Arguments:** `cell`, `optim`, `spec`: see `Task`; others: see `conf/model/forecaster.yaml`.
    """

    kind = "series"
    uneven = True  # unknown steps are not forecast
    levels: Tensor

    def __init__(
        self,
        cell: dict[str, Any],
        optim: dict[str, Any],
        spec: dict[str, Any],
        loss: Literal["pinball", "mae", "huber", "mse"] = "pinball",
        quantiles: tuple[float, ...] = (0.1, 0.5, 0.9),
        norm: Norm = "last",
        log: bool | None = None,
        head: Literal["direct", "recursive"] = "direct",
        patch: int | None = None,
        noise: float = 0.0,
        shift: float = 0.0,
    ):
        self.objective = loss
        self.loss_label = f"{loss} loss on the network's scale"
        self.quantiles = tuple(quantiles) if loss == "pinball" else ()
        self.median = median_index(self.quantiles)
        self.recursive = head == "recursive"
        super().__init__(cell, optim, spec, patch=patch)
        self.register_buffer("levels", torch.tensor(self.quantiles), persistent=False)
        self.scaler = WindowScaler(self.spec, norm, log)
        self.noise = noise * min(1.0, math.sqrt(self.spec.seq_len / max(1, self.spec.num_windows)))
        self.shift = shift

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
                "cell.bidirectional=true shows model.head=recursive the steps to forecast: set it to false.",
            )
        elif patch is not None and context is not None:
            require(context % patch == 0, f"model.patch={patch} does not divide data.context={context}.")

    def make_network(self, cell: dict[str, Any], patch: int | None) -> nn.Module:  # type: ignore[override]
        spec, outputs = self.spec, max(1, len(self.quantiles))
        if self.recursive:
            return SimpleRNN(cell, spec.input_size, spec.input_size * outputs, "all")
        return WindowRNN(cell, spec, patch, outputs)

    def make_metrics(self) -> dict[str, Metric]:
        arguments = (self.spec.horizon, self.spec.targets, self.quantiles)
        naive = NAIVE if self.spec.season > 1 else NAIVE[1:]  # which are the same without a season
        return {"model": ForecastScores(*arguments), **{name: ForecastScores(*arguments, f"_{name}") for name in naive}}

    def loss(self, out: Tensor, y: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
        """`out` is (..., outputs); `y` is (...), nan where it is unknown, which has no loss and no gradient."""
        known = ~y.isnan()
        y = y.where(known, out[..., 0].detach())
        if self.objective == "pinball":
            losses = pinball(out, y, self.levels).mean(-1)
        else:
            losses = POINT_LOSSES[self.objective](out[..., 0], y, reduction="none")
        total = (losses * known).sum()
        return total if reduction == "sum" else total / known.sum().clamp_min(1)

    def count(self, y: Tensor) -> Tensor:
        return (~y.isnan()).sum()

    def predict(self, batch: Batch, state: Any = None) -> tuple[Tensor, Tensor, None]:
        window, scale = self.scaler(batch.x)
        y = self.scaler.scale(batch.y, scale)
        if self.training and (self.noise or self.shift):
            shift = self.shift * torch.randn_like(y[:, :1])
            y = y + shift
            window = window + self.noise * torch.randn_like(window)
            window[..., : y.shape[-1]] += shift
        if self.training and self.recursive:
            return *self._teacher_forced(window, y), None
        return self._outputs(window).to(y.dtype), y, None

    def forecast(self, x: Tensor) -> Tensor:
        """Windows (batch, context, channels) -> quantiles in rising order (batch, horizon, targets, quantiles or 1)."""
        window, scale = self.scaler(x)
        return self.scaler.unscale(self._outputs(window).to(x.dtype), scale)

    def probe_loss(self, batch: Batch) -> Tensor:
        if not self.recursive:
            return super().probe_loss(batch)
        window, scale = self.scaler(batch.x)
        return self.loss(*self._teacher_forced(window, self.scaler.scale(batch.y, scale)))

    def _outputs(self, window: Tensor) -> Tensor:
        """(batch, horizon, targets, outputs) on the network's scale; `recursive` reads its own point forecasts."""
        out, state = self.network(window)
        if not self.recursive:
            return out
        steps = [self._split_outputs(out[:, -1])]
        while len(steps) < self.spec.horizon:
            out, state = self.network.step(steps[-1][..., self.median], state)
            steps.append(self._split_outputs(out))
        return torch.stack(steps, dim=1)

    def _teacher_forced(self, window: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions of the next step at every step of the windows and their targets, and these steps."""
        steps = torch.cat((window, y), dim=1)
        out, _ = self.network(steps[:, :-1].nan_to_num())
        return self._split_outputs(out).to(y.dtype), steps[:, 1:]

    def _split_outputs(self, out: Tensor) -> Tensor:
        return out.unflatten(-1, (len(self.spec.targets), -1))

    def update_metrics(self, batch: Batch, metrics: Any) -> None:
        out, scaled_y = self.evaluate(batch)
        self.update_loss(metrics["loss"], out, scaled_y)
        if batch.baseline is None:  # debug=overfit validates on the training split
            return
        naive, last, mase_scale = batch.baseline
        forecasts = {
            "model": self.scaler.unscale(out, self.scaler(batch.x)[1]),
            "seasonal_naive": naive[..., None],
            "last_value": last.expand_as(naive)[..., None],
        }
        for name, metric in metrics.items():
            if name in forecasts:
                metric.update(forecasts[name], batch.y, mase_scale)

    def table(self, scores: dict[str, float]) -> RenderableType:
        """Metrics beside those of the naive forecasts, and a warning if the model is not better."""
        naive = [name for name in NAIVE if any(score.endswith(name) for score in scores)]
        table, warnings = Table("score", "model", *(name.replace("_", " ") for name in naive)), []
        for name in (name for name in scores if not name.endswith(NAIVE)):
            row = [scores.get(key) for key in (name, *(f"{name}_{other}" for other in naive))]
            table.add_row(name, *("" if value is None else f"{value:.6g}" for value in row))
            for other, value in zip(naive, row[1:], strict=True):
                if name.endswith("/mae") and value is not None and not scores[name] < value:
                    warnings.append(f"The model does not beat the {other.replace('_', '-')} forecast in {name}.")
        return Group(table, *warnings)

    def figures(self, datamodule: ForecastData, split: Any) -> dict[str, Figure]:  # type: ignore[override]
        """Forecasts over the true series, and the error at each step of the horizon."""
        if split not in datamodule.splits:  # debug=overfit validates without it
            return {}
        windows: Any = datamodule.splits[split]
        figures = {f"{split}_forecast": draw_forecasts(windows, self)}
        single = len(windows.panel.names) == len(windows.panel.targets) == 1
        errors = {
            name.replace("_", " "): metric.by_step["mae" if single else "mase"].mean(-1).cpu()
            for name, metric in self.metrics[split].items()
            if isinstance(metric, ForecastScores) and metric.by_step
        }
        if errors:
            unit = "mean absolute error" if single else "mean absolute scaled error (MASE)"
            figures[f"{split}_error_by_step"] = draw_errors(errors, unit)
        return figures
