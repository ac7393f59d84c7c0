"""SS2D on the CPU: the kernels of ``cpu_kernels.py``, for every image and group of its directions."""

from functools import partial

import torch

from contrast_arch.ops import simd
from contrast_arch.ops.self_test import error_against
from contrast_arch.ops.ss2d import reference
from contrast_arch.ops.ss2d.operator import define_ss2d, states_shape

KERNELS = "contrast_arch.ops.ss2d.cpu_kernels"
# Steps of a chunk; part of what is saved between forward and backward.
STEPS = 32


def _groups(images):
    """Groups of directions: as few as keep all threads at work, each having an output of its own to be added."""
    workers = torch.get_num_threads()
    for groups in (1, 2):
        if images * groups % workers == 0 or images * groups >= 4 * workers:
            return groups
    return reference.DIRECTIONS


def _launch(name, x, rank, state, inputs, outputs):
    """Run a kernel; return what it writes where it expects an image of the shape of ``x``, summed over the groups."""
    batch, height, width, dim = x.shape
    groups = _groups(batch)
    parts = [simd.empty(*x.shape) for _ in range(groups)]
    inputs, outputs, sizes = simd.flat(*inputs), simd.flat(*outputs), (height, width, dim, rank, state, STEPS)
    calls = [
        ((*inputs, part, *outputs), (*sizes, image, group, groups))
        for image in range(batch)
        for group, part in enumerate(simd.flat(*parts))
    ]
    simd.launch(KERNELS, name, (STEPS, dim, rank, state), calls)
    for part in parts[1:]:
        parts[0].add_(part)
    return parts[0].to(x.dtype)


def forward(x, p, dt_w, dt_b, A_logs, Ds, keep):
    """See :mod:`contrast_arch.ops.ss2d.operator`."""
    states = simd.empty(*(states_shape(x, A_logs, STEPS) if keep else (0,)))
    inputs = (x, p, dt_w, dt_b, A_logs, Ds)
    return _launch("forward", x, dt_w.shape[2], A_logs.shape[1], inputs, (states,)), states


def backward(dy, states, x, p, dt_w, dt_b, A_logs, Ds):
    """See :mod:`contrast_arch.ops.ss2d.operator`."""
    inputs = (x, p, dt_w, dt_b, A_logs, Ds)
    if states.numel() == 0:
        states = forward(*inputs, keep=True)[1]
    dp = simd.empty(*p.shape)
    # One row for each image, added up here: no two threads write to the same numbers.
    shares = [simd.empty(len(x), *t.shape) for t in inputs[2:]]
    dx = _launch("backward", x, dt_w.shape[2], A_logs.shape[1], (dy, states, *inputs), (dp, *shares))
    sums = (share.sum(0).to(t.dtype) for share, t in zip(shares, inputs[2:], strict=True))
    return dx, dp.to(p.dtype), *sums


ss2d = define_ss2d("cpu", forward, backward, lambda length: STEPS)
# Self-test on a small image whose channels fill no vector, with states of 2 and a rank of 3.
self_test_error = partial(
    error_against,
    lambda *inputs: reference.ss2d(*inputs)[0],
    lambda *inputs: ss2d(*inputs, True)[0],
    [(1, 5, 7, 18), (1, 5, 7, 4, 7), (4, 18, 3), (4, 18), (72, 2), (72,)],
)
REQUIREMENT = simd.REQUIREMENT
