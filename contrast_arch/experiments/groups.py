"""Runs of one network that differ in the seed alone, their labels, and the options in which runs differ."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from contrast_arch.experiments.basicsr_logs import section, validation_sets
from contrast_arch.experiments.records import Run, shown

SEED = re.compile(r"_seed(\d+)$")
# Options of the training data that change speed, not results, or that images_per_iteration covers.
NOT_COMPARED = {"name", "phase", "scale", "num_worker_per_gpu", "prefetch_mode", "pin_memory", "batch_size_per_gpu"}
# Sections of what tells networks apart, and makes no comparison unfair.
OF_NETWORK = ("model_type", "network_g")
SETTINGS = {
    "scale": "scale {}",
    "datasets: train: gt_size": "GT patches of {0}x{0}",
    "images an iteration": "{} images an iteration",
    "images a checkpoint interval": "a checkpoint every {} images",
    "train: pixel_opt: type": "{}",
    "train: optim_g: type": "{}",
    "train: optim_g: lr": "learning rate {}",
}


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


def _shared(names):
    """Number of words that all names begin with, leaving each at least one of its own."""
    if len(names) < 2:
        return 0
    most = min(len(words) for words in names) - 1
    return next((i for i in range(most) if len({words[i] for words in names}) > 1), max(most, 0))


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
            f"{shown(run.folder)}: {end:,} training images, where other seeds have {longest:,}; left out of means and "
            "intervals so far"
            for run, end in ends.items()
            if end < longest
        ]
    return found, notes


def differences(groups: list[Group]) -> list[str]:
    """Notes on options that make a comparison unfair, on curves of different length and on those that are missing."""
    runs = [run for group in groups for run in group.runs]
    notes = []
    for key, values in different_options([run for run in runs if run.options]).items():
        if not key.startswith(OF_NETWORK):
            by_value = {}
            for run, value in values.items():
                by_value.setdefault(value, []).append(run)
            listed = "; ".join(f"{value} ({_labels(groups, found)})" for value, found in by_value.items())
            notes.append(f"The experiments differ in {key}: {listed}")
    with_values = [run for run in runs if run.values]
    ends = {run.label: run.images(run.iterations) for run in with_values if run.images_per_iteration}
    if len(set(ends.values())) > 1:
        listed = "; ".join(f"{label} at {images:,}" for label, images in ends.items())
        shortest = f"Compare them up to {min(ends.values()):,} images"
        notes.append(f"The curves end at different numbers of images: {listed}. {shortest}")
    for tag in dict.fromkeys(tag for run in with_values for tag in run.values):
        # A run without any validation has a note of its own.
        able = [run for run in with_values if run.metrics() or not tag.startswith("metrics/")]
        notes += [f"{shown(run.folder)}: no {tag}, which others have" for run in able if tag not in run.values]
    return notes


def _labels(groups, runs):
    """Labels of runs; that of the group if all of its runs are there."""
    whole = {run: group.label for group in groups if set(group.runs) <= set(runs) for run in group.runs}
    return ", ".join(dict.fromkeys(whole.get(run, run.label) for run in runs))


def different_options(runs: list[Run]) -> dict[str, dict[Run, str]]:
    """Options in which runs differ, flat ("train: optim_g: lr"): key -> the value of each run where it is known."""
    options = {run: _comparable(run) for run in runs}
    found = {}
    for key in dict.fromkeys(key for own in options.values() for key in own):
        values = {run: own.get(key, "none") for run, own in options.items() if own.get(key, "none") is not None}
        if len(set(values.values())) > 1:
            found[key] = values
    return found


def shared_settings(runs: list[Run]) -> str:
    """A sentence on the main settings that all runs share; "" without any."""
    known = [_comparable(run) for run in runs if run.options]
    words = []
    for key, text in SETTINGS.items():
        values = {options.get(key) for options in known}
        if len(values) == 1 and None not in values:
            value = values.pop()
            words.append(text.format(f"{int(value):,}" if value.isdigit() else value))
    whose = "The same for all" if len(runs) > 1 else "Settings"
    return f"{whose}: {', '.join(words)}." if words else ""


def _comparable(run):
    """The options of a run, flat and as text; None for one that is not known any more."""
    options, paths = run.options, section(run.options, "path")
    training = section(section(options, "datasets"), "train")
    images = run.images_per_iteration
    chosen = {
        **{key: options.get(key) for key in OF_NETWORK},
        "scale": options.get("scale"),
        "images an iteration": images,
        "images a checkpoint interval": images * run.interval if images and run.interval else None,
        "datasets: train": {key: value for key, value in training.items() if key not in NOT_COMPARED},
        "datasets: val": {
            dataset.get("name"): {key: value for key, value in dataset.items() if key.startswith("dataroot")}
            for dataset in validation_sets(options)
        },
        "train": {key: value for key, value in section(options, "train").items() if key != "total_iter"},
        "val: metrics": section(section(options, "val"), "metrics"),
        "path: pretrain_network_g": paths.get("pretrain_network_g"),
    }
    found = {key: _as_text(value) for key, value in flat(chosen) if value is not None}
    # The log of a resumed run has its own checkpoint where the weights stood that it began from.
    weights, models = paths.get("pretrain_network_g"), paths.get("models")
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
