"""Contrast networks for image super-resolution with BasicSR (arXiv 2501.13353).

Importing this package makes BasicSR 1.4.2 work beside current PyTorch and registers the networks in its
``ARCH_REGISTRY``. Where BasicSR is not installed the networks are plain PyTorch modules.
"""

from contrast_arch.archs.contrast_arch import Contrast, ContrastNoPE, ContrastNoPENoCA, HATLight, MambaLight
from contrast_arch.pretrained import load_pretrained
from contrast_arch.registration import register
from contrast_arch.version import __version__

__all__ = ["Contrast", "ContrastNoPE", "ContrastNoPENoCA", "HATLight", "MambaLight", "__version__", "load_pretrained"]

register()
