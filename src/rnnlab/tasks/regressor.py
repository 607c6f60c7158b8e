"""Sequence regression."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics import MeanAbsoluteError, Metric, R2Score

from rnnlab.data.base import SequenceData
from rnnlab.tasks.base import Task

SHOWN, SCATTERED = 200, 512  # sequences in the line chart and in the scatter plot


class R2(R2Score):
    """The R2 of torchmetrics, but nan and no error for fewer than two samples."""

    def compute(self) -> Tensor:
        return super().compute() if self.total > 1 else torch.tensor(float("nan"))


class SequenceRegressor(Task):
    """Predicts `spec.output_size` values for each sequence from the last hidden state; y is (batch, values).

    The loss is the mean squared error; metrics are the mean absolute error and R2. All are on the scale of the targets.
    """

    kind = "values"
    loss_label = "mean squared error"

    def __init__(self, cell: dict[str, Any], optim: dict[str, Any], spec: dict[str, Any]):
        super().__init__(cell, optim, spec)

    def loss(self, out: Tensor, y: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
        return F.mse_loss(out, y, reduction=reduction)

    def make_metrics(self) -> dict[str, Metric]:
        return {"mae": MeanAbsoluteError(), "r2": R2()}

    def flatten(self, out: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return out, y

    def figures(self, datamodule: SequenceData, split: str) -> dict[str, Figure]:
        """Prediction and truth for the first validation sequences, as lines and against each other."""
        if split != "val":
            return {}
        batch = datamodule.example(SCATTERED)
        truth = batch.y[:, 0]
        predicted = self.network(batch.x.to(self.device))[0][:, 0].float().cpu()
        figure = Figure(figsize=(9.5, 3.8), layout="constrained")
        lines, scatter = figure.subplots(1, 2, width_ratios=(2, 1))
        lines.plot(truth[:SHOWN], color="black", linewidth=1.2, label="truth")
        lines.plot(predicted[:SHOWN], color="tab:orange", linewidth=1.2, label="prediction")
        lines.set(xlabel="sequence of the validation set", ylabel="value")
        lines.legend(loc="upper right")
        scatter.scatter(truth, predicted, s=8, alpha=0.5, color="tab:orange")
        scatter.axline((0, 0), slope=1, color="black", linewidth=0.8)
        scatter.set(xlabel="truth", ylabel="prediction", aspect="equal")
        return {"prediction": figure}
