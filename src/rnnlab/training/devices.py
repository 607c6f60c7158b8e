"""Checks that the machine has the devices of a config, and sets the precision of float32 products."""

import os

import torch
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from omegaconf import DictConfig

from rnnlab.config.types import shown
from rnnlab.training import processes
from rnnlab.utils.errors import require


def use_tf32(allowed: bool, precision: str | int = 32) -> None:
    """Whether GPUs may round the factors of float32 products to 10 bits; torch's default is yes in recurrent layers.

    With a mixed `precision` recurrent layers always may, see `rnnlab.nn.autocast`.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed or "mixed" in str(precision)


def check_devices(trainer: DictConfig) -> None:
    """Compare a trainer's `accelerator` and `devices` with this machine.

    **Raises:** `UserError` for devices that are not there, and for several machines without torchrun or srun.
    """
    kind, devices = trainer.accelerator, trainer.devices
    tasks = os.environ.get("SLURM_NTASKS_PER_NODE")
    require(
        tasks is None or not isinstance(devices, int) or devices in (-1, int(tasks)),
        f"trainer.devices={devices}, but Slurm has started {tasks} processes on each node: srun "
        f"--ntasks-per-node={devices}, for jobs of a sweep hydra.launcher.tasks_per_node={devices}.",
    )
    require(
        trainer.get("num_nodes", 1) == 1 or processes.under_external_launcher(),
        f"trainer.num_nodes={trainer.get('num_nodes')}: start the run with torchrun or srun on all machines, which "
        "sets it.",
    )
    gpus = CUDAAccelerator.auto_device_count() if CUDAAccelerator.is_available() else int(MPSAccelerator.is_available())
    require(
        kind not in ("gpu", "cuda", "mps") or gpus > 0,
        f"trainer.accelerator={kind}: torch finds no GPU here. Use trainer=cpu or trainer=ddp_cpu.",
    )
    on_cpu = kind == "cpu" or (kind == "auto" and not gpus)
    require(
        not on_cpu or devices == "auto" or (isinstance(devices, int) and devices > 0),
        f"trainer.devices={shown(devices)} selects GPUs, but this run is on the CPU: give the number of processes.",
    )
    if not isinstance(devices, int) or kind not in ("auto", "cpu", "gpu", "cuda"):
        return
    most, unit = gpus, "GPUs are in this machine"
    if on_cpu:
        # two processes anywhere, so that DDP can be tried out
        most, unit = max(2, os.cpu_count() or 1), "CPU processes fit on the cores of this machine"
    require(
        devices == -1 or 1 <= devices <= most,
        f"trainer.devices={devices}: {most} {unit}. Use 1 to {most}.",
    )
