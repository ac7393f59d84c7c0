"""SS2D on the CPU: the kernels of ``numba_kernels.py`` over images and directions, in PyTorch's own threads.

numba is imported, and the kernels are compiled or read from numba's cache, when the first tensor arrives.
"""

import ctypes
import functools
import importlib.util
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch

from contrast_arch.ops.reference import DIRECTIONS, self_test_verdict, ss2d_scan, states_shape

# Steps of a chunk; part of what is saved between forward and backward.
STEPS = 32

_log = logging.getLogger(__name__)
_loading = threading.Lock()
_process = os.getpid()
_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Kernels(NamedTuple):
    """Compiled kernels, and for each how many numbers a task works in."""

    forward: Callable
    forward_scratch: Callable
    backward: Callable
    backward_scratch: Callable


@functools.cache
def _build():
    from contrast_arch.ops import numba_kernels as kernels

    # From the cache it takes a tenth of a second.
    notice = threading.Timer(1, _log.info, ["SS2D: numba compiles its kernels, once on this machine (some seconds)"])
    notice.daemon = True
    notice.start()
    try:
        return Kernels(
            kernels.build(kernels.forward, 9),
            kernels.forward_scratch,
            kernels.build(kernels.backward, 15),
            kernels.backward_scratch,
        )
    finally:
        notice.cancel()


def _kernels():
    """Forward and backward, compiled once whichever thread comes first."""
    with _loading:
        return _build()


@functools.cache
def _openmp():
    """PyTorch's OpenMP runtime, None where it has none with GNU's entry point (macOS, Windows)."""
    try:
        library = ctypes.CDLL(torch._C.__file__)
        library.GOMP_parallel.argtypes = (_BODY, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        library.GOMP_parallel.restype = None
    except (OSError, AttributeError):
        return None
    return library


@functools.cache
def _pool(process, workers):
    return ThreadPoolExecutor(workers, "ss2d")


def _run(tasks, workers):
    """Call every task, in ``workers`` threads at most.

    They are the threads that PyTorch's operators use where that can be: those wait for their next work in a loop,
    and threads of our own would have to share the cores with them. Theirs do not live on in a forked process.
    """
    waiting, failures = iter(tasks), []

    def work(_=None):
        try:
            for task in waiting:
                task()
        except BaseException as failure:  # an interrupt as well: nothing leaves a callback
            failures.append(failure)

    if workers == 1:
        work()
    elif _openmp() is not None and os.getpid() == _process:
        _openmp().GOMP_parallel(_BODY(work), None, workers, 0)
    else:
        list(_pool(os.getpid(), workers).map(work, range(workers)))
    if failures:
        raise failures[0]


def _groups(images):
    """Groups of directions: as few as keep all threads at work, each having an output of its own to be added."""
    workers = torch.get_num_threads()
    for groups in (1, 2):
        if images * groups % workers == 0 or images * groups >= 4 * workers:
            return groups
    return DIRECTIONS


def _flat(tensor):
    return tensor.detach().to(torch.float32).contiguous().view(-1).numpy()


def _launch(kernel, scratch, images, inputs, sums, outputs, sizes):
    """Run a kernel for every image and group of directions.

    Args:
        scratch: numbers that a task works in.
        sums: for each group a tensor of its own; they are added up into the first.
        outputs: written by all tasks, each its part.
        sizes: (H, W, D, R, N).

    Returns:
        The sum.
    """
    workers = min(torch.get_num_threads(), images * len(sums))
    inputs, parts, outputs = ([_flat(t) for t in tensors] for tensors in (inputs, sums, outputs))
    spaces = list(torch.empty(workers, scratch).numpy())

    def task(image, group):
        space = spaces.pop()
        kernel(*inputs, parts[group], *outputs, space, *sizes, STEPS, image, group, len(parts))
        spaces.append(space)

    _run([functools.partial(task, image, group) for image in range(images) for group in range(len(parts))], workers)
    for part in sums[1:]:
        sums[0].add_(part)
    return sums[0]


def count_chunks(length):
    """Chunks of a sequence."""
    return (length + STEPS - 1) // STEPS


def _new(*shape):
    return torch.empty(shape, dtype=torch.float32)


def forward(x, p, dt_w, dt_b, A_logs, Ds, keep):
    """See :mod:`contrast_arch.ops.library`."""
    batch, height, width, dim = x.shape
    states = _new(*(states_shape(x, A_logs, count_chunks(height * width)) if keep else (0,)))
    if x.numel() == 0:
        return x.new_empty(x.shape), states
    kernels = _kernels()
    order = (dt_w.shape[2], A_logs.shape[1])
    y = _launch(
        kernels.forward,
        kernels.forward_scratch(STEPS, dim, *order),
        batch,
        (x, p, dt_w, dt_b, A_logs, Ds),
        [_new(*x.shape) for _ in range(_groups(batch))],
        (states,),
        (height, width, dim, *order),
    )
    return y.to(x.dtype), states


def backward(dy, states, x, p, dt_w, dt_b, A_logs, Ds):
    """See :mod:`contrast_arch.ops.library`."""
    if x.numel() == 0:
        return tuple(torch.zeros_like(t) for t in (x, p, dt_w, dt_b, A_logs, Ds))
    if states.numel() == 0:
        states = forward(x, p, dt_w, dt_b, A_logs, Ds, keep=True)[1]
    batch, height, width, dim = x.shape
    kernels = _kernels()
    order = (dt_w.shape[2], A_logs.shape[1])
    dp = _new(*p.shape)
    # One row for each image, added up here: no two threads write to the same numbers.
    shares = [_new(batch, *t.shape) for t in (dt_w, dt_b, A_logs, Ds)]
    dx = _launch(
        kernels.backward,
        kernels.backward_scratch(STEPS, dim, *order),
        batch,
        (dy, states, x, p, dt_w, dt_b, A_logs, Ds),
        [_new(*x.shape) for _ in range(_groups(batch))],
        (dp, *shares),
        (height, width, dim, *order),
    )
    sums = (share.sum(0).to(t.dtype) for share, t in zip(shares, (dt_w, dt_b, A_logs, Ds), strict=True))
    return dx.to(x.dtype), dp.to(p.dtype), *sums


def why_not(device: torch.device, double: bool) -> str | None:
    """Why the kernels cannot serve tensors of this device, None if they can."""
    if double:
        return "it computes in float32 and an input is float64"
    if device.type != "cpu":
        return f"it needs a tensor on the CPU, not one on {device}"
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed (pip install contrast-arch[cpu])"
    return _self_test()


@functools.cache
def _self_test():
    return self_test_verdict(_error, torch.device("cpu"))


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
    y = ss2d_scan(*wide)
    expected = (y.detach(), *torch.autograd.grad(y, wide, dy.double()))
    # NaN would pass through max and be below no bound.
    return max(
        float((a - b).abs().max().nan_to_num(nan=float("inf")) / b.abs().max())
        for a, b in zip(got, expected, strict=True)
    )
