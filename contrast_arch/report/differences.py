"""What keeps experiments from being compared at a glance: names, options, lengths and missing curves."""

from pathlib import Path

from contrast_arch.report.logs import section
from contrast_arch.report.records import Experiment, shown

# Options of the training data that change speed, not results, or that images_per_iteration covers.
NOT_COMPARED = {"name", "phase", "scale", "num_worker_per_gpu", "prefetch_mode", "pin_memory", "batch_size_per_gpu"}

# What a log does not say: that of a resumed run has its own checkpoint where the weights stood that it began from.
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


def set_labels(experiments: list[Experiment]) -> list[str]:
    """Give each experiment a label: its folder name without what all of them begin and end with.

    Returns:
        Notes on folders of the same name, which the folder that holds ``experiments`` tells apart.
    """
    parts = [experiment.name.split("_") for experiment in {e.name: e for e in experiments}.values()]
    begin = _shared(parts)
    end = _shared([words[begin:][::-1] for words in parts])
    notes = []
    for experiment in experiments:
        words = experiment.name.split("_")
        experiment.label = "_".join(words[begin : len(words) - end])
    for experiment in experiments:
        others = [e for e in experiments if e.name == experiment.name and e is not experiment]
        if others:
            root = experiment.folder.resolve().parents[1]
            same_root_name = any(e.folder.resolve().parents[1].name == root.name for e in others)
            experiment.label += f" ({root if same_root_name else root.name})"
            notes.append(f"{shown(experiment.folder)}: another experiment has this name; shown as {experiment.label}")
    return notes


def _shared(names):
    """How many words all names begin with, leaving each at least one of its own."""
    if len(names) < 2:
        return 0
    most = min(len(words) for words in names) - 1
    return next((i for i in range(most) if len({words[i] for words in names}) > 1), max(most, 0))


def differences(experiments: list[Experiment]) -> list[str]:
    """Notes on options that make a comparison unfair, on curves of different length and on those that are missing."""
    return _options(experiments) + _lengths(experiments) + _missing(experiments)


def _options(experiments):
    known = {experiment.label: comparable(experiment) for experiment in experiments if experiment.options}
    notes = []
    for key in dict.fromkeys(key for options in known.values() for key in options):
        by_value = {}
        for label, options in known.items():
            if options.get(key) is not UNKNOWN:
                by_value.setdefault(options.get(key, "none"), []).append(label)
        if len(by_value) > 1:
            values = "; ".join(f"{value} ({', '.join(labels)})" for value, labels in by_value.items())
            notes.append(f"The experiments differ in {key}: {values}")
    return notes


def comparable(experiment: Experiment) -> dict[str, str]:
    """The options in which experiments have to agree, flat ("train: optim_g: lr" -> value), without what is None.

    Numbers come out alike however they were written (BasicSR's loader reads 2e-4 as text).
    """
    options, datasets = experiment.options, section(experiment.options, "datasets")
    training = {key: value for key, value in section(datasets, "train").items() if key not in NOT_COMPARED}
    validation = {
        dataset.get("name"): {key: value for key, value in dataset.items() if key.startswith("dataroot")}
        for phase, dataset in datasets.items()
        if phase.startswith("val") and isinstance(dataset, dict)
    }
    chosen = {
        "scale": options.get("scale"),
        "images an iteration": experiment.images_per_iteration,
        "images a checkpoint interval": _interval_images(experiment),
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


def shared_settings(experiments: list[Experiment]) -> str:
    """A sentence on the main settings that all experiments share; "" where there are none."""
    known = [comparable(experiment) for experiment in experiments if experiment.options]
    words = []
    for key, text in SETTINGS.items():
        values = {options.get(key) for options in known}
        if len(values) == 1 and None not in values:
            value = values.pop()
            words.append(text.format(f"{int(value):,}" if value.isdigit() else value))
    whose = "The same for all" if len(experiments) > 1 else "Settings"
    return f"{whose}: {', '.join(words)}." if words else ""


def _interval_images(experiment):
    images, interval = experiment.images_per_iteration, experiment.interval
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


def _lengths(experiments):
    ends = {e.label: e.images(e.iterations) for e in experiments if e.values and e.images_per_iteration}
    if len(set(ends.values())) < 2:
        return []
    listed = "; ".join(f"{label} at {images:,}" for label, images in ends.items())
    shortest = min(ends.values())
    return [f"The curves end at different numbers of images: {listed}. Compare them up to {shortest:,} images"]


def _missing(experiments):
    with_values = [experiment for experiment in experiments if experiment.values]
    notes = []
    for tag in dict.fromkeys(tag for experiment in with_values for tag in experiment.values):
        # An experiment without any validation has said so itself.
        able = [e for e in with_values if e.metrics() or not tag.startswith("metrics/")]
        notes += [f"{shown(e.folder)}: no {tag}, which others have" for e in able if tag not in e.values]
    return notes
