"""`run.json`, the record of a run in its folder: status, settings, score. Imports no torch."""

import json
import logging
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from rnnlab.config.messages import explain
from rnnlab.utils.errors import Lost, Pruned
from rnnlab.utils.files import write_atomically

FILE = "run.json"
DONE = ("finished", "pruned")  # statuses of a run that has a result
INTERRUPTED = ("running", "stopped", "killed")  # statuses of a run that can continue
CLOCK_TOLERANCE = 5  # seconds by which the start time of a living process may shift as the clock is adjusted

log = logging.getLogger(__name__)


def read(folder: Path) -> dict[str, Any]:
    """The record of the run in a folder; empty if there is none, or none that can be read."""
    try:
        return dict(json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def write(folder: Path, record: dict[str, Any]) -> None:
    """Replace the record in a folder atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / FILE, json.dumps(record, indent=1, default=str) + "\n")


def find_runs(folder: Path) -> list[Path]:
    """The folders of runs at or below a folder."""
    return [path.parent for path in folder.rglob(FILE)]


def status(record: dict[str, Any]) -> str:
    """finished, failed, pruned, stopped, running, or killed: its process is gone, as far as this host can tell."""
    if record.get("status") == "running" and on_this_host(record):
        started = process_start_time(record.get("pid"))
        alive = started is not None and abs(started - float(record.get("born") or 0)) < CLOCK_TOLERANCE
        return "running" if alive else "killed"
    return str(record.get("status"))


def on_this_host(record: dict[str, Any]) -> bool:
    """Whether a run is, or was, on this machine."""
    return record.get("host") == socket.gethostname()


def process_start_time(pid: int | None) -> float | None:
    """When a process started, in seconds since the machine did, whatever its clock; `None` if it does not run."""
    try:
        process = psutil.Process(pid or 0)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time() - psutil.boot_time()
    except psutil.Error:
        return None


class Record:
    """Keeps `run.json` up to date: `with Record(...) as record: record.note(score=...)`.

    At the end the status follows from the exception; `Pruned` is not raised further. A run that `resumes` adds its
    seconds to those before. Only one process of a run `writes`.
    """

    def __init__(self, folder: Path, overrides: list[str], resumes: bool = False, writes: bool = True):
        self.folder = folder
        self.writes = writes
        self.previous = read(folder)  # survives a failure; to be emptied before the folder is changed
        self.spent = float(self.previous.get("seconds") or 0) if resumes else 0.0
        self.content: dict[str, Any] = {
            "status": "running", "message": "", "overrides": overrides, "settings": {}, "monitor": None, "mode": None,
            "score": None, "parameters": None, "seconds": self.spent, "host": socket.gethostname(), "pid": os.getpid(),
            "born": process_start_time(os.getpid()),
        }  # fmt: skip

    def note(self, **content: Any) -> None:
        """Add to the record and write it."""
        self.content |= {**content, "seconds": round(self.spent + time.monotonic() - self.started, 3)}
        if self.writes:
            write(self.folder, self.content)

    def __enter__(self) -> "Record":
        self.started = time.monotonic()
        self.note()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> bool:
        state, message = _outcome(error)
        previous = status(self.previous)
        if state == "failed" and previous in INTERRUPTED:
            state = "stopped"  # it can still continue from its checkpoint
        with suppress(OSError):  # a full disk: a run that stays `running` counts as killed once its process is gone
            self.note(status=state, message=message)
            if state == "failed" and previous in DONE and self.writes:
                write(self.folder, self.previous)
        return isinstance(error, Pruned)


def _outcome(error: BaseException | None) -> tuple[str, str]:
    """Status and message of a run that ends with `error`."""
    match error:
        case None:
            return "finished", ""
        case Pruned():
            return "pruned", str(error)
        case KeyboardInterrupt() | SystemExit():  # Stopped among them
            return "stopped", str(error)
        case Lost() | OSError():
            return "killed", str(error)
    message = explain(error)
    if message is None:  # a bug: its traceback belongs in the run's log
        log.info("failed", exc_info=error)
    return "failed", message or f"{type(error).__name__}: {error}"
