"""The keys of BasicSR 1.4.2's option files for SRModel, and of ContrastModel: which there are, and what each can be."""

import difflib
import os
from collections.abc import Iterator

from contrast_arch.check.kinds import (
    ANYTHING,
    FLAG,
    FREQUENCY,
    MODULES,
    NAME,
    NUMBERS,
    PATH,
    SECTION,
    TEMPLATE,
    TEXT,
    Kind,
    choice,
    number,
    numbers_in,
    shortened,
    whole,
    written,
)
from contrast_arch.check.problems import Path, Problem, error, note, warning
from contrast_arch.compat import basicsr_is_released
from contrast_arch.files import plain
from contrast_arch.models.settings import KEYS, OURS, setting_problems

# Models whose keys are all known here; those of others may have more.
KNOWN_MODELS = ("SRModel", OURS)

# BasicSR reads them of the dataset that it trains on.
OF_TRAINING_DATA = {
    "gt_size": whole(1),
    "use_hflip": FLAG.or_none(),
    "use_rot": FLAG.or_none(),
    "num_worker_per_gpu": whole(0, 1024),
    "batch_size_per_gpu": whole(1),
    "dataset_enlarge_ratio": number(above=0),
}
DATASET = {
    "name": TEXT,
    "type": TEXT,
    "dataroot_gt": PATH,
    "dataroot_lq": PATH,
    "meta_info_file": PATH.or_none(),
    "filename_tmpl": TEMPLATE,
    "io_backend": SECTION,
    "pin_memory": FLAG.or_none(),
    "persistent_workers": FLAG.or_none(),
    "prefetch_mode": choice("cpu", "cuda").or_none(),
    "num_prefetch_queue": whole(1),
    "color": TEXT.or_none(),
    "mean": NUMBERS.or_none(),
    "std": NUMBERS.or_none(),
    # BasicSR writes them itself.
    "scale": ANYTHING,
    "phase": ANYTHING,
    **OF_TRAINING_DATA,
}

# Of each network, NAME of a section network_NAME in: pretrain_network_NAME, ...
LOADING = {
    "pretrain_network": PATH.or_none(),
    "param_key": TEXT.or_none(),
    "strict_load": FLAG.or_none(),
}
# BasicSR makes a folder of every other key under ``path``.
NO_FOLDER = (*LOADING, "resume")
# Keys with these are meant to say what a run begins with: without them it would begin with something else.
ABOUT_LOADING = (*NO_FOLDER, "pretrain")

TABLE = {
    "name": NAME,
    "model_type": TEXT,
    "scale": whole(1),
    "num_gpu": Kind(lambda value: value == "auto" or whole(0).fits(value), "auto, or the number of GPUs, 0 for none"),
    # NumPy takes 32 bits, and each process and worker adds its number.
    "manual_seed": whole(0, 2**32 - 2**16).or_none(),
    "find_unused_parameters": FLAG.or_none(),
    "imports": MODULES,
    "datasets": {"train": DATASET, "*": DATASET},
    "network_g": {"type": TEXT, "*": ANYTHING},
    "path": {
        **{f"{key}_g": kind for key, kind in LOADING.items()},
        "resume_state": PATH.or_none(),
        "ignore_resume_networks": Kind(
            lambda value: isinstance(value, (str, list)), "network_g, or a list of such names"
        ).or_none(),
        # BasicSR writes them itself.
        **dict.fromkeys(
            ("experiments_root", "results_root", "models", "training_states", "log", "visualization"), TEXT
        ),
    },
    "train": {
        "total_iter": whole(1, 10**9, floats=True),
        "warmup_iter": whole(-1, floats=True),
        "ema_decay": number(0, 1),
        "optim_g": {"type": TEXT, "*": ANYTHING},
        "scheduler": {"type": TEXT, "*": ANYTHING},
        "pixel_opt": {"type": TEXT, "*": ANYTHING},
        "perceptual_opt": {"type": TEXT, "*": ANYTHING},
    },
    "val": {
        "val_freq": FREQUENCY,
        "save_img": FLAG.or_none(),
        "pbar": FLAG.or_none(),
        "suffix": TEXT.or_none(),
        "metrics": {"*": {"type": TEXT, "*": ANYTHING}},
    },
    "logger": {
        "print_freq": FREQUENCY,
        "save_checkpoint_freq": FREQUENCY,
        "use_tb_logger": FLAG.or_none(),
        "wandb": {"project": TEXT.or_none(), "resume_id": TEXT.or_none()},
    },
    "dist_params": {"backend": TEXT, "port": whole(1, 65535)},
}
# Sections that may be empty (``~``).
MAY_BE_EMPTY = {
    ("val",),
    ("val", "metrics"),
    ("val", "tile"),
    ("logger", "wandb"),
    ("dist_params",),
    ("train", "pixel_opt"),
    ("train", "perceptual_opt"),
}


def _with_ours(table):
    """The table with the keys of ContrastModel, whose values ``setting_problems`` looks at."""
    table = {key: _with_ours(value) if isinstance(value, dict) else value for key, value in table.items()}
    if table.keys() == TABLE.keys():
        for *sections, key in KEYS:
            at = table
            for section in sections:
                at = at.setdefault(section, {})
            at[key] = ANYTHING
    return table


_TABLE = _with_ours(TABLE)

# Keys that BasicSR reads without asking whether they are there, some of them hours into a run.
REQUIRED = ("name", "model_type", "num_gpu", "datasets", "network_g", "path")
REQUIRED_FOR_TRAINING = (*REQUIRED, "scale", "train", "logger")
REQUIRED_FOR_TESTING = (*REQUIRED, "val")
REQUIRED_INSIDE = {
    ("train",): ("total_iter", "optim_g", "scheduler"),
    ("logger",): ("print_freq", "save_checkpoint_freq", "use_tb_logger"),
    ("val",): ("val_freq", "save_img"),
}
REQUIRED_OF_DATA = ("name", "type")
REQUIRED_OF_TRAINING_DATA = ("gt_size", "use_hflip", "use_rot", "batch_size_per_gpu", "num_worker_per_gpu")


def value_problems(options: dict) -> Iterator[Problem]:
    """Keys that are unknown, and values that cannot be used whatever the others are.

    Args:
        options: as the file has them, with the changes of --force_yml.
    """
    model = options.get("model_type")
    labels = [key.removeprefix("network_") for key in options if str(key).startswith("network_")]
    paths = {f"{key}_{label}": kind for key, kind in LOADING.items() for label in labels}
    yield from _unknown_and_unfit(options, _TABLE | {"path": paths | _TABLE["path"]}, (), model)
    if model == OURS:
        yield from (error(path, message) for path, message in setting_problems(plain(options)))
    elif model == "SRModel":
        yield from _not_of_this_model(options)


def is_unread(path: Path, options: dict, is_train: bool) -> bool:
    """True if BasicSR does not read a key: one of training in a test, or of training data for another dataset.

    Args:
        path: of a key in the options.
    """
    if options.get("model_type") == OURS and path in KEYS:
        return False  # ContrastModel looks at all of them
    if _value(options, path) is None:
        return False  # a key that is no text: BasicSR prints all keys
    if path[0] == "datasets":
        return len(path) == 3 and path[2] in OF_TRAINING_DATA and path[1].split("_")[0] != "train"
    return not is_train and (path[0] in ("train", "logger") or path == ("val", "val_freq"))


def _unknown_and_unfit(section, table, path, model):
    for key, value in section.items():
        at = (*path, str(key))
        if not isinstance(key, str):
            yield error(at, f"{': '.join(at)}: a key that is no text, which BasicSR cannot print; quote it")
            continue
        kind = table.get(key, table.get("*"))
        if kind is None:
            yield from _unknown(at, value, table, model)
        elif isinstance(kind, Kind):
            yield from _unfit(at, value, kind)
            if isinstance(value, dict):
                yield from _unknown_and_unfit(value, {"*": ANYTHING}, at, model)
        elif isinstance(value, dict):
            yield from _unknown_and_unfit(value, kind, at, model)
        elif value is not None or at not in MAY_BE_EMPTY:
            yield error(at, f"{': '.join(at)}: {shortened(value)}: expected keys of its own, indented below it")


def _unknown(path, value, table, model):
    where, near = ": ".join(path), difflib.get_close_matches(path[-1], table, n=1, cutoff=0.75)
    hint = f"; did you mean {near[0]}?" if near else ""
    if path[0] == "path" and len(path) == 2:
        yield _unknown_path(path[-1], value, table, model)
    elif not basicsr_is_released() and not (near and model == OURS):
        yield note(path, f"{where}: no key of BasicSR 1.4.2; the project's own code may read it{hint}")
    elif model in KNOWN_MODELS and path[-1] in TABLE["path"] and any(word in path[-1] for word in ABOUT_LOADING):
        yield error(path, f"{where}: no such key; it belongs under path")
    elif near and model in KNOWN_MODELS:
        yield error(path, f"{where}: no such key{hint}", ignored=model != OURS)
    elif model in KNOWN_MODELS:
        yield warning(path, f"{where}: no such key; it is ignored")


def _unknown_path(key, value, table, model):
    """The finding about a key under ``path`` that is not in the table."""
    about_loading = any(word in key.lower() for word in ABOUT_LOADING)
    near = difflib.get_close_matches(key, table, n=1, cutoff=0.5 if about_loading else 0.75)
    # A model of a project may have networks that no section of the option file makes.
    of_a_network = key.startswith(tuple(f"{word}_" for word in LOADING)) and key.lower() not in table
    harmless = isinstance(value, str) and value != "" and not os.path.isfile(value)
    does = "of which BasicSR would make a folder"
    if any(word in key for word in NO_FOLDER):
        does = "which BasicSR does not read"
    hint = f"; did you mean {near[0]}?" if near else ""
    ignored = (of_a_network and model not in KNOWN_MODELS) or (harmless and not near and not about_loading)
    return error(("path", key), f"path: {key}: no such key, {does}{hint}", ignored)


def _unfit(path, value, kind):
    where, number = ": ".join(path), numbers_in(value)
    if path[-1] in ("dataroot_gt", "dataroot_lq") and isinstance(value, list) and not basicsr_is_released():
        return  # as MambaIR's datasets take it
    if number is not None and kind.fits(number) and (kind is ANYTHING or not kind.fits(value)):
        text = value if isinstance(value, str) else shortened(value)
        quotes = "" if "!!float" in written(value) else ", without quotes"
        yield error(path, f"{where}: {text} is read as text; write '{path[-1]}: {written(value)}'{quotes}")
    elif not kind.fits(value):
        whole_number = isinstance(value, float) and value.is_integer() and kind.fits(int(value))
        hint = f"; write '{path[-1]}: {int(value)}'" if whole_number else ""
        yield error(path, f"{where}: {shortened(value)}: expected {kind.expected}{hint}")


def missing_problems(options: dict, is_train: bool, file: str) -> Iterator[Problem]:
    """Sections that lack keys.

    Args:
        options: see :func:`value_problems`.
        is_train: whether they are for training or for testing.
        file: its name, for messages.
    """
    yield from _require((), options, REQUIRED_FOR_TRAINING if is_train else REQUIRED_FOR_TESTING, file)
    if is_train:
        for path, keys in REQUIRED_INSIDE.items():
            yield from _require(path, options.get(path[0]), keys)
    elif "val" in options:
        if options["val"] is None:
            yield error(("val",), "val: None: expected keys of its own, indented below it")
        yield from _require(("val",), options["val"], ("save_img",))
    yield from _require(("network_g",), options.get("network_g"), ("type",))
    datasets = options.get("datasets")
    if not isinstance(datasets, dict):
        return
    if is_train and "train" not in datasets:
        yield error(("datasets",), "datasets has no entry 'train'")
    for phase, dataset in datasets.items():
        keys = (*REQUIRED_OF_DATA, *(REQUIRED_OF_TRAINING_DATA if is_train and phase == "train" else ()))
        yield from _require(("datasets", str(phase)), dataset, keys)


def _require(path: Path, section, keys, name=""):
    if not isinstance(section, dict):
        return
    missing = [key for key in keys if key not in section]
    if not missing:
        return
    near = {key: difflib.get_close_matches(key, section, n=1, cutoff=0.75) for key in missing}
    hints = "".join(f"; {found[0]!r} may be meant for {key}" for key, found in near.items() if found)
    where = ": ".join(path) or name
    yield error(
        path,
        f"{where} has no {', '.join(missing)}{hints or '; the option files of this package show what belongs there'}",
    )


def _not_of_this_model(options):
    for path, key in KEYS.items():
        if _value(options, path) not in (None, key.default):
            yield error(
                path,
                f"{': '.join(path)}: SRModel ignores it; 'model_type: ContrastModel' has it",
                ignored=True,
            )


def _value(options, path):
    for key in path:
        options = options.get(key) if isinstance(options, dict) else None
    return options


def without(options: dict, paths: set[Path], at: Path = ()) -> dict:
    """The options without the keys at these paths, for what looks at several of them together."""
    return {
        key: without(value, paths, (*at, str(key))) if isinstance(value, dict) else value
        for key, value in options.items()
        if (*at, str(key)) not in paths
    }
