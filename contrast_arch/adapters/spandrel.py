"""The networks in spandrel, the library with which other programs load networks for super-resolution.

    from contrast_arch.adapters import spandrel
    spandrel.install()

After that ``spandrel.ModelLoader`` loads files of this package, of the author and of BasicSR's trainers.
"""

import spandrel
from spandrel.architectures.HAT import HATArch

from contrast_arch.archs.network import SRNetwork
from contrast_arch.weights.files import without_wrappers
from contrast_arch.weights.network import arguments_of, network_class
from contrast_arch.weights.shapes import detect, network_from_shapes, own_networks

LIGHT = 1_000_000


def install(registry: spandrel.ArchRegistry = spandrel.MAIN_REGISTRY) -> list[spandrel.ArchSupport]:
    """Add the networks to a registry of spandrel, by default that of every ``ModelLoader``.

    Returns:
        The networks that were added; none at a second call.
    """
    # HAT's keys are those of Contrast too, where the upsampler is "pixelshuffle".
    before = (spandrel.ArchId("HAT"),)
    supports = (spandrel.ArchSupport.from_architecture(ContrastArch(name), before=before) for name in own_networks())
    return registry.add(*supports, ignore_duplicates=True)


class ContrastArch(spandrel.Architecture[SRNetwork]):
    """One of :func:`~contrast_arch.weights.shapes.own_networks`, by its name."""

    def __init__(self, name: str):
        super().__init__(id=name, detect=self._is_ours)

    def _is_ours(self, state_dict: spandrel.StateDict) -> bool:
        """True for the names of this network's weights; HAT's own files, whose names HATLight has too, are HAT's."""
        weights = without_wrappers(state_dict)
        return detect(weights) == self.id and not (self.id == "HATLight" and HATArch().detect(weights))

    def load(self, state_dict: spandrel.StateDict) -> spandrel.ImageModelDescriptor[SRNetwork]:
        """Load a network, with a warning that names arguments that the state dict does not say.

        Raises:
            InputError: the weights are of no whole network.
        """
        weights = without_wrappers(state_dict)
        advice = "A .safetensors of 'contrast-arch export' says them"
        network_g = network_from_shapes("in spandrel", weights, {"type": self.id}, advice)
        network = network_class(network_g)(**arguments_of(network_g))
        light = ["light"] if sum(parameter.numel() for parameter in network.parameters()) < LIGHT else []
        return spandrel.ImageModelDescriptor(
            network,
            weights,
            architecture=self,
            purpose="SR" if network.upscale > 1 else "Restoration",
            tags=[*light, f"{network_g['dims']}dim", f"w{network.window_size}"],
            supports_half=True,
            supports_bfloat16=True,
            scale=network.upscale,
            input_channels=network.in_chans,
            output_channels=network_g["num_out_ch"] or network.in_chans,
            # No size requirements: the network pads to whole windows itself.
            tiling=spandrel.ModelTiling.SUPPORTED,
        )
