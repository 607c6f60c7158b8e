"""Log files of a run, and how they follow it when it resumes: no step is missing and none is there twice."""

import csv
import io
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from rnnlab.utils.files import write_atomically

TABLE = "metrics.csv"
Row = dict[str, Any]


class CSV(Logger):
    """`metrics.csv`: a row a step, a column for each metric. Lightning's `CSVLogger` would delete an existing file."""

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.path = Path(save_dir) / TABLE
        self.columns, self.rows = _read(self.path)
        self.num_written = len(self.rows)

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The run's folder has them in `.hydra/`."""

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if not self.rows or int(self.rows[-1]["step"]) != step:
            self.save()
            self.rows.append({})
        row = {"step": step, **{name: float(value) for name, value in metrics.items()}}
        new_columns = [name for name in row if name not in self.columns]
        if new_columns or self.num_written == len(self.rows):
            self.num_written = 0  # the whole table has to be written again
        self.columns += new_columns
        self.rows[-1] |= row

    @rank_zero_only
    def save(self) -> None:
        if self.num_written == 0 and self.rows:
            _write(self.path, self.columns, self.rows)
        elif self.num_written < len(self.rows):
            with self.path.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, self.columns).writerows(self.rows[self.num_written :])
        self.num_written = len(self.rows)

    def finalize(self, status: str) -> None:
        self.save()


def flush(trainer: pl.Trainer) -> dict[str, int]:
    """Write to disk what the loggers hold.

    **Returns:** the bytes of each TensorBoard file by its name, and the rows of the table, for `rewind`.
    """
    for logger in trainer.loggers:
        logger.save()
    folder = Path(trainer.default_root_dir)
    for path in _log_files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sizes = {path.name: path.stat().st_size for path in _log_files(folder)}
    rows = sum(len(logger.rows) for logger in trainer.loggers if isinstance(logger, CSV))
    return {**sizes, TABLE: rows}


def rewind(folder: Path, written: dict[str, int]) -> None:
    """Remove what was logged in a run's folder after a checkpoint, for which `flush` returned `written`."""
    for path in _log_files(folder):
        size = written.get(path.name, 0)
        if path.name == TABLE:
            columns, rows = _read(path)
            _write(path, columns, rows[:size])
        elif size == 0:
            path.unlink()
        elif size < path.stat().st_size:
            os.truncate(path, size)


def set_aside(folder: Path) -> None:
    """Rename the log files of another run, so that no reader takes them for the next run's."""
    for path in _log_files(folder):
        path.replace(path.with_name(f"old.{path.name.replace('tfevents', 'events')}"))


def _log_files(folder: Path) -> list[Path]:
    table = folder / TABLE
    return [*folder.glob("*tfevents*"), *([table] if table.exists() else [])]


def _read(path: Path) -> tuple[list[str], list[Row]]:
    """Columns and rows of a table; none if it does not exist."""
    if not path.exists():
        return [], []
    with path.open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        rows = list(table)
        return list(table.fieldnames or []), rows


def _write(path: Path, columns: list[str], rows: list[Row]) -> None:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns)
    table.writeheader()
    table.writerows(rows)
    write_atomically(path, text.getvalue())
