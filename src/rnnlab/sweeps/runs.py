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


@dataclass
class Runs:
    """The runs below a folder: three tables with a row for each run.

    - `info`: `folder`, `status`, `message`, `monitor`, `mode`, `seconds`, `parameters`, `overridden` (keys that were
      set on the command line) and `record`, the content of run.json.
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
    info, settings, metrics = [], [], []
    for path in sorted(run_record.find_runs(folder), key=lambda path: _natural_order(str(path))):
        try:
            row, values, scores = _read(path)
        except (OSError, ValueError) as error:
            print(f"{path} is left out: {error}", file=sys.stderr)
        else:
            info.append(row)
            settings.append(values)
            metrics.append(scores)
    columns = ["folder", "status", "message", "monitor", "mode", "seconds", "parameters", "overridden", "record"]
    runs = Runs(
        pd.DataFrame(info, columns=columns),
        pd.DataFrame(settings, index=range(len(info)), dtype=object).fillna(""),
        pd.DataFrame(metrics, index=range(len(info)), dtype=float),
    )
    usual = runs.info["monitor"].dropna().mode()
    runs.info["monitor"] = runs.info["monitor"].fillna(usual[0] if len(usual) else "val/loss")
    return runs


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty without the file.

    **Raises:** `ValueError` that names the file if it holds anything else.
    """
    try:
        content = json.loads(path.read_bytes()) if path.exists() else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is damaged: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no object.")
    return content


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


def common(runs: Runs, shown: list[str]) -> str:
    """`, all with data=hello model=char`: the main settings that all runs share, but for those that are shown."""
    by_hand = dict.fromkeys(key for keys in runs.info["overridden"] for key in keys)
    keys = [key for key in dict.fromkeys([*GROUPS[:5], *by_hand]) if key not in ("seed", "callbacks", "logger", *shown)]
    same = {key: runs.settings[key][0] for key in keys if key in runs.settings and runs.settings[key].nunique() == 1}
    shared = " ".join(f"{key}={shorten(text)}" for key, text in same.items() if text not in ("", "null"))
    return f",{' all' * (len(runs) > 1)} with {shared}" if shared else ""


def shorten(text: str) -> str:
    """A setting on one line of at most 60 characters, with at most four digits."""
    text = " ".join(text.split())
    if re.fullmatch(r"-?\d*\.\d{5,}|-?[\d.]{6,}e[-+]?\d+", text):
        return f"{float(text):.4g}"
    return text if len(text) <= 60 else f"…{text[-59:]}" if "/" in text else f"{text[:59]}…"


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, str], dict[str, float]]:
    """The rows of a run in `info`, `settings` and `metrics`."""
    record = read_json(folder / run_record.FILE)
    status = run_record.status(record)
    if status not in STATUSES or not isinstance(record.get("settings"), dict):
        raise ValueError(f"{run_record.FILE} is not the record of a run.")
    overrides = [str(override).lstrip("+~").partition("=") for override in record.get("overrides") or ()]
    given = {key.partition("@")[0]: _text(value) for key, _, value in overrides if key not in IGNORED}
    # a run that was killed early has recorded nothing but its overrides
    settings = {key: _text(value) for key, value in record["settings"].items()} or given
    monitor = record.get("monitor")
    metrics = {name: _number(value) for name, value in read_json(folder / "metrics.json").items()}
    if monitor and not math.isnan(score := _number(record.get("score"))):
        metrics.setdefault(monitor, score)
    info = {
        "folder": folder, "status": status, "message": str(record.get("message") or ""), "monitor": monitor,
        "mode": record.get("mode"), "seconds": _number(record.get("seconds")),
        "parameters": _number(record.get("parameters")), "overridden": list(given), "record": record,
    }  # fmt: skip
    return info, {key: text for key, text in settings.items() if key not in IGNORED}, metrics


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) and math.isfinite(value) else math.nan


def _text(value: Any) -> str:
    """A setting as on the command line; 1, 1.0 and 1e0 are the same."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", value):
        value = pd.to_numeric(value, errors="coerce") if value.count(".") < 2 else value
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
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
