"""Checks a composed config before anything is read or started; reports every fault once."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from rnnlab.config import repository, schema
from rnnlab.config.types import UNKNOWN, fits, shown, words
from rnnlab.utils.errors import UserError

Faults = dict[str, str]  # a message by the key that is wrong

SECTIONS = ("model", "data", "cell", "optim", "trainer", "callbacks", "logger")
REQUIRED = [f"{section}._target_" for section in ("model", "data", "cell", "trainer")]
REQUIRED += ["optim.optimizer", "optim.scheduler", "optim.interval", "trainer.accelerator", "trainer.devices"]
WITHOUT_TARGET = ("", "optim", "callbacks", "logger")


def check_parts(cfg: DictConfig) -> None:
    """Check a config of some parts of a run.

    **Raises:** `UserError` with a line for every fault: the key, its value, and what would be right.
    """
    if lines := find_faults(cfg)[1]:
        raise UserError(*lines)


def find_faults(cfg: DictConfig) -> tuple[dict[str, Any], list[str], set[str]]:
    """Check types, ranges, choices, and the arguments of each `_target_` of a composed config.

    **Returns:** the config as plain dicts and lists, a message for each fault, and the keys that are wrong.
    """
    found: Faults = {}
    raw: Any = OmegaConf.to_container(cfg)
    model = raw.get("model")
    for section in ("cell", "optim"):
        if isinstance(model, dict) and section in model:
            key, value = f"model.{section}", shown(model[section])
            if value != f"${{{section}}}":
                found[key] = f"{key}={value} must stay ${{{section}}}: set {section}=NAME and {section}.KEY=VALUE."
            model[section] = UNKNOWN  # checked as a section
    content = _resolve(cfg, raw, "", found)
    if "cell" in content or "optim" in content:
        _check_complete(content, found)
    else:  # a checkpoint has the other parts
        content = {key: value for key, value in content.items() if value != "???"}
    _check(content, "", found)
    wrong = set(found)
    for key, value in repository.flatten(raw):
        if reference := re.fullmatch(r"\$\{(\.*)([^${}:]+)\}", str(value)):
            dots = len(reference[1])
            origin = ".".join([*(key.split(".")[:-dots] if dots else []), reference[2]])
            if origin in wrong:  # reported there
                wrong.add(key)
                found.pop(key, None)
    return content, list(found.values()), wrong


def faults(config: dict[str, Any], key: str) -> list[str]:
    """Every fault of a plain config, without building any of it.

    **Arguments:**

    - `key`: where the config belongs, such as `model` or `data`; a model's holds its cell and optim.
    """
    found: Faults = {}
    _check(config, key, found)
    return list(found.values())


def _resolve(cfg: DictConfig, node: Any, key: str, found: Faults) -> Any:
    """Resolve the references of a plain `node` at `key`; what cannot be resolved is `UNKNOWN`."""
    if isinstance(node, dict):
        return {name: _resolve(cfg, child, _join(key, name), found) for name, child in node.items()}
    if "${" not in str(node):
        return node
    try:
        value = OmegaConf.select(cfg, key)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except InterpolationToMissingValueError:
        pass  # reported where it is missing
    except (OmegaConfBaseException, RecursionError) as error:
        if HydraConfig.initialized() or "HydraConfig was not set" not in str(error):
            found[key] = f"{key}={shown(node)}: {str(error).splitlines()[0]}."
    return UNKNOWN


def _check_complete(content: dict[str, Any], found: Faults) -> None:
    """Check that a run has all that it needs."""
    for section in SECTIONS:
        if not isinstance(content.get(section), dict):
            options = ", ".join(repository.options(section))
            found[section] = f"{section} is left out: a run needs one. {section} takes: {options}."
    train = repository.read(repository.HOME / "conf")["train"]
    for key in [key for key in train if not key.startswith(("defaults", "hydra."))] + REQUIRED:
        section, _, name = key.partition(".")
        value = content.get(section)
        if section not in content or (name and isinstance(value, dict) and name not in value):
            found.setdefault(key, f"{key} is left out: a run needs it.")


def _check(node: Any, key: str, found: Faults) -> None:
    """Check a section, a part or a list, and all below it."""
    if isinstance(node, dict):
        _check_settings(node, key, schema.role_of(key), found)
    items: Iterable[tuple[Any, Any]] = node.items() if isinstance(node, dict) else enumerate(node)
    for name, value in items:
        inside = _join(key, name)
        if value == "???":
            found.setdefault(inside, f"{inside} is needed: give {inside}=VALUE. --help shows examples.")
        elif isinstance(value, dict | list) and inside not in found:
            _check(value, inside, found)


def _check_settings(node: dict[str, Any], key: str, role: str, found: Faults) -> None:
    """Check the target of a part, and the names and values of the settings of a part or section."""
    is_part = "_target_" in node and role not in WITHOUT_TARGET
    if is_part:
        if (target := _target(node["_target_"], f"{key}._target_", role, found)) is None:
            return
        _check_directives(node, key, role, found)
        settings, others = schema.part_settings(target, role)
    else:
        settings, others = schema.section_settings(role, tuple(node))
    for name, value in node.items():
        inside = _join(key, name)
        if inside in found or value is UNKNOWN or value == "???":
            continue
        if name in schema.given(role):
            found[inside] = f"{inside} is set by rnnlab: leave it out."
        elif name in settings:
            if not fits(value, settings[name][0]):
                found[inside] = f"{inside}={shown(value)} must be {words(settings[name][0])}."
        elif not others and not (is_part and str(name).startswith("_")):
            near = repository.did_you_mean(*((name, settings) if is_part else (inside, repository.settings())))
            hint = near or f" It takes {', '.join(sorted(settings))}."
            found[inside] = f"{inside} is not a setting of {node['_target_'] if is_part else key}.{hint}"
    for name, (_, required) in settings.items():
        if required and name not in node and not node.get("_args_") and not node.get("_partial_"):
            found[f"{key}.{name}"] = f"{key}.{name} is needed by {node['_target_']}: give +{key}.{name}=VALUE."


def _check_directives(node: dict[str, Any], key: str, role: str, found: Faults) -> None:
    """Check how Hydra is to build a part, on which rnnlab relies."""
    required: dict[str, Any] = {"_partial_": role.startswith("optim.")} if role in schema.PARTS else {}
    if role == "model":
        required |= {"_recursive_": False, "_convert_": "all"}
    for name, value in required.items():
        if {"_partial_": False, **node}.get(name) != value:
            found[f"{key}.{name}"] = f"{key}.{name} must be {shown(value)}."


def _target(name: Any, key: str, role: str, found: Faults) -> Callable | None:
    """The class or function that a `_target_` names; `None` if there is none or it is of another kind."""
    base = schema.PARTS[role][0] if role in schema.PARTS else ""
    try:
        target = get_object(name)
    except Exception as error:
        cause = " ".join(str(error.__cause__ or error).split())
        hint = repository.did_you_mean(str(name), repository.targets().values()) or f" {cause}"
        found.setdefault(key, f"{key}={shown(name)} cannot be imported.{hint}")
        return None
    if isinstance(target, type):
        right = not base or issubclass(target, get_object(base))
    else:
        right = callable(target) and (not base or role.startswith("optim."))
    if not right:
        found[key] = f"{key}={name} is no {base.rpartition('.')[2] or 'class or function'}."
    return target if right else None


def _join(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)
