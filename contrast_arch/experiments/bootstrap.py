"""Bootstrap intervals for the difference between two networks."""

from typing import NamedTuple

import numpy as np

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
    images = _weights(generator, a.shape[1])
    means = [np.einsum("rs,si,ri->r", _weights(generator, len(x)), x, images, optimize=True) for x in (a, b)]
    edges = np.percentile(means[0] - means[1], [50 - COVERAGE / 2, 50 + COVERAGE / 2])
    return Interval(float(a.mean() - b.mean()), *map(float, edges))


def _weights(generator, count):
    """Share of each of ``count`` items in each resample: (resamples, count)."""
    return generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count
