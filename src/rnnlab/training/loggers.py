"""What a run writes of its course, so that a run that goes on leaves no step out and has none twice."""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from rnnlab.training import run_record
from rnnlab.utils.files import write_atomically

TABLE = "metrics.csv"


class CSV(Logger):
    """`metrics.csv`: a row for each step that is logged, a column for each metric, empty where it was not measured.

    A row is written when the next step comes, and a run that goes on adds rows; Lightning's own begins anew.

    **Arguments:**

    - `save_dir`: the run's folder.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.path = Path(save_dir) / TABLE
        self.columns, rows = _read(self.path)  # of a run that goes on
        self.rows = len(rows)
        self.row: dict[str, Any] = {name: value for name, value in rows[-1].items() if value} if rows else {}
        self.is_written = bool(rows)  # the newest row, in an earlier state
        self.changed = False

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
        if str(self.row.get("step")) != str(step):
            self.save()
            self.row, self.is_written = {}, False
        self.row |= {name: float(value) for name, value in metrics.items()} | {"step": step}
        self.changed = True

    @rank_zero_only
    def save(self) -> None:
        if not self.changed:
            return
        missing = [name for name in ("step", *self.row) if name not in self.columns]
        if missing or self.is_written:
            self.columns += dict.fromkeys(missing)
            rows = _read(self.path)[1]
            _replace(self.path, self.columns, rows[:-1] if self.is_written else rows)
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(self.row)
        self.rows += not self.is_written
        self.is_written, self.changed = True, False

    def finalize(self, status: str) -> None:
        self.save()


def flush(trainer: pl.Trainer) -> dict[str, int]:
    """Bring to disk what the loggers hold.

    **Returns:** the bytes of each file of TensorBoard's, by its path in the run's folder, and the rows of the table,
    for `rewind`.
    """
    for logger in trainer.loggers:
        logger.save()
    folder = Path(trainer.default_root_dir)
    for path in (*_events(folder), folder / TABLE):
        if path.exists():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in _events(folder)}
    rows = sum(logger.rows for logger in trainer.loggers if isinstance(logger, CSV))
    return {**sizes, TABLE: rows}


def rewind(folder: Path, written: dict[str, int]) -> None:
    """Take back what the loggers wrote in a run's folder after a checkpoint, from which the run is about to go on.

    **Arguments:**

    - `written`: what `flush` returned for the checkpoint.
    """
    for path in _events(folder):
        before = written.get(str(path.relative_to(folder)), 0)
        if before == 0:
            path.unlink()
        elif before < path.stat().st_size:
            os.truncate(path, before)
    columns, rows = _read(folder / TABLE)
    if rows:
        _replace(folder / TABLE, columns, rows[: written.get(TABLE, 0)])


def set_aside(folder: Path) -> None:
    """Keep what another run has logged in a folder under names that no one takes for the next run's."""
    for path in (*_events(folder), folder / TABLE):
        if path.exists():
            path.replace(path.with_name(f"old.{path.name.replace('tfevents', 'events')}"))


def _events(folder: Path) -> Iterator[Path]:
    """The files of TensorBoard's below a folder, but for those of other runs there."""
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not (Path(path) / name / run_record.FILE).exists()]
        yield from (Path(path) / name for name in files if "tfevents" in name)


def _read(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows; a row that was cut off is none."""
    if not path.exists():
        return [], []
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file)
        rows = [row for row in lines if None not in row.values()]
        return list(lines.fieldnames or []), rows


def _replace(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns)
    table.writeheader()
    table.writerows(rows)
    write_atomically(path, text.getvalue())
