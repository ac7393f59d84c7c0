"""Differences between runs that are compared: options, lengths and missing curves."""

from pathlib import Path

from contrast_arch.experiments.groups import Group
from contrast_arch.experiments.records import shown
from contrast_arch.experiments.runs import Run, section

# Options of the training data that change speed, not results, or that images_per_iteration covers.
NOT_COMPARED = {"name", "phase", "scale", "num_worker_per_gpu", "prefetch_mode", "pin_memory", "batch_size_per_gpu"}

# The log of a resumed run has its own checkpoint where the weights stood that it began from.
UNKNOWN = object()

SETTINGS = {
    "scale": "scale {}",
    "datasets: train: gt_size": "GT patches of {0}x{0}",
    "images an iteration": "{} images an iteration",
    "images a checkpoint interval": "a checkpoint every {} images",
    "train: pixel_opt: type": "{}",
    "train: optim_g: type": "{}",
    "train: optim_g: lr": "learning rate {}",
}


def without_repeats(folders: list[Path]) -> tuple[list[Path], list[str]]:
    """The folders without those named twice, and notes on these."""
    kept, notes, seen = [], [], set()
    for folder in folders:
        if folder.resolve() in seen:
            notes.append(f"{shown(folder)}: named twice; read once")
        else:
            seen.add(folder.resolve())
            kept.append(folder)
    return kept, notes


def differences(groups: list[Group]) -> list[str]:
    """Notes on options that make a comparison unfair, on curves of different length and on those that are missing."""
    runs = [run for group in groups for run in group.runs]
    return _options(groups) + _lengths(runs) + _missing(runs)


def _options(groups):
    known = [(group, run, comparable(run)) for group in groups for run in group.runs if run.options]
    notes = []
    for key in dict.fromkeys(key for *_, options in known for key in options):
        by_value = {}
        for group, run, options in known:
            if options.get(key) is not UNKNOWN:
                by_value.setdefault(options.get(key, "none"), []).append((group, run))
        if len(by_value) > 1:
            values = "; ".join(f"{value} ({_labels(members)})" for value, members in by_value.items())
            notes.append(f"The experiments differ in {key}: {values}")
    return notes


def _labels(members):
    """Labels of runs; that of the group if all of its runs are there."""
    runs = [run for _, run in members]
    whole = {run: group.label for group, run in members if set(group.runs) <= set(runs)}
    return ", ".join(dict.fromkeys(whole.get(run, run.label) for run in runs))


def comparable(run: Run) -> dict[str, str]:
    """The options in which runs have to agree, flat ("train: optim_g: lr" -> value), without those that are None.

    Numbers come out alike however they were written (BasicSR's loader reads 2e-4 as text).
    """
    options, datasets = run.options, section(run.options, "datasets")
    training = {key: value for key, value in section(datasets, "train").items() if key not in NOT_COMPARED}
    validation = {
        dataset.get("name"): {key: value for key, value in dataset.items() if key.startswith("dataroot")}
        for phase, dataset in datasets.items()
        if phase.startswith("val") and isinstance(dataset, dict)
    }
    chosen = {
        "scale": options.get("scale"),
        "images an iteration": run.images_per_iteration,
        "images a checkpoint interval": _interval_images(run),
        "datasets: train": training,
        "datasets: val": validation,
        "train": {key: value for key, value in section(options, "train").items() if key != "total_iter"},
        "val: metrics": section(section(options, "val"), "metrics"),
        "path: pretrain_network_g": _begun_from(section(options, "path")),
    }
    flat = {key: value for key, value in _flat(chosen) if value is not None}
    return {key: value if value is UNKNOWN else _as_text(value) for key, value in flat.items()}


def _begun_from(paths):
    own, weights = paths.get("models"), paths.get("pretrain_network_g")
    return UNKNOWN if own and weights and Path(weights).parent == Path(own) else weights


def different_options(groups: list[Group]) -> dict[str, list[str]]:
    """Options in which the networks differ, those of the network included: key -> a value for each group."""
    flat = []
    for group in groups:
        run = group.runs[0]
        known = {key: value for key, value in comparable(run).items() if value is not UNKNOWN}
        network = {key: _as_text(value) for key, value in _flat({"network_g": section(run.options, "network_g")})}
        flat.append({"model_type": _as_text(run.options.get("model_type")), **network, **known})
    keys = dict.fromkeys(key for options in flat for key in options)
    values = {key: [options.get(key, "-") for options in flat] for key in keys}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def shared_settings(runs: list[Run]) -> str:
    """A sentence on the main settings that all runs share; "" without any."""
    known = [comparable(run) for run in runs if run.options]
    words = []
    for key, text in SETTINGS.items():
        values = {options.get(key) for options in known}
        if len(values) == 1 and None not in values:
            value = values.pop()
            words.append(text.format(f"{int(value):,}" if value.isdigit() else value))
    whose = "The same for all" if len(runs) > 1 else "Settings"
    return f"{whose}: {', '.join(words)}." if words else ""


def _interval_images(run):
    images, interval = run.images_per_iteration, run.interval
    return images * interval if images and interval else None


def _flat(options, prefix=""):
    for key, value in options.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}: ")
        else:
            yield f"{prefix}{key}", value


def _as_text(value):
    if isinstance(value, bool):
        return str(value)
    try:
        return f"{float(value):.12g}"
    except (TypeError, ValueError):
        return str(value)


def _lengths(runs):
    ends = {run.label: run.images(run.iterations) for run in runs if run.values and run.images_per_iteration}
    if len(set(ends.values())) < 2:
        return []
    listed = "; ".join(f"{label} at {images:,}" for label, images in ends.items())
    shortest = min(ends.values())
    return [f"The curves end at different numbers of images: {listed}. Compare them up to {shortest:,} images"]


def _missing(runs):
    with_values = [run for run in runs if run.values]
    notes = []
    for tag in dict.fromkeys(tag for run in with_values for tag in run.values):
        # A run without any validation has a note of its own.
        able = [run for run in with_values if run.metrics() or not tag.startswith("metrics/")]
        notes += [f"{shown(run.folder)}: no {tag}, which others have" for run in able if tag not in run.values]
    return notes
