"""SRNetwork: image in, image `upscale` times as large out. The networks are settings of it."""

from collections import OrderedDict
from functools import partial

import torch
from torch import nn

from contrast_arch.archs.blocks import CAB, Block, ResidualGroup
from contrast_arch.archs.config import Config, constructor
from contrast_arch.layers.attention import COORDS_TABLE, OverlapAttention, WindowAttention
from contrast_arch.layers.mlp import Mlp, SpatialGateMlp
from contrast_arch.layers.ss2d import SS2D
from contrast_arch.ops import exporting, recording

RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K, as in HAT

# Index buffers of published checkpoints; here every attention layer works out its own.
PUBLISHED_INDEX_BUFFERS = ("relative_position_index_SA", "relative_position_index_OCA")
# Arguments that shapes cannot say, in exported files; see contrast_arch.weights.shapes.config_of.
CONFIG_TENSOR = "contrast_arch.config"
# Ends of names of tensors in checkpoints that a network accepts, present or not, and does not load.
NOT_LOADED = (*PUBLISHED_INDEX_BUFFERS, CONFIG_TENSOR, COORDS_TABLE)

OTHER_WAYS = "use torch.export.export, torch.jit.trace, or `contrast-arch onnx` for ONNX"


def is_loaded(name: str) -> bool:
    """False for a tensor of a checkpoint that networks accept, present or not, and do not load."""
    return not name.endswith(NOT_LOADED)


def has_published_index(names) -> bool:
    """True if the tensors of a ContrastV2 have these names in a file of the published code: index and coordinates."""
    return any(name.endswith((PUBLISHED_INDEX_BUFFERS[1], COORDS_TABLE)) for name in names)


def pixel_shuffle(channels: int, upscale: int, out: int) -> list[nn.Module]:
    """A 3x3 convolution and a PixelShuffle, (B, channels, H, W) -> (B, out, H * upscale, W * upscale)."""
    return [nn.Conv2d(channels, upscale**2 * out, 3, 1, 1), nn.PixelShuffle(upscale)]


class SRNetwork(nn.Module):
    """LQ image (B, in_chans, H, W) in [0, 1] -> (B, num_out_ch, H * upscale, W * upscale), any H and W from 1.

    The image is padded to whole windows (reflected; repeated along an axis that is not longer than its padding), the
    result cropped. The class attributes say which parts a network has; arguments of other parts are accepted at their
    defaults only.

    Args: those of :class:`~contrast_arch.archs.config.Config`, by name.

    Raises:
        TypeError: an unknown argument; an image of integers.
        ValueError: a value that is not supported, or an image of another shape; the message names it and what is.

    Source: Contrast (arXiv 2501.13353), HAT (arXiv 2205.04437).
    """

    mixer = "ss2d"
    channel_attention = True
    overlap_attention = True
    position_bias = "table"
    spatial_gate = False
    norm_after_groups = True

    __init__ = constructor({})

    def _build(self, config: Config):
        """Make all modules. States of optimizers have their order."""
        super().__init__()
        self.window_size, self.upscale, self.img_range = config.window_size, config.upscale, config.img_range
        self.in_chans, self.upsampler = config.in_chans, config.upsampler
        self.aligned_bias = self.position_bias == "computed" and config.aligned_bias
        self.adds_mean_back = config.num_out_ch == config.in_chans
        mean = torch.tensor(RGB_MEAN if config.in_chans == 3 else (0.0,)).view(1, -1, 1, 1)
        self.register_buffer("mean", mean, persistent=False)

        dims, norm = config.dims, config.norm_layer
        self.conv_first = nn.Conv2d(config.in_chans, dims, 3, 1, 1)
        self.patch_embed = nn.Sequential(OrderedDict({"norm": norm(dims)} if config.patch_norm else {}))
        self.layers = nn.ModuleList(map(partial(self._group, config), config.depths, config.num_heads))
        self.norm = norm(dims) if self.norm_after_groups else nn.Identity()
        self.conv_after_body = self._residual_conv(config)
        if config.upsampler == "pixelshuffledirect":
            self.upsample = nn.Sequential(*pixel_shuffle(dims, config.upscale, config.num_out_ch))
        else:
            self._add_steps(config)
        self.apply(self._init_weights)

    def _add_steps(self, config):
        """Add steps of x2, or one of x3, and a convolution before and after."""
        width, steps = config.upscale_dims, config.upscale.bit_length() - 1
        if config.upscale not in (3, 2**steps):
            raise ValueError(f"upscale={config.upscale} with upsampler='pixelshuffle': expected 3 or a power of two")
        factors = [3] if config.upscale == 3 else [2] * steps
        self.conv_before_upsample = nn.Sequential(nn.Conv2d(config.dims, width, 3, 1, 1), nn.LeakyReLU(inplace=True))
        self.upsample = nn.Sequential(*(layer for factor in factors for layer in pixel_shuffle(width, factor, width)))
        self.conv_last = nn.Conv2d(width, config.num_out_ch, 3, 1, 1)

    def _group(self, config, depth, heads):
        blocks, overlap = [self._block(config, heads, i % 2 == 1) for i in range(depth)], None
        if self.overlap_attention:
            mlp = (SpatialGateMlp if self.spatial_gate else Mlp)(config.dims, config.hidden)
            bias = {"position_bias": self.position_bias, "aligned": config.aligned_bias}
            sizes = (config.dims, config.window_size, config.overlap_ratio, heads)
            overlap = OverlapAttention(*sizes, config.norm_layer, mlp, **bias)
        return ResidualGroup(blocks, overlap, self._residual_conv(config), config.use_checkpoint)

    def _block(self, config, heads, shifted):
        dims, norm, size = config.dims, config.norm_layer, config.window_size
        parts = {"norm1": norm(dims)}
        if self.mixer == "ss2d":
            ssm = {name.removeprefix("ssm_"): value for name, value in config if name.startswith("ssm_")}
            parts["mamba"] = SS2D(dims, config.forward_type == "v05", **ssm)
        else:
            # As in HAT, no shift where one window covers the patches of the training.
            shift = size // 2 if shifted and config.img_size > size else 0
            parts["attn"] = WindowAttention(dims, size, heads, shift)
        *_, mixer = parts
        make_mlp = SpatialGateMlp if self.spatial_gate else partial(Mlp, gated=config.gmlp)
        mlp = make_mlp(dims, config.hidden, config.mlp_act_layer)
        cab = CAB(dims, config.compress_ratio, config.squeeze_factor) if self.channel_attention else None
        parts |= {"conv_block": cab, "norm2": norm(dims), "mlp": mlp}
        return Block(mixer, config.conv_scale, **parts)

    @staticmethod
    def _residual_conv(config):
        return nn.Conv2d(config.dims, config.dims, 3, 1, 1) if config.resi_connection == "1conv" else nn.Identity()

    @staticmethod
    def _init_weights(module):
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for name in [name for name in state_dict if name.startswith(prefix) and not is_loaded(name)]:
            del state_dict[name]
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _pad(self, x):
        """Pad to whole windows; torch.export and torch.jit.trace would fix an answer to a question about the size."""
        for axis in (2, 3):
            size = x.shape[axis]
            whole = (size + self.window_size - 1) // self.window_size * self.window_size
            if recording() or whole != size:
                at, last = torch.arange(whole, device=x.device), size - 1
                mirrored = last - (at - last).abs()
                # Negative where there are too few pixels to reflect.
                x = x.index_select(axis, torch.where(mirrored[-1:] < 0, at.clamp(max=last), mirrored))
        return x

    def __prepare_scriptable__(self):
        raise NotImplementedError(f"torch.jit.script cannot compile {type(self).__name__}: {OTHER_WAYS}")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(x, torch.fx.Proxy):
            raise NotImplementedError(f"torch.fx.symbolic_trace cannot follow {type(self).__name__}: {OTHER_WAYS}")
        if x.dim() != 4 or x.shape[1] != self.in_chans:
            raise ValueError(f"input of shape {tuple(x.shape)}: expected (B, {self.in_chans}, H, W)")
        if not x.is_floating_point():
            raise TypeError(f"input of dtype {x.dtype}: expected floats in [0, 1], such as x.float() / 255 of uint8")
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
        out = out / self.img_range + (self.mean if self.adds_mean_back else 0)
        height, width = height * self.upscale, width * self.upscale
        if exporting():
            # Of a slice torch.export asks whether it is all there is, and fixes the answer.
            rows, columns = (torch.arange(size, device=out.device) for size in (height, width))
            return out[:, :, rows[:, None], columns]
        return out[:, :, :height, :width]
