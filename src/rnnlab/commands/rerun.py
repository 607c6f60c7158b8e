"""The same run again: again=RUN_FOLDER. Imports no torch."""

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rnnlab.config import repository
from rnnlab.config.repository import HOME, flatten, quoted
from rnnlab.utils.errors import UserError, require


def expand() -> None:
    """Replace `again=FOLDER` on the command line by the overrides of the run in that folder; others are added to them.

    **Raises:** `UserError` if it would be another run, and if it asks for what no yaml in `conf/` names.
    """
    given = next((argument for argument in sys.argv if argument.startswith("again=")), None)
    if given is None:
        return
    folder = Path(given.partition("=")[2])
    new_keys = {_key(argument) for argument in sys.argv[1:]}
    try:
        recorded: Any = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "overrides.yaml"))
        then = _flat(OmegaConf.load(folder / ".hydra" / "config.yaml"))
    except (OSError, ValueError, OmegaConfBaseException) as error:
        raise UserError(f"{given}: there is no run that can be read ({type(error).__name__}).") from error
    # neither the trial of a search nor where the run once resumed is a part of what it was
    overrides = [line for line in recorded if _key(line) != "trial" and line != "ckpt=last"]
    now = _composed(overrides)
    named = repository.targets().values()
    strange = [line for line in overrides if line.lstrip("+~").startswith("hydra")]
    strange += [f"{key}={value}" for key, value in now.items() if key.endswith("_target_") and value not in named]
    strange = [line for line in strange if _key(line) not in new_keys]
    require(
        not strange,
        f"{given} asks for {', '.join(strange)}, which no yaml in conf/ names. If you trust it, write it again.",
    )
    changed = [
        f"{key} is {now.get(key)} and was {then.get(key)}"
        for key in sorted(now.keys() | then.keys())
        if now.get(key) != then.get(key) and not any(f"{key}.".startswith(f"{new}.") for new in (*new_keys, "trial"))
    ]
    require(
        not changed,
        f"{given}: conf/ has changed since that run: {'; '.join(changed)}. Set on the command line what it is "
        f"to be, or check out the commit that {folder}/environment.json names.",
    )
    place = sys.argv.index(given)  # flags stay where they are
    sys.argv[place : place + 1] = [line for line in overrides if _key(line) not in new_keys]


def _composed(overrides: list[str]) -> dict[str, Any]:
    """The config of these overrides, with the config folders of the command line."""
    flags = ("--config-dir", "-cd")
    folders = [word.partition("=")[2] for word in sys.argv if word.partition("=")[0] in flags and "=" in word]
    folders += [word for flag, word in pairwise(sys.argv) if flag in flags]
    search_path = [f"hydra.searchpath=[{quoted(f'file://{Path(path).absolute()}')}]" for path in folders]
    with initialize_config_dir(str(HOME / "conf"), version_base="1.3"):
        return _flat(compose("train", [*overrides, *search_path]))


def _flat(config: Any) -> dict[str, Any]:
    return dict(flatten(OmegaConf.to_container(config)))


def _key(argument: str) -> str:
    return argument.lstrip("+~").partition("=")[0]
