"""Random numbers that continue where a checkpoint left them."""

import random
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
import torch.distributed as dist


class RandomNumbers(pl.Callback):
    """Keeps the state of torch's, numpy's and Python's generators in checkpoints, for each rank.

    It has to be the first of a trainer's callbacks: the states are restored at the first batch, after everything is
    built that uses random numbers.
    """

    state_key = "random_state"  # survives a new name of the class

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] | None = None  # of each rank, to be restored

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_rank > 0:  # until now all ranks had the same random numbers, for the same weights
            torch.manual_seed(torch.initial_seed() + trainer.global_rank)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.states is not None:
            if trainer.global_rank < len(self.states):  # there may be more ranks than before
                restore(self.states[trainer.global_rank])
            self.states = None

    def state_dict(self) -> dict[str, Any]:
        states = [state()]
        if dist.is_initialized():
            states *= dist.get_world_size()
            dist.all_gather_object(states, state())
        return {"states": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.states = state_dict["states"]


def state() -> dict[str, Any]:
    """The state of the generators of this process, as tensors and plain values."""
    algorithm, keys, *rest = cast(tuple, np.random.get_state())
    return {
        "torch": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
        "numpy": [algorithm, torch.from_numpy(keys.astype(np.int64)), *rest],
        "python": random.getstate(),
    }


def restore(state: dict[str, Any]) -> None:
    """Restore a `state`; that of GPUs if there are as many as there were."""
    cpu, *gpus = state["torch"]
    torch.set_rng_state(cpu)
    if len(gpus) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(gpus)
    algorithm, keys, *rest = state["numpy"]
    np.random.set_state((algorithm, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])
