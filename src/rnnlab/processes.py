"""Who started this process, and which of several it is. Imports no torch where it need not."""

import os
import time
from typing import Any


def is_child() -> bool:
    """Whether Lightning's launcher has started this process beside a first one."""
    return "LOCAL_RANK" in os.environ and not _by_torchrun()


def by_others() -> bool:
    """Whether torchrun or srun has started this process as one of several."""
    if _by_torchrun():
        return int(os.environ["WORLD_SIZE"]) > 1
    return "SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1


def is_first() -> bool:
    """Whether this process is the one that writes, of all of its run."""
    if by_others():
        return int(os.environ["RANK" if _by_torchrun() else "SLURM_PROCID"]) == 0
    return not is_child()


def started_again() -> bool:
    """Whether torchrun or Slurm has started this job before."""
    return any(os.environ.get(f"{who}_RESTART_COUNT", "0") != "0" for who in ("TORCHELASTIC", "SLURM"))


def settle(trainer: Any) -> None:
    """Under torchrun, set a trainer's `devices` and `num_nodes` to the processes that it has started."""
    if _by_torchrun():
        on_this_machine, all_in_all = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        trainer.devices, trainer.num_nodes = on_this_machine, all_in_all // on_this_machine


def agree_on_start() -> None:
    """Set `RNNLAB_START`, which names the folder of a run, to the same value in all processes of torchrun or srun.

    A job that is started again gets the same value again, and finds its checkpoint in its folder.
    """
    if not by_others():
        return
    if _by_torchrun():
        from torch.distributed import TCPStore

        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        mine = time.strftime("%Y-%m-%d_%H-%M-%S")
        os.environ["RNNLAB_START"] = store.compare_set("rnnlab/start", "", mine).decode()  # that of the first
    else:
        os.environ["RNNLAB_START"] = f"slurm_{os.environ['SLURM_JOB_ID']}_{os.environ['SLURM_STEP_ID']}"


def _by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ
