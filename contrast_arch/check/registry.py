"""Names that stand for classes and functions, and the arguments that those take."""

import importlib
import inspect
import os
from collections.abc import Callable, Iterable, Iterator

from contrast_arch.errors import InputError, hint, located, one_line
from contrast_arch.options.problems import Path, Problem, error


def registered(key: str, name: str, registry: str) -> Callable:
    """Find the class or function of a name in one of BasicSR's registries.

    Args:
        key: where the name stands, for messages.
        registry: such as "ARCH_REGISTRY".

    Raises:
        InputError: the name is not registered.
    """
    for part in ("archs", "data", "losses", "metrics", "models"):  # their import fills the registries
        importlib.import_module(f"basicsr.{part}")
    registry = getattr(importlib.import_module("basicsr.utils.registry"), registry)
    known = list(registry.keys())
    # BasicSR looks for the second name after the first.
    found = next((each for each in (name, f"{name}_basicsr") if each in known), None)
    if found is None:
        own = "for what a project registers write 'imports: [MODULE]', or --import MODULE"
        raise InputError(f"{key}: {name!r} is not registered; {hint(name, known, 'registered are ')}; {own}")
    return registry.get(found)


def trains_as_srmodel(opt: dict, *methods: str) -> bool:
    """True if the model of an option file has methods as BasicSR's SRModel has them."""
    from basicsr.models.sr_model import SRModel

    try:
        model = registered("model_type", opt.get("model_type"), "MODEL_REGISTRY")
    except InputError:
        return False
    return all(getattr(model, method, None) is getattr(SRModel, method) for method in methods)


def import_problems(names: Iterable[str]) -> Iterator[Problem]:
    """Import the modules that register networks, models and datasets of a project; yield why one cannot be.

    Args:
        names: of ``imports`` in an option file, or of ``--import``.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as failure:  # whatever the files of a project raise
            absent = isinstance(failure, ModuleNotFoundError) and failure.name == name.split(".")[0]
            reason = f"it is neither under {os.getcwd()} nor installed" if absent else located(failure)
            yield error(("imports",), f"imports: {name} cannot be imported: {reason}")


def argument_problems(path: Path, call: Callable, given: dict, provided: Iterable[str] = ()) -> Iterator[Problem]:
    """Find arguments that a call does not take, or needs and does not get; ``**kwargs`` takes none.

    Args:
        path: of the section.
        given: the section, without its type.
        provided: arguments that come from elsewhere.
    """
    where, name = ": ".join(path), getattr(call, "__name__", str(call))
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in provided]
    known = [p.name for p in named]
    if not known and any(p.kind == p.VAR_KEYWORD for p in parameters):
        return
    for key in given:
        if key not in known:
            text = hint(key, known, "its arguments: ") if known else "it takes none"
            yield error((*path, str(key)), f"{where}: {name} has no argument {key!r}; {text}")
    for parameter in named:
        if parameter.default is parameter.empty and parameter.name not in given:
            yield error((*path, parameter.name), f"{where}: {name} needs {parameter.name}")


def error_of(call: Callable, *arguments, **keywords) -> str | None:
    """Call, and return the message of the error in a line; None without one."""
    try:
        call(*arguments, **keywords)
    except Exception as failure:  # they check their arguments in as many ways as they have authors
        return one_line(failure)
    return None
