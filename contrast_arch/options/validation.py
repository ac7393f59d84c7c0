"""Option files against the schema: unknown and missing keys, values that are not allowed, the keys of this package."""

import functools
import re
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from contrast_arch.compat import basicsr_is_released
from contrast_arch.errors import nearest
from contrast_arch.options.document import WARNING, Path, Problem, raise_errors
from contrast_arch.options.schema import ALWAYS, CONTRAST_MODEL, SR_MODEL, OptionFile, Paths

# YAML 1.1 wants a point and a sign in a number with an exponent: 2.0e-4 is one, 2e-4 is text.
NUMBER = re.compile(r"\s*[-+]?(\d{1,300}\.?\d{0,300}|\.\d{1,300})([eE][-+]?\d{1,9})?\s*")
SECTION, ANYTHING = "keys of its own, indented below it", "anything"
# Models and datasets whose keys are all known here; those of others may have more.
KNOWN_MODELS = (SR_MODEL, CONTRAST_MODEL)
DATASETS = ("PairedImageDataset", "SingleImageDataset", "RealESRGANPairedDataset")
# Of each network, NAME of a section network_NAME in: pretrain_network_NAME, ...
LOADING = ("pretrain_network", "param_key", "strict_load")
# Keys with these name the start of a run; a run would silently start from something else without them.
ABOUT_LOADING = (*LOADING, "resume", "pretrain")


@functools.cache
def json_schema() -> dict:
    """JSON schema of an option file."""
    return OptionFile.model_json_schema()


def key_schema(section: dict, key: str) -> dict | None:
    """JSON schema of a key of a section; None where there is no such key."""
    found = section.get("properties", {}).get(key, section.get("additionalProperties"))
    return found if isinstance(found, dict) else {} if found else None


def section_schema(schema: dict) -> dict:
    """JSON schema of the keys below a key; a value that is no section may have any."""
    kinds = (kind for kind in schema.get("anyOf", [schema]) if "$ref" in kind or kind.get("type") == "object")
    kind = next(kinds, {"additionalProperties": True})
    return json_schema()["$defs"][kind["$ref"].rpartition("/")[2]] if "$ref" in kind else kind


def schema_of(path: Path) -> dict:
    """JSON schema of a key that there is."""
    return functools.reduce(lambda found, key: key_schema(section_schema(found), key), path, json_schema())


def allowed(schema: dict) -> str:
    """Describe the values that a JSON schema allows, as messages and tables word it."""
    if "allowed" in schema:
        return schema["allowed"]
    kinds = schema.get("anyOf", [schema])
    *words, last = (word for kind in kinds for word in _words(kind))
    may_be_empty = ", or ~" if {"type": "null"} in kinds and last != SECTION else ""
    return " or ".join(filter(None, (", ".join(words), last))) + may_be_empty


def _words(schema):
    kind = schema.get("type")
    if "allowed" in schema:
        return [schema["allowed"]]
    if "enum" in schema or "const" in schema:
        return [str(value) for value in schema.get("enum", [schema.get("const")])]
    if kind in ("integer", "number"):
        noun = "a whole number" if kind == "integer" else "a number"
        if kind == "integer" and {"minimum", "maximum"} <= schema.keys():
            return [f"{noun} from {schema['minimum']} to {schema['maximum']}"]
        bounds = {"exclusiveMinimum": "above", "minimum": "of at least", "maximum": "at most"}
        limits = (f"{words} {schema[key]:g}" for key, words in bounds.items() if key in schema)
        return [f"{noun} {' and '.join(limits)}".strip()]
    if kind == "array" and "items" in schema:
        return [f"a list of {allowed(schema['items'])}"]
    of_kind = {"boolean": ["true", "false"], "null": [], "object": [SECTION]}
    return of_kind.get(kind, [SECTION if "$ref" in schema else ANYTHING])


def _own_keys(section, path=()) -> Iterator[tuple[Path, dict]]:
    for name, schema in section.get("properties", {}).items():
        below = [((*path, name), schema)] if "of" in schema else _own_keys(section_schema(schema), (*path, name))
        yield from below


# Keys that are not BasicSR's, by their path, and those of them that ContrastModel adds; val: tile is one.
OWN = dict(_own_keys(json_schema()))
KEYS = {path: schema for path, schema in OWN.items() if schema["of"] == CONTRAST_MODEL}


def settings_of(opt: dict) -> OptionFile:
    """Read the keys of ContrastModel and contrast-train from options as BasicSR parsed them, complete or not.

    ``~`` is the default, which ContrastModel's keys have with SRModel too. InputError with all values that cannot be
    used, a line each.
    """
    given = {}
    for path in OWN:
        section, value = given, value_at(opt, path)
        for name in path[:-1]:
            section = section.setdefault(name, {})
        if value is not None and (path not in KEYS or opt.get("model_type") != SR_MODEL):
            section[path[-1]] = value
    raise_errors([Problem.at(path, f"{_shortened(value)}: {words}") for path, value, words in _unfit(given)])
    return OptionFile.model_validate(given)


def micro_batches(opt: dict) -> int:
    """Number of micro-batches per iteration (1 for models that do not accumulate)."""
    return settings_of(opt).train.accumulate if opt.get("model_type") == CONTRAST_MODEL else 1


def value_at(options: dict, path: Path) -> Any:
    """Value of the key at a path; None without one."""
    for key in path:
        options = options.get(key) if isinstance(options, dict) else None
    return options


def value_problems(options: dict) -> Iterator[Problem]:
    """Find keys that are unknown, and values that are wrong by themselves."""
    model = options.get("model_type")
    for path, section, known in _sections(json_schema(), options):
        for key, value in section.items():
            schema = key_schema(known, key)
            if schema is None:
                yield from _unknown(options, section, known.get("properties", ()), (*path, key))
            elif allowed(schema) == ANYTHING:
                yield from _number_as_text((*path, key), value)
    for path, value, expected in _unfit(options):
        if model != CONTRAST_MODEL and own_key(path):
            continue
        if path[-1] in ("dataroot_gt", "dataroot_lq") and isinstance(value, list) and not basicsr_is_released():
            continue  # as MambaIR's datasets take it
        hint = f"; write '{path[-1]}: {int(value)}'" if isinstance(value, float) and value.is_integer() else ""
        as_text = list(_number_as_text(path, value))
        yield from as_text or [Problem.at(path, f"{_shortened(value)}: {expected}{hint}")]
    for path, key in KEYS.items() if model == SR_MODEL else ():
        if value_at(options, path) not in (None, key["default"]):
            yield Problem.at(path, f"SRModel ignores it; 'model_type: {CONTRAST_MODEL}' has it", ignored=True)


def missing_problems(options: dict, is_train: bool, file: str) -> Iterator[Problem]:
    """Find sections that lack keys which training, or testing, needs; ``file`` is the name for messages."""
    if not is_train and options.get("val", ()) is None:
        yield Problem.at(("val",), f"None: expected {SECTION}")
    for path, section, known in _sections(json_schema(), options):
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
            yield from _sections(section_schema(below), value, (*path, key))


def _unfit(options) -> Iterator[tuple[Path, Any, str]]:
    """Yield path, value and allowed values, in words, of everything in options that the schema does not allow."""
    try:
        OptionFile.model_validate(options)
    except ValidationError as failure:
        found = {}
        for error in failure.errors(include_url=False):
            path, value = (), options
            # Pydantic's locations go on into lists and kinds.
            for key in error["loc"]:
                if not isinstance(value, dict) or (key not in value and error["type"] != "missing"):
                    break
                path, value = (*path, key), value.get(key)
            # "together" is of keys that do not go together, as the schema words it.
            words = error["msg"] if error["type"] == "together" else f"expected {allowed(schema_of(path))}"
            found.setdefault(path, (path, value, words))
        yield from found.values()


def _number_as_text(path, value):
    """Find a text that looks like a number, or a list with such texts."""
    if new := _as_number(value):
        text, end = value if isinstance(value, str) else _shortened(value), ", without quotes"
        yield Problem.at(path, f"{text} is read as text; write '{path[-1]}: {new}'{'' if '!!float' in new else end}")


def _as_number(value):
    """Write a text that looks like a number, or a list with such, so that YAML reads it; None for other values."""
    if isinstance(value, (list, tuple)):
        items = [_as_number(item) for item in value]
        return f"[{', '.join(new or str(old) for new, old in zip(items, value, strict=True))}]" if any(items) else None
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return f"!!float {value.strip()}" if "e" in value.lower() else value.strip()
    return None


def _shortened(value):
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


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
