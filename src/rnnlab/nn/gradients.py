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
        """Call between the backward pass and the step, with the largest norm of all gradients together.

        A norm that overflows skips the step, too: clipping would scale every gradient to zero.
        """
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
        fused_on_gpu = gradients[0].device.type != "cpu" and optimizer.param_groups[0].get("fused")
        if fused_on_gpu and optimizer.state:  # a skipped first step would leave SGD's momentum uninitialised
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
    # a sum takes less time than a norm, and finite gradients overflow it only beyond 3e38, their squares beyond 1e19
    if tensors[0].device.type == "cpu" and not _is_sharded(tensors):
        return not math.isfinite(sum(tensor.sum(dtype=torch.float32).item() for tensor in tensors))
    return ~largest(tensors).isfinite()


def total_norm(tensors: list[Any]) -> Tensor:
    """The 2-norm of all entries of all tensors, of shards (`rnnlab.nn.sharding`) that over all ranks."""
    norm = torch.nn.utils.get_total_norm(_local(tensors))
    return torch.linalg.vector_norm(_all_gather(norm, tensors)) if _is_sharded(tensors) else norm


def largest(tensors: list[Any]) -> Tensor:
    """The largest absolute value of all entries of all tensors, NaN if one is, of shards that over all ranks."""
    local = [tensor for tensor in _local(tensors) if tensor.numel()]
    zero = torch.zeros((), dtype=tensors[0].dtype, device=tensors[0].device)
    size = torch.nn.utils.get_total_norm(local, math.inf) if local else zero
    return _all_gather(size, tensors).max() if _is_sharded(tensors) else size


def _is_sharded(tensors: list[Any]) -> bool:
    return bool(tensors) and isinstance(tensors[0], DTensor)


def _local(tensors: list[Any]) -> list[Tensor]:
    return [tensor.to_local() for tensor in tensors] if _is_sharded(tensors) else tensors


def _all_gather(value: Tensor, shards: list[DTensor]) -> Tensor:
    """The value that each rank computed from its shards, (ranks,)."""
    mesh = shards[0].device_mesh
    values = value.new_empty(mesh.size())
    torch.distributed.all_gather_single(values, value[None], group=mesh.get_group())
    return values
