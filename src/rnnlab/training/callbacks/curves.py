"""Scalars over the steps of a run."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from torch import Tensor

from rnnlab.nn.gradients import total_norm
from rnnlab.training.callbacks.checkpoints import require_finite
from rnnlab.utils.figures import save_figure, tensorboard_loggers
from rnnlab.utils.files import write_atomically

LOSSES = ("train/loss", "val/loss")


class Curves(pl.Callback):
    """Logs `train/loss`, `train/grad_norm`, `train/lr` and every validation metric.

    `train/loss` is the mean over the steps since the last point, without those that `NonFiniteGradientGuard` skips;
    until then losses stay on their device, so that a GPU is not waited for. `train/grad_norm` is that before clipping.
    The history is also written to `figures/loss.png` and, with `monitor`, `curves.json`.

    **Raises:** `UserError` for a loss that is not finite.
    """

    state_key = "curves"  # survives a new name of the class

    def __init__(self, monitor: str = "val/loss") -> None:
        self.losses: list[tuple[int, Tensor, Any]] = []  # (step, loss, whether it was skipped) since the last mean
        self.accumulating: list[Tensor] = []  # losses of batches whose step is still to come
        self.stepped = False
        self.grad_norm: Tensor | None = None  # of the newest step, if it is to be logged
        self.history: dict[str, list[tuple[int, float]]] = {"train/loss": [], "val/loss": [], monitor: []}

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.reduce = trainer.strategy.reduce
        for board in tensorboard_loggers(trainer):
            board.experiment.add_custom_scalars({"loss": {"loss": ["Multiline", list(LOSSES)]}})

    def on_before_optimizer_step(self, trainer: Any, task: Any, optimizer: Any) -> None:
        self.stepped = True
        if (trainer.global_step + 1) % trainer.log_every_n_steps == 0:
            self.grad_norm = total_norm([weight.grad for weight in task.parameters() if weight.grad is not None])

    def on_train_batch_end(self, trainer: pl.Trainer, task: Any, outputs: Any, *_: Any) -> None:
        self.accumulating.append(outputs["loss"])
        if not self.stepped:
            return
        self.losses += [(trainer.global_step, loss, task.guard.bad) for loss in self.accumulating]
        self.accumulating, self.stepped = [], False
        if self.grad_norm is not None:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            norm = self.grad_norm.item()
            self._log(trainer, {**self._mean_loss(trainer), "train/grad_norm": norm, "train/lr": rate})
            self.grad_norm = None

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.losses:
            self._log(trainer, self._mean_loss(trainer))

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.on_validation_start(trainer)

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            measured = trainer.callback_metrics.items()
            self._log(trainer, {name: float(value) for name, value in measured if name.startswith("val/")})

    def on_exception(self, trainer: pl.Trainer, task: Any, exception: BaseException) -> None:
        if any(self.history.values()):
            self.on_fit_end(trainer, task)

    def on_fit_end(self, trainer: pl.Trainer, task: Any) -> None:
        if trainer.is_global_zero:
            write_atomically(Path(trainer.default_root_dir) / "curves.json", json.dumps(self.history) + "\n")
            save_figure(trainer, "loss", self._figure(task.loss_label))

    def state_dict(self) -> dict[str, Any]:
        losses = self._over_ranks() if self.losses else []
        history = {name: torch.tensor(points, dtype=torch.float64) for name, points in self.history.items()}
        return {"history": history, "losses": losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, points in state_dict["history"].items():
            self.history[name] = [(int(step), value) for step, value in points.tolist()]
        self.losses = [(step, torch.tensor(value), skipped) for step, value, skipped in state_dict["losses"]]

    def _over_ranks(self) -> list[tuple[int, float, bool]]:
        """The losses since the last mean, averaged over the ranks."""
        steps, losses, skipped = zip(*self.losses, strict=True)
        stacked = torch.stack([loss.to(losses[-1].device) for loss in losses])
        values = self.reduce(stacked, reduce_op="mean").tolist()  # waits for a GPU
        return list(zip(steps, values, map(bool, skipped), strict=True))

    def _mean_loss(self, trainer: pl.Trainer) -> dict[str, float]:
        taken = [(step, value) for step, value, skipped in self._over_ranks() if not skipped]
        self.losses.clear()
        for step, value in taken:
            require_finite("train/loss", value, step)
        if not taken:
            return {}
        # Lightning has divided each by the number of batches that are accumulated
        return {"train/loss": trainer.accumulate_grad_batches * sum(value for _, value in taken) / len(taken)}

    def _log(self, trainer: pl.Trainer, metrics: dict[str, float]) -> None:
        for name, points in self.history.items():
            if name in metrics:
                points.append((trainer.global_step, metrics[name]))
        for logger in trainer.loggers:
            logger.log_metrics(metrics, trainer.global_step)

    def _figure(self, label: str) -> Figure:
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        axes.set(xlabel="optimizer step", ylabel=label)
        axes.grid(alpha=0.3)
        for name in LOSSES:
            points = np.array(self.history[name]).reshape(-1, 2)
            axes.plot(*points.T, label=name, marker="." if len(points) < 30 else None)
        axes.legend()
        low, high = axes.dataLim.intervaly
        if high > 10 * low > 0:
            axes.set_yscale("log")
        return figure
