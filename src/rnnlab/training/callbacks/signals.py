"""Ends a run at a signal without losing work, and saves a checkpoint every few minutes."""

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
from rnnlab.training.lightning_patches import disable_signal_handling
from rnnlab.utils.console import tell
from rnnlab.utils.errors import Stopped

STOP = (signal.SIGTERM, signal.SIGINT)
REQUEUE = (signal.SIGUSR1, signal.SIGUSR2)  # what schedulers send some time before the end of a job
REPEATED = 1.0  # seconds within which a signal is the same one, sent on by a shell, a scheduler, a wrapper


@contextmanager
def exit_on_signal() -> Iterator[None]:
    """Raise `Stopped` at SIGTERM and Ctrl-C, before and after training, when there is nothing to save."""

    def stop(number: int, frame: Any) -> None:
        message = f"Stopped by {signal.Signals(number).name}. The same command with the same hydra.run.dir goes on."
        tell(message)
        raise Stopped(number, message)

    in_main = threading.current_thread() is threading.main_thread()
    replaced = {number: signal.signal(number, stop) for number in STOP} if in_main else {}
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


class Stop(pl.Callback):
    """Ends training at a signal after the current step, with `last.ckpt` saved and exit code 128 + the signal.

    Collective operations are not safe in a signal handler, so that it only notes the signal. After each step the
    processes start to compute the maximum of their signals, and read it after the next; then all save and raise
    `Stopped`. In the same way they agree that a checkpoint is due. The same signal, more than a second later, ends a
    process at once. SIGUSR1 and SIGUSR2, Slurm's warning of a time limit, also requeue the job.
    """

    def __init__(self, keeper: BestAndLast):
        self.keeper = keeper
        self.signal = 0  # received by this process
        self.received_at = 0.0
        self.agreed_signal = 0  # received by any process, as of the last step
        self.save_due = False
        self.group: Any = None
        self.pending: tuple[torch.Tensor, dist.Work] | None = None  # all-reduce of signal and due checkpoint
        self.replaced: dict[int, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        disable_signal_handling(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1:
            self.group = dist.new_group(backend="gloo")  # on the CPU, whatever the devices are
        if threading.current_thread() is threading.main_thread():
            in_slurm = "SLURM_JOB_ID" in os.environ
            handled = [number for number in REQUEUE if in_slurm or signal.getsignal(number) != signal.SIG_DFL]
            self.replaced = {number: signal.signal(number, self._note) for number in (*STOP, *handled)}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._agree()
        if not (self.agreed_signal or self.save_due) or not _can_resume_after(trainer, batch_idx):
            return
        if self.agreed_signal:
            self._stop(trainer)
        self.keeper.save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.agreed_signal and not trainer.fit_loop.done:
            self._stop(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.pending is not None:
            self.pending[1].wait()
        self._restore_handlers()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.signal:  # received in the last validation: only the test is left
            os.kill(os.getpid(), self.signal)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    def _note(self, number: int, frame: Any) -> None:
        if self.signal and time.monotonic() > self.received_at + REPEATED:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if not self.signal:
            self.signal, self.received_at = number, time.monotonic()

    def _agree(self) -> None:
        own = self.signal, self.keeper.is_due
        if self.group is None:
            self.agreed_signal, self.save_due = own
            return
        if self.pending is not None:
            tensor, work = self.pending
            work.wait()
            self.agreed_signal, self.save_due = tensor.tolist()
        tensor = torch.tensor(own)
        self.pending = tensor, dist.all_reduce(tensor, dist.ReduceOp.MAX, self.group, async_op=True)

    def _stop(self, trainer: pl.Trainer) -> None:
        if self.keeper.saved_step != trainer.global_step:
            self.keeper.save(trainer)
        name = signal.Signals(self.agreed_signal).name
        message = f"Stopped by {name} at step {trainer.global_step}. To go on: ckpt={quoted(str(self.keeper.last))}"
        tell(message)
        if self.agreed_signal in REQUEUE:
            self._requeue(trainer)
        raise Stopped(self.agreed_signal, message)

    def _requeue(self, trainer: pl.Trainer) -> None:
        submitit = self.replaced.get(self.agreed_signal)
        if callable(submitit):  # it requeues its jobs itself, as often as its settings say
            with suppress(Exception):
                submitit(self.agreed_signal, None)
        elif trainer.is_global_zero:
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)

    def _restore_handlers(self) -> None:
        self.pending = None
        for number, handler in self.replaced.items():
            signal.signal(number, handler)
        self.replaced.clear()


def _can_resume_after(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether a run resumed after this batch is the same: no gradients are half accumulated, no validation follows."""
    done = batch_idx + 1
    if done % trainer.accumulate_grad_batches != 0 or trainer.is_last_batch or trainer.fit_loop.epoch_loop.done:
        return False
    epochs = trainer.check_val_every_n_epoch  # None: `val_check_batch` counts the batches of all epochs
    if not trainer.enable_validation or (epochs is not None and (trainer.current_epoch + 1) % epochs != 0):
        return True
    if epochs is None:
        done = trainer.fit_loop.total_batch_idx + 1
    return trainer.val_check_batch is None or done % trainer.val_check_batch != 0  # None: validation by time
