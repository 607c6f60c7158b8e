"""Several processes under Hydra."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import flag_override


@contextmanager
def own_job(*overrides: str) -> Iterator[None]:
    """Let Lightning's launcher start the other ranks of this job, and leave nothing behind for the next job of a sweep.

    The launcher calls `sys.argv` again for each rank. In a sweep that would be the whole sweep, so here it becomes this
    job's own overrides, in this job's folder. Afterwards argv, environment and process group are as they were.

    **Arguments:**

    - `overrides`: what the other ranks should not find out by themselves.
    """
    cfg: Any = HydraConfig.instance().cfg
    argv, environment = list(sys.argv), dict(os.environ)
    if cfg is not None and cfg.hydra.mode == RunMode.MULTIRUN:
        args = get_args_parser().parse_args(sys.argv[1:])
        flags = [f"--{flag.replace('_', '-')}={value}" for flag in ("config_dir", "config_name", "config_path")
                 if (value := getattr(args, flag))]  # fmt: skip
        with flag_override(cfg.hydra, ["readonly", "struct"], False):
            cfg.hydra.run.dir = cfg.hydra.runtime.output_dir
        sys.argv[1:] = [*flags, *cfg.hydra.overrides.task, "hydra.mode=RUN"]
    sys.argv += overrides
    try:
        yield
    except Exception as error:
        error.on_every_rank = True  # type: ignore[attr-defined]  # the first will tell
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        sys.argv[:] = argv
        os.environ.clear()
        os.environ.update(environment)
