"""Differences between networks, image by image, with bootstrap intervals."""

import itertools
from typing import NamedTuple

import numpy as np

from contrast_arch.experiments.records import METRICS, Group, datasets

RESAMPLES = 10_000
COVERAGE = 95  # percent


class Difference(NamedTuple):
    """Two networks on a validation set, after the same number of training images."""

    dataset: str
    a: str  # labels
    b: str
    images: int  # training images that each run has seen
    pictures: int  # number of validation images
    intervals: dict[str, tuple[float, float, float]]  # metric -> mean of a minus mean of b, and its interval

    @property
    def metric(self) -> str:
        """Metric of the sentences: PSNR, else the first one."""
        return next(iter(self.intervals))

    @property
    def ordered(self) -> tuple[str, str] | None:
        """(Network that is ahead, network that is behind); None if the interval includes zero."""
        difference, low, high = self.intervals[self.metric]
        return None if low <= 0 <= high else (self.a, self.b) if difference > 0 else (self.b, self.a)


def difference_interval(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Bootstrap the mean of ``a`` minus the mean of ``b`` over images and seeds, with the same numbers in every call.

    Images are resampled, the same ones for both networks and all of their seeds, and independently the seeds of each
    network by themselves: the same number gives unrelated initial weights to two networks. With one seed the interval
    says nothing about another training; with two to five it is rather too narrow, as every bootstrap of few values is.

    Args:
        a: (seeds, images), a metric of each image.
        b: (other seeds, the same images).

    Returns:
        The difference, and the ends of its percentile interval of 95 %.

    Source: A. B. Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1 (2007).
    """
    generator = np.random.default_rng(0)

    def shares(count):
        """Share of each of ``count`` items in each resample: (resamples, count)."""
        return generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count

    images = shares(a.shape[1])
    means = [np.einsum("rs,si,ri->r", shares(len(x)), x, images, optimize=True) for x in (a, b)]
    edges = np.percentile(means[0] - means[1], [50 - COVERAGE / 2, 50 + COVERAGE / 2])
    return (float(a.mean() - b.mean()), *edges.tolist())


def pairwise(groups: list[Group]) -> tuple[list[Difference], list[str]]:
    """Compare each pair on each validation set, at the latest one after equally many images; a note on others."""
    pairs = [(dataset, a, b) for dataset in datasets(groups) for a, b in itertools.combinations(groups, 2)]
    found = [difference for pair in pairs if (difference := _compare(*pair))]
    note = (
        f"{len(pairs) - len(found)} of {len(pairs)} pairs of networks and validation sets have no interval: no "
        "validation of both after equally many training images, recorded the metrics of each image, as contrast-train "
        "does"
    )
    return found, [note] if len(found) < len(pairs) else []


def _compare(dataset, a, b):
    tables = [{run.images(i): own for i, own in run.per_image.get(dataset, {}).items()} for run in a.runs + b.runs]
    if not (common := set.intersection(*map(set, tables))):
        return None
    values = [table[max(common)] for table in tables]
    names = [name for name in values[0] if all(name in of_run for of_run in values)]
    intervals = {}
    for metric in METRICS:
        table = np.array([[of_run[name].get(metric, np.nan) for name in names] for of_run in values])
        if names and np.isfinite(table).all():
            intervals[metric] = difference_interval(table[: len(a.runs)], table[len(a.runs) :])
    return Difference(dataset, a.label, b.label, max(common), len(names), intervals) if intervals else None


def summaries(differences: list[Difference]) -> list[str]:
    """A paragraph on each validation set: the pairs whose interval excludes zero."""
    paragraphs = []
    for dataset, group in itertools.groupby(differences, key=lambda difference: difference.dataset):
        found, behind = list(group), {}
        decided = [difference.ordered for difference in found if difference.ordered]
        for ahead, other in decided:
            behind.setdefault(ahead, []).append(other)
        listed = "; ".join(f"{ahead} ahead of {', '.join(others)}" for ahead, others in behind.items())
        ends = [difference.images for difference in found]
        after = " to ".join(f"{images:,}" for images in dict.fromkeys((min(ends), max(ends))))
        paragraphs.append(
            f"{dataset}, {found[0].metric.upper()} after {after} training images: the interval excludes zero for "
            f"{len(decided)} of {len(found)} pairs{': ' if listed else ''}{listed}."
            + (" For the others it includes zero: they are not decided." if len(decided) < len(found) else "")
        )
    return paragraphs
