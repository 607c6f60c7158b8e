"""Who started this process, and which of several it is. Imports no torch where it need not."""

import os
import threading
import time
from datetime import datetime
from functools import cache
from importlib import import_module
from typing import Any

from rnnlab.utils.errors import require


def is_child() -> bool:
    """Whether Lightning's launcher has started this process beside a first one."""
    return "LOCAL_RANK" in os.environ and "RNNLAB_PARENT" in os.environ and not _by_torchrun()


@cache
def end_with(parent: int) -> None:
    """End this process when the one that launched it is gone: who waits for a lost one may wait for long."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def join() -> None:
    """Called by a child first of all, before long imports: it ends with its parent."""
    if is_child() and (parent := os.environ.get("RNNLAB_PARENT")):
        end_with(int(parent))


def under_external_launcher() -> bool:
    """Whether torchrun or srun has started this process as one of several."""
    if _by_torchrun():
        return int(os.environ["WORLD_SIZE"]) > 1
    return "SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1


def is_global_zero() -> bool:
    """Whether this process is the one that writes, of all of its run."""
    if under_external_launcher():
        return int(os.environ["RANK" if _by_torchrun() else "SLURM_PROCID"]) == 0
    return not is_child()


def started_again() -> bool:
    """Whether torchrun or Slurm has started this job before."""
    return any(os.environ.get(f"{who}_RESTART_COUNT", "0") != "0" for who in ("TORCHELASTIC", "SLURM"))


def set_world_size(trainer: Any) -> None:
    """Under torchrun or srun, set a trainer's `devices` and `num_nodes` to the processes that there are.

    **Raises:** `UserError` in a Slurm job of several processes that srun has not started.
    """
    if _by_torchrun():
        here, all_in_all = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        trainer.devices, trainer.num_nodes = here, all_in_all // here
    elif under_external_launcher():
        trainer.num_nodes = int(os.environ["SLURM_NNODES"])
        trainer.devices = int(os.environ["SLURM_NTASKS"]) // trainer.num_nodes
        # Lightning wants the first, and takes a job of salloc's name for one without srun
        os.environ["SLURM_NTASKS_PER_NODE"] = str(trainer.devices)
        os.environ["SLURM_JOB_NAME"] = "srun"
    tasks, started = int(os.environ.get("SLURM_NTASKS", "1")), "SLURM_STEP_ID" in os.environ
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    require(
        tasks == 1 or started or interactive,
        f"Slurm has {tasks} tasks for this job, and this is the only process: begin the command with srun.",
    )


def agree_on_start() -> None:
    """Set `RNNLAB_START`, which names the folder of a run, to the same value in all processes of torchrun or srun.

    A job that is started again gets the same value again, and finds its checkpoint in its folder.
    """
    if not under_external_launcher():
        return
    if _by_torchrun():
        from torch.distributed import PrefixStore, TCPStore

        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        mine = f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
        os.environ["RNNLAB_START"] = store.compare_set("rnnlab/start", "", mine).decode()  # that of the first
        # torchrun's store outlives the processes that it starts again, and holds the addresses of those that are gone
        rendezvous: Any = import_module("torch.distributed.rendezvous")
        attempt, make_store = os.environ["TORCHELASTIC_RESTART_COUNT"], rendezvous._create_c10d_store
        rendezvous._create_c10d_store = lambda *place, **how: PrefixStore(attempt, make_store(*place, **how))
    else:
        os.environ["RNNLAB_START"] = f"slurm_{os.environ['SLURM_JOB_ID']}_{os.environ['SLURM_STEP_ID']}"


def _by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ
