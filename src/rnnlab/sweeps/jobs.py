"""Many runs: each in a folder of its own, none harmed by another's failure, none run twice."""

import fcntl
import json
import os
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

from rnnlab.config.repository import quoted
from rnnlab.training import processes, run_record
from rnnlab.utils.errors import UserError, require

Job = list[str]  # the overrides of a run
PROGRESS = "progress.json"

# Launchers that give up at the first job that was killed, by what they wait with: module, object, method
WAITING = {"hydra_submitit_launcher": ("submitit", "Job", "results"), "hydra_ray_launcher": ("ray", None, "get")}


class Jobs:
    """Runs jobs by whatever launcher Hydra has, below the folder of a sweep.

    A job is known by its overrides, so that a sweep which is started again in the same folder, perhaps with more jobs,
    runs just what is missing, in the folder where it was begun.

    **Arguments:**

    - `launcher`: Hydra's; runs a list of jobs.
    - `context`: Hydra's; composes the config of a job.
    - `config`: of the sweep.
    """

    def __init__(self, launcher: Any, context: Any, config: Any):
        self.launcher = launcher
        self.context = context
        self.config = config
        self.folder = Path(config.hydra.sweep.dir)
        self.folders: dict[tuple[str, ...], Path] = {}
        self._look()
        numbers = [path.name.partition("_")[0] for path in (*self.folder.glob("*/"), *self.folders.values())]
        self.next = max((int(number) + 1 for number in numbers if number.isdigit()), default=0)

    def check(self, jobs: list[Job]) -> None:
        """Compose the configs of some jobs, so that what is wrong with them is said before the first one is run.

        Of those that choose the same options of all groups one is taken: composing takes a tenth of a second.

        **Raises:** what Hydra raises if a config cannot be composed.
        """
        loader = self.context.config_loader
        keys = {override.partition("=")[0] for job in jobs for override in job}
        groups = {key for key in keys if loader.get_group_options(key.lstrip("+~"))}
        chosen = {tuple(part for part in job if part.partition("=")[0] in groups): job for job in jobs}
        for job in chosen.values():
            loader.load_sweep_config(self.config, job)

    def finished(self, jobs: list[Job]) -> int:
        """How many of them need not be run."""
        return sum(self._status(job) in run_record.DONE for job in jobs)

    def run(self, jobs: list[Job]) -> list[dict[str, Any]]:
        """Run those that are not finished.

        **Returns:** the record of each job.

        **Raises:** whatever the launcher raises before any job has begun, and `UserError` if another process is at it.
        """
        missing = [job for job in jobs if self._status(job) not in run_record.DONE]
        busy = [str(self._of(job)) for job in self._alive(missing)]
        require(not busy, f"{', '.join(busy[:3])}: another process is running this. Wait for it, or end it.")
        if missing:
            self._launch(missing)
        for job in missing:
            self._account(job)
        return [self._record(job) for job in jobs]

    def _launch(self, jobs: list[Job]) -> None:
        since = time.time()
        try:
            self._call(jobs)
        except Exception as error:
            begun = [job for job in jobs if self._begun(job, since)]
            if not begun:
                raise
            # a launcher may lose all its jobs with one that was killed: the others first, then each suspect alone
            print(f"The launcher gave up: {type(error).__name__}. Unfinished jobs are started again.", file=sys.stderr)
            while self._alive(begun):
                time.sleep(0.1)
            suspects = [job for job in begun if self._status(job) == "killed"]
            for group in ([job for job in jobs if job not in begun], *([job] for job in suspects)):
                with suppress(Exception):  # what became of them they say themselves
                    self._call(group)

    def _call(self, jobs: list[Job]) -> None:
        """Launch jobs: those that were begun in their folder, others in the one that Hydra makes of the next number."""
        if type(self.launcher).__name__ == "LocalLauncher":  # submitit's, which has each job take all cores
            os.environ.setdefault("OMP_NUM_THREADS", str(self.launcher.params.get("cpus_per_task") or 1))
        new = [job for job in jobs if _identity(job) not in self.folders]
        begun = [[*job, f"hydra.sweep.subdir={quoted(self._subdir(job))}"] for job in jobs if job not in new]
        first, self.next = self.next, self.next + len(new)
        try:
            with _waiting_for_all(self.launcher):
                self.launcher.launch([*new, *begun], initial_job_idx=first)
        finally:
            self._look()

    def _of(self, job: Job) -> Path:
        return self.folders[_identity(job)]

    def _subdir(self, job: Job) -> str:
        return str(self._of(job).relative_to(self.folder))

    def _look(self) -> None:
        """Find the folders of jobs."""
        found = run_record.find_runs(self.folder)
        self.folders |= {_identity(run_record.read(folder).get("overrides") or []): folder for folder in found}

    def _begun(self, job: Job, since: float) -> bool:
        folder = self.folders.get(_identity(job))
        return folder is not None and (folder / run_record.FILE).stat().st_mtime >= since

    def _alive(self, jobs: list[Job]) -> list[Job]:
        return [job for job in jobs if self._status(job) == "running" and run_record.on_this_host(self._record(job))]

    def _account(self, job: Job) -> None:
        """Say of a job that is over without a word that it was killed, now that its launcher has returned."""
        said = self._record(job)
        if run_record.status(said) in ("running", "killed", "None"):
            why = said.get("message") or "ended without a word: killed, perhaps for its memory"
            folder = self.folders.get(_identity(job)) or self._new_folder(job)
            others = run_record.read(folder).get("overrides", job)
            require(
                _identity(others) == _identity(job),
                f"{folder}: two jobs of this sweep have the same folder. hydra.sweep.subdir must tell them apart.",
            )
            self.folders[_identity(job)] = folder
            run_record.write(folder, {"overrides": job, "settings": {}, **said, "status": "killed", "message": why})

    def _status(self, job: Job) -> str:
        return run_record.status(self._record(job))

    def _record(self, job: Job) -> dict[str, Any]:
        folder = self.folders.get(_identity(job))
        return run_record.read(folder) if folder else {}

    def _new_folder(self, job: Job) -> Path:
        """`hydra.sweep.subdir` with the first number that no job has had."""
        config = self.context.config_loader.load_sweep_config(self.config, job)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = self.next
        self.next += 1
        instance: Any = HydraConfig.instance()
        before = instance.cfg
        instance.set_config(config)
        try:
            return self.folder / str(config.hydra.sweep.subdir)
        finally:
            instance.cfg = before


def begin(folder: Path, total: int, done: int) -> None:
    """Say how many jobs a sweep has, and how many of them are over, before the first of them is run."""
    if done:
        print(f"{done} of {total} jobs are finished already.")
    content = json.dumps({"jobs": total, "over": done, "began": time.time()})
    (folder / PROGRESS).write_text(content + "\n", encoding="utf-8")


def tell_progress(folder: Path) -> None:
    """Say after a job how many are over, and how long the others will take if they are like those."""
    try:
        sweep = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a sweep by another sweeper
        return
    since = [
        path for path in run_record.find_runs(folder) if (path / run_record.FILE).stat().st_mtime >= sweep["began"]
    ]
    states = Counter(run_record.status(run_record.read(path)) for path in since)
    over = states["failed"] + sum(states[state] for state in run_record.DONE)
    each = (time.time() - sweep["began"]) / max(1, over)  # on machines whose clocks differ none may seem to be over
    left = timedelta(seconds=round(each * max(0, sweep["jobs"] - sweep["over"] - over)))
    failed = f", {states['failed']} failed" if states["failed"] else ""
    print(f"{sweep['over'] + over} of {sweep['jobs']} jobs are over{failed}, {left} left")


@contextmanager
def going_on(config: Any) -> Iterator[Path]:
    """Around a sweep: gives its folder, which is this process's alone, and says how to go on if it is interrupted.

    **Raises:** `UserError` if another process is at it.
    """
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
        before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        try:
            yield folder
        except (KeyboardInterrupt, SystemExit) as error:
            print(f"To go on with what is missing: {_command(folder)}", file=sys.stderr)
            if isinstance(error, SystemExit):
                raise
            raise SystemExit(128 + signal.SIGINT) from None
        finally:
            signal.signal(signal.SIGTERM, before)


def conclude(folder: Path, jobs: list[Job] | None = None, advice: str = "") -> None:
    """Show what a sweep found, and leave it as `results.csv` and `results.png` in its folder.

    **Raises:** `UserError` if one of `jobs` failed, by default of all in the folder, with what to do about it.
    """
    from rnnlab.sweeps.results import summarise

    asked = None if jobs is None else set(map(_identity, jobs))
    runs = [run for run in summarise(folder) if asked is None or _identity(run.get("overrides") or []) in asked]
    failed = [run for run in runs if run_record.status(run) not in run_record.DONE]
    advice = advice or f"This runs them again, and no other: {_command(folder)}"
    require(not failed, f"{len(failed)} of {len(runs)} jobs have no result; why, is said above. {advice}")


def _command(folder: Path) -> str:
    where = [] if any(word.startswith("hydra.sweep.dir=") for word in sys.argv) else [f"hydra.sweep.dir={folder}"]
    return shlex.join(["python", *sys.argv, *where])


def _waiting_for_all(launcher: Any) -> Any:
    """Have a launcher wait for all its jobs; the records say what became of them."""
    module = type(launcher).__module__
    place, owner, name = next((value for key, value in WAITING.items() if key in module), (None, None, ""))
    if place is None:
        return nullcontext()
    return _never_raising(getattr(import_module(place), owner) if owner else import_module(place), name)


@contextmanager
def _never_raising(owner: Any, name: str) -> Iterator[None]:
    original = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except Exception as error:
            print(f"A job was lost: {type(error).__name__}.", file=sys.stderr)
            return [None]

    setattr(owner, name, call)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _identity(job: Job) -> tuple[str, ...]:
    return tuple(sorted(job))
