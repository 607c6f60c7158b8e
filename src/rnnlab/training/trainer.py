"""Builds the parts of a run and evaluates it."""

import json
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from hydra.utils import get_class, instantiate
from lightning.fabric.utilities.warnings import PossibleUserWarning
from omegaconf import DictConfig

from rnnlab.data.base import SequenceData
from rnnlab.data.spec import SequenceSpec
from rnnlab.tasks.base import Task
from rnnlab.training import checkpoint, dry_run
from rnnlab.training.callbacks.checkpoints import AtomicIO
from rnnlab.training.callbacks.random_state import RandomNumbers
from rnnlab.training.devices import use_tf32
from rnnlab.training.lightning_patches import speed_up_hooks
from rnnlab.training.start import check_fits
from rnnlab.utils.console import tell
from rnnlab.utils.errors import UserError
from rnnlab.utils.files import write_atomically


def make_parts(cfg: DictConfig) -> tuple[SequenceData, Task]:
    """The data, set up, and a model of their sizes; `init_from` gives weights and vocabulary.

    **Raises:** `UserError` if the model reads another kind of data.
    """
    use_tf32(cfg.tf32, cfg.trainer.precision)
    datamodule = instantiate(cfg.data)
    task: Any = get_class(cfg.model._target_)
    saved = checkpoint.load(cfg.init_from, "init_from") if cfg.init_from else None
    if saved and saved["hyper_parameters"]["spec"]["kind"] == task.kind in datamodule.kinds:
        datamodule.spec = SequenceSpec(**saved["hyper_parameters"]["spec"])
    datamodule.prepare_data()
    datamodule.setup("fit")
    if task.kind != datamodule.spec.kind:
        raise UserError(dry_run.mismatch(cfg.model._target_, cfg.data._target_, datamodule.spec.kind))
    model = instantiate(cfg.model, spec=datamodule.spec.as_dict())
    if saved:
        check_fits(f"init_from={cfg.init_from}", saved, model, cfg)
        model.load_state_dict(saved["state_dict"])
    return datamodule, model


def make_trainer(cfg: DictConfig, folder: Path, *callbacks: pl.Callback) -> pl.Trainer:
    """The trainer of a config, with `callbacks` beside those of the config; `folder` is the run's."""
    speed_up_hooks()
    configured = [instantiate(callback) for callback in cfg.callbacks.values() if callback is not None]
    return instantiate(
        cfg.trainer,
        callbacks=[RandomNumbers(), *configured, *callbacks],
        logger=[instantiate(logger) for logger in cfg.logger.values() if logger is not None],
        plugins=[AtomicIO()],
        enable_progress_bar=cfg.callbacks.get("progress") is not None,
        default_root_dir=folder,
    )


IGNORED_WARNINGS = (
    ".*callbacks used to create the checkpoint need to be provided.*",  # callbacks may change between starts
    ".*not part of single contiguous chunk of memory.*",  # shards, 16 bits, and cells whose weights are probed
    ".*AccumulateGrad node's stream does not match.*",  # Lightning prepares DDP on another stream
    "TensorFloat32 tensor cores .* available but not enabled.*",  # tf32=false is a choice
    ".*Total length of `list` across ranks is zero.*",  # data without a validation split
    ".*was called before the ``update`` method.*",  # a validation without a sample, with debug=overfit
    r".*isinstance\(treespec, LeafSpec\).*",  # lightning 2.6 calls what torch 2.13 deprecates
)


def quiet() -> None:
    """Send Lightning's messages to the log only, and ignore warnings that do not apply."""
    logging.getLogger("lightning").handlers.clear()  # Hydra's handlers have them already
    warnings.filterwarnings("ignore", category=PossibleUserWarning)  # workers, resumable loaders, unused GPUs
    for pattern in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", pattern)


def score(trainer: pl.Trainer, model: Task, datamodule: SequenceData, ckpt: str | None = None) -> None:
    """Test, or validate where the data have no test split."""
    if {"test", "val"}.isdisjoint(datamodule.splits):
        tell("Nothing is scored: the data have no validation or test split.")
        return
    evaluate = trainer.test if "test" in datamodule.splits else trainer.validate
    evaluate(model, datamodule=datamodule, ckpt_path=ckpt, weights_only=True, verbose=False)


def report(trainer: pl.Trainer, model: Task, datamodule: SequenceData, folder: Path) -> dict[str, float]:
    """Print the test metrics and an example of what the model predicts; write `metrics.json`."""
    split = "test/" if "test" in datamodule.splits else "val/"
    scores = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith(split)}
    finite = {name: score if math.isfinite(score) else None for name, score in scores.items()}  # JSON has no nan
    write_atomically(folder / "metrics.json", json.dumps(finite, indent=2) + "\n")
    if scores:
        tell(model.table(scores))
    model.eval()  # without dropout
    if (text := model.text(datamodule.example(1))) is not None:
        tell(text)
    tell(f"run folder: {folder}")
    return scores
