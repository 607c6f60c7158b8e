"""Mean losses and forecast metrics."""

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanLoss(Metric):
    """The mean over all predictions of all batches and ranks, summed in float64.

    Unlike in `torchmetrics.MeanMetric` with weights, a loss of nan gives a mean of nan.
    """

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, total: Tensor, count: int | Tensor) -> None:
        """Add the sum of the losses of a batch, and their number."""
        self.total = self.total.double() + total  # with trainer.precision=bf16-true Lightning has made it bfloat16
        self.count += count

    def compute(self) -> Tensor:
        return self.total / self.count


class ForecastScores(Metric):
    """Means over all forecasts, steps and targets of a split; the point forecast is the median.

    - `mae`, `rmse`, `mae_first_step`: mean absolute error, root mean squared error, mean absolute error of step 1.
    - `smape`: 200 |e| / (|y| + |forecast|), in per cent; 0 where both are 0.
    - `mase`: |e| / in-sample MAE of the seasonal-naive forecast, where that is not 0 (Hyndman & Koehler 2006).
    - `pinball`: mean pinball loss of the quantiles (Koenker & Bassett 1978).
    - `coverage`: share of targets between the lowest and the highest quantile.

    Several `targets` have metrics of their own, too. Without `quantiles` it is a point forecast. `suffix` is that of
    the metrics' names.
    """

    sums: Tensor  # (terms, horizon, targets)
    by_step: dict[str, Tensor]  # mae and mase of each step and target, (horizon, targets), by the last `compute`

    def __init__(self, horizon: int, targets: tuple[str, ...], quantiles: tuple[float, ...], suffix: str = ""):
        super().__init__()
        self.add_state("sums", torch.zeros(8, horizon, len(targets), dtype=torch.float64), dist_reduce_fx="sum")
        self.targets = targets
        self.quantiles = quantiles
        self.suffix = suffix
        self.by_step = {}

    def update(self, forecast: Tensor, y: Tensor, mase_scale: Tensor) -> None:
        """Add forecasts (batch, horizon, targets, quantiles or 1) of y, (batch, horizon, targets), nan if unknown."""
        known = ~y.isnan()
        error = y - forecast[..., median_index(self.quantiles) if forecast.shape[-1] > 1 else 0]
        size = y.abs() + (y - error).abs()
        terms = [
            known,
            error.abs(),
            error.square(),
            torch.where(size > 0, 200 * error.abs() / size, 0.0),
            torch.where(mase_scale > 0, error.abs() / mase_scale, 0.0),
            (mase_scale > 0).expand_as(y),
        ]
        if self.quantiles:
            terms.append(pinball(forecast, y, forecast.new_tensor(self.quantiles)).mean(-1))
            terms.append((forecast.amin(-1) <= y) & (y <= forecast.amax(-1)))
        self.sums = self.sums.double()  # see `MeanLoss`
        self.sums[: len(terms)] += torch.stack([term.where(known, 0).double().sum(0) for term in terms])

    def compute(self) -> dict[str, float]:
        if not self.sums.any():
            return {}
        number, absolute, _, _, scaled, scaled_number, _, _ = self.sums
        self.by_step = {"mae": absolute / number, "mase": scaled / scaled_number}
        scores = self._scores(self.sums, "")
        if len(self.targets) > 1:
            for target, name in enumerate(self.targets):
                scores |= self._scores(self.sums[..., target : target + 1], f"{name}/")
        return scores

    def _scores(self, sums: Tensor, prefix: str) -> dict[str, float]:
        number, absolute, squared, symmetric, scaled, scaled_number, pinball, covered = sums.sum((1, 2))
        scores = {
            "mae": absolute / number,
            "rmse": (squared / number).sqrt(),
            "smape": symmetric / number,
            "mase": scaled / scaled_number,
            "mae_first_step": sums[1, 0].sum() / sums[0, 0].sum(),
        }
        if self.quantiles:
            scores["pinball"] = pinball / number
        if len(self.quantiles) > 1 and not self.suffix:  # a naive forecast has no interval
            scores["coverage"] = covered / number
        return {f"{prefix}{name}{self.suffix}": score.item() for name, score in scores.items()}


def pinball(forecast: Tensor, y: Tensor, quantiles: Tensor) -> Tensor:
    """The pinball loss of forecasts (..., quantiles) of y (...) at levels (quantiles,); at 0.5 it is |e| / 2."""
    error = y[..., None] - forecast
    return torch.maximum(quantiles * error, (quantiles - 1) * error)


def median_index(quantiles: tuple[float, ...]) -> int:
    """The index of the median, which is the point forecast; 0 without quantiles."""
    return quantiles.index(0.5) if quantiles else 0
