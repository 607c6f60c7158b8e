"""Rebuilds models and data from checkpoints, as far as the local `conf/` names what they are made of."""

import re
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class

from rnnlab.config import repository
from rnnlab.config.validate import faults
from rnnlab.training.checkpoint_file import load, shapes
from rnnlab.utils.errors import UserError, require


def load_model(saved: dict[str, Any], path: str | Path) -> Any:
    """The trained model of a checkpoint that `load` has read, if its weights have the sizes that it describes."""
    config, weights, spec = saved["rnnlab"]["model"], saved["state_dict"], saved["hyper_parameters"]["spec"]
    layers = dict(repository.flatten(config)).get("cell.num_layers", 1)
    fits = not isinstance(layers, int) or layers <= len(weights)
    if fits:
        with torch.device("meta"):  # without memory
            described = build(config, "model", path, spec=spec)
        fits = shapes(described.state_dict()) == shapes(weights)
    require(fits, f"ckpt={path} does not hold the weights of the network that it describes.")
    model = build(config, "model", path, spec=spec)
    model.load_state_dict(weights)
    return model


def load_parts(path: str | Path, data: dict[str, Any]) -> tuple[Any, Any]:
    """The trained model of a checkpoint and its data, not set up yet.

    `data` holds settings that differ from those in training, or, with a `_target_`, other data.
    """
    saved = load(path)
    stored = {key: value for key, value in saved["rnnlab"]["data"].items() if key != "cache"}  # never a stranger's path
    unknown = [] if "_target_" in data else [key for key in data if key not in (*stored, "cache")]
    known = ", ".join(key for key in stored if not key.startswith("_"))
    require(not unknown, f"data.{', data.'.join(unknown)}: no setting of the checkpoint's data, which has {known}.")
    model = load_model(saved, path)
    datamodule = build(data if "_target_" in data else {**stored, **data}, "data", path)
    if model.kind in datamodule.kinds:
        datamodule.spec = model.spec
    return model, datamodule


def build(config: dict[str, Any], section: str, path: str | Path, **kwargs: Any) -> Any:
    """Build the `section` of a checkpoint, `"model"` or `"data"`.

    **Raises:** `UserError`, before anything is imported, for what `conf/` does not name.
    """
    require("_target_" in config, f"ckpt={path} does not say what its {section} is. Use another.")
    allowed: dict[str, set[Any]] = {}  # targets by the place where a yaml names them
    for place, target in repository.targets().items():
        allowed.setdefault(place.partition(":")[2], set()).add(target)
    for key, value in repository.flatten({section: config}):
        place = key.removeprefix("model.") if key.startswith(("model.cell.", "model.optim.")) else key
        is_target = key.endswith("._target_")
        require(
            str(value) in allowed.get(place, ()) if is_target else not re.search(r"\$\{|_target_", str(value)),
            f"ckpt={path} asks for {value} as {key}, which no yaml in conf/ does. If you trust it, add one that does.",
        )
    if wrong := faults(config, section):
        raise UserError(*(f"ckpt={path}: {line}" for line in wrong))
    arguments = {key: value for key, value in config.items() if not key.startswith("_")}
    try:
        return get_class(config["_target_"])(**arguments, **kwargs)
    except Exception as error:
        raise UserError(f"ckpt={path} describes what cannot be built: {' '.join(str(error).split())}") from error
