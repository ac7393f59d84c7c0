"""The networks in traiNNer-redux, by their names in lower case: ``import contrast_arch.adapters.trainner``.

The import may stand at the top of ``train.py`` and ``test.py``, or alone in a file ``traiNNer/archs/contrast_arch.py``
(any name that ends in ``_arch.py``).
"""

import torch

from contrast_arch.adapters.factories import build, register_factories
from contrast_arch.version import __version__


def _make(name: str, scale: int = 4, **arguments) -> torch.nn.Module:
    network = build(name, scale, arguments)
    # traiNNer-redux saves these with the weights; load_pretrained reads them.
    network.hyperparameters = {"network_g": {"type": name, **arguments, "upscale": scale}, "version": __version__}
    return network


register_factories("traiNNer-redux", "traiNNer.utils.registry", _make)
