"""Scalars over the steps of a run, and the guard against a loss that is not a number."""

import json
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor

from rnnlab.nn.gradients import total_norm
from rnnlab.utils.errors import UserError
from rnnlab.utils.figures import save_figure, tensorboard_loggers
from rnnlab.utils.files import write_atomically

LOSSES = ("train/loss", "val/loss")


class Curves(pl.Callback):
    """Writes `train/loss`, `train/grad_norm`, `train/lr` and every validation metric to the loggers.

    `train/loss` is the mean over the steps since it was last written, every `trainer.log_every_n_steps`. The losses of
    the steps between stay where they are, so that a GPU is not waited for. The gradient norm is that before clipping.
    In TensorBoard training and validation loss share a chart (Custom Scalars); `figures/loss.png` shows the same, and
    `curves.json` holds it: `{"val/loss": [[step, value], ...], ...}`. A run that is resumed adds to what it resumes.

    **Arguments:**

    - `monitor`: a metric that `curves.json` holds beside the losses.

    **Raises:** `UserError` with the step at which the loss became infinite or not a number, before a checkpoint of what
    came of it is written. A step that was skipped, see `NonFiniteGradientGuard`, is no such step; its loss
    is in no mean.
    """

    state_key = "curves"  # survives a new name of the class

    def __init__(self, monitor: str = "val/loss") -> None:
        self.losses: list[tuple[int, Tensor, Any]] = []  # (step, loss, whether it was left out) since the last mean
        self.pending: list[Tensor] = []  # losses of batches whose step is still to come
        self.stepped = False
        self.grad_norm: Tensor | None = None
        self.history: dict[str, list[tuple[int, float]]] = {"train/loss": [], "val/loss": [], monitor: []}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.reduce = trainer.strategy.reduce
        for board in tensorboard_loggers(trainer):
            board.experiment.add_custom_scalars({"loss": {"loss": ["Multiline", list(LOSSES)]}})

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.stepped = True
        if (trainer.global_step + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self.grad_norm = total_norm(gradients)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.pending.append(outputs["loss"])
        if not self.stepped:  # gradients are being accumulated
            return
        bad = pl_module.guard.bad  # type: ignore[union-attr]
        self.losses += [(trainer.global_step, loss, bad) for loss in self.pending]
        self.pending, self.stepped = [], False
        if self.grad_norm is not None:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            norm = self.grad_norm.item()
            self._write(trainer, {**self._mean_loss(trainer), "train/grad_norm": norm, "train/lr": rate})
            self.grad_norm = None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write_rest(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            metrics = {
                name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")
            }
            self._write(trainer, metrics)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write_rest(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if any(self.history.values()):  # what was seen until then
            self.on_fit_end(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            content = json.dumps(self.history)
            write_atomically(Path(trainer.default_root_dir) / "curves.json", content + "\n")
            save_figure(trainer, "loss", self._figure(pl_module.loss_label))  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        losses = self._of_all_ranks(self.reduce) if self.losses else []
        history = {name: torch.tensor(points, dtype=torch.float64) for name, points in self.history.items()}
        return {"history": history, "losses": losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, points in state_dict["history"].items():
            self.history[name] = [(int(step), value) for step, value in points.tolist()]
        self.losses = [(step, torch.tensor(value), bad) for step, value, bad in state_dict["losses"]]

    def _write_rest(self, trainer: pl.Trainer) -> None:
        if self.losses:
            self._write(trainer, self._mean_loss(trainer))

    def _of_all_ranks(self, reduce: Any) -> list[tuple[int, float, bool]]:
        """The losses that are in no mean yet, each the mean over the ranks."""
        steps, losses, left_out = zip(*self.losses, strict=True)
        stacked = torch.stack([loss.to(losses[-1].device) for loss in losses])
        values = reduce(stacked, reduce_op="mean").tolist()  # here a GPU is waited for
        return [(step, value, bool(bad)) for step, value, bad in zip(steps, values, left_out, strict=True)]

    def _mean_loss(self, trainer: pl.Trainer) -> dict[str, float]:
        """The mean of the losses since the last call over all ranks, of steps that were taken; these must be finite."""
        every = self._of_all_ranks(trainer.strategy.reduce)
        taken = [(step, value) for step, value, bad in every if not bad]
        self.losses.clear()
        for step, value in taken:
            if not math.isfinite(value):
                raise UserError(
                    f"train/loss is {value} at step {step}. The checkpoints of earlier steps are intact. "
                    "Try a smaller optim.lr, or trainer.gradient_clip_val=1.0."
                )
        if not taken:
            return {}
        # lightning has divided each by the number of batches that are accumulated
        return {"train/loss": trainer.accumulate_grad_batches * sum(value for _, value in taken) / len(taken)}

    def _write(self, trainer: pl.Trainer, metrics: dict[str, float]) -> None:
        for name, points in self.history.items():
            if name in metrics:
                points.append((trainer.global_step, metrics[name]))
        for logger in trainer.loggers:
            logger.log_metrics(metrics, trainer.global_step)

    def _figure(self, label: str) -> Figure:
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        curves = {name: self.history[name] for name in LOSSES}
        for (name, points), color in zip(curves.items(), ("tab:blue", "tab:orange"), strict=True):
            if points:
                axes.plot(*zip(*points, strict=True), color=color, label=name, marker="." if len(points) < 30 else None)
        values = [value for points in curves.values() for _, value in points]
        if values and min(values) > 0 and max(values) > 10 * min(values):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
            if max(values) < 100 * min(values):
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.set(xlabel="optimizer step", ylabel=label)
        axes.grid(alpha=0.3)
        if values:
            axes.legend()
        return figure
