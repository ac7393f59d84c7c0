"""Curves of losses and metrics over training: one description for the page and for PNG."""

import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from contrast_arch.experiments.groups import Group
from contrast_arch.experiments.records import Run

# Metric -> label, and format of a value.
METRICS = {"psnr": ("PSNR (dB)", "{:.2f}"), "ssim": ("SSIM", "{:.4f}")}
AXES = {"images": "training images seen", "iterations": "iterations", "hours": "hours of training"}
# Found by search for the largest distance (OKLab) between any two under normal, protan, deutan and tritan vision, each
# at a contrast of at least 3 to the page; light and dark have the same hues in the same order.
LIGHT = ("#1862d2", "#bb8234", "#11a1b0", "#c21867", "#57188a", "#6d2010", "#885a97", "#b468fa")
DARK = ("#a3b4fe", "#fdc574", "#9ff3ec", "#f9839d", "#8661e8", "#a37456", "#c548ab", "#c977fb")
MARKERS, DASHES = "os^DvPX*", ("-", "--", ":", "-.")
WIDTH, HEIGHT = 7.9, 3.3  # of a panel in PNG, in inches
STYLE = {"font.size": 9, "text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False}
ON_LOSS = (
    "Each point is the mean of the losses that were logged in one checkpoint interval, each of a single batch. An "
    "interval that is not whole yet has no point."
)


@dataclass
class Curve:
    """Points of one network; of several seeds the mean, with their range."""

    slot: int  # number of the network, which fixes colour and marker in every figure
    label: str  # of the network
    x: dict[str, list[float]]  # axis -> coordinates; an axis of which nothing is known is left out
    y: list[float]
    low: list[float] = field(default_factory=list)  # range over seeds; empty for a single run
    high: list[float] = field(default_factory=list)


@dataclass
class Panel:
    """One pair of axes."""

    y_label: str  # with the unit
    curves: list[Curve]  # at least one
    log: bool = False  # logarithmic y axis


@dataclass
class Chart:
    """One figure, its panels one below the other."""

    name: str  # of its file, without ending
    title: str
    caption: str
    panels: list[Panel]


def datasets(groups: list[Group]) -> list[str]:
    """Validation sets of all runs."""
    return list(dict.fromkeys(name for group in groups for run in group.runs for name in run.metrics()))


def curve(slot: int, group: Group, points: Callable[[Run], dict[int, float]]) -> Curve | None:
    """The values of a group where all of its runs have seen equally many images; None without any that is finite.

    Args:
        slot: number of the network.
        points: of a run, iteration -> value.
    """
    found = [
        {run.images(i): (i, value, run.hours(i)) for i, value in points(run).items() if math.isfinite(value)}
        for run in group.runs
    ]
    common = sorted(set.intersection(*map(set, found)))
    if not common:
        return None
    # (3, runs, points); unknown hours become NaN.
    table = np.array([[of_run[images] for images in common] for of_run in found], dtype=float).transpose(2, 0, 1)
    iterations, y, hours = table.mean(1).tolist()
    x = {"images": common, "iterations": iterations} | ({"hours": hours} if np.isfinite(hours).all() else {})
    edges = (table[1].min(0).tolist(), table[1].max(0).tolist()) if len(found) > 1 else ()
    return Curve(slot, group.label, x, y, *edges)


def charts(groups: list[Group]) -> list[Chart]:
    """All figures for which there are values: loss, and one for each validation set."""

    def panel(label, points):
        curves = [found for slot, group in enumerate(groups) if (found := curve(slot, group, points))]
        return [Panel(label, curves)] if curves else []

    tags = dict.fromkeys(tag for group in groups for run in group.runs for tag in run.values)
    loss = Chart("loss", "Training loss", ON_LOSS, [])
    for tag in (tag for tag in tags if tag.startswith("losses/")):
        label = f"{tag.removeprefix('losses/')}, mean of each checkpoint interval"
        loss.panels += panel(label, lambda run, tag=tag: run.interval_means(tag))
    for found in loss.panels:
        values = [value for own in found.curves for value in own.y]
        found.log = min(values) > 0 and max(values) > 2 * min(values)
    figures = [loss]
    seeds = " Of several seeds: their mean, and their range as a band." if any(len(g.runs) > 1 for g in groups) else ""
    for dataset in datasets(groups):
        name = f"validation_{re.sub(r'[^A-Za-z0-9_-]', '_', dataset)}"
        caption = f"PSNR and SSIM of the validations on {dataset} during training.{seeds}"
        figures.append(Chart(name, f"Validation on {dataset}", caption, []))
        for metric, (label, _) in METRICS.items():
            tag = f"metrics/{dataset}/{metric}"
            figures[-1].panels += panel(f"{dataset} {label}", lambda run, tag=tag: run.values.get(tag, {}))
    return [chart for chart in figures if chart.panels]


def png(chart: Chart) -> bytes:
    """Draw a chart on white, its legend below, for papers."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    with matplotlib.rc_context(STYLE):
        figure, handles = Figure(figsize=(WIDTH, HEIGHT * len(chart.panels)), layout="constrained"), {}
        for axes, panel in zip(figure.subplots(len(chart.panels), squeeze=False)[:, 0], chart.panels, strict=True):
            for found in panel.curves:
                row, place = divmod(found.slot, len(LIGHT))
                style = {"color": LIGHT[place], "marker": MARKERS[place], "linestyle": DASHES[row % len(DASHES)]}
                (handles[found.label],) = axes.plot(found.x["images"], found.y, markersize=5, **style)
                if found.low:
                    axes.fill_between(found.x["images"], found.low, found.high, color=LIGHT[place], alpha=0.2, lw=0)
            axes.set(xlabel=AXES["images"], yscale="log" if panel.log else "linear")
            axes.set_title(panel.y_label, fontsize="medium")
            axes.grid(alpha=0.3)
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        columns = max(1, int(90 / (max(map(len, handles)) + 8)))
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()
