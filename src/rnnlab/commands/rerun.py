"""The same run again: again=RUN. Imports no torch."""

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rnnlab.config import repository
from rnnlab.config.repository import HOME, flatten, quoted
from rnnlab.utils.errors import UserError, require


def expand() -> None:
    """Put what was set for an earlier run in place of `again=RUN` on the command line; what is given beside it counts.

    **Raises:** `UserError` if RUN is no run's folder, and if `conf/` has changed since, so that it would be another
    run; with the values that were.
    """
    given = [argument for argument in sys.argv[1:] if argument.startswith("again=")]
    if not given:
        return
    folder = Path(given[-1].partition("=")[2])
    recorded, config = folder / ".hydra" / "overrides.yaml", folder / ".hydra" / "config.yaml"
    require(recorded.is_file() and config.is_file(), f"again={folder}: there is no run. Give the folder of one.")
    rest = [argument for argument in sys.argv[1:] if argument not in given]
    anew = {_key(argument) for argument in rest}
    try:
        lines: Any = OmegaConf.to_container(OmegaConf.load(recorded))
        then = dict(flatten(OmegaConf.to_container(OmegaConf.load(config))))
        # neither the trial of a search nor where a run once went on is a part of what it was
        overrides = [line for line in lines if _key(line) != "trial" and line != "ckpt=last"]
    except Exception as error:  # nearly any, for a file of anyone
        raise UserError(f"again={folder}: {recorded.parent} cannot be read ({type(error).__name__}).") from error
    strange = [line for line in overrides if _key(line).startswith("hydra") and _key(line) not in anew]
    require(not strange, f"again={folder}: {'; '.join(strange)} is for Hydra, not for the run. Give it by yourself.")
    now = _composed(overrides)
    named = repository.targets().values()
    targets = [f"{key}={value}" for key, value in now.items() if key.endswith("_target_") and value not in named]
    strange = [line for line in targets if _key(line) not in anew]
    require(
        not strange,
        f"again={folder} asks for {', '.join(strange)}, which no yaml in conf/ names. If you trust it, write it again.",
    )
    changed = [
        f"{key} is {now.get(key)} and was {then.get(key)}"
        for key in sorted(now.keys() | then.keys())
        if now.get(key) != then.get(key) and not any(f"{key}.".startswith(f"{prefix}.") for prefix in (*anew, "trial"))
    ]
    require(
        not changed,
        f"again={folder}: conf/ has changed since that run: {'; '.join(changed)}. Set on the command line what it is "
        f"to be, or check out the commit that {folder}/environment.json names.",
    )
    place = sys.argv.index(given[-1])  # flags stay where they are
    sys.argv[place : place + 1] = [line for line in overrides if _key(line) not in anew]
    sys.argv = [argument for argument in sys.argv if argument not in given]


def _composed(overrides: list[str]) -> dict[str, Any]:
    flags = ("--config-dir", "-cd")
    folders = [word.partition("=")[2] for word in sys.argv if word.startswith(tuple(f"{flag}=" for flag in flags))]
    folders += [word for flag, word in pairwise(sys.argv) if flag in flags]
    overrides = [*overrides, *(f"hydra.searchpath=[{quoted(f'file://{Path(path).absolute()}')}]" for path in folders)]
    with initialize_config_dir(str(HOME / "conf"), version_base="1.3"):
        return dict(flatten(OmegaConf.to_container(compose("train", overrides))))


def _key(argument: str) -> str:
    return argument.lstrip("+~").partition("=")[0]
