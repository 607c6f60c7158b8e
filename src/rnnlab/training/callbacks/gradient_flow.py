"""How much of the gradient arrives at each step of the past."""

import csv
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from rnnlab.nn.bptt import Layer, recorded, through_time
from rnnlab.nn.gradients import total_norm
from rnnlab.nn.stack import backwards
from rnnlab.utils.console import tell
from rnnlab.utils.errors import require
from rnnlab.utils.figures import Sparingly, save_figure

SMALLEST = 1e-300  # what is less is shown as this
DECADES = 25  # that a picture shows below the largest, at least
COLUMNS = 400  # of probes in the heat map, which is not wider; drawing them all would take ever more memory
ROWS = 8  # charts in a picture
LINES = 6  # in a chart


@dataclass
class Trace:
    """The norm over batch and units of dL/dh_t, or dL/dc_t, at each probe."""

    steps: list[int] = field(default_factory=list)
    # one block: what stays of each probe on its own would come to lie between what goes, and the heap would grow
    values: array = field(default_factory=lambda: array("d"))

    @property
    def norms(self) -> np.ndarray:
        """(probes, time), a copy."""
        return np.array(self.values).reshape(len(self.steps), -1)

    def add(self, step: int, norms: np.ndarray) -> None:
        """Append a probe's (time,) norms."""
        self.steps.append(step)
        self.values.frombytes(norms.astype(float).tobytes())


class GradientFlow(pl.Callback):
    """Every `every` steps, and before the first, sends a batch of the validation set forth and back.

    Of each recurrent layer: the norm of the total derivative dL/dh_t for every step t of the sequence, for LSTM of
    dL/dc_t too (see `rnnlab.nn.bptt`), as curve and as heat map over the training, `figures/gradient_flow.png`
    and `gradient_flow.csv`. As scalars:

    - `gradient_flow/first_over_last`: its ratio at the first and the last step.
    - `gradient_flow/decades_per_step`: powers of ten that it loses per step back in time.
    - `recurrent/radius`, `recurrent/norm`: of each gate's recurrent weights the spectral radius and the largest
      singular value.
    - `saturated/...`: see `Flow`.
    - `update/...`: of each weight, the norm of the optimizer's last step over its own.
    - `gradient_flow/skipped_steps`: steps without a finite gradient since the run began or was resumed.

    **Arguments:**

    - `every`: optimizer steps between two probes; those between cost nothing.
    - `batch_size`: sequences of a probe.
    """

    state_key = "gradient_flow"  # survives a new name of the class

    def __init__(self, every: int = 50, batch_size: int = 16):
        for name, value in (("every", every), ("batch_size", batch_size)):
            right = isinstance(value, int) and value >= 1
            require(right, f"callbacks.gradient_flow.{name}={value} must be a whole number, 1 or more.")
        self.every = every
        self.batch_size = batch_size
        self.probed = -1
        self.before: list[Tensor] = []
        self.traces: dict[str, Trace] = {}
        self.drawing = Sparingly(1 / 50, 0.5)

    def state_dict(self) -> dict[str, Any]:
        traces = {name: (trace.steps, torch.from_numpy(trace.norms)) for name, trace in self.traces.items()}
        return {"probed": self.probed, "traces": traces}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.probed = state_dict["probed"]
        self.traces = {
            name: Trace(list(steps), array("d", norms.flatten().tolist()))
            for name, (steps, norms) in state_dict["traces"].items()
        }

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.probed < 0:
            self._probe(trainer, pl_module)
        if not self.traces and trainer.is_global_zero:
            tell("gradient_flow: there is no cell of torch or rnnlab in this network, so nothing is shown.")

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if (trainer.global_step + 1) % self.every == 0:
            self.before = [weight.detach().clone() for weight in pl_module.parameters()]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step % self.every == 0 and trainer.global_step != self.probed:
            self._probe(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.training and self.drawing.is_due():
            self._publish(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._leave(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._leave(trainer)

    def _probe(self, trainer: pl.Trainer, task: Any) -> None:
        self.probed = trainer.global_step
        updates = {
            f"update/{name}": total_norm([weight.detach() - before]) / total_norm([before])
            for (name, weight), before in zip(task.named_parameters(), self.before, strict=False)
        }
        self.before = []
        task.gather()
        if trainer.is_global_zero:
            self._look(trainer, task, updates)
        task.scatter()

    def _look(self, trainer: pl.Trainer, task: Any, updates: dict[str, Tensor]) -> None:
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        batch = datamodule.transfer_batch_to_device(datamodule.example(self.batch_size), task.device, 0)
        task.eval()  # without dropout
        with torch.enable_grad(), recorded(task.network) as layers:
            loss = task.probe_loss(batch)
        task.train()
        if not layers:
            return
        scores: dict[str, Any] = {"gradient_flow/skipped_steps": task.guard.skipped}
        for layer, direct in zip(layers, torch.autograd.grad(loss, [layer.out for layer in layers]), strict=True):
            scores |= self._measure(layer, direct, batch.lengths, "" if len(layers) == 1 else f" {layer.name}")
        scores |= updates
        numbers = torch.stack(
            [torch.as_tensor(score, dtype=torch.float64, device=loss.device) for score in scores.values()]
        )
        metrics = dict(zip(scores, numbers.tolist(), strict=True))  # here a GPU is waited for
        for logger in trainer.loggers:
            logger.log_metrics({name: value for name, value in metrics.items() if np.isfinite(value)}, self.probed)

    def _measure(self, layer: Layer, direct: Tensor, lengths: list[int] | None, suffix: str) -> dict[str, Any]:
        flow = through_time(layer, direct, lengths)
        scores: dict[str, Any] = {f"saturated/{name}{suffix}": share for name, share in flow.saturated.items()}
        for state, gradient in (("h", flow.hidden), ("c", flow.cell)):
            if gradient is None:
                continue
            norms = norm_of_steps(gradient, lengths)
            trace = self.traces.setdefault(f"{state}{suffix}", Trace())
            if len(trace.values) != len(trace.steps) * len(norms):  # resumed with sequences of another length
                trace = self.traces[f"{state}{suffix}"] = Trace()
            trace.add(self.probed, norms.cpu().numpy())
            first, last = norms[0].clamp_min(SMALLEST), norms[-1].clamp_min(SMALLEST)
            which = "cell_" if state == "c" else ""
            scores[f"gradient_flow/{which}first_over_last{suffix}"] = first / last
            lost = (last.log10() - first.log10()) / max(1, len(norms) - 1)
            scores[f"gradient_flow/{which}decades_per_step{suffix}"] = lost
        for gate, block in layer.recurrent().items():
            where = f"{gate and f'_{gate}'}{suffix}"
            weights = block.float()  # of 16 bits there are no eigenvalues
            if weights.isfinite().all() and weights.shape[0] == weights.shape[1]:
                scores[f"recurrent/radius{where}"] = torch.linalg.eigvals(weights).abs().max()
                scores[f"recurrent/norm{where}"] = torch.linalg.matrix_norm(weights, ord=2)
        return scores

    def _leave(self, trainer: pl.Trainer) -> None:
        if not self.traces or not trainer.is_global_zero:
            return
        self._publish(trainer)
        with (Path(trainer.default_root_dir) / "gradient_flow.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(("state", "optimizer_step", "t", "norm"))
            for name, trace in self.traces.items():
                for step, norms in zip(trace.steps, trace.norms, strict=True):
                    table.writerows((name, step, t, repr(float(norm))) for t, norm in enumerate(norms, 1))

    def _publish(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero and self.traces:
            with self.drawing:
                save_figure(trainer, "gradient_flow", draw(self.traces))


def norm_of_steps(gradient: Tensor, lengths: list[int] | None = None) -> Tensor:
    """The norm over batch and units at each step.

    Sequences of several lengths are aligned at their ends, where the way back begins, and a step counts as if all
    sequences of the batch had it.

    **Arguments:**

    - `gradient`: (batch, time, hidden).
    - `lengths`: of the sequences, if they are padded at their end.

    **Returns:** (time,); the last is that of every sequence's last step.
    """
    squares = gradient.square().sum(2)
    if lengths is None:
        return squares.sum(0).sqrt()
    ends = torch.as_tensor(lengths, device=gradient.device)
    before = torch.arange(gradient.shape[1], device=gradient.device)  # steps before the end
    inside = before < ends[:, None]
    from_end = backwards(squares[..., None], ends)[..., 0] * inside
    return (from_end.sum(0) * len(gradient) / inside.sum(0)).sqrt().flip(0)


def draw(traces: dict[str, Trace]) -> Figure:
    """Of each state a chart of the norm over the steps of a sequence, and how it changes with training."""
    shown = list(traces.items())[:ROWS]
    figure = Figure(figsize=(10, 0.9 + 3.4 * len(shown)), layout="constrained")
    more = f"\n({len(traces) - ROWS} more states in gradient_flow.csv)" if len(traces) > ROWS else ""
    figure.suptitle(
        "How strongly the loss depends on what the network held at step t:\n"
        f"low at the left, the gradient has vanished on its way back; high, it has exploded{more}",
        fontsize="medium",
    )
    for (name, trace), (curve, heat) in zip(shown, figure.subplots(len(shown), 2, squeeze=False), strict=True):
        letter, _, where = name.partition(" ")
        label = rf"$\log_{{10}} \Vert \partial L / \partial {letter}_t \Vert$"
        levels = np.log10(np.clip(trace.norms, SMALLEST, None))  # (probes, time)
        levels = np.ma.masked_invalid(levels)
        top, bottom = (levels.max(), levels.min()) if levels.count() else (0.0, -1.0)
        if levels.count():  # however far an exploded probe is above, something of every other is seen
            bottom = max(bottom, min(top - DECADES, levels.max(axis=1).min() - 2))
        time = np.arange(1, levels.shape[1] + 1)
        for k in np.unique(np.linspace(0, len(levels) - 1, LINES).round().astype(int)):
            color = colormaps["viridis"](0.9 * k / max(1, len(levels) - 1))
            curve.plot(time, levels[k], color=color, label=f"{trace.steps[k]:,}", linewidth=1.4)
        margin = 0.05 * (top - bottom) + 0.1
        steps = "step t, counted from the end of the sequence" if "backward" in where else "step t of the sequence"
        curve.set(xlabel=steps, ylabel=label, ylim=(bottom - margin, top + margin))
        curve.grid(alpha=0.3)
        curve.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=LINES, frameon=False, fontsize="small", handlelength=1,
            columnspacing=1, alignment="left",
            title=f"{where}{where and ': '}at optimizer step", title_fontsize="small",
        )  # fmt: skip
        colors = colormaps["magma"].with_extremes(bad="tab:green")
        columns = np.unique(np.linspace(0, len(levels) - 1, COLUMNS).round().astype(int))
        image = heat.pcolormesh(
            _edges(np.take(trace.steps, columns)), _edges(time), levels[columns].T, cmap=colors, vmin=bottom, vmax=top
        )
        if levels.count() < levels.size:
            heat.set_title("green: not a finite number", fontsize="small")
        heat.set(xlabel="optimizer step", ylabel=steps)
        for axis in (curve.xaxis, heat.xaxis, heat.yaxis):
            axis.set_major_locator(MaxNLocator(5 if axis is heat.xaxis else "auto", integer=True))  # of many digits
        figure.colorbar(image, ax=heat, label=label)
    return figure


def _edges(centres: Any) -> np.ndarray:
    """Where the cells around the centres begin and end."""
    centres = np.asarray(centres, dtype=float)
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate(([2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]))
