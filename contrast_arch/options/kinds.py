"""Types of the values in an option file."""

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainValidator, Strict, WithJsonSchema

Flag = Annotated[bool, Strict()]
# Characters that a path of Windows in double quotes would have: "D:\new" is a line break.
ESCAPED = set("\a\b\t\n\v\f\r\x1b")


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


def _checked(fits: Callable[[Any], bool], allowed: str, **schema: Any) -> Any:
    """Type of the values for which a predicate is true; with its wording, and as far as that can say it as a schema."""

    def validate(value):
        if not fits(value):
            raise ValueError(allowed)
        return value

    return Annotated[Any, PlainValidator(validate), WithJsonSchema({**schema, "allowed": allowed})]


def _is_text(value):
    return isinstance(value, str) and value != "" and "\0" not in value


def _is_template(value):
    try:
        return isinstance(value, str) and value.count("{") == 1 and "{}" in value and value.format("a") != value
    except ValueError:
        return False


def _names_a_folder(value):
    # "" and "." are the folder of all experiments.
    fits = isinstance(value, str) and 0 < len(value.encode(errors="replace")) <= 200
    return fits and not set(value) & set("/\\\0") and value.strip(". ") != ""


def _are_modules(value):
    return isinstance(value, (list, tuple)) and all(
        isinstance(name, str) and all(part.isidentifier() for part in name.split(".")) for name in value
    )


Text = _checked(_is_text, "text", type="string")
# BasicSR makes the names of the images that it saves with them.
Inside = _checked(
    lambda value: _is_text(value) and not value.startswith("/") and ".." not in re.split(r"[/\\]", value),
    "text that leads out of no folder: without .., and no / in front",
    type="string",
)
FilePath = _checked(lambda value: _is_text(value) and not ESCAPED & set(value), "a path", type="string")
FolderName = _checked(_names_a_folder, "text that can name a folder, without slashes", type="string")
Template = _checked(
    _is_template, "the name of an LQ image, with {} for that of its GT, such as '{}x4'", type="string", pattern=r"\{\}"
)
Modules = _checked(
    _are_modules, "a list of modules, such as [hat.archs, hat.models]", type="array", items={"type": "string"}
)
Names = _checked(lambda value: isinstance(value, (str, list)), "network_g, or a list of such names")
