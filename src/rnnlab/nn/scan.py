"""The linear recurrence h_t = a_t h_{t-1} + b_t."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SEQUENTIAL = ("cpu",)  # devices on which step after step is faster than all at once


def scan(keep: Tensor, add: Tensor, start: Tensor) -> Tensor:
    """h_t = keep_t * h_{t-1} + add_t with h_0 = start, exactly, forward and backward.

    On a CPU one fused multiply-add a step each way, which beats every parallel form there; elsewhere log2(time) sweeps
    over the whole sequence (Hillis & Steele 1986). Neither takes logarithms or divides, so that nothing overflows.

    **Arguments:**

    - `keep`, `add`: (time, batch, hidden), of 32 bits or more: sums over many steps need them.
    - `start`: (batch, hidden).

    **Returns:** all h_t, (time, batch, hidden).
    """
    return Scan.apply(keep, add, start)


class Scan(torch.autograd.Function):
    """See `scan`. With G_t the gradient of all that follows from h_t: G_t = dL/dh_t + keep_{t+1} G_{t+1}."""

    @staticmethod
    def forward(ctx: Any, keep: Tensor, add: Tensor, start: Tensor) -> Tensor:
        if add.device.type in SEQUENTIAL:
            out = torch.empty_like(add)
            step_by_step(keep.unbind(), add.unbind(), out.unbind(), start)
        else:
            out = all_at_once(keep, torch.cat((torch.addcmul(add[:1], keep[:1], start), add[1:])))
        ctx.save_for_backward(keep, out, start)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, direct: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keep, out, start = ctx.saved_tensors
        if direct.device.type in SEQUENTIAL:
            total = torch.empty_like(direct)
            total[-1] = direct[-1]
            keeps, adds, outs = (part.unbind()[::-1] for part in (keep[1:], direct[:-1], total[:-1]))
            step_by_step(keeps, adds, outs, total[-1])
        else:
            total = all_at_once(torch.cat((keep[:1], keep[1:].flip(0))), direct.flip(0)).flip(0)
        return total * torch.cat((start[None], out[:-1])), total, keep[0] * total[0]


def step_by_step(keep: Sequence[Tensor], add: Sequence[Tensor], out: Sequence[Tensor], state: Tensor) -> None:
    """Fill `out`, step after step."""
    for factor, term, result in zip(keep, add, out, strict=True):
        state = torch.addcmul(term, factor, state, out=result)


def all_at_once(keep: Tensor, add: Tensor) -> Tensor:
    """All steps at once from a start at zero: each sweep joins twice as many steps as the one before."""
    reach = 1
    while reach < len(keep):
        add = torch.cat((add[:reach], torch.addcmul(add[reach:], keep[reach:], add[:-reach])))
        keep = torch.cat((keep[:reach], keep[reach:] * keep[:-reach]))
        reach *= 2
    return add
