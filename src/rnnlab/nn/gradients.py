"""What happens to a gradient before the optimizer uses it."""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from rnnlab.utils.errors import UserError

PATIENCE = 10  # steps in a row that may be left out


class NonFiniteGradientGuard:
    """Clips gradients, and leaves out and counts the steps whose gradient is infinite or not a number.

    On a GPU nothing waits for the answer if the optimizer is a fused one, which reads it there; it is looked at every
    `PATIENCE` steps. Any other optimizer has to wait.

    **Raises:** `UserError` after `PATIENCE` such steps in a row, from which no run recovers.
    """

    def __init__(self) -> None:
        self.step = 0
        self.bad: Any = False  # whether the newest step was left out; a tensor on a GPU
        self.skipped: Any = 0
        self.in_a_row: Any = 0

    def __call__(self, optimizer: Optimizer, clip: float | None) -> None:
        """To be called between backward pass and step."""
        weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
        gradients = [weight.grad for weight in weights]
        if not gradients:
            return
        if clip:
            norm = total_norm(gradients)
            torch.nn.utils.clip_grads_with_norm_(weights, clip, norm)
            bad = ~norm.isfinite()
        else:
            bad = _any_not_finite(gradients)
        fused = getattr(optimizer, "_step_supports_amp_scaling", False) and optimizer.param_groups[0].get("fused")
        on_device = bad.device.type != "cpu" and fused
        if on_device and optimizer.state:  # before the first step there is nothing that it could leave as it is
            optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
            self.bad = bad.int()
        else:
            self.bad = bool(bad)
            if self.bad:
                optimizer.zero_grad()  # without gradients it does nothing
        self.step += 1
        self.skipped += self.bad
        self.in_a_row = (self.in_a_row + 1) * self.bad
        if (not isinstance(self.bad, Tensor) or self.step % PATIENCE == 0) and self.in_a_row >= PATIENCE:
            clipping = "" if clip else " trainer.gradient_clip_val=1.0,"
            raise UserError(
                f"The gradient was infinite or not a number in {int(self.in_a_row)} steps in a row. None of them was "
                f"taken, and the checkpoints of earlier steps are intact. Try a smaller optim.lr,{clipping} shorter "
                "sequences, or a cell that does not explode: lstm, gru, mingru."
            )


def total_norm(tensors: list[Any]) -> Tensor:
    """The norm of all numbers in all tensors; of shards (`rnnlab.nn.rnn.shard`) that of the whole, on every rank."""
    norm = torch.nn.utils.get_total_norm(_local(tensors))
    return torch.linalg.vector_norm(_of_all_ranks(norm, tensors)) if _sharded(tensors) else norm


def largest(tensors: list[Any]) -> Tensor:
    """The size of the largest number in all tensors, not a number if one is; on every rank the same."""
    sizes = [tensor.abs().max() for tensor in _local(tensors) if tensor.numel()]
    size = torch.stack(sizes).max() if sizes else torch.zeros((), device=tensors[0].device)
    return _of_all_ranks(size, tensors).max() if _sharded(tensors) else size


def _any_not_finite(tensors: list[Any]) -> Tensor:
    if tensors[0].dtype == torch.bfloat16:  # which that kernel does not know on a GPU
        return ~largest(tensors).isfinite()
    found = torch.zeros((), device=tensors[0].device)
    # a single kernel, and nothing is added up that could overflow; it multiplies by the last argument
    torch._amp_foreach_non_finite_check_and_unscale_(_local(tensors), found, torch.ones_like(found))
    return (_of_all_ranks(found, tensors).max() if _sharded(tensors) else found) > 0


def _sharded(tensors: list[Any]) -> bool:
    return bool(tensors) and isinstance(tensors[0], DTensor)


def _local(tensors: list[Any]) -> list[Tensor]:
    """What this rank holds of each; it may be nothing."""
    return [tensor.to_local() for tensor in tensors] if _sharded(tensors) else tensors


def _of_all_ranks(number: Tensor, shards: list[DTensor]) -> Tensor:
    """What each rank has worked out of its shards, (ranks,)."""
    mesh = shards[0].device_mesh
    numbers = number.new_empty(mesh.size())
    torch.distributed.all_gather_single(numbers, number[None], group=mesh.get_group())
    return numbers
