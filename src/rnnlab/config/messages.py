"""An exception as one message for the user. Imports no torch, so that --help is fast."""

import errno
import sys
from traceback import walk_tb

from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from rnnlab.config import repository
from rnnlab.utils.errors import UserError

LAUNCHERS = {"joblib": "sweep", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}  # and their extras
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# exceptions by which these libraries refuse what they are given
REFUSALS = ("ValueError", "RuntimeError", "MisconfigurationException")
LIBRARIES = ("hydra", "omegaconf", "yaml", "lightning", "logging")


def explain(error: BaseException) -> str | None:
    """One message for what a user can get wrong; `None` for anything else, which deserves its traceback."""
    match error:
        case UserError():
            return str(error)
        case MissingConfigException(missing_cfg_file=str(name)) if (last := name.rpartition("/")[2]) in LAUNCHERS:
            extra = f"[{LAUNCHERS[last]}]"
            return f'{name} needs a package: pip install "rnnlab{extra}", in a clone -e ".{extra}".'
        case MissingConfigException(missing_cfg_file=str(name)) if "/" in name and not name.startswith("hydra/"):
            return _no_option(*name.split("/", 1))
        case ConfigCompositionException(__cause__=ConfigAttributeError() | ConfigKeyError() as cause):
            return _unknown_key(str(cause.full_key))
        case InstantiationException(__cause__=BaseException() as cause):
            return explain(cause) or _with_type(error)
        case MissingMandatoryValue():
            return f"{error.full_key} is needed: give {error.full_key}=VALUE. --help shows examples."
        case OverrideParseException(override=str(argument)):
            return (
                f"{argument or 'An empty argument'}: this cannot be read. It has to be KEY=VALUE; a value with other "
                "characters than letters, digits and ./:-_ is put into quotes twice: data.text='\"a, b\"'."
            )
        case HydraException() | OmegaConfBaseException():
            reason = str(error.__cause__ or "").strip().partition("\n")[0]
            return f"{error}\n{reason}".strip()
        case OSError() if error.errno in NO_ROOM:
            place = f": {error.filename}" if error.filename else ""
            return f"{error.strerror}{place}. What is written already is intact: make room, and run the same command."
        case OSError(filename=str(name)):
            return f"{error.strerror}: {name}. If this is the run's folder, choose another with hydra.run.dir=PATH."
    if type(error).__name__ in ("MemoryError", "OutOfMemoryError") or "can't allocate memory" in str(error):
        return f"There is not enough memory: {str(error) or 'Python has none left'}. Try a smaller data.batch_size."
    if not HydraConfig.initialized():
        return _no_name_of_an_option() or f"The config cannot be composed: {_with_type(error)}"
    if type(error).__name__ in REFUSALS and _raised_by(error) in LIBRARIES:
        return _with_type(error)
    return None


def _with_type(error: BaseException) -> str:
    """An exception in one line."""
    return f"{' '.join(str(error).split())} ({type(error).__name__}; HYDRA_FULL_ERROR=1 shows where.)"


def _raised_by(error: BaseException) -> str:
    """The package whose code raised an exception."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return frames[-1].f_globals.get("__name__", "").partition(".")[0] if frames else ""


def _no_option(group: str, value: str) -> str:
    return f"{group}={value}: there is no such option. {group} takes: {', '.join(repository.options(group))}."


def _no_name_of_an_option() -> str | None:
    """Which group was given a value that cannot be the name of an option, such as cell=null or cell=[5]."""
    for argument in sys.argv[1:]:
        group, _, value = argument.lstrip("+").partition("=")
        if (value == "null" or not value[:1].isalpha()) and repository.options(group):
            return _no_option(group, value)
    return None


def _unknown_key(key: str) -> str:
    known = repository.settings()
    if key in known:
        swept = {"-m", "--multirun"} & set(sys.argv)
        hint = f" If a group that brings it is swept, write ++{key}=VALUE." if swept else ""
        return f"{key} is not part of this run: it belongs to {', '.join(sorted(known[key]))}.{hint}"
    hint = repository.did_you_mean(key, known)
    return f"{key} is not a setting.{hint} --cfg job prints all of them; +{key}=VALUE adds a new one."
