"""Runs of one network that differ in the seed alone, their labels, and the options in which runs differ."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from contrast_arch.experiments.basicsr_logs import section
from contrast_arch.experiments.records import Run
from contrast_arch.files import resolved

SEED = re.compile(r"_seed(\d+)$")
# Options of the data that change speed, not results, or that images_per_iteration covers.
NOT_COMPARED = {"name", "phase", "scale", "num_worker_per_gpu", "prefetch_mode", "pin_memory", "batch_size_per_gpu"}


class Group(NamedTuple):
    """Runs of one network that differ in the seed alone, at least one."""

    label: str  # unlike that of every other group
    runs: list[Run]


def common_points(runs: list[Run], iterations: Callable[[Run], Iterable[int]]) -> dict[int, list[int]]:
    """Numbers of training images at which all runs have a value: images -> the iteration of each run, in order.

    Args:
        runs: at least one.
        iterations: of the values of a run.
    """
    by_images = [{run.images(iteration): iteration for iteration in iterations(run)} for run in runs]
    return {images: [found[images] for found in by_images] for images in sorted(set.intersection(*map(set, by_images)))}


def grouped(runs: list[Run]) -> list[Group]:
    """Group runs by the path of their folder without ``_seedN``, and label runs and groups.

    A label is the name without ``train_`` and ``_from_scratch``, or the path where two folders have one name.
    """
    members = {}
    for run in runs:
        path = resolved(run.folder)
        members.setdefault(path.with_name(SEED.sub("", path.name)), []).append(run)
    names = [path.name for path in members]
    groups = []
    for path, found in members.items():
        label = path.name.removeprefix("train_").removesuffix("_from_scratch")
        label = label if names.count(path.name) == 1 else str(path)
        for run in found:
            seed = SEED.search(resolved(run.folder).name)
            run.label = f"{label} seed {seed[1]}" if seed else label
        groups.append(Group(label, found))
    return groups


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
        found += [Group(group.label, runs)] if runs else []
        notes += [
            f"{run.folder}: {end:,} training images, where other seeds have {longest:,}; left out of means and "
            "intervals so far"
            for run, end in ends.items()
            if end < longest
        ]
    return found, notes


def different_options(runs: list[Run]) -> dict[str, dict[Run, str]]:
    """Options in which runs differ, flat ("train: optim_g: lr"): key -> the value of each run where it is known."""
    options = {run: _comparable(run) for run in runs if run.options}
    found = {}
    for key in dict.fromkeys(key for own in options.values() for key in own):
        values = {run: own.get(key, "none") for run, own in options.items() if own.get(key, "none") is not None}
        if len(set(values.values())) > 1:
            found[key] = values
    return found


def _comparable(run):
    """The options of a run, flat and as text; None for one that is not known any more."""
    options, paths = run.options, section(run.options, "path")
    chosen = {key: options.get(key) for key in ("model_type", "network_g", "scale")}
    chosen["images an iteration"] = run.images_per_iteration
    for phase, dataset in section(options, "datasets").items():
        chosen[f"datasets: {phase}"] = {key: value for key, value in dataset.items() if key not in NOT_COMPARED}
    chosen["train"] = {key: value for key, value in section(options, "train").items() if key != "total_iter"}
    chosen["val: metrics"] = section(section(options, "val"), "metrics")
    weights, models = paths.get("pretrain_network_g"), paths.get("models")
    chosen["path: pretrain_network_g"] = weights
    found = {key: _as_text(value) for key, value in flat(chosen) if value is not None}
    # The log of a resumed run has its own checkpoint where the weights stood that it began from.
    if weights and models and Path(weights).parent == Path(models):
        found["path: pretrain_network_g"] = None
    return found


def flat(options: dict, prefix: str = "") -> Iterable[tuple[str, object]]:
    """Flat options: ("train: optim_g: lr", value) of each."""
    for key, value in options.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}: ")
        else:
            yield f"{prefix}{key}", value


def _as_text(value):
    """Numbers come out alike however they were written (BasicSR's loader reads 2e-4 as text)."""
    try:
        return str(value) if isinstance(value, bool) else f"{float(value):.12g}"
    except (TypeError, ValueError):
        return str(value)
