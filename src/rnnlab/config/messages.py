"""An exception as one message for the user. Imports no torch, so that --help is instant."""

import errno
import re
import sys
from difflib import get_close_matches
from traceback import FrameSummary, extract_tb

import yaml
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from rnnlab.config import repository
from rnnlab.utils.errors import UserError

LAUNCHERS = {"joblib": "sweep", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}  # and their extras


def explain(error: BaseException) -> str | None:
    """One message for what a user can get wrong; `None` for anything else, which deserves its traceback."""
    match error:
        case UserError():
            return str(error)
        case MissingConfigException(missing_cfg_file=str(name)) if name.startswith("hydra/launcher/"):
            return _no_launcher(name.rpartition("/")[2])
        case MissingConfigException(missing_cfg_file=str(name)) if "/" in name:
            group, _, option = name.partition("/")
            options = ", ".join(repository.options(group))
            return f"{group}={option}: there is no such option. {group} takes: {options}."
        case ConfigCompositionException():
            key = re.search(r"Could not override '([^']+)'", str(error))
            return _unknown_key(key[1]) if key else _with_cause(error)
        case InstantiationException():
            cause = error.__cause__
            if cause is None:
                return str(error)
            key = re.search(r"full_key: (\S+)", str(error))
            return explain(cause) or f"{key[1] if key else 'config'}: {cause} ({type(cause).__name__})"
        case MissingMandatoryValue():
            return f"{error.full_key} is needed: give {error.full_key}=VALUE. --help shows examples."
        case yaml.YAMLError() | OSError() | ValueError() if _came_through(error, "config_repository.py"):
            return f"A yaml of the config cannot be read: {' '.join(str(error).split())}."
        case RecursionError() if _came_through(error, "defaults_list.py"):
            return "The defaults of a yaml of the config name each other without end."
        case ValueError() if "Config group override must be" in str(error):  # Hydra's word for cell=null and cell=5
            return _no_option()
        case TypeError() if _raised_in(error).filename.endswith("hydra/_internal/defaults_list.py"):  # for cell=[5]
            return _no_option()
        case AssertionError() if _raised_in(error).filename.endswith("hydra/core/utils.py"):  # for hydra.verbose=5
            return f"A setting hydra.* is not what Hydra takes: {_raised_in(error).line}"
        case OverrideParseException(override=str(argument)):
            return (
                f"{argument or 'An empty argument'}: this cannot be read. It has to be KEY=VALUE; a value with other "
                "signs than letters, digits and ./:-_ is put into quotes twice: data.text='\"a, b\"'."
            )
        case ValueError() if "`val_check_interval` (" in str(error):  # lightning's, who counts the batches
            return f"trainer: {str(error).strip()}"
        case ValueError() if str(error).startswith("Unable to configure"):  # logging's
            return f"hydra.job_logging: {error}: {error.__cause__}."
        case RuntimeError() if "conditioned on metric" in str(error):  # a callback's that stops early
            return str(error)
        case ValueError() if "integer string conversion" in str(error):  # Python's limit
            return f"A number on the command line is too long: {str(error).partition(';')[0]}."
        case HydraException() | OmegaConfBaseException():
            return _with_cause(error)
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EFBIG | errno.EROFS):
            place = f": {error.filename}" if error.filename else ""
            return f"{error.strerror}{place}. What is written already is intact: make room, and run the same command."
        case OSError(filename=str(name)):
            return f"{error.strerror}: {name}. If this is the run's folder, choose another with hydra.run.dir=PATH."
    if type(error).__name__ in ("MemoryError", "OutOfMemoryError") or "can't allocate memory" in str(error):
        return f"There is not enough memory: {str(error) or 'Python has none left'}. Try a smaller data.batch_size."
    if type(error).__name__ == "MisconfigurationException":  # lightning's, which is not imported for this
        return str(error)
    return None


def _raised_in(error: BaseException) -> FrameSummary:
    return extract_tb(error.__traceback__)[-1] if error.__traceback__ else FrameSummary("", 0, "")


def _came_through(error: BaseException, file: str) -> bool:
    """Whether it was raised below a file of Hydra's."""
    return any(frame.filename.endswith(f"hydra/_internal/{file}") for frame in extract_tb(error.__traceback__))


def _no_option() -> str:
    """Which group was given a value that cannot be the name of an option."""
    for argument in sys.argv[1:]:
        group, _, value = argument.lstrip("+").partition("=")
        options = repository.options(group)
        if options and not set(value.strip("[]").split(",")) <= set(options):
            why = "a run needs one" if value == "null" else "there is no such option"
            return f"{group}={value}: {why}. {group} takes: {', '.join(options)}."
    return "A group takes the name of one of its options. --help shows them."


def _with_cause(error: BaseException) -> str:
    lines = [str(error).strip(), *([str(error.__cause__).strip().split("\n")[0]] if error.__cause__ else [])]
    return "\n".join(filter(None, lines))


def _no_launcher(name: str) -> str:
    if (extra := LAUNCHERS.get(name)) is None:
        return f"hydra/launcher={name}: there is no such launcher. Use basic, {', '.join(LAUNCHERS)}."
    return f'hydra/launcher={name} needs a package: pip install "rnnlab[{extra}]", in a clone -e ".[{extra}]".'


def _unknown_key(key: str) -> str:
    known = repository.settings()
    if key in known:
        swept = {"-m", "--multirun"} & set(sys.argv)
        hint = f" If a group that brings it is swept, write ++{key}=VALUE." if swept else ""
        return f"{key} is not part of this run: it belongs to {', '.join(sorted(known[key]))}.{hint}"
    near = get_close_matches(key, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{key} is not a setting.{hint} --cfg job prints all of them; +{key}=VALUE adds a new one."
