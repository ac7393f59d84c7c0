"""Arguments of the networks: name, type, default, allowed values and a line of help, each in one place."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PlainValidator, Strict, ValidationError, WithJsonSchema
from torch import nn

from contrast_arch.errors import hint

# Parts that some networks do without: predicate of a network that has it, and how its arguments begin.
PARTS = {
    "SS2D": (lambda network: network.mixer == "ss2d", ("ssm_", "forward_type")),
    "channel attention": (lambda network: network.channel_attention, ("compress_", "squeeze_", "conv_scale")),
    "overlapping attention": (lambda network: network.overlap_attention, ("overlap_ratio",)),
    "computed position bias": (lambda network: network.position_bias == "computed", ("aligned_bias",)),
    "plain MLP": (lambda network: not network.spatial_gate, ("gmlp",)),
}


def _module(**classes):
    """Type of a class of nn.Module, given as such or by name."""
    allowed = f"{', '.join(classes)}, or a class of nn.Module"

    def find(value):
        found = classes.get(value.lower()) if isinstance(value, str) else value
        if not callable(found):
            raise ValueError(f"expected {allowed}")
        return found

    return Annotated[Any, PlainValidator(find), WithJsonSchema({"allowed": allowed})]


Whole = Annotated[int, Field(ge=1)]
Wholes = Annotated[tuple[Whole, ...], Field(min_length=1)]
Positive = Annotated[float, Field(gt=0)]
Flag = Annotated[bool, Strict()]
Activation = _module(gelu=nn.GELU, silu=nn.SiLU, relu=nn.ReLU, sigmoid=nn.Sigmoid)
Norm = _module(layernorm=nn.LayerNorm, ln=nn.LayerNorm, rmsnorm=nn.RMSNorm)
UNUSED = "no effect in the published code; only its value there is accepted"


def _arg(default, help, **limits):
    return Field(default, description=help, **limits)


class Config(BaseModel, frozen=True, validate_default=True, allow_inf_nan=False):
    """Arguments of a network, checked by :meth:`of`. Published option files write floats: 2.0 counts as 2."""

    img_range: Positive = _arg(1.0, "factor on the image inside the network, 1.0 or 255.0")
    resi_connection: Literal["1conv", "identity"] = _arg("1conv", "after groups: a 3x3 convolution, or nothing")
    window_size: Whole = _arg(16, "side of the attention windows; images are padded to whole windows")
    overlap_ratio: float = _arg(0.5, "OCAB's key windows are window_size * (1 + overlap_ratio) wide", ge=0, le=1)
    aligned_bias: Flag = _arg(True, "computed bias: of true coordinates, or (False) those of HAT's index")
    depths: Wholes = _arg((6, 6, 6, 6), "blocks of each group")
    num_heads: Wholes | None = _arg(None, "heads of each group, divisors of dims; 6 unless given")
    patch_size: Literal[1] = _arg(1, UNUSED)
    in_chans: Whole = _arg(3, "channels of the input; the RGB mean is subtracted where it is 3")
    num_out_ch: Whole | None = _arg(None, "channels of the output; in_chans unless given")
    dims: Whole = _arg(60, "width C of the features")
    upscale_dims: Whole = _arg(48, "width of the upsampler 'pixelshuffle'")
    ssm_d_state: Whole = _arg(1, "states of each channel of the scan")
    ssm_ratio: Positive = _arg(1.0, "inner width of SS2D over dims")
    ssm_dt_rank: Literal["auto"] | Whole = _arg("auto", "rank of dt; 'auto' is ceil(dims / 16)")
    ssm_act_layer: Activation = _arg("gelu", "activation of SS2D")
    ssm_conv: Literal[1, 3, 5, 7] = _arg(3, "side of SS2D's depthwise convolution; 1 for none")
    ssm_conv_bias: Flag = _arg(False, "bias of SS2D's depthwise convolution")
    ssm_init: Literal["v0", "v1", "v2"] = _arg("v2", "start values of A and dt: Mamba's ('v0') or VMamba's")
    forward_type: Literal["v05_noz", "v05"] = _arg("v05_noz", "SS2D without its gate, or with it")
    mlp_ratio: Positive = _arg(2.0, "width of the MLPs over dims")
    mlp_act_layer: Activation = _arg("gelu", "activation of the blocks' MLPs; OCAB's have GELU")
    gmlp: Flag = _arg(False, "gated MLPs in the blocks (VMamba's gMlp)")
    patch_norm: Flag = _arg(True, "norm after conv_first")
    norm_layer: Norm = _arg("layernorm", "norm of blocks, OCAB and groups; a class takes C")
    downsample_version: Literal["v3"] = _arg("v3", UNUSED)
    patchembed_version: Literal["v2"] = _arg("v2", UNUSED)
    use_checkpoint: Flag = _arg(False, "less memory in training: backward computes activations again")
    posembed: Literal[False] = _arg(False, UNUSED)
    img_size: Whole = _arg(64, "LQ patch size in training; HATLight shifts no windows where one covers it")
    upsampler: Literal["pixelshuffledirect", "pixelshuffle"] = _arg("pixelshuffledirect", "one convolution, or steps")
    upscale: Whole = _arg(4, "scale factor")
    channel_first: Literal[False] = _arg(False, UNUSED)
    embed_dim: Whole | None = _arg(None, "HAT's name of dims")
    compress_ratio: Whole = _arg(3, "CAB has dims // compress_ratio channels between its convolutions")
    squeeze_factor: Whole = _arg(30, "CAB's channel attention squeezes dims to dims // squeeze_factor")
    conv_scale: Positive = _arg(0.01, "weight of CAB beside the token mixer")

    @classmethod
    def of(cls, network: type[nn.Module], defaults: dict, arguments: dict) -> "Config":
        """Check the arguments of a network's constructor, and fill in those that are not given."""
        if unknown := [name for name in arguments if name not in DEFAULTS]:
            known = hint(unknown[0], DEFAULTS, "its arguments: ")
            raise TypeError(f"{network.__name__} has no argument {unknown[0]!r}; {known}")
        try:
            config = cls(**{**defaults, **arguments})
        except ValidationError as failure:
            problems = [f"{e['loc'][0]}={arguments[e['loc'][0]]!r}: {e['msg']}" for e in failure.errors()]
            text = "; ".join(problems).replace("Input should be", "expected").replace("Value error, ", "")
            raise ValueError(text) from None
        if config.embed_dim not in (None, arguments.get("dims", config.embed_dim)):
            raise ValueError(f"dims={config.dims} and embed_dim={config.embed_dim}: two names for one width, give one")
        updates = {"dims": config.embed_dim or config.dims, "num_out_ch": config.num_out_ch or config.in_chans}
        config = config.model_copy(update=updates | {"num_heads": config.num_heads or (6,) * len(config.depths)})
        if problems := [*_without_part(network, arguments), *_unfit(network, config)]:
            raise ValueError("; ".join(problems))
        return config

    @property
    def hidden(self) -> int:
        """Width of the MLPs."""
        return max(1, int(self.mlp_ratio * self.dims))


DEFAULTS = {name: argument.default for name, argument in Config.model_fields.items()}


def constructor(defaults: dict) -> Callable[..., None]:
    """Make the constructor of a network: it takes the arguments of :class:`Config` by name."""

    def __init__(self, **arguments):
        self._build(Config.of(type(self), defaults, arguments))

    Parameter, lines = inspect.Parameter, ["Build the network.", "", "Args:"]
    parameters = [Parameter("self", Parameter.POSITIONAL_ONLY)]
    for name, argument in Config.model_fields.items():
        default, kind = defaults.get(name, argument.default), argument.annotation
        parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind))
        lines.append(f"    {name}: {argument.description}.")
    __init__.__signature__, __init__.__doc__ = inspect.Signature(parameters), "\n".join(lines)
    return __init__


def _without_part(network, arguments):
    """Yield arguments of parts that the network does not have; at their defaults they are accepted."""
    changed = {name: value for name, value in arguments.items() if value != DEFAULTS[name]}
    for part, (is_in, prefixes) in PARTS.items():
        found = ", ".join(f"{name}={value!r}" for name, value in changed.items() if name.startswith(prefixes))
        if found and not is_in(network):
            yield f"{found}: not supported by {network.__name__}, which has no {part}; leave that out"


def _unfit(network, config):
    """Yield values that do not fit each other or the network."""
    dims, window_size, heads = config.dims, config.window_size, list(config.num_heads)
    if len(heads) != len(config.depths):
        yield f"num_heads={heads} and depths={list(config.depths)}: expected one number a group"
    if network.overlap_attention:
        if wrong := [number for number in heads if dims % number]:
            yield f"num_heads={heads}: {wrong[0]} does not divide dims={dims}"
        if int(window_size * config.overlap_ratio) % 2:
            yield f"overlap_ratio={config.overlap_ratio}: expected an even share of window_size={window_size}"
    if network.spatial_gate and config.hidden % 2:
        yield f"mlp_ratio={config.mlp_ratio}: expected MLPs of an even width, not {config.hidden}, at dims={dims}"
