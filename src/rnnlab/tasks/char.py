"""Character language models."""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from rnnlab.data.batch import Batch
from rnnlab.data.spec import IGNORED
from rnnlab.data.vocabulary import Vocabulary
from rnnlab.tasks.base import Task
from rnnlab.tasks.sampling import write
from rnnlab.utils.errors import require

PROMPT, SAMPLE = 64, 400  # characters of the text that is shown during training


class CharModel(Task):
    """Predicts the next character at every step; x and y are (batch, time) token indices.

    The loss is the mean cross-entropy in nats. Perplexity is exp(loss), bits per character is loss / ln 2.

    `label_smoothing` (Szegedy et al. 2016) is for training only.
    """

    kind = "tokens"
    readout = "all"
    loss_label = "cross-entropy (nats per character)"

    def __init__(
        self,
        cell: dict[str, Any],
        optim: dict[str, Any],
        spec: dict[str, Any],
        embedding: int | None = None,
        tied: bool = False,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
    ):
        super().__init__(cell, optim, spec, embedding=embedding, tied=tied, dropout=dropout)
        self.label_smoothing = label_smoothing
        self.vocabulary = Vocabulary(self.spec.vocab)

    @classmethod
    def require_fit(cls, model: dict[str, Any], data: dict[str, Any]) -> None:
        cell = model["cell"]
        require(
            not cell.get("bidirectional"),
            "cell.bidirectional=true lets model=char read the character that it is to predict: leave it false.",
        )
        if "hidden_size" in cell:
            width = cell.get("proj_size") or cell["hidden_size"]
            embedding = model.get("embedding")
            require(
                not model.get("tied") or embedding == width,
                f"model.tied=true shares weights between embedding and read-out: set model.embedding={width}, the "
                f"cell's width; it is {'null' if embedding is None else embedding}.",
            )

    def loss(self, out: Tensor, y: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
        out, y = self.flatten(out, y)
        smoothing = self.label_smoothing if self.training else 0.0
        return F.cross_entropy(out, y, ignore_index=IGNORED, label_smoothing=smoothing, reduction=reduction)

    def count(self, y: Tensor) -> Tensor:
        return (y != IGNORED).sum()

    def make_metrics(self) -> dict[str, Metric]:
        size = self.spec.output_size
        return {"accuracy": MulticlassAccuracy(size, average="micro", ignore_index=IGNORED, validate_args=False)}

    def derived(self, loss: float) -> dict[str, float]:
        return {"perplexity": math.exp(min(loss, 700.0)), "bits_per_character": loss / math.log(2)}

    def write(self, prompt: Tensor, length: int, **sampling: Any) -> Iterator[Tensor]:
        """Continue `prompt` (batch, time) by `length` tokens without the unknown character, see `sampling.write`."""
        return write(self.network, prompt, length, never=self.vocabulary.unknown, **sampling)

    def text(self, batch: Batch) -> str:
        """Predictions for the first sequence of a batch.

        The beginning of a text is continued by sampling at temperature 0.8 with fixed random numbers. Of any other
        sequence the most likely next characters are shown: `'hell' -> 'ello'`.
        """
        x = batch.x[:1, :PROMPT].to(self.device)
        if batch.carry_state is not None:
            generator = torch.Generator(self.device).manual_seed(0)
            sampled = [token[0] for token in self.write(x, SAMPLE, temperature=0.8, generator=generator)]
            return self.vocabulary.decode([*x[0].tolist(), *torch.stack(sampled).tolist()])
        predicted = self.network(x)[0].argmax(-1)
        return f"{self.vocabulary.decode(x[0].tolist())!r} -> {self.vocabulary.decode(predicted[0].tolist())!r}"
