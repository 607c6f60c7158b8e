"""Learning rate schedules that torch lacks."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(optimizer: Optimizer, total_steps: int, warmup: float = 0.05, final: float = 0.02) -> LambdaLR:
    """A learning rate that rises linearly, then falls along half a cosine (Loshchilov & Hutter 2017, one cycle).

    The peak is the optimizer's learning rate.
    """
    rising = max(1, round(warmup * total_steps))
    falling = max(1, total_steps - rising)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        done = min(1.0, (step - rising) / falling)
        return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2

    return LambdaLR(optimizer, factor)
