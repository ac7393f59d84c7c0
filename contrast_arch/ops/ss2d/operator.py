"""SS2D's core as an operator of PyTorch's library, one pair for each fast backend.

``torch.ops.contrast_arch.ss2d_NAME(x, p, dt_w, dt_b, A_logs, Ds, keep) -> (y, states)`` and ``ss2d_NAME_backward(dy,
states, x, p, dt_w, dt_b, A_logs, Ds) -> gradients``. Shapes are those of :mod:`contrast_arch.ops.ss2d.reference`.
"""

from collections.abc import Callable

import torch

from contrast_arch.ops.operators import compute_dtype, define
from contrast_arch.ops.ss2d.reference import DIRECTIONS, check_ss2d

INPUTS = "Tensor x, Tensor p, Tensor dt_w, Tensor dt_b, Tensor A_logs, Tensor Ds, bool keep"


def states_shape(x, A_logs, steps: int) -> tuple:
    """Shape (B, K, N, chunks, D) of the states that enter each chunk of so many steps."""
    batch, height, width, dim = x.shape
    return batch, DIRECTIONS, A_logs.shape[1], (height * width + steps - 1) // steps, dim


def define_ss2d(name: str, forward: Callable, backward: Callable, steps: Callable[[int], int]) -> Callable:
    """Register ``ss2d_NAME`` and its gradient; returns the first.

    Args:
        forward, backward: of the signatures above, called for images that are not empty. ``states`` is what backward
            can use of the forward pass; with ``keep`` false it is empty, shape (0,), and backward computes it again.
            Outputs are contiguous, each in a storage of its own, gradients in the dtypes of the tensors they belong to.
        steps: length of a sequence -> steps of a chunk, see :func:`states_shape`.
    """

    def outputs(x, p, dt_w, dt_b, A_logs, Ds, keep=False):
        check_ss2d(x, p, dt_w, dt_b, A_logs, Ds)
        dtype = compute_dtype(x, p, dt_w, dt_b, A_logs, Ds)
        shape = states_shape(x, A_logs, steps(x.shape[1] * x.shape[2])) if keep else (0,)
        return (x.shape, x.dtype), (shape, dtype)

    def forward_of_any(*inputs):
        if inputs[0].numel():
            return forward(*inputs)
        return tuple(inputs[0].new_empty(shape, dtype=dtype) for shape, dtype in outputs(*inputs))

    def backward_of_any(dy, states, *inputs):
        return backward(dy, states, *inputs) if dy.numel() else tuple(map(torch.zeros_like, inputs))

    results, kept = "Tensor y, Tensor states", slice(1, None)
    return define(f"ss2d_{name}", INPUTS, 6, results, kept, forward_of_any, backward_of_any, outputs)
