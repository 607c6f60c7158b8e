"""Gradient through time: the derivative of the loss with respect to every state of a recurrent layer.

Fused cells hide the states that their recurrence reads. While `recorded`, layers therefore run step by step, with each
state a tensor of autograd's graph, in float64: over a hundred steps a gradient leaves the range of float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from rnnlab.nn.init import GATES
from rnnlab.nn.min_rnn import LinearRNN
from rnnlab.nn.stack import Stack, inside, reverse

Step = dict[str, Tensor]  # (batch, hidden) each: state `h`, for LSTM `c`, gates by name, and `units` (tanh or ReLU)


@dataclass
class Layer:
    """One recurrent layer in one direction and what it computed for a batch."""

    name: str  # `layer 1`, `layer 2 backward`, ...
    steps: list[Step]  # in the order in which the layer reads
    recurrent: dict[str, Tensor]  # recurrent weights of each gate, (hidden, hidden); without gates under an empty name
    relu: bool

    @property
    def states(self) -> list[str]:
        return [name for name in ("h", "c") if name in self.steps[0]]

    def saturation(self, lengths: list[int] | None = None) -> dict[str, Tensor]:
        """The share of saturated gates and units over a batch, by name; padding behind `lengths` does not count.

        Gates are saturated below 0.1 and above 0.9 (Karpathy et al. 2015), tanh units beyond 0.9, ReLUs at 0.
        """
        shares = {}
        for name in [name for name in self.steps[0] if name not in self.states]:
            values = torch.stack([step[name].detach() for step in self.steps], 1)
            if name != "units":
                saturated = (values < 0.1) | (values > 0.9)
            else:
                saturated = values <= 0 if self.relu else values.abs() > 0.9
            if lengths is not None:
                saturated = saturated[inside(torch.as_tensor(lengths), saturated)]
            shares[name] = saturated.double().mean()
        return shares


def gradients_through_time(loss: Tensor, layers: list[Layer]) -> list[dict[str, Tensor]]:
    """The total derivative of the loss with respect to every state of every layer.

    **Returns:** for each layer dL/dh_t as `h`, and for LSTM dL/dc_t as `c`, (batch, time, hidden) in float64.
    """
    states = [step[name] for layer in layers for name in layer.states for step in layer.steps]
    gradients = iter(torch.autograd.grad(loss, states, materialize_grads=True) if states else ())
    return [{name: torch.stack([next(gradients) for _ in layer.steps], 1) for name in layer.states} for layer in layers]


def norm_per_step(gradient: Tensor, lengths: list[int] | None = None) -> Tensor:
    """The norm over batch and units at each step, (time,), of a gradient, (batch, time, hidden).

    Sequences of several `lengths` are aligned at their ends, and a step is scaled as if all sequences had it.
    """
    squares = gradient.square().sum(2)
    if lengths is None:
        return squares.sum(0).sqrt()
    ends = torch.as_tensor(lengths)
    exists = inside(ends, gradient)
    from_end = reverse(squares[..., None], ends)[..., 0] * exists
    return (from_end.sum(0) * len(gradient) / exists.sum(0)).sqrt().flip(0)


@contextmanager
def recorded(network: nn.Module) -> Iterator[list[Layer]]:
    """Record every layer of torch's and rnnlab's cells that reads a batch within the context, from the lowest up.

    They start from a state of zeros, return no state and use no dropout. Cells of other classes run as they are.
    """
    layers: list[Layer] = []
    stacks = [part for part in network.modules() if isinstance(part, Stack) and part.bidirectional]
    backward = {cell for stack in stacks for cell in stack.cells[1::2]}
    cells: list[Any] = [part for part in network.modules() if isinstance(part, nn.RNNBase | LinearRNN)]
    for cell in cells:
        cell.forward = partial(_run, cell, layers, cell in backward)
    try:
        yield layers
    finally:
        for cell in cells:
            del cell.forward


def _run(cell: Any, layers: list[Layer], backward: bool, x: Any, state: Any = None) -> tuple[Any, None]:
    packed = isinstance(x, PackedSequence)
    padded, lengths = pad_packed_sequence(x, batch_first=True) if packed else (x, None)
    directions = 2 if getattr(cell, "bidirectional", False) else 1
    y, outs = padded.double(), []
    for index, parameters in enumerate(getattr(cell, "all_weights", [cell.parameters()])):
        reverses = index % directions == 1
        read = reverse(y, lengths) if reverses else y
        # the weights are constants: autograd follows the recurrence from the initial state
        weights = [weight.detach().double() for weight in parameters]
        count = sum("backward" not in layer.name for layer in layers)
        name = f"layer {count} backward" if backward or reverses else f"layer {count + 1}"
        if isinstance(cell, LinearRNN):
            layer = Layer(name, _linear_steps(cell, weights, read), {}, False)
        else:
            gates = GATES.get(cell.mode, ("",))
            recurrent = dict(zip(gates, weights[1].float().chunk(len(gates)), strict=True))
            layer = Layer(name, _torch_steps(cell, weights, read), recurrent, cell.mode == "RNN_RELU")
        layers.append(layer)
        out = torch.stack([step["h"] for step in layer.steps], 1)
        outs.append(reverse(out, lengths) if reverses else out)
        if len(outs) == directions:
            y, outs = torch.cat(outs, -1), []
    y = y.to(padded.dtype)
    return (pack_padded_sequence(y, lengths, batch_first=True, enforce_sorted=False) if packed else y), None  # type: ignore[arg-type]


def _linear_steps(cell: LinearRNN, weights: list[Tensor], x: Tensor) -> list[Step]:
    activations = cell.activate(F.linear(x, *weights))
    h = torch.zeros_like(activations[0][:, 0], requires_grad=True)
    steps = []
    for t, (decay, added) in enumerate(zip(*(part.unbind(1) for part in cell.recurrence(*activations)), strict=True)):
        h = decay * h + added
        gates = {name: values[:, t] for name, values in zip(cell.gates[:-1], activations, strict=False)}
        steps.append({"h": h, **gates})
    return steps


def _torch_steps(cell: nn.RNNBase, weights: list[Tensor], x: Tensor) -> list[Step]:
    """The equations of torch's documentation."""
    w_ih, w_hh, *others = weights
    b_ih, b_hh = others[:2] if cell.bias else (None, None)
    projection = others[-1] if cell.proj_size else None
    h = x.new_zeros(len(x), w_hh.shape[1], requires_grad=True)
    c = x.new_zeros(len(x), cell.hidden_size)
    steps = []
    for from_input in F.linear(x, w_ih, b_ih).unbind(1):
        from_state = F.linear(h, w_hh, b_hh)
        if cell.mode == "LSTM":
            step = _lstm_step(from_input + from_state, c, projection)
            c = step["c"]
        elif cell.mode == "GRU":
            step = _gru_step(from_input, from_state, h)
        else:
            rows = from_input + from_state
            step = {"h": rows.relu() if cell.mode == "RNN_RELU" else rows.tanh()}
            step["units"] = step["h"]
        h = step["h"]
        steps.append(step)
    return steps


def _lstm_step(rows: Tensor, c: Tensor, projection: Tensor | None) -> Step:
    i, f, g, o = rows.chunk(4, -1)
    i, f, o = i.sigmoid(), f.sigmoid(), o.sigmoid()
    c = f * c + i * g.tanh()
    tanh_c = c.tanh()
    h = o * tanh_c if projection is None else F.linear(o * tanh_c, projection)
    return {"h": h, "c": c, "input": i, "forget": f, "output": o, "units": tanh_c}


def _gru_step(from_input: Tensor, from_state: Tensor, h: Tensor) -> Step:
    (x_r, x_z, x_n), (h_r, h_z, h_n) = from_input.chunk(3, -1), from_state.chunk(3, -1)
    r, z = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
    n = (x_n + r * h_n).tanh()
    return {"h": (1 - z) * n + z * h, "reset": r, "update": z, "units": n}
