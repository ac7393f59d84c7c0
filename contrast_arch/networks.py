"""The one table of networks, from which all else about them is made: a new network is a line here. Needs no torch."""

from dataclasses import dataclass, field

MODULE = "contrast_arch.archs.contrast_arch"
# Arguments in the option files, text as it stands; None is left out.
ARGUMENTS = {
    "type": None,
    "upscale": "*scale",
    "in_chans": 3,
    "img_range": "1.",
    "img_size": 64,
    "window_size": 16,
    "overlap_ratio": 0.5,
    "aligned_bias": None,
    "depths": [6] * 4,
    "num_heads": None,
    "dims": 60,
    "embed_dim": None,
    "ssm_d_state": 1,
    "ssm_ratio": 1.0,
    "ssm_dt_rank": "auto",
    "ssm_conv": 3,
    "ssm_conv_bias": False,
    "ssm_init": "v2",
    "forward_type": "v05_noz",
    "compress_ratio": None,
    "squeeze_factor": None,
    "conv_scale": None,
    "mlp_ratio": 2.0,
    "upsampler": "pixelshuffledirect",
    "upscale_dims": None,
    "resi_connection": "1conv",
    "use_checkpoint": None,
}
LIGHT = {"depths": [6] * 3, "dims": 48, "ssm_conv_bias": True}
WITHOUT_SS2D = dict.fromkeys(name for name in ARGUMENTS if name.startswith(("ssm_", "forward_type")))
PIXELSHUFFLE = {"upsampler": "pixelshuffle", "upscale_dims": 64}
ALIGNED = "true  # false for weights of the published code; see docs/options.md"
CHECKPOINT = "true  # in training: activations, more than a GPU has room for, are computed again in backward"


@dataclass(frozen=True)
class Network:
    """A network, or one with other arguments, under its name in the option files.

    Args:
        title: first words of the option files.
        sizes: arguments by name of a size, the default first; the full size of the comparison has no name.
        arguments: of all sizes; with ``type`` it is a network of another line, and has no class of its own.
        parts: attributes of its class that are not those of ``SRNetwork``.
        defaults: of its constructor that are not those of ``Config``.
        paper: True if trained by the paper's recipe, False for that of the published comparison.
        benched: sizes that ``contrast-arch bench`` measures by default; None stands for the default size.
    """

    title: str
    sizes: dict[str, dict]
    arguments: dict = field(default_factory=dict)
    parts: dict = field(default_factory=dict)
    defaults: dict = field(default_factory=dict)
    paper: bool = False
    benched: tuple[str, ...] | None = None


NETWORKS = {
    "Contrast": Network("Contrast, the baseline", {"": {}, "light": LIGHT}),
    "ContrastNoPE": Network(
        "Contrast without positional embedding", {"": {}, "light": LIGHT}, parts={"position_bias": None}
    ),
    "ContrastNoPE_ssm_ratio2": Network(
        "Contrast without positional embedding, SS2D twice as wide",
        {"": {}, "light": LIGHT},
        {"type": "ContrastNoPE", "ssm_ratio": 2.0},
    ),
    "ContrastNoPENoCA": Network(
        "Contrast without positional embedding and channel attention, in more groups",
        {"": {"depths": [6] * 7}, "light": LIGHT | {"depths": [6] * 4, "dims": 54}},
        parts={"channel_attention": False, "position_bias": None},
        defaults={"depths": (6,) * 7},
    ),
    "HATLight": Network(
        "HAT-light, what the others are compared with",
        {"": {"embed_dim": 60}, "light": {"depths": [5] * 3, "embed_dim": 48}},
        {"dims": None, **WITHOUT_SS2D, "compress_ratio": 3, "squeeze_factor": 30, "conv_scale": 0.01},
        parts={"mixer": "window"},
    ),
    "MambaLight": Network(
        "Pure SSM",
        {"": {"depths": [8] * 6}, "light": LIGHT | {"depths": [7] * 5}},
        {"overlap_ratio": None},
        parts={"channel_attention": False, "overlap_attention": False, "position_bias": None},
        defaults={"depths": (8,) * 6},
    ),
    "ContrastV2": Network(
        "ContrastV2, the paper's network",
        {
            "S": {"depths": [6] * 6, "dims": 150, **PIXELSHUFFLE},
            "base": {"window_size": 32, "depths": [6] * 6, "dims": 210, **PIXELSHUFFLE},
            "L": {"window_size": 32, "depths": [6] * 8, "dims": 600, **PIXELSHUFFLE, "use_checkpoint": CHECKPOINT},
            "light": LIGHT,
        },
        {"aligned_bias": ALIGNED, "ssm_conv_bias": True},
        parts={"channel_attention": False, "position_bias": "computed", "spatial_gate": True}
        | {"norm_after_groups": False},
        defaults={"dims": 150, "depths": (6,) * 6, "ssm_conv_bias": True, **PIXELSHUFFLE},
        paper=True,
        benched=("light", "S"),
    ),
}
# The author's names, each of a network with these defaults.
AUTHORS_NAMES = {
    "Contrast_baseline_first": "Contrast",
    "Contrast_no_pe": "ContrastNoPE",
    "Contrast_no_pe_no_ca": "ContrastNoPENoCA",
    "Contrast_no_pe_no_cab": "ContrastNoPENoCA",
    "MambaSR": "MambaLight",
}
AUTHORS_DEFAULTS = {"depths": (6,) * 4, "ssm_conv_bias": True}


def compared() -> list[str]:
    """Return the names, with their sizes, of the networks that ``contrast-arch bench`` measures by default."""
    sizes = {name: network.benched or list(network.sizes)[:1] for name, network in NETWORKS.items()}
    return ["_".join(filter(None, (name, size))) for name, own in sizes.items() for size in own]


def class_names() -> list[str]:
    """Return the names of the classes of networks, the author's last."""
    return [*(name for name, network in NETWORKS.items() if "type" not in network.arguments), *AUTHORS_NAMES]
