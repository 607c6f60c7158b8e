"""Layers, directions and residual blocks for recurrent cells."""

from typing import Any

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor, nn


class Stack(nn.Module):
    """Layers of cells, in one or two directions, with the interface of `torch.nn.RNN` and `batch_first=True`.

    With `residual` each layer computes y + cell(norm(y)) (pre-norm, Xiong et al. 2020), after a linear projection of
    the input to the width of the layers, and the sum is normalised.

    `cell` is the config of one layer in one direction.
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
        self.residual = residual
        width = self.directions * self.hidden_size
        self.input_proj = nn.Linear(input_size, width) if residual else nn.Identity()
        self.norms = nn.ModuleList(nn.LayerNorm(width) if residual else nn.Identity() for _ in range(num_layers))
        self.output_norm = nn.LayerNorm(width) if residual else nn.Identity()
        sizes = [width if residual or layer else input_size for layer in range(num_layers)]
        self.cells = nn.ModuleList(
            instantiate(cell, input_size=size, batch_first=True, _convert_="all")
            for size in sizes
            for _ in range(self.directions)
        )

    def forward(self, x: Tensor, state: Any = None, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
        """(batch, time, input_size) -> (batch, time, directions * hidden_size), and a tuple of each cell's state.

        Of sequences that are padded to one length, `lengths` are those to reverse for the backward direction.
        """
        initial = state or (None,) * len(self.cells)
        final = []
        y = self.input_proj(x)
        for layer, norm in enumerate(self.norms):
            normed = norm(y)
            outs = []
            for direction in range(self.directions):
                index = layer * self.directions + direction
                read = reverse(normed, lengths) if direction else normed
                out, cell_state = call_cell(self.cells[index], read, initial[index])
                outs.append(reverse(out, lengths) if direction else out)
                final.append(cell_state)
            out = torch.cat(outs, -1) if self.bidirectional else outs[0]
            if layer < len(self.norms) - 1:
                out = F.dropout(out, self.dropout, self.training)
            y = y + out if self.residual else out
        return self.output_norm(y), tuple(final)


def inside(lengths: Tensor, x: Tensor) -> Tensor:
    """Which steps of x, (batch, time, ...), come before the end of their sequence, (batch, time)."""
    return torch.arange(x.shape[1], device=x.device) < lengths.to(x.device)[:, None]


def reverse(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Reverse each sequence of x, (batch, time, features); padding stays at the end."""
    if lengths is None:
        return x.flip(1)
    time = torch.arange(x.shape[1], device=x.device)
    order = torch.where(inside(lengths, x), lengths.to(x.device)[:, None] - 1 - time, time)
    return x.gather(1, order[..., None].expand_as(x))


def call_cell(cell: nn.Module, x: Any, state: Any = None) -> Any:
    """Call a cell; torch's own cells run in float32 (or TF32) on a GPU even where autocast is on.

    Autocast runs cuDNN's recurrent kernels in float16, even for bfloat16. Without loss scaling, gradients underflow
    and overflow there: those of a bidirectional `torch.nn.RNN` were wrong by a third.
    """
    if not (isinstance(cell, nn.RNNBase) and x.is_cuda and torch.is_autocast_enabled("cuda")):
        return cell(x, state)
    with torch.autocast("cuda", enabled=False):
        return cell(x.float(), state)
