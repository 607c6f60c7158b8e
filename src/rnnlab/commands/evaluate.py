"""Test metrics of a checkpoint, and a table of what a classifier predicts."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import lightning.pytorch as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from rnnlab.config.validate import check_parts
from rnnlab.data.base import SequenceData
from rnnlab.data.spec import IGNORED
from rnnlab.tasks.base import Task
from rnnlab.tasks.classifier import SequenceClassifier
from rnnlab.training import checkpoint, distributed
from rnnlab.training.devices import check_devices, use_tf32
from rnnlab.training.trainer import quiet, report, score
from rnnlab.utils.console import tell
from rnnlab.utils.errors import UserError, require, require_other_file

ELSEWHERE = {
    "tokens": " scripts/generate.py score=FILE out=TABLE says how likely each character of a text is.",
    "series": " scripts/forecast.py backtest=true out=TABLE writes forecasts beside the truth.",
}


def evaluate(cfg: DictConfig) -> None:
    """Test the checkpoint `cfg.ckpt` on the data that it was trained for, or on `cfg.data`.

    With `cfg.out` a table of what a classifier predicts is left there.
    """
    data: Any = OmegaConf.to_container(cfg.data, resolve=True)
    check_parts(OmegaConf.create({"data": data, "trainer": cfg.trainer}))
    check_devices(cfg.trainer)
    quiet()
    use_tf32(False, cfg.trainer.precision)
    model, datamodule = checkpoint.load_parts(cfg.ckpt, data)
    out = None if cfg.out is None else str(cfg.out)
    if out is not None:
        check_out(out, str(cfg.ckpt), model, datamodule)
    datamodule.prepare_data()
    datamodule.setup("test")
    _check_same_sizes(model, datamodule)
    model.expect_tests(datamodule.spec.test_lengths)
    folder = Path(HydraConfig.get().runtime.output_dir)
    trainer = instantiate(cfg.trainer, logger=False, callbacks=[], enable_checkpointing=False,
                          enable_progress_bar=False, default_root_dir=folder)  # fmt: skip
    with distributed.process_group(trainer):
        alone = trainer.num_devices * trainer.num_nodes == 1
        require(out is None or alone, f"out={out} is written by a single process: set trainer.devices=1.")
        score(trainer, model, datamodule)
        model.gather()
        if trainer.is_global_zero:
            report(trainer, model, datamodule, folder)
        if out is not None:
            write(out, trainer, model, datamodule)
            tell(f"predictions: {out}")


def _check_same_sizes(model: Task, datamodule: SequenceData) -> None:
    here, there = datamodule.spec, model.spec
    for name in ("kind", "input_size", "output_size", "horizon", "every_step"):
        if getattr(here, name) != getattr(there, name):
            raise UserError(
                f"The data have {name} {getattr(here, name)}, the checkpoint was trained for {getattr(there, name)}."
            )


def check_out(out: str, ckpt: str, model: Task, datamodule: SequenceData) -> None:
    """Whether predictions can be written to `out`.

    **Raises:** `UserError` for the checkpoint of another task, and for a file that is read.
    """
    require(
        isinstance(model, SequenceClassifier),
        f"out={out}: predictions are those of a run of model=classifier, ckpt={ckpt} holds a {type(model).__name__}."
        f"{ELSEWHERE.get(model.kind, '')}",
    )
    path = getattr(datamodule, "path", None)
    require_other_file("out", out, ckpt=ckpt, **{"data.path": path and str(path)})


@torch.inference_mode()
def write(out: str, trainer: pl.Trainer, model: Task, datamodule: SequenceData) -> None:
    """Write a row for each label of the part that `trainer` has just scored: the true one and what the model predicts.

    The columns are `sequence`, its id or its number from 0; `step`, from 1, if each step has a label; `label`,
    `predicted`, and the probability of each class, `p_CLASS`. Steps that no label is asked of are left out.

    **Raises:** `UserError` if the data have nothing to score, or the file cannot be written.
    """
    split: Any = "test" if "test" in datamodule.splits else "val"
    require(split in datamodule.splits, f"out={out}: the data have no validation or test part to predict.")
    spec, dataset = model.spec, datamodule.splits[split]
    names = spec.classes or tuple(map(str, range(spec.output_size)))
    ids = datamodule.ids(split) if hasattr(datamodule, "ids") else range(len(dataset))  # type: ignore[arg-type]
    scored = trainer.num_test_batches if split == "test" else trainer.num_val_batches
    require(any(scored), f"out={out}: with trainer.limit_{split}_batches=0 nothing is predicted.")
    number = scored[0]
    device = trainer.strategy.root_device
    if model.device != device:  # shards stay where they are
        model.to(device)
    model.eval()
    with _replaced(out) as file:
        table = csv.writer(file)
        steps = ["step"] * spec.every_step
        table.writerow(["sequence", *steps, "label", "predicted", *(f"p_{name}" for name in names)])
        for index in islice(datamodule.batches(split, 0, 1), int(number)):
            batch = datamodule.transfer_batch_to_device(dataset[index], device, 0)
            with trainer.precision_plugin.forward_context():  # as it was scored
                logits, y = model.evaluate(batch)
            asked = (y != IGNORED).nonzero(as_tuple=True)  # of the sequence in the batch, of the step
            chances = logits[asked].double().softmax(-1)
            places = zip(*(place.tolist() for place in asked), strict=True)
            rows = zip(places, y[asked].tolist(), chances.argmax(-1).tolist(), chances.tolist(), strict=True)
            for (sequence, *step), label, predicted, row in rows:
                start = [ids[int(index[sequence])], *(place + 1 for place in step)]
                table.writerow([*start, names[label], names[predicted], *(f"{chance:.9g}" for chance in row)])


@contextmanager
def _replaced(out: str) -> Iterator[TextIO]:
    """A file that is `out` when all has been written; until then, and after an error, `out` stays as it was."""
    partial = Path(f"{out}.partial")
    try:
        with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
        partial.replace(out)
    except OSError as error:
        raise UserError(f"out={out} cannot be written: {error.strerror}.") from error
    finally:
        with suppress(OSError):
            partial.unlink()
