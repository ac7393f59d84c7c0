"""The networks in neosr, by their names in lower case: ``import contrast_arch.adapters.neosr``.

The import may stand at the top of ``train.py`` and ``test.py``, or alone in a file ``neosr/archs/contrast_arch.py``
(any name that ends in ``_arch.py``).
"""

import importlib

import torch

from contrast_arch.adapters.factories import build, register_factories


def _make(name: str, **arguments) -> torch.nn.Module:
    # neosr hands its networks no scale: each reads the option file of the command line.
    scale, _ = importlib.import_module("neosr.archs.arch_util").net_opt()
    return build(name, scale, arguments)


register_factories("neosr", "neosr.utils.registry", _make)
