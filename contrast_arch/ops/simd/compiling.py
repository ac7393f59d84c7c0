"""Kernels compiled by numba when they are first needed, and kept on disk.

A module of kernels has the functions ``forward`` and ``backward``, whose arguments up to ``scratch`` are flat float32
arrays and the others integers, and ``forward_scratch`` and ``backward_scratch``, which say how many numbers they work
in. numba is imported with the first of them.
"""

import functools
import hashlib
import importlib
import importlib.util
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from contrast_arch.ops.self_test import self_test_verdict

# Of numba: division by zero gives infinity; threads run at the same time.
OPTIONS = {"error_model": "numpy", "nogil": True}

_log = logging.getLogger(__name__)
_building = threading.Lock()


class Kernels(NamedTuple):
    """Contents of a module of kernels, compiled."""

    forward: Callable
    forward_scratch: Callable
    backward: Callable
    backward_scratch: Callable


def kernels(module: str) -> Kernels:
    """Compile a module of kernels, once whichever thread comes first.

    Args:
        module: its full name.
    """
    with _building:
        return _build(module)


def unsupported_reason(largest_error: Callable, device: torch.device, double: bool) -> str | None:
    """Reason why kernels cannot serve tensors of this device, None if they can.

    Args:
        largest_error: of the kernels' self-test, see :func:`~contrast_arch.ops.self_test.self_test_verdict`.
        double: float64.
    """
    if double:
        return "it computes in float32 and an input is float64"
    if device.type != "cpu":
        return f"it needs a tensor on the CPU, not one on {device}"
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed (pip install contrast-arch[cpu])"
    return _self_test(largest_error)


@functools.cache
def _self_test(largest_error):
    return self_test_verdict(largest_error, torch.device("cpu"))


@functools.cache
def _build(module):
    from numba.core import event

    class Notice(event.Listener):
        """Says that something is compiled, once."""

        start = None

        def on_start(self, what):
            if self.start is None:
                self.start = time.monotonic()
                text = "%s: compiling, once on this machine (about 20 s); contrast-arch warmup does it ahead"
                _log.info(text, module)

        def on_end(self, what):
            pass

    notice = Notice()
    with event.install_listener("numba:compile", notice):
        source = importlib.import_module(module)
        built = Kernels(
            _compile(source.forward), source.forward_scratch, _compile(source.backward), source.backward_scratch
        )
    if notice.start is not None:
        _log.info("%s: compiled in %.0f s", module, time.monotonic() - notice.start)
    return built


def _compile(function):
    from numba import float32, int64, njit, types

    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    arrays = names.index("scratch") + 1
    signature = types.void(*[float32[::1]] * arrays, *[int64] * (len(names) - arrays))
    try:
        kernel = njit(**OPTIONS)(function)
        kernel._cache = _cache(function)
        kernel.compile(signature)
    except (RuntimeError, OSError):  # no folder can be written to, or the disk is full
        kernel = njit(**OPTIONS)(function)
        kernel.compile(signature)
    return kernel


def _cache(function):
    """numba's cache of a function, whose entries end with a change in any file that kernels are made of."""
    from numba.core.caching import FunctionCache

    files = [Path(function.__code__.co_filename), *sorted(Path(__file__).parent.glob("*.py"))]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()

    class Cache(FunctionCache):
        def _index_key(self, sig, codegen):
            return *super()._index_key(sig, codegen), digest

    return Cache(function)
