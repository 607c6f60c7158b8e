"""Entry points: Hydra's, but what a user got wrong ends in one message. Imports no torch, so that --help is instant."""

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hydra._internal import utils as hydra_utils
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from rnnlab.config.messages import explain
from rnnlab.training import processes
from rnnlab.utils.errors import printable


def run(main: Callable[[], Any]) -> None:
    """Call a `hydra.main`, with Hydra's way of reporting exceptions replaced by `explain`."""
    processes.join()
    processes.agree_on_start()
    if any(argument.startswith("again=") for argument in sys.argv):
        from rnnlab.commands.rerun import expand

        try:
            expand()
        except Exception as error:
            _stop(error)
            raise
    original = hydra_utils.run_and_report

    def report(function: Callable[[], Any]) -> Any:
        def told() -> Any:
            try:
                return function()
            except Exception as error:
                _stop(error)
                raise

        return original(told)

    hydra_utils.run_and_report = report  # type: ignore[assignment]
    # a full disk is told once, by who writes next: neither by a log nor by a logger's thread
    logging.raiseExceptions = False
    by_threads = threading.excepthook
    threading.excepthook = lambda what: None if isinstance(what.exc_value, OSError) else by_threads(what)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)


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
    """Let `section.KEY=VALUE` set what is in a checkpoint, which Hydra does not know: ++ sets what is there or not."""
    sys.argv[1:] = [f"++{argument}" if argument.startswith(f"{section}.") else argument for argument in sys.argv[1:]]


@contextmanager
def one_message() -> Iterator[None]:
    """Around a single job: end it as `run` does. In a sweep the exception goes on, for Hydra to name the job."""
    try:
        yield
    except Exception as error:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            _stop(error)
        raise


def _stop(error: Exception) -> None:
    """Print what `explain` makes of an error and exit with 1, unless it deserves a traceback or one was asked for."""
    message = None if os.environ.get("HYDRA_FULL_ERROR") == "1" else explain(error)
    if message is None:
        return
    if os.environ.get("LOCAL_RANK", "0") == "0" or not getattr(error, "on_every_rank", False):
        print("Error:", printable(message, but="\n"), file=sys.stderr)
    sys.exit(1)
