"""Calls of kernels, in PyTorch's own threads."""

import ctypes
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

# Numbers of a vector in the kernels.
LANES = 32

_process = os.getpid()
_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def flat(*tensors: torch.Tensor) -> list:
    """Arguments of kernels: contiguous float32 arrays, of one dimension, that share the memory where they can."""
    return [t.detach().to(torch.float32).contiguous().view(-1).numpy() for t in tensors]


def empty(*shape: int) -> torch.Tensor:
    """float32 on the CPU, whatever PyTorch's defaults are set to."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def launch(kernel: Callable, scratch: int, calls: list) -> None:
    """Call a kernel with all of these arguments, (arrays before ``scratch``, integers), in PyTorch's number of threads.

    Args:
        scratch: numbers that a call works in.
    """
    workers = min(torch.get_num_threads(), len(calls))
    spaces = list(empty(workers, -(-scratch // LANES) * LANES).numpy())  # rows begin where cache lines do

    def call(arrays, numbers):
        space = spaces.pop()
        kernel(*arrays, space, *numbers)
        spaces.append(space)

    run([functools.partial(call, *arguments) for arguments in calls], workers)


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
    return ThreadPoolExecutor(workers, "contrast_arch")


def run(tasks: list[Callable], workers: int) -> None:
    """Call every task, in ``workers`` threads at most, and raise what one of them raised.

    They are the threads that PyTorch's operators use where that can be: those wait for their next work in a loop, and
    threads of our own would have to share the cores with them. PyTorch's do not live on in a forked process.
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
