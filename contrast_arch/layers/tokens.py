"""Functions of single tokens computed in chunks, and depthwise convolutions over tokens."""

from collections.abc import Callable

import torch
from torch import nn

from contrast_arch.ops import recording

# Numbers of a chunk, 1 MiB in float32: what is worked out in between stays in a CPU's cache. The best of 2^14 to 2^20.
CHUNK = 2**18
# Chunks of a band of rows; smaller bands took longer on two threads.
BAND = 4
# Fewest rows of a band.
ROWS = 16


def pointwise_in_chunks(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """``function(x)`` for a function of single tokens, (..., C) -> (..., C').

    On the CPU, where no gradient is wanted, large tensors are done in chunks: less memory, and less of it moved.
    """
    if not _in_chunks(x):
        return function(x)
    tokens, count, out = x.flatten(0, -2), max(1, CHUNK // x.shape[-1]), None
    for start in range(0, len(tokens), count):
        part = function(tokens[start : start + count])
        if out is None:
            out = part.new_empty(len(tokens), part.shape[-1])
        out[start : start + count] = part
    return out.unflatten(0, x.shape[:-1])


def in_bands(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """As :func:`pointwise_in_chunks` for a function of tokens (B, H, W, C) and the pixels around them.

    The result may take the place of x.
    """
    if not _in_chunks(x):
        return function(x)
    count, above, out = max(ROWS, BAND * CHUNK // x[:, :1].numel()), x[:, :0], None
    for start in range(0, x.shape[1], count):
        stop = min(start + count, x.shape[1])
        band = function(torch.cat([above, x[:, start : stop + 1]], 1))[:, above.shape[1] :][:, : stop - start]
        # Before its rows are overwritten.
        above = x[:, stop - 1 : stop].clone()
        if out is None:
            out = x if band.dtype == x.dtype else torch.empty_like(x, dtype=band.dtype)
        out[:, start:stop] = band
    return out


def _in_chunks(x):
    # The loop, and the question itself, would fix the size of the image in a network that is recorded.
    if recording() or torch.compiler.is_compiling() or torch.is_grad_enabled():
        return False
    return x.device.type == "cpu" and x.numel() > CHUNK


def depthwise(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """Depthwise convolution, (B, H, W, C) -> (B, H, W, C), contiguous or not."""
    x = x.permute(0, 3, 1, 2)
    # For channels last PyTorch takes cuDNN's grouped kernels, up to 30 times as slow as its own depthwise ones.
    return conv(x.contiguous() if x.is_cuda else x).permute(0, 2, 3, 1)
