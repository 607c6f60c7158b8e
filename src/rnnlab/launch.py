"""Several processes under Hydra."""

import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.strategies.launchers import subprocess_script
from omegaconf import OmegaConf, flag_override

import __main__
from rnnlab import conf, processes
from rnnlab.errors import Lost

GRACE = 20  # seconds


@contextmanager
def own_job(*overrides: str) -> Iterator[None]:
    """Let Lightning's launcher start the other ranks of this job, and leave nothing behind for the next job of a sweep.

    The launcher calls `sys.argv` again for each rank. In a sweep that would be the whole sweep, and on a cluster
    whatever started the job there; here it becomes the script with this job's own overrides, in this job's folder.
    Afterwards argv, environment and process group are as they were.

    **Arguments:**

    - `overrides`: what the other ranks should not find out by themselves.
    """
    cfg: Any = HydraConfig.instance().cfg
    argv, environment, spec = list(sys.argv), dict(os.environ), __main__.__spec__
    if cfg is not None and cfg.hydra.mode == RunMode.MULTIRUN:
        with flag_override(cfg.hydra, ["readonly", "struct"], False):
            cfg.hydra.run.dir = cfg.hydra.runtime.output_dir
        job: Any = OmegaConf.to_container(cfg.hydra.overrides.task)
        sys.argv[:] = [str(_script(cfg)), *_flags(cfg), *job, "hydra.mode=RUN"]
        __main__.__spec__ = None  # else the launcher would run this module again
    sys.argv += overrides
    if processes.is_child():
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    others: list[_Observer] = []
    subprocess_script._launch_process_observer = lambda child_processes: others.append(_Observer(child_processes))
    try:
        yield
    except Exception as error:
        error.on_every_rank = True  # type: ignore[attr-defined]  # the first will tell
        if not (isinstance(error, RuntimeError) and re.search("gloo|nccl", str(error), re.IGNORECASE)):
            raise
        lost = next((observer.lost for observer in others if observer.lost), "Another process of this run is gone.")
        told = Lost(f"{lost} The checkpoints are intact: go on with ckpt=last.")
        told.on_every_rank = True  # type: ignore[attr-defined]
        raise told from error
    finally:
        for observer in others:
            observer.over.set()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        sys.argv[:] = argv
        __main__.__spec__ = spec
        os.environ.clear()
        os.environ.update(environment)


class _Observer(threading.Thread):
    """Sees to it that this process ends when one that it has launched is lost.

    Lightning's own kills it at once. Gloo notices by itself, and then there is time to say what happened, and in a
    sweep to go on with the next job; who still waits after `GRACE` is killed.
    """

    def __init__(self, children: list[Any]):
        super().__init__(daemon=True)
        self.children = children
        self.over = threading.Event()
        self.start()

    @property
    def lost(self) -> str:
        """What became of the first process that failed, as a sentence."""
        for rank, child in enumerate(self.children, 1):
            if child.poll():
                return f"Process {rank} of this run ended with code {child.returncode}."
        return ""

    def run(self) -> None:
        while not self.over.wait(1) and not self.lost:
            pass
        if not self.over.wait(GRACE):
            print(f"Error: {self.lost}", file=sys.stderr)
            for child in self.children:
                child.kill()
            os._exit(1)


def _script(cfg: Any) -> Path:
    return conf.HOME / "scripts" / f"{cfg.hydra.job.name}.py"


def _flags(cfg: Any) -> list[str]:
    """The flags that tell where the config is, as they were given to the sweep."""
    flags = {"main": "config-path", "command-line": "config-dir"}
    sources = [source for source in cfg.hydra.runtime.config_sources if source.provider in flags]
    named = [f"--{flags[source.provider]}={source.path}" for source in sources]
    return [f"--config-name={cfg.hydra.job.config_name}", *named]


def _end_with(parent: int) -> None:
    """End this process when the one that launched it is gone: who waits for a lost rank may wait for long."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
