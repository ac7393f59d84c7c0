"""Differences between networks, image by image, with their intervals."""

import functools
import itertools
from dataclasses import dataclass

import numpy as np

from contrast_arch.experiments.bootstrap import Interval, difference_interval
from contrast_arch.experiments.charts import METRICS, datasets
from contrast_arch.experiments.groups import Group, common_points
from contrast_arch.experiments.validation_images import image_values, measured_iterations


@dataclass
class Difference:
    """Two networks on a validation set, after the same number of training images.

    Attributes:
        dataset: name of the validation set.
        a, b: the networks.
        images: training images that each run has seen.
        pictures: number of validation images.
        intervals: metric -> mean of ``a`` minus mean of ``b``.
    """

    dataset: str
    a: Group
    b: Group
    images: int
    pictures: int
    intervals: dict[str, Interval]


def pairwise(groups: list[Group]) -> tuple[list[Difference], list[str]]:
    """Compare each pair of networks on each validation set.

    A pair is compared at the latest validation after equally many images of which all of its runs have values of each
    image.

    Returns:
        The differences, and a note on pairs without any.
    """
    found, missing = [], []
    iterations, values = functools.cache(measured_iterations), functools.cache(image_values)
    for dataset in datasets(groups):
        validated = [group for group in groups if any(dataset in run.metrics() for run in group.runs)]
        for a, b in itertools.combinations(validated, 2):
            try:
                difference = _compare(dataset, a, b, iterations, values)
            except ImportError as error:
                return [], [f"no differences by image: measuring pictures needs {error.name}, which is not installed"]
            if difference:
                found.append(difference)
            else:
                missing.append(f"{a.label} and {b.label} on {dataset}")
    if not missing:
        return found, []
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return found, [
        f"no difference by image of {missing[0]}{more}: no validation of both after equally many training images has "
        "the metrics of each image; contrast-train records them, and val: save_img: true keeps pictures to measure"
    ]


def _compare(dataset, a, b, iterations, values):
    runs = a.runs + b.runs
    points = common_points(runs, lambda run: iterations(run, dataset))
    if not points:
        return None
    images = max(points)
    measured = [values(run, dataset, iteration) for run, iteration in zip(runs, points[images], strict=True)]
    names = [name for name in measured[0] if all(name in of_run for of_run in measured)]
    intervals = {}
    for metric in METRICS:
        if names and all(metric in of_run[name] for of_run in measured for name in names):
            table = np.array([[of_run[name][metric] for name in names] for of_run in measured])
            if np.isfinite(table).all():
                intervals[metric] = difference_interval(table[: len(a.runs)], table[len(a.runs) :])
    return Difference(dataset, a, b, images, len(names), intervals) if intervals else None


def _ordered(difference, metric):
    """(network that is ahead, network that is behind); None if the interval includes zero."""
    interval = difference.intervals[metric]
    if interval.includes_zero:
        return None
    labels = difference.a.label, difference.b.label
    return labels if interval.difference > 0 else labels[::-1]


def in_words(difference: Difference, metric: str) -> str:
    """A sentence on who is ahead, as far as the interval allows one."""
    ordered = _ordered(difference, metric)
    if ordered is None:
        return "not decided: the interval includes zero"
    by, unit = METRICS[metric][1](abs(difference.intervals[metric].difference)), " dB" if metric == "psnr" else ""
    return f"{ordered[0]} ahead of {ordered[1]} by {by}{unit}"


def summaries(differences: list[Difference]) -> list[str]:
    """A paragraph on each validation set: the pairs whose interval of PSNR (else of the first metric) excludes zero."""
    paragraphs = []
    for dataset, group in itertools.groupby(differences, key=lambda difference: difference.dataset):
        found = list(group)
        metric = next(iter(found[0].intervals))
        ordered = [_ordered(difference, metric) for difference in found if metric in difference.intervals]
        behind = {}
        for ahead, other in filter(None, ordered):
            behind.setdefault(ahead, []).append(other)
        ends = sorted({difference.images for difference in found})
        after = " to ".join(f"{images:,}" for images in dict.fromkeys((ends[0], ends[-1])))
        listed = "; ".join(f"{ahead} ahead of {', '.join(others)}" for ahead, others in behind.items())
        paragraphs.append(
            f"{dataset}, {metric.upper()} after {after} training images: the interval excludes zero for "
            f"{sum(map(len, behind.values()))} of {len(found)} pairs{': ' if listed else ''}{listed}."
            + (" For the others it includes zero: they are not decided." if None in ordered else "")
        )
    return paragraphs
