"""The five steps of a run: config, data, model, trainer, fit and test."""

import os
from itertools import takewhile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from rnnlab.config.repository import quoted
from rnnlab.nn import min_rnn
from rnnlab.sweeps.sweep import print_progress
from rnnlab.tasks.base import Task
from rnnlab.training import checkpoint, distributed, environment, loggers, processes, run_record
from rnnlab.training.callbacks.checkpoints import BestAndLast
from rnnlab.training.callbacks.signals import Stop, exit_on_signal
from rnnlab.training.checkpoint_file import fits_optimizer, kept
from rnnlab.training.devices import check_devices
from rnnlab.training.dry_run import check_run
from rnnlab.training.hparams import all_settings, chosen_settings, log_hparams
from rnnlab.training.start import Start, check_fits, decide_start, identity, plain_parts
from rnnlab.training.trainer import make_parts, make_trainer, quiet, report, score
from rnnlab.utils.console import tell
from rnnlab.utils.errors import require
from rnnlab.utils.figures import tensorboard_loggers, verbatim


def train(cfg: DictConfig) -> float | None:
    """Check a composed config, fit it, test its best checkpoint.

    **Returns:** the best value of `cfg.monitor`, for a sweep to compare; `None` if the run was pruned.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    overrides: Any = OmegaConf.to_container(hydra.overrides.task)  # not resolved
    swept = hydra.mode == RunMode.MULTIRUN
    writes = processes.is_global_zero()
    role = writes, processes.under_external_launcher(), processes.is_restart()
    start = decide_start(folder, overrides, cfg.ckpt, Path(hydra.run.dir).parent, swept, *role)
    if start.message:
        tell(start.message)
    if start.kind == "finished":
        return run_record.read(folder)["score"]
    if swept and "joblib" in hydra.launcher._target_:
        processes.exit_with_parent(os.getppid())  # else its workers outlive a sweep that is killed
    with run_record.Record(folder, overrides, start.kind == "own", writes) as record, exit_on_signal():
        check_run(cfg)
        record.note(settings=all_settings(cfg), monitor=cfg.monitor, mode=cfg.mode)
        processes.set_world_size(cfg.trainer)
        check_devices(cfg.trainer)
        quiet()
        if writes:
            environment.note(folder, start.kind == "own")
        record.note(score=_train(cfg, folder, start, record))
    if swept:
        print_progress(Path(hydra.sweep.dir))
    return record.content["score"]


def _train(cfg: DictConfig, folder: Path, start: Start, record: run_record.Record) -> float | None:
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    datamodule, model = make_parts(cfg)
    if cfg.compile:
        min_rnn.scan = torch.compiler.disable(min_rnn.scan)  # a loop over time, which would be unrolled
        model.network.compile()  # in place, so that weights keep their names
    record.note(parameters=sum(weight.numel() for weight in model.parameters()))
    minutes, run = cfg.checkpoint.every_minutes, identity(record.content["overrides"])
    keeper = BestAndLast(folder / "checkpoints", cfg.monitor, cfg.mode, plain_parts(cfg), minutes, run)
    saved = _load(start.ckpt, model, cfg) if start.ckpt else None
    if processes.is_global_zero():
        _prepare_folder(folder, start, saved, record)
    if start.ckpt and saved:
        keeper.inherit(start.ckpt, saved, processes.is_global_zero())
    trainer = make_trainer(cfg, folder, keeper, Stop(keeper))
    with distributed.process_group(trainer, *([f"ckpt={quoted(str(start.ckpt))}"] if start.ckpt else [])):
        _tell_batch_size(trainer, datamodule.batch_size)
        for board in tensorboard_loggers(trainer):
            board.log_hyperparams(chosen_settings(cfg))
            if start.kind != "own":
                board.experiment.add_text("config", verbatim(OmegaConf.to_yaml(cfg, resolve=True)))
        record.previous = {}  # the folder is about to change
        trainer.fit(model, datamodule=datamodule, ckpt_path=start.ckpt, weights_only=True)
        best = trainer.strategy.broadcast(str(keeper.best))
        score(trainer, model, datamodule, best)
        model.gather()  # on every rank, for what the first shows
        if trainer.is_global_zero:
            scores = report(trainer, model, datamodule, folder)
            if scores and tensorboard_loggers(trainer):
                log_hparams(cfg, trainer, scores, checkpoint.load(best)["global_step"])
            logs = next((parent for parent in folder.parents if parent.name == "logs"), folder)
            tell(f"to see it: tensorboard --logdir {logs}")
    return keeper.best_score


def _load(ckpt: Path, model: Task, cfg: DictConfig) -> dict[str, Any]:
    """The checkpoint to resume from."""
    saved = checkpoint.load(ckpt)
    check_fits(f"ckpt={ckpt}", saved, model, cfg, "optim.")  # whose state restores its settings, too
    fits = fits_optimizer(saved, model)
    require(fits, f"ckpt={ckpt} does not hold the optimizer of this network. init_from=PATH takes its weights alone.")
    tell(f"goes on at step {saved['global_step']}: {ckpt}")
    return saved


def _prepare_folder(folder: Path, start: Start, saved: dict[str, Any] | None, record: run_record.Record) -> None:
    """Take back what was logged after the checkpoint, or rename what another run left, so that the two do not mix."""
    if saved and start.kind == "own":
        for path in takewhile(lambda path: not path.samefile(str(start.ckpt)), kept(folder)):
            path.replace(path.with_suffix(".old"))  # newer: what it knows of the logs is taken back now
        loggers.rewind(folder, saved["global_step"], saved["rnnlab"].get("written", {}))
    elif start.replaces:
        tell(f"this run replaces the one that was in {folder}")
        record.previous = {}
        for name in ("metrics.json", "curves.json"):
            (folder / name).unlink(missing_ok=True)
        for path in (folder / "checkpoints").glob("*.ckpt"):
            path.replace(path.with_suffix(".old"))
        loggers.set_aside(folder)


def _tell_batch_size(trainer: pl.Trainer, size: int) -> None:
    ranks, batches = trainer.num_devices * trainer.num_nodes, trainer.accumulate_grad_batches
    if ranks * batches > 1:
        tell(f"batch of a step: {ranks * batches * size} = {ranks} processes x {batches} batches x {size}")
