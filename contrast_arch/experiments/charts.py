"""Curves of losses and metrics over training: one description for the page and for PNG."""

import io
import math
import re
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from contrast_arch.experiments.groups import Group, common_points
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


class Curve(NamedTuple):
    """Points of one network; of several seeds the mean, with their range."""

    slot: int  # number of the network, which fixes colour and marker in every figure
    label: str  # of the network
    x: dict[str, list[float]]  # axis -> coordinates; an axis of which nothing is known is left out
    y: list[float]
    low: Sequence[float] = ()  # range over seeds; empty for a single run
    high: Sequence[float] = ()


class Panel(NamedTuple):
    """One pair of axes."""

    y_label: str  # with the unit
    curves: list[Curve]  # at least one
    log: bool = False  # logarithmic y axis


class Chart(NamedTuple):
    """One figure."""

    name: str  # of its file, without ending
    title: str
    caption: str
    panels: list[Panel]  # one below the other


def datasets(groups: list[Group]) -> list[str]:
    """Validation sets of all runs."""
    return list(dict.fromkeys(name for group in groups for run in group.runs for name in run.metrics()))


def measured(groups: list[Group]) -> list[tuple[str, str]]:
    """(validation set, metric) of all that any run has, of :data:`METRICS`."""
    tags = {tag for group in groups for run in group.runs for tag in run.values}
    return [(name, metric) for name in datasets(groups) for metric in METRICS if f"metrics/{name}/{metric}" in tags]


def curve(slot: int, group: Group, points: Callable[[Run], dict[int, float]]) -> Curve | None:
    """The values of a group over training images; None if no finite value is common to its runs.

    Args:
        slot: number of the network.
        points: of a run, iteration -> value.
    """
    values = {run: {i: v for i, v in points(run).items() if math.isfinite(v)} for run in group.runs}
    common = common_points(group.runs, values.__getitem__)
    if not common:
        return None
    pairs = [list(zip(group.runs, at, strict=True)) for at in common.values()]
    columns = [[values[run][i] for run, i in of_point] for of_point in pairs]
    hours = [[run.hours(i) for run, i in of_point] for of_point in pairs]
    x = {"images": list(common), "iterations": [statistics.fmean(at) for at in common.values()]}
    if all(hour is not None for column in hours for hour in column):
        x["hours"] = [statistics.fmean(column) for column in hours]
    low, high = ([*map(edge, columns)] if len(group.runs) > 1 else [] for edge in (min, max))
    return Curve(slot, group.label, x, [*map(statistics.fmean, columns)], low, high)


def charts(groups: list[Group]) -> list[Chart]:
    """All figures for which there are values: loss, and one for each validation set."""
    losses = {tag for group in groups for run in group.runs for tag in run.values if tag.startswith("losses/")}
    # The loss that is trained for comes first; others follow in panels of their own.
    losses = sorted(losses, key=lambda tag: (tag != "losses/l_pix", tag))
    found = [Chart("loss", "Training loss", ON_LOSS, [_loss_panel(groups, tag) for tag in losses])]
    seeds = " Of several seeds: their mean, and their range as a band." if any(len(g.runs) > 1 for g in groups) else ""
    for dataset in datasets(groups):
        panels = []
        for metric, (label, _) in METRICS.items():
            curves = _curves(groups, lambda run, tag=f"metrics/{dataset}/{metric}": run.values.get(tag, {}))
            panels.append(Panel(f"{dataset} {label}", curves))
        name = f"validation_{re.sub(r'[^A-Za-z0-9_-]', '_', dataset)}"
        caption = f"PSNR and SSIM of the validations on {dataset} during training.{seeds}"
        found.append(Chart(name, f"Validation on {dataset}", caption, panels))
    found = [chart._replace(panels=[panel for panel in chart.panels if panel.curves]) for chart in found]
    return [chart for chart in found if chart.panels]


def _curves(groups, points):
    return [found for slot, group in enumerate(groups) if (found := curve(slot, group, points))]


def _loss_panel(groups, tag):
    curves = _curves(groups, lambda run: run.interval_means(tag))
    values = [y for found in curves for y in found.y]
    log = bool(values) and min(values) > 0 and max(values) > 2 * min(values)
    return Panel(f"{tag.removeprefix('losses/')}, mean of each checkpoint interval", curves, log)


def png(chart: Chart) -> bytes:
    """Draw a chart on white, its legend below, for papers."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT * len(chart.panels)), layout="constrained")
        handles = {}
        for axes, panel in zip(figure.subplots(len(chart.panels), squeeze=False)[:, 0], chart.panels, strict=True):
            for found in panel.curves:
                handles[found.label] = _draw(axes, found)
            axes.set(xlabel=AXES["images"], yscale="log" if panel.log else "linear")
            axes.set_title(panel.y_label, fontsize="medium")
            axes.grid(alpha=0.3)
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        columns = max(1, int(90 / (max(map(len, handles)) + 8)))
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()


def _draw(axes, found):
    """Draw a curve, with the range over seeds, and return its handle for the legend."""
    color = LIGHT[found.slot % len(LIGHT)]
    style = {"color": color, "marker": MARKERS[found.slot % len(MARKERS)], "markersize": 5}
    style["linestyle"] = DASHES[found.slot // len(LIGHT) % len(DASHES)]
    x = found.x["images"]
    if found.low:
        axes.fill_between(x, found.low, found.high, color=color, alpha=0.2, linewidth=0)
    return axes.plot(x, found.y, **style)[0]
