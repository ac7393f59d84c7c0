"""The one table of names: what BasicSR's registries get from this package."""

import logging
import warnings

from contrast_arch import compat
from contrast_arch.archs import contrast_arch

NETWORKS = {
    network.__name__: network
    for network in (
        contrast_arch.Contrast,
        contrast_arch.ContrastNoPE,
        contrast_arch.ContrastNoPENoCA,
        contrast_arch.HATLight,
        contrast_arch.MambaLight,
        contrast_arch.Contrast_baseline_first,
        contrast_arch.Contrast_no_pe,
        contrast_arch.Contrast_no_pe_no_ca,
        contrast_arch.Contrast_no_pe_no_cab,
        contrast_arch.MambaSR,
    )
}


def _models():
    # It is made of BasicSR's own model, so that it cannot be imported without it.
    from contrast_arch.models.contrast_model import ContrastModel

    return {"ContrastModel": ContrastModel}


def register() -> None:
    """Put the networks into BasicSR's ``ARCH_REGISTRY`` and ContrastModel into its ``MODEL_REGISTRY``; nothing where
    BasicSR is not installed.

    A name that is taken already stays with its owner, with a warning: BasicSR allows none to be registered twice. A
    BasicSR that is installed but does not import is a warning too, since the networks do not need it.
    """
    if not compat.basicsr_installed():
        return
    try:
        compat.mend_basicsr()
        from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY

        tables = ((ARCH_REGISTRY, NETWORKS, "network"), (MODEL_REGISTRY, _models(), "model"))
    except Exception as error:
        warnings.warn(f"BasicSR is installed but does not import, so no network was registered: {error}", stacklevel=3)
        return
    # What the package logs goes where BasicSR's log goes: to the terminal and into the experiment's folder.
    logging.getLogger("contrast_arch").parent = logging.getLogger("basicsr")
    for registry, table, what in tables:
        for name, registered in table.items():
            if name not in registry:
                registry.register(registered)
            elif registry.get(name) is not registered:
                warnings.warn(f"the {what} name {name!r} is already registered by another package", stacklevel=3)
