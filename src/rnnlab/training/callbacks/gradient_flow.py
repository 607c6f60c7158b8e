"""Records how the gradient changes on its way back through time, over a training run."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rnnlab.nn.bptt import gradients_through_time, norm_per_step, recorded
from rnnlab.nn.gradients import total_norm
from rnnlab.training.callbacks.gradient_flow_figure import SMALLEST, Traces, plot
from rnnlab.utils.console import tell
from rnnlab.utils.figures import TimeBudget, save_figure


class GradientFlow(pl.Callback):
    """Computes the gradient through time of a validation batch, before training and every `every` optimizer steps.

    The norms of dL/dh_t, and for LSTM of dL/dc_t, go to `figures/gradient_flow.png` and `gradient_flow.csv`. Scalars:

    - `gradient_flow/first_over_last`: the norm at the first step over that at the last.
    - `gradient_flow/decades_per_step`: powers of ten lost per step back in time.
    - `gradient_flow/skipped_steps`: steps skipped by the `NonFiniteGradientGuard` since the process started.
    - `recurrent/radius`, `recurrent/norm`: spectral radius and norm of each gate's recurrent weights.
    - `saturated/...`: share of saturated activations, see `Layer.saturation`.
    - `update/...`: for each weight, the norm of the optimizer's last update over that of the weight.
    """

    state_key = "gradient_flow"

    def __init__(self, every: int = 50, batch_size: int = 16):
        self.every = every
        self.batch_size = batch_size
        self.last_probe = -1  # optimizer step
        self.weights_before: list[Tensor] = []
        self.traces: Traces = {}
        self.drawing = TimeBudget(1 / 50, 0.5)

    def state_dict(self) -> dict[str, Any]:
        traces = {name: (steps, torch.from_numpy(norms)) for name, (steps, norms) in self.traces.items()}
        return {"last_probe": self.last_probe, "traces": traces}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_probe = state_dict["last_probe"]
        for name, (steps, norms) in state_dict["traces"].items():
            self.traces[name] = list(steps), norms.numpy()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.last_probe < 0:
            self._probe(trainer, pl_module)
        if not self.traces and trainer.is_global_zero:
            tell("gradient_flow: the network has no cell of torch or rnnlab, so that nothing is recorded.")

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if (trainer.global_step + 1) % self.every == 0:
            self.weights_before = [weight.detach().clone() for weight in pl_module.parameters()]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step % self.every == 0 and trainer.global_step != self.last_probe:
            self._probe(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.training and self.drawing.is_due():
            self._save_figure(trainer)

    def on_fit_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._save_figure(trainer)
        if self.traces and trainer.is_global_zero:
            rows = [
                (name, step, t, norm)
                for name, (steps, block) in self.traces.items()
                for step, norms in zip(steps, block, strict=True)
                for t, norm in enumerate(norms, 1)
            ]
            table = pd.DataFrame(rows, columns=["state", "optimizer_step", "t", "norm"])
            table.to_csv(Path(trainer.default_root_dir) / "gradient_flow.csv", index=False, na_rep="nan")

    on_exception = on_fit_end  # type: ignore[assignment]

    def _probe(self, trainer: pl.Trainer, task: Any) -> None:
        self.last_probe = trainer.global_step
        updates = {
            f"update/{name}": total_norm([weight.detach() - before]) / total_norm([before])
            for (name, weight), before in zip(task.named_parameters(), self.weights_before, strict=False)
        }
        self.weights_before = []
        task.gather()
        if trainer.is_global_zero and (scalars := self._scalars(trainer, task)):
            scalars |= updates
            tensors = [torch.as_tensor(value, dtype=torch.float64, device=task.device) for value in scalars.values()]
            values = torch.stack(tensors).tolist()  # waits for a GPU once
            metrics = {name: value for name, value in zip(scalars, values, strict=True) if np.isfinite(value)}
            for logger in trainer.loggers:
                logger.log_metrics(metrics, self.last_probe)
        task.scatter()

    def _scalars(self, trainer: pl.Trainer, task: Any) -> dict[str, Any]:
        """Scalars by name; keeps the norms of the gradients."""
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        batch = datamodule.example(self.batch_size).to(task.device)
        task.eval()
        with torch.enable_grad(), recorded(task.network) as layers:
            loss = task.probe_loss(batch)
        task.train()
        scalars: dict[str, Any] = {"gradient_flow/skipped_steps": task.guard.skipped} if layers else {}
        for layer, gradients in zip(layers, gradients_through_time(loss, layers), strict=True):
            suffix = "" if len(layers) == 1 else f" {layer.name}"
            found = {f"saturated/{name}": share for name, share in layer.saturation(batch.lengths).items()}
            for gate, weights in layer.recurrent.items():
                # exploded weights have no eigenvalues, neither have those of proj_size
                if weights.isfinite().all() and weights.shape[0] == weights.shape[1]:
                    name = f"_{gate}" if gate else ""
                    found[f"recurrent/radius{name}"] = torch.linalg.eigvals(weights).abs().max()
                    found[f"recurrent/norm{name}"] = torch.linalg.matrix_norm(weights, ord=2)
            for state, gradient in gradients.items():
                norms = norm_per_step(gradient, batch.lengths)
                self._append(f"{state}{suffix}", norms.cpu().numpy())
                first, last = norms[0].clamp_min(SMALLEST), norms[-1].clamp_min(SMALLEST)
                lost = (last.log10() - first.log10()) / max(1, len(norms) - 1)
                prefix = "gradient_flow/cell_" if state == "c" else "gradient_flow/"
                found |= {f"{prefix}first_over_last": first / last, f"{prefix}decades_per_step": lost}
            scalars |= {f"{name}{suffix}": value for name, value in found.items()}
        return scalars

    def _append(self, name: str, norms: np.ndarray) -> None:
        # one block for each state: small arrays between large tensors fragment the heap
        steps, block = self.traces.get(name, ([], norms[None][:0]))
        if block.shape[1] != len(norms):  # resumed with another seq_len
            steps, block = [], norms[None][:0]
        self.traces[name] = [*steps, self.last_probe], np.vstack((block, norms))

    def _save_figure(self, trainer: pl.Trainer) -> None:
        if self.traces and trainer.is_global_zero:
            with self.drawing:
                save_figure(trainer, "gradient_flow", plot(self.traces))
