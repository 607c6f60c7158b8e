"""Writes checkpoints: complete or not at all, and with all that a run needs to resume exactly."""

import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch.serialization import get_unsafe_globals_in_checkpoint

from rnnlab.nn.gradients import total_norm
from rnnlab.training import loggers
from rnnlab.training.checkpoint_file import FORMAT, load
from rnnlab.training.lightning_patches import update_plateau_schedulers
from rnnlab.utils.errors import Lost, require


class AtomicIO(TorchCheckpointIO):
    """Writes atomically: beside the destination, flushed to disk, renamed. `previous.ckpt` is the `last.ckpt` before.

    **Raises:** `Lost` if the disk is full; `UserError` for content that could not be loaded again.
    """

    def save_checkpoint(self, content: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            cause = getattr(error.__context__, "strerror", error)  # torch's writer fails once more
            raise Lost(
                f"{path} cannot be written: {cause}. The one before is intact: make room, and run the same command."
            ) from error
        unsafe = get_unsafe_globals_in_checkpoint(str(partial))
        require(not unsafe, f"A state_dict holds {', '.join(unsafe)}: only tensors and plain values can be loaded.")
        if path.name == "last.ckpt" and path.exists():
            _link(path, path.with_name("previous.ckpt"))
        partial.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return load(path)


class BestAndLast(Checkpoint):
    """Writes `last.ckpt` and `best.ckpt` to `folder` after each validation and at the end of training.

    `signals.Stop` has `last.ckpt` written between two steps, too, when it `is_due`. With the same `overrides` early
    stopping is final.

    **Raises:** `UserError` if a weight or the monitored metric is not finite, instead of saving it.
    """

    state_key = "checkpoints"  # survives a new name of the class

    def __init__(self, folder: Path, monitor: str, mode: str, config: dict, every_minutes: float, overrides: list[str]):
        self.last, self.best = folder / "last.ckpt", folder / "best.ckpt"
        self.monitor = monitor
        self.sign = 1 if mode == "min" else -1
        self.config = config
        self.pause = 60 * every_minutes
        self.overrides = overrides
        self.best_score: float | None = None
        self.best_step = -1
        self.saved_step = -1
        self.rank = 0
        self.stopping = False  # early, at what was saved
        self.metrics: dict[str, torch.Tensor] = {}  # of the last validation, for callbacks at the end of an epoch

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is older than it should be, by the clock of the first process."""
        return self.rank == 0 and time.monotonic() > self.saved_at + self.pause

    def save(self, trainer: pl.Trainer, is_best: bool = False) -> None:
        """Write `last.ckpt`, and make it `best.ckpt` if it `is_best`."""
        size = total_norm([weight.detach() for weight in trainer.lightning_module.parameters()], math.inf)
        require_finite("a weight", size.item(), trainer.global_step)
        if is_best:
            self.best_step = trainer.global_step
        self.stopping, self.metrics = trainer.should_stop, {**trainer.callback_metrics}
        trainer.save_checkpoint(self.last)
        self.saved_step, self.saved_at = trainer.global_step, time.monotonic()
        if trainer.is_global_zero and is_best:
            _link(self.last, self.best)  # last.ckpt is replaced, never written into

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.rank = trainer.global_rank
        self.saved_at = time.monotonic()
        trainer.should_stop |= self.stopping
        trainer.callback_metrics.update(self.metrics)

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        measured = trainer.callback_metrics
        require(
            self.monitor in measured,
            f"monitor={self.monitor} is not measured by the validation. It measures: {', '.join(sorted(measured))}.",
        )
        score = float(measured[self.monitor])
        require_finite(self.monitor, score, trainer.global_step)
        improved = self.best_score is None or self.sign * score < self.sign * self.best_score
        if improved:
            self.best_score = score
        self.save(trainer, improved)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        update_plateau_schedulers(trainer)

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        undecided = self.best_score is None and self.best_step != trainer.global_step
        if undecided or trainer.global_step != self.saved_step:
            self.save(trainer, is_best=self.best_score is None)  # without a validation the latest is the best

    def on_save_checkpoint(self, trainer: pl.Trainer, task: Any, checkpoint: dict) -> None:
        written = loggers.flush(trainer) if trainer.is_global_zero else {}
        checkpoint["rnnlab"] = {"format": FORMAT, "written": written, **self.config}

    def state_dict(self) -> dict[str, Any]:
        return {
            "monitor": self.monitor, "best_score": self.best_score, "best_step": self.best_step,
            "stopping": self.stopping, "overrides": self.overrides,
            "metrics": {name: value.cpu() for name, value in self.metrics.items()},
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.best.exists() and state_dict["monitor"] == self.monitor:
            self.best_score, self.best_step = state_dict["best_score"], state_dict["best_step"]
        self.stopping = state_dict["stopping"] and state_dict["overrides"] == self.overrides
        self.metrics = state_dict["metrics"]

    def inherit(self, path: Path, saved: dict[str, Any], writes: bool) -> None:
        """Keep the best checkpoint of the run that resumes from `path`, with content `saved`, as the one to beat."""
        if path.absolute() == self.last.absolute():
            self.saved_step = saved["global_step"]  # if nothing is left to train, it stays as it is
        # a run may have been killed after it wrote its best weights as `last.ckpt` and before it linked `best.ckpt`
        is_best = saved["callbacks"].get(self.state_key, {}).get("best_step") == saved["global_step"]
        best = path if is_best else path.with_name("best.ckpt")
        if writes and best.exists() and (is_best or not self.best.exists()):
            _link(best, self.best)


def require_finite(what: str, value: float, step: int) -> None:
    """Raise `UserError` if a value is infinite or not a number."""
    require(
        math.isfinite(value),
        f"{what} is {value} at step {step}. The checkpoints of earlier steps are intact. "
        "Try a smaller optim.lr, or trainer.gradient_clip_val=1.0.",
    )


def _link(path: Path, other: Path) -> None:
    """Make `other` a second name of a file, or a copy of it; it is whole at any time."""
    partial = other.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    other.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, partial)
    except OSError:  # a file system without links
        shutil.copy2(path, partial)
    partial.replace(other)
    partial.unlink(missing_ok=True)  # still there if both were one file before
