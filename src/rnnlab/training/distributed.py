"""Several processes under Hydra."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch.distributed
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.strategies.launchers import subprocess_script
from omegaconf import OmegaConf, flag_override
from torch.distributed import FileStore

import __main__
from rnnlab.config import repository
from rnnlab.training import processes
from rnnlab.utils.errors import Lost

GRACE = 20  # seconds


@contextmanager
def own_job(trainer: Any, *overrides: str) -> Iterator[None]:
    """Let Lightning's launcher start the other ranks of this job, and leave nothing behind for the next job of a sweep.

    The launcher calls `sys.argv` again for each rank. In a sweep that would be the whole sweep, and on a cluster
    whatever started the job there; here it becomes the script with this job's own overrides, in this job's folder.
    Afterwards argv, environment and process group are as they were.

    **Arguments:**

    - `trainer`: its config; the processes of a single machine listen to no other.
    - `overrides`: what the other ranks should not find out by themselves.
    """
    cfg: Any = HydraConfig.instance().cfg
    argv, environment, spec, run_dir = list(sys.argv), dict(os.environ), __main__.__spec__, cfg.hydra.run.dir
    if cfg.hydra.mode == RunMode.MULTIRUN:
        job: Any = OmegaConf.to_container(cfg.hydra.overrides.task)
        sys.argv[:] = [str(_script(cfg)), *_flags(cfg), *job, "hydra.mode=RUN"]
        __main__.__spec__ = None  # else the launcher would run this module again
    sys.argv += overrides
    _set_run_dir(cfg, re.sub(r'(["\\])', r"\\\1", cfg.hydra.runtime.output_dir))  # the launcher puts it in quotes
    others: list[_Observer] = []
    child = processes.is_child()
    os.environ["RNNLAB_PARENT"] = str(os.getpid())
    ready = Path(os.environ["RNNLAB_READY"] if child else tempfile.mkdtemp())
    os.environ["RNNLAB_READY"] = str(ready)
    if child:
        (ready / os.environ["LOCAL_RANK"]).touch()
    rendezvous: Any = import_module("torch.distributed.rendezvous")
    make_store = rendezvous._create_c10d_store
    if trainer.num_nodes == 1 and not processes.under_external_launcher():
        # torch's own store listens on all networks, and believes whoever connects
        rendezvous._create_c10d_store = lambda host, port, rank, size, *_: FileStore(str(ready / "store"), size)
        for backend in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{backend}_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    subprocess_script._launch_process_observer = lambda child_processes: others.append(
        _Observer(child_processes, ready)
    )
    ended = False
    try:
        yield
        ended = True
    except Exception as error:
        error.on_every_rank = True  # type: ignore[attr-defined]  # the first will tell
        if is_loss(error):
            lost = Lost(f"{_lost(others)} The checkpoints are intact: go on with ckpt=last.")
            lost.on_every_rank = True  # type: ignore[attr-defined]
            raise lost from error
        raise
    finally:
        for observer in others:
            observer.close(ended)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        rendezvous._create_c10d_store = make_store
        _set_run_dir(cfg, run_dir)
        sys.argv[:] = argv
        __main__.__spec__ = spec
        os.environ.clear()
        os.environ.update(environment)
        if not child:
            shutil.rmtree(ready, ignore_errors=True)


def is_loss(error: Exception) -> bool:
    """Whether it says that the connection to another process is gone."""
    return isinstance(error, RuntimeError) and bool(re.search("gloo|nccl", str(error), re.IGNORECASE))


def _set_run_dir(cfg: Any, path: str) -> None:
    with flag_override(cfg.hydra, ["readonly", "struct"], False):
        cfg.hydra.run.dir = path


def _lost(others: list["_Observer"]) -> str:
    """Which process was lost, if it is one that this process has launched."""
    for _ in range(20):  # the others may notice sooner than the system says so
        for observer in others:
            if observer.lost:
                return observer.lost
        time.sleep(0.1 if others else 0)
    return "Another process of this run is gone."


class _Observer(threading.Thread):
    """Sees to it that this process ends when one that it has launched is lost.

    Lightning's own kills it at once. Gloo notices by itself, and then there is time to say what happened, and in a
    sweep to go on with the next job; who still waits after `GRACE` is killed.
    """

    def __init__(self, children: list[Any], ready: Path):
        super().__init__(daemon=True)
        self.children = children
        self.over = threading.Event()
        # until all are there, wait in Python, where signals and losses are seen, and not for their connection
        try:
            while len(list(ready.glob("[0-9]*"))) < len(children):
                if any(child.poll() is not None for child in children):
                    raise Lost(f"{self.lost or 'A process of this run ended.'} What it said stands above.")
                time.sleep(0.02)
        except BaseException:
            self.close(False)
            raise
        self.start()

    def close(self, ended: bool) -> None:
        """The run is over; who does not end by itself if it did not come to its end, is ended."""
        self.over.set()
        for child in self.children if not ended else ():
            try:
                child.wait(GRACE / 4)
            except subprocess.TimeoutExpired:
                child.kill()

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
    return repository.HOME / "scripts" / f"{cfg.hydra.job.name}.py"


def _flags(cfg: Any) -> list[str]:
    """The flags that tell where the config is, as they were given to the sweep."""
    flags = {"main": "config-path", "command-line": "config-dir"}
    sources = [source for source in cfg.hydra.runtime.config_sources if source.provider in flags]
    named = [f"--{flags[source.provider]}={source.path}" for source in sources]
    return [f"--config-name={cfg.hydra.job.config_name}", *named]
