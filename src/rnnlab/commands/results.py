"""Compares the runs below a folder. Imports no torch."""

import os
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rnnlab.sweeps.results import print_cross_table, print_table
from rnnlab.sweeps.runs import measured_by, read_runs
from rnnlab.utils.errors import UserError, require

FORMATS = ("rich", "markdown", "csv")


def results(cfg: DictConfig, literal: dict[str, str]) -> None:
    """Print a table of the runs below a folder, and draw a figure of them.

    `literal` are values of `logs` and `plot`, as they stand on the command line.

    **Raises:** `UserError` if there is no run, or none that has the settings or the metric.
    """
    settings: dict[str, Any] = {**OmegaConf.to_container(cfg), **literal}  # type: ignore[dict-item]
    form, metric, rows, columns = (settings[key] for key in ("format", "metric", "rows", "columns"))
    require(form in FORMATS, f"format={form} must be one of {', '.join(FORMATS)}.")
    require((rows is None) == (columns is None), "Give both rows= and columns=, or none of them.")
    folder = Path(settings["logs"])
    runs = read_runs(folder)
    require(len(runs) > 0, f"logs={folder}: there is no run below it, no folder with a readable run.json.")
    known = metric is None or metric in runs.metrics
    require(known, f"metric={metric}: no run has it. They measured: {', '.join(measured_by(runs)) or 'nothing yet'}.")
    try:
        if rows is not None:
            print_cross_table(runs, rows, columns, metric, form)
        else:
            print_table(runs, folder, form, settings["fold"], metric)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has enough; what Python still flushes goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if (path := settings["plot"]) is not None:
        from rnnlab.sweeps.plots import plot_runs  # matplotlib takes longer than all the rest

        if (figure := plot_runs(runs, metric, rows, columns)) is None:
            raise UserError(f"plot={path}: no run has a result or a curve to be drawn.")
        try:
            figure.savefig(path, dpi=110)
        except (OSError, ValueError) as error:
            raise UserError(f"plot={path} cannot be written: {error}") from error
