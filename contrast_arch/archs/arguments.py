"""Checks of constructor arguments: each refuses with the name, the value and what is allowed."""

import difflib
import math
import numbers

from torch import nn

ACTIVATIONS = {"gelu": nn.GELU, "silu": nn.SiLU, "relu": nn.ReLU, "sigmoid": nn.Sigmoid}
NORMS = {"layernorm": nn.LayerNorm, "ln": nn.LayerNorm, "rmsnorm": nn.RMSNorm}


def _is_number(value) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def integer(name: str, value, minimum: int = 1) -> int:
    """``value`` as an int; 2.0 counts as 2 (published option files write floats), 1.5 does not."""
    if not _is_number(value) or not float(value).is_integer() or value < minimum:
        raise ValueError(f"{name}={value!r}: expected a whole number of at least {minimum}")
    return int(value)


def positive(name: str, value) -> float:
    """``value`` if it is a finite number above zero."""
    if not _is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r}: expected a number above 0")
    return value


def between(name: str, value, low: float, high: float) -> float:
    """``value`` if it is a number from ``low`` to ``high``, both included."""
    if not _is_number(value) or not low <= value <= high:
        raise ValueError(f"{name}={value!r}: expected a number from {low} to {high}")
    return value


def integers(name: str, values) -> tuple[int, ...]:
    """A non-empty list of whole numbers of at least 1."""
    if isinstance(values, str) or not hasattr(values, "__iter__") or not list(values):
        raise ValueError(f"{name}={values!r}: expected a list of whole numbers, such as [6, 6, 6, 6]")
    return tuple(integer(f"{name}[{i}]", v) for i, v in enumerate(values))


def one_of(name: str, value, allowed, why: str = ""):
    """``value`` if it is among ``allowed``."""
    if isinstance(value, bool) != any(isinstance(a, bool) for a in allowed) or value not in allowed:
        supported = ", ".join(repr(a) for a in allowed)
        raise ValueError(f"{name}={value!r} is not supported{why}; supported: {supported}")
    return value


def module_class(name: str, value, names: dict):
    """A class of module: ``value`` itself, or what its name stands for in ``names`` (from YAML)."""
    if isinstance(value, str):
        return names[one_of(name, value.lower(), names)]
    if not callable(value):
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(names)}, or a class of nn.Module")
    return value


def refuse_unknown(owner: str, unknown, known):
    """Raise if there are arguments that nobody reads.

    Raises:
        TypeError: names them, the nearest known argument, and all known ones.
    """
    if not unknown:
        return
    hints = []
    for name in unknown:
        near = difflib.get_close_matches(name, known, n=1)
        hints.append(f"{name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    raise TypeError(f"{owner} has no argument {', '.join(hints)}; its arguments: {', '.join(sorted(known))}")
