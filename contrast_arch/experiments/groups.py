"""Runs of one network that differ in the seed alone, and their labels."""

import re
from typing import NamedTuple

from contrast_arch.experiments.records import Run
from contrast_arch.files import resolved

SEED = re.compile(r"_seed(\d+)$")


class Group(NamedTuple):
    """Runs of one network that differ in the seed alone, at least one."""

    label: str  # unlike that of every other group
    runs: list[Run]


def grouped(runs: list[Run]) -> list[Group]:
    """Group runs by the path of their folder without ``_seedN``, and label runs and groups.

    A label is the name without ``train_`` and ``_from_scratch``, or the path where two folders have one name.
    """
    members = {}
    for run in runs:
        path = resolved(run.folder)
        members.setdefault(path.with_name(SEED.sub("", path.name)), []).append(run)
    names, groups = [path.name for path in members], []
    for path, found in members.items():
        name = path.name.removeprefix("train_").removesuffix("_from_scratch")
        groups.append(Group(name if names.count(path.name) == 1 else str(path), found))
        for run in found:
            seed = SEED.search(resolved(run.folder).name)
            run.label = f"{groups[-1].label} seed {seed[1]}" if seed else groups[-1].label
    return groups


def drawable(groups: list[Group]) -> tuple[list[Group], list[str]]:
    """Leave out runs that cannot be drawn or are behind others of their group, and groups without any other run.

    Means over seeds then stay means over the same seeds while further seeds are being trained.

    Returns:
        The groups, and notes on runs that are behind.
    """
    found, notes = [], []
    for label, runs in groups:
        ends = {run: run.images(run.iterations) for run in runs if run.values and run.images_per_iteration}
        longest = max(ends.values(), default=0)
        found += [Group(label, [run for run, end in ends.items() if end == longest])] if ends else []
        behind = f"training images, where other seeds have {longest:,}; left out of means and intervals so far"
        notes += [f"{run.folder}: {end:,} {behind}" for run, end in ends.items() if end < longest]
    return found, notes


def datasets(groups: list[Group]) -> list[str]:
    """Validation sets of all runs."""
    return list(dict.fromkeys(name for group in groups for run in group.runs for name in run.metrics()))
