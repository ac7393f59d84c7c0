"""The networks in registries whose names are lower case and whose scale factor is ``scale``."""

from collections.abc import Callable

import torch

from contrast_arch import compat
from contrast_arch.registration import networks, register_beside


def register_factories(host: str, registry: str, make: Callable[..., torch.nn.Module]) -> None:
    """Register a factory for each network, by its name in lower case, at the moment a host's registry is imported.

    Args:
        host: name of the program.
        registry: its module that has ``ARCH_REGISTRY``.
        make: is called with the name of the network and the arguments that the factory gets.
    """

    def table():
        return {name.lower(): _factory(make, name) for name in networks()}

    compat.when_imported(registry, lambda module: register_beside(module.ARCH_REGISTRY, table, host))


def build(name: str, scale: int, arguments: dict) -> torch.nn.Module:
    """Build a network.

    Args:
        name: one of :func:`~contrast_arch.networks.class_names`.
        scale: factor of the option file.
        arguments: of the constructor; an ``upscale`` among them must be the same factor.

    Raises:
        ValueError: two factors.
    """
    if arguments.get("upscale", scale) != scale:
        raise ValueError(
            f"network_g: upscale={arguments['upscale']!r}, and scale={scale!r} at the top of the option file: expected "
            "the same factor; leave upscale out"
        )
    return networks()[name](**{**arguments, "upscale": scale})


def _factory(make, name):
    def factory(**arguments):
        return make(name, **arguments)

    factory.__name__ = factory.__qualname__ = name.lower()
    factory.__doc__ = f"Build {name}."
    return factory
