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
from rnnlab.nn.rnn import require_tied
from rnnlab.tasks.base import Task
from rnnlab.tasks.sampling import write
from rnnlab.utils.errors import require

PROMPT, SAMPLE = 64, 400  # characters of the text that is shown during training


class CharModel(Task):
    """Predicts the next character at every step; x and y are (batch, time) token indices.

    The loss is the mean cross-entropy in nats. Perplexity is its exponential, bits per character is it over ln 2.

    **Arguments:**

    - `cell`, `optim`, `spec`: see `Task`.
    - `embedding`, `tied`, `dropout`: see `SimpleRNN`.
    - `label_smoothing`: share of the target that training spreads evenly over all characters (Szegedy et al. 2016);
      scores are without it.

    **Raises:** `UserError` for a bidirectional cell, which would read the character that it is to predict.
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
        self.require_fit({"cell": cell}, {})
        super().__init__(cell, optim, spec, embedding=embedding, tied=tied, dropout=dropout)
        self.label_smoothing = label_smoothing
        self.vocabulary = Vocabulary(self.spec.vocab)

    @classmethod
    def require_fit(cls, model: dict[str, Any], data: dict[str, Any]) -> None:
        cell, embedding = model["cell"], model.get("embedding")
        require(
            not cell.get("bidirectional"),
            "cell.bidirectional=true lets model=char read the character that it is to predict: leave it false.",
        )
        if "hidden_size" in cell:
            require_tied(model.get("tied", False), embedding, cell.get("proj_size") or cell["hidden_size"])

    def loss(self, out: Tensor, y: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
        smoothing = self.label_smoothing if self.training else 0.0
        return F.cross_entropy(out.flatten(0, 1), y.flatten(), ignore_index=IGNORED, label_smoothing=smoothing,
                               reduction=reduction)  # fmt: skip

    def count(self, y: Tensor) -> Tensor:
        return (y != IGNORED).sum()

    def make_metrics(self) -> dict[str, Metric]:
        size = self.spec.output_size
        return {"accuracy": MulticlassAccuracy(size, average="micro", ignore_index=IGNORED, validate_args=False)}

    def derived(self, loss: float) -> dict[str, float]:
        return {"perplexity": math.exp(min(loss, 700.0)), "bits_per_character": loss / math.log(2)}

    def write(self, prompt: Tensor, length: int, **how: Any) -> Iterator[Tensor]:
        """Continue `prompt` (batch, time) by `length` tokens, never the unknown sign, see `sampling.write`."""
        return write(self.network, prompt, length, never=self.vocabulary.unknown, **how)

    def text(self, batch: Batch) -> str:
        """What the network makes of the first sequence of a batch.

        A piece of a text is continued: its beginning, then new characters, drawn at temperature 0.8 and always with the
        same random numbers. Of any other sequence the likeliest successor of each character: `'hell' -> 'ello'`.
        """
        x = batch.x[:1, :PROMPT].to(self.device)
        if batch.carry_state is not None:
            generator = torch.Generator(self.device).manual_seed(0)
            drawn = [token[0] for token in self.write(x, SAMPLE, temperature=0.8, generator=generator)]
            return self.vocabulary.decode([*x[0].tolist(), *torch.stack(drawn).tolist()])
        predicted = self.network(x)[0].argmax(-1)
        return f"{self.vocabulary.decode(x[0].tolist())!r} -> {self.vocabulary.decode(predicted[0].tolist())!r}"
