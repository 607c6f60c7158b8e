"""What many runs found, in one table."""

import json
import math
import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from yaml import YAMLError

from rnnlab.errors import require


def results(cfg: DictConfig) -> None:
    """Print a table of the runs below a folder: a row and a column for each value of two settings, seeds folded.

    A field holds the mean over its runs, and their standard deviation if there are several; runs that failed or are not
    finished have no result.

    **Arguments:**

    - `cfg`: the composed `results.yaml`.

    **Raises:** `UserError` if there is no finished run, or none that has the settings or the metric.
    """
    for key in ("rows", "columns"):
        require(isinstance(cfg[key], str) and cfg[key] != "", f"{key}={cfg[key]} must be a group or a key.")
    require(cfg.format in ("rich", "markdown"), f"format={cfg.format} must be rich or markdown.")
    folder = Path(str(cfg.logs))
    folders = [path.parent for path in sorted(folder.rglob(".hydra"), key=_begun)]
    require(bool(folders), f"logs={folder}: there is no run below it.")
    known: set[str] = set()
    scores: dict[str, dict[str, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    for path in folders:
        try:
            read = _read(path, cfg)
        except (OSError, ValueError, YAMLError) as error:
            print(f"{path} is left out: {type(error).__name__} on reading it.", file=sys.stderr)
            continue
        if read is None:
            continue
        row, column, name, found = read
        known |= set(found or ())
        if row is not None and column is not None and (found is None or name in found):
            scores[f"{row}, {name}"][column].append(None if found is None else found[name])
    asked = f"rows={cfg.rows}, columns={cfg.columns}{f' and metric={cfg.metric}' if cfg.metric else ''}"
    measured = f" What they measured: {', '.join(sorted(known))}." if cfg.metric else ""
    for row, fields in list(scores.items()):
        if all(score is None for runs in fields.values() for score in runs):
            del scores[row]
    require(bool(scores), f"logs={folder}: no run has {asked}.{measured}")
    columns = list(dict.fromkeys(column for row in scores.values() for column in row))
    most = max(len(values) for row in scores.values() for values in row.values())
    lines = [[row, *(_folded(fields.get(column, []), most) for column in columns)] for row, fields in scores.items()]
    if cfg.format == "markdown":
        for line in (["", *columns], ["---"] * (len(columns) + 1), *lines):
            print(f"| {' | '.join(line)} |")
    else:
        table = Table(f"{cfg.rows}, metric", *columns)
        for line in lines:
            table.add_row(*line)
        Console().print(table, highlight=False, markup=False)
    if most > 1:
        print(f"Mean ± standard deviation of {most} runs, of another number as (number) says.", file=sys.stderr)


def _begun(path: Path) -> tuple[float, Path]:
    return path.stat().st_mtime, path


def _read(path: Path, cfg: DictConfig) -> tuple[str | None, str | None, str, dict[str, float | None] | None] | None:
    """The row and the column of a run, the name of its metric, and all its metrics; `None` for what it has not.

    What is no training, such as an evaluation, is `None` as a whole.
    """
    choices = OmegaConf.load(path / ".hydra" / "hydra.yaml").hydra.runtime.choices
    text = (path / ".hydra" / "config.yaml").read_text(encoding="utf-8")
    chosen = re.sub(r"\$\{hydra:runtime\.choices\.(\w+)\}", lambda group: str(choices[group[1]]), text)
    config: Any = OmegaConf.create(chosen)
    if "monitor" not in config:
        return None
    row, column = (_setting(config, choices, key) for key in (cfg.rows, cfg.columns))
    name = cfg.metric or str(config.monitor).replace("val/", "test/")
    metrics = path / "metrics.json"
    return row, column, name, json.loads(metrics.read_text(encoding="utf-8")) if metrics.is_file() else None


def _setting(config: Any, choices: Any, key: str) -> str | None:
    """What a group or a key of a run was set to."""
    value = choices[key] if key in choices else OmegaConf.select(config, key)
    require(not OmegaConf.is_config(value), f"{key} is a section of settings: name a key in it.")
    return None if value is None else str(value)


def _folded(runs: list[float | None], most: int) -> str:
    """`0.993 ± 0.002`, and how many runs it is of if these are not the most."""
    scores = [score for score in runs if score is not None and math.isfinite(score)]
    if not scores:
        return "no result" if runs else ""
    mean, number = statistics.fmean(scores), f" ({len(scores)})" * (len(scores) != most)
    decimals = max(0, 2 - math.floor(math.log10(abs(mean)))) if mean else 2
    spread = f" ± {statistics.stdev(scores):.{decimals}f}" if len(scores) > 1 else ""
    return f"{mean:.{decimals}f}{spread}{number}"
