"""Whether the machine has what the trainer asks for."""

import os

from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from omegaconf import DictConfig

from rnnlab.errors import UserError, require


def check_devices(trainer: DictConfig) -> None:
    """Compare a trainer's `accelerator` and `devices` with this machine.

    **Raises:** `UserError` for a GPU where there is none, and for more devices than there are.
    """
    kind, devices = trainer.accelerator, trainer.devices
    tasks = os.environ.get("SLURM_NTASKS_PER_NODE")
    require(
        tasks is None or not isinstance(devices, int) or devices in (-1, int(tasks)),
        f"trainer.devices={devices}, but Slurm has started {tasks} processes on each node: srun "
        f"--ntasks-per-node={devices}, for jobs of a sweep hydra.launcher.tasks_per_node={devices}.",
    )
    gpus = CUDAAccelerator.auto_device_count() if CUDAAccelerator.is_available() else int(MPSAccelerator.is_available())
    if kind in ("gpu", "cuda", "mps") and not gpus:
        raise UserError(f"trainer.accelerator={kind}: torch finds no GPU here. Use trainer=cpu or trainer=ddp_cpu.")
    if not isinstance(devices, int) or kind not in ("auto", "cpu", "gpu", "cuda"):
        return
    if kind == "cpu" or (kind == "auto" and not gpus):
        # two processes run anywhere, so that DDP can be tried out
        there, what = max(2, os.cpu_count() or 1), "CPU processes fit on the cores of this machine"
    else:
        there, what = gpus, "GPUs are in this machine"
    require(
        1 <= devices <= there or (devices == -1 and kind != "cpu"),
        f"trainer.devices={devices}: {there} {what}. Use 1 to {there}.",
    )
