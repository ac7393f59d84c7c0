"""Types of the values in an option file."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, Strict, WithJsonSchema

Flag = Annotated[bool, Strict()]


def _number(value):
    # Larger numbers are slips, and run over in the sums that follow.
    if isinstance(value, (int, float)) and not abs(value) < 1e100:
        raise ValueError("out of range")
    return value


def _whole_float(value):
    return int(value) if isinstance(value, float) and value.is_integer() else value


def whole(lowest: int, highest: int | None = None, floats: bool = False) -> Any:
    """Type of a whole number; with ``floats`` of one such as ``!!float 5e3`` too, which becomes an int."""
    more = [BeforeValidator(_whole_float)] if floats else []
    return Annotated[(int, Field(strict=True, ge=lowest, le=highest), *more, BeforeValidator(_number))]


def number(lowest: float | None = None, highest: float | None = None, above: float | None = None) -> Any:
    """Type of a finite number."""
    return Annotated[float, Field(strict=True, ge=lowest, le=highest, gt=above), BeforeValidator(_number)]


def listed(kind: Any, allowed: str) -> Any:
    """Type of a list, and its wording."""
    return Annotated[list[kind], Field(json_schema_extra={"allowed": allowed})]


def _text(regex, allowed, **schema):
    """Type of a text that matches an expression as a whole; ``schema`` is what JSON schema can say of it."""
    kind = Field(strict=True, pattern=rf"(?s)\A(?:{regex})\Z")
    return Annotated[str, kind, WithJsonSchema({"type": "string", **schema, "allowed": allowed})]


Text = _text(r"[^\0]+", "text")
# BasicSR makes the names of the images that it saves with them.
Inside = _text(
    r"(?!/)(?!(.*[/\\])?\.\.([/\\]|\Z))[^\0]+", "text that leads out of no folder: without .., and no / in front"
)
# A path of Windows in double quotes would have such characters: "D:\new" is a line break.
FilePath = _text(r"[^\0\a\b\t\n\v\f\r\x1b]+", "a path (on Windows with / or in single quotes)")
# "" and "." are the folder of all experiments; a file system takes 255 bytes.
FolderName = _text(r"(?![. ]*\Z)[^/\\\0]{1,200}", "text that can name a folder, without slashes")
Template = _text(
    r"[^{}]*\{\}[^{}]*", "the name of an LQ image, with {} for that of its GT, such as '{}x4'", pattern=r"\{\}"
)
_Module = Annotated[str, Field(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*\Z"), WithJsonSchema({"type": "string"})]
Modules = listed(_Module, "a list of modules, such as [hat.archs, hat.models]")
Names = Annotated[str | list[str], WithJsonSchema({"allowed": "network_g, or a list of such names"})]
