"""Clips gradients and skips steps whose gradient is not finite."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from rnnlab.utils.errors import UserError

MAX_CONSECUTIVE_SKIPS = 10


class NonFiniteGradientGuard:
    """Clips gradients; skips and counts the steps whose gradient has an infinite or NaN entry.

    A fused optimizer on a GPU skips the step by itself, so that the CPU need not wait for the GPU at each step.

    **Raises:** `UserError` after `MAX_CONSECUTIVE_SKIPS` skipped steps in a row.
    """

    def __init__(self) -> None:
        self.step = 0
        self.bad: Any = False  # whether the latest step was skipped; a tensor on a GPU
        self.skipped: Any = 0
        self.consecutive: Any = 0

    def __call__(self, optimizer: Optimizer, clip: float | None) -> None:
        """Call between the backward pass and the step; a norm that overflows skips the step, too."""
        weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
        gradients = [weight.grad for weight in weights]
        if not gradients:
            return
        if clip:
            norm = total_norm(gradients)
            torch.nn.utils.clip_grads_with_norm_(weights, clip, norm)
            bad: Any = ~norm.isfinite()
        else:
            bad = any_non_finite(gradients)
        on_gpu = isinstance(bad, Tensor) and not bad.is_cpu
        # a skipped first step would leave SGD's momentum uninitialised
        if on_gpu and optimizer.param_groups[0].get("fused") and optimizer.state:
            optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
            self.bad = bad.int()
        else:
            self.bad = bool(bad)
            if self.bad:
                optimizer.zero_grad()  # parameters without a gradient are not updated
        self.step += 1
        self.skipped += self.bad
        self.consecutive = (self.consecutive + 1) * self.bad
        is_known = not isinstance(self.bad, Tensor) or self.step % MAX_CONSECUTIVE_SKIPS == 0
        if is_known and self.consecutive >= MAX_CONSECUTIVE_SKIPS:
            clipping = "" if clip else " trainer.gradient_clip_val=1.0,"
            raise UserError(
                f"{int(self.consecutive)} consecutive steps had a non-finite gradient and were skipped; the "
                f"checkpoints of earlier steps are intact. Try a smaller optim.lr,{clipping} shorter sequences, or a "
                "cell whose gradient does not explode: lstm, gru, mingru."
            )


def any_non_finite(tensors: list[Any]) -> bool | Tensor:
    """Whether an entry of the tensors is infinite or NaN: a bool on a CPU, a tensor on a GPU or of shards."""
    if tensors[0].is_cpu and not isinstance(tensors[0], DTensor):
        # faster than a norm; finite gradients overflow a sum beyond 3e38, a sum of squares beyond 1e19
        return not math.isfinite(sum(tensor.sum(dtype=torch.float32).item() for tensor in tensors))
    return ~total_norm(tensors, math.inf).isfinite()


def total_norm(tensors: list[Any], order: float = 2.0) -> Tensor:
    """The norm of all entries of the tensors; of shards (`rnnlab.nn.sharding`) that over all ranks."""
    if not tensors or not isinstance(tensors[0], DTensor):
        return torch.nn.utils.get_total_norm(tensors, order)
    first, mesh = tensors[0].to_local(), tensors[0].device_mesh
    # a rank may hold nothing of a tensor
    local = [tensor.to_local() for tensor in tensors if tensor.to_local().numel()] or [first.new_zeros(1)]
    norm = torch.nn.utils.get_total_norm(local, order)
    norms = norm.new_empty(mesh.size())
    torch.distributed.all_gather_single(norms, norm[None], group=mesh.get_group())
    return torch.linalg.vector_norm(norms, order)
