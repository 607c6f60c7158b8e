"""Figures and texts of a run: for TensorBoard and as files."""

import time
import warnings
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from rnnlab.utils.errors import printable


def tensorboard_loggers(trainer: pl.Trainer) -> list[TensorBoardLogger]:
    """The TensorBoard loggers to write to: none on ranks other than the first."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero]


class TimeBudget:
    """Limits a recurring task to a share of the time: `if budget.is_due(): with budget: ...`.

    The first use is `expected` to take so many seconds.
    """

    def __init__(self, share: float, expected: float = 0.0):
        self.pause = 1 / share - 1
        self.available_at = time.monotonic() + self.pause * expected

    def is_due(self) -> bool:
        return time.monotonic() >= self.available_at

    def __enter__(self) -> None:
        self.start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        end = time.monotonic()
        self.available_at = end + self.pause * (end - self.start)


def verbatim(text: str) -> str:
    """Text that TensorBoard, which renders Markdown, shows unchanged."""
    return "\n".join(f"    {line}" for line in printable(text.replace("\r\n", "\n"), "\n\t").split("\n"))


def save_figure(trainer: pl.Trainer, name: str, figure: Figure) -> None:
    """Draw a figure once, for TensorBoard's images and for `figures/<name>.png` in the run's folder."""
    figure.set_dpi(110)
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings(action="ignore"):  # about characters that no font has
        canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    for board in tensorboard_loggers(trainer):
        board.experiment.add_image(name, pixels, trainer.global_step, dataformats="HWC")
    folder = Path(trainer.default_root_dir) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / f"{name}.png")
