"""Starts the other processes of a run on this machine, and connects all of them."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.strategies import ParallelStrategy
from torch.distributed.constants import default_pg_timeout

from rnnlab.config import repository
from rnnlab.config.messages import explain
from rnnlab.training import processes
from rnnlab.utils.errors import Lost

GRACE = 20  # seconds until this process ends after another one was lost


@contextmanager
def process_group(trainer: pl.Trainer, *overrides: str) -> Iterator[None]:
    """Connect the processes of a run, which on one machine are started first, and end them afterwards.

    Lightning would start them with `sys.argv`, in a sweep the whole sweep, and connect them by a `TCPStore`, which
    listens on all networks. Here they run this job alone, and meet in a file. Those of srun are left to Lightning.

    `overrides` are more settings for those. Raises `Lost` if the connection to another process is lost.
    """
    if not isinstance(trainer.strategy, ParallelStrategy):
        yield
        return
    environment = dict(os.environ)
    folder = Path(os.environ.get("RNNLAB_RENDEZVOUS") or tempfile.mkdtemp())
    children = Children()
    finished = False
    try:
        if processes.under_torchrun():
            # keys of an earlier attempt hold addresses of processes that are gone
            store: dist.Store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], processes.torchrun_store())
            _connect(trainer, store, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
        elif not processes.under_external_launcher():
            store = dist.FileStore(str(folder / "store"), trainer.num_devices)
            if not processes.is_child():
                children.start(trainer.num_devices - 1, overrides, folder)
                children.wait_for_start(store)
            store.add("started", 1)
            for backend in ("GLOO", "NCCL"):
                os.environ.setdefault(f"{backend}_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
            _connect(trainer, store, int(os.environ["LOCAL_RANK"]), trainer.num_devices)
        yield
        finished = True
    except Exception as error:
        # gloo has no type of its own for a lost connection
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower()):
            time.sleep(1)  # the system reports the end of a process later than that of a connection
            error = Lost(f"{children.describe_lost()} The checkpoints are intact: go on with ckpt=last.")
        if os.environ.get("LOCAL_RANK", "0") != "0" and explain(error):
            raise SystemExit(1) from error  # the first process reports it
        raise error
    finally:
        children.close(finished)
        if dist.is_initialized():
            dist.destroy_process_group()
        os.environ.clear()
        os.environ.update(environment)
        if not processes.is_child():
            shutil.rmtree(folder, ignore_errors=True)


def _connect(trainer: pl.Trainer, store: dist.Store, rank: int, world_size: int) -> None:
    """Make the default process group, which Lightning uses where there is one."""
    strategy: Any = trainer.strategy
    on_gpu = strategy.root_device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(strategy.root_device)
    backend = strategy.process_group_backend or ("nccl" if on_gpu else "gloo")
    device = strategy.root_device if on_gpu else None
    timeout = default_pg_timeout  # as in Lightning; that of nccl is shorter
    dist.init_process_group(backend, None, timeout, world_size, rank, store, device_id=device)


def _command(overrides: tuple[str, ...]) -> list[str]:
    """The command line of another process of this job."""
    cfg: Any = HydraConfig.get()
    if cfg.mode == RunMode.MULTIRUN:  # sys.argv is the whole sweep, or a worker of its launcher
        script = repository.HOME / "scripts" / f"{cfg.job.name}.py"
        folders = [source.path for source in cfg.runtime.config_sources if source.provider == "command-line"]
        flags = [f"--config-name={cfg.job.config_name}", *(f"--config-dir={folder}" for folder in folders)]
        arguments = [*flags, *cfg.overrides.task, "hydra.mode=RUN"]
    else:
        script, arguments = Path(cfg.runtime.cwd, sys.argv[0]), sys.argv[1:]
    run_dir = f"hydra.run.dir={repository.quoted(cfg.runtime.output_dir)}"
    return [sys.executable, str(script), *arguments, *overrides, run_dir, "hydra.output_subdir=null"]


class Children:
    """The processes that this one has started.

    Where one is lost, gloo raises an exception in the others, and there is time to report it and, in a sweep, to go on
    with the next job. If this process is still blocked after `GRACE`, it ends.
    """

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen] = []
        self.closed = threading.Event()

    def start(self, number: int, overrides: tuple[str, ...], folder: Path) -> None:
        """Start processes of this job that meet in `folder`, with ranks from 1 on."""
        os.environ["LOCAL_RANK"] = "0"  # of this process; Lightning starts no others where it is set
        for rank in range(1, number + 1):
            shared = {"RNNLAB_PARENT": str(os.getpid()), "RNNLAB_RENDEZVOUS": str(folder), "LOCAL_RANK": str(rank)}
            command = [*_command(overrides), f"hydra.job.name=train_ddp_process_{rank}"]
            cwd = HydraConfig.get().runtime.cwd
            self.processes.append(subprocess.Popen(command, env={**os.environ, **shared}, cwd=cwd))

    def wait_for_start(self, store: dist.Store) -> None:
        """Wait until all are about to connect: connecting would block signals, and not notice that one is lost."""
        while store.add("started", 0) < len(self.processes):
            if any(process.poll() is not None for process in self.processes):
                raise Lost(f"{self.describe_lost()} Its message is above.")
            time.sleep(0.02)
        threading.Thread(target=self._watch, daemon=True).start()

    def describe_lost(self) -> str:
        """Which process has failed."""
        for rank, process in enumerate(self.processes, 1):
            if process.poll():
                return f"Process {rank} of this run ended with code {process.returncode}."
        return "Another process of this run is gone."

    def close(self, finished: bool) -> None:
        """Stop watching; unless the run is `finished`, end the processes that do not end by themselves."""
        self.closed.set()
        for process in [] if finished else self.processes:
            try:
                process.wait(GRACE / 4)
            except subprocess.TimeoutExpired:
                process.kill()

    def _watch(self) -> None:
        while not self.closed.wait(1) and not any(process.poll() for process in self.processes):
            pass
        if not self.closed.wait(GRACE):
            print(f"Error: {self.describe_lost()}", file=sys.stderr)
            for process in self.processes:
                process.kill()
            os._exit(1)
