"""The figure of many runs: their metric over a setting, and their learning curves."""

import json
import math
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rnnlab.sweeps.runs import Runs, differing, headline, higher_is_better, shorten

MAX_LINES = 10  # colours that can be distinguished
MAX_POINTS = 1000  # of a curve


def plot_runs(runs: Runs, metric: str | None = None, x: str | None = None, hue: str | None = None) -> Figure | None:
    """Draw a metric over the setting `x`, a line for each value of `hue`, and the learning curves beside it.

    What is `None` is chosen: the metric by which most runs are compared, the setting with most values.

    **Returns:** `None` if no run has a result or a curve.
    """
    heads = runs.info["monitor"].map(lambda monitor: metric or headline(runs, monitor))
    scored = [head in runs.metrics and not math.isnan(runs.final(head)[run]) for run, head in heads.items()]
    metric = (heads[scored] if any(scored) else heads).mode()[0]
    others = ", ".join(sorted(set(heads[scored]) - {metric}))
    left_out = f"not shown: {(heads != metric).sum()} of {len(runs)} runs, compared by {others}" if others else ""
    runs = runs.select(heads == metric)
    settings = runs.settings.map(shorten).replace("", "none")
    table = pd.DataFrame({"score": runs.final(metric) if metric in runs.metrics else math.nan}, index=runs.info.index)
    keys = differing(runs)
    if x is None:
        x = max(keys, key=lambda key: (_is_numeric(settings[key]), settings[key].nunique()), default=None)
    lines = [hue] if hue else [key for key in keys if key != x]
    table["x"] = settings.get(x, "")
    table["line"] = settings[lines].apply(_label, axis=1) if lines else ""
    is_search = table["line"].nunique() > MAX_LINES  # every run is a setting of its own
    hue = lines[0] if is_search else ", ".join(lines) or str(x)
    by_color = settings[hue] if is_search else table["line"] if lines else table["x"]
    if is_search:
        table["line"] = ""
    name, curves = _curves(runs, metric)
    panels = [panel for panel, shown in (("scores", x and any(scored)), ("curves", curves)) if shown]
    if not panels:
        return None
    figure = Figure(figsize=(12 if len(panels) == 2 else 7.5, 5), layout="constrained")
    axes = dict(zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True))
    colors = _colors(by_color, figure, axes[panels[-1]], hue)
    if "scores" in axes:
        _draw_scores(axes["scores"], table.assign(color=colors).dropna(subset="score"), lines and not is_search)
        axes["scores"].set(xlabel=x, ylabel=metric)
    if "curves" in axes:
        several = lines and not is_search and _is_numeric(table["x"])
        strong = _best_setting(table, higher_is_better(runs, metric)) if several else set(curves)
        _draw_curves(axes["curves"], curves, colors, strong)
        axes["curves"].set(xlabel="step", ylabel=name)
    for panel in axes.values():
        panel.grid(alpha=0.3)
        if panel.get_ylabel().endswith("loss") and _is_wide([y for line in panel.lines for y in line.get_ydata()]):
            panel.set_yscale("log")
            panel.yaxis.set_major_formatter("{x:g}")
    figure.supxlabel(left_out, fontsize="small", color="dimgray", parse_math=False)
    return figure


def _colors(values: pd.Series, figure: Figure, axes: Axes, title: str) -> pd.Series:
    """A color for each run, explained by a legend or, where there are many numbers, by a bar."""
    distinct = values.unique()
    if len(distinct) > MAX_LINES and _is_numeric(values):
        numbers = values.astype(float)
        norm = (LogNorm if _is_wide(numbers) else Normalize)(numbers.min(), numbers.max())
        mappable = ScalarMappable(norm, "viridis")
        figure.colorbar(mappable, ax=axes, label=title)
        return pd.Series(list(mappable.to_rgba(numbers)), values.index).map(tuple)
    palette = {text: matplotlib.colormaps["tab10"](place % 10) for place, text in enumerate(distinct)}
    if 1 < len(distinct) <= 2 * MAX_LINES:
        handles = [Line2D([], [], color=color, marker="o") for color in palette.values()]
        figure.legend(handles, distinct, loc="outside right upper", title=title, frameon=False)
    return values.map(palette)


def _draw_scores(axes: Axes, table: pd.DataFrame, joined: Any) -> None:
    """The mean and standard deviation at each setting, `joined` to lines, and every run as a faint dot."""
    is_numeric = _is_numeric(table["x"])
    names = list(table["x"].unique())
    table["place"] = table["x"].astype(float) if is_numeric else table["x"].map(names.index)
    if is_numeric and _is_wide(table["place"]):
        axes.set_xscale("log")
    if len(names) <= MAX_LINES or not is_numeric:
        rotation = 30 if sum(map(len, names)) > 60 else 0
        axes.set_xticks(table["place"].unique(), names, rotation=rotation)
        axes.minorticks_off()
    axes.scatter(table["place"], table["score"], c=list(table["color"]), s=14, alpha=0.5, linewidths=0)
    for (_, color), line in table.groupby(["line", "color"], sort=False):
        means = line.groupby("place")["score"].agg(["mean", "std"])
        style = "-" if is_numeric and joined else ""
        axes.errorbar(means.index, means["mean"], means["std"], color=color, marker="o", linestyle=style, capsize=3)
    number = table.groupby(["line", "color", "x"])["score"].count().max()
    axes.set_title(f"mean ± standard deviation of {number} runs" if number > 1 else "each dot is a run")


def _draw_curves(axes: Axes, curves: dict[int, Any], colors: pd.Series, strong: set[int]) -> None:
    """A line for each run; those at the best setting of their line are strong."""
    for run, (steps, values) in curves.items():
        width, alpha = (1.4, 0.9) if run in strong else (0.7, 0.35)
        marker = "." if len(steps) == 1 else None
        axes.plot(steps, values, color=colors[run], linewidth=width, alpha=alpha, marker=marker)
    if len(strong) < len(curves):
        axes.set_title("strong: the best setting of each")


def _best_setting(table: pd.DataFrame, largest: bool) -> set[int]:
    """The runs at the value of `x` where the mean score of their line is best."""
    means = table.groupby(["line", "x"])["score"].transform("mean")
    best = means.groupby(table["line"]).transform("max" if largest else "min")
    return set(table.index[(means == best) | best.isna()])


def _curves(runs: Runs, metric: str) -> tuple[str, dict[int, Any]]:
    """The name of the curves that belong to the metric, and (steps, values) of each run that has one."""
    contents = {}
    for run, folder in runs.info["folder"].items():
        if (path := folder / "curves.json").exists():
            contents[run] = json.loads(path.read_bytes())
    for name in (metric.replace("test/", "val/", 1), "val/loss", "train/loss"):
        points = {run: content[name][:: 1 + len(content[name]) // MAX_POINTS]
                  for run, content in contents.items() if content.get(name)}  # fmt: skip
        if any(len(curve) > 1 for curve in points.values()):
            return name, {run: tuple(zip(*curve, strict=True)) for run, curve in points.items()}
    return "", {}


def _label(settings: pd.Series) -> str:
    """`gru, hidden_size=16`."""
    if len(settings) == 1:
        return settings.iloc[0]
    return ", ".join(f"{key.rpartition('.')[2]}={text}" if "." in key else text for key, text in settings.items())


def _is_numeric(texts: pd.Series) -> bool:
    return pd.to_numeric(texts, errors="coerce").notna().all()


def _is_wide(values: Any) -> bool:
    """Whether positive values differ by a factor of ten or more."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) >= 10 * min(finite)
