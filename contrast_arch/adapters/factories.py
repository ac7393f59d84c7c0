"""The networks in registries whose names are lower case and whose scale factor is ``scale``."""

from collections.abc import Callable
from functools import partial, update_wrapper

import torch
import wrapt

from contrast_arch.registration import networks, register_beside


def register_factories(host: str, registry: str, make: Callable[..., torch.nn.Module]) -> None:
    """Register a factory for each network, by its name in lower case, when a host's registry is imported.

    Args:
        host: name of the program.
        registry: its module with ``ARCH_REGISTRY``.
        make: gets the name of the network, and the arguments of the factory.
    """

    def factory(name):
        made = update_wrapper(partial(make, name), make)
        made.__name__ = made.__qualname__ = name.lower()
        return made

    def table():
        return {name.lower(): factory(name) for name in networks()}

    wrapt.register_post_import_hook(lambda module: register_beside(module.ARCH_REGISTRY, table, host), registry)


def build(name: str, scale: int, arguments: dict) -> torch.nn.Module:
    """Build a network for the scale of an option file; ValueError where an ``upscale`` among the arguments differs."""
    if arguments.get("upscale", scale) != scale:
        raise ValueError(
            f"network_g: upscale={arguments['upscale']!r}, and scale={scale!r} at the top of the option file: expected "
            "the same factor; leave upscale out"
        )
    return networks()[name](**{**arguments, "upscale": scale})
