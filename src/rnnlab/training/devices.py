"""Whether the machine has what the trainer asks for, and how exactly it computes."""

import os

import torch
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from omegaconf import DictConfig

from rnnlab.config.types import shown
from rnnlab.training import processes
from rnnlab.utils.errors import UserError, require


def use_tf32(allowed: bool, precision: str | int = 32) -> None:
    """Whether GPUs may cut the factors of float32 products to 10 bits; untold, torch does so in recurrent layers.

    With a mixed `precision` these may anyway, see `rnnlab.nn.autocast`.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed or "mixed" in str(precision)


def check_devices(trainer: DictConfig) -> None:
    """Compare a trainer's `accelerator` and `devices` with this machine.

    **Raises:** `UserError` for a GPU where there is none, for more devices than there are, and for more machines if
    nothing tells where they are.
    """
    kind, devices = trainer.accelerator, trainer.devices
    tasks = os.environ.get("SLURM_NTASKS_PER_NODE")
    require(
        tasks is None or not isinstance(devices, int) or devices in (-1, int(tasks)),
        f"trainer.devices={devices}, but Slurm has started {tasks} processes on each node: srun "
        f"--ntasks-per-node={devices}, for jobs of a sweep hydra.launcher.tasks_per_node={devices}.",
    )
    require(
        trainer.get("num_nodes", 1) == 1 or processes.under_external_launcher() or "MASTER_ADDR" in os.environ,
        f"trainer.num_nodes={trainer.get('num_nodes')}, but only this machine is known: start the run by torchrun or "
        "srun on all of them, which sets it by itself.",
    )
    gpus = CUDAAccelerator.auto_device_count() if CUDAAccelerator.is_available() else int(MPSAccelerator.is_available())
    if kind in ("gpu", "cuda", "mps") and not gpus:
        raise UserError(f"trainer.accelerator={kind}: torch finds no GPU here. Use trainer=cpu or trainer=ddp_cpu.")
    on_cpu = kind == "cpu" or (kind == "auto" and not gpus)
    require(
        not on_cpu or devices == "auto" or (isinstance(devices, int) and devices > 0),
        f"trainer.devices={shown(devices)} means GPUs, and this run is on the CPU: give the number of processes.",
    )
    if not isinstance(devices, int) or kind not in ("auto", "cpu", "gpu", "cuda"):
        return
    if on_cpu:
        # two processes run anywhere, so that DDP can be tried out
        there, what = max(2, os.cpu_count() or 1), "CPU processes fit on the cores of this machine"
    else:
        there, what = gpus, "GPUs are in this machine"
    require(
        devices == -1 or 1 <= devices <= there,
        f"trainer.devices={devices}: {there} {what}. Use 1 to {there}.",
    )
