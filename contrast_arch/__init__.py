"""Contrast networks for image super-resolution with BasicSR (arXiv 2501.13353).

Importing this package registers the networks with BasicSR, now or when it is imported, and imports nothing heavy.
"""

import importlib

from contrast_arch.networks import AUTHORS_NAMES, MODULE, class_names
from contrast_arch.registration import register
from contrast_arch.version import __version__

_HOMES = {
    "Tiler": "contrast_arch.inference.tiler",
    "export_onnx": "contrast_arch.inference.onnx",
    "load_pretrained": "contrast_arch.weights",
    "register_in": "contrast_arch.registration",
    "upscale": "contrast_arch.inference.upscale",
    **{name: MODULE for name in class_names() if name not in AUTHORS_NAMES},
}
__all__ = ["__version__", *_HOMES]
_PACKAGES = ("archs", "inference", "layers", "ops", "weights")


def __getattr__(name: str):
    """Import a public name at its first use."""
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_PACKAGES})


register()
