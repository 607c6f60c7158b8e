"""The figure of `GradientFlow`: gradient norms over the steps of a sequence and over training."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Traces = dict[str, tuple[list[int], np.ndarray]]  # state and layer -> optimizer steps, norms (probes, time)

SMALLEST = 1e-300  # what smaller norms are drawn as
MAX_DECADES = 25  # powers of ten below the largest norm, unless all norms of an optimizer step are smaller
MAX_ROWS = 8  # states in a figure
MAX_LINES = 6  # optimizer steps in a chart of lines


def plot(traces: Traces) -> Figure:
    """For each state a chart of the norm over time at several optimizer steps, and a heat map over all of them."""
    shown = list(traces.items())[:MAX_ROWS]
    figure = Figure(figsize=(10, 0.9 + 3.4 * len(shown)), layout="constrained")
    figure.suptitle(
        "Norm of the gradient of the loss with respect to the state at step t of a sequence:\n"
        "low at the left, the gradient has vanished on its way back; high, it has exploded",
        fontsize="medium",
    )
    for (name, (probes, norms)), (lines, heat_map) in zip(
        shown, figure.subplots(len(shown), 2, squeeze=False), strict=True
    ):
        state, _, layer = name.partition(" ")
        steps = np.array(probes)
        levels = np.ma.masked_invalid(np.log10(np.clip(norms, SMALLEST, None)))
        limits = _limits(levels)
        time_label = f"step t{', counted from the end of the sequence' if 'backward' in layer else ' of the sequence'}"
        label = rf"$\log_{{10}} \Vert \partial L / \partial {state}_t \Vert$"
        _plot_lines(lines, steps, levels, f"{layer}{layer and ': '}at optimizer step")
        margin = 0.05 * (limits[1] - limits[0]) + 0.1
        lines.set(xlabel=time_label, ylabel=label, ylim=(limits[0] - margin, limits[1] + margin))
        half = (steps[-1] - steps[0]) / max(1, len(steps) - 1) / 2 or 0.5
        image = heat_map.imshow(
            levels.T,
            extent=(steps[0] - half, steps[-1] + half, 0.5, levels.shape[1] + 0.5),
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            cmap=colormaps["magma"].with_extremes(bad="tab:green"),
            vmin=limits[0],
            vmax=limits[1],
        )
        heat_map.set(xlabel="optimizer step (green: not finite)", ylabel=time_label)
        heat_map.xaxis.set_major_locator(MaxNLocator(5, integer=True))  # optimizer steps have many digits
        figure.colorbar(image, ax=heat_map, label=label)
    return figure


def _limits(levels: np.ma.MaskedArray) -> tuple[float, float]:
    """The range of levels that is drawn, in which something of every optimizer step is visible."""
    if not levels.count():
        return -1.0, 0.0
    top = levels.max()
    return max(levels.min(), min(top - MAX_DECADES, levels.max(axis=1).min() - 2)), top


def _plot_lines(axes: Axes, steps: np.ndarray, levels: np.ma.MaskedArray, title: str) -> None:
    time = np.arange(1, levels.shape[1] + 1)
    for row in np.unique(np.linspace(0, len(steps) - 1, MAX_LINES).round().astype(int)):
        color = colormaps["viridis"](0.9 * row / max(1, len(steps) - 1))
        axes.plot(time, levels[row], color=color, label=f"{steps[row]:,}", linewidth=1.4)
    axes.grid(alpha=0.3)
    axes.legend(title=title, loc="lower left", bbox_to_anchor=(0, 1), ncols=MAX_LINES, frameon=False, fontsize="small")
