"""Runs of one network that differ in the seed alone, and their labels."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from contrast_arch.experiments.records import shown
from contrast_arch.experiments.runs import Run

SEED = re.compile(r"_seed(\d+)$")


@dataclass(eq=False)
class Group:
    """Runs of one network that differ in the seed alone.

    Attributes:
        label: short name, unlike that of every other group.
        runs: at least one.
    """

    label: str
    runs: list[Run]


def common_points(runs: list[Run], iterations: Callable[[Run], Iterable[int]]) -> dict[int, list[int]]:
    """Numbers of training images at which all runs have a value.

    Args:
        runs: at least one.
        iterations: of the values of a run.

    Returns:
        Images -> the iteration of each run, in the order of images.
    """
    by_images = [{run.images(iteration): iteration for iteration in iterations(run)} for run in runs]
    return {images: [found[images] for found in by_images] for images in sorted(set.intersection(*map(set, by_images)))}


def grouped(runs: list[Run]) -> tuple[list[Group], list[str]]:
    """Group runs by the name of their folder without ``_seedN``, and label runs and groups.

    A label is the name without the words that all names begin and end with.

    Returns:
        The groups, and notes on folders of the same name, labelled with the folder above ``experiments``.
    """
    members = {}
    for run in runs:
        members.setdefault((run.folder.resolve().parent, SEED.sub("", run.name)), []).append(run)
    words = [name.split("_") for name in dict.fromkeys(name for _, name in members)]
    begin = _shared(words)
    end = _shared([parts[begin:][::-1] for parts in words])
    groups, notes = [], []
    for (place, name), found in members.items():
        parts = name.split("_")
        label = "_".join(parts[begin : len(parts) - end])
        others = [other for other, its_name in members if its_name == name and other != place]
        if others:
            root = place.parent
            label += f" ({root if any(other.parent.name == root.name for other in others) else root.name})"
        for run in found:
            seed = SEED.search(run.name)
            run.label = f"{label} seed {seed[1]}" if seed else label
            if others:
                notes.append(f"{shown(run.folder)}: another experiment has this name; shown as {run.label}")
        groups.append(Group(label, found))
    return groups, notes


def drawable(groups: list[Group]) -> tuple[list[Group], list[str]]:
    """The groups with those runs alone that can be drawn and are as far as the furthest of their group.

    Means over seeds then stay means over the same seeds while further seeds are being trained.

    Returns:
        Groups with at least one run, and notes on runs that are behind.
    """
    found, notes = [], []
    for group in groups:
        ends = {run: run.images(run.iterations) for run in group.runs if run.values and run.images_per_iteration}
        longest = max(ends.values(), default=0)
        runs = [run for run, end in ends.items() if end == longest]
        if runs:
            found.append(Group(group.label, runs))
        notes += [
            f"{shown(run.folder)}: {end:,} training images, where other seeds have {longest:,}; left out of means and "
            "intervals so far"
            for run, end in ends.items()
            if end < longest
        ]
    return found, notes


def _shared(names):
    """Number of words that all names begin with, leaving each at least one of its own."""
    if len(names) < 2:
        return 0
    most = min(len(words) for words in names) - 1
    return next((i for i in range(most) if len({words[i] for words in names}) > 1), max(most, 0))
