"""Kernels of the CPU: vectors for numba, arithmetic on them, how kernels are compiled and run.

An operator's ``cpu.py`` takes what stands here; its ``cpu_kernels.py``, imported with the first tensor, takes
:mod:`~contrast_arch.ops.simd.vectors` and :mod:`~contrast_arch.ops.simd.arithmetic`, which import numba.
"""

from contrast_arch.ops.simd.compiling import Kernels, kernels, unsupported_reason
from contrast_arch.ops.simd.threads import LANES, empty, flat, launch, run

__all__ = ["LANES", "Kernels", "empty", "flat", "kernels", "launch", "run", "unsupported_reason"]
