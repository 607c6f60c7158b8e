"""What the network makes of the validation set, to read and to look at."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn

from rnnlab.console import tell
from rnnlab.figures import boards, publish, verbatim


class Pictures(pl.Callback):
    """At each validation, puts the task's `text` and `figures` into TensorBoard; the newest figures into `figures/`.

    Texts are printed, too, but for the last one: a run ends with the text of its best checkpoint.
    """

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or not trainer.is_global_zero:
            return
        task: Any = pl_module
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        if (text := task.text(datamodule.example(1))) is not None:
            for board in boards(trainer):
                board.experiment.add_text("sample", verbatim(text), trainer.global_step)
            if trainer.global_step < trainer.estimated_stepping_batches:
                tell(f"\nat step {trainer.global_step}:\n{text}\n")
        self._publish(trainer, task, "val")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self._publish(trainer, pl_module, "test")

    def _publish(self, trainer: pl.Trainer, task: Any, split: str) -> None:
        for name, figure in task.figures(trainer.datamodule, split).items():  # type: ignore[attr-defined]
            publish(trainer, name, figure)
