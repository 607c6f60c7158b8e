"""What the network makes of the validation set, to read and to look at."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn

from rnnlab.utils.console import tell
from rnnlab.utils.figures import Sparingly, save_figure, tensorboard_loggers, verbatim


class Pictures(pl.Callback):
    """At validations, puts the task's `text` and `figures` into TensorBoard; the newest figures into `figures/`.

    Texts are printed, too, but for the last one: a run ends with the text of its best checkpoint. Drawing may take a
    tenth of the time: a validation that follows too soon has no figures, but for the last one.
    """

    def __init__(self) -> None:
        self.drawing = Sparingly(1 / 10)
        self.late = False  # the newest validation has no figures

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or not trainer.is_global_zero:
            return
        if not all(score.isfinite() for score in trainer.callback_metrics.values()):  # the run is about to end
            return
        task: Any = pl_module
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        if (text := task.text(datamodule.example(1))) is not None:
            for board in tensorboard_loggers(trainer):
                board.experiment.add_text("sample", verbatim(text), trainer.global_step)
            if trainer.global_step < trainer.estimated_stepping_batches:
                tell(f"\nat step {trainer.global_step}:\n{text}\n")
        self.late = not self.drawing.is_due()
        if not self.late:
            self._publish(trainer, task, "val")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        task: Any = pl_module
        task.gather()  # on every rank, though only the first draws
        if self.late:
            task.eval()  # as in a validation
            self._publish(trainer, task, "val")
            task.train()
        task.scatter()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self._publish(trainer, pl_module, "test")

    @torch.no_grad()  # the end of training is not a validation
    def _publish(self, trainer: pl.Trainer, task: Any, split: str) -> None:
        with self.drawing:
            for name, figure in task.figures(trainer.datamodule, split).items():  # type: ignore[attr-defined]
                save_figure(trainer, name, figure)
