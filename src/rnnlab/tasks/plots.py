"""Pictures of forecasts and classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from torch import Tensor

from rnnlab.tasks.metrics import median
from rnnlab.utils.errors import printable

UNITS = {  # pandas' names of steps, in words
    "h": "hours", "D": "days", "B": "business days", "W": "weeks", "MS": "months", "ME": "months", "QS": "quarters",
    "QE": "quarters", "YS": "years", "YE": "years",
}  # fmt: skip
LEGIBLE = 20  # classes, up to which counts can be read


@dataclass
class Forecast:
    """One series of one target and what was forecast of it, for a chart.

    **Arguments:**

    - `title`, `target`: names of the series, if there are several, and of what is forecast.
    - `times`, `truth`: (steps,) what is known.
    - `ahead`, `values`: (forecasts, horizon) times, and (forecasts, horizon, quantiles) values.
    """

    title: str
    target: str
    times: np.ndarray
    truth: Tensor
    ahead: np.ndarray
    values: Tensor


def draw_forecasts(charts: Sequence[Forecast], quantiles: tuple[float, ...], freq: str | None) -> Figure:
    """Forecasts with their intervals over the truth, a chart below another.

    **Arguments:**

    - `charts`: one or more.
    - `quantiles`: of the forecasts; the lowest and the highest bound the interval. Empty for a point forecast.
    - `freq`: the step of the times, as pandas writes it.
    """
    figure = Figure(figsize=(9.5, 1.2 + 2.6 * len(charts)), layout="constrained")
    look: dict[str, Any] = {"color": "tab:orange"}
    for axes, chart in zip(figure.subplots(len(charts), squeeze=False)[:, 0], charts, strict=True):
        axes.plot(chart.times, chart.truth, color="black", linewidth=1.2, label="truth")
        for times, values in zip(chart.ahead, chart.values, strict=True):
            middle = values[:, median(quantiles)]
            (line,) = axes.plot(times, middle, linewidth=1.5, marker="." if len(times) < 20 else None, **look)
            band = axes.fill_between(times, values[:, 0], values[:, -1], alpha=0.25, linewidth=0, **look)
            axes.axvline(times[0], color="gray", linewidth=0.5, linestyle=":")
        line.set_label(f"forecast, {len(times)} steps from each dotted line")
        if len(quantiles) > 1:
            band.set_label(f"{quantiles[-1] - quantiles[0]:.0%} interval")
        axes.set_title(_short(chart.title), loc="right", fontsize="small", parse_math=False)
        axes.set_ylabel(_short(chart.target), parse_math=False)
        _time_axis(axes, chart.times, freq)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize="small")
        axes.grid(alpha=0.3)
    return figure


def draw_errors(errors: dict[str, np.ndarray], unit: str) -> Figure:
    """The mean absolute error at each step of the horizon, a line for each forecaster."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for (name, values), color in zip(errors.items(), ("tab:orange", "tab:blue", "tab:gray"), strict=False):
        axes.plot(range(1, len(values) + 1), values, marker="." if len(values) < 50 else None, label=name, color=color)
    axes.set(xlabel="steps ahead", ylabel=unit, ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def draw_confusion(counts: Tensor, names: Sequence[str]) -> Figure:
    """A square for each pair of true and predicted class, the darker the larger its share of the true class.

    **Arguments:**

    - `counts`: (classes, classes), true by predicted.
    - `names`: of the classes.
    """
    size = len(names)
    shares = (counts / counts.sum(1, keepdim=True).clamp_min(1)).numpy()
    side = min(9.0, 3.2 + 0.35 * size)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    shown = range(0, size, 1 + (size - 1) // 40)
    names = [_short(name) for name in names]
    axes.set_xticks(shown, [names[k] for k in shown], rotation=90 if max(map(len, names)) > 2 else 0, parse_math=False)
    axes.set_yticks(shown, [names[k] for k in shown], parse_math=False)
    axes.set(xlabel="predicted", ylabel="true")
    if size <= LEGIBLE:
        for row, column in np.ndindex(size, size):
            if number := int(counts[row, column]):
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{number:,}", ha="center", va="center", color=color, fontsize="small")
    return figure


def _short(name: str) -> str:
    """A name as there is room for it."""
    return printable(name if len(name) <= 40 else f"{name[:37]}...")


def _time_axis(axes: Axes, times: np.ndarray, freq: str | None) -> None:
    dated = times.dtype.kind == "M"
    axes.set_xlabel(f"time ({UNITS.get(freq.split('-')[0], freq)})" if freq else "time" if dated else "step")
    if dated:
        locator = AutoDateLocator()
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
