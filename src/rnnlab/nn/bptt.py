"""The gradient's way back through time: the total derivative of the loss by every hidden state.

A hook on a cell's output sees only the direct part of that derivative, what reaches the loss without passing through
the recurrence again. The rest follows from it by the adjoint recurrence, backward in time, in which each cell has its
own Jacobian. It needs only what a fused cell gives: input, output, weights, and the direct part.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from rnnlab.nn.init import GATES
from rnnlab.nn.min_rnn import LinearRNN
from rnnlab.nn.stack import Stack, backwards

FUSED: dict[str, Callable[..., Any]] = {
    "LSTM": torch.lstm, "GRU": torch.gru, "RNN_TANH": torch.rnn_tanh, "RNN_RELU": torch.rnn_relu
}  # fmt: skip


@dataclass
class Layer:
    """One layer in one direction, as it read a batch.

    **Arguments:**

    - `name`: `layer 1`, `layer 2 backward`, ...
    - `cell`: the module that it is a part of.
    - `weights`: of this layer and direction, as `torch.nn.RNNBase.all_weights` has them.
    - `x`, `out`: (batch, time, features) and (batch, time, hidden) in the order in which it read.
    """

    name: str
    cell: Any
    weights: list[Any]
    x: Tensor
    out: Tensor

    def recurrent(self) -> dict[str, Tensor]:
        """The recurrent weights of each gate, (hidden, hidden); of a cell without gates, under an empty name."""
        if not isinstance(self.cell, nn.RNNBase):
            return {}
        gates = GATES.get(self.cell.mode, ("",))
        return dict(zip(gates, self.weights[1].detach().chunk(len(gates)), strict=True))


@dataclass
class Flow:
    """What came back to a layer through time.

    **Arguments:**

    - `hidden`: dL/dh_t, (batch, time, hidden).
    - `cell`: for LSTM dL/dc_t, the same shape: that of the cell state, and of nothing that passes by it.
    - `saturated`: the share of each gate that is below 0.1 or above 0.9 (Karpathy et al. 2015); under `units` that of
      the units whose tanh is beyond 0.9 in size, or whose ReLU is closed.
    """

    hidden: Tensor
    cell: Tensor | None = None
    saturated: dict[str, Tensor] = field(default_factory=dict)


@contextmanager
def recorded(network: nn.Module) -> Iterator[list[Layer]]:
    """Inside, every recurrent layer of the network that reads a batch is added to the list, from below.

    Fused cells then run layer by layer, from a state of zeros and without dropout. Cells that are neither torch's nor
    rnnlab's stay as they are.
    """
    layers: list[Layer] = []
    cells: list[Any] = [part for part in network.modules() if isinstance(part, nn.RNNBase | LinearRNN)]
    places = {
        cell: divmod(number, stack.directions)
        for stack in network.modules()
        if isinstance(stack, Stack)
        for number, cell in enumerate(stack.cells)
    }
    for cell in cells:
        run: Any = _run_fused if isinstance(cell, nn.RNNBase) else partial(_run_linear, cell.forward)
        cell.forward = partial(run, cell, layers, places.get(cell, (0, 0)))
    try:
        yield layers
    finally:
        for cell in cells:
            del cell.forward


def _run_fused(
    cell: nn.RNNBase, layers: list[Layer], place: tuple[int, int], x: Any, state: Any = None
) -> tuple[Any, None]:
    packed = isinstance(x, PackedSequence)
    y, lengths = pad_packed_sequence(x, batch_first=True) if packed else (x, None)
    directions = 2 if cell.bidirectional else 1
    for number in range(cell.num_layers):
        outs = []
        for direction in range(directions):
            weights = cell.all_weights[number * directions + direction]
            read = backwards(y, lengths) if direction else y
            start: Any = read.new_zeros(1, len(read), cell.hidden_size)
            if cell.mode == "LSTM":
                start = (read.new_zeros(1, len(read), cell.proj_size or cell.hidden_size), start)
            # trained, without dropout: cuDNN has no other backward pass
            out = FUSED[cell.mode](read, start, weights, cell.bias, 1, 0.0, True, False, True)[0]
            name = _name(place[0] + number, place[1] or direction)
            layers.append(Layer(name, cell, weights, read, out))
            outs.append(backwards(out, lengths) if direction else out)
        y = torch.cat(outs, -1)
    return (pack_padded_sequence(y, lengths, batch_first=True, enforce_sorted=False) if packed else y), None  # type: ignore[arg-type]


def _run_linear(
    forward: Callable[..., Any], cell: LinearRNN, layers: list[Layer], place: tuple[int, int], x: Any, state: Any = None
) -> Any:
    out, state = forward(x, state)
    layers.append(Layer(_name(*place), cell, list(cell.parameters()), x, out))
    return out, state


def _name(layer: int, direction: int) -> str:
    return f"layer {layer + 1}{' backward' * direction}"


@torch.no_grad()
def through_time(layer: Layer, direct: Tensor, lengths: list[int] | None = None) -> Flow:
    """The total derivative by every hidden state of a layer.

    **Arguments:**

    - `layer`: what `recorded` noted.
    - `direct`: dL/dout as autograd gives it, (batch, time, hidden).
    - `lengths`: of the sequences, if they are padded at their end.

    **Returns:** its `Flow`, carried back in 64 bits: over a hundred steps a gradient leaves the range of 32.
    """
    x, out, direct = (part.detach().transpose(0, 1).contiguous() for part in (layer.x, layer.out, direct))
    weights, direct = layer.weights, direct.double()
    before = torch.cat((torch.zeros_like(out[:1]), out[:-1]))
    if isinstance(layer.cell, LinearRNN):
        flow = _linear(layer.cell, x, direct)
    elif layer.cell.mode == "LSTM":
        flow = _lstm(x, before, direct, weights)
    elif layer.cell.mode == "GRU":
        flow = _gru(x, before, direct, weights)
    else:
        flow = _elman(out, direct, weights, layer.cell.mode)
    if lengths is not None:
        inside = torch.arange(len(out))[:, None] < torch.as_tensor(lengths)
        flow.saturated = {name: units[inside.to(units.device)] for name, units in flow.saturated.items()}
    flow.saturated = {name: units.double().mean() for name, units in flow.saturated.items()}
    flow.hidden = flow.hidden.transpose(0, 1)
    flow.cell = None if flow.cell is None else flow.cell.transpose(0, 1)
    return flow


def _elman(out: Tensor, direct: Tensor, weights: list[Tensor], mode: str) -> Flow:
    """d_t = e_t + W_hh^T (phi'_{t+1} * d_{t+1}), with phi' from phi itself: 1 - h^2 for tanh, [h > 0] for ReLU."""
    tanh = mode == "RNN_TANH"
    slope = (1 - out.square() if tanh else out > 0).double()
    recurrent = weights[1].double()
    total = direct.clone()
    for t in range(len(out) - 2, -1, -1):
        total[t].addmm_(total[t + 1] * slope[t + 1], recurrent)
    return Flow(total, None, {"units": _beyond(out) if tanh else out <= 0})


def _lstm(x: Tensor, before: Tensor, direct: Tensor, weights: list[Tensor]) -> Flow:
    """With c_t = f_t c_{t-1} + i_t g_t and h_t = o_t tanh(c_t):

    dL/dc_t = o_t (1 - tanh(c_t)^2) dL/dh_t + f_{t+1} dL/dc_{t+1}, and dL/dh_t = e_t + W_hh^T of what reaches the four
    gates at t + 1.
    """
    recurrent, project = weights[1].double(), weights[-1].double() if len(weights) in (3, 5) else None
    i, f, g, o = _rows(x, weights, 0).add_(_rows(before, weights, 1)).chunk(4, -1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    c = torch.empty_like(i)
    state = torch.zeros_like(i[0])
    for t in range(len(c)):
        state = torch.addcmul(i[t] * g[t], f[t], state, out=c[t])
    tanh_c = c.tanh()
    c_before = torch.cat((torch.zeros_like(c[:1]), c[:-1]))
    # of dL/dc_t, and for the output gate of dL/dh_t: (time, batch, 4, hidden)
    by_gates = torch.stack((g * i * (1 - i), c_before * f * (1 - f), i * (1 - g * g), tanh_c * o * (1 - o)), 2).double()
    leave, keep = (o * (1 - tanh_c * tanh_c)).double(), f.double()
    total, cell = direct.clone(), torch.zeros_like(leave)
    reached, hidden = torch.empty_like(by_gates[0]), total[-1]
    for t in range(len(c) - 1, -1, -1):
        if t + 1 < len(c):
            torch.mul(by_gates[t + 1, :, :3], cell[t + 1][:, None], out=reached[:, :3])
            torch.mul(by_gates[t + 1, :, 3], hidden, out=reached[:, 3])
            total[t].addmm_(reached.flatten(1), recurrent)
            torch.mul(keep[t + 1], cell[t + 1], out=cell[t])
        hidden = total[t] if project is None else total[t] @ project  # the output that the projection reads
        cell[t].addcmul_(leave[t], hidden)
    gates = {"input": _closed(i), "forget": _closed(f), "output": _closed(o)}
    return Flow(total, cell, {**gates, "units": _beyond(tanh_c)})


def _gru(x: Tensor, before: Tensor, direct: Tensor, weights: list[Tensor]) -> Flow:
    """With h_t = (1 - z) n + z h_{t-1} and n = tanh(x_n + r * h_n):

    d_t = e_t + z_{t+1} d_{t+1} + W_hh^T of what reaches the three gates at t + 1.
    """
    x_r, x_z, x_n = _rows(x, weights, 0).chunk(3, -1)
    h_r, h_z, h_n = _rows(before, weights, 1).chunk(3, -1)
    r, z = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
    n = (x_n + r * h_n).tanh()
    by_n = (1 - z) * (1 - n * n)
    by_gates = torch.stack((by_n * h_n * r * (1 - r), (before - n) * z * (1 - z), by_n * r), 2).double()
    total, keep, recurrent = direct.clone(), z.double(), weights[1].double()
    reached = torch.empty_like(by_gates[0])
    for t in range(len(z) - 2, -1, -1):
        torch.mul(by_gates[t + 1], total[t + 1][:, None], out=reached)
        total[t].addcmul_(keep[t + 1], total[t + 1]).addmm_(reached.flatten(1), recurrent)
    return Flow(total, None, {"reset": _closed(r), "update": _closed(z), "units": _beyond(n)})


def _linear(cell: LinearRNN, x: Tensor, direct: Tensor) -> Flow:
    """d_t = e_t + keep_{t+1} d_{t+1}."""
    gates = cell.activate(cell.linear(x))
    keep, total = cell.recurrence(*gates)[0].double(), direct.clone()
    for t in range(len(keep) - 2, -1, -1):
        total[t].addcmul_(keep[t + 1], total[t + 1])
    return Flow(total, None, {name: _closed(gate) for name, gate in zip(cell.gates[:-1], gates, strict=False)})


def _rows(x: Tensor, weights: list[Tensor], which: int) -> Tensor:
    """What input (0) or state (1) adds to the gates."""
    return F.linear(x, weights[which], weights[2 + which] if len(weights) > 3 else None)


def _closed(gate: Tensor) -> Tensor:
    return (gate < 0.1) | (gate > 0.9)


def _beyond(unit: Tensor) -> Tensor:
    return unit.abs() > 0.9
