"""Sequence classification."""

from typing import Any, Literal

import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassF1Score

from rnnlab.data.spec import IGNORED
from rnnlab.tasks.base import Task
from rnnlab.tasks.plots import draw_confusion


class Confusion(MulticlassConfusionMatrix):
    """The confusion matrix, kept in `counts` for a figure; it has no scores."""

    def compute(self) -> dict[str, float]:  # type: ignore[override]
        self.counts: Tensor = super().compute().cpu()
        return {}


class SequenceClassifier(Task):
    """Predicts a class for each sequence, y is (batch,), or for each step, y is (batch, time).

    The loss is the mean cross-entropy in nats. Accuracy is over all targets, F1 is the mean over classes.
    """

    kind = "labels"
    loss_label = "cross-entropy (nats)"

    def __init__(
        self,
        cell: dict[str, Any],
        optim: dict[str, Any],
        spec: dict[str, Any],
        readout: Literal["last", "mean"] = "last",
    ):
        self.readout = "all" if spec.get("every_step") else readout
        super().__init__(cell, optim, spec)
        self.uneven = self.spec.every_step  # with padding

    def loss(self, out: Tensor, y: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
        return F.cross_entropy(*self.flatten(out, y), ignore_index=IGNORED, reduction=reduction)

    def count(self, y: Tensor) -> Tensor:
        return (y != IGNORED).sum()

    def make_metrics(self) -> dict[str, Metric]:
        options: dict[str, Any] = {"ignore_index": IGNORED, "validate_args": False}
        classes = self.spec.output_size
        return {
            "accuracy": MulticlassAccuracy(classes, average="micro", **options),
            "f1": MulticlassF1Score(classes, average="macro", **options),
            "confusion": Confusion(classes, **options),
        }

    def figures(self, datamodule: Any, split: str) -> dict[str, Figure]:
        """The confusion matrix."""
        names = self.spec.classes or tuple(map(str, range(self.spec.output_size)))
        return {f"{split}_confusion": draw_confusion(self.metrics[split]["confusion"].counts, names)}
