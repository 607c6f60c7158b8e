"""Linear recurrence h_t = a_t h_{t-1} + b_t."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SEQUENTIAL = ("cpu",)  # devices on which a loop over time is faster than a parallel scan


def scan(decay: Tensor, inputs: Tensor, initial: Tensor) -> Tensor:
    """All h_t = decay_t * h_{t-1} + inputs_t with h_0 = initial, (time, batch, hidden).

    A loop over time on a CPU, elsewhere a parallel scan in log2(time) passes (Hillis & Steele 1986). Neither divides
    or takes logarithms, so that nothing overflows.
    """
    return Scan.apply(decay, inputs, initial)


class Scan(torch.autograd.Function):
    """Autograd function of `scan`: the gradient is the scan G_t = dL/dh_t + decay_{t+1} G_{t+1} backward in time."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, inputs: Tensor, initial: Tensor) -> Tensor:
        if inputs.device.type in SEQUENTIAL:
            out = torch.empty_like(inputs)
            sequential_scan(decay.unbind(), inputs.unbind(), initial, out.unbind())
        else:
            first = torch.addcmul(inputs[:1], decay[:1], initial)
            out = parallel_scan(decay, torch.cat((first, inputs[1:])))
        ctx.save_for_backward(decay, out, initial)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, direct: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decay, out, initial = ctx.saved_tensors
        if direct.device.type in SEQUENTIAL:
            total = torch.empty_like(direct)
            total[-1] = direct[-1]
            decays, inputs, outs = (part.unbind()[::-1] for part in (decay[1:], direct[:-1], total[:-1]))
            sequential_scan(decays, inputs, total[-1], outs)
        else:
            total = parallel_scan(torch.cat((decay[:1], decay[1:].flip(0))), direct.flip(0)).flip(0)
        return total * torch.cat((initial[None], out[:-1])), total, decay[0] * total[0]


def sequential_scan(decays: Sequence[Tensor], inputs: Sequence[Tensor], state: Tensor, outs: Sequence[Tensor]) -> None:
    """Write the state after each step to `outs`."""
    for decay, added, out in zip(decays, inputs, outs, strict=True):
        state = torch.addcmul(added, decay, state, out=out)


def parallel_scan(decay: Tensor, inputs: Tensor) -> Tensor:
    """All states from an initial state of zeros; each pass combines twice as many steps as the one before."""
    distance = 1
    while distance < len(decay):
        combined = torch.addcmul(inputs[distance:], decay[distance:], inputs[:-distance])
        inputs = torch.cat((inputs[:distance], combined))
        decay = torch.cat((decay[:distance], decay[distance:] * decay[:-distance]))
        distance *= 2
    return inputs
