"""Differences between networks, image by image, with bootstrap intervals."""

import functools
import itertools
from typing import NamedTuple

import numpy as np

from contrast_arch.experiments.charts import METRICS, datasets
from contrast_arch.experiments.groups import Group, common_points
from contrast_arch.experiments.pictures import image_values, measured_iterations

RESAMPLES = 10_000
COVERAGE = 95  # percent


class Interval(NamedTuple):
    """A difference of means and its bootstrap interval."""

    difference: float
    low: float
    high: float

    @property
    def includes_zero(self) -> bool:
        """True if the interval does not say which of the two is ahead."""
        return self.low <= 0 <= self.high


class Difference(NamedTuple):
    """Two networks on a validation set, after the same number of training images."""

    dataset: str
    a: Group
    b: Group
    images: int  # training images that each run has seen
    pictures: int  # number of validation images
    intervals: dict[str, Interval]  # metric -> mean of a minus mean of b

    def ordered(self, metric: str) -> tuple[str, str] | None:
        """(Network that is ahead, network that is behind); None if the interval includes zero."""
        interval, labels = self.intervals[metric], (self.a.label, self.b.label)
        return None if interval.includes_zero else labels if interval.difference > 0 else labels[::-1]


def difference_interval(a: np.ndarray, b: np.ndarray) -> Interval:
    """Bootstrap the mean of ``a`` minus the mean of ``b`` over images and seeds.

    Two things are resampled with replacement, independently of each other: the images, the same ones for both networks
    and all of their seeds (the difference is paired by image), and the seeds of each network by themselves (seeds of
    two networks are not paired: the same number gives unrelated initial weights). With one seed only the images are
    resampled: the interval then says nothing about another training of the same network. With few seeds (two to five)
    it is rather too narrow, as every bootstrap of few values is. The random numbers are the same in every call.

    Args:
        a: (seeds, images), a metric of each image.
        b: (other seeds, the same images).

    Returns:
        The difference with the percentile interval of 95 %.

    Source: the crossed ("pigeonhole") bootstrap of A. B. Owen, The pigeonhole bootstrap, Annals of Applied Statistics
    1 (2007).
    """
    generator = np.random.default_rng(0)

    def shares(count):
        """Share of each of ``count`` items in each resample: (resamples, count)."""
        return generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count

    images = shares(a.shape[1])
    means = [np.einsum("rs,si,ri->r", shares(len(x)), x, images, optimize=True) for x in (a, b)]
    edges = np.percentile(means[0] - means[1], [50 - COVERAGE / 2, 50 + COVERAGE / 2])
    return Interval(float(a.mean() - b.mean()), *map(float, edges))


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
        table = np.array([[of_run[name].get(metric, np.nan) for name in names] for of_run in measured])
        if names and np.isfinite(table).all():
            intervals[metric] = difference_interval(table[: len(a.runs)], table[len(a.runs) :])
    return Difference(dataset, a, b, images, len(names), intervals) if intervals else None


def in_words(difference: Difference, metric: str) -> str:
    """A sentence on who is ahead, as far as the interval allows one."""
    ordered = difference.ordered(metric)
    if ordered is None:
        return "not decided: the interval includes zero"
    by, unit = METRICS[metric][1].format(abs(difference.intervals[metric].difference)), " dB" * (metric == "psnr")
    return f"{ordered[0]} ahead of {ordered[1]} by {by}{unit}"


def summaries(differences: list[Difference]) -> list[str]:
    """A paragraph on each validation set: the pairs whose interval of PSNR (else of the first metric) excludes zero."""
    paragraphs = []
    for dataset, group in itertools.groupby(differences, key=lambda difference: difference.dataset):
        found = list(group)
        metric = next(iter(found[0].intervals))
        ordered = [difference.ordered(metric) for difference in found if metric in difference.intervals]
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
