"""The network of a checkpoint, from the names and shapes of its weights."""

import json
import math
import re
from collections import Counter

import torch

from contrast_arch.archs.config import DEFAULTS
from contrast_arch.archs.network import CONFIG_TENSOR, PUBLISHED_INDEX_BUFFERS, SRNetwork, has_published_index
from contrast_arch.errors import InputError
from contrast_arch.layers.attention import COORDS_TABLE
from contrast_arch.networks import AUTHORS_NAMES
from contrast_arch.parsing import parse_json
from contrast_arch.registration import SUFFIX, networks

GROUP = "layers.0.residual_group."
BLOCK = f"{GROUP}blocks.0."
OCAB = f"{GROUP}overlap_attn."
OCAB_TABLE = f"{OCAB}relative_position_bias_table"
OCAB_COORDS = f"{OCAB}{COORDS_TABLE}"
COMPUTED_HEADS = f"{OCAB}cpb_mlp.pos3.2.weight"
WINDOW_TABLE = f"{BLOCK}attn.relative_position_bias_table"
WINDOW_INDEX, OVERLAP_INDEX = PUBLISHED_INDEX_BUFFERS
# Weights that every network has, and those of its mixer.
SKELETON = ("conv_first.weight", f"{BLOCK}norm1.weight", f"{BLOCK}mlp.fc1.weight")
MIXERS = {
    "ss2d": tuple(f"{BLOCK}mamba.{name}" for name in ("in_proj.weight", "x_proj_weight", "A_logs")),
    "window": (f"{BLOCK}attn.qkv.weight", WINDOW_TABLE),
}
# Arguments that change the result and no shape, in one network or in all.
UNSAID = ("img_range", "img_size", "num_out_ch", "window_size", "overlap_ratio", "aligned_bias", "num_heads")
UNSAID += ("ssm_act_layer", "mlp_act_layer", "conv_scale")


def config_of(network: torch.nn.Module, network_g: dict) -> dict[str, torch.Tensor]:
    """Encode the arguments that shapes cannot say as a tensor, which exported files hold among the weights.

    Programs such as spandrel hand over the tensors of a file, and never its metadata.

    Args:
        network: may be on the meta device.
        network_g: its section, in values of JSON.

    Returns:
        The tensor by its name: JSON in ASCII as uint8 numbers, which float16 and bfloat16 hold exactly. Null stands for
        a default that follows from another argument. Empty for a network of another package.
    """
    if not isinstance(network, SRNetwork):
        return {}
    values = DEFAULTS | network_g
    config = {"type": network_g["type"].removesuffix(SUFFIX)} | {name: values[name] for name in UNSAID}
    return {CONFIG_TENSOR: torch.tensor(list(json.dumps(config).encode("ascii")), dtype=torch.uint8)}


def _read_config(weights):
    try:
        # Programs that average files leave numbers that are not quite whole.
        found = parse_json(weights[CONFIG_TENSOR].float().round().to(torch.uint8).numpy().tobytes())
    except (KeyError, ValueError, TypeError):  # absent, or of another program
        return {}
    return found if isinstance(found, dict) else {}


def network_from_shapes(path, weights: dict[str, torch.Tensor], given: dict) -> tuple[dict, dict]:
    """Find the network whose weights these are.

    Args:
        path: of the checkpoint, for messages.
        weights: of the network, index buffers included where the file has them.
        given: arguments that are known, ``type`` among them; they decide where the shapes leave a choice, and come
            before those of :func:`config_of`.

    Returns:
        The section ``network_g``, with the arguments given, and what of it are defaults because the shapes cannot say
        it.

    Raises:
        InputError: the weights are of another network; the message says which, where it is known.
    """
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    given = _read_config(weights) | given
    name = given.get("type") or _type(path, shapes)
    cls = networks().get(str(name).removesuffix(SUFFIX), SRNetwork)
    try:
        network_g = {"type": name} | _layers(cls, shapes)
        network_g |= _upsampler(path, shapes, network_g["in_chans"], given)
        windows, unknown = _windows(shapes, cls, network_g["depths"], given)
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(
            f"checkpoint {path} holds no whole {name}: its weights do not say the network ({error}); give the "
            "arguments of the network"
        ) from error
    unsaid = ["img_range", "mlp_act_layer", "ssm_act_layer" if cls.mixer == "ss2d" else "img_size"]
    unsaid += [*(["conv_scale"] if cls.channel_attention else []), *unknown]
    network_g |= windows | given
    return network_g, {name: network_g.get(name, DEFAULTS[name]) for name in unsaid if name not in given}


def assumption(path, network_g: dict, assumed: dict) -> str:
    """Warn of arguments that neither the shapes nor the file say."""
    values = ", ".join(f"{name}={value!r}" for name, value in assumed.items())
    return (
        f"{path} does not say its network: {network_g['type']} is taken from its weights, and what they cannot say "
        f"from the defaults: {values}"
    )


def upscale_of(path, weights: dict[str, torch.Tensor], network: SRNetwork, given: dict) -> int | None:
    """Scale of a checkpoint of a network; None where its upsampler is another than the network's."""
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    try:
        found = _upsampler(path, shapes, network.in_chans, {"num_out_ch": given.get("num_out_ch")})
    except (KeyError, IndexError):  # missing weights
        return None
    return found["upscale"] if found["upsampler"] == network.upsampler else None


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
    window = f"{BLOCK}attn.qkv.weight" in shapes
    expected = f"expected weights of {', '.join(own_networks())}"
    if window and f"{OCAB}qkv.weight" not in shapes:
        raise InputError(f"checkpoint {path} is of SwinIR or another network with window attention alone; {expected}")
    if window and WINDOW_INDEX in shapes:
        raise InputError(
            f"checkpoint {path} is of HAT; {expected}. HATLight has the same weights: type='HATLight' loads it as such"
        )
    found = detect(shapes)
    if found is None:
        names = ", ".join(list(shapes)[:3]) or "nothing"
        raise InputError(f"checkpoint {path} is of another network: it holds {names}; {expected}")
    return found


def own_networks() -> dict[str, type[SRNetwork]]:
    """The networks by name, without the author's names."""
    return {name: cls for name, cls in networks().items() if name not in AUTHORS_NAMES}


def _ratio(width, of):
    """The number r with int(r * of) == width, in as few digits as it takes."""
    ratio = width / of
    return ratio if int(ratio * of) == width else (width + 0.5) / of


def _factor(dims, width, argument):
    # Factors that give one width are one network.
    return DEFAULTS[argument] if max(1, dims // DEFAULTS[argument]) == width else dims // width


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
        compressed, squeezed = (f"{BLOCK}conv_block.cab.{name}.weight" for name in ("0", "3.attention.1"))
        found["compress_ratio"] = _factor(dims, shapes[compressed][0], "compress_ratio")
        found["squeeze_factor"] = _factor(dims, shapes[squeezed][0], "squeeze_factor")
    return found


def _upsampler(path, shapes, in_chans, given):
    if "conv_before_upsample.0.weight" in shapes:
        width = shapes["conv_before_upsample.0.weight"][0]
        steps = (shape[0] for name, shape in shapes.items() if re.fullmatch(r"upsample\.\d+\.weight", name))
        scale = math.prod(math.isqrt(channels // width) for channels in steps)
        found = {"upsampler": "pixelshuffle", "upscale_dims": width, "num_out_ch": shapes["conv_last.weight"][0]}
        return found | {"upscale": scale}
    total = shapes["upsample.0.weight"][0]
    # upscale² times the channels of the output: those that are given, or as many as go in, or RGB, or grey.
    for channels in [given["num_out_ch"]] if given.get("num_out_ch") else [in_chans, 3, 1]:
        scale = math.isqrt(total // channels)
        if scale**2 * channels == total:
            return {"upsampler": "pixelshuffledirect", "num_out_ch": channels, "upscale": scale}
    raise InputError(f"checkpoint {path}: an upsampler of {total} channels is of no scale; give num_out_ch and upscale")


def _windows(shapes, cls, depths, given):
    """Arguments of the windows, and the names of those that no table and no index says."""
    unknown, size = [], given.get("window_size")
    side = math.isqrt(shapes[OCAB_TABLE][0]) if OCAB_TABLE in shapes else shapes.get(OCAB_COORDS, (0, None))[1]
    index = shapes.get(WINDOW_INDEX, shapes.get(OVERLAP_INDEX))
    if WINDOW_TABLE in shapes:
        size = (math.isqrt(shapes[WINDOW_TABLE][0]) + 1) // 2
    elif index is not None:
        size = math.isqrt(index[0])
    elif size is None:
        size = _window_of(side, given.get("overlap_ratio", DEFAULTS["overlap_ratio"]))
        unknown += ["window_size"] if side is None or "overlap_ratio" not in given else []
    found = {"window_size": size}
    if not cls.overlap_attention:
        return found, unknown
    if side is not None:
        found["overlap_ratio"] = _ratio(side + 1 - 2 * size, size)
        unknown += ["overlap_ratio"] if unknown else []
    elif OVERLAP_INDEX in shapes:
        found["overlap_ratio"] = _ratio(math.isqrt(shapes[OVERLAP_INDEX][1]) - size, size)
    else:
        unknown.append("overlap_ratio")
    # Heads of each group: in its table of biases, or in the network that computes them.
    weights = ((WINDOW_TABLE, 1), (OCAB_TABLE, 1), (COMPUTED_HEADS, 0))
    weight, axis = next((found for found in weights if found[0] in shapes), (None, None))
    if weight is None:
        found["num_heads"] = given.get("num_heads") or [6] * len(depths)
        unknown.append("num_heads")
    else:
        names = (weight.replace("layers.0.", f"layers.{group}.") for group in range(len(depths)))
        found["num_heads"] = [shapes[name][axis] for name in names if name in shapes]
    if cls.position_bias == "computed":
        found["aligned_bias"] = not has_published_index(shapes)
        unknown += ["aligned_bias"] if found["aligned_bias"] else []
    return found, unknown


def _window_of(side, overlap_ratio):
    """The window of a table (2 * window + overlap - 1)², given the overlap; the default window without a table."""
    if side is None:
        return DEFAULTS["window_size"]
    for size in range(1, side + 1):
        if 2 * size + int(size * overlap_ratio) == side + 1:
            return size
    raise ValueError(f"no window_size with overlap_ratio={overlap_ratio} has a table of {side}x{side} positions")
