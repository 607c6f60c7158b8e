"""Weights that the processes share (`trainer=fsdp`)."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch.optim import Optimizer

from rnnlab.nn.sharding import shard


class ShardedModule(pl.LightningModule):
    """A LightningModule with a `network` whose weights are sharded with `trainer=fsdp`, and only then."""

    network: Any

    def __init__(self) -> None:
        super().__init__()
        self.shards: list[Any] = []  # modules whose weights are gathered at once, last the whole network

    def configure_model(self) -> None:
        """Shard the weights; Lightning calls this before fit and test."""
        if self.device_mesh is not None and not self.shards:
            self.shards = shard(self.network, self.device_mesh.device_type)

    def gather(self) -> None:
        """Give each rank all weights until `scatter`, so that it can use the network without the others."""
        for module in self.shards:
            module.set_reshard_after_forward(False, recurse=False)
            module.set_reshard_after_backward(False, recurse=False)
            module.unshard()

    def scatter(self) -> None:
        """Leave each rank its share of the weights again."""
        for module in self.shards:
            module.reshard()
            # the network's own weights are needed in the backward pass, which follows at once
            module.set_reshard_after_forward(module is not self.network, recurse=False)
            module.set_reshard_after_backward(True, recurse=False)

    def adapt_optimizer(self, optimizer: Optimizer) -> None:
        """Turn off fused kernels that do not support sharded weights: all but Adam's."""
        for group in optimizer.param_groups:
            if self.shards and group.get("fused") and not isinstance(optimizer, torch.optim.Adam):
                group["fused"] = False

    def on_validation_start(self) -> None:
        self.gather()  # ranks may evaluate different numbers of batches

    def on_validation_end(self) -> None:
        self.scatter()

    on_test_start = on_validation_start
    on_test_end = on_validation_end
