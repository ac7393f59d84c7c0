"""What is done to every token on its own, in blocks of tokens."""

from collections.abc import Callable

import torch

from contrast_arch.ops import recording

# Numbers of a block, 4 MiB in float32: what is worked out in between stays in a CPU's cache.
BLOCK = 2**20


def by_token(
    function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, overwrite: bool = False
) -> torch.Tensor:
    """``function(x)`` for a function that treats each token, x[..., :], on its own.

    On the CPU, where no gradient is wanted, large tensors are done in blocks: less memory, and less of it moved. Not
    while a network is recorded: the loop, and the question itself, would fix the size of the image.

    Args:
        overwrite: whether the result may take the place of x, where it is as wide.

    Shapes: (..., C) -> (..., C') in the dtype that the function gives.
    """
    if recording() or torch.compiler.is_compiling():
        return function(x)
    if x.numel() <= BLOCK or x.device.type != "cpu" or torch.is_grad_enabled():
        return function(x)
    tokens = x.flatten(0, -2)
    count = max(1, BLOCK // x.shape[-1])
    first = function(tokens[:count])
    if overwrite and x.is_contiguous() and first.shape[-1] == x.shape[-1] and first.dtype == x.dtype:
        out = tokens
    else:
        out = first.new_empty(len(tokens), first.shape[-1])
    out[:count] = first
    for start in range(count, len(tokens), count):
        out[start : start + count] = function(tokens[start : start + count])
    return out.unflatten(0, x.shape[:-1])
