"""The composed config, checked before anything is read or started: every fault of it, each told once."""

import re
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException
from torch.nn.parallel import DistributedDataParallel

from rnnlab.config import repository, schema
from rnnlab.config.types import KEYS, RULES, UNKNOWN, Rule, shown
from rnnlab.utils.errors import UserError

Faults = dict[str, str]  # a sentence for each key that is wrong

# where there is a `_target_`: what it must be, and what rnnlab gives to it
PARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "model": ("rnnlab.tasks.base.Task", ("spec",)),
    "data": ("rnnlab.data.base.SequenceData", ()),
    "cell": ("torch.nn.Module", ("input_size", "batch_first")),
    "optim.optimizer": ("torch.optim.Optimizer", ("params",)),
    "optim.scheduler": ("torch.optim.lr_scheduler.LRScheduler", ("optimizer", "total_steps")),
    "trainer": (
        "lightning.pytorch.Trainer",
        ("callbacks", "logger", "plugins", "enable_progress_bar", "default_root_dir"),
    ),
    "trainer.strategy": ("lightning.pytorch.strategies.Strategy", ()),
    "trainer.profiler": ("lightning.pytorch.profilers.Profiler", ()),
    "callbacks.*": ("lightning.pytorch.Callback", ()),
    "logger.*": ("lightning.pytorch.loggers.Logger", ()),
}
ONCE = [PARTS[role][0] for role in ("model", "data", "cell", "trainer")]
REFERENCES = {"model.cell": "cell", "model.optim": "optim"}  # by which a model's yaml takes what is chosen
SECTIONS = ("model", "data", "cell", "optim", "trainer", "callbacks", "logger")
DIRECTIVES = {"_recursive_": True, "_convert_": "none", "_partial_": False}  # Hydra's own defaults
LAYERS = ("num_layers", "dropout", "bidirectional")  # which `make_cell` gives to cells that have none


def check_parts(cfg: DictConfig) -> None:
    """Check a config of some parts of a run.

    **Raises:** `UserError` with a line for every fault: the key, its value, and what would be right.
    """
    if lines := find_faults(cfg)[1]:
        raise UserError(*lines)


def find_faults(cfg: DictConfig) -> tuple[dict[str, Any], list[str], set[str]]:
    """Check a composed config: types, ranges, choices, and the arguments of each `_target_`.

    **Returns:** the config as plain dicts and lists, a message for each fault, and the keys that are wrong.
    """
    found: Faults = {}
    content, same = resolve(cfg, found)
    whole = "cell" in content or "optim" in content
    if whole:
        _needed(content, same, found)
    for key, value in content.items():
        if whole or value != "???":  # others take it from elsewhere
            _look(value, key, found, None if whole else set(repository.targets().values()))
    wrong = set(found)
    for key in same:
        origin = _origin(key, same)
        for other in [other for other in wrong if f"{other}.".startswith(f"{origin}.") and origin != key]:
            wrong.add(copy := key + other.removeprefix(origin))
            found.pop(copy, None)  # told where it stands
    return content, list(found.values()), wrong


def faults(config: dict[str, Any], key: str) -> list[str]:
    """Every fault of a plain config that may be a stranger's, without building any of it.

    Imported is only what a yaml in `conf/` names; any other `_target_` is a fault.

    **Arguments:**

    - `config`: what stands at `key`, such as `model` or `data`; a model's holds its cell and optim.
    """
    found: Faults = {}
    _look(config, key, found, set(repository.targets().values()))
    return list(found.values())


def resolve(cfg: Any, found: Faults) -> tuple[dict[str, Any], dict[str, str]]:
    """A config as plain dicts and lists, with what cannot be resolved left `UNKNOWN`.

    **Returns:** the content, and for each key that is just a reference to another, `${...}`, that other key.
    """
    same: dict[str, str] = {}
    try:
        return _plain(cfg, "", found, same), same
    except RecursionError:
        raise UserError("The config refers to itself without end: look for ${...} that hold each other.") from None


def _plain(node: Any, above: str, found: Faults, same: dict[str, str]) -> Any:
    if not isinstance(node, DictConfig | ListConfig):
        return node
    plain: dict[Any, Any] = {}
    names: Any = node.keys() if isinstance(node, DictConfig) else range(len(node))
    for name in names:
        key = f"{above}.{name}" if above else str(name)
        if OmegaConf.is_missing(node, name):
            plain[name] = "???"
            continue
        raw: Any = _raw(node)[name] if OmegaConf.is_interpolation(node, name) else ""
        if reference := re.fullmatch(r"\$\{(\.*)([^${}:]+)\}", raw):
            dots = len(reference[1])
            same[key] = ".".join([*(key.split(".")[:-dots] if dots else []), reference[2]])
        try:
            value = node[name]
            if key in REFERENCES and same.get(key) == REFERENCES[key]:  # which is looked at where it stands
                plain[name] = UNKNOWN
            else:
                plain[name] = _plain(value, key, {}, {}) if reference else _plain(value, key, found, same)
        except InterpolationToMissingValueError:  # which is told where it is missing
            plain[name] = UNKNOWN
        except OmegaConfBaseException as error:
            plain[name] = UNKNOWN
            if HydraConfig.initialized() or "hydra" not in str(error).lower():  # which alone knows the rest
                found[key] = f"{key}={raw}: {str(error).splitlines()[0]}."
    return plain if isinstance(node, DictConfig) else list(plain.values())


def _raw(node: Any) -> Any:
    return OmegaConf.to_container(node)


def _origin(key: str, same: dict[str, str]) -> str:
    """What a reference comes down to."""
    seen = {key}
    while (key := same.get(key, key)) not in seen:
        seen.add(key)
    return key


def _needed(content: dict[str, Any], same: dict[str, str], found: Faults) -> None:
    """What a run cannot do without."""
    for section in SECTIONS:
        value = content.get(section)
        if not isinstance(value, dict):
            options = ", ".join(repository.options(section))
            given = f"{section}={shown(value)}: a" if section in content else f"{section} is left out: a"
            found.setdefault(section, f"{given} run needs one. {section} takes: {options}.")
    for key, _ in repository.flatten(repository.read(repository.HOME / "conf")["train"]):
        section, _, name = key.partition(".")
        there = section in content and (not name or name in _dict(content[section]))
        if section not in ("defaults", "hydra") and not there:
            found[key] = f"{key} is left out: a run needs it."
    for section, keys in (("optim", ("optimizer", "scheduler", "interval")), ("trainer", ("accelerator", "devices"))):
        for key in keys if section not in found else ():
            if key not in content[section]:
                found[f"{section}.{key}"] = f"{section}.{key} is left out: a run needs it."
    for section in ("model", "data", "cell", "trainer"):
        if section not in found and "_target_" not in content[section]:
            found[f"{section}._target_"] = f"{section}._target_ is left out: a run needs it."
    for key, section in REFERENCES.items():
        value = _dict(content.get("model")).get(section, UNKNOWN)
        if same.get(key) != section and key not in found and value is not UNKNOWN:
            found[key] = f"{key}={shown(value)} must stay ${{{section}}}: set {section}=NAME and {section}.KEY=VALUE."
    nodes = [f"{section}.{name}" for section in ("callbacks", "logger") for name in _dict(content.get(section))]
    for key in (*nodes, "optim.scheduler", "optim.optimizer"):
        section, _, name = key.partition(".")
        value = _dict(content.get(section)).get(name, UNKNOWN)
        if value is not UNKNOWN and "_target_" not in _dict(value) and (value is not None or key == "optim.optimizer"):
            found[key] = f"{key}={shown(value)} must have a _target_{', or be null' * (key != 'optim.optimizer')}."
    settings = repository.settings()
    for name in _dict(content.get("optim")):
        if f"optim.{name}" not in settings:
            found[f"optim.{name}"] = f"optim.{name} is not a setting.{_hint(f'optim.{name}', settings)}"


def _dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _look(node: Any, key: str, found: Faults, allowed: set[str] | None, ours: bool = True) -> None:
    """Look at a value and all below it; what a name means is known of what a yaml in `conf/` names, `ours`."""
    if node is UNKNOWN or key in found:
        return
    if isinstance(node, dict) and "_target_" in node:
        ours = node["_target_"] in repository.targets().values()
    if node == "???":
        found[key] = f"{key} is needed: give {key}=VALUE. --help shows examples."
    elif (rule := _rule(key, ours)) and (right := rule(node)):
        found[key] = f"{key}={shown(node)} must be {right}."
    elif isinstance(node, dict):
        if "_target_" in node:
            _look_at_part(node, key, found, allowed, ours)
        for name, child in node.items():
            _look(child, f"{key}.{name}", found, allowed, ours)
    elif isinstance(node, list):
        for number, child in enumerate(node):
            if isinstance(child, dict | list):
                _look(child, f"{key}.{number}", found, allowed, ours)


def _rule(key: str, ours: bool) -> Rule | None:
    section, _, name = key.rpartition(".")
    foreign = section.startswith(("callbacks", "logger")) and not name.startswith("_")  # where a name may mean anything
    return KEYS.get(key) or (RULES.get(name) if ours and not foreign else None)


def _look_at_part(node: dict[str, Any], key: str, found: Faults, allowed: set[str] | None, ours: bool) -> None:
    """Hold a node against what its `_target_` takes."""
    role = re.sub(r"^model\.(?=cell|optim)", "", key)  # a model's own, out of a checkpoint
    role = f"{role.split('.')[0]}.*" if role.count(".") == 1 and role.startswith(("callbacks", "logger")) else role
    base, given = PARTS.get(role, ("", ()))
    target = _target(node["_target_"], f"{key}._target_", base, found, allowed)
    if target is None:
        return
    for name, right in _directives(role).items():
        if node.get(name, DIRECTIVES[name]) != right:
            found[f"{key}.{name}"] = f"{key}.{name} must be {shown(right)}."
    taken, others = _taken(target, role)
    for name, value in node.items():
        inside = f"{key}.{name}"
        if not isinstance(name, str):
            found.setdefault(inside, f"{inside}: {shown(name)} is not a name.")
        elif name in given or (name == "_args_" and base in ONCE):
            found.setdefault(inside, f"{inside} is set by rnnlab: leave it out.")
        elif name in taken and value is not UNKNOWN and value != "???" and _rule(inside, ours) is None:
            hint = taken[name].hint
            if not schema.fits(value, hint):
                found.setdefault(inside, f"{inside}={shown(value)} must be {schema.words(hint)}.")
        elif name not in taken and not others and not name.startswith("_"):
            free = sorted(set(taken) - set(given))
            hint = _hint(name, free) or f" It takes {', '.join(free)}."
            found.setdefault(inside, f"{inside} is not a setting of {node['_target_']}.{hint}")
    if not node.get("_args_") and not node.get("_partial_"):
        for name, argument in taken.items():
            if argument.needed and name not in (*given, *node):
                found[f"{key}.{name}"] = f"{key}.{name} is needed by {node['_target_']}: give +{key}.{name}=VALUE."


def _directives(role: str) -> dict[str, Any]:
    """What Hydra is told about a part, where rnnlab relies on it."""
    if role == "model":
        return {"_recursive_": False, "_convert_": "all", "_partial_": False}
    return {"_partial_": role in ("optim.optimizer", "optim.scheduler")} if role in PARTS else {}


def _target(name: Any, key: str, base: str, found: Faults, allowed: set[str] | None) -> Any:
    """The class or function that a `_target_` names, if there is one and it may be imported."""
    if not isinstance(name, str):
        found[key] = f"{key}={shown(name)} must be the name of a class or function, such as torch.nn.RNN."
        return None
    if allowed is not None and name not in allowed:
        found[key] = f"{key}={shown(name)} is not one of the targets that conf/ names."
        return None
    try:
        target = get_object(name)
    except Exception as error:
        found[key] = f"{key}={name} cannot be imported.{_near(name) or f' {_first_cause(error)}'}"
        return None
    right = get_object(base) if base else object
    only_class = base in ONCE[:3] or base.endswith((".Callback", ".Logger"))
    if not (issubclass(target, right) if isinstance(target, type) else callable(target) and not only_class):
        found[key] = f"{key}={name} is no {base.rpartition('.')[2] or 'class or function'}."
        return None
    return target


def _near(name: str) -> str:
    """The names in its module that are like one that is not there."""
    try:
        module, _, last = name.rpartition(".")
        near = get_close_matches(last, dir(import_module(module)), n=1)
    except Exception:
        near = get_close_matches(name, repository.targets().values(), n=1)
        module = ""
    return f" Did you mean {module and f'{module}.'}{near[0]}?" if near else ""


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _taken(target: Any, role: str) -> tuple[dict[str, schema.Argument], bool]:
    """The arguments that a part may be given in a config."""
    taken, others = schema.of(target)
    free = schema.Argument(Any, False)
    if role == "cell":
        taken = {**dict.fromkeys((*LAYERS, "residual", "init", "forget_bias", "chrono"), free), **taken}
    elif role == "model" and schema.of(target.__init__)[1]:  # what is left over goes to the network
        from rnnlab.nn.rnn import SimpleRNN

        network = schema.of(SimpleRNN)[0]
        taken = {**{name: network[name] for name in ("embedding", "tied", "dropout")}, **taken}
    elif getattr(target, "__name__", "") == "DDPStrategy":
        taken = {**schema.of(DistributedDataParallel)[0], **taken}
        return {name: argument._replace(needed=False) for name, argument in taken.items()}, False
    return taken, others


def _hint(name: str, known: Any) -> str:
    near = get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]}?" if near else ""
