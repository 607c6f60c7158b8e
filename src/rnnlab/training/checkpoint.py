"""Rebuilds models and data from checkpoints, as far as the local `conf/` names what they are made of."""

from pathlib import Path
from typing import Any

import torch
from hydra.errors import HydraException
from hydra.utils import get_class

from rnnlab.config import repository
from rnnlab.config.validate import faults
from rnnlab.training.checkpoint_file import load, shapes
from rnnlab.utils.errors import UserError, require


def load_model(saved: dict[str, Any], path: str | Path) -> Any:
    """The trained model of a checkpoint that `load` has read, if its weights have the sizes that it describes."""
    config, weights = saved["rnnlab"]["model"], saved["state_dict"]
    fits = f"ckpt={path} does not hold the weights of the network that it describes."
    layers = config["cell"].get("num_layers", 1) if isinstance(config.get("cell"), dict) else 1
    require(not isinstance(layers, int) or layers <= len(weights), fits)
    spec = saved["hyper_parameters"]["spec"]
    with torch.device("meta"):  # without memory
        described = build(config, "model", path, spec=spec)
    require(shapes(described.state_dict()) == shapes(weights), fits)
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

    **Raises:** `UserError`, before anything is imported, for what `conf/` does not name, and if it cannot be built.
    """
    require("_target_" in config, f"ckpt={path} does not say what its {section} is. Use another.")
    _check(config, section, path)
    arguments = {key: value for key, value in config.items() if not key.startswith("_")}
    try:
        return get_class(config["_target_"])(**arguments, **kwargs)
    except (ArithmeticError, AttributeError, KeyError, RuntimeError, TypeError, ValueError, HydraException) as error:
        raise UserError(f"ckpt={path} describes what cannot be built: {' '.join(str(error).split())}") from error


def _check(config: dict[str, Any], section: str, path: str | Path) -> None:
    """Require that a yaml in `conf/` has each `_target_` at the same place, and that it takes its arguments."""
    allowed: dict[str, set[Any]] = {}
    for place, target in repository.targets().items():
        allowed.setdefault(place.partition(":")[2], set()).add(target)
    for key, value in repository.flatten({section: config}):
        place = key.removeprefix("model.") if key.startswith(("model.cell.", "model.optim.")) else key
        name = key.rpartition(".")[2]
        require(
            name != "_target_" or (isinstance(value, str) and value in allowed.get(place, ())),
            f"ckpt={path} asks for {value} as {key}, which no yaml in conf/ does. If you trust it, add one that does.",
        )
        known = not name.startswith("_") or name in ("_target_", "_recursive_", "_convert_", "_partial_")
        require(
            known and "${" not in str(value) and (name == "_target_" or "_target_" not in str(value)),
            f"ckpt={path} holds {key}={value}, which would be evaluated on loading. Use another.",
        )
    if wrong := faults(config, section):
        raise UserError(*(f"ckpt={path}: {line}" for line in wrong))
