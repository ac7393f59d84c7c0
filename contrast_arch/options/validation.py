"""Option files held against the schema: keys that are unknown or missing, and values that are not allowed."""

import functools
import os
from collections.abc import Iterator

from pydantic import create_model

from contrast_arch.compat import basicsr_is_released
from contrast_arch.errors import nearest
from contrast_arch.options import schema
from contrast_arch.options.kinds import ESCAPED
from contrast_arch.options.messages import (
    BACKSLASH,
    SECTION,
    is_open,
    known_keys,
    numbers_in,
    schema_of,
    shortened,
    unfit,
    written,
)
from contrast_arch.options.problems import Path, Problem, error, note, warning
from contrast_arch.options.schema import CONTRAST_MODEL, KEYS, SR_MODEL, OptionFile, Paths

# Models whose keys are all known here; those of others may have more.
KNOWN_MODELS = (SR_MODEL, CONTRAST_MODEL)
# Of each network, NAME of a section network_NAME in: pretrain_network_NAME, ...
LOADING = ("pretrain_network", "param_key", "strict_load")
# Those of which all keys are known here.
DATASETS = ("PairedImageDataset", "SingleImageDataset", "RealESRGANPairedDataset")
# BasicSR makes a folder of every other key under ``path``.
NO_FOLDER = (*LOADING, "resume")
# Keys with these are meant to say what a run begins with: without them it would begin with something else.
ABOUT_LOADING = (*NO_FOLDER, "pretrain")
# BasicSR reads them of the dataset that it trains on.
OF_TRAINING_DATA = (*schema.BatchSettings.model_fields, "gt_size", "use_hflip", "use_rot")


def value_problems(options: dict) -> Iterator[Problem]:
    """Keys that are unknown, and values that cannot be used whatever the others are.

    Args:
        options: as the file has them, with the changes of --force_yml.
    """
    labels = (str(key).removeprefix("network_") for key in options if str(key).startswith("network_"))
    file, model = _option_file(tuple(sorted({*labels} - {"g"}))), options.get("model_type")
    yield from _keys(file, options, (), model)
    yield from _values(file, options, model)
    if model == SR_MODEL:
        for path, key in KEYS.items():
            if _value(options, path) not in (None, key.default):
                text = f"{': '.join(path)}: SRModel ignores it; 'model_type: ContrastModel' has it"
                yield error(path, text, ignored=True)


@functools.cache
def _option_file(labels):
    """Model of an option file with these networks besides ``network_g``."""
    keys = {f"{key}_{label}": Paths.model_fields[f"{key}_g"] for key in LOADING for label in labels}
    paths = create_model("Paths", __base__=Paths, **{name: (key.annotation, key) for name, key in keys.items()})
    return create_model("OptionFile", __base__=OptionFile, path=(paths, OptionFile.model_fields["path"]))


def _keys(file, section, path, model):
    """Keys that are unknown, and text that looks like a number in sections of which nothing is known."""
    for key, value in section.items():
        at = (*path, str(key))
        kind = schema_of(file, at)
        if not isinstance(key, str):
            yield error(at, f"{': '.join(at)}: a key that is no text, which BasicSR cannot print; quote it")
        elif kind is None:
            yield from _unknown(file, section, at, model)
        elif isinstance(value, dict):
            yield from _keys(file, value, at, model)
        elif is_open(kind) and numbers_in(value) is not None:
            yield _number_as_text(at, value)


def _values(file, options, model):
    """Values that are not allowed."""
    found = [wrong for wrong in unfit(file, options) if model == CONTRAST_MODEL or own_key(wrong.path) is None]
    still = {wrong.path for wrong in unfit(file, _as_numbers(options))} if found else set()
    for path, value, expected in found:
        could_be = None if path in still else _as_numbers(value)
        if path[-1] in ("dataroot_gt", "dataroot_lq") and isinstance(value, list) and not basicsr_is_released():
            continue  # as MambaIR's datasets take it
        if could_be is not None and numbers_in(value) is not None:
            yield _number_as_text(path, value)
        else:
            hint = f"; write '{path[-1]}: {could_be}'" if isinstance(value, float) and could_be is not None else ""
            hint = f" ({BACKSLASH})" if isinstance(value, str) and ESCAPED & set(value) else hint
            yield error(path, f"{': '.join(path)}: {shortened(value)}: {expected}{hint}")


def _as_numbers(value):
    """A value with numbers for text that looks like them, and with ints for whole floats."""
    if isinstance(value, dict):
        return {key: _as_numbers(item) for key, item in value.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    number = numbers_in(value)
    return value if number is None else number


def _number_as_text(path, value):
    text = value if isinstance(value, str) else shortened(value)
    quotes = "" if "!!float" in written(value) else ", without quotes"
    return error(path, f"{': '.join(path)}: {text} is read as text; write '{path[-1]}: {written(value)}'{quotes}")


def _unknown(file, section, path, model):
    known = known_keys(file, path[:-1])
    where, near = ": ".join(path), nearest(path[-1], known, 1, 0.75)
    hint = f"; did you mean {near[0]}?" if near else ""
    kind = section.get("type", DATASETS[0]) if path[0] == "datasets" else None
    if path[0] == "path" and len(path) == 2:
        yield _unknown_path(path[-1], section[path[-1]], known, model)
    elif not basicsr_is_released() and not (near and model == CONTRAST_MODEL):
        yield note(path, f"{where}: no key of BasicSR 1.4.2; the project's own code may read it{hint}")
    elif model not in KNOWN_MODELS or (isinstance(kind, str) and kind not in DATASETS):
        return  # the project's own
    elif path[-1] in Paths.model_fields and any(word in path[-1] for word in ABOUT_LOADING):
        yield error(path, f"{where}: no such key; it belongs under path")
    elif near:
        yield error(path, f"{where}: no such key{hint}", ignored=model != CONTRAST_MODEL)
    else:
        yield warning(path, f"{where}: no such key; it is ignored")


def _unknown_path(key, value, known, model):
    """The finding about a key under ``path`` that is not in the known."""
    about_loading = any(word in key.lower() for word in ABOUT_LOADING)
    near = nearest(key, known, 1, 0.5 if about_loading else 0.75)
    # A model of a project may have networks that no section of the option file makes.
    of_a_network = key.startswith(tuple(f"{word}_" for word in LOADING)) and key.lower() not in known
    harmless = isinstance(value, str) and value != "" and not os.path.isfile(value)
    does = "of which BasicSR would make a folder"
    if any(word in key for word in NO_FOLDER):
        does = "which BasicSR does not read"
    hint = f"; did you mean {near[0]}?" if near else ""
    ignored = (of_a_network and model not in KNOWN_MODELS) or (harmless and not near and not about_loading)
    return error(("path", key), f"path: {key}: no such key, {does}{hint}", ignored)


def missing_problems(options: dict, is_train: bool, file: str) -> Iterator[Problem]:
    """Sections that lack keys.

    Args:
        options: see :func:`value_problems`.
        is_train: whether they are for training or for testing.
        file: its name, for messages.
    """
    if not is_train and options.get("val", ()) is None:
        yield error(("val",), f"val: None: expected {SECTION}")
    yield from _missing(OptionFile, options, (), set(schema.TRAINING if is_train else schema.TESTING), file)


def _missing(model, section, path, purposes, where):
    needed = {name: (field.json_schema_extra or {}).get("needed", ()) for name, field in model.model_fields.items()}
    missing = [name for name in needed if purposes.intersection(needed[name]) and name not in section]
    if missing:
        near = {key: nearest(key, section, 1, 0.75) for key in missing}
        hints = "".join(f"; {found[0]!r} may be meant for {key}" for key, found in near.items() if found)
        hints = hints or "; the option files of this package show what belongs there"
        yield error(path, f"{where} has no {', '.join(missing)}{hints}")
    for key, value in section.items():
        field, at = model.model_fields.get(key), (*path, str(key))
        kind = schema.section_of(field) if field else schema.Dataset if model is schema.Datasets else None
        if kind is not None and isinstance(value, dict):
            of_data = kind is schema.TrainingDataset and purposes.issuperset(schema.TRAINING)
            yield from _missing(kind, value, at, purposes.union(schema.TRAINING_DATA if of_data else ()), ": ".join(at))


def own_key(path: Path) -> Path | None:
    """Path of the key of ContrastModel to which a path leads."""
    return next((own for own in KEYS if path[: len(own)] == own), None)


def is_unread(path: Path, options: dict, is_train: bool) -> bool:
    """True if BasicSR does not read a key: one of training in a test, or of training data for another dataset.

    Args:
        path: of a key in the options.
    """
    if options.get("model_type") == CONTRAST_MODEL and own_key(path):
        return False  # ContrastModel looks at all of them
    if _value(options, path) is None:
        return False  # a key that is no text: BasicSR prints all keys
    if path[0] == "datasets":
        return len(path) == 3 and path[2] in OF_TRAINING_DATA and path[1].split("_")[0] != "train"
    return not is_train and schema.is_of_training(path)


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
