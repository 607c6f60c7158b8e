"""One progress bar for the whole fit."""

import time
from datetime import timedelta
from math import inf
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from rnnlab.utils.console import tell

REDRAW = 0.2  # seconds; reading the loss more often would make a GPU wait and not be seen


class Progress(ProgressBar):
    """Shows step, loss, the metric `monitor`, speed and time left: as a bar, or as lines where there is no terminal."""

    def __init__(self, monitor: str = "val/loss", every: float = 10.0):
        super().__init__()
        self.monitor = monitor
        self.console = Console()
        self.interval = REDRAW if self.console.is_terminal else every
        self.bar: Bar | None = None
        self.task = TaskID(0)
        self.loss: Any = None
        self.monitored = ""

    def disable(self) -> None:
        self.interval = inf

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.total = trainer.estimated_stepping_batches
        self.first_step = trainer.global_step
        self.started = self.shown = time.monotonic()
        if self.console.is_terminal and self.interval < inf:
            self.bar = Bar(BarColumn(24), TextColumn("{task.description}"), console=self.console, auto_refresh=False)
            self.bar.start()
            self.task = self.bar.add_task("", total=None if self.total == inf else self.total)

    def on_train_batch_end(self, trainer: pl.Trainer, task: Any, outputs: Any, *_: Any) -> None:
        self.loss = outputs["loss"]
        if time.monotonic() - self.shown >= self.interval:
            self._show(trainer)

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.monitor in trainer.callback_metrics:
            self.monitored = f"  {self.monitor} {float(trainer.callback_metrics[self.monitor]):.4g}"

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.loss is not None:
            self._show(trainer)
        else:
            tell(f"Nothing left to train at step {self.first_step}: raise trainer.max_epochs to go on.")
        self.on_exception()

    def on_exception(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.stop()

    def _show(self, trainer: pl.Trainer) -> None:
        self.shown = time.monotonic()
        step, left = trainer.global_step, ""
        rate = (step - self.first_step) / max(self.shown - self.started, 1e-9)
        if rate and self.total != inf:
            left = f"  {timedelta(seconds=round((self.total - step) / rate))} left"
        loss = float(self.loss) * trainer.accumulate_grad_batches  # which Lightning has divided by
        text = f"step {step}/{self.total}  train/loss {loss:.4g}{self.monitored}  {rate:.0f} steps/s{left}"
        if self.bar is not None:
            self.bar.update(self.task, description=text, completed=step, refresh=True)
        else:
            tell(text)
