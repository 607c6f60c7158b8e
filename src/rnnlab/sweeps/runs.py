"""The runs below a folder: what each left there, and what tells them apart. Imports no torch."""

import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnnlab.training import run_record

GROUPS = ("experiment", "data", "model", "cell", "optim", "trainer", "callbacks", "logger", "debug")
STATUSES = ("finished", "failed", "killed", "stopped", "pruned", "running")
ASIDE = ("sweep", "trial", "callbacks.pruning.trial")  # by whom a run was chosen makes it no other
MISSING = ""  # the text of a setting that a run has not


@dataclass
class Run:
    """What a run left in its folder.

    - `folder`: where that is; `record`: what `run.json` holds.
    - `status`: one of `STATUSES`; `message`: why it failed.
    - `settings`: the text of each, groups chosen and values, by its key; `by_hand`: keys that its overrides name.
    - `monitor`, `mode`: the metric that it was watched by, and whether its best is the min or the max.
    - `metrics`: those of `metrics.json` and the best of `monitor`; `None` for what is not a number.
    - `seconds`, `parameters`: `None` where unknown.
    """

    folder: Path
    record: dict[str, Any]
    status: str
    message: str
    settings: dict[str, str]
    by_hand: list[str]
    monitor: str
    mode: str
    metrics: dict[str, float | None]
    seconds: float | None
    parameters: float | None

    def score(self, metric: str) -> float | None:
        """The metric of a finished run; what others have is not the end of a training."""
        return self.metrics.get(metric) if self.status == "finished" else None


def read_runs(folder: Path) -> list[Run]:
    """The runs below a folder, or in it, in the order of their names; what cannot be read is told on standard error."""
    runs = []
    for path in sorted(run_record.find_runs(folder), key=lambda path: _natural(str(path))):
        try:
            runs.append(_read(path))
        except Exception as error:  # whatever stands in one file, the other runs are shown
            print(f"{path} is left out: {error} ({type(error).__name__}).", file=sys.stderr)
    common = Counter(run.monitor for run in runs if run.monitor).most_common(1)
    for run in runs:
        run.monitor = run.monitor or (common[0][0] if common else "val/loss")
    return runs


def parse(path: Path) -> Any:
    """What a JSON file holds. JSON has no infinity: `ValueError`, which names the file, as for all damage."""
    try:
        return json.loads(path.read_bytes(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error


def differing(runs: Sequence[Run]) -> list[str]:
    """The settings that tell runs apart, the seed left aside: groups first, then in the order of the command line.

    That is what was set by hand and differs. What else differs is mostly a consequence: `cell=gru` brings its own
    `cell._target_`, an experiment dozens of values. So it counts only if it is no function of those that count already.
    """
    by_hand = list(dict.fromkeys(key for run in runs for key in run.by_hand))
    place = {key: number for number, key in enumerate(dict.fromkeys(key for run in runs for key in run.settings))}
    values = {key: [run.settings.get(key, MISSING) for run in runs] for key in place}
    values = {key: texts for key, texts in values.items() if len(set(texts)) > 1 and key != "seed"}

    def rank(key: str) -> tuple[int, int, int]:
        hand = next((number for number, name in enumerate(by_hand) if _sets(name, key)), len(by_hand))
        return GROUPS.index(key) if key in GROUPS else len(GROUPS), hand, place[key]

    ranks = {key: rank(key) for key in values}
    shown = [key for key in values if ranks[key][1] < len(by_hand)]
    seeds = [run.settings.get("seed") for run in runs]
    for key in sorted(values.keys() - set(shown), key=lambda key: ranks[key]):
        # names and places are no settings; what repeats the seed is folded with it
        of_seed = all(text in (seed, MISSING) for text, seed in zip(values[key], seeds, strict=True))
        aside = of_seed or key == "name" or key.startswith(("logger.", "hydra."))
        if not aside and not _follows(values[key], [values[column] for column in shown], len(runs)):
            shown.append(key)
    return sorted(shown, key=lambda key: ranks[key])


def headline(runs: Sequence[Run], measured: Iterable[str]) -> str:
    """The metric that runs of one monitor are compared by: its counterpart in the test part, if there is one."""
    monitor = runs[0].monitor
    test = re.sub("^val/", "test/", monitor)
    scored = any(run.status == "finished" and run.metrics for run in runs)
    return test if any(test in run.metrics for run in runs) or (test in measured and not scored) else monitor


def better(metric: str, runs: Sequence[Run]) -> str:
    """`min` or `max`: which values of a metric are good, as far as the runs say."""
    quantity = metric.partition("/")[2]
    said = next((run.mode for run in runs if run.monitor.partition("/")[2] == quantity), None)
    return said or ("max" if "accuracy" in quantity else "min")


def brief(text: str) -> str:
    """A setting for people: one line, not too long, no more digits than tell values apart."""
    text = " ".join(text.split())
    if re.fullmatch(r"-?\d*\.\d{5,}|-?[\d.]{6,}e[-+]?\d+", text):
        return f"{float(text):.4g}"
    if len(text) <= 60:
        return text
    return f"…{text[-59:]}" if "/" in text else f"{text[:59]}…"


def number(text: str) -> float | None:
    """What a setting is as a finite number; `None` if it is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def measured_by(runs: Sequence[Run]) -> list[str]:
    """Every metric: those that runs are compared by first, the rest as they come, the watched ones at the end."""
    every = list(dict.fromkeys(name for run in runs for name in run.metrics))
    monitors = list(dict.fromkeys(run.monitor for run in runs))
    rest = [name for name in every if name not in monitors]
    heads = [headline([run for run in runs if run.monitor == monitor], every) for monitor in monitors]
    return [name for name in dict.fromkeys([*heads, *rest, *every]) if name in every]


def _read(folder: Path) -> Run:
    """**Raises:** all that reading what is no record of a run may raise."""
    said = json.loads((folder / run_record.FILE).read_bytes())
    path = folder / "metrics.json"
    metrics = parse(path) if path.is_file() else {}
    if not isinstance(said, dict) or not isinstance(said.get("settings"), dict) or not isinstance(metrics, dict):
        raise ValueError("it holds something else")
    state = run_record.status(said)
    if state not in STATUSES:
        raise ValueError(f"its status is {state}")
    overrides = [str(text).lstrip("+~").partition("=") for text in said.get("overrides") or ()]
    overrides = [override for override in overrides if override[0] not in ASIDE]
    by_hand = {key.partition("@")[0]: text if number(text) is None else number(text) for key, _, text in overrides}
    scores = {name: _finite(value) for name, value in metrics.items()}
    monitor = _text(str(said.get("monitor") or ""))
    if (score := _finite(said.get("score"))) is not None:
        scores.setdefault(monitor, score)
    return Run(
        folder=folder,
        record=said,
        status=state,
        message=_text(str(said.get("message") or "")),
        # what was killed before it could say more is known by its overrides
        settings={key: _text(value) for key, value in (said["settings"] or by_hand).items() if key not in ASIDE},
        by_hand=list(by_hand),
        monitor=monitor,
        mode="max" if said.get("mode") == "max" else "min",
        metrics=scores,
        seconds=_finite(said.get("seconds")),
        parameters=_finite(said.get("parameters")),
    )


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _finite(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _natural(path: str) -> list[tuple[int, str]]:
    """Sorts job 10 behind job 9."""
    return [(int(digits or 0), other) for digits, other in re.findall(r"(\d+)|(\D+)", path)]


def _text(value: Any) -> str:
    """A setting as the command line takes it; 1 and 1.0 are the same."""
    match value:
        case str():
            return value.encode(errors="replace").decode()  # a path may hold what no terminal prints
        case float() if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
        case float():
            return repr(value)
        case _:
            return json.dumps(value, ensure_ascii=False, default=str)


def _sets(name: str, key: str) -> bool:
    """Whether an override of `name` sets `key`: itself or, where `name` is no group, what is below it."""
    return key == name or (name not in GROUPS and key.startswith(f"{name}."))


def _follows(texts: list[str], columns: list[list[str]], runs: int) -> bool:
    """Whether a setting is a function of others. A run that has not got it, or has it as a path, says nothing."""
    known: dict[tuple[str, ...], str] = {}
    for given, text in zip(zip(*columns, strict=True) if columns else [()] * runs, texts, strict=True):
        if text != MISSING and not os.path.isabs(text) and known.setdefault(given, text) != text:
            return False
    return True
