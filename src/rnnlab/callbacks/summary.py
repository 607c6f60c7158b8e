"""The table of layers."""

from typing import Any

import lightning.pytorch as pl
import torch
from rich.table import Table
from torch import Tensor, nn

from rnnlab.console import tell


class Summary(pl.Callback):
    """Prints every layer of the network, the shapes of a batch on its way through, and its exact parameter count."""

    @torch.no_grad()
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        x, *_ = datamodule.example(datamodule.batch_size)
        network: nn.Module = pl_module.network  # type: ignore[assignment]
        rows: dict[str, tuple[str, str]] = {}
        hooks = [
            layer.register_forward_hook(
                lambda _, args, out, name=name: rows.update({name: (_shape(args[0]), _shape(out))})
            )
            for name, layer in network.named_modules()
            if name and not list(layer.children())
        ]
        network.eval()  # dropout would use up random numbers that training then lacks
        network(x.to(pl_module.device))
        network.train()
        for hook in hooks:
            hook.remove()
        table = Table("layer", "type", "input", "output")
        table.add_column("parameters", justify="right")
        for name, shapes in rows.items():
            layer = network.get_submodule(name)
            table.add_row(name, type(layer).__name__, *shapes, f"{_count(layer):,}")
        table.add_section()
        table.add_row("total", type(network).__name__, "", "", f"{_count(network):,}")
        tell(table)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    return ", ".join(_shape(part) for part in value)
