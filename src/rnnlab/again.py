"""The same run again: again=RUN. Imports no torch."""

import sys
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rnnlab.conf import HOME, leaves
from rnnlab.errors import require


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
    lines: Any = OmegaConf.to_container(OmegaConf.load(recorded))
    # neither the trial of a search nor where a run once went on is a part of what it was
    overrides = [line for line in lines if _key(line) != "trial" and line != "ckpt=last"]
    now, then = _composed(overrides), dict(leaves(OmegaConf.to_container(OmegaConf.load(config))))
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
    sys.argv[1:] = [line for line in overrides if _key(line) not in anew] + rest


def _composed(overrides: list[str]) -> dict[str, Any]:
    with initialize_config_dir(str(HOME / "conf"), version_base="1.3"):
        return dict(leaves(OmegaConf.to_container(compose("train", overrides))))


def _key(argument: str) -> str:
    return argument.lstrip("+~").partition("=")[0]
