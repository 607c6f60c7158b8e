"""The table of layers."""

from typing import Any

import lightning.pytorch as pl
import torch
from rich.table import Table
from torch import Tensor, nn

from rnnlab.utils.console import tell


class Summary(pl.Callback):
    """Prints every layer of the network with the shapes of a batch that passes through, and its parameter count."""

    def on_fit_start(self, trainer: Any, task: Any) -> None:
        task.gather()
        if trainer.is_global_zero:
            example = trainer.datamodule.example(trainer.datamodule.batch_size)
            _print_layers(task.network, example.x.to(task.device))
        task.scatter()


@torch.no_grad()
def _print_layers(network: nn.Module, x: Tensor) -> None:
    rows: dict[str, list[str]] = {}

    def add_row(name: str, layer: nn.Module, *shapes: str) -> None:
        count = sum(weight.numel() for weight in layer.parameters())
        rows[name] = [name, type(layer).__name__.removeprefix("FSDP"), *shapes, f"{count:,}"]

    hooks = [
        layer.register_forward_hook(
            lambda layer, inputs, out, name=name: add_row(name, layer, _shape(inputs[0]), _shape(out))
        )
        for name, layer in network.named_modules()
        if name and not list(layer.children())
    ]
    network.eval()  # dropout would use random numbers, and training would have others than without this table
    network(x)
    network.train()
    for hook in hooks:
        hook.remove()
    add_row("total", network, "", "")
    table = Table("layer", "type", "input", "output")
    table.add_column("parameters", justify="right")
    for name, row in rows.items():
        if name == "total":
            table.add_section()
        table.add_row(*row)
    tell(table)


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else ", ".join(map(_shape, value))
