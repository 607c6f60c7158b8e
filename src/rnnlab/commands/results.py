"""Compares the runs below a folder. Imports no torch."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

from omegaconf import DictConfig, OmegaConf

from rnnlab.sweeps.results import print_cross_table, print_table
from rnnlab.sweeps.runs import measured_by, read_runs
from rnnlab.utils.errors import UserError, require


def results(cfg: DictConfig, literal: dict[str, str]) -> None:
    """Print a table of the runs below a folder, and draw a figure of them.

    **Arguments:**

    - `cfg`: the composed `results.yaml`.
    - `literal`: values of `logs` and `plot`, as they stand on the command line.

    **Raises:** `UserError` if there is no run, or none that has the settings or the metric.
    """
    how = SimpleNamespace(**{**OmegaConf.to_container(cfg), **literal})  # type: ignore[dict-item]
    _check(how)
    folder = Path(str(how.logs))
    runs = read_runs(folder)
    require(len(runs) > 0, f"logs={folder}: there is no run below it, no folder with a readable run.json.")
    measured = ", ".join(measured_by(runs)) or "nothing yet"
    known = how.metric is None or how.metric in runs.metrics
    require(known, f"metric={how.metric}: no run below logs={folder} has it. What they measured: {measured}.")
    try:
        if how.rows is not None:
            print_cross_table(runs, how.rows, how.columns, how.metric, how.format)
        else:
            print_table(runs, folder, how.format, how.fold, how.metric)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has enough; what Python still flushes goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if how.plot is not None:
        from rnnlab.sweeps.plots import plot_runs  # matplotlib takes longer than all the rest

        figure = plot_runs(runs, how.metric, how.rows, how.columns)
        if figure is None:
            raise UserError(f"plot={how.plot}: no run has a result or a curve to be drawn.")
        try:
            figure.savefig(how.plot, dpi=110)
        except OSError as error:
            raise UserError(f"plot={how.plot} cannot be written: {error.strerror}.") from error


def _check(how: SimpleNamespace) -> None:
    crossed = [key for key in ("rows", "columns") if getattr(how, key) is not None]
    require(len(crossed) != 1, f"{''.join(crossed)}= alone: give both rows= and columns=, or none of them.")
    for key in ("rows", "columns", "metric"):
        value = getattr(how, key)
        require(value is None or (isinstance(value, str) and value != ""), f"{key}={value} must be a name.")
    formats = ("rich", "markdown", "csv")
    require(how.format in formats, f"format={how.format} must be one of {', '.join(formats)}.")
    require(isinstance(how.fold, bool), f"fold={how.fold} must be true or false.")
    require(how.fold or not crossed, "fold=false is a line for each run: leave rows= and columns= out.")
    if how.plot is not None:
        path = Path(str(how.plot))
        require(path.suffix.lower() == ".png", f"plot={path} must end in .png.")
        require(path.parent.is_dir(), f"plot={path}: there is no folder {path.parent}.")
