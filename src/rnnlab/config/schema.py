"""What a `_target_` takes, read off its signature: names, types, and which are needed."""

import inspect
import math
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union

WORDS = {NoneType: "null", bool: "true or false", int: "a whole number", float: "a number", str: "text"}
LISTS, DICTS, TEXTS = (list, tuple, set, Sequence, Iterable), (dict, Mapping), (Path, PathLike)


class Argument(NamedTuple):
    """One argument of a target.

    - `hint`: its annotation; `Any` if it has none.
    - `needed`: whether it has no default.
    """

    hint: Any
    needed: bool


@cache
def of(target: Callable) -> tuple[dict[str, Argument], bool]:
    """The arguments of a function or class by name, and whether it takes others, too.

    What a class of rnnlab takes as `**others` are arguments of the class that it inherits from.
    """
    if not inspect.isclass(target):
        return _of_function(target)
    found: dict[str, Argument] = {}
    others = True  # of what is written in C nothing is known
    for number, base in enumerate(base for base in target.__mro__[:-1] if "__init__" in vars(base)):
        # torch's recurrent layers say in an overload what they take
        overloads = [_of_function(overload) for overload in typing.get_overloads(vars(base)["__init__"])]
        arguments, others = next(
            (overload for overload in overloads if not overload[1]), _of_function(vars(base)["__init__"])
        )
        for name, (hint, needed) in list(arguments.items())[1:]:  # but self
            found.setdefault(name, Argument(hint, needed and number == 0))  # else the one that inherits may give it
        if not others or not base.__module__.startswith("rnnlab."):
            break
    return found, others


def _of_function(function: Callable) -> tuple[dict[str, Argument], bool]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some that are written in C have none
        return {}, True
    try:
        hints = typing.get_type_hints(inspect.unwrap(function))
    except Exception:  # names that only a type checker sees
        hints = {}
    named = {}
    for parameter in parameters:
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            hint = hints.get(parameter.name, Any)
            if parameter.default is None and hint is not Any:
                hint = Union[hint, None]  # noqa: UP007  # a hint may be text
            named[parameter.name] = Argument(hint, parameter.default is parameter.empty)
    return named, any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value can be what an annotation asks for. What a yaml cannot write is not looked into."""
    return any(_is(value, kind) for kind in _kinds(hint)) or not any(map(words, _kinds(hint)))


def words(hint: Any) -> str:
    """An annotation for people: `a whole number, text or null`. Empty if it names nothing that a yaml can write."""
    said = list(dict.fromkeys(word for kind in _kinds(hint) if (word := _word(kind))))
    return f"{', '.join(said[:-1])} or {said[-1]}" if len(said) > 1 else "".join(said)


def _kinds(hint: Any) -> list[Any]:
    """The parts of a union, of a literal its values."""
    if typing.get_origin(hint) in (Union, UnionType):
        return [kind for part in typing.get_args(hint) for kind in _kinds(part)]
    return [hint]


def _is(value: Any, kind: Any) -> bool:
    origin = typing.get_origin(kind) or kind
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in typing.get_args(kind))
    if isinstance(value, dict):
        return origin in DICTS or ("_target_" in value and not _word(kind))  # what it makes is not known
    if origin is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if origin is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is str or origin in TEXTS:
        return isinstance(value, str | int | float)  # digits arrive as numbers
    if origin in LISTS:
        return isinstance(value, list)
    return origin in WORDS and isinstance(value, origin)


def _word(kind: Any) -> str:
    origin = typing.get_origin(kind) or kind
    if origin is Literal:
        return ", ".join(map(str, typing.get_args(kind)))
    if origin in LISTS:
        return "a list"
    return "key: value" if origin in DICTS else "text" if origin in TEXTS else WORDS.get(origin, "")
