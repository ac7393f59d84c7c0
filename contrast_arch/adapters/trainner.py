"""The networks in traiNNer-redux, by their names in lower case: ``import contrast_arch.adapters.trainner``.

The import may stand in ``train.py`` and ``test.py``, or alone in a file ``traiNNer/archs/contrast_arch.py``.
"""

from contrast_arch.adapters.factories import build, register_factories
from contrast_arch.version import __version__


def _make(name, scale=4, **arguments):
    network = build(name, scale, arguments)
    # traiNNer-redux saves these with the weights; load_pretrained reads them.
    network.hyperparameters = {"network_g": {"type": name, **arguments, "upscale": scale}, "version": __version__}
    return network


register_factories("traiNNer-redux", "traiNNer.utils.registry", _make)
