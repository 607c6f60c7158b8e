"""What happens to a gradient before the optimizer uses it."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rnnlab.errors import UserError

PATIENCE = 10  # steps in a row that may be left out


class Guard:
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
            norm = torch.nn.utils.get_total_norm(gradients)
            torch.nn.utils.clip_grads_with_norm_(weights, clip, norm)
            bad = ~norm.isfinite()
        else:
            bad = _any_not_finite(gradients)
        on_device = bad.device.type != "cpu" and getattr(optimizer, "_step_supports_amp_scaling", False)
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


def _any_not_finite(tensors: list[Any]) -> Tensor:
    found = torch.zeros((), device=tensors[0].device)
    # a single kernel, and nothing is added up that could overflow; it multiplies by the last argument
    torch._amp_foreach_non_finite_check_and_unscale_(tensors, found, torch.ones_like(found))
    return found > 0
