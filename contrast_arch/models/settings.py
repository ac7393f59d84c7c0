"""Settings of ContrastModel by their path: what is left of it goes with its last caller."""

import torch

from contrast_arch.options.schema import AMP as TYPES
from contrast_arch.options.schema import CUDA_GRAPH_MODES
from contrast_arch.options.schema import settings_of as check_settings

__all__ = ["AMP", "CUDA_GRAPH_MODES", "check_settings", "setting"]
AMP = {key: getattr(torch, name) for key, name in TYPES.items()}


def setting(opt: dict, *path: str):
    """The value at a path, such as ``setting(opt, "train", "amp")``."""
    found = check_settings(opt)
    for key in path:
        found = getattr(found, key, None)
    return found
