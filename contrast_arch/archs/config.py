"""Arguments of the networks: name, type, default, allowed values and a line of help, each in one place."""

import functools
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any, NamedTuple

from torch import nn

from contrast_arch.errors import hint
from contrast_arch.layers.ss2d import INITS

ACTIVATIONS = {"gelu": nn.GELU, "silu": nn.SiLU, "relu": nn.ReLU, "sigmoid": nn.Sigmoid}
NORMS = {"layernorm": nn.LayerNorm, "ln": nn.LayerNorm, "rmsnorm": nn.RMSNorm}

# Parts that some networks do without: predicate of a network that has it, and how its arguments begin.
PARTS = {
    "SS2D": (lambda network: network.mixer == "ss2d", ("ssm_", "forward_type")),
    "channel attention": (lambda network: network.channel_attention, ("compress_", "squeeze_", "conv_scale")),
    "overlapping attention": (lambda network: network.overlap_attention, ("overlap_ratio",)),
    "computed position bias": (lambda network: network.position_bias == "computed", ("aligned_bias",)),
    "plain MLP": (lambda network: not network.spatial_gate, ("gmlp",)),
}
# Arguments of which None stands for the default.
OPTIONAL = ("depths", "num_heads", "num_out_ch", "dims", "upscale_dims", "embed_dim")


class Kind(NamedTuple):
    """Values that an argument takes."""

    allowed: str  # in words
    fits: Callable[[Any], bool]
    convert: Callable[[Any], Any] = lambda value: value
    says: str = ": expected"  # in an error, between the value and ``allowed``


def _number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _whole(value):
    return _number(value) and float(value).is_integer() and value >= 1


def _wholes(values):
    return not isinstance(values, str) and hasattr(values, "__len__") and len(values) > 0 and all(map(_whole, values))


def _one_of(*values):
    def fits(value):
        return isinstance(value, bool) == isinstance(values[0], bool) and value in values

    return Kind(", ".join(map(repr, values)), fits, says=" is not supported; supported:")


def _module(classes):
    def convert(value):
        return classes.get(value.lower()) if isinstance(value, str) else value

    names = _one_of(*classes)
    return Kind(f"{names.allowed}, or a class of nn.Module", lambda v: callable(convert(v)), convert, names.says)


# 2.0 counts as 2: published option files write floats.
WHOLE = Kind("a whole number of at least 1", _whole, int)
ODD = Kind("an odd kernel size, or 1 for none", lambda value: _whole(value) and value % 2 == 1, int)
RANK = Kind(f"'auto' or {WHOLE.allowed}", lambda v: v == "auto" or _whole(v), lambda v: v if v == "auto" else int(v))
WHOLES = Kind("a list of whole numbers from 1, such as [6, 6, 6, 6]", _wholes, lambda v: tuple(map(int, v)))
POSITIVE = Kind("a number above 0", lambda value: _number(value) and 0 < value < math.inf)
SHARE = Kind("a number from 0 to 1", lambda value: _number(value) and 0 <= value <= 1)
SWITCH = _one_of(True, False)
ACTIVATION, NORM = _module(ACTIVATIONS), _module(NORMS)
UPSAMPLER = _one_of("pixelshuffledirect", "pixelshuffle")
PUBLISHED = "no effect in the published code; only its value there is accepted"


def _arg(default, kind, help):
    return field(default=default, metadata={"kind": kind, "help": help})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Arguments of a network, checked by :meth:`of`."""

    img_range: float = _arg(1.0, POSITIVE, "factor on the image inside the network, 1.0 or 255.0")
    resi_connection: str = _arg("1conv", _one_of("1conv", "identity"), "after groups: a 3x3 convolution, or nothing")
    window_size: int = _arg(16, WHOLE, "side of the attention windows; images are padded to whole windows")
    overlap_ratio: float = _arg(0.5, SHARE, "OCAB's key windows are window_size * (1 + overlap_ratio) wide")
    aligned_bias: bool = _arg(True, SWITCH, "computed bias: of true coordinates, or (False) those of HAT's index")
    depths: tuple[int, ...] | None = _arg((6, 6, 6, 6), WHOLES, "blocks of each group")
    num_heads: tuple[int, ...] | None = _arg(None, WHOLES, "heads of each group, divisors of dims; 6 unless given")
    patch_size: int = _arg(1, _one_of(1), PUBLISHED)
    in_chans: int = _arg(3, WHOLE, "channels of the input; the RGB mean is subtracted where it is 3")
    num_out_ch: int | None = _arg(None, WHOLE, "channels of the output; in_chans unless given")
    dims: int | None = _arg(60, WHOLE, "width C of the features")
    upscale_dims: int | None = _arg(48, WHOLE, "width of the upsampler 'pixelshuffle'")
    ssm_d_state: int = _arg(1, WHOLE, "states of each channel of the scan")
    ssm_ratio: float = _arg(1.0, POSITIVE, "inner width of SS2D over dims")
    ssm_dt_rank: int | str = _arg("auto", RANK, "rank of dt; 'auto' is ceil(dims / 16)")
    ssm_act_layer: str | type = _arg("gelu", ACTIVATION, "activation of SS2D")  # noqa: RUF009
    ssm_conv: int = _arg(3, ODD, "side of SS2D's depthwise convolution")
    ssm_conv_bias: bool = _arg(False, SWITCH, "bias of SS2D's depthwise convolution")
    ssm_init: str = _arg("v2", _one_of(*INITS), "start values of A and dt: Mamba's ('v0') or VMamba's")
    forward_type: str = _arg("v05_noz", _one_of("v05_noz", "v05"), "SS2D without its gate, or with it")
    mlp_ratio: float = _arg(2.0, POSITIVE, "width of the MLPs over dims")
    mlp_act_layer: str | type = _arg("gelu", ACTIVATION, "activation of the blocks' MLPs; OCAB's have GELU")  # noqa: RUF009
    gmlp: bool = _arg(False, SWITCH, "gated MLPs in the blocks (VMamba's gMlp)")
    patch_norm: bool = _arg(True, SWITCH, "norm after conv_first")
    norm_layer: str | type = _arg("layernorm", NORM, "norm of blocks, OCAB and groups; a class takes C")  # noqa: RUF009
    downsample_version: str = _arg("v3", _one_of("v3"), PUBLISHED)
    patchembed_version: str = _arg("v2", _one_of("v2"), PUBLISHED)
    use_checkpoint: bool = _arg(False, SWITCH, "less memory in training: backward computes activations again")
    posembed: bool = _arg(False, _one_of(False), PUBLISHED)
    img_size: int = _arg(64, WHOLE, "LQ patch size in training; HATLight shifts no windows where one covers it")
    upsampler: str = _arg("pixelshuffledirect", UPSAMPLER, "one convolution, or steps of x2, or one of x3")
    upscale: int = _arg(4, WHOLE, "scale factor")
    channel_first: bool = _arg(False, _one_of(False), PUBLISHED)
    embed_dim: int | None = _arg(None, WHOLE, "HAT's name of dims")
    compress_ratio: int = _arg(3, WHOLE, "CAB has dims // compress_ratio channels between its convolutions")
    squeeze_factor: int = _arg(30, WHOLE, "CAB's channel attention squeezes dims to dims // squeeze_factor")
    conv_scale: float = _arg(0.01, POSITIVE, "weight of CAB beside the token mixer")

    @classmethod
    def of(cls, network: type[nn.Module], arguments: dict) -> "Config":
        """Check arguments, and fill in those that are not given.

        Args:
            network: class that they are for; its attributes say which parts it has.
            arguments: of its constructor; errors are those of :class:`~contrast_arch.archs.network.SRNetwork`.
        """
        _refuse(network, arguments)
        dims, embed_dim = arguments.get("dims"), arguments.get("embed_dim")
        if embed_dim is not None:
            if dims not in (None, embed_dim):
                raise ValueError(f"dims={dims!r} and embed_dim={embed_dim!r} are two names for one width; give one")
            arguments = {**arguments, "dims": embed_dim}
        config = cls(**arguments)
        config._check_together(network)
        return config

    def __post_init__(self):
        for argument in fields(self):
            name, kind, value = argument.name, argument.metadata["kind"], getattr(self, argument.name)
            if value is None and name in OPTIONAL:
                value = argument.default
            elif not kind.fits(value):
                raise ValueError(f"{name}={value!r}{kind.says} {kind.allowed}")
            else:
                value = kind.convert(value)
            object.__setattr__(self, name, value)
        for name, value in (("num_heads", (6,) * len(self.depths)), ("num_out_ch", self.in_chans)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    @property
    def hidden(self) -> int:
        """Width of the MLPs."""
        return max(1, int(self.mlp_ratio * self.dims))

    def _check_together(self, network):
        """Refuse values that do not fit each other or the network."""
        dims, window_size, heads = self.dims, self.window_size, list(self.num_heads)
        if len(heads) != len(self.depths):
            raise ValueError(f"num_heads={heads} and depths={list(self.depths)}: expected one number a group")
        if network.overlap_attention:
            if wrong := [number for number in heads if dims % number]:
                raise ValueError(f"num_heads={heads}: {wrong[0]} does not divide dims={dims}")
            if (margins := int(window_size * self.overlap_ratio)) % 2:
                raise ValueError(
                    f"overlap_ratio={self.overlap_ratio!r} makes key windows {margins} pixels wider than window_size="
                    f"{window_size}: expected an even number, half of it on each side"
                )
        if network.mixer == "ss2d" and int(self.ssm_ratio * dims) < 1:
            raise ValueError(f"ssm_ratio={self.ssm_ratio!r} leaves nothing of dims={dims}")
        if network.mixer == "window" and self.img_size < window_size:
            raise ValueError(f"img_size={self.img_size} is smaller than window_size={window_size}")
        if network.channel_attention and dims < self.compress_ratio:
            raise ValueError(f"compress_ratio={self.compress_ratio} leaves nothing of dims={dims}")
        if network.spatial_gate and self.hidden % 2:
            raise ValueError(
                f"mlp_ratio={self.mlp_ratio!r} makes MLPs {self.hidden} wide at dims={dims}: expected an even width"
            )


ARGUMENTS = {argument.name: argument for argument in fields(Config)}
DEFAULTS = {name: argument.default for name, argument in ARGUMENTS.items()}


def constructor(**defaults) -> Callable[..., None]:
    """Make the constructor of a network for its class body: it takes the arguments of :class:`Config` by name.

    Args:
        defaults: of this network, where they are not those of :class:`Config`.
    """
    own = [(k, ARGUMENTS[k].type, _arg(default, **ARGUMENTS[k].metadata)) for k, default in defaults.items()]
    config = make_dataclass("Config", own, bases=(Config,), frozen=True, kw_only=True)

    @functools.wraps(config.__init__, assigned=())  # inspect.signature and help() show all arguments
    def __init__(self, **arguments):
        self._build(config.of(type(self), arguments))

    lines = (f"    {k}: {a.metadata['help']}; {a.metadata['kind'].allowed}." for k, a in ARGUMENTS.items())
    __init__.__qualname__ = "SRNetwork.__init__"
    __init__.__doc__ = "\n".join(["Build the network.", "", "Args:", *lines])
    return __init__


def _refuse(network, arguments):
    """Refuse arguments that are unknown, or of a part that the network does not have."""
    if unknown := [name for name in arguments if name not in DEFAULTS]:
        known = hint(unknown[0], DEFAULTS, "its arguments: ")
        raise TypeError(f"{network.__name__} has no argument {unknown[0]!r}; {known}")
    wrong = []
    for part, (is_in, prefixes) in PARTS.items():
        names = [name for name in DEFAULTS if name.startswith(prefixes) and name in arguments]
        found = [f"{name}={arguments[name]!r}" for name in names if arguments[name] != DEFAULTS[name]]
        if found and not is_in(network):
            wrong.append(f"{', '.join(found)}: not supported by {network.__name__}, which has no {part}")
    if wrong:
        raise ValueError(f"{'; '.join(wrong)}; leave out what this network does not have")
