"""Networks from a section ``network_g``."""

import torch

from contrast_arch.errors import InputError
from contrast_arch.registration import SUFFIX, networks

# Building takes a millisecond a block.
MOST_BLOCKS = 2000


def network_class(network_g: dict) -> type[torch.nn.Module]:
    """The class of ``network_g: type``."""
    name, known = str(network_g.get("type")), networks()
    if name.removesuffix(SUFFIX) not in known:
        raise InputError(f"network_g: type: {name} is no network of this package; expected {', '.join(known)}")
    return known[name.removesuffix(SUFFIX)]


def arguments_of(network_g: dict) -> dict:
    """The arguments of the constructor."""
    return {key: value for key, value in network_g.items() if key != "type"}


def build_on_meta(cls: type[torch.nn.Module], arguments: dict) -> torch.nn.Module:
    """Build a network without memory; arguments that are unknown or refused, and absurd sizes, are InputErrors."""
    depths = arguments.get("depths")
    counted = isinstance(depths, (list, tuple)) and all(isinstance(depth, int) for depth in depths)
    if counted and sum(depths) > MOST_BLOCKS:
        raise InputError(f"network_g: depths={depths}: {sum(depths)} blocks; expected at most {MOST_BLOCKS}")
    try:
        with torch.device("meta"):
            return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"network_g: {error}") from error
    except (RuntimeError, OverflowError, MemoryError) as error:  # sizes beyond what PyTorch can count
        raise InputError(f"network_g: the network is too large to be built: {str(error).splitlines()[0]}") from error
