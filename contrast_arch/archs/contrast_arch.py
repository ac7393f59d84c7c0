"""The classes of the networks, made at their first use from the table in ``contrast_arch.networks``."""

import functools

from contrast_arch.archs.config import constructor
from contrast_arch.archs.network import SRNetwork
from contrast_arch.networks import AUTHORS_DEFAULTS, AUTHORS_NAMES, NETWORKS, class_names


@functools.cache
def _network(name):
    if own := AUTHORS_NAMES.get(name):
        base, parts, defaults = _network(own), {}, AUTHORS_DEFAULTS
        text = f"The author's name for {own}, with the author's defaults."
    else:
        base, parts, defaults = SRNetwork, NETWORKS[name].parts, NETWORKS[name].defaults
        text = f"{NETWORKS[name].title}."
    return type(name, (base,), {"__module__": __name__, "__doc__": text, "__init__": constructor(defaults), **parts})


def __getattr__(name: str) -> type[SRNetwork]:
    if name not in class_names():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _network(name)
