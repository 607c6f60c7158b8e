"""Runs the jobs of a sweep that are not finished, each in a folder of its own."""

import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from rnnlab.config.repository import quoted
from rnnlab.training import run_record

Job = list[str]  # the overrides of a run


def identity(job: Job | None) -> tuple[str, ...]:
    """What tells a job from others: its overrides, in any order."""
    return tuple(sorted(job or []))


class Jobs:
    """Runs jobs with a launcher of Hydra's, below the folder of a sweep.

    A sweep that is started again, perhaps with more jobs, runs those that are not finished, in the folders they have.
    """

    def __init__(self, launcher: Any, context: Any, config: Any):
        _wait_for_all(launcher)
        self.launcher = launcher
        self.loader = context.config_loader
        self.config = config
        self.folder = Path(config.hydra.sweep.dir)
        self.folders: dict[tuple[str, ...], Path] = {}
        self._find_folders()

    def check(self, jobs: list[Job]) -> None:
        """Compose the config of one job for each choice of options, which raises Hydra's exceptions."""
        keys = {override.partition("=")[0] for job in jobs for override in job}
        groups = {key for key in keys if self.loader.get_group_options(key.lstrip("+~"))}
        chosen = {tuple(override for override in job if override.partition("=")[0] in groups): job for job in jobs}
        for job in chosen.values():
            self.loader.load_sweep_config(self.config, job)

    def num_finished(self, jobs: list[Job]) -> int:
        """How many of these jobs are finished."""
        return sum(self._status(job) in run_record.DONE for job in jobs)

    def run(self, jobs: list[Job]) -> list[dict[str, Any]]:
        """Run the jobs that are not finished, and return the record of each job."""
        missing = [job for job in jobs if self._status(job) not in run_record.DONE]
        before = [self._record(job) for job in missing]
        try:
            self._launch(missing)
        except Exception as error:
            begun = [job for job, record in zip(missing, before, strict=True) if self._record(job) != record]
            if not begun:
                raise
            # joblib loses all jobs with one that was killed: the others first, then each that may be the one
            print(f"The launcher stopped: {type(error).__name__}. Unfinished jobs are started again.")
            while any(map(self._is_alive, begun)):
                time.sleep(0.1)
            suspects = [[job] for job in begun if self._status(job) == "killed"]
            for group in ([job for job in missing if job not in begun], *suspects):
                with suppress(Exception):  # the records say what became of them
                    self._launch(group)
        for job in missing:
            self._record_killed(job)
        return [self._record(job) for job in jobs]

    def _launch(self, jobs: list[Job]) -> None:
        """Launch jobs in the folders they have, and others in the folders that Hydra makes of the next numbers."""
        if not jobs:
            return
        arguments = [job for job in jobs if identity(job) not in self.folders]
        for job in jobs:
            if folder := self.folders.get(identity(job)):
                subdir = quoted(str(folder.relative_to(self.folder)))
                arguments.append([*job, f"hydra.sweep.subdir={subdir}"])
        try:
            self.launcher.launch(arguments, initial_job_idx=self._next_number())
        finally:
            self._find_folders()

    def _next_number(self) -> int:
        numbers = [path.name.partition("_")[0] for path in self.folder.glob("*/")]
        return max((int(number) + 1 for number in numbers if number.isdigit()), default=0)

    def _find_folders(self) -> None:
        for folder in run_record.find_runs(self.folder):
            self.folders[identity(run_record.read(folder).get("overrides"))] = folder

    def _record(self, job: Job) -> dict[str, Any]:
        folder = self.folders.get(identity(job))
        return run_record.read(folder) if folder else {}

    def _status(self, job: Job) -> str:
        return run_record.status(self._record(job))

    def _is_alive(self, job: Job) -> bool:
        return self._status(job) == "running" and run_record.on_this_host(self._record(job))

    def _record_killed(self, job: Job) -> None:
        """After the launcher has returned: a job whose record says nothing else was killed."""
        record = self._record(job)
        if record and (run_record.status(record) not in ("running", "killed") or self._is_alive(job)):
            return
        folder = self.folders.setdefault(identity(job), self.folder / str(self._next_number()))
        message = record.get("message") or "killed, perhaps for its memory"
        content = {"overrides": job, "settings": {}, **record, "status": "killed", "message": message}
        run_record.write(folder, content)


def _wait_for_all(launcher: Any) -> None:
    """Let submitit and Ray wait for every job: they would return at the first one that was killed."""
    plugin = type(launcher).__module__
    if "submitit" in plugin:
        owner, name = import_module("submitit").Job, "results"
    elif "hydra_ray" in plugin:
        owner, name = import_module("ray"), "get"
    else:
        return
    original = getattr(owner, name)

    def wait(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except Exception as error:
            print(f"A job was lost: {type(error).__name__}.")
            return [None]

    setattr(owner, name, wait)
