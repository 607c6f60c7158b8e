"""The one network: a recurrent cell and a linear read-out."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor, nn


class SimpleRNN(nn.Module):
    """Runs a cell over a sequence and reads its hidden states out, at the last step or at all.

        >>> net = SimpleRNN({"_target_": "torch.nn.RNN", "hidden_size": 8}, input_size=5, output_size=2)
        >>> out, state = net(torch.randn(3, 7, 5))
        >>> out.shape, state.shape
        (torch.Size([3, 2]), torch.Size([1, 3, 8]))

    **Arguments:**

    - `cell`: the config of anything that speaks `torch.nn.RNN`'s interface with `batch_first=True`.
    - `input_size`: features a step, or the number of tokens.
    - `output_size`: size of each prediction.
    - `readout`: `"last"` predicts once, after the last step; `"all"` predicts at every step.
    """

    def __init__(
        self, cell: dict[str, Any], input_size: int, output_size: int, readout: Literal["last", "all"] = "last"
    ):
        super().__init__()
        self.input_size = input_size
        self.readout = readout
        self.cell = instantiate(cell, input_size=input_size, batch_first=True, _convert_="all")
        self.bidirectional = getattr(self.cell, "bidirectional", False)
        width = getattr(self.cell, "proj_size", 0) or self.cell.hidden_size
        self.head = nn.Linear(2 * width if self.bidirectional else width, output_size)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Predict from `x`, starting at `state`.

        **Arguments:**

        - `x`: (batch, time, input_size) features, or (batch, time) integer tokens, which are read as one-hot vectors.
        - `state`: what an earlier call returned, to go on from there; `None` starts from zeros on the device of `x`.

        **Returns:**

        Predictions, (batch, output_size) for `"last"` and (batch, time, output_size) for `"all"`, and the new state:
        (num_layers, batch, hidden_size) for RNN and GRU, a pair of these for LSTM.
        """
        if not x.is_floating_point():
            x = F.one_hot(x, self.input_size)
        out, state = self.cell(x.to(self.head.weight.dtype), state)
        if self.readout == "last":
            out = self._last(out)
        return self.head(out), state

    def _last(self, out: Tensor) -> Tensor:
        if not self.bidirectional:
            return out[:, -1]
        # the backward direction has read everything when it arrives at the first step
        forward, backward = out.chunk(2, dim=-1)
        return torch.cat((forward[:, -1], backward[:, 0]), dim=-1)
