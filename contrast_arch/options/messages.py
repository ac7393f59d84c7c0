"""Messages about values of an option file, worded after the JSON schema of its pydantic model."""

import functools
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from contrast_arch.options.problems import Path

# YAML 1.1 wants a point and a sign in a number with an exponent: 2.0e-4 is one, 2e-4 is text.
NUMBER = re.compile(r"[-+]?(\d{1,300}\.?\d{0,300}|\.\d{1,300})([eE][-+]?\d{1,9})?")


SECTION, ANYTHING = "keys of its own, indented below it", "anything"
BACKSLASH = "in double quotes a backslash begins an escape; write / in its place, or single quotes"


class Unfit(NamedTuple):
    """A value that is not allowed."""

    path: Path
    value: Any
    expected: str

    def __str__(self):
        return f"{': '.join(self.path)}: {shortened(self.value)}: {self.expected}"


def unfit(model: type[BaseModel], options: dict) -> Iterator[Unfit]:
    """Yield all values of options that their model does not allow."""
    try:
        model.model_validate(options)
    except ValidationError as failure:
        found = {}
        for error in failure.errors(include_url=False):
            path, value = _place(model, options, error["loc"])
            if not all(isinstance(key, str) for key in path):
                continue
            # Of keys that do not go together, as the schema words it.
            together = error["type"] == "together"
            expected = error["msg"] if together else f"expected {allowed(schema_of(model, path))}"
            found.setdefault(path, Unfit(path, value, expected))
        yield from found.values()


def _place(model, options, location):
    """Return the path of a key, and its value: pydantic's locations go on into lists and kinds."""
    path = ()
    for key in location:
        if not isinstance(options, dict) or "type" not in section_schema(model, schema_of(model, path)):
            break
        # Pydantic writes some keys that are no text as text.
        path, options = (*path, key if key in options else None), options.get(key)
    return path, options


@functools.cache
def json_schema(model: type[BaseModel]) -> dict:
    """JSON schema of a model."""
    return model.model_json_schema()


def schema_of(model: type[BaseModel], path: Path) -> dict | None:
    """JSON schema of the key at a path; None where there is no such key."""
    found = json_schema(model)
    for key in path:
        section = section_schema(model, found)
        found = section.get("properties", {}).get(key, section.get("additionalProperties"))
        if not isinstance(found, dict):
            return {} if found else None
    return found


def known_keys(model: type[BaseModel], path: Path) -> list[str]:
    """Names of the keys below a path."""
    return list(section_schema(model, schema_of(model, path)).get("properties", ()))


def section_schema(model, schema):
    """JSON schema of the keys below a key; a value that is no section may have any."""
    for kind in schema.get("anyOf", [schema]):
        if "$ref" in kind:
            return json_schema(model)["$defs"][kind["$ref"].rpartition("/")[2]]
        if kind.get("type") == "object":
            return kind
    return {"additionalProperties": True}


def allowed(schema: dict) -> str:
    """Describe the values that a JSON schema allows, as messages and tables word it."""
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    words = [word for kind in kinds for word in _words(kind)]
    if "allowed" in schema or words == [SECTION]:
        return schema.get("allowed", SECTION)
    return _or(words) + (", or ~" if len(kinds) < len(schema.get("anyOf", kinds)) else "")


def is_open(schema: dict) -> bool:
    """True if a JSON schema says nothing of the value."""
    return allowed(schema) == ANYTHING


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
    return [SECTION if kind == "object" or "$ref" in schema else ANYTHING]


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
    text = repr(dict(value) if isinstance(value, dict) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def numbers_in(value: Any) -> Any:
    """A text that looks like a number as that number, a list with such texts as a list of numbers; None for others."""
    if isinstance(value, (list, tuple)):
        found = [numbers_in(item) if isinstance(item, str) else None for item in value]
        if all(number is None for number in found):
            return None
        return [item if number is None else number for number, item in zip(found, value, strict=True)]
    if not isinstance(value, str) or not NUMBER.fullmatch(value.strip()):
        return None
    text = value.strip()
    return int(text) if text.lstrip("+-").isdigit() else float(text)


def written(value: Any) -> str:
    """Write a value so that YAML reads a number, also where it is a text that looks like one."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(written, value))}]"
    text = str(value).strip()
    return f"!!float {text}" if isinstance(value, str) and "e" in text.lower() else text
