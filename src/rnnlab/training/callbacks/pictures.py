"""What the model makes of the validation set, as text and figures."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn

from rnnlab.utils.console import tell
from rnnlab.utils.figures import TimeBudget, save_figure, tensorboard_loggers, verbatim


class Pictures(pl.Callback):
    """Writes the task's `text` and `figures` to TensorBoard at validations, the newest figures to `figures/`.

    Texts are also printed, but for the last: a run ends with the text of its best checkpoint. Figures may take a tenth
    of the time; a validation that follows too soon has none, but for the last.
    """

    def __init__(self) -> None:
        self.drawing = TimeBudget(1 / 10)

    def on_validation_end(self, trainer: Any, task: Any) -> None:
        if trainer.state.fn != TrainerFn.FITTING or not trainer.is_global_zero:
            return
        if not all(score.isfinite() for score in trainer.callback_metrics.values()):
            return  # the run is about to fail
        is_last = trainer.should_stop or trainer.global_step >= trainer.estimated_stepping_batches
        if (text := task.text(trainer.datamodule.example(1))) is not None:
            for board in tensorboard_loggers(trainer):
                board.experiment.add_text("sample", verbatim(text), trainer.global_step)
            if not is_last:
                tell(f"\nat step {trainer.global_step}:\n{text}\n")
        if is_last or self.drawing.is_due():
            self._draw(trainer, task, "val")

    def on_test_end(self, trainer: Any, task: Any) -> None:
        if trainer.is_global_zero:
            self._draw(trainer, task, "test")

    @torch.no_grad()
    def _draw(self, trainer: Any, task: Any, split: str) -> None:
        with self.drawing:
            for name, figure in task.figures(trainer.datamodule, split).items():
                save_figure(trainer, name, figure)
