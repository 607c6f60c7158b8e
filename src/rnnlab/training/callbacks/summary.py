"""The table of layers."""

from typing import Any

import lightning.pytorch as pl
import torch
from rich.table import Table
from torch import Tensor, nn

from rnnlab.utils.console import tell


class Summary(pl.Callback):
    """Prints every layer of the network with the shapes of a batch that passes through, and its parameter count."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        task: Any = pl_module
        task.gather()
        if trainer.is_global_zero:
            self._print(trainer, task)
        task.scatter()

    @torch.no_grad()
    def _print(self, trainer: pl.Trainer, task: Any) -> None:
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        network: nn.Module = task.network
        table = Table("layer", "type", "input", "output")
        table.add_column("parameters", justify="right")

        def add_row(name: str, layer: nn.Module, *shapes: str) -> None:
            count = sum(weight.numel() for weight in layer.parameters())
            table.add_row(name, type(layer).__name__.removeprefix("FSDP"), *shapes, f"{count:,}")

        hooks = [
            layer.register_forward_hook(
                lambda layer, inputs, out, name=name: add_row(name, layer, _shape(inputs[0]), _shape(out))
            )
            for name, layer in network.named_modules()
            if name and not list(layer.children())
        ]
        network.eval()  # dropout would use random numbers, and training would have others than without this table
        network(datamodule.example(datamodule.batch_size).x.to(task.device))
        network.train()
        for hook in hooks:
            hook.remove()
        table.add_section()
        add_row("total", network, "", "")
        tell(table)


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else ", ".join(map(_shape, value))
