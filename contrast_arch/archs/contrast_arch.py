"""The networks, and the names under which their author published them.

Each is a name, its switches and its defaults; arguments, shapes and errors are those of
:class:`~contrast_arch.archs.network.SRNetwork`.
"""

from contrast_arch.archs.config import constructor
from contrast_arch.archs.network import SRNetwork


class Contrast(SRNetwork):
    """HAT whose (shifted) window attention is replaced by SS2D (arXiv 2501.13353). 1,491,300 parameters at X4."""


class ContrastNoPE(SRNetwork):
    """Contrast without positional embedding: OCAB has no relative position bias. 1,454,796 parameters at X4."""

    position_bias = None


class ContrastNoPENoCA(SRNetwork):
    """ContrastNoPE without channel attention, in seven groups. 1,577,388 parameters at X4."""

    channel_attention = False
    position_bias = None
    __init__ = constructor(depths=(6,) * 7)


class MambaLight(SRNetwork):
    """Pure SSM: SS2D and MLPs, no attention of any kind. 1,493,508 parameters at X4."""

    channel_attention = False
    overlap_attention = False
    position_bias = None
    __init__ = constructor(depths=(8,) * 6)


class HATLight(SRNetwork):
    """HAT (arXiv 2205.04437) at the sizes of Contrast: the network to compare with. 1,717,524 parameters at X4."""

    mixer = "window"


class ContrastV2(SRNetwork):
    """Contrast as the paper has it (arXiv 2501.13353): S at X4 by default, 7,550,007 parameters.

    No CAB, a spatial gate in the MLPs, a position bias computed from coordinates, no norm after the groups.
    """

    channel_attention = False
    position_bias = "computed"
    spatial_gate = True
    norm_after_groups = False
    __init__ = constructor(dims=150, depths=(6,) * 6, ssm_conv_bias=True, upsampler="pixelshuffle", upscale_dims=64)


class _AuthorsDefaults(SRNetwork):
    """The defaults that go with the author's names: ssm_conv_bias, and four groups of six blocks."""

    __init__ = constructor(depths=(6,) * 4, ssm_conv_bias=True)


class Contrast_baseline_first(_AuthorsDefaults, Contrast):
    """The author's name for Contrast, with the author's defaults."""


class Contrast_no_pe(_AuthorsDefaults, ContrastNoPE):
    """The author's name for ContrastNoPE, with the author's defaults."""


class Contrast_no_pe_no_ca(_AuthorsDefaults, ContrastNoPENoCA):
    """The author's name for ContrastNoPENoCA, with the author's defaults."""


class Contrast_no_pe_no_cab(Contrast_no_pe_no_ca):
    """Another name of the author for Contrast_no_pe_no_ca."""


class MambaSR(_AuthorsDefaults, MambaLight):
    """The author's name for MambaLight, with the defaults of the other published names."""
