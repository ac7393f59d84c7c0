"""The networks in neosr, by their names in lower case: ``import contrast_arch.adapters.neosr``.

The import may stand in ``train.py`` and ``test.py``, or alone in a file ``neosr/archs/contrast_arch.py``.
"""

import importlib

from contrast_arch.adapters.factories import build, register_factories


def _make(name, **arguments):
    # neosr hands its networks no scale: each reads the option file of the command line.
    scale, _ = importlib.import_module("neosr.archs.arch_util").net_opt()
    return build(name, scale, arguments)


register_factories("neosr", "neosr.utils.registry", _make)
