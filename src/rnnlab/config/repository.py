"""What the config folders hold: options, settings, targets."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig

from rnnlab.utils.errors import UserError

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast as the one in Python
HOME = Path(__file__).parents[3]  # the repository


def folders() -> list[Path]:
    """The folders that Hydra composes from: `conf/` and what `--config-dir` adds. Outside of Hydra, `conf/`."""
    if HydraConfig.initialized():
        sources = HydraConfig.get().runtime.config_sources
        return [Path(source.path) for source in sources if source.schema == "file"]
    return [HOME / "conf"]


@cache
def read(folder: Path) -> dict[str, dict[str, Any]]:
    """All files below `folder` as values by dotted key: `{"cell/rnn": {"cell.hidden_size": 32, ...}, ...}`.

    A file that begins with another of its folder, `defaults: [rnn]`, includes its content. Numbers such as 1e-3 stay
    text.

    **Raises:** `UserError` for a file that is no YAML.
    """
    files = {}
    for path in sorted(folder.rglob("*.yaml")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        packaged = "/" in name and not path.read_text(encoding="utf-8").startswith("# @package _global_")
        files[name] = _values(path, name.split("/")[0] if packaged else "")
    return files


def _values(path: Path, group: str) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), LOADER) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}.") from None
    values: dict[str, Any] = {}
    for name in content.get("defaults", ()):
        if isinstance(name, str) and (base := path.parent / f"{name}.yaml").is_file():
            values |= _values(base, group)
    return values | dict(flatten(content, group))


def flatten(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested dicts with its dotted key."""
    if isinstance(node, dict) and node:
        for name, child in node.items():
            yield from flatten(child, f"{key}.{name}" if key else str(name))
    else:
        yield key, node


def quoted(text: str) -> str:
    """Text as a literal value of an override."""
    if re.fullmatch(r"/[\w./-]*", text, re.ASCII):
        return text
    escaped = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + match[2].replace("'", "\\'"), text)
    return f"'{escaped}'"  # where no quote follows, Hydra takes a backslash as it is


def options(group: str) -> list[str]:
    """The options of a group, by the names that the command line takes."""
    names = [name for folder in folders() for name in read(folder) if name.startswith(f"{group}/")]
    return sorted({name.partition("/")[2] for name in names})


def settings() -> dict[str, set[str]]:
    """Every key that can be set, with the files that hold it: `{"data.window": {"data/waves"}, ...}`."""
    found = defaultdict(set)
    for name, key, _ in _all_values():
        if not name.startswith(("experiment/", "debug/")) and not key.startswith(("defaults", "hydra.")):
            parts = key.split(".")
            for depth in range(1, len(parts) + 1):
                found[".".join(parts[:depth])].add(name)
    return found


def targets(group: str = "") -> dict[str, str]:
    """The `_target_` that each option of a group names: `{"rnn": "torch.nn.RNN", ...}`; of all groups by default.

    These exact names are what a checkpoint may be built from.
    """
    if group:
        return {name.rpartition("/")[2]: value for name, key, value in _all_values() if key == f"{group}._target_"}
    return {f"{name}:{key}": value for name, key, value in _all_values() if key.endswith("_target_")}


def _all_values() -> Iterator[tuple[str, str, Any]]:
    """File, key and value of every setting."""
    for folder in folders():
        for name, values in read(folder).items():
            for key, value in values.items():
                yield name, key, value


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint at a known name that is like one that is not known."""
    near = get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]}?" if near else ""
