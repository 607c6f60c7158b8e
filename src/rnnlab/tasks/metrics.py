"""Mean losses and forecast metrics."""

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanLoss(Metric):
    """The mean over all predictions of all batches and ranks, given each batch's sum and its number of predictions.

    Unlike `torchmetrics.MeanMetric` it lets a loss that is not a number show, and weighs batches while it does. What
    rounding takes from the sum is kept beside it (Kahan 1965), so that the mean over a long text is exact in float32.

    **Arguments:**

    - `shape`: of the sums, if they are several.
    """

    total: Tensor
    excess: Tensor  # of the total over what was added
    count: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(shape), dist_reduce_fx="sum")
        self.add_state("excess", torch.zeros(shape), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, total: Tensor, count: int | Tensor) -> None:
        missing = total - self.excess
        more = self.total + missing
        self.excess = (more - self.total) - missing
        self.total = more
        self.count += count

    def compute(self) -> Tensor:
        return (self.total - self.excess) / self.count


class ForecastScores(MeanLoss):
    """Means over all forecasts of a part, their steps and targets.

    - `mae`, `rmse`: mean absolute error, root of the mean squared error.
    - `smape`: 200 |e| / (|y| + |forecast|), in per cent; 0 where both are 0.
    - `mase`: the absolute error in units of the seasonal-naive forecast's before that part (Hyndman & Koehler
      2006); series that repeat themselves exactly there have no such unit and are left out.
    - `mae_first_step`: the mean absolute error one step ahead.
    - `pinball`, `coverage`: the mean pinball loss of the quantiles (Koenker & Bassett 1978), and the share of truths
      from the lowest to the highest quantile.

    The point forecast is the median.

    **Arguments:**

    - `horizon`: steps of a forecast.
    - `targets`: names of what is forecast; of several, each has scores of its own, too.
    - `quantiles`: that are forecast, 0.5 among them; empty for a point forecast.
    - `suffix`: of the names.
    """

    by_step: Tensor | None = (
        None  # (2, horizon, targets): mae and mase, as `compute` found them; None if there was nothing
    )

    def __init__(self, horizon: int, targets: tuple[str, ...], quantiles: tuple[float, ...], suffix: str = ""):
        super().__init__(8, horizon, len(targets))
        self.targets = targets
        self.quantiles = quantiles
        self.suffix = suffix

    def update(self, forecast: Tensor, y: Tensor, mase_scale: Tensor) -> None:  # type: ignore[override]
        """Add a batch.

        **Arguments:**

        - `forecast`: (batch, horizon, targets, quantiles); a single last value is a point forecast.
        - `y`: (batch, horizon, targets), not a number where it is not known.
        - `mase_scale`: (batch, 1, targets) what the seasonal-naive forecast misses by before this part.
        """
        known = ~y.isnan()
        error = y - forecast[..., median(self.quantiles) if forecast.shape[-1] > 1 else 0]
        size = y.abs() + (y - error).abs()
        rows = [
            known,
            error.abs(),
            error.square(),
            torch.where(size > 0, 200 * error.abs() / size, 0.0),
            torch.where(mase_scale > 0, error.abs() / mase_scale, 0.0),
            (mase_scale > 0).expand_as(y),
        ]
        if self.quantiles:
            rows.append(pinball(forecast, y, forecast.new_tensor(self.quantiles)).mean(-1))
            rows.append((forecast.amin(-1) <= y) & (y <= forecast.amax(-1)))
        sums = torch.zeros_like(self.total)
        for number, row in enumerate(rows):
            sums[number] = row.where(known, 0).sum(0)
        super().update(sums, len(y))

    def compute(self) -> dict[str, float]:  # type: ignore[override]
        sums = self.total - self.excess  # (rows, horizon, targets)
        self.by_step = torch.stack((sums[1] / sums[0], sums[4] / sums[5])) if self.count else None
        if self.by_step is None:
            return {}
        scores = self._scores(sums, "")
        if len(self.targets) > 1:
            for number, name in enumerate(self.targets):
                scores |= self._scores(sums[..., number : number + 1], f"{name}/")
        return scores

    def _scores(self, sums: Tensor, prefix: str) -> dict[str, float]:
        known, absolute, squared, symmetric, scaled, counted, lost, covered = sums.double().sum((1, 2)).tolist()
        known = known or float("nan")
        scores = {
            "mae": absolute / known,
            "rmse": (squared / known) ** 0.5,
            "smape": symmetric / known,
            "mase": scaled / counted if counted else float("nan"),
            "mae_first_step": (sums[1, 0].sum() / sums[0, 0].sum()).item(),
        }
        if self.quantiles:
            scores["pinball"] = lost / known
        if len(self.quantiles) > 1 and not self.suffix:  # a point has no width
            scores["coverage"] = covered / known
        return {f"{prefix}{name}{self.suffix}": score for name, score in scores.items()}


def pinball(forecast: Tensor, y: Tensor, quantiles: Tensor) -> Tensor:
    """The pinball loss of forecasts (..., quantiles) of y (...) at levels (quantiles,); at 0.5 it is |e| / 2."""
    error = y[..., None] - forecast
    return torch.maximum(quantiles * error, (quantiles - 1) * error)


def median(quantiles: tuple[float, ...]) -> int:
    """The place of the median, which is the point forecast; 0 without quantiles."""
    return quantiles.index(0.5) if quantiles else 0
