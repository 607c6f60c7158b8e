"""The five steps of a run."""

import gc
import json
import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import takewhile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from rnnlab import atomic, checkpoint, conf, environment, fit, launch, loggers, processes, record, sweep
from rnnlab.callbacks.checkpoints import AtomicIO, BestAndLast
from rnnlab.callbacks.random_numbers import RandomNumbers
from rnnlab.callbacks.stop import Stop, at_once
from rnnlab.cells import minimal
from rnnlab.check import check
from rnnlab.console import tell
from rnnlab.data.base import SequenceData
from rnnlab.devices import check_devices, use_tf32
from rnnlab.errors import UserError, require
from rnnlab.figures import boards, verbatim
from rnnlab.spec import SequenceSpec
from rnnlab.tasks.base import Task

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
    before = record.read(folder)
    same = _but_for_ckpt(before.get("overrides")) == _but_for_ckpt(overrides)
    left = record.status(before) if same else "nothing"
    require(
        processes.is_child() or processes.by_others() or record.status(before) != "running" or not record.here(before),
        f"{folder}: process {before.get('pid')} is at this run. Wait for it, or choose another folder.",
    )
    if swept and left in record.DONE:
        tell(f"{folder} is finished already.")
        return before["score"]
    try:
        check(cfg)
    except UserError:
        untouched = before and left != "failed"  # a run that was in this folder is none the worse
        with nullcontext() if untouched else record.Record(folder, overrides, writes=processes.is_first()):
            raise
    kept = checkpoint.kept(folder)
    goes_on = cfg.ckpt is None and bool(kept) and _is_interrupted(left)
    resume = str(checkpoint.newest(kept)) if goes_on else _find(cfg.ckpt, kept)
    of_its_own = resume is not None and Path(resume).resolve().parent == (folder / "checkpoints").resolve()
    interrupted = bool(kept) and record.status(before) in INTERRUPTED
    require(
        of_its_own or not processes.is_first() or not interrupted or (same and cfg.ckpt is None),
        f"{folder} holds another run, which was interrupted: this one would replace its checkpoint. Choose another "
        "folder, or delete it.",
    )
    about = record.Record(folder, overrides, goes_on, interrupted, writes=processes.is_first())
    if swept and "joblib" in hydra.launcher._target_:
        processes.end_with(os.getppid())  # else its workers outlive a sweep that is killed
    with about, at_once():
        about.note(settings=_all_settings(cfg), monitor=cfg.monitor, mode=cfg.mode)
        processes.settle(cfg.trainer)
        check_devices(cfg.trainer)
        quiet()
        if processes.is_first():
            environment.note(folder, of_its_own)
        about.note(score=_train(cfg, folder, resume, of_its_own, bool(before or kept) and not of_its_own, about))
    if swept:
        sweep.tell_progress(Path(hydra.sweep.dir))
    return about.content["score"]


def _is_interrupted(left: str) -> bool:
    """Whether what was left in this run's folder is to go on; all processes of a run must come to the same answer."""
    if processes.by_others():
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
    cfg: DictConfig, folder: Path, resume: str | None, of_its_own: bool, replaces: bool, about: record.Record
) -> float | None:
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    datamodule, model = make_parts(cfg)
    if cfg.compile:
        minimal.scan = torch.compiler.disable(minimal.scan)  # a loop over time, which would be unrolled
        model.network.compile()  # in place: the names of the weights stay as they are
    about.note(parameters=sum(weight.numel() for weight in model.parameters()))
    if resume:
        saved = checkpoint.load(resume)
        _check_fits(f"ckpt={resume}", saved, model, cfg, "optim.optimizer._target_", "optim.lr")
        require(
            checkpoint.fits_optimizer(saved, model),
            f"ckpt={resume} does not hold the optimizer of this network. init_from=PATH takes its weights alone.",
        )
        tell(f"goes on at step {saved['global_step']}: {resume}")
    every = cfg.checkpoint.every_minutes
    which = _but_for_ckpt(about.content["overrides"])
    keeper = BestAndLast(folder / "checkpoints", cfg.monitor, cfg.mode, _plain_parts(cfg), every, which)
    if resume and Path(resume).absolute() == keeper.last.absolute():
        keeper.saved_step = saved["global_step"]  # if nothing is left to train, it stays as it is
    if processes.is_first():
        if of_its_own:
            for path in takewhile(lambda path: not path.samefile(str(resume)), checkpoint.kept(folder)):
                path.replace(path.with_suffix(".old"))  # it is newer: what it knows of the logs is taken back now
            loggers.rewind(folder, saved["rnnlab"].get("written", {}))
        elif replaces:
            _clear(folder)
        if resume:
            keeper.inherit(Path(resume), saved)
    with launch.own_job(cfg.trainer, *([f"ckpt={conf.quoted(resume)}"] if resume else [])):
        trainer = make_trainer(cfg, folder, keeper, Stop(keeper))
        together, added_up = trainer.num_devices * trainer.num_nodes, trainer.accumulate_grad_batches
        if together * added_up > 1:
            batch = f"{together} processes x {added_up} batches x {datamodule.batch_size}"
            tell(f"batch of a step: {together * added_up * datamodule.batch_size} = {batch}")
        for board in boards(trainer):
            board.log_hyperparams(_settings(cfg))
            if not of_its_own:
                board.experiment.add_text("config", verbatim(OmegaConf.to_yaml(cfg, resolve=True)))
        about.trained = True
        with _goes_on(trainer, resume, saved) if resume else nullcontext():
            trainer.fit(model, datamodule=datamodule, ckpt_path=resume, weights_only=True)
        best = trainer.strategy.broadcast(str(keeper.best))
        _score(trainer, model, datamodule, best)
        model.gather()  # on every rank, for what the first shows
        if trainer.is_global_zero:
            scores = _tell(trainer, model, datamodule, folder)
            if boards(trainer):
                _compare(cfg, trainer, scores, checkpoint.load(best)["global_step"])
            tell(f"to see it: tensorboard --logdir {_logs(folder)}")
    return keeper.best_score


@contextmanager
def _goes_on(trainer: pl.Trainer, path: str, saved: dict[str, Any]) -> Iterator[None]:
    """Around a fit that goes on from a checkpoint: that it takes no step is the checkpoint's fault."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if trainer.global_step > saved["global_step"] or launch.is_loss(error):
            raise
        raise UserError(
            f"ckpt={path} does not hold what a run needs to go on: {type(error).__name__}: {error}. Use another, or "
            "init_from=PATH for its weights alone. HYDRA_FULL_ERROR=1 shows where."
        ) from error


def evaluate(cfg: DictConfig) -> None:
    """Test the checkpoint `cfg.ckpt` on the data that it was trained for, or on `cfg.data`.

    With `cfg.out` a table of what a classifier predicts is left there.
    """
    data: Any = OmegaConf.to_container(cfg.data, resolve=True)
    check(OmegaConf.create({"data": data, "trainer": cfg.trainer}))
    check_devices(cfg.trainer)
    quiet()
    use_tf32(False, cfg.trainer.precision)
    model, datamodule = checkpoint.load_parts(cfg.ckpt, data)
    out = None if cfg.out is None else str(cfg.out)
    if out is not None:
        from rnnlab import predictions

        predictions.check_out(out, str(cfg.ckpt), model, datamodule)
    datamodule.prepare_data()
    datamodule.setup("test")
    _check_same_sizes(model, datamodule)
    model.expect_tests(datamodule.spec.test_lengths)
    folder = Path(HydraConfig.get().runtime.output_dir)
    with launch.own_job(cfg.trainer):
        trainer = instantiate(cfg.trainer, logger=False, callbacks=[], enable_checkpointing=False,
                              enable_progress_bar=False, default_root_dir=folder)  # fmt: skip
        alone = trainer.num_devices * trainer.num_nodes == 1
        require(out is None or alone, f"out={out} is written by a single process: set trainer.devices=1.")
        _score(trainer, model, datamodule)
        model.gather()
        if trainer.is_global_zero:
            _tell(trainer, model, datamodule, folder)
        if out is not None:
            predictions.write(out, trainer, model, datamodule)
            tell(f"predictions: {out}")


def make_parts(cfg: DictConfig) -> tuple[SequenceData, Task]:
    """Data first, then a model of the data's sizes; with `init_from`, weights and vocabulary of that checkpoint.

    **Raises:** `UserError` if the model reads another kind of data; it names what fits.
    """
    use_tf32(cfg.tf32, cfg.trainer.precision)
    datamodule = instantiate(cfg.data)
    reads = _class(cfg.model._target_).kind
    start = checkpoint.load(cfg.init_from, "init_from") if cfg.init_from else None
    if start and start["hyper_parameters"]["spec"]["kind"] == reads in datamodule.kinds:
        datamodule.spec = SequenceSpec(**start["hyper_parameters"]["spec"])
    datamodule.prepare_data()
    datamodule.setup("fit")
    if reads != datamodule.spec.kind:
        targets = {"model": cfg.model._target_, "data": cfg.data._target_}
        raise UserError(fit.mismatch(reads, datamodule.spec.kind, targets))
    model = instantiate(cfg.model, spec=datamodule.spec.as_dict())
    if start:
        _check_fits(f"init_from={cfg.init_from}", start, model, cfg)
        model.load_state_dict(start["state_dict"])
    return datamodule, model


def make_trainer(cfg: DictConfig, folder: Path, *callbacks: pl.Callback) -> pl.Trainer:
    """The trainer of a config with its callbacks, its loggers and `callbacks`, at home in `folder`."""
    watchers = [instantiate(callback) for callback in cfg.callbacks.values() if callback is not None]
    return instantiate(
        cfg.trainer,
        callbacks=[RandomNumbers(), *watchers, *callbacks],
        logger=[instantiate(logger) for logger in cfg.logger.values() if logger is not None],
        plugins=[AtomicIO()],
        enable_progress_bar=cfg.callbacks.get("progress") is not None,
        default_root_dir=folder,
    )


def quiet() -> None:
    """Leave what Lightning says of every run to the log, and what does not hold here unsaid."""
    logging.getLogger("lightning").handlers.clear()  # Hydra's handlers have it already
    # whole batches come by index out of memory: workers would only add a copy
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    # they are resumed by their data module
    warnings.filterwarnings("ignore", ".*dataloader is not resumable.*")
    # the curves have a point at each validation, however short an epoch is
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    # what watched a run need not watch what resumes it
    warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint need to be provided.*")
    # a single process on a machine of a cluster is none of its jobs
    warnings.filterwarnings("ignore", ".*The `srun` command is available.*")
    # cuDNN copies the weights of a cell into one piece: of shards, of 16 bits, of a layer that gradient_flow looks at
    warnings.filterwarnings("ignore", ".*not part of single contiguous chunk of memory.*")
    # Lightning prepares DDP on another stream than it trains on
    warnings.filterwarnings("ignore", ".*AccumulateGrad node's stream does not match.*")
    # trainer=cpu was asked for
    warnings.filterwarnings("ignore", "GPU available but not used.*")
    # tf32=false is a choice
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores .* available but not enabled.*")
    # there may be no validation part
    warnings.filterwarnings("ignore", ".*Total length of `list` across ranks is zero.*")
    # debug=overfit scores what has nothing to be compared with
    warnings.filterwarnings("ignore", ".*was called before the ``update`` method.*")
    # lightning 2.6 calls what torch 2.13 deprecates
    warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\).*")


def _score(trainer: pl.Trainer, model: Task, datamodule: SequenceData, ckpt: str | None = None) -> None:
    """Test, or validate where the data have no test part."""
    how: dict[str, Any] = {"datamodule": datamodule, "ckpt_path": ckpt, "weights_only": True, "verbose": False}
    if "test" in datamodule.splits:
        trainer.test(model, **how)
    elif "val" in datamodule.splits:
        trainer.validate(model, **how)
    else:
        tell("Nothing is scored: the data have no validation or test part.")


def _class(target: str) -> Any:
    return get_class(target)


def _find(ckpt: str | None, kept: list[Path]) -> str | None:
    """The path of `ckpt`; of `last` the newest of those kept in this run's folder or, if there are none, beside it."""
    if ckpt != "last":
        return ckpt and str(ckpt)
    beside = Path(HydraConfig.get().run.dir).parent
    found = kept or [path for folder in beside.glob("*/") for path in checkpoint.kept(folder)]
    require(bool(found), f"ckpt=last: there is no checkpoint below {beside}. Train without ckpt= first.")
    return str(checkpoint.newest(found))


def _check_fits(what: str, saved: dict[str, Any], model: Task, cfg: DictConfig, *matters: str) -> None:
    """Compare a checkpoint with the run that is to start from it.

    **Raises:** `UserError` with what differs, if weights could not be loaded, tokens would mean something else, or a
    setting that begins with one of `matters` is another.
    """
    then = {**saved["rnnlab"]["model"], "spec": saved["hyper_parameters"]["spec"]}
    now = {**_plain_parts(cfg)["model"], "spec": model.spec.as_dict()}
    same_weights = checkpoint.shapes(saved["state_dict"]) == checkpoint.shapes(model.state_dict())
    sizes = ("spec.kind", "spec.vocab", "spec.input_size", "spec.output_size", "spec.seq_len", "spec.horizon")
    matters += ("spec.vocab",) if same_weights else ("cell.", "embedding", "tied", "patch", "head", *sizes)
    before = dict(conf.leaves(then))
    changed = [
        f"{key} is {_brief(value)} here and {_brief(before.get(key))} there"
        for key, value in conf.leaves(now)
        if key.startswith(matters) and value != before.get(key)
    ]
    if changed or not same_weights:
        differs = "; ".join(changed) or "other weights"
        tuned = " If it was fine-tuned, init_from=PATH gives its vocabulary." if "spec.vocab is" in differs else ""
        raise UserError(f"{what} does not fit this run: {differs}. Set it as it was, or leave {what} out.{tuned}")


def _brief(value: Any) -> Any:
    is_text = isinstance(value, list) and all(isinstance(sign, str) for sign in value)
    return f"{''.join(value)[:100]!r}" if is_text else value  # a vocabulary


def _plain_parts(cfg: DictConfig) -> dict[str, Any]:
    return {part: OmegaConf.to_container(cfg[part], resolve=True) for part in ("model", "data")}


def _check_same_sizes(model: Task, datamodule: SequenceData) -> None:
    here, there = datamodule.spec, model.spec
    for name in ("kind", "input_size", "output_size", "horizon", "every_step"):
        if getattr(here, name) != getattr(there, name):
            raise UserError(
                f"The data have {name} {getattr(here, name)}, the checkpoint was trained for {getattr(there, name)}."
            )


def _compare(cfg: DictConfig, trainer: pl.Trainer, scores: dict[str, float], step: int) -> None:
    """A row in TensorBoard's HParams table: the settings of this run and its test metrics, which belong to `step`."""
    from torch.utils.tensorboard.summary import hparams  # only with this logger

    # The first part would declare the table's columns. TensorBoard takes those of any one run for all; without them it
    # shows the columns of every run, those that differ first.
    settings = {name: _shown(value) for name, value in _settings(cfg).items() if value is not None}
    _, start, end = hparams(settings, scores)
    for board in boards(trainer):
        board.log_metrics(scores, step)
        for part in (start, end):
            board.experiment._get_file_writer().add_summary(part, step)
        board.finalize("success")


def _all_settings(cfg: DictConfig) -> dict[str, Any]:
    """Every group chosen and every value, by name."""
    choices = {group: option for group, option in HydraConfig.get().runtime.choices.items() if "/" not in group}
    content: Any = OmegaConf.to_container(cfg, resolve=True)
    return {**dict(conf.leaves(content)), **choices}


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
    for key, value in conf.leaves(OmegaConf.to_container(cfg, resolve=True)):
        if key in set_by_hand - {"trial"} | {"seed", "optim.lr", "cell.hidden_size"}:
            settings[key] = value
    return settings


def _tell(trainer: pl.Trainer, model: Task, datamodule: SequenceData, folder: Path) -> dict[str, float]:
    """The test metrics as a table and as `metrics.json`, what the model predicts, and where to find it all."""
    split = "test/" if "test" in datamodule.splits else "val/"
    scores = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith(split)}
    defined = {name: score if math.isfinite(score) else None for name, score in scores.items()}  # JSON has no nan
    atomic.write(folder / "metrics.json", json.dumps(defined, indent=2) + "\n")
    if scores:
        tell(model.table(scores))
    model.eval()  # without dropout
    if (text := model.text(datamodule.example(1))) is not None:
        tell(text)
    tell(f"run folder: {folder}")
    return scores


def _logs(folder: Path) -> Path:
    """The `logs` folder above a run, or the run's own."""
    return next((parent for parent in folder.parents if parent.name == "logs"), folder)
