"""Tables of many runs: a line for each setting, or one setting by another. Imports no torch."""

import math
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from rnnlab.sweeps.runs import (
    GROUPS,
    STATUSES,
    Runs,
    differing,
    headline,
    higher_is_better,
    measured_by,
    read_runs,
    shorten,
)
from rnnlab.utils.errors import require


def summarise(folder: Path) -> list[dict[str, Any]]:
    """At the end of a sweep, print its table and write results.csv, run by run, and results.png into its folder.

    **Returns:** the record of each run.
    """
    from rnnlab.sweeps.plots import plot_runs  # matplotlib takes longer than all the rest

    runs = read_runs(folder)
    if len(runs):
        print_table(runs, folder, "rich", fold=True)
        tabulate(runs, fold=False).to_csv(folder / "results.csv", index=False)
        print(f"results: {folder}/results.csv", end="")
        if (runs.info["status"] == "finished").any() and (figure := plot_runs(runs)) is not None:
            figure.savefig(folder / "results.png", dpi=110)
            print(f", {folder}/results.png", end="")
        print()
    return list(runs.info["record"])


def tabulate(runs: Runs, fold: bool, metric: str | None = None) -> pd.DataFrame:
    """A line for each setting of the runs or, without `fold`, for each run, the best first.

    With `fold`, runs that differ by seed only are one line, with the mean and standard deviation of those that are
    finished. Lines are sorted by `metric`; `None` is all metrics, and the `headline` of each monitor.
    """
    shown, info = differing(runs), runs.info
    keys = [info["monitor"], *(runs.settings[key] for key in shown)]
    line = info.groupby(keys, sort=False).ngroup() if fold else pd.Series(info.index)
    finished = info["status"] == "finished"
    table = runs.settings[shown].groupby(line).first()
    if fold:
        table["runs"], table["finished"] = line.value_counts(), finished.groupby(line).sum()
    else:
        table["seed"] = runs.settings.get("seed", "")
    for name in [metric] if metric else measured_by(runs):
        scores = (runs.final(name) if fold else runs.metrics[name]).groupby(line)
        table[name] = scores.mean()
        if fold:
            table[f"{name}_std"] = scores.std()
    for name in ("seconds", "parameters"):
        table[name] = info[name].where(finished).groupby(line).median().fillna(info[name].groupby(line).median())
    table["status"] = info["status"].groupby(line).agg(_count if fold else "first")
    if not fold:
        table[["message", "folder"]] = info[["message", "folder"]]
    monitors = info["monitor"].groupby(line).first()
    heads = [metric or headline(runs, monitor) for monitor in monitors]
    signs = {head: -1 if higher_is_better(runs, head) else 1 for head in heads}
    scores = [signs[head] * table[head].get(place) if head in table else math.nan for place, head in enumerate(heads)]
    order = pd.DataFrame({"monitor": 0 if metric else pd.factorize(monitors)[0], "score": scores}, table.index)
    return table.loc[order.sort_values(["monitor", "score"], kind="stable").index]


def _count(statuses: pd.Series) -> str:
    """`2 finished, 1 failed`."""
    counts = Counter(statuses)
    return ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])


def print_table(runs: Runs, folder: Path, form: str, fold: bool, metric: str | None = None) -> None:
    """Print the table of runs below a folder as `rich`, `markdown` or `csv`, with one metric or as many as fit."""
    table, shown = tabulate(runs, fold, metric), differing(runs)
    metrics = [metric] if metric else measured_by(runs)
    if form == "csv":
        table.to_csv(sys.stdout, index=False)
    elif form == "markdown":
        _print_markdown(_formatted(table, shown, metrics[:4], folder))
    else:
        same = [key for key in GROUPS[:5] if key in runs.settings and runs.settings[key].nunique() == 1]
        shared = {key: runs.settings[key][0] for key in same if runs.settings[key][0] not in ("", "null")}
        many = "s, all" if len(runs) > 1 else ","
        print(f"{len(runs)} run{many} with {' '.join(f'{key}={shorten(text)}' for key, text in shared.items())}")
        console = Console()
        width = console.width if console.is_terminal else 120
        number = runs.info["monitor"].nunique()  # at least what each line is sorted by
        while number < len(metrics) and _width(_formatted(table, shown, metrics[: number + 1], folder)) <= width:
            number += 1
        _print_rich(_formatted(table, shown, metrics[:number], folder))
    for run in runs.info[runs.info["status"].isin(["failed", "killed", "stopped"])].itertuples():
        reason = str(run.message).strip().partition("\n")[0] or run.status
        print(f"{run.folder}: {reason}", file=sys.stdout if form == "rich" else sys.stderr)


def print_cross_table(runs: Runs, rows: str, columns: str, metric: str | None, form: str) -> None:
    """Print the mean of a metric with a row and a column for each value of two settings.

    **Raises:** `UserError` if no run has both settings and a result.
    """
    heads = [metric or headline(runs, monitor) for monitor in runs.info["monitor"]]
    table = pd.DataFrame({
        rows: runs.settings.get(rows, ""), "metric": heads, columns: runs.settings.get(columns, ""),
        "score": [runs.final(head).get(run) for run, head in enumerate(heads)],
    }, index=runs.info.index)  # fmt: skip
    table = table[~table[[rows, columns]].isin(["", "null"]).any(axis=1)].astype({"score": float})
    table = table[table.groupby([rows, "metric"])["score"].transform("count") > 0]
    asked = f"rows={rows}, columns={columns}{f' and metric={metric}' if metric else ''}"
    require(len(table) > 0, f"No run has {asked}, and a result.")
    groups = table.groupby([rows, "metric", columns], sort=False)["score"]
    if form == "csv":
        wide = groups.agg(["mean", "std"]).unstack(columns, sort=False)
        wide.columns = [f"{name}_std" if part == "std" else name for part, name in wide.columns]
        wide.reset_index().to_csv(sys.stdout, index=False)
        return
    most = int(groups.size().max())
    cells = groups.agg(lambda scores: _cell(scores, most)).unstack(columns, sort=False).fillna("")
    cells.columns = cells.columns.map(shorten)
    cells.insert(0, f"{rows}, metric", [f"{shorten(row)}, {name}" for row, name in cells.index])
    (_print_markdown if form == "markdown" else _print_rich)(cells)
    if most > 1:
        print(f"Mean ± standard deviation of {most} runs, of another number as (number) says.", file=sys.stderr)


def _formatted(table: pd.DataFrame, shown: list[str], metrics: list[str], folder: Path) -> pd.DataFrame:
    """The table as text, with few digits."""
    cells = table[shown].map(shorten)
    number = "runs" if "runs" in table else "seed"
    cells[number] = table[number].astype(str)
    for metric in metrics:
        deviations = table.get(f"{metric}_std", pd.Series(math.nan, table.index))
        cells[metric] = [_mean(*pair) for pair in zip(table[metric], deviations, strict=True)]
    for name, column, text in (("time", "seconds", _duration), ("parameters", "parameters", "{:,.0f}".format)):
        if table[column].notna().any():
            cells[name] = table[column].map(text, na_action="ignore").astype(object).fillna("")
    statuses = table["status"].str.replace(r"^\d+ finished(, )?|^finished$", "", regex=True)
    if statuses.any():
        cells["status"] = statuses
    if "folder" in table:
        cells["folder"] = [os.path.relpath(path, folder) for path in table["folder"]]
    return cells


def _cell(scores: pd.Series, most: int) -> str:
    """`0.993 ± 0.002`, with the number of runs where it is not the usual one."""
    number = scores.count()
    if number == 0:
        return "no result"
    return _mean(scores.mean(), scores.std()) + (f" ({number})" if number != most else "")


def _mean(mean: float, deviation: float) -> str:
    """`0.993 ± 0.002`, the mean with three digits."""
    if math.isnan(mean):
        return ""
    text = f"{mean:#.3g}".rstrip(".")
    if math.isnan(deviation):
        return text
    digits = ".1e" if "e" in text else f".{len(text.partition('.')[2])}f"
    return f"{text} ± {deviation:{digits}}"


def _duration(seconds: float) -> str:
    for length, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def _width(cells: pd.DataFrame) -> int:
    return 1 + sum(3 + max(map(len, (name, *cells[name]))) for name in cells)


def _print_rich(cells: pd.DataFrame) -> None:
    console, table = Console(), Table()
    if not console.is_terminal:
        console.width = max(console.width, _width(cells))  # a file has no width to be kept
    for name in cells:
        is_numeric = cells[name].str.fullmatch(r"[-+.,e\d]*( .*)?").all()
        table.add_column(name, justify="right" if is_numeric else "left", overflow="fold")
    for line in cells.itertuples(index=False):
        table.add_row(*line)
    console.print(table, highlight=False, markup=False)


def _print_markdown(cells: pd.DataFrame) -> None:
    lines: list[Any] = [list(cells), ["---"] * cells.shape[1], *cells.itertuples(index=False)]
    for line in lines:
        print(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |")
