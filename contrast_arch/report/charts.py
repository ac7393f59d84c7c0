"""What the figures show, before anything is drawn: curves over images, and best PSNR against parameters."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from contrast_arch.report.records import Experiment

METRICS = {"psnr": ("PSNR (dB)", "{:.2f}"), "ssim": ("SSIM", "{:.4f}")}


@dataclass
class Curve:
    """Points of one experiment.

    Attributes:
        slot: number of the experiment, which fixes colour and marker in every figure.
        label: of the experiment.
        points: (x, y), by x.
    """

    slot: int
    label: str
    points: list[tuple[float, float]]


@dataclass
class Panel:
    """One pair of axes.

    Attributes:
        title: above it, before the label; "" for none.
        y_label: with the unit.
        curves: at least one.
        value: formats a y for a reader.
        log: whether the y axis is logarithmic.
    """

    title: str
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
        x_label: the same for all panels.
        panels: one below the other.
        step: distance of the marks on the x axis, or a divisor of it; None where any will do.
        scatter: whether each curve is one point that carries its own label.
    """

    name: str
    title: str
    caption: str
    x_label: str
    panels: list[Panel]
    step: int | None = None
    scatter: bool = False

    @property
    def description(self) -> str:
        """The figure in words: the last value of every curve, highest first."""
        texts = []
        for panel in self.panels:
            curves = sorted(panel.curves, key=lambda curve: -curve.points[-1][1])
            ends = "; ".join(f"{c.label} {panel.value(c.points[-1][1])} at {c.points[-1][0]:,.0f}" for c in curves)
            texts.append(f"{' '.join(filter(None, (panel.title, panel.y_label)))}: {ends}.")
        return f"{self.title}, over {self.x_label}. {' '.join(texts)}"


def charts(experiments: list[Experiment]) -> list[Chart]:
    """All figures for which there are values: loss, one for each validation set, PSNR against parameters."""
    sets = list(dict.fromkeys(name for experiment in experiments for name in experiment.metrics()))
    found = [_loss_chart(experiments), *(_validation_chart(experiments, name) for name in sets)]
    found.append(_parameter_chart(experiments, sets))
    return [chart for chart in found if chart.panels]


def _loss_chart(experiments):
    tags = sorted({tag for e in experiments for tag in e.values if tag.startswith("losses/")})
    # The loss that is trained for comes first; others follow in panels of their own.
    panels = [_loss_panel(experiments, tag) for tag in sorted(tags, key=lambda tag: tag != "losses/l_pix")]
    return Chart(
        "loss",
        "Training loss",
        "Each point is the mean of the losses that BasicSR logged in one checkpoint interval, drawn at the end of the "
        "interval; every logged loss is that of a single batch. An interval that is not whole yet has no point.",
        "training images seen",
        [panel for panel in panels if panel.curves],
        _step(experiments),
    )


def _loss_panel(experiments, tag):
    curves = _curves(experiments, lambda experiment: experiment.interval_means(tag))
    values = [y for curve in curves for _, y in curve.points]
    log = bool(values) and min(values) > 0 and max(values) > 2 * min(values)
    return Panel("", f"{tag.removeprefix('losses/')}, mean of each checkpoint interval", curves, "{:.3g}".format, log)


def _validation_chart(experiments, dataset):
    panels = []
    for metric, (label, value) in METRICS.items():
        tag = f"metrics/{dataset}/{metric}"
        curves = _curves(experiments, lambda experiment, tag=tag: experiment.values.get(tag, {}))
        panels.append(Panel(dataset, label, curves, value.format))
    return Chart(
        f"validation_{re.sub(r'[^A-Za-z0-9_-]', '_', dataset)}",
        f"Validation on {dataset}",
        f"PSNR and SSIM of the validations on {dataset} during training.",
        "training images seen",
        [panel for panel in panels if panel.curves],
        _step(experiments),
    )


def _parameter_chart(experiments, sets):
    panels = []
    for dataset in sets:
        curves = []
        for slot, experiment in enumerate(experiments):
            best = best_and_last(experiment, dataset, "psnr")
            if best and experiment.parameters:
                curves.append(Curve(slot, experiment.label, [(experiment.parameters, best[0][1])]))
        panels.append(Panel(dataset, "best PSNR (dB)", curves, METRICS["psnr"][1].format))
    return Chart(
        "parameters",
        "PSNR against parameters",
        "The best PSNR of all validations so far, which for runs of different length is after different numbers of "
        "images.",
        "parameters",
        [panel for panel in panels if panel.curves],
        scatter=True,
    )


def best_and_last(experiment: Experiment, dataset: str, metric: str) -> tuple | None:
    """((iteration, value) of the highest value, (iteration, value) of the last); None where there is no finite one.

    The earliest of equal values is the best.
    """
    points = [(i, v) for i, v in experiment.values.get(f"metrics/{dataset}/{metric}", {}).items() if math.isfinite(v)]
    return (max(points, key=lambda point: (point[1], -point[0])), max(points)) if points else None


def _curves(experiments, values):
    """Curves of what ``values`` gives of an experiment, over images; points that are not finite left out."""
    curves = []
    for slot, experiment in enumerate(experiments):
        points = [(experiment.images(i), v) for i, v in sorted(values(experiment).items()) if math.isfinite(v)]
        if points:
            curves.append(Curve(slot, experiment.label, points))
    return curves


def _step(experiments):
    """The checkpoint interval in images where it is the same for all."""
    steps = {e.interval * e.images_per_iteration for e in experiments if e.interval and e.images_per_iteration}
    return steps.pop() if len(steps) == 1 else None
