"""Builds the parts of a run and evaluates it."""

import json
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from rnnlab.config import repository
from rnnlab.data.base import SequenceData
from rnnlab.data.spec import SequenceSpec
from rnnlab.tasks.base import Task
from rnnlab.training import checkpoint, dry_run
from rnnlab.training.callbacks.checkpoints import AtomicIO
from rnnlab.training.callbacks.random_state import RandomNumbers
from rnnlab.training.devices import use_tf32
from rnnlab.utils.console import tell
from rnnlab.utils.errors import UserError
from rnnlab.utils.files import write_atomically


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
        raise UserError(dry_run.mismatch(reads, datamodule.spec.kind, targets))
    model = instantiate(cfg.model, spec=datamodule.spec.as_dict())
    if start:
        check_fits(f"init_from={cfg.init_from}", start, model, cfg)
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


def score(trainer: pl.Trainer, model: Task, datamodule: SequenceData, ckpt: str | None = None) -> None:
    """Test, or validate where the data have no test part."""
    how: dict[str, Any] = {"datamodule": datamodule, "ckpt_path": ckpt, "weights_only": True, "verbose": False}
    if "test" in datamodule.splits:
        trainer.test(model, **how)
    elif "val" in datamodule.splits:
        trainer.validate(model, **how)
    else:
        tell("Nothing is scored: the data have no validation or test part.")


def report(trainer: pl.Trainer, model: Task, datamodule: SequenceData, folder: Path) -> dict[str, float]:
    """The test metrics as a table and as `metrics.json`, what the model predicts, and where to find it all."""
    split = "test/" if "test" in datamodule.splits else "val/"
    scores = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith(split)}
    defined = {name: score if math.isfinite(score) else None for name, score in scores.items()}  # JSON has no nan
    write_atomically(folder / "metrics.json", json.dumps(defined, indent=2) + "\n")
    if scores:
        tell(model.table(scores))
    model.eval()  # without dropout
    if (text := model.text(datamodule.example(1))) is not None:
        tell(text)
    tell(f"run folder: {folder}")
    return scores


def check_fits(what: str, saved: dict[str, Any], model: Task, cfg: DictConfig, *matters: str) -> None:
    """Compare a checkpoint with the run that is to start from it.

    **Raises:** `UserError` with what differs, if weights could not be loaded, tokens would mean something else, or a
    setting that begins with one of `matters` is another.
    """
    then = {**saved["rnnlab"]["model"], "spec": saved["hyper_parameters"]["spec"]}
    now = {**plain_parts(cfg)["model"], "spec": model.spec.as_dict()}
    same_weights = checkpoint.shapes(saved["state_dict"]) == checkpoint.shapes(model.state_dict())
    sizes = ("spec.kind", "spec.vocab", "spec.input_size", "spec.output_size", "spec.seq_len", "spec.horizon")
    matters += ("spec.vocab",) if same_weights else ("cell.", "embedding", "tied", "patch", "head", *sizes)
    before = dict(repository.flatten(then))
    changed = [
        f"{key} is {_brief(value)} here and {_brief(before.get(key))} there"
        for key, value in repository.flatten(now)
        if key.startswith(matters) and value != before.get(key)
    ]
    if changed or not same_weights:
        differs = "; ".join(changed) or "other weights"
        tuned = " If it was fine-tuned, init_from=PATH gives its vocabulary." if "spec.vocab is" in differs else ""
        raise UserError(f"{what} does not fit this run: {differs}. Set it as it was, or leave {what} out.{tuned}")


def _brief(value: Any) -> Any:
    is_text = isinstance(value, list) and all(isinstance(sign, str) for sign in value)
    return f"{''.join(value)[:100]!r}" if is_text else value  # a vocabulary


def plain_parts(cfg: DictConfig) -> dict[str, Any]:
    return {part: OmegaConf.to_container(cfg[part], resolve=True) for part in ("model", "data")}


def _class(target: str) -> Any:
    return get_class(target)
