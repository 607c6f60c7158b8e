"""What the network makes of the validation set, to read and to look at."""

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

SAMPLES = 512  # of the validation set, always the same


class Pictures(pl.Callback):
    """At each validation, puts the task's `text` and `figure` into TensorBoard; the newest figure into `figures/`."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or not trainer.is_global_zero:
            return
        batch = trainer.datamodule.example(SAMPLES)  # type: ignore[attr-defined]
        boards = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        text, figure = pl_module.text(batch), pl_module.figure(batch)  # type: ignore[operator]
        step = trainer.global_step
        if text is not None:
            for board in boards:
                board.add_text("sample", f"    {text}", step)
        if figure is not None:
            pixels = _draw(figure)
            for board in boards:
                board.add_image("prediction", pixels, step, dataformats="HWC")
            folder = Path(trainer.default_root_dir) / "figures"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / "prediction.png")


def _draw(figure: Figure) -> np.ndarray:
    figure.set_dpi(120)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
