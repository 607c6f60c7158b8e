"""Weights sharded over processes (FSDP2)."""

import warnings
from typing import Any

import torch
from torch import nn

from rnnlab.nn.rnn import SimpleRNN
from rnnlab.nn.stack import Stack


def shard(network: nn.Module, device_type: str) -> list[Any]:
    """Shard every weight over all processes; those of one cell are gathered together when it is used.

    **Returns:** the modules that are gathered together: each cell, and the network with the remaining weights.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # outputs of a cell are not changed in place
    warnings.filterwarnings("ignore", ".*returned a view tensor.*")
    for part in network.modules():
        if isinstance(part, nn.RNNBase):  # on a GPU it would copy its weights away from where FSDP gathers them
            part.flatten_parameters = lambda: None  # type: ignore[method-assign]
    cells = [part.cell for part in network.modules() if isinstance(part, SimpleRNN)]
    layers = [layer for cell in cells for layer in (cell.cells if isinstance(cell, Stack) else [cell])]
    mesh = init_device_mesh(device_type, (torch.distributed.get_world_size(),))
    return [fully_shard(part, mesh=mesh) for part in (*layers, network)]
