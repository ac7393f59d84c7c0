"""Warps of a program on a GPU, chosen by measuring once per device and shape class.

A tile in fewer warps needs fewer barriers and more registers; the fastest number depends on the GPU. Results of two
choices differ by rounding, because sums inside a tile are taken in another order. So that runs repeat bit for bit, a
choice is kept beside Triton's compiled kernels, and the first process that writes it decides for all on this machine.
Machines may choose differently: ``CONTRAST_ARCH_WARPS`` names the choice. ``torch.use_deterministic_algorithms`` takes
the shipped one, and so does a machine where nothing can be measured or kept.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch

from contrast_arch.ops.self_test import LIMIT, error_of

# The first is the shipped one.
CHOICES = (4, 2, 1)
ENVIRONMENT = "CONTRAST_ARCH_WARPS"
ROUNDS = 5

_log = logging.getLogger(__name__)
_chosen = {}


def choose_warps(device: torch.device, shape: tuple, prepare: Callable[[], Callable]) -> int:
    """Choose the warps for a shape class on the current device.

    Args:
        shape: (D, R, N, dtype of x); not the size of the images.
        prepare: returns a function of a number of warps that returns the tensors of a forward and backward pass.

    Raises:
        ValueError: the environment names another number.
    """
    named = os.environ.get(ENVIRONMENT)
    if named is not None:
        if named not in map(str, CHOICES):
            raise ValueError(f"{ENVIRONMENT}={named}: expected one of {CHOICES}; unset it to measure which is fastest")
        return int(named)
    if device.type != "cuda" or torch.are_deterministic_algorithms_enabled():
        return CHOICES[0]
    if (device, shape) not in _chosen:
        if torch.cuda.is_current_stream_capturing():
            return CHOICES[0]
        try:
            _chosen[device, shape] = _kept_choice(device, shape, prepare)
        except Exception as failure:
            text = "ss2d on %s: %d warps, which were not measured: %s: %s"
            _log.warning(text, device, CHOICES[0], type(failure).__name__, failure)
            _chosen[device, shape] = CHOICES[0]
    return _chosen[device, shape]


def _kept_choice(device, shape, prepare):
    import triton

    sources = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("cuda*.py"))]
    what = (torch.cuda.get_device_name(device), torch.__version__, triton.__version__, shape, CHOICES, sources)
    folder = triton.runtime.cache.get_cache_manager(hashlib.sha256(repr(what).encode()).hexdigest())
    path = folder.get_file("warps")
    if path is None:
        _log.info("ss2d on %s: measuring warps for D %d, R %d, N %d, %s, once; may take a minute", device, *shape)
        times = _measure(prepare(), max(LIMIT, 2 * torch.finfo(shape[3]).eps))
        own = Path(folder.put(str(min(times, key=times.get)), f"warps.{os.getpid()}"))
        path = own.with_name("warps")
        with contextlib.suppress(FileExistsError):
            os.link(own, path)
        own.unlink()
        _log.info("ss2d on %s: seconds by warps %s, kept in %s", device, times, path)
    return CHOICES[CHOICES.index(int(Path(path).read_text()))]


def _measure(run, limit):
    """Fewest seconds of each choice whose results are those of the shipped one."""
    expected = run(CHOICES[0])
    calls = [warps for warps in CHOICES if error_of(run(warps), expected) < limit]
    times = [{warps: _seconds(run, warps) for warps in calls} for _ in range(ROUNDS)]
    return {warps: min(round_[warps] for round_ in times) for warps in calls}


def _seconds(run, warps):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run(warps)
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000
