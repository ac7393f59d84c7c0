"""What a value of an option file can be: a test, and its wording."""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from contrast_arch.files import plain

# YAML 1.1 wants a point and a sign in a number with an exponent: 2.0e-4 is one, 2e-4 is text.
NUMBER = re.compile(r"[-+]?(\d{1,300}\.?\d{0,300}|\.\d{1,300})([eE][-+]?\d{1,9})?")


class Kind(NamedTuple):
    """What is allowed.

    Attributes:
        fits: whether a value is.
        expected: what is, as a message says it.
    """

    fits: Callable[[Any], bool]
    expected: str

    def or_none(self) -> "Kind":
        """The same, or ``~``."""
        return Kind(lambda value: value is None or self.fits(value), f"{self.expected}, or ~")


def _is_number(value):
    # What is larger is a slip too, and some whole numbers of Python are too large for a float.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e100


def whole(lowest: int, highest: float = math.inf, floats: bool = False) -> Kind:
    """A whole number; with ``floats`` also one such as ``!!float 5e3``."""

    def fits(value):
        kinds = (int, float) if floats else int
        return _is_number(value) and isinstance(value, kinds) and value == int(value) and lowest <= value <= highest

    limits = f"from {lowest} to {highest}" if highest < math.inf else f"of at least {lowest}"
    return Kind(fits, f"a whole number {limits}")


def number(lowest: float = -math.inf, highest: float = math.inf, above: float = -math.inf) -> Kind:
    """A finite number."""
    limits = [f"above {above:g}"] if above > -math.inf else []
    limits += [f"of at least {lowest:g}"] if lowest > -math.inf else []
    limits += [f"at most {highest:g}"] if highest < math.inf else []
    expected = " ".join(["a number", " and ".join(limits)]).strip()
    return Kind(lambda value: _is_number(value) and lowest <= value <= highest and value > above, expected)


def choice(*allowed) -> Kind:
    """One of some texts."""
    return Kind(lambda value: isinstance(value, str) and value in allowed, " or ".join(allowed))


def list_of(kind: Kind, expected: str) -> Kind:
    """A list, each of whose values is of a kind."""
    return Kind(lambda value: isinstance(value, (list, tuple)) and all(map(kind.fits, value)), expected)


def _is_template(value):
    try:
        return isinstance(value, str) and value.count("{") == 1 and "{}" in value and value.format("a") != value
    except ValueError:
        return False


def _names_a_folder(value):
    """What BasicSR can use for a folder and in the names of its logs; "" and "." are the folder of all experiments."""
    fits = isinstance(value, str) and 0 < len(value.encode(errors="replace")) <= 200
    return fits and not set(value) & set("/\\\0") and value.strip(". ") != ""


def _names_a_module(value):
    return isinstance(value, str) and all(part.isidentifier() for part in value.split("."))


NAME = Kind(_names_a_folder, "text that can name a folder, without slashes")
TEXT = Kind(lambda value: isinstance(value, str) and value != "" and "\0" not in value, "text")
BACKSLASH = "in double quotes a backslash begins an escape; write / in its place, or single quotes"
PATH = Kind(lambda value: TEXT.fits(value) and not set(value) & set("\a\b\t\n\v\f\r\x1b"), f"a path ({BACKSLASH})")
FLAG = Kind(lambda value: isinstance(value, bool), "true or false")
SECTION = Kind(lambda value: isinstance(value, dict), "keys of its own, indented below it")
ANYTHING = Kind(lambda value: True, "anything")
TEMPLATE = Kind(_is_template, "the name of an LQ image, with {} for that of its GT, such as '{}x4'")
MODULES = list_of(Kind(_names_a_module, "a module"), "a list of modules, such as [hat.archs, hat.models]")
FREQUENCY = whole(1, floats=True)
ITERATIONS = list_of(whole(0, floats=True), "a list of iterations, such as [250000, 400000]")
PERIODS = list_of(whole(1, floats=True), "a list of numbers of iterations, such as [250000, 250000]")
NUMBERS = list_of(number(), "a list of numbers")


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
    """How to write it so that YAML reads a number, where it is a text that looks like one."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(written, value))}]"
    text = str(value).strip()
    return f"!!float {text}" if isinstance(value, str) and "e" in text.lower() else text


def shortened(value: Any) -> str:
    """A value as messages show it."""
    text = repr(plain(value) if isinstance(value, dict) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
