"""The networks in neosr: ``import contrast_arch.adapters.neosr``.

The import may stand at the top of ``train.py`` and ``test.py``, or alone in a file ``neosr/archs/contrast_arch.py``
(any name that ends in ``_arch.py``). The names are those of :func:`~contrast_arch.networks.modules` in lower case.
"""

import importlib

import torch

from contrast_arch import compat
from contrast_arch.adapters.factories import build, factories
from contrast_arch.registration import register_beside


def _make(name: str, **arguments) -> torch.nn.Module:
    # neosr hands its networks no scale: each reads the option file of the command line.
    scale, _ = importlib.import_module("neosr.archs.arch_util").net_opt()
    return build(name, scale, arguments)


compat.when_imported(
    "neosr.utils.registry",
    lambda module: register_beside(module.ARCH_REGISTRY, lambda: factories(_make), "neosr"),
)
