"""Checks that the machine has the devices of a config, and sets the precision of float32 products."""

import os

import torch
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from omegaconf import DictConfig

from rnnlab.training import processes
from rnnlab.utils.errors import require


def use_tf32(allowed: bool, precision: str | int = 32) -> None:
    """Whether GPUs may round the factors of float32 products to 10 bits; torch's default is yes in recurrent layers.

    With a mixed `precision` recurrent layers always may, see `rnnlab.nn.stack.call_cell`.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed or "mixed" in str(precision)


def check_devices(trainer: DictConfig) -> None:
    """Raise `UserError` for devices that are not there, as far as Lightning does not."""
    require(
        trainer.get("num_nodes", 1) == 1 or processes.under_external_launcher(),
        f"trainer.num_nodes={trainer.get('num_nodes')}: start the run with torchrun or srun on all machines, which "
        "sets it.",
    )
    require(
        trainer.accelerator not in ("gpu", "cuda", "mps")
        or CUDAAccelerator.is_available()
        or MPSAccelerator.is_available(),
        f"trainer.accelerator={trainer.accelerator}: torch finds no GPU here. Use trainer=cpu or trainer=ddp_cpu.",
    )
    most = max(2, os.cpu_count() or 1)  # two processes anywhere, so that DDP can be tried out
    require(
        trainer.accelerator != "cpu" or not isinstance(trainer.devices, int) or trainer.devices <= most,
        f"trainer.devices={trainer.devices}: {most} CPU processes fit on the cores of this machine.",
    )
