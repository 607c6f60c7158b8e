"""What is done between two steps: a checkpoint every few minutes, and an end that loses nothing."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist

from rnnlab.config.repository import quoted
from rnnlab.training.callbacks.checkpoints import BestAndLast
from rnnlab.utils.console import tell
from rnnlab.utils.errors import Stopped

ASKING = (signal.SIGTERM, signal.SIGINT)
REPEATED = 1.0  # seconds within which a signal is the same one, by way of a shell, a scheduler, a wrapper
WARNING = (signal.SIGUSR1, signal.SIGUSR2)  # what schedulers send some time before a job's end


@contextmanager
def exit_on_signal() -> Iterator[None]:
    """Where nothing is to be saved, before and after training: end at SIGTERM and Ctrl-C by raising `Stopped`."""

    def end(number: int, frame: Any) -> None:
        message = f"Stopped by {signal.Signals(number).name}. The same command with the same hydra.run.dir goes on."
        tell(message)
        raise Stopped(number, message)

    in_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, end) for number in ASKING} if in_main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stop(pl.Callback):
    """Ends training at a signal: the step in progress is finished, `last.ckpt` saved, the exit code 128 + the signal.

    A handler only notes the signal, because nothing else is safe in the middle of a collective operation. After each
    step the processes of a run agree whether one of them was asked (a maximum over all, started at one step and read
    at the next, so that nothing waits), save together and end together. In the same way they agree that it is time for
    a checkpoint. The same signal, a second later, ends a process at once.

    SIGUSR1 and SIGUSR2, by which Slurm warns of a time limit, stop a run in the same way, and queue its job again.

    **Arguments:**

    - `keeper`: what writes checkpoints.

    **Raises:** `Stopped`, on every rank, after the checkpoint is written.
    """

    def __init__(self, keeper: BestAndLast):
        self.keeper = keeper
        self.signal = 0
        self.asked = 0.0
        self.agreed = 0
        self.save_due = False
        self.group: Any = None
        self.asking: tuple[torch.Tensor, Any] | None = None  # what the ranks are about to agree on
        self.replaced: dict[int, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # Lightning's own way is a broadcast inside of a signal handler, which hangs now and then, and one more, which
        # a GPU is waited for, in every step
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1:
            self.group = dist.new_group(backend="gloo")  # on the CPU, whatever the devices are
        if threading.current_thread() is threading.main_thread():
            awaited = [number for number in WARNING if signal.getsignal(number) != signal.SIG_DFL]
            for number in (*ASKING, *(WARNING if "SLURM_JOB_ID" in os.environ else awaited)):
                self.replaced[number] = signal.signal(number, self._note)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._agree()
        if not self.agreed and not self.save_due:
            return
        done, loop = batch_idx + 1, trainer.fit_loop
        fetcher: Any = loop._data_fetcher
        in_between = done % trainer.accumulate_grad_batches == 0 and done < trainer.num_training_batches
        # a validation that comes first is one that a run which goes on from here would leave out
        if not in_between or trainer.is_last_batch or loop.epoch_loop._should_check_val_fx(fetcher):
            return
        if self.agreed:
            self._end(trainer)
        if self.save_due:
            self.keeper.save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.agreed and not trainer.fit_loop.done:  # an end that is reached needs no other
            self._end(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.asking is not None:
            self.asking[1].wait()
        self._release()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.signal:  # asked in the last validation: what is left is the test
            os.kill(os.getpid(), self.signal)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._release()

    def _note(self, number: int, frame: Any) -> None:
        if self.signal and time.monotonic() > self.asked + REPEATED:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if not self.signal:
            self.signal, self.asked = number, time.monotonic()

    def _agree(self) -> None:
        mine = self.signal, self.keeper.is_due
        if self.group is None:
            self.agreed, self.save_due = mine
            return
        if self.asking is not None:
            tensor, work = self.asking
            work.wait()
            self.agreed, self.save_due = tensor.tolist()
        tensor = torch.tensor(mine)
        self.asking = tensor, dist.all_reduce(tensor, dist.ReduceOp.MAX, self.group, async_op=True)

    def _end(self, trainer: pl.Trainer) -> None:
        if self.keeper.saved_step != trainer.global_step:
            self.keeper.save(trainer)
        name = signal.Signals(self.agreed).name
        message = f"Stopped by {name} at step {trainer.global_step}. To go on: ckpt={quoted(str(self.keeper.last))}"
        tell(message)
        if self.agreed in WARNING:
            self._queue_again(trainer)
        raise Stopped(self.agreed, message)

    def _queue_again(self, trainer: pl.Trainer) -> None:
        others = self.replaced.get(self.agreed)
        if callable(others):  # submitit queues its jobs again by itself, as often as its settings say
            with suppress(Exception):
                others(self.agreed, None)
        elif trainer.is_global_zero:
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)

    def _release(self) -> None:
        self.asking = None
        for number, handler in self.replaced.items():
            signal.signal(number, handler)
        self.replaced.clear()
