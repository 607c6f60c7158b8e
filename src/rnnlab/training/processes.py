"""Which process of a run this is, and who started it. Imports torch only where it is needed."""

import os
import threading
import time
from datetime import datetime
from functools import cache
from typing import Any

from rnnlab.utils.errors import require


def is_child() -> bool:
    """Whether `training.distributed` started this process beside the first one of a run."""
    return "RNNLAB_PARENT" in os.environ


@cache
def exit_with_parent(parent: int) -> None:
    """End this process when its parent ends, even within a collective operation."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def under_external_launcher() -> bool:
    """Whether torchrun or srun started this process as one of several."""
    if under_torchrun():
        return int(os.environ["WORLD_SIZE"]) > 1
    return "SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1


def is_global_zero() -> bool:
    """Whether this is the process of a run that writes files."""
    if under_external_launcher():
        return int(os.environ["RANK" if under_torchrun() else "SLURM_PROCID"]) == 0
    return not is_child()


def is_restart() -> bool:
    """Whether torchrun or Slurm started this job before."""
    return any(os.environ.get(f"{name}_RESTART_COUNT", "0") != "0" for name in ("TORCHELASTIC", "SLURM"))


def set_world_size(trainer: Any) -> None:
    """Under torchrun or srun, set a trainer's `devices` and `num_nodes` to the number of processes."""
    if under_torchrun():
        trainer.devices = int(os.environ["LOCAL_WORLD_SIZE"])
        trainer.num_nodes = int(os.environ["WORLD_SIZE"]) // trainer.devices
    elif under_external_launcher():
        trainer.num_nodes = int(os.environ["SLURM_NNODES"])
        trainer.devices = int(os.environ["SLURM_NTASKS"]) // trainer.num_nodes
        # Lightning requires the first, and takes a job with a name of salloc's for one without srun
        os.environ["SLURM_NTASKS_PER_NODE"] = str(trainer.devices)
        os.environ["SLURM_JOB_NAME"] = "srun"
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    require(
        tasks == 1 or "SLURM_STEP_ID" in os.environ or interactive,
        f"Slurm has {tasks} tasks for this job, but only one process was started: begin the command with srun.",
    )


def share_start_time() -> None:
    """Set `RNNLAB_START`, in the name of a run's folder, to one value in all processes and restarts of a job."""
    if under_torchrun():
        now = f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
        os.environ["RNNLAB_START"] = torchrun_store().compare_set("rnnlab/start", "", now).decode()
    elif under_external_launcher():
        os.environ["RNNLAB_START"] = f"slurm_{os.environ['SLURM_JOB_ID']}_{os.environ['SLURM_STEP_ID']}"


def torchrun_store() -> Any:
    """The `torch.distributed.TCPStore` of torchrun, which outlives the processes that it restarts."""
    from torch.distributed import TCPStore

    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
