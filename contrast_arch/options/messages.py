"""Messages about values of an option file, worded after the JSON schema of its pydantic model."""

import functools
import math
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from contrast_arch.files import plain


def unfit(model: type[BaseModel], options: dict) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the path of each key whose value is not allowed, with the value and what is allowed."""
    try:
        model.model_validate(options)
    except ValidationError as failure:
        found = {}
        for error in failure.errors(include_url=False):
            path, value = _place(options, error["loc"])
            # Of keys that do not go together, as the schema words it.
            together = error["type"] == "together"
            expected = error["msg"] if together else f"expected {allowed(schema_of(model, path))}"
            found.setdefault(path, f"{shortened(value)}: {expected}")
        yield from found.items()


def _place(options, location):
    """Return the path of a key, and its value: pydantic's locations go on into lists and kinds."""
    path = ()
    for key in location:
        if not isinstance(options, dict) or key not in options:
            break
        path, options = (*path, key), options[key]
    return path, options


@functools.cache
def json_schema(model: type[BaseModel]) -> dict:
    """JSON schema of a model."""
    return model.model_json_schema()


def schema_of(model: type[BaseModel], path: tuple[str, ...]) -> dict | None:
    """JSON schema of the key at a path; None where there is no such key."""
    root = json_schema(model)
    found = root
    for key in path:
        section = _section(root, found)
        found = section.get("properties", {}).get(key, section.get("additionalProperties"))
        if not isinstance(found, dict):
            return {} if found else None
    return found


def _section(root, schema):
    for kind in schema.get("anyOf", [schema]):
        if "$ref" in kind:
            return root["$defs"][kind["$ref"].rpartition("/")[2]]
        if kind.get("type") == "object":
            return kind
    return {}


def allowed(schema: dict) -> str:
    """Describe the values that a JSON schema allows, as messages and tables word it."""
    if "allowed" in schema:
        return schema["allowed"]
    if "anyOf" in schema:
        kinds = [kind for kind in schema["anyOf"] if kind.get("type") != "null"]
        return _or([words for kind in kinds for words in _words(kind)]) + ", or ~" * (len(kinds) < len(schema["anyOf"]))
    return _or(_words(schema))


def _or(words):
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _words(schema):
    kind = schema.get("type")
    if "allowed" in schema:
        return [schema["allowed"]]
    if "enum" in schema or "const" in schema:
        return [str(value) for value in schema.get("enum", [schema.get("const")])]
    if kind == "boolean":
        return ["true", "false"]
    if kind in ("integer", "number"):
        return [_limited(schema, "a whole number" if kind == "integer" else "a number")]
    if kind == "array":
        return [f"a list of {allowed(schema['items'])}"]
    return ["keys of its own, indented below it"] if kind == "object" or "$ref" in schema else ["anything"]


def _limited(schema, noun):
    lowest, highest = schema.get("minimum"), schema.get("maximum", math.inf)
    if schema["type"] == "integer" and lowest is not None and highest < math.inf:
        return f"{noun} from {lowest} to {highest}"
    limits = [f"above {schema['exclusiveMinimum']:g}"] if "exclusiveMinimum" in schema else []
    limits += [f"of at least {lowest:g}"] if lowest is not None else []
    limits += [f"at most {highest:g}"] if highest < math.inf else []
    return " ".join([noun, " and ".join(limits)]).strip()


def shortened(value: Any) -> str:
    """A value as messages show it."""
    text = repr(plain(value) if isinstance(value, dict) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
