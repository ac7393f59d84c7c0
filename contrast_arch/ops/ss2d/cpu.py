"""SS2D on the CPU: the kernels of ``cpu_kernels.py``, for every image and group of its directions."""

from functools import partial

import torch
import torch.nn.functional as F

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


def _packed(dt_w, dt_b, A_logs, Ds, groups):
    """The parameters as the kernels take them, (K, R + N + 2, span)."""
    wide = torch.float64  # only for the exponential; the rest is exact
    A = -A_logs.to(wide).exp().view(*dt_b.shape, -1)
    skips = Ds.to(torch.float32).view(dt_b.shape)
    skips = torch.stack([sum(skips[k::groups]) for k in range(reference.DIRECTIONS)])
    rows = torch.cat([t.to(wide) for t in (dt_w.mT, dt_b[:, None], A.mT, skips[:, None])], 1)
    return F.pad(rows.to(torch.float32), (0, -rows.shape[2] % simd.LANES))


def _launch(name, x, p, parameters, before, after):
    """Run a kernel; return what it writes where it expects an image of the shape of ``x``, summed over the groups."""
    batch, height, width, dim = x.shape
    rank, state = parameters[0].shape[2], parameters[2].shape[1]
    groups = _groups(batch)
    parts = [simd.empty(*x.shape) for _ in range(groups)]
    inputs, outputs = simd.flat(*before, x, p, _packed(*parameters, groups)), simd.flat(*after)
    calls = [
        ((*inputs, part, *outputs), (height, width, dim, rank, state, STEPS, image, group, groups))
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
    return _launch("forward", x, p, (dt_w, dt_b, A_logs, Ds), (), (states,)), states


def backward(dy, states, x, p, *parameters):
    """See :mod:`contrast_arch.ops.ss2d.operator`."""
    if states.numel() == 0:
        states = forward(x, p, *parameters, keep=True)[1]
    dp, packed = simd.empty(*p.shape), _packed(*parameters, 1)
    # Shares of each image, added up here: no two threads write to the same numbers.
    shares = simd.empty(len(x), *packed.shape)
    dx = _launch("backward", x, p, parameters, (dy, states), (dp, shares))
    dim, rank = x.shape[3], parameters[0].shape[2]
    shares[:, :, rank + 1 : -1].mul_(packed[:, rank + 1 : -1])  # A's gradient times A is that of its logarithm
    rows = shares.sum(0)[..., :dim].split([rank, 1, packed.shape[1] - rank - 2, 1], 1)
    sums = (t.new_empty(t.shape).copy_(row.mT.reshape(t.shape)) for row, t in zip(rows, parameters, strict=True))
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
