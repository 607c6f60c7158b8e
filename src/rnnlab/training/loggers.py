"""Log files of a run, and how they follow it when it resumes: no step is missing and none is there twice."""

import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from rnnlab.utils.files import write_atomically

TABLE = "metrics.csv"


class CSV(Logger):
    """`metrics.csv`: a row a step, a column for each metric. Lightning's `CSVLogger` would delete an existing file."""

    name = version = ""

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.path = Path(save_dir) / TABLE
        self.rows: list[dict[str, Any]] = _read(self.path).to_dict("records") if self.path.exists() else []

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if not self.rows or int(self.rows[-1]["step"]) != step:
            self.rows.append({"step": step})
        self.rows[-1] |= {name: float(value) for name, value in metrics.items()}

    @rank_zero_only
    def save(self) -> None:
        if self.rows:
            _write(self.path, pd.DataFrame(self.rows, dtype=object))


def flush(trainer: pl.Trainer) -> dict[str, int]:
    """Write to disk what the loggers hold; returns the bytes of each file by its name."""
    for logger in trainer.loggers:
        logger.save()
    paths = _log_files(Path(trainer.default_root_dir))
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return {path.name: path.stat().st_size for path in paths}


def rewind(folder: Path, step: int, written: dict[str, int]) -> None:
    """Remove what was logged in a run's folder after `step`, when `flush` returned `written`."""
    for path in _log_files(folder):
        size = written.get(path.name, 0)
        if path.name == TABLE:
            table = _read(path)
            _write(path, table[table["step"].astype(int) <= step])
        elif size == 0:
            path.unlink()
        elif size < path.stat().st_size:
            os.truncate(path, size)


def set_aside(folder: Path) -> None:
    """Rename the log files of another run, so that no reader takes them for the next run's."""
    for path in _log_files(folder):
        path.replace(path.with_name(f"old.{path.name.replace('tfevents', 'events')}"))


def _log_files(folder: Path) -> list[Path]:
    return [*folder.glob("*tfevents*"), *folder.glob(TABLE)]


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def _write(path: Path, table: pd.DataFrame) -> None:
    write_atomically(path, table.to_csv(index=False))
