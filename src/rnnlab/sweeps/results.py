"""What many runs found, in a table, a file, a picture. Imports no torch."""

import csv
import io
import math
import os
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from rnnlab.sweeps.runs import (
    GROUPS,
    MISSING,
    STATUSES,
    Run,
    better,
    brief,
    differing,
    headline,
    measured_by,
    number,
    read_runs,
)
from rnnlab.training import run_record
from rnnlab.utils.errors import UserError, require

LISTED = 20  # runs without a result below a table; format=csv fold=false lists all


@dataclass
class Row:
    """A line of the table: runs that differ in the seed only, or a single one."""

    runs: list[Run]
    metric: str
    folded: bool

    def scores(self, metric: str) -> list[float]:
        """The finite scores; also those of unfinished runs where nothing is averaged."""
        found = (run.score(metric) if self.folded else run.metrics.get(metric) for run in self.runs)
        return [score for score in found if score is not None]

    def median(self, name: str) -> float | None:
        """The median of seconds or parameters; of the finished runs if there are any."""
        runs = [run for run in self.runs if run.status == "finished"] or self.runs
        found = [value for run in runs if (value := getattr(run, name)) is not None]
        return statistics.median(found) if found else None

    def status(self, ignore: str = "") -> str:
        """`2 failed, 1 running`; of a single run `failed`."""
        counts = Counter(run.status for run in self.runs if run.status != ignore)
        if not self.folded:
            return "".join(counts)
        return ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])


def results(cfg: DictConfig, literal: dict[str, str]) -> None:
    """Compare the runs below a folder: a line for each setting of theirs, seeds folded, the best first.

    A field holds the mean over the finished runs, and their standard deviation if there are several. With `rows` and
    `columns` it is a row and a column for each value of these two settings.

    **Arguments:**

    - `cfg`: the composed `results.yaml`.
    - `literal`: values of `logs` and `plot`, as they stand on the command line.

    **Raises:** `UserError` if there is no run, none that has the settings or the metric, or no place for the picture.
    """
    how = SimpleNamespace(**{**OmegaConf.to_container(cfg), **literal})  # type: ignore[dict-item]
    _check(how)
    folder = Path(str(how.logs))
    runs = read_runs(folder)
    require(
        bool(runs), f"logs={folder}: there is no run below it: no folder with a {run_record.FILE} that can be read."
    )
    measured = measured_by(runs)
    if how.metric is not None:
        words = f"What they measured: {', '.join(measured) or 'nothing yet'}."
        require(how.metric in measured, f"metric={how.metric}: no run below logs={folder} has it. {words}")
    try:
        if how.rows is not None:
            _print_crossing(runs, how, measured)
        else:
            _print_table(runs, folder, how.format, how.fold, [how.metric] if how.metric else None)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has enough; what Python still wants to flush goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if how.plot is not None:
        from rnnlab.sweeps.plots import draw  # matplotlib takes longer than all the rest

        figure = draw(runs, how.metric, *([how.rows, how.columns] if how.rows is not None else []))
        if figure is None:
            raise UserError(f"plot={how.plot}: no run has a result or a curve to be drawn.")
        try:
            _save(figure, Path(how.plot))
        except OSError as error:
            raise UserError(f"plot={how.plot} cannot be written: {error.strerror}.") from error


def summarise(folder: Path) -> list[dict[str, Any]]:
    """At the end of a sweep: print its table, leave `results.csv`, run by run, and `results.png` in its folder.

    A sweep of hours must not end in an error about a picture: what cannot be done is one line on standard error.

    **Returns:** what each run says of itself.
    """
    runs = read_runs(folder)
    if not runs:
        return []
    _print_table(runs, folder, "rich", fold=True)
    written = []
    for name, leave in (("results.csv", _leave_table), ("results.png", _leave_picture)):
        try:
            if leave(runs, folder / name):
                written.append(str(folder / name))
        except Exception as error:
            print(f"{folder / name} is left out: {error} ({type(error).__name__}).", file=sys.stderr)
    if written:
        print(f"results: {', '.join(written)}")
    return [run.record for run in runs]


def _check(how: SimpleNamespace) -> None:
    """Everything that can be said before a thousand folders are read."""
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
        require(not path.is_dir(), f"plot={path} is a folder.")


def _rows(runs: Sequence[Run], shown: list[str], fold: bool, metric: str | None) -> list[Row]:
    """Runs folded to lines, those of one monitor together, the best first, those without a result last."""
    groups: dict[Any, list[Run]] = defaultdict(list)
    for place, run in enumerate(runs):
        groups[(run.monitor, *(run.settings.get(key, MISSING) for key in shown), None if fold else place)].append(run)
    monitors = list(dict.fromkeys(run.monitor for run in runs))
    measured = measured_by(runs)
    rows = [Row(group, metric or headline(group, measured), fold) for group in groups.values()]

    def rank(row: Row) -> tuple[int, bool, float]:
        scores = row.scores(row.metric)
        sign = -1 if better(row.metric, row.runs) == "max" else 1
        # a metric that was asked for is the same for all
        monitor = 0 if metric else monitors.index(row.runs[0].monitor)
        return monitor, not scores, sign * statistics.fmean(scores) if scores else 0

    return sorted(rows, key=rank)


def _print_table(runs: Sequence[Run], folder: Path, form: str, fold: bool, metrics: list[str] | None = None) -> None:
    """Print a line for each setting of the runs, or for each run, with those `metrics` or all that fit."""
    shown = differing(runs)
    rows = _rows(runs, shown, fold, metrics[0] if metrics else None)
    metrics = metrics or measured_by(runs)
    if form == "csv":
        _write(rows, shown, metrics, sys.stdout)
    elif form == "markdown":
        columns = _columns(rows, shown, metrics[:4], folder)
        _print_markdown([list(columns), *map(list, zip(*columns.values(), strict=True))])
    else:
        console = Console()
        print(f"{_count(len(runs), 'run')}{_common(runs, shown)}")
        taken = len({row.metric for row in rows})  # at least what each is compared by
        room = console.width if console.is_terminal else 120  # a file has no width to be kept
        while taken < len(metrics) and _width(_columns(rows, shown, metrics[: taken + 1], folder)) <= room:
            taken += 1
        columns = _columns(rows, shown, metrics[:taken], folder)
        if not console.is_terminal:
            console.width = max(console.width, _width(columns))
        table = Table()
        for name, cells in columns.items():
            table.add_column(name, justify="right" if all(map(_is_figure, cells)) else "left", overflow="fold")
        for place, line in enumerate(zip(*columns.values(), strict=True)):
            last = place + 1 == len(rows) or rows[place].runs[0].monitor != rows[place + 1].runs[0].monitor
            table.add_row(*line, end_section=last)
        console.print(table, highlight=False, markup=False)
    _tell_failures(runs, sys.stdout if form == "rich" else sys.stderr)


def _columns(rows: list[Row], shown: list[str], metrics: list[str], folder: Path) -> dict[str, list[str]]:
    """The table for people, column by column."""
    columns = {key: [brief(row.runs[0].settings.get(key, MISSING)) for row in rows] for key in shown}
    folded = rows[0].folded
    if folded:
        columns["runs"] = [str(len(row.runs)) for row in rows]
    else:
        columns["seed"] = [row.runs[0].settings.get("seed", MISSING) for row in rows]
    for metric in metrics:
        columns[metric] = [_mean(row.scores(metric)) for row in rows]
    for name, key, shape in (("time", "seconds", _time), ("parameters", "parameters", "{:,.0f}".format)):
        values = [row.median(key) for row in rows]
        if any(value is not None for value in values):
            columns[name] = ["" if value is None else shape(value) for value in values]
    states = [row.status(ignore="finished") for row in rows]
    if any(states):
        columns["status"] = states
    if not folded:
        columns["folder"] = [os.path.relpath(row.runs[0].folder, folder) for row in rows]
    return columns


def _write(rows: list[Row], shown: list[str], metrics: list[str], file: TextIO) -> None:
    """The table for programs: numbers in full, each mean with its standard deviation."""
    folded = rows[0].folded
    header = [*shown, *(["runs", "finished"] if folded else ["seed"])]
    for metric in metrics:
        header += [metric, f"{metric}_std"] if folded else [metric]
    header += ["seconds", "parameters", "status", *([] if folded else ["message", "folder"])]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        first = row.runs[0]
        line: list[Any] = [first.settings.get(key, MISSING) for key in shown]
        if folded:
            line += [len(row.runs), sum(run.status == "finished" for run in row.runs)]
        else:
            line.append(first.settings.get("seed", MISSING))
        for metric in metrics:
            scores = row.scores(metric)
            line.append(statistics.fmean(scores) if scores else "")
            if folded:
                line.append(statistics.stdev(scores) if len(scores) > 1 else "")
        line += ["" if (value := row.median(name)) is None else value for name in ("seconds", "parameters")]
        writer.writerow([*line, row.status(), *([] if folded else [first.message, first.folder])])


def _print_crossing(runs: Sequence[Run], how: SimpleNamespace, measured: list[str]) -> None:
    """A row and a column for each value of two settings, a row for each metric of its own."""
    for key in (how.rows, how.columns):
        sections = any(name.startswith(f"{key}.") for run in runs for name in run.settings)
        known = any(key in run.settings for run in runs)
        require(known or not sections, f"{key} is a section of settings: name a key in it.")
    fields: dict[str, dict[str, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        row, column = (run.settings.get(key, "null") for key in (how.rows, how.columns))
        if "null" not in (row, column):
            name = how.metric or headline([run], measured)
            fields[f"{brief(row)}, {name}"][brief(column)].append(run.score(name))
    for row, values in list(fields.items()):
        if all(score is None for scores in values.values() for score in scores):
            del fields[row]
    asked = f"rows={how.rows}, columns={how.columns}{f' and metric={how.metric}' if how.metric else ''}"
    require(bool(fields), f"logs={how.logs}: no run has {asked}, and a result.")
    columns = list(dict.fromkeys(column for row in fields.values() for column in row))
    most = max(len(scores) for row in fields.values() for scores in row.values())
    if how.format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow([how.rows, "metric", *(name for column in columns for name in (column, f"{column}_std"))])
        for row, values in fields.items():
            line: list[Any] = list(row.rsplit(", ", 1))
            for scores in ([score for score in values.get(column, []) if score is not None] for column in columns):
                line += [statistics.fmean(scores) if scores else "", statistics.stdev(scores) if scores[1:] else ""]
            writer.writerow(line)
        return
    lines = [[row, *(_field(values.get(column, []), most) for column in columns)] for row, values in fields.items()]
    if how.format == "markdown":
        _print_markdown([["", *columns], *lines])
    else:
        table = Table(f"{how.rows}, metric", *columns)
        for cells in lines:
            table.add_row(*cells)
        Console().print(table, highlight=False, markup=False)
    if most > 1:
        print(f"Mean ± standard deviation of {most} runs, of another number as (number) says.", file=sys.stderr)


def _print_markdown(lines: list[list[str]]) -> None:
    for line in (lines[0], ["---"] * len(lines[0]), *lines[1:]):
        print(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |")


def _field(runs: list[float | None], most: int) -> str:
    """`0.993 ± 0.002`, and how many runs it is of if these are not the most."""
    scores = [score for score in runs if score is not None]
    if not scores:
        return "no result" if runs else ""
    return f"{_mean(scores)}{f' ({len(scores)})' * (len(scores) != most)}"


def _mean(scores: list[float]) -> str:
    """`0.993 ± 0.002`, the mean with three digits; what is far from one as `1.23e+08`."""
    if not scores:
        return ""
    mean = statistics.fmean(scores)
    if mean and not 1e-4 <= abs(mean) < 1e6:
        return f"{mean:.2e}{f' ± {statistics.stdev(scores):.1e}' if len(scores) > 1 else ''}"
    decimals = max(0, 2 - math.floor(math.log10(abs(mean)))) if mean else 2
    return f"{mean:.{decimals}f}{f' ± {statistics.stdev(scores):.{decimals}f}' if len(scores) > 1 else ''}"


def _time(seconds: float) -> str:
    for length, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def _is_figure(cell: str) -> bool:
    return cell == "" or number(cell.partition(" ")[0].replace(",", "")) is not None


def _width(columns: dict[str, list[str]]) -> int:
    return 1 + sum(3 + max(map(len, (name, *cells))) for name, cells in columns.items())


def _count(amount: int, what: str) -> str:
    return f"{amount:,} {what}{'s' * (amount != 1)}"


def _common(runs: Sequence[Run], shown: list[str]) -> str:
    """`, all with data=hello model=char`: what else should be known of the runs."""
    first = runs[0].settings
    hand = [name for name in dict.fromkeys(key for run in runs for key in run.by_hand) if name in first]
    dull = ("seed", "callbacks", "logger", *shown)
    keys = [key for key in dict.fromkeys([*GROUPS[:5], *hand]) if key not in dull]
    same = [key for key in keys if first.get(key, "null") != "null" and _same(runs, key)]
    every = ", all with " if len(runs) > 1 else " with "
    return every + " ".join(f"{key}={brief(first[key])}" for key in same) if same else ""


def _same(runs: Sequence[Run], key: str) -> bool:
    return len({run.settings.get(key) for run in runs}) == 1


def _tell_failures(runs: Sequence[Run], file: TextIO) -> None:
    failed = [run for run in runs if run.status in ("failed", "killed", "stopped")]
    for run in failed[:LISTED]:
        print(f"{run.folder}: {next(iter(run.message.strip().splitlines()), run.status)}", file=file)
    if len(failed) > LISTED:
        print(f"{len(failed) - LISTED:,} more: format=csv fold=false lists them.", file=file)


def _leave_table(runs: Sequence[Run], path: Path) -> bool:
    shown = differing(runs)
    with path.open("w", encoding="utf-8", newline="") as file:
        _write(_rows(runs, shown, False, None), shown, measured_by(runs), file)
    return True


def _leave_picture(runs: Sequence[Run], path: Path) -> bool:
    from rnnlab.sweeps.plots import draw

    finished = any(run.status == "finished" for run in runs)
    figure = draw(runs) if finished else None
    if figure is not None:
        _save(figure, path)
    return figure is not None


def _save(figure: Any, path: Path) -> None:
    """Drawn in full before the file is touched."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    path.write_bytes(picture.getvalue())
