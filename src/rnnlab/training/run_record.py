"""What a run says of itself: `run.json` in its folder. Imports no torch, so that many are read in no time."""

import json
import logging
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from rnnlab.config.messages import explain
from rnnlab.utils.errors import Lost, Pruned, Stopped
from rnnlab.utils.files import write_atomically

FILE = "run.json"
DONE = ("finished", "pruned")  # as statuses

log = logging.getLogger(__name__)


def read(folder: Path) -> dict[str, Any]:
    """The record of the run in a folder; empty if there is none, or none that can be read."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def find_runs(folder: Path) -> list[Path]:
    """The folders of runs below a folder, or itself."""
    found = []
    for path, folders, files in os.walk(folder):
        if FILE in files:
            folders.clear()  # checkpoints, figures and events hold no runs
            found.append(Path(path))
    return found


def status(record: dict[str, Any]) -> str:
    """finished, failed, pruned, stopped, running, or killed: a run whose process is gone without a word.

    Of a process on another machine nobody knows: it is running until somebody says otherwise.
    """
    lives = record.get("born") is not None and record["born"] == process_start_time(record.get("pid"))
    if record.get("status") == "running" and on_this_host(record) and not lives:
        return "killed"
    return str(record.get("status"))


def on_this_host(record: dict[str, Any]) -> bool:
    """Whether a run is, or was, on this machine."""
    return record.get("host") == socket.gethostname()


def write(folder: Path, record: dict[str, Any]) -> None:
    """Replace the record of a folder, so that a reader sees the old one or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / FILE, json.dumps(record, indent=1, default=str) + "\n")


class Record:
    """Keeps `run.json` while a run goes on: `with Record(...) as record: record.note(score=...)`.

    It begins as `running` and ends as `finished`, or as what the exception that ends the run says of it. A pruned run
    is a result like any other: its exception ends here.

    **Arguments:**

    - `folder`: of the run.
    - `overrides`: which run it is.
    - `goes_on`: whether this process continues what another began: its seconds are added.
    - `interrupted`: whether the folder holds a run that can go on; as long as this one has not `trained`, it still can.
    - `writes`: whether this process is the one that writes; the first of several is.
    """

    def __init__(
        self,
        folder: Path,
        overrides: list[str],
        goes_on: bool = False,
        interrupted: bool = False,
        writes: bool = True,
    ):
        self.folder = folder
        self.writes = writes
        self.interrupted = interrupted
        self.trained = False  # until then nothing has changed that was there before
        self.spent = float(read(folder).get("seconds") or 0) if goes_on else 0.0
        self.content: dict[str, Any] = {
            "status": "running", "message": "", "overrides": overrides, "settings": {}, "monitor": None, "mode": None,
            "score": None, "parameters": None, "seconds": self.spent, "host": socket.gethostname(), "pid": os.getpid(),
            "born": process_start_time(os.getpid()),
        }  # fmt: skip

    def note(self, **content: Any) -> None:
        """Write more of it."""
        self.content |= {**content, "seconds": round(self.spent + time.monotonic() - self.began, 3)}
        if self.writes:
            write(self.folder, self.content)

    def __enter__(self) -> "Record":
        self.began = time.monotonic()
        self.note()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> bool:
        with suppress(OSError):  # a full disk; a run that is gone and did not say why is taken for killed
            self._end(error)
        return isinstance(error, Pruned)

    def _end(self, error: BaseException | None) -> None:
        match error:
            case None:
                self.note(status="finished")
            case Pruned():
                self.note(status="pruned", message=str(error))
            case Stopped() | KeyboardInterrupt() | SystemExit():
                self.note(status="stopped", message=str(error) if isinstance(error, Stopped) else "stopped")
            case Lost() | OSError():
                self.note(status="killed", message=str(error))
            case _:
                said = explain(error)
                if said is None:  # a fault, which deserves its traceback, here in the run's log
                    log.info("failed", exc_info=error)
                status = "stopped" if self.interrupted and not self.trained else "failed"  # it can still go on
                self.note(status=status, message=said or f"{type(error).__name__}: {error}")


def process_start_time(pid: Any) -> str | None:
    """What tells a living process from others that have or had its number; `None` if there is none."""
    try:
        if not Path("/proc/self/stat").exists():  # this is no Linux: its number has to do
            os.kill(int(pid), 0)
            return ""
        state, *fields = Path(f"/proc/{int(pid)}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except PermissionError:  # it is another user's
        return ""
    except (OSError, TypeError, ValueError):
        return None
    return None if state in "ZX" else fields[18]  # when it began, in ticks since the machine did; Z and X are dead
