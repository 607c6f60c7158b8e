"""The table of layers."""

from typing import Any

import lightning.pytorch as pl
import torch
from rich.table import Table
from torch import Tensor, nn

from rnnlab.utils.console import tell


class Summary(pl.Callback):
    """Prints every layer of the network, the shapes of a batch on its way through, and its exact parameter count."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        task: Any = pl_module
        task.gather()
        if trainer.is_global_zero:
            self._print(trainer, task)
        task.scatter()

    @torch.no_grad()
    def _print(self, trainer: pl.Trainer, task: Any) -> None:
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        x = datamodule.example(datamodule.batch_size).x
        network: nn.Module = task.network
        rows: dict[str, tuple[str, str]] = {}
        hooks = [
            layer.register_forward_hook(
                lambda _, args, out, name=name: rows.update({name: (_shape(args[0]), _shape(out))})
            )
            for name, layer in network.named_modules()
            if name and not list(layer.children())
        ]
        network.eval()  # dropout would use up random numbers that training then lacks
        network(x.to(task.device))
        network.train()
        for hook in hooks:
            hook.remove()
        table = Table("layer", "type", "input", "output")
        table.add_column("parameters", justify="right")
        for name, shapes in rows.items():
            layer = network.get_submodule(name)
            table.add_row(name, _name(layer), *shapes, f"{_count(layer):,}")
        table.add_section()
        table.add_row("total", _name(network), "", "", f"{_count(network):,}")
        tell(table)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _name(module: nn.Module) -> str:
    return type(module).__name__.removeprefix("FSDP")  # which shards put before it


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    return ", ".join(_shape(part) for part in value)
