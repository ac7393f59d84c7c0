"""The schema as JSON, for editors: completion, help and red underlines. It is ``options/schema.json``."""

import json

from contrast_arch.options.schema import ALWAYS
from contrast_arch.options.validation import ANYTHING, KNOWN_MODELS, SECTION, allowed, json_schema

ABOUT_VALUES = ("type", "enum", "const", "minimum", "maximum", "exclusiveMinimum", "pattern", "items")
MAY_BE_EMPTY = ("DistParams", "Loss", "Tile", "Val", "Wandb")
CHOICES = {"boolean": [True, False], "null": [None]}
# With what they need; a model of a project may read keys that are not known here.
PURPOSES = {"training": {"training"}, "test": {"testing"}, "other model": {"nothing"}}


def editor_schema() -> str:
    """Text of ``options/schema.json``, a definition a line."""
    file = json_schema()
    training, test, other = (_reference("OptionFile", purpose) for purpose in PURPOSES)
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "if": {"properties": {"model_type": {"enum": list(KNOWN_MODELS)}}},
        "then": {"if": {"required": ["train"]}, "then": training, "else": test},
        "else": other,
    }
    definitions = [
        f"  {json.dumps(f'{name} ({purpose})')}: {json.dumps(_definition(name, section, purpose))}"
        for purpose in PURPOSES
        for name, section in {**file["$defs"], "OptionFile": file}.items()
    ]
    return json.dumps(schema, indent=1)[:-2] + ',\n "$defs": {\n' + ",\n".join(definitions) + "\n }\n}\n"


def _reference(name, purpose):
    return {"$ref": f"#/$defs/{name} ({purpose})"}


def _definition(name, section, purpose):
    keys, more = section["properties"], section.get("additionalProperties", purpose == "other model")
    # Those of training data alone are for the section train.
    purposes = PURPOSES[purpose] | ({*ALWAYS} if name == "Dataset" else set())
    needed = [key for key in keys if purposes <= {*keys[key].get("needed", ())}]
    return {
        "title": name,
        "type": ["object", "null"] if name in MAY_BE_EMPTY else "object",
        "properties": {key: _key(key, schema, purpose) for key, schema in keys.items()},
        "required": section.get("required", []) + needed,
        "additionalProperties": _values(more, purpose) if isinstance(more, dict) else more,
    }


def _key(name, schema, purpose):
    words, default = allowed(schema), {key: schema[key] for key in ("default",) if schema.get(key) is not None}
    lines = {
        "Allowed": words not in (SECTION, ANYTHING) and words,
        "Unit": schema.get("unit"),
        "Default": default and json.dumps(schema["default"]),
        "Read by": schema.get("of"),
    }
    help = " ".join(f"{line}." for line in (schema["description"], *(f"{k}: {v}" for k, v in lines.items() if v)))
    return {"title": name, "description": help, **default, **_values(schema, purpose)}


def _values(schema, purpose):
    """The part of a JSON schema that is about values, in one kind where it can be: editors show each by itself."""
    if "$ref" in schema:
        return _reference(schema["$ref"].rpartition("/")[2], purpose)
    if "enum" in schema:
        return {"enum": schema["enum"]}
    if "anyOf" not in schema:
        below = schema.get("additionalProperties")
        found = {"additionalProperties": _values(below, purpose)} if isinstance(below, dict) else {}
        return {name: value for name, value in schema.items() if name in ABOUT_VALUES} | found
    kinds = [_values(kind, purpose) for kind in schema["anyOf"]]
    choices = [kind.get("enum", CHOICES.get(kind.get("type"))) for kind in kinds]
    if all(choices):
        return {"enum": [value for values in choices for value in values]}
    if len(kinds) == 2 and choices[1] == [None] and "type" in kinds[0]:
        return {**kinds[0], "type": [kinds[0]["type"], "null"]}
    # MAY_BE_EMPTY has the sections that may be null.
    return kinds[0] if "$ref" in kinds[0] else {"anyOf": kinds}
