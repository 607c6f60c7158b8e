"""Torch's own cells where autocast is on."""

from typing import Any

import torch
from torch import nn


def call(cell: nn.Module, x: Any, state: Any = None) -> Any:
    """`cell(x, state)`, but what cuDNN computes in 32 bits where autocast is on, too.

    Autocast would have it computed in float16, even where bfloat16 is asked for. Gradients leave that range at both
    ends, as nothing scales them, and those of a bidirectional `torch.nn.RNN` were wrong by a third. TF32, which mixed
    precision allows there (`rnnlab.training.devices.use_tf32`), is for tensor cores, too: float32's range, and more
    bits than bfloat16 has.
    """
    if not (isinstance(cell, nn.RNNBase) and x.is_cuda and torch.is_autocast_enabled("cuda")):
        return cell(x, state)
    with torch.autocast("cuda", enabled=False):
        return cell(x.float(), state)
