"""Words for the values that the schema allows, and for values as messages show them."""

import functools
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from contrast_arch.options.problems import Path

# YAML 1.1 wants a point and a sign in a number with an exponent: 2.0e-4 is one, 2e-4 is text.
NUMBER = re.compile(r"\s*[-+]?(\d{1,300}\.?\d{0,300}|\.\d{1,300})([eE][-+]?\d{1,9})?\s*")
SECTION, ANYTHING = "keys of its own, indented below it", "anything"


def unfit(model: type[BaseModel], options: dict) -> Iterator[tuple[Path, Any, str]]:
    """Yield path, value and allowed values, in words, of everything in options that a model does not allow."""
    try:
        model.model_validate(options)
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
            words = error["msg"] if error["type"] == "together" else f"expected {allowed(schema_of(model, path))}"
            found.setdefault(path, (path, value, words))
        yield from found.values()


@functools.cache
def json_schema(model: type[BaseModel]) -> dict:
    """JSON schema of a model."""
    return model.model_json_schema()


def schema_of(model: type[BaseModel], path: Path) -> dict | None:
    """JSON schema of the key at a path; None where there is no such key."""
    found = json_schema(model)
    for key in path:
        found = key_schema(section_schema(model, found), key)
        if found is None:
            break
    return found


def key_schema(section: dict, key: str) -> dict | None:
    """JSON schema of a key of a section; None where there is no such key."""
    found = section.get("properties", {}).get(key, section.get("additionalProperties"))
    return found if isinstance(found, dict) else {} if found else None


def section_schema(model: type[BaseModel], schema: dict) -> dict:
    """JSON schema of the keys below a key; a value that is no section may have any."""
    kinds = (kind for kind in schema.get("anyOf", [schema]) if "$ref" in kind or kind.get("type") == "object")
    kind = next(kinds, {"additionalProperties": True})
    return json_schema(model)["$defs"][kind["$ref"].rpartition("/")[2]] if "$ref" in kind else kind


def allowed(schema: dict) -> str:
    """Describe the values that a JSON schema allows, as messages and tables word it."""
    if "allowed" in schema:
        return schema["allowed"]
    kinds = schema.get("anyOf", [schema])
    *words, last = (word for kind in kinds for word in _words(kind))
    if last == SECTION:
        return SECTION
    may_be_empty = ", or ~" if {"type": "null"} in kinds else ""
    return " or ".join(filter(None, (", ".join(words), last))) + may_be_empty


def _words(schema):
    kind = schema.get("type")
    if "allowed" in schema:
        return [schema["allowed"]]
    if "enum" in schema or "const" in schema:
        return [str(value) for value in schema.get("enum", [schema.get("const")])]
    if kind in ("integer", "number"):
        return [_limited(schema, "a whole number" if kind == "integer" else "a number")]
    of_kind = {"boolean": ["true", "false"], "null": [], "object": [SECTION]}
    return of_kind.get(kind, [SECTION if "$ref" in schema else ANYTHING])


def _limited(schema, noun):
    if schema["type"] == "integer" and {"minimum", "maximum"} <= schema.keys():
        return f"{noun} from {schema['minimum']} to {schema['maximum']}"
    bounds = {"exclusiveMinimum": "above", "minimum": "of at least", "maximum": "at most"}
    limits = (f"{words} {schema[key]:g}" for key, words in bounds.items() if key in schema)
    return f"{noun} {' and '.join(limits)}".strip()


def shortened(value: Any) -> str:
    """Show a value in a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def as_number(value: Any) -> str | None:
    """Write a text that looks like a number, or a list with such, so that YAML reads it; None for other values."""
    if isinstance(value, (list, tuple)):
        items = [as_number(item) for item in value]
        return f"[{', '.join(new or str(old) for new, old in zip(items, value, strict=True))}]" if any(items) else None
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return f"!!float {value.strip()}" if "e" in value.lower() else value.strip()
    return None
