"""Functions of single tokens computed in chunks, and depthwise convolutions over tokens."""

from collections.abc import Callable

import torch
from torch import nn

from contrast_arch.ops import recording

# Numbers of a chunk, 1 MiB in float32: what is worked out in between stays in a CPU's cache. The best of 2^14 to 2^20.
CHUNK = 2**18


def pointwise_in_chunks(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """``function(x)`` for a function of single tokens, (..., C) -> (..., C').

    On the CPU, where no gradient is wanted, large tensors are done in chunks: less memory, and less of it moved.
    """
    # The loop, and the question itself, would fix the size of the image in a network that is recorded.
    whole = recording() or torch.compiler.is_compiling() or torch.is_grad_enabled()
    if whole or x.device.type != "cpu" or x.numel() <= CHUNK:
        return function(x)
    tokens, count, out = x.flatten(0, -2), max(1, CHUNK // x.shape[-1]), None
    for start in range(0, len(tokens), count):
        part = function(tokens[start : start + count])
        if out is None:
            out = part.new_empty(len(tokens), part.shape[-1])
        out[start : start + count] = part
    return out.unflatten(0, x.shape[:-1])


def depthwise(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """Depthwise convolution, (B, H, W, C) -> (B, H, W, C), contiguous or not."""
    x = x.permute(0, 3, 1, 2)
    # For channels last PyTorch takes cuDNN's grouped kernels, up to 30 times as slow as its own depthwise ones.
    return conv(x.contiguous() if x.is_cuda else x).permute(0, 2, 3, 1)
