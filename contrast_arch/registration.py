"""Registration of the networks, at the moment BasicSR's registries are there."""

import functools
import importlib
import logging
import sys
import warnings
from collections.abc import Callable, Mapping

import wrapt

from contrast_arch import compat
from contrast_arch.networks import MODULE, class_names

# Of our name where the host has a class of its own of that name.
SUFFIX = "_contrast_arch"


def networks() -> dict[str, type]:
    """Return all networks by name, those of the author included."""
    return {name: getattr(importlib.import_module(MODULE), name) for name in class_names()}


def register() -> None:
    """Register networks and ContrastModel with BasicSR, now or at the moment it is imported."""
    compat.mend_basicsr()
    wrapt.register_post_import_hook(_register_with_basicsr, "basicsr.utils.registry")


def register_in(registry, table: Mapping[str, Callable] | None = None, host: str = "BasicSR") -> None:
    """Register networks; where a name is taken ours becomes ``NAME_contrast_arch``, with a warning.

    Args:
        registry: has ``register(obj)``, which takes ``obj.__name__`` for the name, ``get(name)`` and ``in``.
        table: name -> class or factory; None takes all networks.
        host: program whose registry it is, for the warning.
    """
    clashes = {}
    for name, ours in (networks() if table is None else table).items():
        if name in registry and not _is_ours(registry.get(name)):
            clashes[name] = registry.get(name)
            name += SUFFIX
        if name not in registry:
            registry.register(_renamed(ours, name))
    if clashes:
        owners = ", ".join(f"{name!r} is {owner.__module__}.{owner.__qualname__}" for name, owner in clashes.items())
        warnings.warn(
            f"names that contrast_arch registers too are taken in {host}'s registry, and stay so: {owners}. Write "
            f"{', '.join(repr(name + SUFFIX) for name in clashes)} for contrast_arch's",
            stacklevel=2,
        )


def register_beside(registry, table: Callable[[], dict[str, Callable]], host: str) -> None:
    """Register ``table()`` in a registry of BasicSR's kind; the host's own classes keep their names, now and later."""
    original = getattr(registry, "_do_register", None)
    if original is not None and not hasattr(original, "__wrapped__"):

        @functools.wraps(original)
        def _do_register(name, obj, suffix=None):
            name = f"{name}_{suffix}" if isinstance(suffix, str) else name
            # BasicSR's registries refuse a name that is taken.
            lost = _is_ours(registry._obj_map.get(name)) and not _is_ours(obj)
            if lost:
                del registry._obj_map[name]
            original(name, obj)
            # ContrastModel extends SRModel.
            if lost or name == "SRModel":
                register_in(registry, {name: table()[name]} if lost else table(), host)

        registry._do_register = _do_register
    register_in(registry, table(), host)


def _renamed(obj, name):
    if isinstance(obj, type):
        return obj if obj.__name__ == name else type(name, (obj,), {"__module__": obj.__module__})
    renamed = functools.update_wrapper(functools.partial(obj), obj)
    renamed.__name__ = name
    return renamed


def _is_ours(obj):
    return getattr(obj, "__module__", "").split(".")[0] == "contrast_arch"


def _register_with_basicsr(module) -> None:
    # What the package logs goes where BasicSR's log goes: to the terminal and into the experiment's folder.
    logging.getLogger("contrast_arch").parent = logging.getLogger("basicsr")
    register_beside(module.ARCH_REGISTRY, networks, "BasicSR")
    register_beside(module.MODEL_REGISTRY, functools.partial(_models, module.MODEL_REGISTRY), "BasicSR")


def _models(registry):
    """Return ContrastModel, once the SRModel that it extends is registered and where it can run."""
    base = registry._obj_map.get("SRModel")
    if base is None or base.__module__ != "basicsr.models.sr_model":
        return {}
    # A decorator runs before its class has a name in the module.
    sys.modules[base.__module__].__dict__.setdefault("SRModel", base)
    try:
        if not hasattr(base, "_initialize_best_metric_results"):
            raise ImportError("it needs the SRModel of BasicSR 1.3.4 or later")
        return {"ContrastModel": importlib.import_module("contrast_arch.models.contrast_model").ContrastModel}
    except Exception as error:  # whatever an older or cut-down BasicSR lacks; the host's own run must not end by it
        warnings.warn(f"ContrastModel is not registered, it does not run with this BasicSR: {error}", stacklevel=2)
        return {}
