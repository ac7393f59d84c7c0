"""Kernels compiled by numba: built when they are first needed, and run in PyTorch's own threads.

A module of kernels has the functions ``forward`` and ``backward``, whose arguments up to ``scratch`` are flat float32
arrays and the others integers, and ``forward_scratch`` and ``backward_scratch``, which say how many numbers they work
in. numba is imported with the first of them.
"""

import ctypes
import functools
import importlib
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch

# Numbers of a vector in the kernels.
LANES = 32
# Of numba: division by zero gives infinity; threads run at the same time.
OPTIONS = {"error_model": "numpy", "nogil": True}

_log = logging.getLogger(__name__)
_building = threading.Lock()
_process = os.getpid()
_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Kernels(NamedTuple):
    """What a module of kernels has, compiled."""

    forward: Callable
    forward_scratch: Callable
    backward: Callable
    backward_scratch: Callable


def kernels(module: str) -> Kernels:
    """The kernels of a module of ``contrast_arch.ops``, compiled once whichever thread comes first."""
    with _building:
        return _build(module)


@functools.cache
def _build(module):
    from numba.core import event

    class Notice(event.Listener):
        """Says that something is compiled, once."""

        said = False

        def on_start(self, what):
            if not self.said:
                _log.info("%s: numba compiles, once on this machine (some seconds)", module)
            self.said = True

        def on_end(self, what):
            pass

    with event.install_listener("numba:compile", Notice()):
        source = importlib.import_module(f"contrast_arch.ops.{module}")
        return Kernels(
            _compile(source.forward), source.forward_scratch, _compile(source.backward), source.backward_scratch
        )


def _compile(function):
    from numba import float32, int64, njit, types

    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    arrays = names.index("scratch") + 1
    signature = types.void(*[float32[::1]] * arrays, *[int64] * (len(names) - arrays))
    try:
        kernel = njit(cache=True, **OPTIONS)(function)
        kernel.compile(signature)
    except (RuntimeError, OSError):  # no folder can be written to, or the disk is full
        kernel = njit(**OPTIONS)(function)
        kernel.compile(signature)
    return kernel


def flat(*tensors: torch.Tensor) -> list:
    """What kernels take: contiguous float32 arrays, of one dimension, that share the memory where they can."""
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
