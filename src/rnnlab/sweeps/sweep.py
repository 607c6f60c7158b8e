"""What surrounds the jobs of a sweep: its folder, progress, final report, and how to continue it."""

import fcntl
import json
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rnnlab.sweeps.jobs import Job, identity
from rnnlab.training import processes, run_record
from rnnlab.utils.errors import UserError, require

PROGRESS = "progress.json"


@contextmanager
def sweep_folder(config: Any) -> Iterator[Path]:
    """Make the folder of a sweep and lock it; on Ctrl-C and SIGTERM, print how to continue."""
    require(
        not processes.under_external_launcher(),
        "torchrun and srun start the processes of one run: use -m with trainer=ddp instead.",
    )
    folder = Path(config.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"hydra.sweep.dir={folder}: another process is at this sweep. Wait, or end it.") from error
        OmegaConf.save(config, folder / "multirun.yaml")
        handler = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        try:
            yield folder
        except (KeyboardInterrupt, SystemExit) as error:
            print(f"To go on with what is missing: {_command(folder)}", file=sys.stderr)
            raise SystemExit(error.code if isinstance(error, SystemExit) else 128 + signal.SIGINT) from None
        finally:
            signal.signal(signal.SIGTERM, handler)


def start_progress(folder: Path, total: int, finished: int) -> None:
    """Print how many jobs are finished already, and note the start of the others for `print_progress`."""
    if finished:
        print(f"{finished} of {total} jobs are finished already.")
    content = json.dumps({"jobs": total, "finished": finished, "start": time.time()})
    (folder / PROGRESS).write_text(content + "\n", encoding="utf-8")


def print_progress(folder: Path) -> None:
    """Print how many jobs are over, and the time that the others will take at this speed."""
    if not (folder / PROGRESS).exists():  # another sweeper's
        return
    sweep = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    runs = [run for run in run_record.find_runs(folder) if (run / run_record.FILE).stat().st_mtime >= sweep["start"]]
    statuses = Counter(run_record.status(run_record.read(run)) for run in runs)
    over = statuses["failed"] + sum(statuses[status] for status in run_record.DONE)
    seconds = (time.time() - sweep["start"]) / max(1, over)  # clocks of machines differ: over may be 0
    left = timedelta(seconds=round(seconds * max(0, sweep["jobs"] - sweep["finished"] - over)))
    failed = f", {statuses['failed']} failed" if statuses["failed"] else ""
    print(f"{sweep['finished'] + over} of {sweep['jobs']} jobs are over{failed}, {left} left")


def report(folder: Path, jobs: list[Job] | None = None, advice: str = "") -> None:
    """Print and write the table of a sweep; raise `UserError` if one of `jobs`, by default of all, failed."""
    from rnnlab.sweeps.results import summarise

    asked = None if jobs is None else set(map(identity, jobs))
    runs = [run for run in summarise(folder) if asked is None or identity(run.get("overrides")) in asked]
    failed = [run for run in runs if run_record.status(run) not in run_record.DONE]
    advice = advice or f"This runs them again, and no other: {_command(folder)}"
    require(not failed, f"{len(failed)} of {len(runs)} jobs have no result; the reason is above. {advice}")


def _command(folder: Path) -> str:
    """The command line that continues the sweep."""
    named = any(argument.startswith("hydra.sweep.dir=") for argument in sys.argv)
    return shlex.join(["python", *sys.argv, *([] if named else [f"hydra.sweep.dir={folder}"])])
