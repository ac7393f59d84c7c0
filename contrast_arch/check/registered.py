"""Names that stand for classes and functions, and the arguments that those take."""

import difflib
import importlib
import inspect
import os
from collections.abc import Callable, Iterable, Iterator

from contrast_arch.check.problems import Path, Problem, error
from contrast_arch.errors import InputError, located, one_line


def registered(key: str, name: str, registry: str) -> Callable:
    """What a name stands for in one of BasicSR's registries.

    Args:
        key: where the name stands, for messages.
        registry: such as "ARCH_REGISTRY".

    Raises:
        InputError: it stands for nothing.
    """
    # Importing them fills the registries.
    import basicsr.archs
    import basicsr.data
    import basicsr.losses
    import basicsr.metrics
    import basicsr.models
    import basicsr.utils.registry

    registry = getattr(basicsr.utils.registry, registry)
    known = list(registry.keys())
    # The second is what BasicSR looks for after the first.
    if name not in known and f"{name}_basicsr" not in known:
        own = "for what a project registers write 'imports: [MODULE]', or --import MODULE"
        raise InputError(f"{key}: {name!r} is not registered; {hint(name, known, 'registered are ')}; {own}")
    return registry.get(name if name in known else f"{name}_basicsr")


def trains_as_srmodel(opt: dict, method: str) -> bool:
    """True if the model of an option file has a method as BasicSR's SRModel has it."""
    from basicsr.models.sr_model import SRModel

    try:
        model = registered("model_type", opt.get("model_type"), "MODEL_REGISTRY")
    except InputError:
        return False
    return getattr(model, method, None) is getattr(SRModel, method)


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


def hint(name, known: Iterable[str], otherwise: str = "") -> str:
    """The names nearest to one that is unknown, or all that are known."""
    near = difflib.get_close_matches(str(name), list(known), n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"{otherwise}{', '.join(sorted(known))}"


def argument_problems(
    path: Path, call: Callable, given: dict, provided: Iterable[str] = (), more: Iterable[str] = ()
) -> Iterator[Problem]:
    """Arguments that a call does not take, or needs and does not get.

    Args:
        path: of the section.
        given: the section, without its type.
        provided: arguments that come from elsewhere.
        more: names that are taken beyond the signature's own; others, that ``**kwargs`` would swallow, are not.
    """
    where, name = ": ".join(path), getattr(call, "__name__", str(call))
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    known = [p.name for p in named if p.name not in provided]
    if not known and any(p.kind == p.VAR_KEYWORD for p in parameters):
        return
    for key in given:
        if key not in (*known, *more):
            text = hint(key, known, "its arguments: ") if known else "it takes none"
            yield error((*path, str(key)), f"{where}: {name} has no argument {key!r}; {text}")
    for parameter in named:
        if parameter.default is parameter.empty and parameter.name not in (*given, *provided):
            yield error((*path, parameter.name), f"{where}: {name} needs {parameter.name}")


def tried(call: Callable) -> str | None:
    """What a call raises in a line, None if it does not."""
    try:
        call()
    except Exception as failure:  # they check their arguments in as many ways as they have authors
        return one_line(failure)
    return None
