"""Curves of losses and metrics over training: one description for the page and for PNG.

A chart is {"name" of its file without ending, "title", "caption", "panels": one below the other}; a panel {"y_label",
"log": logarithmic y axis, "curves"}; a curve {"slot": number of the network, which fixes colour and marker, "label",
"x": axis -> coordinates, where they are known, "y", "low" and "high": range over seeds, empty for a single run}.
"""

import io
import math
import re
from collections.abc import Callable

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogFormatter

from contrast_arch.experiments.records import METRICS, Group, Run, datasets

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


def _panel(groups: list[Group], label: str, points: Callable[[Run], dict[int, float]]) -> list[dict]:
    """A panel of each run's points (iteration -> value) after equally many images; none without a finite value."""
    curves = []
    for slot, group in enumerate(groups):
        found = [
            {run.images(i): (i, value, run.hours(i)) for i, value in points(run).items() if math.isfinite(value)}
            for run in group.runs
        ]
        if not (common := sorted(set.intersection(*map(set, found)))):
            continue
        # (3, runs, points); unknown hours become NaN.
        table = np.array([[of_run[images] for images in common] for of_run in found], dtype=float).transpose(2, 0, 1)
        iterations, y, hours = table.mean(1).tolist()
        x = {"images": common, "iterations": iterations} | ({"hours": hours} if np.isfinite(hours).all() else {})
        low, high = (table[1].min(0).tolist(), table[1].max(0).tolist()) if len(found) > 1 else ([], [])
        curves.append({"slot": slot, "label": group.label, "x": x, "y": y, "low": low, "high": high})
    return [{"y_label": label, "curves": curves, "log": False}] if curves else []


def charts(groups: list[Group]) -> list[dict]:
    """All figures for which there are values: loss, and one for each validation set."""
    tags = dict.fromkeys(tag for group in groups for run in group.runs for tag in run.values)
    losses = []
    for tag in (tag for tag in tags if tag.startswith("losses/")):
        label = f"{tag.removeprefix('losses/')}, mean of each checkpoint interval"
        losses += _panel(groups, label, lambda run, tag=tag: run.interval_means(tag))
    for panel in losses:
        values = [value for curve in panel["curves"] for value in curve["y"]]
        panel["log"] = min(values) > 0 and max(values) > 2 * min(values)
    figures = [{"name": "loss", "title": "Training loss", "caption": ON_LOSS, "panels": losses}]
    seeds = " Of several seeds: their mean, and their range as a band." if any(len(g.runs) > 1 for g in groups) else ""
    for dataset in datasets(groups):
        panels = []
        for metric, (label, _) in METRICS.items():
            tag = f"metrics/{dataset}/{metric}"
            panels += _panel(groups, f"{dataset} {label}", lambda run, tag=tag: run.values.get(tag, {}))
        name, title = f"validation_{re.sub(r'[^A-Za-z0-9_-]', '_', dataset)}", f"Validation on {dataset}"
        caption = f"PSNR and SSIM of the validations on {dataset} during training.{seeds}"
        figures.append({"name": name, "title": title, "caption": caption, "panels": panels})
    return [chart for chart in figures if chart["panels"]]


@matplotlib.rc_context(STYLE)
def png(chart: dict) -> bytes:
    """Draw a chart on white, its legend below, for papers."""
    panels, handles = chart["panels"], {}
    figure = Figure(figsize=(WIDTH, HEIGHT * len(panels)), layout="constrained")
    for axes, panel in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        for curve in panel["curves"]:
            row, place = divmod(curve["slot"], len(LIGHT))
            style = {"color": LIGHT[place], "marker": MARKERS[place], "linestyle": DASHES[row % len(DASHES)]}
            x = curve["x"]["images"]
            (handles[curve["label"]],) = axes.plot(x, curve["y"], markersize=5, **style)
            if curve["low"]:
                axes.fill_between(x, curve["low"], curve["high"], color=LIGHT[place], alpha=0.2, linewidth=0)
        axes.set(xlabel=AXES["images"], yscale="log" if panel["log"] else "linear")
        axes.set_title(panel["y_label"], fontsize="medium")
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        if panel["log"]:
            # The default writes formulas, which STYLE, for the names of networks, shows as they stand.
            axes.yaxis.set_major_formatter(LogFormatter())
            axes.yaxis.set_minor_formatter(LogFormatter())
    columns = max(1, int(90 / (max(map(len, handles)) + 8)))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()
