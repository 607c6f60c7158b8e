"""The settings that parts of a run take, as types of their names and of signatures."""

import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union

from rnnlab.config import repository
from rnnlab.config.types import NODE, SWITCH, TYPES, number, text, typed

# parts of a run: the class that a `_target_` must be, and the arguments that rnnlab sets
PARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "model": ("rnnlab.tasks.base.Task", ("_args_", "spec")),
    "data": ("rnnlab.data.base.SequenceData", ("_args_",)),
    "cell": ("torch.nn.Module", ("_args_", "input_size", "batch_first")),
    "trainer": (
        "lightning.pytorch.Trainer",
        ("_args_", "_convert_", "callbacks", "logger", "plugins", "enable_progress_bar", "default_root_dir"),
    ),
    "callbacks.*": ("lightning.pytorch.Callback", ()),
    "logger.*": ("lightning.pytorch.loggers.Logger", ("_convert_",)),
    "optim.optimizer": ("torch.optim.Optimizer", ("params",)),
    "optim.scheduler": ("torch.optim.lr_scheduler.LRScheduler", ("optimizer", "total_steps")),
    "trainer.strategy": ("lightning.pytorch.strategies.Strategy", ()),
    "trainer.profiler": ("lightning.pytorch.profilers.Profiler", ()),
}
CELL_ARGUMENTS = ("num_layers", "dropout", "bidirectional", "residual", "init", "forget_bias", "chrono")  # of make_cell
Arguments = dict[str, tuple[Any, bool]]  # the type of each, and whether it is required
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
    """The arguments of a function or class with their annotations, and whether it takes others.

    What a class of rnnlab takes as `**others` are arguments of its base class.
    """
    if not inspect.isclass(target):
        return _of_function(target)
    found: Arguments = {}
    others = True  # signatures in C are not known
    for base in (base for base in target.__mro__[:-1] if "__init__" in vars(base)):
        taken, others = _of_function(vars(base)["__init__"])
        found = {name: (hint, required and not found) for name, (hint, required) in taken.items()} | found
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
            found[parameter.name] = (hint, parameter.default is parameter.empty)
    return found, others


def role_of(key: str) -> str:
    """The place of a key in `PARTS`."""
    key = re.sub(r"^model\.(?=cell|optim)", "", key)  # a checkpoint's model holds these
    return re.sub(r"^(callbacks|logger)\.[^.]+$", r"\1.*", key)


def given(role: str) -> tuple[str, ...]:
    """The arguments of a part that rnnlab sets."""
    return PARTS[role][1] if role in PARTS else ()


@cache
def section_settings(role: str, names: tuple[str, ...]) -> tuple[Arguments, bool]:
    """The settings of a section that has no target, and whether it takes others."""
    if role in ("callbacks", "logger"):
        return dict.fromkeys(names, (NODE | None, False)), True
    if role == "optim":
        known = {setting.split(".")[1] for setting in repository.settings() if setting.startswith("optim.")}
        return {name: (TYPES.get(name, Any), False) for name in known - {"defaults"}}, False
    return {name: (TYPES[name], False) for name in names if name in TYPES and "." not in role}, True


@cache
def part_settings(target: Callable, role: str) -> tuple[Arguments, bool]:
    """The arguments that a part may be given in a config, and whether it takes others."""
    found, others = arguments(target)
    if role == "cell":
        found = dict.fromkeys(CELL_ARGUMENTS, (Any, False)) | found
    named = set(TYPES) if target.__module__.partition(".")[0] in ("rnnlab", "torch", "lightning") else set()
    settings = {}
    for name, (hint, required) in found.items():
        if name not in given(role):
            by_name = name in named and typing.get_origin(hint) is not Literal
            settings[name] = (TYPES[name] if by_name else _plain(hint), required)
    return settings, others


def _plain(hint: Any) -> Any:
    origin = typing.get_origin(hint) or hint
    if origin in (Union, UnionType):
        return Union[tuple(map(_plain, typing.get_args(hint)))]  # noqa: UP007
    if hint is Any or isinstance(hint, typing.TypeVar):
        return Any
    return hint if origin is Literal else PLAIN.get(origin, NODE)
