"""Builds the optimizer and the learning-rate schedule of a task."""

import inspect
from typing import Any

import lightning.pytorch as pl
from hydra.utils import instantiate
from torch.optim import Optimizer

from rnnlab.utils.errors import require


def require_clipping(optimizer: Optimizer, trainer: pl.Trainer) -> None:
    """Raise `UserError` for gradient clipping that Lightning does not do."""
    require(
        trainer.precision != "16-mixed"
        or not trainer.gradient_clip_val
        or not getattr(optimizer, "_step_supports_amp_scaling", False),
        "trainer.gradient_clip_val: with trainer.precision=16-mixed Lightning clips for no fused optimizer. Set "
        "optim.optimizer.fused=false, or trainer.precision=bf16-mixed.",
    )


def make_schedule(optim: dict[str, Any], optimizer: Optimizer, trainer: pl.Trainer) -> dict[str, Any]:
    """What Lightning expects of a scheduler, which gets its number of steps if it has an argument `total_steps`."""
    partial = instantiate(optim["scheduler"], _convert_="all")
    arguments = {}
    if "total_steps" in inspect.signature(partial).parameters:
        by_epoch = optim["interval"] == "epoch"
        total_steps: Any = trainer.max_epochs if by_epoch else trainer.estimated_stepping_batches
        arguments["total_steps"] = int(total_steps)
    return {"scheduler": partial(optimizer, **arguments), "interval": optim["interval"], "monitor": "val/loss"}
