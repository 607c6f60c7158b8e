"""Sequence classification."""

from typing import Any, Literal

import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassF1Score

from rnnlab.data.spec import IGNORED
from rnnlab.nn.rnn import SimpleRNN
from rnnlab.tasks.base import Task
from rnnlab.tasks.plots import draw_confusion


class Confusion(MulticlassConfusionMatrix):
    """Counts how often each class was taken for which, as a picture and not as a score."""

    def compute(self) -> dict[str, float]:  # type: ignore[override]
        self.counts: Tensor = super().compute().cpu()
        return {}


class SequenceClassifier(Task):
    """Gives each sequence one of `spec.output_size` labels, y is (batch,), or each step, y is (batch, time).

    The loss is the mean cross-entropy in nats; accuracy is over all labels asked for, F1 the mean over classes.

    **Arguments:**

    - `cell`, `optim`, `spec`: see `Task`.
    - `readout`: what a sequence's label is read off: the `last` hidden state, or the `mean` of all. Labels of steps are
      read off the state of each.
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
        super().__init__(cell, optim, spec, readout=readout)
        self.uneven = self.spec.every_step  # with padding

    def make_network(self, cell: dict[str, Any], readout: Literal["last", "mean"]) -> nn.Module:  # type: ignore[override]
        return SimpleRNN(cell, self.spec.input_size, self.spec.output_size, "all" if self.spec.every_step else readout)

    def loss(self, out: Tensor, y: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
        return F.cross_entropy(*self.flatten(out, y), ignore_index=IGNORED, reduction=reduction)

    def count(self, y: Tensor) -> Tensor:
        return (y != IGNORED).sum()

    def make_metrics(self) -> dict[str, Metric]:
        how: dict[str, Any] = {"ignore_index": IGNORED, "validate_args": False}
        classes = self.spec.output_size
        return {
            "accuracy": MulticlassAccuracy(classes, average="micro", **how),
            "f1": MulticlassF1Score(classes, average="macro", **how),
            "confusion": Confusion(classes, **how),
        }

    def figures(self, datamodule: Any, split: str) -> dict[str, Figure]:
        """How often each class was taken for which."""
        names = self.spec.classes or tuple(map(str, range(self.spec.output_size)))
        return {f"{split}_confusion": draw_confusion(dict(self._split(split))["confusion"].counts, names)}
