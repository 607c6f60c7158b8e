"""Where a run was made: what one has to know to make it again, beside its config."""

import json
import os
import platform
import socket
import subprocess
import sys
from contextlib import suppress
from datetime import datetime
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from rnnlab.config.repository import HOME
from rnnlab.utils.files import write_atomically

FILE = "environment.json"


def note(folder: Path, goes_on: bool) -> None:
    """Write this start into `environment.json` in a run's folder, a list with an entry for each start of the run.

    **Arguments:**

    - `goes_on`: whether this start is not the first.
    """
    path = folder / FILE
    starts: list[Any] = []
    if goes_on:
        with suppress(OSError, ValueError):
            starts = json.loads(path.read_text(encoding="utf-8"))
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    starts.append({
        "time": datetime.now().astimezone().isoformat(timespec="seconds"), "command": sys.argv, **_source(),
        "host": socket.gethostname(), "platform": platform.platform(), "gpus": gpus,
        "cpu": torch.backends.cpu.get_cpu_capability(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "python": platform.python_version(), "packages": _packages(),
    })  # fmt: skip
    write_atomically(path, json.dumps(starts, indent=1) + "\n")


@cache
def _packages() -> dict[str, str]:
    """The version of every package that is installed."""
    found = [(package.metadata["Name"], package.version) for package in distributions()]
    return dict(sorted(pair for pair in found if pair[0]))  # pip leaves some without a name


@cache
def _source() -> dict[str, Any]:
    """The git commit of this repository, and whether all files are as they are there; null if that cannot be told."""
    try:
        said = [
            subprocess.run(["git", "-C", HOME, *words], capture_output=True, text=True, timeout=10, check=True).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        ]
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "clean": None}
    return {"commit": said[0].strip(), "clean": not said[1]}
