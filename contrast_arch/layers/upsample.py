"""From deep features to an image `upscale` times as large."""

from torch import nn


class PixelShuffleDirect(nn.Sequential):
    """One 3x3 convolution and one PixelShuffle (the light upsampler of SwinIR, arXiv 2108.10257).

    Shapes: (B, dims, H, W) -> (B, num_out_ch, H * upscale, W * upscale).
    """

    def __init__(self, upscale: int, dims: int, num_out_ch: int):
        super().__init__(nn.Conv2d(dims, upscale**2 * num_out_ch, 3, 1, 1), nn.PixelShuffle(upscale))


class PixelShuffleSteps(nn.Sequential):
    """A x2 step for each factor of two in ``upscale``, or one x3 step; nothing at upscale 1.

    Shapes: (B, channels, H, W) -> (B, channels, H * upscale, W * upscale).

    Raises:
        ValueError: upscale is neither 3 nor a power of two.
    """

    def __init__(self, upscale: int, channels: int):
        if upscale == 3:
            factors = [3]
        elif upscale & (upscale - 1) == 0:
            factors = [2] * (upscale.bit_length() - 1)
        else:
            raise ValueError(f"upscale {upscale} with upsampler 'pixelshuffle': expected 3 or a power of two")
        steps = ((nn.Conv2d(channels, n**2 * channels, 3, 1, 1), nn.PixelShuffle(n)) for n in factors)
        super().__init__(*(layer for step in steps for layer in step))
