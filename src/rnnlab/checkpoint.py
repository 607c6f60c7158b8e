"""Checkpoints: written so that one survives whatever happens, read so that nothing in them runs."""

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from hydra.errors import HydraException
from hydra.utils import get_class
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from rnnlab import conf
from rnnlab.errors import UserError, require
from rnnlab.guard import largest

FORMAT = 1


class AtomicIO(TorchCheckpointIO):
    """Writes beside the destination, flushes to disk, then renames: a reader sees the old file or the whole new one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


class BestAndLast(Checkpoint):
    """Keeps `last.ckpt` and `best.ckpt`, both decided after each validation and at the end of training.

    torch's random numbers, which differ between ranks, go on where a checkpoint left them, so that a resumed run draws
    the same dropout.

    **Arguments:**

    - `folder`: where they go.
    - `monitor`, `mode`: the metric that decides, and whether `"min"` or `"max"` of it is best.
    - `config`: plain dicts `model` and `data`, from which a checkpoint alone can be evaluated.

    **Raises:** `UserError` if a weight or the monitored metric is infinite or not a number, instead of saving it, and
    after a validation that did not measure `monitor`.
    """

    def __init__(self, folder: Path, monitor: str, mode: str, config: dict[str, Any]):
        self.last, self.best = folder / "last.ckpt", folder / "best.ckpt"
        self.monitor = monitor
        self.sign = 1 if mode == "min" else -1
        self.config = config
        self.best_score: float | None = None
        self.saved_step = -1
        self.rank = 0
        self.random_states: list[list[torch.Tensor]] | None = None  # of each rank

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step != self.saved_step:
            self._save(trainer)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        checkpoint["rnnlab"] = {"format": FORMAT, **self.config}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.rank = trainer.global_rank
        if self.rank > 0:  # until now every rank drew the same, for the same weights
            torch.manual_seed(torch.initial_seed() + self.rank)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, i: int) -> None:
        if self.random_states is not None:  # only now has all been built that draws random numbers
            if self.rank < len(self.random_states):  # else it draws what no other does
                cpu, *gpus = self.random_states[self.rank]
                torch.set_rng_state(cpu)
                if len(gpus) == torch.cuda.device_count():
                    torch.cuda.set_rng_state_all(gpus)
            self.random_states = None

    def state_dict(self) -> dict[str, Any]:
        mine = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
        random_states = [mine]
        if dist.is_initialized():
            random_states *= dist.get_world_size()
            dist.all_gather_object(random_states, mine)
        return {"monitor": self.monitor, "best_score": self.best_score, "random_states": random_states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.best.exists() and state_dict["monitor"] == self.monitor:
            self.best_score = state_dict["best_score"]
        self.random_states = state_dict["random_states"]

    def inherit(self, resumed: str | Path) -> None:
        """Take over the best checkpoint of the run that `resumed` belongs to, so that it stays the one to beat."""
        best = Path(resumed).with_name("best.ckpt")
        if best.exists() and not self.best.exists():
            self.best.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(best, self.best)

    def _save(self, trainer: pl.Trainer) -> None:
        size = largest([weight.detach() for weight in trainer.lightning_module.parameters()])
        _require_finite("a weight", size.item(), trainer.global_step)
        improved = self._improved(trainer)
        trainer.save_checkpoint(self.last)
        self.saved_step = trainer.global_step
        if trainer.is_global_zero and (improved or not self.best.exists()):
            # last.ckpt is replaced, never written into, so best.ckpt can be a second name of the same file
            partial = self.best.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            try:
                os.link(self.last, partial)
            except OSError:  # a file system without links
                shutil.copyfile(self.last, partial)
            partial.replace(self.best)

    def _improved(self, trainer: pl.Trainer) -> bool:
        measured = trainer.callback_metrics
        if not measured:  # no validation set: the latest is the best
            return True
        if self.monitor not in measured:
            names = ", ".join(sorted(measured))
            raise UserError(f"monitor={self.monitor} is not measured by the validation. It measures: {names}.")
        score = float(measured[self.monitor])
        _require_finite(self.monitor, score, trainer.global_step)
        if self.best_score is not None and self.sign * score >= self.sign * self.best_score:
            return False
        self.best_score = score
        return True


def _require_finite(what: str, value: float, step: int) -> None:
    require(
        math.isfinite(value),
        f"{what} is {value} at step {step}. The checkpoints of earlier steps are intact. "
        "Try a smaller optim.lr, or trainer.gradient_clip_val=1.0.",
    )


def _targets(node: Any) -> Iterator[Any]:
    """The value of every `_target_` in nested dicts and lists."""
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "_target_")
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ():
        yield from _targets(child)


def newest(folder: Path) -> Path:
    """The `last.ckpt` that was written last by any run in `folder`.

    **Raises:** `UserError` if there is none.
    """
    found = sorted(folder.glob("*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    require(bool(found), f"ckpt=last: there is no checkpoint below {folder}. Train without ckpt= first.")
    return found[-1]


def load(path: str | Path, key: str = "ckpt") -> dict[str, Any]:
    """Read a checkpoint that rnnlab wrote, onto the CPU, running none of its content.

    **Arguments:**

    - `key`: the setting that names it, for messages.

    **Raises:** `UserError` if it is missing, damaged, or not from rnnlab.
    """
    path = Path(str(path))  # ckpt=5 arrives as a number
    require(path.is_file(), f"{key}={path}: there is no such file. Checkpoints are in a run's checkpoints/ folder.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises nearly anything for a damaged file
        raise UserError(
            f"{key}={path} is damaged or not a checkpoint ({type(error).__name__}). Use another."
        ) from error
    try:
        parts = checkpoint["rnnlab"]["model"], checkpoint["rnnlab"]["data"], checkpoint["hyper_parameters"]["spec"]
        ours = all(isinstance(part, dict) for part in (*parts, checkpoint["state_dict"]))
    except (KeyError, TypeError):
        ours = False
    require(ours, f"{key}={path} is not a checkpoint of rnnlab. Use one from a run's checkpoints/ folder.")
    found = checkpoint["rnnlab"].get("format")
    require(found == FORMAT, f"{key}={path} has format {found}, this version reads {FORMAT}: update rnnlab.")
    return checkpoint


def build(config: dict[str, Any], path: str | Path, **kwargs: Any) -> Any:
    """Build a part of a checkpoint, if every `_target_` in it is one that the local `conf/` names too.

    **Raises:** `UserError` for any other target, before anything is imported, and if the part cannot be built.
    """
    allowed = set(conf.targets().values())
    strange = sorted({str(name) for name in _targets([config, kwargs]) if name not in allowed})
    require(
        not strange,
        f"ckpt={path} asks for {', '.join(strange)}, which no yaml in conf/ names. If you trust it, add one that does.",
    )
    arguments = {key: value for key, value in config.items() if key not in ("_target_", "_recursive_", "_convert_")}
    inner = [value for value in arguments.values() if isinstance(value, dict | list | tuple)]
    require("${" not in repr(inner), f"ckpt={path} holds ${{...}}, which would be worked out on loading. Use another.")
    try:
        return get_class(config["_target_"])(**arguments, **kwargs)
    except (AttributeError, KeyError, TypeError, ValueError, HydraException) as error:
        raise UserError(f"ckpt={path} describes what cannot be built: {error}") from error


def load_parts(path: str | Path, data: dict[str, Any]) -> tuple[Any, Any]:
    """The trained model of a checkpoint and its data, not set up yet.

    **Arguments:**

    - `data`: settings that differ from those in training; with a `_target_`, other data.

    **Raises:** `UserError`, see `load`, `build` and `load_weights`.
    """
    saved = load(path)
    unknown = [] if "_target_" in data else [key for key in data if key not in saved["rnnlab"]["data"]]
    known = ", ".join(key for key in saved["rnnlab"]["data"] if not key.startswith("_"))
    require(not unknown, f"data.{', data.'.join(unknown)}: no setting of the checkpoint's data, which has {known}.")
    model = build(saved["rnnlab"]["model"], path, spec=saved["hyper_parameters"]["spec"])
    load_weights(model, saved, path)
    datamodule = build(data if "_target_" in data else {**saved["rnnlab"]["data"], **data}, path)
    if model.kind in datamodule.kinds:
        datamodule.spec = model.spec
    return model, datamodule


def load_weights(model: pl.LightningModule, checkpoint: dict[str, Any], path: str | Path) -> None:
    """Give a model that was built from a checkpoint its weights.

    **Raises:** `UserError` if they are not those of the network that the checkpoint describes.
    """
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(f"ckpt={path} does not hold the weights of the network that it describes.") from error
