"""Sequence classification."""

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from rnnlab.tasks.base import Task


class SequenceClassifier(Task):
    """Gives each sequence one of `spec.output_size` labels, read off the last step; y is (batch,) class indices.

    The loss is the mean cross-entropy in nats; accuracy is over all sequences, F1 the mean over classes.
    """

    kind = "labels"
    loss_label = "cross-entropy (nats)"

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(out, y)

    def make_metrics(self) -> dict[str, Metric]:
        classes = self.spec.output_size
        return {
            "accuracy": MulticlassAccuracy(classes, average="micro", validate_args=False),
            "f1": MulticlassF1Score(classes, average="macro", validate_args=False),
        }
