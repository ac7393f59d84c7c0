"""The network of a checkpoint, from the names and shapes of its weights."""

import contextlib
import json
import math
import re
import warnings
from collections import Counter

import torch

from contrast_arch.archs.config import DEFAULTS
from contrast_arch.archs.network import CONFIG_TENSOR, PUBLISHED_INDEX_BUFFERS, SRNetwork, has_published_index
from contrast_arch.errors import InputError
from contrast_arch.layers.attention import COORDS_TABLE
from contrast_arch.networks import AUTHORS_NAMES
from contrast_arch.parsing import parse_json
from contrast_arch.registration import SUFFIX, networks
from contrast_arch.weights.network import network_class

GROUP = "layers.0.residual_group."
BLOCK, OCAB = f"{GROUP}blocks.0.", f"{GROUP}overlap_attn."
WINDOW_TABLE, OCAB_TABLE = f"{BLOCK}attn.relative_position_bias_table", f"{OCAB}relative_position_bias_table"
OCAB_COORDS, COMPUTED_HEADS = f"{OCAB}{COORDS_TABLE}", f"{OCAB}cpb_mlp.pos3.2.weight"
WINDOW_INDEX, OVERLAP_INDEX = PUBLISHED_INDEX_BUFFERS
# Weights that every network has, and those of its mixer.
SKELETON = ("conv_first.weight", f"{BLOCK}norm1.weight", f"{BLOCK}mlp.fc1.weight")
MIXERS = {
    "ss2d": tuple(f"{BLOCK}mamba.{name}" for name in ("in_proj.weight", "x_proj_weight", "A_logs")),
    "window": (f"{BLOCK}attn.qkv.weight", WINDOW_TABLE),
}
# Arguments that change the result and no shape, in one network or in all; those of a part are of networks with it.
UNSAID = {
    "img_range": None,
    "mlp_act_layer": None,
    "num_out_ch": None,
    "ssm_act_layer": ("mixer", "ss2d"),
    "img_size": ("mixer", "window"),
    "conv_scale": ("channel_attention", True),
    "aligned_bias": ("position_bias", "computed"),
    "window_size": None,
    "overlap_ratio": ("overlap_attention", True),
    "num_heads": ("overlap_attention", True),
}


def own_networks() -> dict[str, type[SRNetwork]]:
    """The networks by name, without the author's names."""
    return {name: cls for name, cls in networks().items() if name not in AUTHORS_NAMES}


def config_of(network: torch.nn.Module, network_g: dict) -> dict[str, torch.Tensor]:
    """Encode the arguments that shapes cannot say as a tensor by its name; none for a network of another package.

    Programs such as spandrel hand over the tensors of a file, and never its metadata. The tensor is JSON in ASCII as
    uint8 numbers, which float16 and bfloat16 hold exactly; null is a default that follows from another argument.
    """
    if not isinstance(network, SRNetwork):
        return {}
    values = DEFAULTS | network_g
    config = {"type": network_g["type"].removesuffix(SUFFIX)} | {name: values[name] for name in UNSAID}
    return {CONFIG_TENSOR: torch.tensor(list(json.dumps(config).encode("ascii")), dtype=torch.uint8)}


def network_from_shapes(path, weights: dict[str, torch.Tensor], given: dict, advice: str) -> dict:
    """Find the section ``network_g`` of weights; a warning names the defaults taken for what they do not say.

    Args:
        path: of the checkpoint, for messages.
        weights: of the network, index buffers included where the file has them.
        given: arguments that are known, perhaps ``type``; they come before those of the weights.
        advice: ends the warning.

    Raises:
        InputError: the weights are of another network; the message says which, where it is known.
    """
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    with contextlib.suppress(KeyError, ValueError, TypeError):  # absent, or of another program
        # Programs that average files leave numbers that are not quite whole.
        config = weights[CONFIG_TENSOR].float().round().to(torch.uint8)
        given = dict(parse_json(config.numpy().tobytes())) | given
    name = given.get("type") or _type(path, shapes)
    cls = network_class({"type": name})
    try:
        found = {"type": name} | _layers(cls, shapes)
        found |= upsampler(shapes, found["in_chans"], given)
        windows, guessed = _windows(cls, shapes, len(found["depths"]), given)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        text = f"checkpoint {path} holds no whole {name}: its weights do not say the network ({error}); give the "
        raise InputError(f"{text}arguments of the network") from error
    defaults = DEFAULTS | {"num_heads": [6] * len(found["depths"])} | guessed
    said = found | windows | given
    own = [argument for argument, part in UNSAID.items() if part is None or getattr(cls, part[0]) == part[1]]
    if assumed := {argument: defaults[argument] for argument in own if argument not in said}:
        values = ", ".join(f"{argument}={value!r}" for argument, value in assumed.items())
        warnings.warn(
            f"{path} does not say its network: {name} is taken from its weights, and what they cannot say from the "
            f"defaults: {values}. {advice}",
            stacklevel=4,
        )
    return said | assumed


def detect(names) -> str | None:
    """Name of the network whose weights have these names, by the parts that it has; None for another network.

    Args:
        names: of the weights, or anything that has ``name in names``.
    """
    parts = {
        "channel_attention": f"{BLOCK}conv_block.cab.0.weight" in names,
        "overlap_attention": f"{OCAB}qkv.weight" in names,
        "position_bias": "table" if OCAB_TABLE in names else "computed" if COMPUTED_HEADS in names else None,
        "spatial_gate": f"{BLOCK}mlp.sg.norm.weight" in names,
    }
    for name, cls in own_networks().items():
        whole = all(weight in names for weight in (*SKELETON, *MIXERS[cls.mixer]))
        if whole and all(getattr(cls, part) == present for part, present in parts.items()):
            return name
    return None


def _type(path, shapes):
    found, windows = detect(shapes), f"{BLOCK}attn.qkv.weight" in shapes
    if found and not (windows and WINDOW_INDEX in shapes):
        return found
    kind = f"another network: it holds {', '.join(list(shapes)[:3]) or 'nothing'}"
    if windows and not found:
        kind = "SwinIR or another network with window attention alone"
    elif windows:
        kind = "HAT, and HATLight has the same weights: type='HATLight' loads it as such"
    raise InputError(f"checkpoint {path} is of {kind}; expected weights of {', '.join(own_networks())}")


def _ratio(width, of):
    """The number r with int(r * of) == width, in as few digits as it takes."""
    ratio = width / of
    return ratio if int(ratio * of) == width else (width + 0.5) / of


def _layers(cls, shapes):
    dims, in_chans = shapes["conv_first.weight"][:2]
    pattern = re.compile(r"layers\.(\d+)\.residual_group\.blocks\.\d+\.norm1\.weight")
    blocks = Counter(int(name[1]) for name in map(pattern.fullmatch, shapes) if name)
    (wide, _), (_, hidden) = shapes[f"{BLOCK}mlp.fc1.weight"], shapes[f"{BLOCK}mlp.fc2.weight"]
    found = {
        "dims": dims,
        "in_chans": in_chans,
        "depths": [blocks[group] for group in range(max(blocks) + 1)],
        "patch_norm": "patch_embed.norm.weight" in shapes,
        "norm_layer": "layernorm" if f"{BLOCK}norm1.bias" in shapes else "rmsnorm",
        "resi_connection": "1conv" if "conv_after_body.weight" in shapes else "identity",
        "mlp_ratio": _ratio(wide if cls.spatial_gate else hidden, dims),
        "gmlp": not cls.spatial_gate and wide == 2 * hidden,
    }
    if cls.mixer == "ss2d":
        mixer = f"{BLOCK}mamba."
        (inner,), (inputs, _) = shapes[f"{mixer}out_norm.weight"], shapes[f"{mixer}in_proj.weight"]
        found |= {
            "ssm_ratio": _ratio(inner, dims),
            "ssm_d_state": shapes[f"{mixer}A_logs"][1],
            "ssm_dt_rank": shapes[f"{mixer}dt_projs_weight"][2],
            "ssm_conv": shapes.get(f"{mixer}conv2d.weight", (1,))[-1],
            "ssm_conv_bias": f"{mixer}conv2d.bias" in shapes,
            "forward_type": "v05" if inputs == 2 * inner else "v05_noz",
        }
    if cls.channel_attention:
        for argument, layer in (("compress_ratio", "0"), ("squeeze_factor", "3.attention.1")):
            found[argument] = dims // shapes[f"{BLOCK}conv_block.cab.{layer}.weight"][0]
    return found


def upsampler(shapes: dict[str, tuple], in_chans: int, given: dict) -> dict:
    """Arguments of the upsampler, ``upscale`` among them; KeyError or ValueError where the shapes do not say them."""
    if "conv_before_upsample.0.weight" in shapes:
        width = shapes["conv_before_upsample.0.weight"][0]
        steps = (shape[0] for name, shape in shapes.items() if re.fullmatch(r"upsample\.\d+\.weight", name))
        scale = math.prod(math.isqrt(channels // width) for channels in steps)
        found = {"upsampler": "pixelshuffle", "upscale_dims": width, "num_out_ch": shapes["conv_last.weight"][0]}
        return found | {"upscale": scale}
    total = shapes["upsample.0.weight"][0]
    # Of the output, unless it is given: as many channels as go in, or RGB, or grey.
    for channels in [given["num_out_ch"]] if given.get("num_out_ch") else [in_chans, 3, 1]:
        scale = math.isqrt(total // channels)
        if scale**2 * channels == total:
            return {"upsampler": "pixelshuffledirect", "num_out_ch": channels, "upscale": scale}
    raise ValueError(f"an upsampler of {total} channels is of no scale; give num_out_ch and upscale")


def _windows(cls, shapes, groups, given):
    """Arguments of windows and heads: those that tables and indices say, and those that a table alone leaves open."""
    side = math.isqrt(shapes[OCAB_TABLE][0]) if OCAB_TABLE in shapes else shapes.get(OCAB_COORDS, (0, 0))[1]
    index = shapes.get(WINDOW_INDEX, shapes.get(OVERLAP_INDEX))
    ratio, found, guessed = given.get("overlap_ratio", DEFAULTS["overlap_ratio"]), {}, {}
    if index or WINDOW_TABLE in shapes:
        found["window_size"] = math.isqrt(index[0]) if index else (math.isqrt(shapes[WINDOW_TABLE][0]) + 1) // 2
    elif side and "window_size" not in given:
        fits = (size for size in range(1, side + 1) if 2 * size + int(size * ratio) == side + 1)
        if (size := next(fits, None)) is None:
            raise ValueError(f"no window_size with overlap_ratio={ratio} has a table of {side}x{side} positions")
        (found if "overlap_ratio" in given else guessed)["window_size"] = size
    size = (given | found).get("window_size")
    if OVERLAP_INDEX in shapes or (side and size):
        wide = math.isqrt(shapes[OVERLAP_INDEX][1]) if OVERLAP_INDEX in shapes else side + 1 - size
        found["overlap_ratio"] = _ratio(wide - size, size)
    # Of each group, in its table of biases, or in the network that computes them.
    for weight, axis in ((COMPUTED_HEADS, 0), (OCAB_TABLE, 1), (WINDOW_TABLE, 1)):
        if weight in shapes:
            names = (weight.replace("layers.0.", f"layers.{group}.") for group in range(groups))
            found["num_heads"] = [shapes[name][axis] for name in names]
    if cls.position_bias == "computed" and has_published_index(shapes):
        found["aligned_bias"] = False
    return found, guessed
