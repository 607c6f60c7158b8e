"""What the network makes of the validation set, to read and to look at."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn

from rnnlab.console import tell
from rnnlab.figures import boards, publish, verbatim

SAMPLES = 512  # of the validation set, always the same


class Pictures(pl.Callback):
    """At each validation, puts the task's `text` and `figure` into TensorBoard; the newest figure into `figures/`.

    Texts are printed, too, but for the last one: a run ends with the text of its best checkpoint.
    """

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or not trainer.is_global_zero:
            return
        task: Any = pl_module
        batch = trainer.datamodule.example(SAMPLES)  # type: ignore[attr-defined]
        if (text := task.text(batch)) is not None:
            for board in boards(trainer):
                board.experiment.add_text("sample", verbatim(text), trainer.global_step)
            if trainer.global_step < trainer.estimated_stepping_batches:
                tell(f"\nat step {trainer.global_step}:\n{text}\n")
        if (figure := task.figure(batch)) is not None:
            publish(trainer, "prediction", figure)
