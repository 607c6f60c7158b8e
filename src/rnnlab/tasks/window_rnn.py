"""The network of direct forecasts."""

from typing import Any

from torch import Tensor, nn

from rnnlab.data.spec import SequenceSpec
from rnnlab.nn.rnn import SimpleRNN

MAX_PATCH = 12  # steps


class WindowRNN(nn.Module):
    """Reads a window in patches and forecasts all steps of the horizon at once, from the last hidden state.

    A linear map of each target's window, the same for all targets, is added (Lai et al. 2018). It and the read-out
    start at zero.

    **Arguments:**

    - `patch`: steps that the cell reads at once (Nie et al. 2023); `None`: the largest divisor of the context up to 12.
    - `outputs`: values for each step and target.
    """

    def __init__(self, cell: dict[str, Any], spec: SequenceSpec, patch: int | None, outputs: int):
        super().__init__()
        context, horizon, targets = spec.seq_len, spec.horizon, len(spec.targets)
        patch = patch or max(size for size in range(1, MAX_PATCH + 1) if context % size == 0)
        self.patches = context // patch
        self.shape = (horizon, targets, outputs)
        self.rnn = SimpleRNN(cell, patch * spec.input_size, horizon * targets * outputs)
        self.skip = nn.Linear(context, horizon * outputs, bias=False)
        nn.init.zeros_(self.skip.weight)
        nn.init.zeros_(self.rnn.head.weight)
        nn.init.zeros_(self.rnn.head.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """(batch, context, channels) -> (batch, horizon, targets, outputs), and no state."""
        horizon, targets, outputs = self.shape
        x = x.to(self.skip.weight.dtype)
        out = self.rnn(x.reshape(len(x), self.patches, -1))[0].view(-1, *self.shape)
        linear = self.skip(x[..., :targets].mT).view(-1, targets, horizon, outputs)
        return out + linear.transpose(1, 2), None
