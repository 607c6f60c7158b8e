"""Builds cell, optimizer, scheduler, callbacks and unread data to catch invalid combinations."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig
from torch import nn

from rnnlab.config import repository, schema
from rnnlab.config.types import UNKNOWN
from rnnlab.config.validate import SECTIONS, find_faults
from rnnlab.nn.cells import make_cell
from rnnlab.utils.errors import UserError, collected, require


def check_run(cfg: DictConfig) -> None:
    """Check the composed config of a run: every setting, and how the parts fit together.

    **Raises:** `UserError` with a line for every fault: the key, its value, and what would be right.
    """
    content, lines, wrong = find_faults(cfg)
    parts: dict[str, Any] = {section: {} for section in SECTIONS} | _without(content, "", wrong)
    collect = partial(_collect, lines, wrong)
    with collect("data"):
        _check_data(parts["data"], parts["model"])
    if "_target_" in (model := parts["model"]):
        with collect("model"):
            get_object(model["_target_"]).require_fit({**model, "cell": parts["cell"]}, parts["data"])
    with collect("cell"):
        _check_cell(parts["cell"])
    with collect("optim"):
        _check_optim(parts["optim"], parts["trainer"])
    for name, node in parts["callbacks"].items():
        with collect(f"callbacks.{name}"):
            _make(node)
    for key in ("ckpt", "init_from"):
        path = parts.get(key)
        if path not in (None, "last") and not os.path.isfile(str(path)):
            lines.append(f"{key}={path}: there is no such file. Checkpoints are in a run's checkpoints/ folder.")
    if lines:
        raise UserError(*lines)


@contextmanager
def _collect(lines: list[str], wrong: set[str], key: str) -> Iterator[None]:
    """Within, faults of the part at `key` are added to `lines`, but for those that follow from `wrong` settings."""
    messages: list[str] = []
    with collected(messages), warnings.catch_warnings(action="ignore"):  # training repeats the warnings
        try:
            yield
        except NotImplementedError:  # a cell of the user's may have no operations on the meta device
            pass
        except Exception as error:
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            if isinstance(cause, UserError):
                messages += cause.args
            elif not messages and not any(f"{other}.".startswith(f"{key}.") for other in wrong):
                messages.append(f"{key}: {cause} ({type(cause).__name__})")
    for message in messages:
        named = any(re.search(rf"(?<![\w.]){re.escape(other)}(?!\w)", message) for other in wrong)
        if not named and message not in lines:
            lines.append(message)


def _without(node: Any, key: str, wrong: set[str]) -> Any:
    """A config without the keys that are wrong."""
    if not isinstance(node, dict):
        return node
    keys = {name: f"{key}.{name}".removeprefix(".") for name in node}
    right = {name: value for name, value in node.items() if keys[name] not in wrong and value is not UNKNOWN}
    return {name: _without(value, keys[name], wrong) for name, value in right.items()}


def _make(node: dict[str, Any] | None, **more: Any) -> Any:
    """What a part of a config makes; `None` if nothing. Hydra takes ten times as long and gets nested ones only."""
    if not node or "_target_" not in node:
        return None
    given = {name: value for name, value in node.items() if name not in ("_target_", "_partial_")}
    if "_': " in repr(given):  # another part, or how to build this one
        return instantiate({**node, "_partial_": False}, **more, _convert_="all")
    return get_object(node["_target_"])(**given, **more)


def _check_data(data: dict[str, Any], model: dict[str, Any]) -> None:
    """Check the data without reading them, and whether the model reads their kind."""
    if "_target_" not in data:
        return
    taken, _ = schema.arguments(get_object(data["_target_"]))
    datamodule = _make({**{name: "?" for name, (_, required) in taken.items() if required}, **data})
    if "_target_" in model and get_object(model["_target_"]).kind not in datamodule.kinds:
        require(False, mismatch(model["_target_"], data["_target_"], datamodule.kinds[0]))
    if "path" in data:
        require(os.path.exists(datamodule.path), f"data.path={datamodule.path}: there is no such file.")


def _check_cell(cell: dict[str, Any]) -> None:
    """Build the cell without memory for its weights."""
    if "_target_" not in cell:
        return
    layers, dropout = cell.get("num_layers", 1), cell.get("dropout", 0)
    require(
        not dropout or layers > 1,
        f"cell.dropout={dropout} is between layers: set cell.num_layers=2 or more, or cell.dropout=0.",
    )
    length = {"chrono": 2} if cell.get("chrono") == "auto" else {}
    with torch.device("meta"):
        make_cell({"hidden_size": 1, **cell, **length}, input_size=1)


def _check_optim(optim: dict[str, Any], trainer: dict[str, Any]) -> None:
    """Make the optimizer and the schedule, and check that these fit the trainer."""
    optimizer = _make(optim.get("optimizer"), params=[nn.Parameter(torch.zeros(2, 2))])
    if optimizer is None:
        return
    if "ModelParallel" in str(trainer.get("strategy")):
        require(
            not isinstance(optimizer, torch.optim.SGD) or optimizer.defaults["momentum"] > 0,
            "optim.optimizer.momentum=0: with trainer=fsdp Lightning restores no optimizer without state. "
            "Set a momentum, or use trainer=ddp.",
        )
    schedule = optim.get("scheduler") or {}
    length = {}
    if "_target_" in schedule and "total_steps" in schema.arguments(get_object(schedule["_target_"]))[0]:
        by_epoch = optim.get("interval") == "epoch"
        endless = trainer.get("max_epochs") == -1 and (by_epoch or trainer.get("max_steps", -1) == -1)
        require(
            not endless, "optim.scheduler has to know when the run ends: set trainer.max_epochs or trainer.max_steps."
        )
        length["total_steps"] = 100
    _make(schedule, optimizer=optimizer, **length)


def mismatch(model: str, data: str, given: str) -> str:
    """`model=char reads tokens, data=waves gives values: use model=forecaster or data=hello.`

    **Arguments:**

    - `model`, `data`: the targets of both.
    - `given`: kind of the data.
    """
    groups = ("model", "data")
    names = {target: f"{group}={name}" for group in groups for name, target in repository.targets(group).items()}
    parts = {name: get_object(target) for target, name in names.items()}
    reads = get_object(model).kind
    use = [name for name, part in parts.items() if given == getattr(part, "kind", "")]
    use += [name for name, part in parts.items() if reads in getattr(part, "kinds", ())]
    return f"{names.get(model, model)} reads {reads}, {names.get(data, data)} gives {given}: use {' or '.join(use)}."
