"""Kernels of the CPU: compiled by numba when they are first needed, kept on disk, and called in PyTorch's threads.

A module of kernels has the functions ``forward`` and ``backward``, whose arguments up to ``scratch`` are flat float32
arrays and the others integers, and ``forward_scratch`` and ``backward_scratch``, the numbers that ``scratch`` must
hold. It is imported, and numba with it, for the first tensor.
"""

import ctypes
import functools
import hashlib
import importlib
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

# Numbers of a vector.
LANES = 32
# Of numba: division by zero gives infinity; threads run at the same time.
OPTIONS = {"error_model": "numpy", "nogil": True}
# Of a backend, see contrast_arch.ops.dispatch.
REQUIREMENT = "cpu", "numba", "pip install contrast-arch[cpu]"

_log = logging.getLogger(__name__)
_building = threading.Lock()
_process = os.getpid()
_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@functools.cache
def _build(module):
    """Compiled ``forward`` and ``backward`` by name, each with the function of its scratch."""
    source = importlib.import_module(module)
    return {
        name: (_compile(getattr(source, name)), getattr(source, f"{name}_scratch")) for name in ("forward", "backward")
    }


def _compile(function):
    from numba import float32, int64, njit, types

    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    arrays = names.index("scratch") + 1
    signature = types.void(*[float32[::1]] * arrays, *[int64] * (len(names) - arrays))
    kernel = njit(**OPTIONS)(function)
    try:
        kernel._cache = _cache(function)
        kernel.compile(signature)
    except (RuntimeError, OSError) as failure:  # no folder can be written to, or the disk is full
        _log.warning("%s: compiled anew in every process: %s", _name(function), failure)
        kernel = njit(**OPTIONS)(function)
        kernel.compile(signature)
    return kernel


def _name(function):
    return f"{function.__module__}.{function.__name__}"


def _cache(function):
    """numba's cache of a function; a change in any file that kernels are made of makes new entries."""
    from numba.core.caching import FunctionCache

    files = [Path(function.__code__.co_filename), *sorted(Path(__file__).parent.glob("*.py"))]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()

    class Cache(FunctionCache):
        def _index_key(self, sig, codegen):
            return *super()._index_key(sig, codegen), digest

        def load_overload(self, sig, target_context):
            found = super().load_overload(sig, target_context)
            if found is None:
                text = "%s: compiling, once on this machine (about 10 s); contrast-arch warmup does it ahead"
                _log.info(text, _name(function))
            return found

    return Cache(function)


def flat(*tensors: torch.Tensor) -> list:
    """Arguments of kernels: contiguous float32 arrays, of one dimension, that share the memory where they can."""
    return [t.detach().to(torch.float32).contiguous().view(-1).numpy() for t in tensors]


def empty(*shape: int) -> torch.Tensor:
    """float32 on the CPU, whatever PyTorch's defaults are set to."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def launch(module: str, name: str, sizes: tuple, calls: list) -> None:
    """Call a kernel for each (arrays before ``scratch``, integers) of ``calls``, in PyTorch's number of threads.

    Args:
        module: full name of the module of kernels; compiled once, whichever thread comes first.
        name: "forward" or "backward".
        sizes: arguments of its ``NAME_scratch``.
    """
    with _building:
        kernel, scratch = _build(module)[name]
    workers = min(torch.get_num_threads(), len(calls))
    spaces = list(empty(workers, -(-scratch(*sizes) // LANES) * LANES).numpy())  # rows begin where cache lines do

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
    """Call every task, in ``workers`` threads at most, and raise the first error of a task.

    The threads are those of PyTorch's operators where possible: these wait for their next work in a loop, and other
    threads would have to share the cores with them. PyTorch's threads do not survive a fork.
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
