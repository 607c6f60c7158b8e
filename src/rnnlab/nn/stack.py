"""Layers and directions for cells that have none, and residual blocks for all."""

from typing import Any

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from rnnlab.nn.autocast import call


class Stack(nn.Module):
    """Cells on top of each other, and beside each other if they read in both directions.

    With `residual` a linear map brings the input to the cells' width, each layer adds to what it reads, y +
    cell(norm(y)), and the sum is normalised at the end (pre-norm, Xiong et al. 2020): the gradient has a way past each.

    **Arguments:**

    - `cell`: config of one layer that reads forward.
    - `input_size`: features a step.
    - `num_layers`, `dropout`, `bidirectional`: as in `torch.nn.RNN`.
    - `residual`: see above.
    """

    def __init__(
        self,
        cell: dict[str, Any],
        input_size: int,
        num_layers: int = 1,
        dropout: float = 0.0,
        bidirectional: bool = False,
        residual: bool = False,
    ):
        super().__init__()
        self.hidden_size = cell.get("proj_size") or cell["hidden_size"]
        self.bidirectional = bidirectional
        self.directions = 2 if bidirectional else 1
        self.dropout = dropout
        width = self.directions * self.hidden_size
        self.input_proj = nn.Linear(input_size, width) if residual else nn.Identity()
        self.norms = nn.ModuleList(nn.LayerNorm(width) if residual else nn.Identity() for _ in range(num_layers))
        self.output_norm = nn.LayerNorm(width) if residual else nn.Identity()
        self.residual = residual
        sizes = [width if residual or layer else input_size for layer in range(num_layers)]
        self.cells = nn.ModuleList(
            instantiate(cell, input_size=size, batch_first=True, _convert_="all")
            for size in sizes
            for _ in range(self.directions)
        )

    def forward(self, x: Tensor | PackedSequence, state: Any = None) -> tuple[Any, Any]:
        """(batch, time, input_size) to (batch, time, directions * hidden_size), and a tuple of the cells' states.

        A packed sequence, as `torch.nn.RNN` takes it, gives a packed one, and no state: its sequences end apart.
        """
        if isinstance(x, PackedSequence):
            padded, lengths = pad_packed_sequence(x, batch_first=True)
            out, _ = self._run(padded, None, lengths)
            return pack_padded_sequence(out, lengths, batch_first=True, enforce_sorted=False), None
        return self._run(x, state, None)

    def _run(self, x: Tensor, state: Any, lengths: Tensor | None) -> tuple[Tensor, Any]:
        before = state or (None,) * len(self.cells)
        after = []
        y = self.input_proj(x)
        for layer, norm in enumerate(self.norms):
            read = norm(y)
            outs = []
            for direction in range(self.directions):
                number = layer * self.directions + direction
                out, end = call(self.cells[number], backwards(read, lengths) if direction else read, before[number])
                outs.append(backwards(out, lengths) if direction else out)
                after.append(end)
            out = torch.cat(outs, -1) if self.bidirectional else outs[0]
            if layer < len(self.norms) - 1:
                out = F.dropout(out, self.dropout, self.training)
            y = y + out if self.residual else out
        return self.output_norm(y), tuple(after)


def backwards(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Each sequence of (batch, time, features) from its end to its beginning; padding stays at the end."""
    if lengths is None:
        return x.flip(1)
    time = torch.arange(x.shape[1], device=x.device)
    ends = lengths.to(x.device)[:, None]
    order = torch.where(time < ends, ends - 1 - time, time)
    return x.gather(1, order[..., None].expand_as(x))
