"""Test metrics of a checkpoint, and a table of a classifier's predictions."""

from itertools import islice
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
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
from rnnlab.utils.files import write_atomically


def evaluate(cfg: DictConfig) -> None:
    """Test the checkpoint `cfg.ckpt`, on its own data or on `cfg.data`, and write predictions to `cfg.out` if given."""
    data: Any = OmegaConf.to_container(cfg.data, resolve=True)
    check_parts(OmegaConf.create({"data": data, "trainer": cfg.trainer}))
    check_devices(cfg.trainer)
    quiet()
    use_tf32(False, cfg.trainer.precision)
    model, datamodule = checkpoint.load_parts(cfg.ckpt, data)
    out, ckpt = None if cfg.out is None else str(cfg.out), str(cfg.ckpt)
    if out is not None:
        message = f"out={out} takes predictions of model=classifier, ckpt={ckpt} holds a {type(model).__name__}."
        require(isinstance(model, SequenceClassifier), message)
        path = getattr(datamodule, "path", None)
        require_other_file("out", out, ckpt=ckpt, **{"data.path": path and str(path)})
    datamodule.prepare_data()
    datamodule.setup("test")
    for name in ("kind", "input_size", "output_size", "horizon", "every_step"):
        here, there = getattr(datamodule.spec, name), getattr(model.spec, name)
        require(here == there, f"The data have {name} {here}, the checkpoint was trained for {there}.")
    model.expect_tests(datamodule.spec.test_lengths)
    folder = Path(HydraConfig.get().runtime.output_dir)
    options = {"logger": False, "callbacks": [], "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = instantiate(cfg.trainer, default_root_dir=folder, **options)
    single = trainer.num_devices * trainer.num_nodes == 1
    require(out is None or single, f"out={out} is written by a single process: set trainer.devices=1.")
    with distributed.process_group(trainer):
        score(trainer, model, datamodule)
        model.gather()
        if trainer.is_global_zero:
            report(trainer, model, datamodule, folder)
        if out is not None:
            table = predictions(out, trainer, model, datamodule)
            try:
                write_atomically(Path(out), table.to_csv(index=False, float_format="%.9g"))
            except OSError as error:
                raise UserError(f"out={out} cannot be written: {error.strerror}.") from error
            tell(f"predictions: {out}")


@torch.inference_mode()
def predictions(out: str, trainer: pl.Trainer, model: Task, datamodule: SequenceData) -> pd.DataFrame:
    """A row for each label of the split that `trainer` has just scored.

    Columns are `sequence`, its id or its number from 0; `step`, from 1, if each step has a label; `label`, the true
    one; `predicted`; and `p_CLASS`, the probability of each class.
    """
    split: Any = "test" if "test" in datamodule.splits else "val"
    scored = trainer.num_test_batches if split == "test" else trainer.num_val_batches
    require(split in datamodule.splits and any(scored), f"out={out}: there is no {split} batch to predict.")
    spec, dataset = model.spec, datamodule.splits[split]
    classes = np.array(spec.classes or range(spec.output_size), dtype=object)
    ids = datamodule.ids(split) if hasattr(datamodule, "ids") else range(len(dataset))  # type: ignore[arg-type]
    device = trainer.strategy.root_device
    if model.device != device:  # shards stay where they are
        model.to(device)
    model.eval()
    tables = []
    for index in islice(datamodule.batches(split, 0, 1), int(scored[0])):
        batch = datamodule.transfer_batch_to_device(dataset[index], device, 0)
        with trainer.precision_plugin.forward_context():  # as it was scored
            logits, y = model.evaluate(batch)
        labelled = y != IGNORED
        sequence, *step = (place.cpu() for place in labelled.nonzero(as_tuple=True))
        probabilities = logits[labelled].double().softmax(-1).cpu().numpy()
        columns: dict[str, Any] = {"sequence": [ids[k] for k in index[sequence].tolist()]}
        if step:
            columns["step"] = step[0] + 1
        columns["label"] = classes[y[labelled].cpu().numpy()]
        columns["predicted"] = classes[probabilities.argmax(-1)]
        columns |= zip((f"p_{name}" for name in classes), probabilities.T, strict=True)
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables)
