"""Pictures of forecasts and classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.dates import ConciseDateFormatter
from matplotlib.figure import Figure
from torch import Tensor

from rnnlab.data.windows import Windows
from rnnlab.tasks.metrics import median_index
from rnnlab.utils.errors import printable

MAX_CHARTS = 4
MAX_FORECASTS = 8  # in a chart


def draw_forecasts(windows: Windows, model: Any) -> Figure:
    """The last forecasts of a `Forecaster` over the true series: of the first series, or all targets of the first."""
    panel = windows.panel
    series = panel.series_of(windows.origins)
    charts = [(number, 0) for number in series.unique().tolist()]
    if len(panel.targets) > 1:
        charts = [(charts[0][0], target) for target in range(len(panel.targets))]
    charts = charts[:MAX_CHARTS]
    figure = Figure(figsize=(9.5, 1.2 + 2.6 * len(charts)), layout="constrained")
    for axes, (number, target) in zip(figure.subplots(len(charts), squeeze=False)[:, 0], charts, strict=True):
        origins = windows.origins[series == number].flip(0)[:: len(windows.future)][:MAX_FORECASTS].flip(0)
        values = model.forecast(windows.inputs(origins).to(model.device)).detach()[:, :, target].cpu()
        rows = torch.arange(int(origins[0]) - len(windows.past), int(panel.end[number]))
        rows = rows[rows < origins[-1] + len(windows.future)]
        axes.plot(panel.times[rows], panel.targets_at(rows)[:, target], color="black", linewidth=1.2, label="truth")
        _draw_intervals(axes, panel.times[origins[:, None] + windows.future], values, model.quantiles)
        if len(panel.names) > 1:
            axes.set_title(_short(f"series {panel.names[number]}"), loc="right", fontsize="small", parse_math=False)
        axes.set_ylabel(_short(panel.targets[target]), parse_math=False)
        axes.set_xlabel("time")
        if panel.times.dtype.kind == "M":
            axes.xaxis.set_major_formatter(ConciseDateFormatter(axes.xaxis.get_major_locator()))
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize="small")
        axes.grid(alpha=0.3)
    return figure


def _draw_intervals(axes: Axes, times: np.ndarray, values: Tensor, quantiles: tuple[float, ...]) -> None:
    """Forecasts (forecasts, horizon, quantiles) at times (forecasts, horizon)."""
    color, horizon = "tab:orange", times.shape[1]
    for steps, forecast in zip(times, values, strict=True):
        median = forecast[:, median_index(quantiles)]
        (line,) = axes.plot(steps, median, linewidth=1.5, marker="." if horizon < 20 else None, color=color)
        band = axes.fill_between(steps, forecast[:, 0], forecast[:, -1], alpha=0.25, linewidth=0, color=color)
        axes.axvline(steps[0], color="gray", linewidth=0.5, linestyle=":")
    line.set_label(f"forecast, {horizon} steps from each dotted line")
    if len(quantiles) > 1:
        band.set_label(f"{quantiles[-1] - quantiles[0]:.0%} interval")


def draw_errors(errors: dict[str, Tensor], unit: str) -> Figure:
    """The mean error at each step of the horizon, (horizon,), a line for each forecaster."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for (name, values), color in zip(errors.items(), ("tab:orange", "tab:blue", "tab:gray"), strict=False):
        axes.plot(range(1, len(values) + 1), values, marker="." if len(values) < 50 else None, label=name, color=color)
    axes.set(xlabel="steps ahead", ylabel=unit, ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def draw_confusion(counts: Tensor, names: Sequence[str]) -> Figure:
    """The confusion matrix, `counts` of (true class, predicted class), coloured by the share of the true class."""
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
    if size <= 20:  # legible
        for row, column in np.ndindex(size, size):
            if number := int(counts[row, column]):
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{number:,}", ha="center", va="center", color=color, fontsize="small")
    return figure


def _short(name: str) -> str:
    return printable(name if len(name) <= 40 else f"{name[:37]}...")
