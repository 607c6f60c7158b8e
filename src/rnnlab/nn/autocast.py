"""Recurrent cells under automatic mixed precision."""

from typing import Any

import torch
from torch import nn


def call_cell(cell: nn.Module, x: Any, state: Any = None) -> Any:
    """Call a cell; torch's own cells run in float32 (or TF32) on a GPU even where autocast is on.

    Autocast runs cuDNN's recurrent kernels in float16, even for bfloat16. Without loss scaling, gradients underflow
    and overflow there: those of a bidirectional `torch.nn.RNN` were wrong by a third.
    """
    if not (isinstance(cell, nn.RNNBase) and x.is_cuda and torch.is_autocast_enabled("cuda")):
        return cell(x, state)
    with torch.autocast("cuda", enabled=False):
        return cell(x.float(), state)
