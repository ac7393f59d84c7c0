"""Runs of one network that differ in the seed alone, their labels, and the options in which networks differ."""

import re
from collections.abc import Iterable
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
        name = path.name.removeprefix("train_").removesuffix("_from_scratch")
        groups.append(Group(name if names.count(path.name) == 1 else str(path), found))
        for run in found:
            seed = SEED.search(resolved(run.folder).name)
            run.label = f"{groups[-1].label} seed {seed[1]}" if seed else groups[-1].label
    return groups


def drawable(groups: list[Group]) -> tuple[list[Group], list[str]]:
    """The groups with those runs alone that can be drawn and are as far as the furthest of their group.

    Means over seeds then stay means over the same seeds while further seeds are being trained.

    Returns:
        Groups with at least one run, and notes on runs that are behind.
    """
    found, notes = [], []
    for label, runs in groups:
        ends = {run: run.images(run.iterations) for run in runs if run.values and run.images_per_iteration}
        longest = max(ends.values(), default=0)
        found += [Group(label, [run for run, end in ends.items() if end == longest])] if ends else []
        behind = f"training images, where other seeds have {longest:,}; left out of means and intervals so far"
        notes += [f"{run.folder}: {end:,} {behind}" for run, end in ends.items() if end < longest]
    return found, notes


def different_options(runs: list[Run]) -> dict[str, list[str]]:
    """Options in which runs differ, flat ("train: optim_g: lr"): key -> the value of each run, "-" if unknown."""
    options = [_comparable(run) if run.options else None for run in runs]
    found = {}
    for key in dict.fromkeys(key for own in options for key in own or ()):
        values = ["-" if own is None else own.get(key, "none") for own in options]
        if len({*values} - {"-"}) > 1:
            found[key] = values
    return found


def _comparable(run):
    """The options of a run that make a difference, flat and as text."""
    options, paths = run.options, section(run.options, "path")
    weights = paths.get("pretrain_network_g")
    chosen = {key: options.get(key) for key in ("model_type", "network_g", "scale")}
    chosen |= {"images an iteration": run.images_per_iteration, "datasets": {}}
    for phase, dataset in section(options, "datasets").items():
        chosen["datasets"][phase] = {key: value for key, value in dataset.items() if key not in NOT_COMPARED}
    chosen["train"] = {key: value for key, value in section(options, "train").items() if key != "total_iter"}
    chosen["val: metrics"] = section(section(options, "val"), "metrics")
    chosen["path: pretrain_network_g"] = weights
    # The log of a resumed run has its own checkpoint where the weights stood that it began from.
    if weights and paths.get("models") == str(Path(weights).parent):
        chosen["path: pretrain_network_g"] = "-"
    return {key: _as_text(value) for key, value in flat(chosen) if value is not None}


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
