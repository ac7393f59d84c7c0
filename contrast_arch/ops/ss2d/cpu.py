"""SS2D on the CPU: the kernels of ``cpu_kernels.py``, for every image and group of its directions.

The kernels are compiled, or read from numba's cache, when the first tensor arrives.
"""

import torch

from contrast_arch.ops import simd
from contrast_arch.ops.self_test import error_of
from contrast_arch.ops.ss2d.operator import define_ss2d
from contrast_arch.ops.ss2d.reference import DIRECTIONS, states_shape
from contrast_arch.ops.ss2d.reference import ss2d as definition

KERNELS = "contrast_arch.ops.ss2d.cpu_kernels"
# Steps of a chunk; part of what is saved between forward and backward.
STEPS = 32


def _groups(images):
    """Groups of directions: as few as keep all threads at work, each having an output of its own to be added."""
    workers = torch.get_num_threads()
    for groups in (1, 2):
        if images * groups % workers == 0 or images * groups >= 4 * workers:
            return groups
    return DIRECTIONS


def _launch(kernel, scratch, x, inputs, outputs, rank, state):
    """Run a kernel; what it writes where an image of the shape of ``x`` is asked for, summed over the groups."""
    batch, height, width, dim = x.shape
    groups = _groups(batch)
    parts = [simd.empty(*x.shape) for _ in range(groups)]
    inputs, outputs, sizes = simd.flat(*inputs), simd.flat(*outputs), (height, width, dim, rank, state, STEPS)
    calls = [
        ((*inputs, part, *outputs), (*sizes, image, group, groups))
        for image in range(batch)
        for group, part in enumerate(simd.flat(*parts))
    ]
    simd.launch(kernel, scratch(STEPS, dim, rank, state), calls)
    for part in parts[1:]:
        parts[0].add_(part)
    return parts[0].to(x.dtype)


def count_chunks(length):
    """Chunks of a sequence."""
    return (length + STEPS - 1) // STEPS


def forward(x, p, dt_w, dt_b, A_logs, Ds, keep):
    """See :mod:`contrast_arch.ops.ss2d.operator`."""
    _, height, width, _ = x.shape
    states = simd.empty(*(states_shape(x, A_logs, count_chunks(height * width)) if keep else (0,)))
    if x.numel() == 0:
        return x.new_empty(x.shape), states
    kernels = simd.kernels(KERNELS)
    inputs = (x, p, dt_w, dt_b, A_logs, Ds)
    order = dt_w.shape[2], A_logs.shape[1]
    return _launch(kernels.forward, kernels.forward_scratch, x, inputs, (states,), *order), states


def backward(dy, states, x, p, dt_w, dt_b, A_logs, Ds):
    """See :mod:`contrast_arch.ops.ss2d.operator`."""
    inputs = (x, p, dt_w, dt_b, A_logs, Ds)
    if x.numel() == 0:
        return tuple(torch.zeros_like(t) for t in inputs)
    if states.numel() == 0:
        states = forward(*inputs, keep=True)[1]
    kernels = simd.kernels(KERNELS)
    dp = simd.empty(*p.shape)
    # One row for each image, added up here: no two threads write to the same numbers.
    shares = [simd.empty(len(x), *t.shape) for t in inputs[2:]]
    order = dt_w.shape[2], A_logs.shape[1]
    dx = _launch(kernels.backward, kernels.backward_scratch, x, (dy, states, *inputs), (dp, *shares), *order)
    sums = (share.sum(0).to(t.dtype) for share, t in zip(shares, inputs[2:], strict=True))
    return dx, dp.to(p.dtype), *sums


def unsupported_reason(device: torch.device, double: bool) -> str | None:
    """Reason why the kernels cannot serve tensors of this device, None if they can."""
    return simd.unsupported_reason(_error, device, double)


def _error(device) -> float:
    """Largest error of output and gradients on a small image, each relative to its largest value."""
    generator = torch.Generator().manual_seed(0)
    batch, height, width, dim, rank, state = 1, 5, 7, 18, 3, 2
    shapes = (
        (batch, height, width, dim),
        (batch, height, width, DIRECTIONS, rank + 2 * state),
        (DIRECTIONS, dim, rank),
        (DIRECTIONS, dim),
        (DIRECTIONS * dim, state),
        (DIRECTIONS * dim,),
    )
    inputs = [torch.rand(shape, generator=generator) for shape in shapes]
    dy = torch.rand(shapes[0], generator=generator)
    got = forward(*inputs, keep=True)
    got = (got[0], *backward(dy, got[1], *inputs))
    wide = [t.double().requires_grad_() for t in inputs]
    y, _ = definition(*wide)
    return error_of(got, (y.detach(), *torch.autograd.grad(y, wide, dy.double())))


ss2d = define_ss2d("cpu", forward, backward, count_chunks)
