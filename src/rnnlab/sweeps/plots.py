"""The picture of many runs: what they measured over what they were set to, and how they learned."""

import math
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter, NullLocator

from rnnlab.sweeps.runs import MISSING, Run, better, brief, differing, headline, number, parse

LINES = 8  # that can be told apart
LISTED = 20  # colours in a legend
POINTS = 1000  # of a curve, more of which nobody sees
Curve = tuple[list[float], list[float]]


def draw(
    runs: Sequence[Run], metric: str | None = None, rows: str | None = None, columns: str | None = None
) -> Figure | None:
    """The metric over the settings that differ, a line for each of the others, and the learning curves beside it.

    **Arguments:**

    - `runs`: one or more.
    - `metric`: what is shown; `None`: what most runs are compared by.
    - `rows`, `columns`: the setting on the x-axis, and the one with a line for each value; `None`: they are chosen.

    **Returns:** `None` if there is nothing to be drawn.
    """
    measured = [name for run in runs for name in run.metrics]
    heads = [metric or headline([run], measured) for run in runs]
    finished = Counter(head for run, head in zip(runs, heads, strict=True) if run.score(head) is not None)
    metric = finished.most_common(1)[0][0] if finished else heads[0]
    notes = []
    if others := {head for head in finished if head != metric}:
        left_out = sum(head in others for head in heads)
        notes.append(f"not shown: {left_out} of {len(runs)} runs, which are compared by {', '.join(sorted(others))}")
    runs = [run for run, head in zip(runs, heads, strict=True) if head == metric]
    picture = _Picture(runs, metric, *([rows, [columns]] if rows and columns else _chosen(runs, metric)))
    name, curves = _curves(picture.runs, metric)
    scored = any(run.score(metric) is not None for run in picture.runs)
    left, right = bool(picture.x and scored), bool(curves)
    if not left and not right:
        return None
    figure = Figure(figsize=(13 if left and right else 8.5, 5), layout="constrained")
    panels = list(figure.subplots(1, left + right, squeeze=False)[0])
    if left:
        picture.draw_scores(panels[0])
    if right:
        picture.draw_curves(panels[-1], name, curves)
    picture.draw_legend(figure, panels[-1])
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    if notes := notes + picture.notes:
        figure.supxlabel("; ".join(notes), fontsize="small", color="dimgray", parse_math=False)
    return figure


class _Picture:
    """Runs by line and place on the x-axis, in the colours that both panels share.

    **Arguments:**

    - `runs`, `metric`: what is drawn.
    - `x`: the setting on the x-axis; `None` for one configuration.
    - `others`: the settings that make a line; where there is none, the places on the x-axis are told by colours.
    """

    def __init__(self, runs: Sequence[Run], metric: str, x: str | None, others: list[str]):
        self.metric, self.x, self.others = metric, x, others
        self.notes: list[str] = []
        self.best = better(metric, runs)
        lines: dict[str, list[Run]] = defaultdict(list)
        for run in runs:
            lines[self.line(run)].append(run)
        scored = [run for run in runs if run.score(metric) is not None] or runs
        values = [number(run.settings.get(x or "", MISSING)) for run in scored]
        self.numeric = x is not None and None not in values
        distinct = {(self.line(run), self.place(run)) for run in runs}
        # a search draws every setting anew: what is a line of single points is a cloud
        self.cloud = len(lines) > LINES and len(distinct) < 2 * len(lines)
        if len(lines) > LINES and not self.cloud:
            kept = sorted(lines, key=lambda line: self.rank(lines[line]))[:LINES]
            self.notes.append(f"the best {LINES} of {len(lines)} lines")
            lines = {line: found for line, found in lines.items() if line in kept}
        self.runs = [run for found in lines.values() for run in found]
        self.lines = dict(lines)
        # a name without a result has its empty place; a number without one would only stretch the axis
        shown = [run for run in self.runs if run.score(metric) is not None or not self.numeric]
        self.places = _ordered([self.place(run) for run in shown])
        self.key = self._coloured()
        self._colour()

    def line(self, run: Run) -> str:
        """What a run's line is called: `gru, hidden_size=16`."""
        return ", ".join(_called(key, run.settings.get(key, MISSING), len(self.others)) for key in self.others)

    def place(self, run: Run) -> str:
        """The value of the setting on the x-axis."""
        return run.settings.get(self.x, MISSING) if self.x else MISSING

    def rank(self, runs: list[Run]) -> tuple[bool, float]:
        """Sorts the best mean at one place first."""
        means = [statistics.fmean(scores) for scores in self.by_place(runs).values()]
        sign = -1 if self.best == "max" else 1
        return not means, min((sign * mean for mean in means), default=0.0)

    def by_place(self, runs: list[Run]) -> dict[str, list[float]]:
        """The scores of runs at each value on the x-axis, in its order."""
        found: dict[str, list[float]] = defaultdict(list)
        for run in runs:
            if (score := run.score(self.metric)) is not None:
                found[self.place(run)].append(score)
        return {place: found[place] for place in _ordered(list(found))}

    def draw_scores(self, axes: Axes) -> None:
        """Means with standard deviations, and each run as a faint dot."""
        spots = {place: float(place) if self.numeric else spot for spot, place in enumerate(self.places)}
        width = 0.0 if self.numeric or len(self.lines) < 2 else min(0.7 / len(self.lines), 0.15)
        every: list[float] = []
        for order, runs in enumerate(self.lines.values()):
            shift = width * (order - (len(self.lines) - 1) / 2)
            scored = [run for run in runs if run.score(self.metric) is not None]
            every += (scores := [run.score(self.metric) or 0.0 for run in scored])
            dots: dict[str, Any] = {"s": 40, "alpha": 0.9} if self.cloud else {"s": 14, "alpha": 0.35}
            where = [spots[self.place(run)] + shift for run in scored]
            axes.scatter(where, scores, c=[self.colour(run) for run in scored], linewidths=0, **dots)
            if self.cloud:
                continue
            means = self.by_place(runs)
            join = "-" if self.numeric else ""
            if not self.others:
                axes.plot([spots[place] for place in means], [statistics.fmean(found) for found in means.values()],
                          color="gray", linewidth=1, linestyle=join)  # fmt: skip
                join = ""
            for places in [list(means)] if self.others else [[place] for place in means]:
                example = next(run for run in runs if self.place(run) == places[0]) if places else None
                axes.errorbar(
                    [spots[place] + shift for place in places],
                    [statistics.fmean(means[place]) for place in places],
                    [statistics.stdev(means[place]) if len(means[place]) > 1 else math.nan for place in places],
                    color=self.colour(example) if example else None, marker="o", markersize=5, linestyle=join,
                    linewidth=1.5, elinewidth=1.2, capsize=3,
                )  # fmt: skip
        axes.set_ylabel(self.metric, parse_math=False)
        self._x_axis(axes, spots)
        if self.best == "min" and _spread(every) > 10:
            self._logarithmic_y(axes, every)
        counts = {len(found) for runs in self.lines.values() for found in self.by_place(runs).values()}
        told = f"mean ± standard deviation of {'up to ' * (len(counts) > 1)}{max(counts)} runs"
        axes.set_title(told if max(counts) > 1 and not self.cloud else "each dot is a run", fontsize="medium")

    def draw_curves(self, axes: Axes, name: str, curves: dict[int, Curve]) -> None:
        """A thin line for each run; at the best place of its line a bold one, where lines have several."""
        several = any(len(self.by_place(runs)) > 1 for runs in self.lines.values())
        bold = self._at_best() if self.others and self.numeric and several and not self.cloud else None
        crowd = len(curves) > 30
        values: list[float] = []
        for index, (steps, found) in sorted(curves.items(), key=lambda item: bold is not None and item[0] in bold):
            values += found
            strong = index in bold if bold is not None else not crowd
            axes.plot(
                steps, found, color=self.colour(self.runs[index]), linewidth=1.3 if strong else 0.8,
                alpha=0.9 if strong else 0.3 if bold is not None else 0.5, zorder=3 if strong else 2,
                marker="." if len(steps) == 1 else None,
            )  # fmt: skip
        axes.set_ylabel(name, parse_math=False)
        if (self.best == "min" or name.endswith("loss")) and _spread(values) > 10:
            self._logarithmic_y(axes, values)
        if len(self.runs) == 1:
            self._draw_training(axes, name)
        axes.set_xlabel("step")
        told = (
            f"strong: the best {str(self.x).rpartition('.')[2]} of each" if bold is not None else "each line is a run"
        )
        axes.set_title(f"{name}, {told}" if len(self.runs) > 1 else "", fontsize="medium", parse_math=False)

    def _draw_training(self, axes: Axes, name: str) -> None:
        """Behind the only curve, what the run was trained on."""
        training = name.replace("val/", "train/", 1)
        if training != name and (curve := _points(_read_curves(self.runs[0]).get(training))):
            axes.plot(*curve, color="gray", linewidth=0.8, alpha=0.7, zorder=1, label=training)
            axes.lines[0].set_label(name)
            axes.set_ylabel(name.partition("/")[2], parse_math=False)
            axes.legend(frameon=False)

    def draw_legend(self, figure: Figure, axes: Axes) -> None:
        """What the colours mean: a list of them, or a bar."""
        if self.key is None:
            return
        title = ", ".join(self.others) if self.others and not self.cloud else self.key
        if self.norm is not None:
            bar = figure.colorbar(matplotlib.cm.ScalarMappable(self.norm, matplotlib.colormaps["viridis"]), ax=axes)
            bar.set_label(title, parse_math=False)
            if isinstance(self.norm, LogNorm):
                _plain(bar.ax.yaxis)
            return
        labels = list(self.colours)
        step = math.ceil(len(labels) / LISTED)
        handles = [Line2D([], [], color=self.colours[label], marker="o", markersize=5) for label in labels[::step]]
        legend = figure.legend(
            handles, [brief(label) for label in labels[::step]], loc="outside right upper", title=brief(title),
            fontsize="small", title_fontsize="small", frameon=False,
        )  # fmt: skip
        for text in (*legend.get_texts(), legend.get_title()):
            text.set_parse_math(False)

    def colour(self, run: Run) -> Any:
        """The colour of a run in both panels."""
        if self.norm is not None:
            value = number(run.settings.get(self.key or "", MISSING))
            return "lightgray" if value is None else matplotlib.colormaps["viridis"](self.norm(value))
        return self.colours.get(self._label(run), "tab:blue")

    def _label(self, run: Run) -> str:
        """The entry of the legend that a run belongs to."""
        if self.key is None:
            return MISSING
        return self.line(run) if self.others and not self.cloud else run.settings.get(self.key, MISSING)

    def _coloured(self) -> str | None:
        """The setting that colours tell apart: of a cloud choices before numbers."""
        keys = [key for key in self.others if len({run.settings.get(key) for run in self.runs}) > 1] or self.others
        if not keys:
            return self.x
        few = [key for key in keys if len({run.settings.get(key) for run in self.runs}) <= LINES]
        return few[0] if self.cloud and few else keys[0]

    def _colour(self) -> None:
        self.norm: Normalize | None = None
        labels = _ordered([self._label(run) for run in self.runs])
        single = not self.others or self.cloud or len(self.others) == 1
        values = [value for value in map(number, {run.settings.get(self.key or "", MISSING) for run in self.runs})
                  if value is not None]  # fmt: skip
        ordered = self.key is not None and single and len(values) == len(labels)
        if ordered and len(values) > LINES:
            self.norm = (LogNorm if _logarithmic(values) else Normalize)(min(values), max(values))
        if ordered and len(labels) > 2:
            shades = matplotlib.colormaps["viridis"]
            self.colours = {label: shades(0.92 * spot / (len(labels) - 1)) for spot, label in enumerate(labels)}
        else:
            shades = matplotlib.colormaps["tab20"]  # ten strong colours, a pale one behind each
            self.colours = {label: shades(2 * spot % 20 + spot // 10 % 2) for spot, label in enumerate(labels)}

    def _at_best(self) -> set[int]:
        """The runs at the place where the mean of their line is best."""
        sign = -1 if self.best == "max" else 1
        found = set()
        for line, runs in self.lines.items():
            means = {place: sign * statistics.fmean(scores) for place, scores in self.by_place(runs).items()}
            if means:
                best = min(means, key=lambda place: means[place])
                found |= {index for index, run in enumerate(self.runs)
                          if self.line(run) == line and self.place(run) == best}  # fmt: skip
        return found

    def _logarithmic_y(self, axes: Axes, values: Sequence[float]) -> None:
        """Leaves the peaks of what exploded out of sight, lest all else be one line."""
        axes.set_yscale("log")
        _plain(axes.yaxis)
        ordered = sorted(values)
        top = 10 * ordered[int(0.75 * (len(ordered) - 1))]
        if ordered[-1] > 100 * top:
            axes.set_ylim(0.8 * ordered[0], top)
            self.notes.append(f"{axes.get_ylabel()} is cut off at {top:.2g}, its largest is {ordered[-1]:.2g}")

    def _x_axis(self, axes: Axes, spots: dict[str, float]) -> None:
        folder = "".join(self.places[0].rpartition("/")[:2])  # memory/ of memory/latch, memory/parity
        if not all(place.startswith(folder) for place in self.places):
            folder = ""
        axes.set_xlabel(f"{self.x}={folder}..." if folder else str(self.x), parse_math=False)
        names = [brief(place.removeprefix(folder)) or "none" for place in self.places]
        if self.numeric and _logarithmic(list(spots.values())):
            axes.set_xscale("log")
            _plain(axes.xaxis)
        if not self.numeric:
            long = sum(len(name) + 2 for name in names) > 60
            step = max(1, math.ceil(len(names) / 40))
            axes.set_xlim(-0.5, len(names) - 0.5)
            axes.set_xticks(range(0, len(names), step), names[::step], rotation=35 if long else 0,
                            ha="right" if long else "center", rotation_mode="anchor", parse_math=False)  # fmt: skip
        elif len(names) <= LINES and _apart(list(spots.values())):
            axes.set_xticks(list(spots.values()), names)
            axes.xaxis.set_minor_locator(NullLocator())


def _chosen(runs: Sequence[Run], metric: str) -> tuple[str | None, list[str]]:
    """The setting for the x-axis, numbers with many values before names, and those that make the lines."""
    keys = differing(runs)
    scored = [run for run in runs if run.score(metric) is not None] or runs

    def rank(key: str) -> tuple[bool, int]:
        values = [run.settings.get(key, MISSING) for run in scored]
        return all(number(value) is not None for value in values), len(set(values))

    x = max(keys, key=rank, default=None)
    return x, [key for key in keys if key != x]


def _curves(runs: Sequence[Run], metric: str) -> tuple[str, dict[int, Curve]]:
    """The name of the curves that most of these runs have, of those that belong to the metric, and its points."""
    read = {index: content for index, run in enumerate(runs) if (content := _read_curves(run))}
    monitor = Counter(run.monitor for run in runs).most_common(1)[0][0]
    wanted = dict.fromkeys([metric.replace("test/", "val/", 1), monitor, "val/loss", "train/loss"])
    found = {
        name: {index: points for index, content in read.items() if (points := _points(content.get(name)))}
        for name in wanted
    }
    # a single validation is no curve
    drawn = [name for name in wanted if any(len(steps) > 1 for steps, _ in found[name].values())]
    name = next(iter([*drawn, *filter(found.get, wanted)]), "")
    return name, found.get(name, {})


def _read_curves(run: Run) -> dict[str, Any]:
    path = run.folder / "curves.json"
    try:
        content = parse(path) if path.is_file() else {}
    except (OSError, ValueError) as error:
        print(f"{run.folder}: no curves, {error} ({type(error).__name__}).", file=sys.stderr)
        return {}
    return content if isinstance(content, dict) else {}


def _points(content: Any) -> Curve | None:
    """Steps and values, without what is no number."""
    pairs = [pair for pair in content if isinstance(pair, list) and len(pair) == 2] if isinstance(content, list) else []
    good = [pair for pair in pairs if all(isinstance(x, int | float) and math.isfinite(x) for x in pair)]
    good = good[:: 1 + len(good) // POINTS]
    return ([step for step, _ in good], [value for _, value in good]) if good else None


def _called(key: str, text: str, keys: int) -> str:
    """`gru` of a group or a line's only setting, else `hidden_size=16`."""
    text = brief(text) or "none"
    return text if keys == 1 or "." not in key else f"{key.rpartition('.')[2]}={text}"


def _ordered(texts: Sequence[str]) -> list[str]:
    """Each once: numbers by size, names as they come."""
    once = list(dict.fromkeys(texts))
    values = {text: number(text) for text in once}
    return sorted(once, key=lambda text: values[text] or 0.0) if None not in values.values() else once


def _spread(values: Sequence[float]) -> float:
    """How many times the smallest the largest is; 1 if that says nothing."""
    return max(values) / min(values) if values and min(values) > 0 else 1.0


def _logarithmic(values: Sequence[float]) -> bool:
    """Whether values are ten times as large as others or more, or each a multiple of the one before."""
    once = sorted(set(values))
    if len(once) < 2 or once[0] <= 0:
        return False
    ratios = [large / small for small, large in pairwise(once)]
    return _spread(once) >= 10 or (len(ratios) > 1 and max(ratios) < 1.05 * min(ratios) and min(ratios) > 1.3)


def _apart(values: Sequence[float]) -> bool:
    """Whether there is room for a label at each."""
    scaled = sorted(map(math.log, values) if _logarithmic(values) else values)
    gaps = [after - before for before, after in pairwise(scaled)]
    return not gaps or min(gaps) > 0.08 * (scaled[-1] - scaled[0])


class _Plain(LogFormatter):
    """0.06 instead of a power of ten."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def _plain(axis: Any) -> None:
    axis.set_major_formatter(_Plain())
    axis.set_minor_formatter(_Plain(minor_thresholds=(1.5, 0.5)))
