"""Checks a composed config before anything is read or started; reports every fault once."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from rnnlab.config import repository, schema
from rnnlab.config.types import UNKNOWN, shown, words
from rnnlab.utils.errors import UserError

Faults = dict[str, str]  # a message by the key that is wrong

SECTIONS = ("model", "data", "cell", "optim", "trainer", "callbacks", "logger")
REQUIRED = [f"{section}._target_" for section in ("model", "data", "cell", "trainer")]
REQUIRED += ["optim.optimizer", "optim.scheduler", "optim.interval", "trainer.accelerator", "trainer.devices"]
REFERENCES = {"model.cell": "cell", "model.optim": "optim"}  # how a model's yaml gets the chosen cell and optimizer
# Hydra's, its default first
DIRECTIVES: dict[str, list[Any]] = {
    "_recursive_": [True, False],
    "_convert_": ["none", "partial", "object", "all"],
    "_partial_": [False, True],
}


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
    references: dict[str, str] = {}
    content: Any = _resolve(cfg, OmegaConf.to_container(cfg), "", found, references)
    if "cell" in content or "optim" in content:
        _check_sections(content, references, found)
        _check(content, "", found)
    else:  # a checkpoint has the other parts
        content = {key: value for key, value in content.items() if value != "???"}
        _check(content, "", found, set(repository.targets().values()))
    wrong = set(found)
    for key, origin in references.items():
        for other in [other for other in wrong if f"{other}.".startswith(f"{origin}.")]:
            copy = key + other.removeprefix(origin)
            wrong.add(copy)
            found.pop(copy, None)  # reported at its origin
    return content, list(found.values()), wrong


def faults(config: dict[str, Any], key: str) -> list[str]:
    """Every fault of a plain config that may be a stranger's, without building any of it.

    Only targets that a yaml in `conf/` names are imported; any other `_target_` is a fault.

    **Arguments:**

    - `key`: where the config belongs, such as `model` or `data`; a model's holds its cell and optim.
    """
    found: Faults = {}
    _check(config, key, found, set(repository.targets().values()))
    return list(found.values())


def _resolve(cfg: DictConfig, node: Any, key: str, found: Faults, references: dict[str, str]) -> Any:
    """Resolve the references of a plain `node` at `key`; what cannot be resolved is `UNKNOWN`.

    `references` is filled with the keys whose value is just a reference, `${OTHER}`, and these other keys.
    """
    if isinstance(node, dict):
        return {name: _resolve(cfg, child, _join(key, name), found, references) for name, child in node.items()}
    if isinstance(node, list):
        return [_resolve(cfg, child, f"{key}[{n}]", found, references) for n, child in enumerate(node)]
    if not isinstance(node, str) or "${" not in node:
        return node
    if reference := re.fullmatch(r"\$\{(\.*)([^${}:]+)\}", node):
        dots = len(reference[1])
        references[key] = ".".join([*(key.split(".")[:-dots] if dots else []), reference[2]])
    if key in REFERENCES and references.get(key) == REFERENCES[key]:
        return UNKNOWN  # checked at its origin
    try:
        value = OmegaConf.select(cfg, key)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except RecursionError:
        found[key] = f"{key}={node} refers to itself without end."
    except InterpolationToMissingValueError:
        pass  # reported where it is missing
    except OmegaConfBaseException as error:
        if HydraConfig.initialized() or "hydra" not in str(error).lower():  # else ${hydra:...} is not known
            found[key] = f"{key}={node}: {str(error).splitlines()[0]}."
    return UNKNOWN


def _check_sections(content: dict[str, Any], references: dict[str, str], found: Faults) -> None:
    """Check that a run has all that it needs."""
    for section in SECTIONS:
        value = content.get(section)
        is_part = f"{section}._target_" in REQUIRED
        if not isinstance(value, dict) or ("_target_" in value and not is_part):
            given = f"={shown(value)}" if section in content else " is left out"
            options = ", ".join(repository.options(section))
            found.setdefault(section, f"{section}{given}: a run needs one. {section} takes: {options}.")
    train = repository.read(repository.HOME / "conf")["train"]
    for key in [key for key, _ in repository.flatten(train) if not key.startswith(("defaults", "hydra."))] + REQUIRED:
        section, _, name = key.partition(".")
        if section not in found and (section not in content or (name and name not in _dict(content[section]))):
            found[key] = f"{key} is left out: a run needs it."
    for key, section in REFERENCES.items():
        if section in _dict(content.get("model")) and references.get(key) != section:
            other = shown(content["model"][section])
            found.setdefault(
                key, f"{key}={other} must stay ${{{section}}}: set {section}=NAME and {section}.KEY=VALUE."
            )


def _check(node: Any, key: str, found: Faults, allowed: set[str] | None = None) -> None:
    """Check a section, a part or a list, and all below it.

    **Arguments:**

    - `allowed`: the targets that may be imported; `None` for all.
    """
    if isinstance(node, dict):
        model = _check_part(node, key, found, allowed) if "_target_" in node else schema.section_model(key, tuple(node))
        if model is not None:
            _check_values(node, key, found, model)
    items: Iterable[tuple[Any, Any]] = node.items() if isinstance(node, dict) else enumerate(node)
    for name, value in items:
        inside = _join(key, name)
        if value == "???":
            found.setdefault(inside, f"{inside} is needed: give {inside}=VALUE. --help shows examples.")
        elif isinstance(value, dict | list) and inside not in found:
            _check(value, inside, found, allowed)


def _check_part(node: dict[str, Any], key: str, found: Faults, allowed: set[str] | None) -> type[BaseModel] | None:
    """Check the `_target_` of a part and Hydra's directives.

    **Returns:** the model of its arguments; `None` if the target is wrong.
    """
    role = schema.role_of(key)
    target = _target(node["_target_"], f"{key}._target_", role, found, allowed)
    if target is None:
        return None
    required: dict[str, list[Any]] = {"_partial_": [role.startswith("optim.")]} if role in schema.PARTS else {}
    if role == "model":
        required |= {"_recursive_": [False], "_convert_": ["all"]}
    for name, choices in {**DIRECTIVES, **required}.items():
        if node.get(name, DIRECTIVES[name][0]) not in choices:
            found[f"{key}.{name}"] = f"{key}.{name} must be {' or '.join(map(shown, choices))}."
    return schema.part_model(target, role, node["_target_"] in repository.targets().values())


def _check_values(node: dict[str, Any], key: str, found: Faults, model: type[BaseModel]) -> None:
    """Check the values of a section or part by the model of its settings."""
    given = schema.given(schema.role_of(key))
    for name in given:
        if name in node:
            found.setdefault(f"{key}.{name}", f"{key}.{name} is set by rnnlab: leave it out.")
    values = {name: value for name, value in node.items() if not str(name).startswith("_") and name not in given}
    known = {name: value for name, value in values.items() if value is not UNKNOWN and value != "???"}
    try:
        model.model_validate(known)
        return
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
    for fault in errors:
        name = str(fault["loc"][0])
        inside = _join(key, name)
        if fault["type"] == "missing":
            if name not in values and not node.get("_args_") and not node.get("_partial_"):
                found.setdefault(inside, f"{inside} is needed by {node['_target_']}: give +{inside}=VALUE.")
        elif name not in model.model_fields:
            taken = sorted(model.model_fields)
            near = taken if "_target_" in node else repository.settings()
            hint = _did_you_mean(name if "_target_" in node else inside, near) or f" It takes {', '.join(taken)}."
            found.setdefault(inside, f"{inside} is not a setting of {node.get('_target_', key)}.{hint}")
        else:
            field, most = model.model_fields[name], fault.get("ctx", {}).get("le")
            right = field.description or words(field.annotation)
            if fault["type"] == "less_than_equal" and isinstance(most, int):
                right = f"a whole number, at most {most:,}"
            found.setdefault(inside, f"{inside}={shown(values[name])} must be {right}.")


def _target(name: Any, key: str, role: str, found: Faults, allowed: set[str] | None) -> Any:
    """The class or function that a `_target_` names; `None` if there is none or it must not be imported."""
    base = schema.PARTS[role][0] if role in schema.PARTS else ""
    if not isinstance(name, str):
        found[key] = f"{key}={shown(name)} must be the name of a class or function, such as torch.nn.RNN."
    elif allowed is not None and name not in allowed:
        found[key] = f"{key}={shown(name)} is not one of the targets that conf/ names."
    else:
        try:
            target = get_object(name)
        except Exception as error:
            cause = " ".join(str(error.__cause__ or error).split())
            found[key] = f"{key}={name} cannot be imported.{_near(name) or f' {cause}'}"
            return None
        if isinstance(target, type):
            fits = not base or issubclass(target, get_object(base))
        else:
            fits = callable(target) and (not base or role in schema.FACTORIES)
        if fits:
            return target
        found[key] = f"{key}={name} is no {base.rpartition('.')[2] or 'class or function'}."
    return None


def _near(name: str) -> str:
    """A hint at a name in the same module that is like one that is not there."""
    module, _, last = name.rpartition(".")
    try:
        near = get_close_matches(last, dir(import_module(module)), n=1)
    except Exception:
        return _did_you_mean(name, repository.targets().values())
    return f" Did you mean {module}.{near[0]}?" if near else ""


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _join(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def _dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}
