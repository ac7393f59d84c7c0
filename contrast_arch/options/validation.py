"""Validation of option files: keys that are unknown or missing, and values that the schema does not allow."""

from collections.abc import Iterator

from contrast_arch.compat import basicsr_is_released
from contrast_arch.errors import nearest
from contrast_arch.options.messages import (
    ANYTHING,
    SECTION,
    allowed,
    as_number,
    json_schema,
    key_schema,
    section_schema,
    shortened,
    unfit,
)
from contrast_arch.options.problems import WARNING, Path, Problem
from contrast_arch.options.schema import ALWAYS, CONTRAST_MODEL, KEYS, SR_MODEL, OptionFile, Paths, value_at

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
    for path, section, known in _sections(json_schema(OptionFile), options):
        for key, value in section.items():
            schema = key_schema(known, key)
            if schema is None:
                yield from _unknown(options, section, known.get("properties", ()), (*path, key))
            elif allowed(schema) == ANYTHING:
                yield from _number_as_text((*path, key), value)
    for path, value, expected in unfit(OptionFile, options):
        if model != CONTRAST_MODEL and own_key(path):
            continue
        if path[-1] in ("dataroot_gt", "dataroot_lq") and isinstance(value, list) and not basicsr_is_released():
            continue  # as MambaIR's datasets take it
        hint = f"; write '{path[-1]}: {int(value)}'" if isinstance(value, float) and value.is_integer() else ""
        as_text = list(_number_as_text(path, value))
        yield from as_text or [Problem.at(path, f"{shortened(value)}: {expected}{hint}")]
    for path, key in KEYS.items() if model == SR_MODEL else ():
        if value_at(options, path) not in (None, key.default):
            yield Problem.at(path, f"SRModel ignores it; 'model_type: {CONTRAST_MODEL}' has it", ignored=True)


def missing_problems(options: dict, is_train: bool, file: str) -> Iterator[Problem]:
    """Find sections that lack keys.

    Args:
        options: see :func:`value_problems`.
        is_train: True for training, False for testing.
        file: its name, for messages.
    """
    if not is_train and options.get("val", ()) is None:
        yield Problem.at(("val",), f"None: expected {SECTION}")
    for path, section, known in _sections(json_schema(OptionFile), options):
        needed = {key: schema.get("needed", ()) for key, schema in known.get("properties", {}).items()}
        # Those of training data alone are for the section train.
        purposes = {*ALWAYS} if known.get("title") == "Dataset" else {"training" if is_train else "testing"}
        missing = [key for key in needed if key not in section and purposes <= {*needed[key]}]
        near = {key: nearest(key, section, 1, 0.75) for key in missing}
        hints = "".join(f"; {found[0]!r} may be meant for {key}" for key, found in near.items() if found)
        if missing:
            hints = hints or "; the option files of this package show what belongs there"
            yield Problem(f"{': '.join(path) or file} has no {', '.join(missing)}{hints}", path)


def _sections(schema, section, path=()) -> Iterator[tuple[Path, dict, dict]]:
    """Yield path, keys and JSON schema of every section that is known."""
    yield path, section, schema
    for key, value in section.items():
        below = key_schema(schema, key)
        if isinstance(value, dict) and below is not None:
            yield from _sections(section_schema(OptionFile, below), value, (*path, key))


def _number_as_text(path, value):
    """Find a text that looks like a number, or a list with such texts."""
    if new := as_number(value):
        text, quotes = value if isinstance(value, str) else shortened(value), ", without quotes"
        end = "" if "!!float" in new else quotes
        yield Problem.at(path, f"{text} is read as text; write '{path[-1]}: {new}'{end}")


def _unknown(options, section, known, path):
    """Find an unknown key, unless a project's own code may read it."""
    key, model, text = path[-1], options.get("model_type"), "no such key"
    of_project, about_loading = model not in KNOWN_MODELS, any(word in key.lower() for word in ABOUT_LOADING)
    near = nearest(key, known, 1, 0.5 if path[0] == "path" and about_loading else 0.75)
    hint = f"; did you mean {near[0]}?" if near else ""
    if path[0] == "path":
        word, _, label = key.rpartition("_")
        of_a_network = word in LOADING and key.lower() not in known
        if not of_a_network or f"network_{label}" not in options:
            # Of the keys that BasicSR does not read it makes folders. A project's model may have networks of its own.
            yield Problem.at(path, text + hint, ignored=of_project and (of_a_network or not about_loading))
        return
    kind = section.get("type", DATASETS[0]) if path[0] == "datasets" else DATASETS[0]
    of_project |= isinstance(kind, str) and kind not in DATASETS
    if of_project or not (basicsr_is_released() or (near and model == CONTRAST_MODEL)):
        return
    if key in Paths.model_fields:
        yield Problem.at(path, f"{text}; it belongs under path")
    elif near:
        yield Problem.at(path, text + hint, ignored=model != CONTRAST_MODEL)
    else:
        yield Problem.at(path, f"{text}; it is ignored", WARNING)


def own_key(path: Path) -> Path | None:
    """Path of the key of ContrastModel to which a path leads."""
    return next((own for own in KEYS if path[: len(own)] == own), None)


def without(options: dict, paths: set[Path], at: Path = ()) -> dict:
    """Return the options without the keys at these paths, for checks across keys."""
    return {
        key: without(value, paths, (*at, key)) if isinstance(value, dict) else value
        for key, value in options.items()
        if (*at, key) not in paths
    }
