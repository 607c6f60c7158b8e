"""Pydantic models of the arguments that parts of a run take, made from signatures."""

import inspect
import re
import typing
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union

from pydantic import BaseModel, ConfigDict, create_model
from torch.nn.parallel import DistributedDataParallel

from rnnlab.config import repository
from rnnlab.config.types import NODE, SWITCH, TYPES, number, text, typed

# parts of a run: the class that a `_target_` must be, and the arguments that rnnlab sets
PARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "model": ("rnnlab.tasks.base.Task", ("_args_", "spec")),
    "data": ("rnnlab.data.base.SequenceData", ("_args_",)),
    "cell": ("torch.nn.Module", ("_args_", "input_size", "batch_first")),
    "trainer": (
        "lightning.pytorch.Trainer",
        ("_args_", "callbacks", "logger", "plugins", "enable_progress_bar", "default_root_dir"),
    ),
    "callbacks.*": ("lightning.pytorch.Callback", ()),
    "logger.*": ("lightning.pytorch.loggers.Logger", ()),
    "optim.optimizer": ("torch.optim.Optimizer", ("params",)),
    "optim.scheduler": ("torch.optim.lr_scheduler.LRScheduler", ("optimizer", "total_steps")),
    "trainer.strategy": ("lightning.pytorch.strategies.Strategy", ()),
    "trainer.profiler": ("lightning.pytorch.profilers.Profiler", ()),
}
FACTORIES = ("optim.optimizer", "optim.scheduler", "trainer.strategy", "trainer.profiler")  # may be functions
CELL_ARGUMENTS = ("num_layers", "dropout", "bidirectional", "residual", "init", "forget_bias", "chrono")  # of make_cell
Arguments = dict[str, tuple[Any, Any]]  # annotation and default by name; the default of a required one is `...`
# what a yaml can write of an annotation; of any other class, a node that makes it
PLAIN: dict[Any, Any] = {
    **dict.fromkeys((str, Path, PathLike), text("text", shortest=0)),
    **dict.fromkeys((list, tuple, set, Sequence, Iterable), typed(list, "a list")),
    **dict.fromkeys((dict, Mapping), typed(dict, "key: value")),
    bool: SWITCH,
    int: typed(int, "a whole number", strict=True),
    float: number("a number"),
    NoneType: NoneType,
}


@cache
def arguments(target: Callable) -> tuple[Arguments, bool]:
    """The arguments of a function or class, and whether it takes others.

    What a class of rnnlab takes as `**others` are arguments of its base class.
    """
    if not inspect.isclass(target):
        return _of_function(target)
    found: Arguments = {}
    others = True  # signatures in C are not known
    for base in (base for base in target.__mro__[:-1] if "__init__" in vars(base)):
        taken, others = _of_function(vars(base)["__init__"])
        found = {**{name: (hint, None if found else default) for name, (hint, default) in taken.items()}, **found}
        if not others or not base.__module__.startswith("rnnlab."):
            break
    found.pop("self", None)
    return found, others


def _of_function(function: Callable) -> tuple[Arguments, bool]:
    # torch's recurrent layers have their arguments in an overload
    for candidate in (*typing.get_overloads(function), function):
        try:
            parameters = inspect.signature(candidate).parameters.values()
        except (TypeError, ValueError):  # some functions in C have no signature
            return {}, True
        others = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)
        if not others:
            break
    try:
        hints = typing.get_type_hints(inspect.unwrap(candidate))
    except Exception:  # names that only a type checker knows
        hints = {}
    found: Arguments = {}
    for parameter in parameters:
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            hint = hints.get(parameter.name, Any)
            hint = Union[hint, None] if parameter.default is None else hint  # noqa: UP007  # a hint may be text
            found[parameter.name] = (hint, ... if parameter.default is parameter.empty else None)
    return found, others


def role_of(key: str) -> str:
    """The place of a key in `PARTS`."""
    key = re.sub(r"^model\.(?=cell|optim)", "", key)  # a checkpoint's model holds these
    return re.sub(r"^(callbacks|logger)\.[^.]+$", r"\1.*", key)


def given(role: str) -> tuple[str, ...]:
    """The arguments of a part that rnnlab sets."""
    return PARTS[role][1] if role in PARTS else ()


@cache
def section_model(key: str, names: tuple[str, ...]) -> type[BaseModel] | None:
    """A model of the settings of a section without a target; `None` if none of the `names` is known."""
    role = role_of(key)
    if role in ("callbacks", "logger"):
        return _model(dict.fromkeys(names, (NODE | None, None)), by_name=False)
    if role == "optim":
        known = {setting.split(".")[1] for setting in repository.settings() if setting.startswith("optim.")}
        return _model(dict.fromkeys(known - {"defaults"}, (Any, None)), others=False)
    fields: Arguments = {name: (Any, None) for name in names if name in TYPES and "." not in role}
    return _model(fields) if fields else None


@cache
def part_model(target: Any, role: str, by_name: bool) -> type[BaseModel]:
    """A model of the arguments that a part may be given in a config."""
    fields, others = arguments(target)
    if role == "cell":
        fields = {**dict.fromkeys(CELL_ARGUMENTS, (Any, None)), **fields}
    elif any(base.__name__ == "DDPStrategy" for base in getattr(target, "__mro__", ())):  # passes the others on
        more = arguments(DistributedDataParallel)[0]
        fields, others = {name: (hint, None) for name, (hint, _) in {**more, **fields}.items()}, False
    fields = {name: field for name, field in fields.items() if name not in given(role)}
    return _model(fields, others, by_name)


def _model(fields: Arguments, others: bool = True, by_name: bool = True) -> type[BaseModel]:
    """A pydantic model of arguments, which ignores or forbids others.

    **Arguments:**

    - `by_name`: whether a type of `TYPES` replaces an annotation that lists no choices.
    """
    types: dict[str, Any] = {}
    for name, (hint, default) in fields.items():
        known = by_name and name in TYPES and typing.get_origin(hint) is not Literal
        types[name] = (TYPES[name] if known else _plain(hint), default)
    config = ConfigDict(extra="ignore" if others else "forbid", protected_namespaces=())
    with warnings.catch_warnings(action="ignore"):  # of arguments that are called like a method of BaseModel
        return create_model("Settings", __config__=config, **types)


def _plain(hint: Any) -> Any:
    origin = typing.get_origin(hint) or hint
    if origin in (Union, UnionType):
        return Union[tuple(map(_plain, typing.get_args(hint)))]  # noqa: UP007
    if hint is Any or origin is Literal or isinstance(hint, typing.TypeVar):
        return Any if isinstance(hint, typing.TypeVar) else hint
    return PLAIN.get(origin, NODE)
