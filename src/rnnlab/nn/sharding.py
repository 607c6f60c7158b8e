"""Weights shared out over processes (FSDP2)."""

import warnings
from typing import Any

import torch
from torch import nn

from rnnlab.nn.rnn import SimpleRNN
from rnnlab.nn.stack import Stack


def shard(network: nn.Module, device_type: str) -> list[Any]:
    """Leave each process its share of every weight; all are together while they are used, cell after cell (FSDP2).

    **Returns:** the parts that come together at once: each cell, and last the network with what is in none.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # of what a cell returns nothing is changed in place
    warnings.filterwarnings("ignore", ".*returned a view tensor.*")
    for part in network.modules():
        if isinstance(part, nn.RNNBase):  # on a GPU it would move its weights to where they are not brought together
            part.flatten_parameters = lambda: None  # type: ignore[method-assign]
    cells = [part.cell for part in network.modules() if isinstance(part, SimpleRNN)]
    layers = [layer for cell in cells for layer in (cell.cells if isinstance(cell, Stack) else [cell])]
    mesh = init_device_mesh(device_type, (torch.distributed.get_world_size(),))
    return [fully_shard(part, mesh=mesh) for part in (*layers, network)]
