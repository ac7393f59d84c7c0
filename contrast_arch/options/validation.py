"""Validation of option files: keys that are unknown or missing, and values that the schema does not allow."""

from collections.abc import Iterator

from contrast_arch.compat import basicsr_is_released
from contrast_arch.errors import nearest
from contrast_arch.options import schema
from contrast_arch.options.messages import (
    ANYTHING,
    SECTION,
    allowed,
    as_number,
    schema_of,
    section_schema,
    shortened,
    unfit,
    written,
)
from contrast_arch.options.problems import WARNING, Path, Problem
from contrast_arch.options.schema import CONTRAST_MODEL, KEYS, SR_MODEL, OptionFile, Paths

# Models and datasets whose keys are all known here; those of others may have more.
KNOWN_MODELS = (SR_MODEL, CONTRAST_MODEL)
DATASETS = ("PairedImageDataset", "SingleImageDataset", "RealESRGANPairedDataset")
# Of each network, NAME of a section network_NAME in: pretrain_network_NAME, ...
LOADING = ("pretrain_network", "param_key", "strict_load")
# Keys with these name the start of a run; a run would silently start from something else without them.
ABOUT_LOADING = (*LOADING, "resume", "pretrain")


def value_problems(options: dict) -> Iterator[Problem]:
    """Find keys that are unknown, and values that are wrong by themselves.

    Args:
        options: as the file has them, with the changes of --force_yml.
    """
    model = options.get("model_type")
    yield from _keys(options, options, ())
    for path, value, expected in unfit(OptionFile, options):
        if model != CONTRAST_MODEL and own_key(path):
            continue
        if path[-1] in ("dataroot_gt", "dataroot_lq") and isinstance(value, list) and not basicsr_is_released():
            continue  # as MambaIR's datasets take it
        hint = f"; write '{path[-1]}: {int(value)}'" if isinstance(value, float) and value.is_integer() else ""
        yield _number_as_text(path, value) or Problem.at(path, f"{shortened(value)}: {expected}{hint}")
    for path, key in KEYS.items() if model == SR_MODEL else ():
        if value_at(options, path) not in (None, key.default):
            yield Problem.at(path, f"SRModel ignores it; 'model_type: {CONTRAST_MODEL}' has it", ignored=True)


def _keys(options, section, path):
    """Find keys that are unknown, and text that looks like a number where any value is allowed."""
    for key, value in section.items():
        at = (*path, str(key))
        kind, found = schema_of(OptionFile, at), None
        if not isinstance(key, str):
            found = Problem.at(at, "a key that is no text, which BasicSR cannot print; quote it")
        elif kind is None:
            found = _unknown(options, section, at)
        elif isinstance(value, dict):
            yield from _keys(options, value, at)
        elif allowed(kind) == ANYTHING:
            found = _number_as_text(at, value)
        if found:
            yield found


def _number_as_text(path, value):
    """Make the finding about a text that looks like a number, or a list with such texts; None for other values."""
    if as_number(value) is value:
        return None
    text, quotes = value if isinstance(value, str) else shortened(value), ", without quotes"
    new = written(value)
    return Problem.at(path, f"{text} is read as text; write '{path[-1]}: {new}'{'' if '!!float' in new else quotes}")


def _unknown(options, section, path):
    """Make the finding about an unknown key; None where a project's own code may read it."""
    key, of_path, model = path[-1], path[0] == "path" and len(path) == 2, options.get("model_type")
    known = section_schema(OptionFile, schema_of(OptionFile, path[:-1])).get("properties", ())
    about_loading = any(word in key.lower() for word in ABOUT_LOADING)
    near = nearest(key, known, 1, 0.5 if of_path and about_loading else 0.75)
    hint = f"; did you mean {near[0]}?" if near else ""
    if of_path:
        word, _, label = key.rpartition("_")
        of_a_network = word in LOADING and key.lower() not in known
        if of_a_network and f"network_{label}" in options:
            return None
        # Of the keys that BasicSR does not read it makes folders. A project's model may have networks of its own.
        ignored = model not in KNOWN_MODELS and (of_a_network or not about_loading)
        return Problem.at(path, f"no such key{hint}", ignored=ignored)
    kind = section.get("type", DATASETS[0]) if path[0] == "datasets" else None
    of_project = model not in KNOWN_MODELS or (isinstance(kind, str) and kind not in DATASETS)
    if of_project or not (basicsr_is_released() or (near and model == CONTRAST_MODEL)):
        return None
    if key in Paths.model_fields and about_loading:
        return Problem.at(path, "no such key; it belongs under path")
    if near:
        return Problem.at(path, f"no such key{hint}", ignored=model != CONTRAST_MODEL)
    return Problem.at(path, "no such key; it is ignored", WARNING)


def missing_problems(options: dict, is_train: bool, file: str) -> Iterator[Problem]:
    """Find sections that lack keys.

    Args:
        options: see :func:`value_problems`.
        is_train: True for training, False for testing.
        file: its name, for messages.
    """
    if not is_train and options.get("val", ()) is None:
        yield Problem.at(("val",), f"None: expected {SECTION}")
    yield from _missing(OptionFile, options, (), {*(schema.TRAINING if is_train else schema.TESTING)}, file)


def _missing(model, section, path, purposes, where):
    needed = {name: (field.json_schema_extra or {}).get("needed", ()) for name, field in model.model_fields.items()}
    missing = [name for name in needed if purposes.intersection(needed[name]) and name not in section]
    if missing:
        near = {key: nearest(key, section, 1, 0.75) for key in missing}
        hints = "".join(f"; {found[0]!r} may be meant for {key}" for key, found in near.items() if found)
        hints = hints or "; the option files of this package show what belongs there"
        yield Problem(f"{where} has no {', '.join(missing)}{hints}", path)
    for key, value in section.items():
        field, at = model.model_fields.get(key), (*path, str(key))
        kind = schema.section_of(field) if field else schema.Dataset if model is schema.Datasets else None
        if kind is not None and isinstance(value, dict):
            of_data = kind is schema.TrainingDataset and purposes.issuperset(schema.TRAINING)
            yield from _missing(kind, value, at, purposes.union(schema.TRAINING_DATA if of_data else ()), ": ".join(at))


def own_key(path: Path) -> Path | None:
    """Path of the key of ContrastModel to which a path leads."""
    return next((own for own in KEYS if path[: len(own)] == own), None)


def value_at(options: dict, path: Path):
    """Value of the key at a path; None without one."""
    for key in path:
        options = options.get(key) if isinstance(options, dict) else None
    return options


def without(options: dict, paths: set[Path], at: Path = ()) -> dict:
    """Return the options without the keys at these paths, for checks across keys."""
    return {
        key: without(value, paths, (*at, str(key))) if isinstance(value, dict) else value
        for key, value in options.items()
        if (*at, str(key)) not in paths
    }
