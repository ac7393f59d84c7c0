"""Curves over training images, and best PSNR against parameters, before anything is drawn."""

import math
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from contrast_arch.experiments.groups import Group, common_points
from contrast_arch.experiments.runs import Run

METRICS = {"psnr": ("PSNR (dB)", "{:.2f}".format), "ssim": ("SSIM", "{:.4f}".format)}
AXES = {"images": "training images seen", "iterations": "iterations", "hours": "hours of training"}


@dataclass
class Curve:
    """Points of one network; of several seeds the mean, with their range.

    Attributes:
        slot: number of the network, which fixes colour and marker in every figure.
        label: of the network.
        x: axis -> coordinates; an axis of which nothing is known is left out.
        y: values.
        low, high: range over seeds; empty for a single run.
    """

    slot: int
    label: str
    x: dict[str, list[float]]
    y: list[float]
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)


@dataclass
class Panel:
    """One pair of axes.

    Attributes:
        y_label: with the unit.
        curves: at least one.
        value: formats a y for a reader.
        log: True for a logarithmic y axis.
    """

    y_label: str
    curves: list[Curve]
    value: Callable[[float], str]
    log: bool = False


@dataclass
class Chart:
    """One figure.

    Attributes:
        name: of its file, without ending.
        title: heading.
        caption: what it shows and how that was computed.
        axes: axis -> label; the first one is drawn in PNG.
        panels: one below the other.
        step: distance of the marks on the axis of images, or a divisor of it; None if any will do.
        scatter: True if each curve is one point.
    """

    name: str
    title: str
    caption: str
    axes: dict[str, str]
    panels: list[Panel]
    step: int | None = None
    scatter: bool = False

    @property
    def description(self) -> str:
        """The figure in words: the last value of every curve, highest first."""
        axis, label = next(iter(self.axes.items()))
        texts = []
        for panel in self.panels:
            curves = sorted(panel.curves, key=lambda curve: -curve.y[-1])
            ends = "; ".join(f"{c.label} {panel.value(c.y[-1])} at {c.x[axis][-1]:,.0f}" for c in curves)
            texts.append(f"{panel.y_label}: {ends}.")
        return f"{self.title}, over {label}. {' '.join(texts)}"


def datasets(groups: list[Group]) -> list[str]:
    """Validation sets of all runs."""
    return list(dict.fromkeys(name for group in groups for run in group.runs for name in run.metrics()))


def measured(groups: list[Group]) -> list[tuple[str, str]]:
    """(validation set, metric) of all that any run has, of :data:`METRICS`."""
    tags = {tag for group in groups for run in group.runs for tag in run.values}
    return [(name, metric) for name in datasets(groups) for metric in METRICS if f"metrics/{name}/{metric}" in tags]


def charts(groups: list[Group]) -> list[Chart]:
    """All figures for which there are values: loss, one for each validation set, PSNR against parameters."""
    sets = datasets(groups)
    found = [_loss_chart(groups), *(_validation_chart(groups, name) for name in sets), _parameter_chart(groups, sets)]
    return [chart for chart in found if chart.panels]


def curve(slot: int, group: Group, points: Callable[[Run], dict[int, float]]) -> Curve | None:
    """The values of a group over training images; None if no finite value is common to its runs.

    Args:
        slot: number of the network.
        points: of a run, iteration -> value.
    """
    values = [{i: v for i, v in points(run).items() if math.isfinite(v)} for run in group.runs]
    common = common_points(group.runs, dict(zip(group.runs, values, strict=True)).__getitem__)
    if not common:
        return None
    columns = [[found[i] for found, i in zip(values, at, strict=True)] for at in common.values()]
    hours = [[run.hours(i) for run, i in zip(group.runs, at, strict=True)] for at in common.values()]
    x = {"images": list(common), "iterations": [statistics.fmean(at) for at in common.values()]}
    if all(hour is not None for column in hours for hour in column):
        x["hours"] = [statistics.fmean(column) for column in hours]
    low, high = ([*map(edge, columns)] if len(group.runs) > 1 else [] for edge in (min, max))
    return Curve(slot, group.label, x, [*map(statistics.fmean, columns)], low, high)


def _curves(groups, points):
    return [found for slot, group in enumerate(groups) if (found := curve(slot, group, points))]


def _loss_chart(groups):
    tags = sorted({tag for group in groups for run in group.runs for tag in run.values if tag.startswith("losses/")})
    # The loss that is trained for comes first; others follow in panels of their own.
    panels = [_loss_panel(groups, tag) for tag in sorted(tags, key=lambda tag: tag != "losses/l_pix")]
    return Chart(
        "loss",
        "Training loss",
        "Each point is the mean of the logged losses of one checkpoint interval, drawn at the end of the interval; a "
        "logged loss is that of a single batch. An interval that is not whole yet has no point.",
        AXES,
        [panel for panel in panels if panel.curves],
        _step(groups),
    )


def _loss_panel(groups, tag):
    curves = _curves(groups, lambda run: run.interval_means(tag))
    values = [y for found in curves for y in found.y]
    log = bool(values) and min(values) > 0 and max(values) > 2 * min(values)
    return Panel(f"{tag.removeprefix('losses/')}, mean of each checkpoint interval", curves, "{:.3g}".format, log)


def _validation_chart(groups, dataset):
    panels = []
    for metric, (label, value) in METRICS.items():
        tag = f"metrics/{dataset}/{metric}"
        panels.append(Panel(f"{dataset} {label}", _curves(groups, lambda run, tag=tag: run.values.get(tag, {})), value))
    return Chart(
        f"validation_{re.sub(r'[^A-Za-z0-9_-]', '_', dataset)}",
        f"Validation on {dataset}",
        f"PSNR and SSIM of the validations on {dataset} during training."
        + (" Of several seeds: their mean, and their range as a band." if _seeds(groups) else ""),
        AXES,
        [panel for panel in panels if panel.curves],
        _step(groups),
    )


def _seeds(groups):
    return any(len(group.runs) > 1 for group in groups)


def _parameter_chart(groups, sets):
    panels = []
    for dataset in sets:
        curves = []
        for slot, group in enumerate(groups):
            best = [found[0][1] for run in group.runs if (found := run.best_and_last(dataset, "psnr"))]
            if best and group.runs[0].parameters:
                low, high = ([edge(best)] if len(best) > 1 else [] for edge in (min, max))
                x = {"parameters": [group.runs[0].parameters]}
                curves.append(Curve(slot, group.label, x, [statistics.fmean(best)], low, high))
        panels.append(Panel(f"{dataset} best PSNR (dB)", curves, METRICS["psnr"][1]))
    return Chart(
        "parameters",
        "PSNR against parameters",
        "The best PSNR of all validations so far, which for runs of different length is after different numbers of "
        "images.",
        {"parameters": "parameters"},
        [panel for panel in panels if panel.curves],
        scatter=True,
    )


def _step(groups):
    """The checkpoint interval in images if it is the same for all."""
    runs = [run for group in groups for run in group.runs if run.interval and run.images_per_iteration]
    steps = {run.interval * run.images_per_iteration for run in runs}
    return steps.pop() if len(steps) == 1 else None
