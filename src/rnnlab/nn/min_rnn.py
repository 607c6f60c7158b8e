"""Minimal GRU and LSTM (Feng et al. 2024, "Were RNNs all we needed?"): gates that depend on the input alone.

Their recurrence is linear, so that a parallel scan computes all steps. In a single layer the state cannot influence
a gate; a second layer can, so they are used in several layers with `cell.residual=true`.
"""

import torch
from torch import Tensor, nn

from rnnlab.nn.scan import scan


class LinearRNN(nn.Module):
    """h_t = decay_t * h_{t-1} + input_t with both functions of x_t; a base class with the interface of `torch.nn.RNN`.

    The recurrence is computed in float32 or float64, whatever the dtype of x.
    """

    gates: tuple[str, ...]  # the blocks of rows of `linear`; the last is the candidate

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, batch_first: bool = True):
        super().__init__()
        self.hidden_size = hidden_size
        self.linear = nn.Linear(input_size, len(self.gates) * hidden_size, bias)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(batch, time, input_size) -> all h_t, (batch, time, hidden_size), and the last, (1, batch, hidden_size)."""
        decay, inputs = self.recurrence(*self.activate(self.linear(x.transpose(0, 1))))
        initial = torch.zeros_like(inputs[0]) if state is None else state[0].to(inputs)
        out = scan(decay, inputs, initial)
        return out.transpose(0, 1).to(x.dtype), out[-1:]

    def activate(self, rows: Tensor) -> list[Tensor]:
        """The sigmoid gates and the candidate, (..., hidden_size) each, from the output of `linear`."""
        *gates, candidate = rows.to(torch.promote_types(rows.dtype, torch.float32)).chunk(len(self.gates), -1)
        return [*map(torch.sigmoid, gates), candidate]

    def recurrence(self, *gates: Tensor) -> tuple[Tensor, Tensor]:
        """decay_t and input_t from the output of `activate`."""
        raise NotImplementedError


class MinGRU(LinearRNN):
    """h_t = (1 - z_t) * h_{t-1} + z_t * (W x_t + b) with z_t = sigmoid(W_z x_t + b_z)."""

    gates = ("update", "candidate")

    def recurrence(self, update: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return 1 - update, update * candidate


class MinLSTM(LinearRNN):
    """h_t = f'_t * h_{t-1} + i'_t * (W x_t + b) with f' = f / (f + i), i' = i / (f + i), f and i sigmoid gates."""

    gates = ("forget", "input", "candidate")

    def recurrence(self, forget: Tensor, input: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        tiny = torch.finfo(forget.dtype).tiny  # both gates may underflow to 0
        decay = (forget + tiny) / (forget + input + 2 * tiny)
        return decay, (1 - decay) * candidate
