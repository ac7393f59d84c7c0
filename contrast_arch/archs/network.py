"""SRNetwork: image in, image `upscale` times as large out. The networks are settings of it."""

import inspect
from functools import partial

import torch
from torch import nn

from contrast_arch.archs import arguments
from contrast_arch.archs.blocks import AttentionBlocks, Block, ResidualGroup
from contrast_arch.layers.attention import COORDS_TABLE, OverlapAttention, WindowAttention
from contrast_arch.layers.channel_attention import CAB
from contrast_arch.layers.mlp import GatedMlp, Mlp, SpatialGateMlp
from contrast_arch.layers.ss2d import INITS, SS2D
from contrast_arch.layers.upsample import PixelShuffleDirect, PixelShuffleSteps
from contrast_arch.layers.windows import mirrored_index
from contrast_arch.ops import exporting, recording

RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K, as in HAT

# Index buffers of published checkpoints; here every attention layer works out its own.
PUBLISHED_INDEX_BUFFERS = ("relative_position_index_SA", "relative_position_index_OCA")
# Arguments that shapes cannot say, in exported files; see contrast_arch.weights.shapes.config_of.
CONFIG_TENSOR = "contrast_arch.config"
# Tensors of checkpoints that a network accepts, present or not, and does not load; see is_loaded for those of OCABs.
NOT_LOADED = (*PUBLISHED_INDEX_BUFFERS, CONFIG_TENSOR)

OTHER_WAYS = (
    "use torch.export.export, which gives a torch.fx graph (.module()) for every size, torch.jit.trace, "
    "or `contrast-arch onnx` for ONNX"
)


def is_loaded(name: str) -> bool:
    """False for a tensor of a checkpoint that networks accept, present or not, and do not load."""
    return name not in NOT_LOADED and not name.endswith(f".{COORDS_TABLE}")


def has_published_index(names) -> bool:
    """True if these are names of weights whose computed position bias is read by the index of the published code.

    Args:
        names: of all tensors in a checkpoint of ContrastV2; that code writes its index and coordinates among them.
    """
    return any(name == PUBLISHED_INDEX_BUFFERS[1] or name.endswith(f".{COORDS_TABLE}") for name in names)


class PatchEmbed(nn.Module):
    """The norm at the entrance of the deep features; its name is fixed by the checkpoints."""

    def __init__(self, norm: nn.Module | None):
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.norm is None else self.norm(x)


class SRNetwork(nn.Module):
    """LQ image (B, in_chans, H, W) in [0, 1] -> (B, num_out_ch, H * upscale, W * upscale), any H and W from 1.

    The image is padded to whole windows (reflected; repeated along an axis that is not longer than its padding), the
    result cropped. What a network is made of are the class attributes; arguments that belong to a part it does not
    have are accepted at their defaults only, so that an option file can be used for another network by its ``type``.

    Args:
        img_range: the image is multiplied by this inside, 1. or 255.
        resi_connection: "1conv" (3x3) or "identity" at the end of each group and of all groups.
        window_size: side of the attention windows, and what images are padded to.
        overlap_ratio: OCAB's key windows are window_size * (1 + overlap_ratio) wide.
        aligned_bias: of a computed position bias: True reads the coordinates of each pair of pixels, False those that
            HAT's index gives in the published code.
        depths: blocks of each group; None takes ``default_depths``.
        num_heads: heads of each group's attention, divide dims; None takes 6. MambaLight has no use for it.
        patch_size: 1.
        in_chans: channels of the input; the RGB mean is subtracted where it is 3.
        num_out_ch: channels of the output; None takes in_chans.
        dims: C, the width; None takes ``default_dims``. HAT's name ``embed_dim`` is accepted instead.
        upscale_dims: width of the "pixelshuffle" upsampler.
        ssm_d_state, ssm_ratio, ssm_dt_rank, ssm_conv, ssm_conv_bias, ssm_init: d_state, ssm_ratio, dt_rank, d_conv,
            conv_bias and initialize of :class:`~contrast_arch.layers.ss2d.SS2D`.
        ssm_act_layer, mlp_act_layer: activation of SS2D and of the blocks' MLP: "gelu", "silu", "relu", "sigmoid" or a
            class. The MLP of OCAB is HAT's, with GELU.
        forward_type: "v05_noz", or "v05" for SS2D with its gate.
        mlp_ratio: the MLPs are int(mlp_ratio * dims) wide, an even number where they have a spatial gate.
        gmlp: gated MLPs in the blocks (VMamba's gMlp).
        patch_norm: whether a norm follows conv_first.
        norm_layer: "layernorm", "rmsnorm" or a class that takes C.
        downsample_version, patchembed_version, posembed, channel_first: without effect in the published code; only
            their published values are accepted.
        compress_ratio, squeeze_factor, conv_scale: of the CAB, as in HAT.
        use_checkpoint: save memory in training by computing activations again in backward.
        img_size: LQ patch size of the training. As in HAT, HATLight does not shift its windows where one window
            covers it; nothing else depends on it.
        upsampler: "pixelshuffledirect" or "pixelshuffle".
        upscale: scale factor, from 1.

    Raises:
        TypeError: an unknown argument.
        ValueError: a value that is not supported; the message names it and what is.

    Source: Contrast (arXiv 2501.13353), HAT (arXiv 2205.04437).
    """

    mixer = "ss2d"
    channel_attention = True
    overlap_attention = True
    position_bias = "table"
    spatial_gate = False
    norm_after_groups = True
    default_dims = 60
    default_depths = (6, 6, 6, 6)

    def __init__(
        self,
        *,
        img_range=1.0,
        resi_connection="1conv",
        window_size=16,
        overlap_ratio=0.5,
        aligned_bias=True,
        depths=None,
        num_heads=None,
        patch_size=1,
        in_chans=3,
        num_out_ch=None,
        dims=None,
        upscale_dims=48,
        ssm_d_state=1,
        ssm_ratio=1.0,
        ssm_dt_rank="auto",
        ssm_act_layer="gelu",
        ssm_conv=3,
        ssm_conv_bias=False,
        ssm_init="v2",
        forward_type="v05_noz",
        mlp_ratio=2.0,
        mlp_act_layer="gelu",
        gmlp=False,
        patch_norm=True,
        norm_layer="layernorm",
        downsample_version="v3",
        patchembed_version="v2",
        use_checkpoint=False,
        posembed=False,
        img_size=64,
        upsampler="pixelshuffledirect",
        upscale=4,
        channel_first=False,
        embed_dim=None,
        compress_ratio=3,
        squeeze_factor=30,
        conv_scale=0.01,
        **unknown,
    ):
        given = {k: v for k, v in locals().items() if k not in ("self", "unknown", "__class__")}
        arguments.refuse_unknown(type(self).__name__, unknown, given)
        super().__init__()
        self._refuse_without_part(given)

        for name, only in {
            "patch_size": (1,),
            "downsample_version": ("v3",),
            "patchembed_version": ("v2",),
            "posembed": (False,),
            "channel_first": (False,),
        }.items():
            arguments.one_of(name, given[name], only)
        for name in ("gmlp", "patch_norm", "use_checkpoint", "ssm_conv_bias", "aligned_bias"):
            arguments.one_of(name, given[name], (True, False))
        if dims is not None and embed_dim is not None and dims != embed_dim:
            raise ValueError(f"dims={dims!r} and embed_dim={embed_dim!r} are two names for one width; give one")
        dims = arguments.integer("dims", next((d for d in (dims, embed_dim) if d is not None), self.default_dims))
        depths = arguments.integers("depths", self.default_depths if depths is None else depths)
        num_heads = arguments.integers("num_heads", [6] * len(depths) if num_heads is None else num_heads)
        if len(num_heads) != len(depths):
            raise ValueError(f"num_heads={list(num_heads)} and depths={list(depths)}: expected one number a group")
        if self.overlap_attention:
            for heads in num_heads:
                if dims % heads:
                    raise ValueError(f"num_heads={list(num_heads)}: {heads} does not divide dims={dims}")
        self.window_size = arguments.integer("window_size", window_size)
        self.upscale = arguments.integer("upscale", upscale)
        self.img_range = arguments.positive("img_range", img_range)
        self.aligned_bias = self.position_bias == "computed" and aligned_bias
        self.in_chans = arguments.integer("in_chans", in_chans)
        num_out_ch = self.in_chans if num_out_ch is None else arguments.integer("num_out_ch", num_out_ch)
        img_size = arguments.integer("img_size", img_size)
        norm = arguments.module_class("norm_layer", norm_layer, arguments.NORMS)
        hidden = max(1, int(arguments.positive("mlp_ratio", mlp_ratio) * dims))
        mlp_act = arguments.module_class("mlp_act_layer", mlp_act_layer, arguments.ACTIVATIONS)
        arguments.one_of("resi_connection", resi_connection, ("1conv", "identity"))
        arguments.one_of("upsampler", upsampler, ("pixelshuffledirect", "pixelshuffle"))

        make_mixer = self._ss2d(given, dims) if self.mixer == "ss2d" else self._window(dims, img_size)
        if self.spatial_gate and hidden % 2:
            raise ValueError(f"mlp_ratio={mlp_ratio!r} makes MLPs {hidden} wide at dims={dims}: expected an even width")
        plain_mlp = SpatialGateMlp if self.spatial_gate else Mlp
        make_mlp = partial(GatedMlp if gmlp else plain_mlp, dims, hidden, mlp_act)
        make_cab = self._channel_attention(dims, compress_ratio, squeeze_factor)
        make_overlap = self._overlap_attention(
            dims, overlap_ratio, norm, partial(plain_mlp, dims, hidden), aligned_bias
        )
        conv_scale = arguments.positive("conv_scale", conv_scale)

        def end():
            return nn.Conv2d(dims, dims, 3, 1, 1) if resi_connection == "1conv" else nn.Identity()

        mean = torch.tensor(RGB_MEAN if self.in_chans == 3 else (0.0,)).view(1, -1, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.adds_mean_back = num_out_ch == self.in_chans

        self.conv_first = nn.Conv2d(self.in_chans, dims, 3, 1, 1)
        self.patch_embed = PatchEmbed(norm(dims) if patch_norm else None)
        mixer_name = "attn" if self.mixer == "window" else "mamba"
        self.layers = nn.ModuleList(
            ResidualGroup(
                AttentionBlocks(
                    [
                        Block(
                            norm(dims), make_mixer(heads, i), mixer_name, norm(dims), make_mlp(), make_cab(), conv_scale
                        )
                        for i in range(depth)
                    ],
                    make_overlap(heads),
                    use_checkpoint,
                ),
                end(),
            )
            for depth, heads in zip(depths, num_heads, strict=True)
        )
        self.norm = norm(dims) if self.norm_after_groups else nn.Identity()
        self.conv_after_body = end()
        if upsampler == "pixelshuffledirect":
            self.upsample = PixelShuffleDirect(self.upscale, dims, num_out_ch)
        else:
            width = arguments.integer("upscale_dims", upscale_dims)
            self.conv_before_upsample = nn.Sequential(nn.Conv2d(dims, width, 3, 1, 1), nn.LeakyReLU(inplace=True))
            self.upsample = PixelShuffleSteps(self.upscale, width)
            self.conv_last = nn.Conv2d(width, num_out_ch, 3, 1, 1)
        self.upsampler = upsampler
        self.apply(self._init_weights)

    def _refuse_without_part(self, given):
        """Arguments of a part that this network does not have must stand at their defaults."""
        defaults = {k: p.default for k, p in inspect.signature(SRNetwork.__init__).parameters.items()}
        parts = {
            "SS2D": (self.mixer == "ss2d", [k for k in given if k.startswith("ssm_")] + ["forward_type"]),
            "channel attention": (self.channel_attention, ["compress_ratio", "squeeze_factor", "conv_scale"]),
            "overlapping attention": (self.overlap_attention, ["overlap_ratio"]),
            "computed position bias": (self.position_bias == "computed", ["aligned_bias"]),
            "plain MLP": (not self.spatial_gate, ["gmlp"]),
        }
        wrong = []
        for part, (present, names) in parts.items():
            found = [f"{name}={given[name]!r}" for name in names if given[name] != defaults[name] and not present]
            if found:
                wrong.append(f"{', '.join(found)}: not supported by {type(self).__name__}, which has no {part}")
        if wrong:
            raise ValueError(f"{'; '.join(wrong)}; leave out what this network does not have")

    def _ss2d(self, given, dims):
        rank = given["ssm_dt_rank"]
        kernel = arguments.integer("ssm_conv", given["ssm_conv"])
        if kernel % 2 == 0:
            raise ValueError(f"ssm_conv={kernel}: expected an odd kernel size, or 1 for none")
        if int(arguments.positive("ssm_ratio", given["ssm_ratio"]) * dims) < 1:
            raise ValueError(f"ssm_ratio={given['ssm_ratio']!r} leaves nothing of dims={dims}")
        make = partial(
            SS2D,
            dims,
            d_state=arguments.integer("ssm_d_state", given["ssm_d_state"]),
            ssm_ratio=given["ssm_ratio"],
            dt_rank=rank if rank == "auto" else arguments.integer("ssm_dt_rank", rank),
            act_layer=arguments.module_class("ssm_act_layer", given["ssm_act_layer"], arguments.ACTIVATIONS),
            d_conv=kernel,
            conv_bias=given["ssm_conv_bias"],
            initialize=arguments.one_of("ssm_init", given["ssm_init"], tuple(INITS)),
            gate=arguments.one_of("forward_type", given["forward_type"], ("v05_noz", "v05")) == "v05",
        )
        return lambda heads, i: make()

    def _window(self, dims, img_size):
        if img_size < self.window_size:
            raise ValueError(f"img_size={img_size} is smaller than window_size={self.window_size}")
        shift = self.window_size // 2 if img_size > self.window_size else 0
        return lambda heads, i: WindowAttention(dims, self.window_size, heads, shift if i % 2 else 0)

    def _channel_attention(self, dims, compress_ratio, squeeze_factor):
        if not self.channel_attention:
            return lambda: None
        compress_ratio = arguments.integer("compress_ratio", compress_ratio)
        if dims < compress_ratio:
            raise ValueError(f"compress_ratio={compress_ratio} leaves nothing of dims={dims}")
        return partial(CAB, dims, compress_ratio, arguments.integer("squeeze_factor", squeeze_factor))

    def _overlap_attention(self, dims, overlap_ratio, norm, make_mlp, aligned_bias):
        if not self.overlap_attention:
            return lambda heads: None
        margins = int(self.window_size * arguments.between("overlap_ratio", overlap_ratio, 0, 1))
        if margins % 2:
            raise ValueError(
                f"overlap_ratio={overlap_ratio!r} makes key windows {margins} pixels wider than window_size="
                f"{self.window_size}: expected an even number, half of it on each side"
            )
        return lambda heads: OverlapAttention(
            dims, self.window_size, overlap_ratio, heads, norm, make_mlp(), self.position_bias, aligned_bias
        )

    @staticmethod
    def _init_weights(module):
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for name in NOT_LOADED:
            state_dict.pop(prefix + name, None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _pad(self, x):
        """Whole windows, added at the bottom and on the right; the image itself where nothing is missing.

        By indices without a question about the size, whose answer torch.export and torch.jit.trace would fix.
        """
        for axis in (2, 3):
            size = x.shape[axis]
            whole = (size + self.window_size - 1) // self.window_size * self.window_size
            if recording() or whole != size:
                x = x.index_select(axis, mirrored_index(size, whole, x.device))
        return x

    def __prepare_scriptable__(self):
        raise NotImplementedError(f"torch.jit.script cannot compile {type(self).__name__}: {OTHER_WAYS}")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(x, torch.fx.Proxy):
            raise NotImplementedError(f"torch.fx.symbolic_trace cannot follow {type(self).__name__}: {OTHER_WAYS}")
        if x.dim() != 4 or x.shape[1] != self.in_chans:
            raise ValueError(f"input of shape {tuple(x.shape)}: expected (B, {self.in_chans}, H, W)")
        height, width = x.shape[2:]
        x = self._pad((x - self.mean) * self.img_range)

        shallow = self.conv_first(x)
        features = self.patch_embed(shallow.permute(0, 2, 3, 1))
        for layer in self.layers:
            features = layer(features)
        features = self.norm(features).permute(0, 3, 1, 2)
        features = self.conv_after_body(features) + shallow

        if self.upsampler == "pixelshuffle":
            out = self.conv_last(self.upsample(self.conv_before_upsample(features)))
        else:
            out = self.upsample(features)
        out = out / self.img_range
        if self.adds_mean_back:
            out = out + self.mean
        height, width = height * self.upscale, width * self.upscale
        if exporting():
            # Of a slice torch.export asks whether it is all there is, and fixes the answer.
            rows, columns = (torch.arange(size, device=out.device) for size in (height, width))
            return out[:, :, rows[:, None], columns]
        return out[:, :, :height, :width]
