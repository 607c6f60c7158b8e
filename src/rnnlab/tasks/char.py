"""Character language models."""

import math

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from rnnlab.errors import UserError
from rnnlab.tasks.base import Batch, Task


class CharModel(Task):
    """Predicts the next character at every step; x and y are (batch, time) token indices.

    The loss is the mean cross-entropy in nats. Perplexity is its exponential, bits per character is it over ln 2.

    **Raises:** `UserError` for a bidirectional cell, which would read the character that it is to predict.
    """

    kind = "tokens"
    readout = "all"
    loss_label = "cross-entropy (nats per character)"

    def __init__(self, cell: dict, optim: dict, spec: dict):
        if cell.get("bidirectional"):
            raise UserError(
                "cell.bidirectional=true lets model=char read the character that it is to predict: leave it false."
            )
        super().__init__(cell, optim, spec)

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(out.flatten(0, 1), y.flatten())

    def make_metrics(self) -> dict[str, Metric]:
        return {"accuracy": MulticlassAccuracy(self.spec.output_size, average="micro", validate_args=False)}

    def derived(self, loss: float) -> dict[str, float]:
        return {"perplexity": math.exp(min(loss, 700.0)), "bits_per_character": loss / math.log(2)}

    def text(self, batch: Batch, longest: int = 60) -> str:
        """`'hell' -> 'ello'`: the first sequence, cut to `longest`, and the likeliest successor of each character."""
        x = batch[0][:1, :longest].to(self.device)
        predicted = self.network(x)[0].argmax(-1)
        return f"{self._decode(x[0])!r} -> {self._decode(predicted[0])!r}"

    def _decode(self, tokens: Tensor) -> str:
        return "".join(self.spec.vocab[token] for token in tokens.tolist())
