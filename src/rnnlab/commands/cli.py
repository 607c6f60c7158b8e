"""Runs a `hydra.main` so that an error of the user ends in one message. Imports no torch: --help has to be quick."""

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from rnnlab.config.messages import explain
from rnnlab.training import processes
from rnnlab.utils.errors import printable


def run(main: Callable[[], Any]) -> None:
    """Call a `hydra.main`; an exception ends the process with the message that `explain` has for it."""
    if processes.is_child():
        processes.exit_with_parent(int(os.environ["RNNLAB_PARENT"]))  # before long imports
    processes.share_start_time()
    # makes Hydra raise exceptions in place of printing them; other processes of this run inherit what the user had set
    os.environ.setdefault("RNNLAB_FULL_ERROR", os.environ.get("HYDRA_FULL_ERROR", "0"))
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # a full disk is reported once, by what is written next: not by a log or a logger's thread
    logging.raiseExceptions = False
    excepthook = threading.excepthook
    threading.excepthook = lambda args: None if isinstance(args.exc_value, OSError) else excepthook(args)
    try:
        if any(argument.startswith("again=") for argument in sys.argv):
            from rnnlab.commands.rerun import expand

            expand()
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        _exit_with_message(error)
        raise


def take_literally(*keys: str) -> dict[str, str]:
    """Take these settings off the command line, where Hydra's grammar would change them, and return their values."""
    taken = {}
    for argument in sys.argv[1:]:
        key, equals, value = argument.partition("=")
        if key in keys and equals:
            taken[key] = value
            sys.argv.remove(argument)
    return taken


def add_keys(section: str) -> None:
    """Let `section.KEY=VALUE` set what only a checkpoint has: ++ sets a key whether Hydra knows it or not."""
    sys.argv[1:] = [f"++{argument}" if argument.startswith(f"{section}.") else argument for argument in sys.argv[1:]]


@contextmanager
def one_message() -> Iterator[None]:
    """Around a job: end it as `run` does; in a sweep, leave the exception to Hydra, which names the job."""
    try:
        yield
    except Exception as error:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            _exit_with_message(error)
        raise


def _exit_with_message(error: Exception) -> None:
    """Print what `explain` says and exit with 1, unless it knows no message or a traceback was asked for."""
    message = explain(error)
    if message is not None and os.environ["RNNLAB_FULL_ERROR"] != "1":
        print("Error:", printable(message, but="\n"), file=sys.stderr)
        sys.exit(1)
