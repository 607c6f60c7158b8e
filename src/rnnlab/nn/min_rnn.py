"""Cells whose gates do not see the state, so that their recurrence is linear.

Feng et al. 2024, "Were RNNs all we needed?". One layer of them cannot tell what to do with an input by what it
remembers; a second layer can. `cell.residual=true` is how they are meant to be stacked.
"""

import torch
from torch import Tensor, nn

from rnnlab.nn.scan import scan


class LinearRNN(nn.Module):
    """What both have in common: h_t = keep_t * h_{t-1} + add_t, of which the input alone decides keep_t and add_t.

    Training, whole sequences and single steps are one path. The recurrence runs in 32 bits under bf16, too.

    **Arguments:**

    - `input_size`, `hidden_size`: features and units.
    - `bias`: whether the gates have one.
    - `batch_first`: as in `torch.nn.RNN`, but always true.
    """

    gates: tuple[str, ...]  # the rows of `linear`, hidden_size each; the last is the candidate

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, batch_first: bool = True):
        super().__init__()
        self.hidden_size = hidden_size
        self.linear = nn.Linear(input_size, len(self.gates) * hidden_size, bias)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(batch, time, input_size) and a state (1, batch, hidden_size), zeros by default, to all h_t and the last."""
        keep, add = self.recurrence(*self.activate(self.linear(x.transpose(0, 1))))
        start = torch.zeros_like(add[0]) if state is None else state[0].to(add)
        out = scan(keep, add, start)
        return out.transpose(0, 1).to(x.dtype), out[-1:]

    def activate(self, rows: Tensor) -> list[Tensor]:
        """The gates, between 0 and 1, and the candidate, each (..., hidden_size), of what `linear` gives."""
        *gates, candidate = rows.to(torch.promote_types(rows.dtype, torch.float32)).chunk(len(self.gates), -1)
        return [*map(torch.sigmoid, gates), candidate]

    def recurrence(self, *gates: Tensor) -> tuple[Tensor, Tensor]:
        """keep_t and add_t from what `activate` gives."""
        raise NotImplementedError


class MinGRU(LinearRNN):
    """h_t = (1 - z_t) * h_{t-1} + z_t * (W x_t + b) with z_t = sigmoid(W_z x_t + b_z)."""

    gates = ("update", "candidate")

    def recurrence(self, update: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return 1 - update, update * candidate


class MinLSTM(LinearRNN):
    """h_t = f'_t * h_{t-1} + i'_t * (W x_t + b), of which f' and i' are the sigmoid gates f and i over their sum."""

    gates = ("forget", "input", "candidate")

    def recurrence(self, forget: Tensor, enter: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        least = torch.finfo(forget.dtype).tiny  # both may underflow
        keep = (forget + least) / (forget + enter + 2 * least)
        return keep, (1 - keep) * candidate
