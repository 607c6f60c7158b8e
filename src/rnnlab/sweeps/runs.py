"""The runs below a folder as tables: what each was set to and what it measured. Imports no torch."""

import json
import math
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rnnlab.training import run_record

GROUPS = ("experiment", "data", "model", "cell", "optim", "trainer", "callbacks", "logger", "debug")
STATUSES = ("finished", "failed", "killed", "stopped", "pruned", "running")
IGNORED = ("name", "sweep", "trial", "callbacks.pruning.trial")  # settings that follow from others or from a search
COLUMNS = ["folder", "status", "message", "monitor", "mode", "seconds", "parameters", "overridden", "record"]


@dataclass
class Runs:
    """The runs below a folder: three tables with a row for each run.

    - `info`: columns of run.json, `folder`, `overridden` (keys set on the command line) and `record` (all of run.json).
    - `settings`: the text of each group and value; empty where a run has none.
    - `metrics`: of metrics.json, and the best value of `monitor`; nan where a run has none.
    """

    info: pd.DataFrame
    settings: pd.DataFrame
    metrics: pd.DataFrame

    def __len__(self) -> int:
        return len(self.info)

    def select(self, rows: pd.Series) -> "Runs":
        """The runs for which a boolean series is true."""
        return Runs(self.info[rows], self.settings[rows], self.metrics[rows])

    def final(self, metrics: Any) -> Any:
        """The metrics of finished runs, nan for others: what these measured is not the end of a training."""
        return self.metrics[metrics].where(self.info["status"] == "finished")


def read_runs(folder: Path) -> Runs:
    """Read the runs below a folder, sorted by their names; unreadable runs are reported on standard error."""
    rows = []
    for path in sorted(run_record.find_runs(folder), key=lambda path: _natural_order(str(path))):
        try:
            rows.append(_read(path))
        except (OSError, ValueError) as error:
            print(f"{path} is left out: {error}", file=sys.stderr)
    index = range(len(rows))
    info = pd.DataFrame([row[0] for row in rows], index=index, columns=COLUMNS)
    info = info.astype({"seconds": float, "parameters": float})
    usual = info["monitor"].dropna().mode()  # a run that was killed at its start has recorded none
    info["monitor"] = info["monitor"].fillna(usual[0] if len(usual) else "val/loss")
    settings = pd.DataFrame([row[1] for row in rows], index=index, dtype=object).fillna("")
    metrics = pd.DataFrame([row[2] for row in rows], index=index, dtype=float)
    return Runs(info, settings, metrics.replace([math.inf, -math.inf], math.nan))


def differing(runs: Runs) -> list[str]:
    """The settings that distinguish runs other than by seed: groups first, then as on the command line.

    Settings that were set by hand, and of the others those that do not follow from these: `cell=gru` implies its own
    `cell._target_`, an experiment implies dozens of values.
    """
    settings = runs.settings
    by_hand = list(dict.fromkeys(key for keys in runs.info["overridden"] for key in keys))
    varied = [key for key in settings if settings[key].nunique() > 1 and key not in ("seed", *IGNORED)]

    def rank(key: str) -> tuple[int, int, int]:
        hand = next((place for place, name in enumerate(by_hand) if _sets(name, key)), len(by_hand))
        return GROUPS.index(key) if key in GROUPS else len(GROUPS), hand, settings.columns.get_loc(key)

    shown = [key for key in varied if rank(key)[1] < len(by_hand)]
    for key in sorted(set(varied) - set(shown), key=rank):
        if not key.startswith(("logger.", "hydra.")) and not _is_function_of(settings, key, shown):
            shown.append(key)
    return sorted(shown, key=rank)


def headline(runs: Runs, monitor: str) -> str:
    """The metric by which runs of one `monitor` are compared: its counterpart on the test set, if it was measured."""
    test = re.sub("^val/", "test/", monitor)
    measured = runs.metrics[runs.info["monitor"] == monitor]
    return test if test in measured and measured[test].notna().any() else monitor


def measured_by(runs: Runs) -> list[str]:
    """All metrics: those by which runs are compared first, those that were monitored last."""
    monitors = list(runs.info["monitor"].unique())
    heads = [headline(runs, monitor) for monitor in monitors]
    others = [name for name in runs.metrics if name not in monitors]
    return [name for name in dict.fromkeys([*heads, *others, *monitors]) if name in runs.metrics]


def higher_is_better(runs: Runs, metric: str) -> bool:
    """Whether large values of a metric are good, as far as the runs say."""
    quantity = metric.partition("/")[2]
    modes = runs.info["mode"][runs.info["monitor"].str.partition("/")[2] == quantity]
    return modes.iloc[0] == "max" if len(modes) else "accuracy" in quantity


def shorten(text: str) -> str:
    """A setting on one line of at most 60 characters, with at most four digits."""
    text = " ".join(text.split())
    if re.fullmatch(r"-?\d*\.\d{5,}|-?[\d.]{6,}e[-+]?\d+", text):
        return f"{float(text):.4g}"
    return text if len(text) <= 60 else f"{text[:59]}…"


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, str], dict[str, float]]:
    """The rows of a run in `info`, `settings` and `metrics`."""
    record = run_record.read(folder)
    status = run_record.status(record)
    if status not in STATUSES:
        raise ValueError(f"{run_record.FILE} is not the record of a run.")
    overrides = [override.lstrip("+~").partition("=") for override in record["overrides"]]
    given = {key.partition("@")[0]: _text(value) for key, _, value in overrides if key not in IGNORED}
    # a run that was killed early has recorded nothing but its overrides
    settings = {key: _text(value) for key, value in record["settings"].items() if key not in IGNORED} or given
    path = folder / "metrics.json"
    metrics = json.loads(path.read_bytes()) if path.exists() else {}
    if record.get("score") is not None:
        metrics.setdefault(record["monitor"], record["score"])
    info = {**record, "folder": folder, "status": status, "overridden": list(given), "record": record}
    return info, settings, metrics


def _text(value: Any) -> str:
    """A setting as on the command line; 1, 1.0 and 1e0 are the same."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d*\.?\d+(e[-+]?\d+)?", value):
        value = float(value)
    if isinstance(value, str):
        return value
    return f"{value:.17g}" if isinstance(value, float) and value.is_integer() else json.dumps(value, default=str)


def _natural_order(path: str) -> list[Any]:
    """Sorts job 10 behind job 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]


def _sets(name: str, key: str) -> bool:
    """Whether an override of `name` sets `key`: the key itself, or below it if `name` is no group."""
    return key == name or (name not in GROUPS and key.startswith(f"{name}."))


def _is_function_of(settings: pd.DataFrame, key: str, columns: list[str]) -> bool:
    """Whether a setting follows from others, or is the seed. Where it is missing or a path, it says nothing."""
    known = settings[(settings[key] != "") & ~settings[key].map(os.path.isabs)]
    groups = known.groupby(columns)[key] if columns else known.groupby(lambda _: 0)[key]
    return bool((groups.nunique() <= 1).all()) or ("seed" in known and bool((known[key] == known["seed"]).all()))
