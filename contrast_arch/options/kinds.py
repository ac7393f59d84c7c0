"""Types of the values in an option file."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainValidator, Strict, WithJsonSchema

Flag = Annotated[bool, Strict()]


def _number(value):
    # Larger numbers are slips, and some whole numbers of Python overflow a float.
    if isinstance(value, (int, float)) and not abs(value) < 1e100:
        raise ValueError("out of range")
    return value


def _whole_float(value):
    value = _number(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def whole(lowest: int, highest: int | None = None, floats: bool = False) -> Any:
    """Type of a whole number; with ``floats`` of one such as ``!!float 5e3`` too, which becomes an int."""
    limits = Field(strict=True, ge=lowest, le=highest)
    return Annotated[int, limits, BeforeValidator(_whole_float if floats else _number)]


def number(lowest: float | None = None, highest: float | None = None, above: float | None = None) -> Any:
    """Type of a finite number."""
    return Annotated[float, Field(strict=True, ge=lowest, le=highest, gt=above), BeforeValidator(_number)]


def _checked(fits, allowed, **schema):
    """Type of the values for which a predicate is true, its wording, and the same as JSON schema as far as that can."""

    def validate(value):
        if not fits(value):
            raise ValueError(allowed)
        return value

    return Annotated[Any, PlainValidator(validate), WithJsonSchema({**schema, "allowed": allowed})]


def _text(regex, allowed, most_bytes=None, **schema):
    def fits(value):
        matches = isinstance(value, str) and re.fullmatch(regex, value, re.DOTALL)
        return matches and (most_bytes is None or len(value.encode(errors="replace")) <= most_bytes)

    return _checked(fits, allowed, type="string", **schema)


def _are_modules(value):
    texts = isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)
    return texts and all(part.isidentifier() for name in value for part in name.split("."))


Text = _text(r"[^\0]+", "text")
# BasicSR makes the names of the images that it saves with them.
Inside = _text(
    r"(?!/)(?!(.*[/\\])?\.\.([/\\]|\Z))[^\0]+", "text that leads out of no folder: without .., and no / in front"
)
# A path of Windows in double quotes would have such characters: "D:\new" is a line break.
FilePath = _text(r"[^\0\a\b\t\n\v\f\r\x1b]+", "a path (on Windows with / or in single quotes)")
# "" and "." are the folder of all experiments.
FolderName = _text(r"(?![. ]*\Z)[^/\\\0]+", "text that can name a folder, without slashes", most_bytes=200)
Template = _text(
    r"[^{}]*\{\}[^{}]*", "the name of an LQ image, with {} for that of its GT, such as '{}x4'", pattern=r"\{\}"
)
Modules = _checked(
    _are_modules, "a list of modules, such as [hat.archs, hat.models]", type="array", items={"type": "string"}
)
Names = _checked(lambda value: isinstance(value, (str, list)), "network_g, or a list of such names")
