"""`environment.json`: what is needed to repeat a run, beside its config."""

import json
import os
import platform
import socket
import subprocess
import sys
from datetime import datetime
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from rnnlab.config.repository import HOME
from rnnlab.utils.files import write_atomically


def note(folder: Path, resumes: bool) -> None:
    """Write an entry for this start of a run; if it `resumes`, after those of earlier starts."""
    path = folder / "environment.json"
    starts = json.loads(path.read_text(encoding="utf-8")) if resumes and path.exists() else []
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    starts.append({
        "time": datetime.now().astimezone().isoformat(timespec="seconds"), "command": sys.argv, **_git_state(),
        "host": socket.gethostname(), "platform": platform.platform(), "gpus": gpus,
        "cpu": torch.backends.cpu.get_cpu_capability(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "python": platform.python_version(), "packages": _packages(),
    })  # fmt: skip
    write_atomically(path, json.dumps(starts, indent=1) + "\n")


@cache
def _packages() -> dict[str, str]:
    """The version of every installed package."""
    return dict(sorted((str(package.name), package.version) for package in distributions()))


@cache
def _git_state() -> dict[str, Any]:
    """The commit of this repository, and whether the files equal it; null without git."""
    try:
        commit, changes = (
            subprocess.run(["git", "-C", HOME, *words], capture_output=True, text=True, timeout=10, check=True).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "clean": None}
    return {"commit": commit.strip(), "clean": not changes}
