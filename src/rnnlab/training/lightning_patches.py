"""Changes to Lightning that have no public way; each has a test that fails when Lightning changes."""

from typing import Any

import lightning.pytorch as pl

_module_setattr = pl.LightningModule.__setattr__


def disable_signal_handling(trainer: pl.Trainer) -> None:
    """Leave signals to `callbacks.signals`.

    Lightning broadcasts in its signal handler, which may hang, and again in every step, which waits for the GPU.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def update_plateau_schedulers(trainer: pl.Trainer) -> None:
    """Let schedulers that wait for a metric take their step in the epoch in which a run resumes, too.

    Lightning leaves it out, since it does not restore the metrics; `BestAndLast` does. The public `restarting` of the
    loop cannot be set to false while steps limit the run.
    """
    trainer.fit_loop._restarting = False


def speed_up_hooks() -> None:
    """Set the name of the current hook directly, which Lightning does 40 times a step.

    `nn.Module.__setattr__` looks for parameters and submodules first: a twentieth of the time of a small network.
    """
    pl.LightningModule.__setattr__ = _set_attribute  # type: ignore[method-assign,assignment]


def _set_attribute(module: pl.LightningModule, name: str, value: Any) -> None:
    (object.__setattr__ if name == "_current_fx_name" else _module_setattr)(module, name, value)
