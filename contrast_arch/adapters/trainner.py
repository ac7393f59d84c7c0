"""The networks in traiNNer-redux: ``import contrast_arch.adapters.trainner``.

The import may stand at the top of ``train.py`` and ``test.py``, or alone in a file ``traiNNer/archs/contrast_arch.py``
(any name that ends in ``_arch.py``). The names are those of :func:`~contrast_arch.networks.modules` in lower case.
"""

import torch

from contrast_arch import compat
from contrast_arch.adapters.factories import build, factories
from contrast_arch.registration import register_beside
from contrast_arch.version import __version__


def _make(name: str, scale: int = 4, **arguments) -> torch.nn.Module:
    network = build(name, scale, arguments)
    # traiNNer-redux saves these with the weights; load_pretrained reads them.
    network.hyperparameters = {
        "network_g": {"type": name, **arguments, "upscale": scale},
        "version": __version__,
    }
    return network


compat.when_imported(
    "traiNNer.utils.registry",
    lambda module: register_beside(module.ARCH_REGISTRY, lambda: factories(_make), "traiNNer-redux"),
)
