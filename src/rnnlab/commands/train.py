"""The five steps of a run."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import takewhile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from rnnlab.config import repository
from rnnlab.nn import min_rnn
from rnnlab.sweeps import jobs
from rnnlab.training import checkpoint, distributed, environment, loggers, processes, run_record
from rnnlab.training.callbacks.checkpoints import BestAndLast
from rnnlab.training.callbacks.signals import Stop, exit_on_signal
from rnnlab.training.devices import check_devices
from rnnlab.training.dry_run import check_run
from rnnlab.training.trainer import check_fits, make_parts, make_trainer, plain_parts, quiet, report, score
from rnnlab.utils.console import tell
from rnnlab.utils.errors import UserError, require
from rnnlab.utils.figures import tensorboard_loggers, verbatim

INTERRUPTED = ("running", "stopped", "killed")  # as statuses

gc.freeze()  # what is imported stays: collecting garbage, as a sweep does often, need not look at it


def train(cfg: DictConfig) -> float | None:
    """Fit a composed config, test its best checkpoint, and leave everything in the run's folder.

    A run whose folder holds the beginning of the same run, because that was stopped or killed, goes on with it; a job
    of a sweep that is finished already is not run again.

    **Returns:** the best value of `cfg.monitor`, for a sweep to compare; `None` if it was pruned.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    overrides: Any = OmegaConf.to_container(hydra.overrides.task)  # as they were given, references too
    swept = hydra.mode == RunMode.MULTIRUN
    before = run_record.read(folder)
    same = _but_for_ckpt(before.get("overrides")) == _but_for_ckpt(overrides)
    left = run_record.status(before) if same else "nothing"
    require(
        processes.is_child()
        or processes.under_external_launcher()
        or run_record.status(before) != "running"
        or not run_record.on_this_host(before),
        f"{folder}: process {before.get('pid')} is at this run. Wait for it, or choose another folder.",
    )
    if swept and left in run_record.DONE:
        tell(f"{folder} is finished already.")
        return before["score"]
    try:
        check_run(cfg)
    except UserError:
        untouched = before and left != "failed"  # a run that was in this folder is none the worse
        with nullcontext() if untouched else run_record.Record(folder, overrides, writes=processes.is_global_zero()):
            raise
    kept = checkpoint.kept(folder)
    goes_on = cfg.ckpt is None and bool(kept) and _is_interrupted(left)
    resume = str(checkpoint.newest(kept)) if goes_on else _find(cfg.ckpt, kept)
    of_its_own = resume is not None and Path(resume).resolve().parent == (folder / "checkpoints").resolve()
    interrupted = bool(kept) and run_record.status(before) in INTERRUPTED
    require(
        of_its_own or not processes.is_global_zero() or not interrupted or (same and cfg.ckpt is None),
        f"{folder} holds another run, which was interrupted: this one would replace its checkpoint. Choose another "
        "folder, or delete it.",
    )
    about = run_record.Record(folder, overrides, goes_on, interrupted, writes=processes.is_global_zero())
    if swept and "joblib" in hydra.launcher._target_:
        processes.end_with(os.getppid())  # else its workers outlive a sweep that is killed
    with about, exit_on_signal():
        about.note(settings=_all_settings(cfg), monitor=cfg.monitor, mode=cfg.mode)
        processes.set_world_size(cfg.trainer)
        check_devices(cfg.trainer)
        quiet()
        if processes.is_global_zero():
            environment.note(folder, of_its_own)
        about.note(score=_train(cfg, folder, resume, of_its_own, bool(before or kept) and not of_its_own, about))
    if swept:
        jobs.tell_progress(Path(hydra.sweep.dir))
    return about.content["score"]


def _is_interrupted(left: str) -> bool:
    """Whether what was left in this run's folder is to go on; all processes of a run must come to the same answer."""
    if processes.under_external_launcher():
        return processes.started_again()
    return left in INTERRUPTED and not processes.is_child()  # who is told what to resume


def _clear(folder: Path) -> None:
    """Leave no results of the run that a folder held, of which this run is not the end, beside those of this one.

    Its checkpoints and logs are kept under other names: the next start might take them for this run's.
    """
    tell(f"this run replaces the one that was in {folder}")
    for name in ("metrics.json", "curves.json"):
        (folder / name).unlink(missing_ok=True)
    for path in (folder / "checkpoints").glob("*.ckpt"):
        path.replace(path.with_suffix(".old"))
    loggers.set_aside(folder)


def _but_for_ckpt(overrides: Any) -> list[str]:
    """What tells a run from others: not where it goes on from."""
    given = overrides if isinstance(overrides, list) else []
    return sorted(str(override) for override in given if not str(override).startswith("ckpt="))


def _train(
    cfg: DictConfig, folder: Path, resume: str | None, of_its_own: bool, replaces: bool, about: run_record.Record
) -> float | None:
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    datamodule, model = make_parts(cfg)
    if cfg.compile:
        min_rnn.scan = torch.compiler.disable(min_rnn.scan)  # a loop over time, which would be unrolled
        model.network.compile()  # in place: the names of the weights stay as they are
    about.note(parameters=sum(weight.numel() for weight in model.parameters()))
    if resume:
        saved = checkpoint.load(resume)
        check_fits(f"ckpt={resume}", saved, model, cfg, "optim.optimizer._target_", "optim.lr")
        require(
            checkpoint.fits_optimizer(saved, model),
            f"ckpt={resume} does not hold the optimizer of this network. init_from=PATH takes its weights alone.",
        )
        tell(f"goes on at step {saved['global_step']}: {resume}")
    every = cfg.checkpoint.every_minutes
    which = _but_for_ckpt(about.content["overrides"])
    keeper = BestAndLast(folder / "checkpoints", cfg.monitor, cfg.mode, plain_parts(cfg), every, which)
    if resume and Path(resume).absolute() == keeper.last.absolute():
        keeper.saved_step = saved["global_step"]  # if nothing is left to train, it stays as it is
    if processes.is_global_zero():
        if of_its_own:
            for path in takewhile(lambda path: not path.samefile(str(resume)), checkpoint.kept(folder)):
                path.replace(path.with_suffix(".old"))  # it is newer: what it knows of the logs is taken back now
            loggers.rewind(folder, saved["rnnlab"].get("written", {}))
        elif replaces:
            _clear(folder)
        if resume:
            keeper.inherit(Path(resume), saved)
    with distributed.own_job(cfg.trainer, *([f"ckpt={repository.quoted(resume)}"] if resume else [])):
        trainer = make_trainer(cfg, folder, keeper, Stop(keeper))
        together, added_up = trainer.num_devices * trainer.num_nodes, trainer.accumulate_grad_batches
        if together * added_up > 1:
            batch = f"{together} processes x {added_up} batches x {datamodule.batch_size}"
            tell(f"batch of a step: {together * added_up * datamodule.batch_size} = {batch}")
        for board in tensorboard_loggers(trainer):
            board.log_hyperparams(_settings(cfg))
            if not of_its_own:
                board.experiment.add_text("config", verbatim(OmegaConf.to_yaml(cfg, resolve=True)))
        about.trained = True
        with _goes_on(trainer, resume, saved) if resume else nullcontext():
            trainer.fit(model, datamodule=datamodule, ckpt_path=resume, weights_only=True)
        best = trainer.strategy.broadcast(str(keeper.best))
        score(trainer, model, datamodule, best)
        model.gather()  # on every rank, for what the first shows
        if trainer.is_global_zero:
            scores = report(trainer, model, datamodule, folder)
            if tensorboard_loggers(trainer):
                _compare(cfg, trainer, scores, checkpoint.load(best)["global_step"])
            tell(f"to see it: tensorboard --logdir {_logs(folder)}")
    return keeper.best_score


@contextmanager
def _goes_on(trainer: pl.Trainer, path: str, saved: dict[str, Any]) -> Iterator[None]:
    """Around a fit that goes on from a checkpoint: that it takes no step is the checkpoint's fault."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if trainer.global_step > saved["global_step"] or distributed.is_loss(error):
            raise
        raise UserError(
            f"ckpt={path} does not hold what a run needs to go on: {type(error).__name__}: {error}. Use another, or "
            "init_from=PATH for its weights alone. HYDRA_FULL_ERROR=1 shows where."
        ) from error


def _find(ckpt: str | None, kept: list[Path]) -> str | None:
    """The path of `ckpt`; of `last` the newest of those kept in this run's folder or, if there are none, beside it."""
    if ckpt != "last":
        return ckpt and str(ckpt)
    beside = Path(HydraConfig.get().run.dir).parent
    found = kept or [path for folder in beside.glob("*/") for path in checkpoint.kept(folder)]
    require(bool(found), f"ckpt=last: there is no checkpoint below {beside}. Train without ckpt= first.")
    return str(checkpoint.newest(found))


def _compare(cfg: DictConfig, trainer: pl.Trainer, scores: dict[str, float], step: int) -> None:
    """A row in TensorBoard's HParams table: the settings of this run and its test metrics, which belong to `step`."""
    from torch.utils.tensorboard.summary import hparams  # only with this logger

    # The first part would declare the table's columns. TensorBoard takes those of any one run for all; without them it
    # shows the columns of every run, those that differ first.
    settings = {name: _shown(value) for name, value in _settings(cfg).items() if value is not None}
    _, start, end = hparams(settings, scores)
    for board in tensorboard_loggers(trainer):
        board.log_metrics(scores, step)
        for part in (start, end):
            board.experiment._get_file_writer().add_summary(part, step)
        board.finalize("success")


def _all_settings(cfg: DictConfig) -> dict[str, Any]:
    """Every group chosen and every value, by name."""
    choices = {group: option for group, option in HydraConfig.get().runtime.choices.items() if "/" not in group}
    content: Any = OmegaConf.to_container(cfg, resolve=True)
    return {**dict(repository.flatten(content)), **choices}


def _shown(value: Any) -> Any:
    """A value for TensorBoard's table, which knows numbers and strings, and would take true for 1.0."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, int | float) else str(value)


def _settings(cfg: DictConfig) -> dict[str, Any]:
    """What tells one run from another: the groups chosen, and the values set by hand."""
    hydra = HydraConfig.get()
    settings = {group: hydra.runtime.choices[group] for group in ("data", "model", "cell", "optim")}
    set_by_hand = {override.lstrip("+~").split("=")[0] for override in hydra.overrides.task}
    for key, value in repository.flatten(OmegaConf.to_container(cfg, resolve=True)):
        if key in set_by_hand - {"trial"} | {"seed", "optim.lr", "cell.hidden_size"}:
            settings[key] = value
    return settings


def _logs(folder: Path) -> Path:
    """The `logs` folder above a run, or the run's own."""
    return next((parent for parent in folder.parents if parent.name == "logs"), folder)
