"""The network of direct forecasts."""

from typing import Any

from torch import Tensor, nn

from rnnlab.nn.rnn import SimpleRNN

PATCH = 12  # steps that the cell reads at once, if the context can be divided so


def divisors(number: int) -> list[int]:
    """Those of a number, from 1 to itself."""
    return [part for part in range(1, number + 1) if number % part == 0]


class WindowRNN(nn.Module):
    """Reads a window and gives all steps of the horizon at once, from the last state.

    A linear map of each target's window is added, the same for all targets: what is linear needs no recurrence, which
    learns the rest (Lai et al. 2018). Both begin at zero.

    **Arguments:**

    - `cell`: config of the recurrent cell.
    - `channels`, `targets`: features of a step, of which the first are what is forecast.
    - `context`, `horizon`: steps of the window, and of the forecast.
    - `patch`: steps of the window that make one step of the recurrence (Nie et al. 2023).
    - `outputs`: values for each step and target.
    """

    def __init__(
        self, cell: dict[str, Any], channels: int, targets: int, context: int, horizon: int, patch: int, outputs: int
    ):
        super().__init__()
        self.patches = context // patch
        self.shape = (horizon, targets, outputs)
        self.rnn = SimpleRNN(cell, patch * channels, horizon * targets * outputs)
        self.skip = nn.Linear(context, horizon * outputs, bias=False)
        nn.init.zeros_(self.skip.weight)
        nn.init.zeros_(self.rnn.head.weight)
        nn.init.zeros_(self.rnn.head.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """(batch, context, channels) -> (batch, horizon, targets, outputs), and no state: each window stands alone."""
        horizon, targets, outputs = self.shape
        x = x.to(self.skip.weight.dtype)
        out = self.rnn(x.reshape(len(x), self.patches, -1))[0].view(-1, *self.shape)
        linear = self.skip(x[..., :targets].mT).view(-1, targets, horizon, outputs)
        return out + linear.transpose(1, 2), None
