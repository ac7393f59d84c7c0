"""Functions of vectors, and of stretches of memory, for kernels."""

from numba import njit

from contrast_arch.ops.simd.compiling import OPTIONS
from contrast_arch.ops.simd.vectors import (
    LANES,
    at_least,
    get,
    load,
    minus_abs,
    power_of_two,
    put,
    store,
    where_negative,
)

helper = njit(**OPTIONS)


@helper
def exp(x):
    """For -87 <= x <= 0 relative error 2e-7 near 0 and 4e-6 at the far end; below, about 1e-38."""
    x = at_least(x, -87.0)
    shifted = x * 1.442695 + 12582912.0  # 1.5 * 2^23: the nearest integer comes to stand in the lowest bits
    r = x * 1.442695 - (shifted - 12582912.0)
    # 2^r for |r| <= 1/2, minimax of the relative error (2e-9), in pairs: the chain of operations is what takes time.
    square = r * r
    low = (r * 0.055503286 + 0.24022646) * square + (r * 0.6931472 + 1.0)
    high = (square * 0.00015345811 + (r * 0.00133999309 + 0.009618489)) * (square * square)
    # A product, not bits added to bits: NaN has to stay NaN.
    return (low + high) * power_of_two(shifted)


@helper
def _log1p(s):
    """log(1 + z) for s = z / (z + 2), 0 <= z <= 1: twice the inverse hyperbolic tangent of s."""
    # 2 artanh(s) / s in s^2 up to 1/9, minimax of the relative error (4e-9).
    q = s * s
    low = q * 0.66666317 + 2.0
    high = (q * 0.28178334 + 0.27960601) * q + 0.4002491
    return (high * (q * q) + low) * s


@helper
def softplus(x):
    """log(1 + exp(x)), without cancellation on either side."""
    z = exp(minus_abs(x))
    return at_least(x, 0.0) + _log1p(z / (z + 2.0))


@helper
def softplus_and_sigmoid(x):
    """Softplus and its derivative, one division for both."""
    z = exp(minus_abs(x))
    inverse = 1.0 / ((z + 1.0) * (z + 2.0))
    upper = (z + 2.0) * inverse
    return at_least(x, 0.0) + _log1p(z * (z + 1.0) * inverse), where_negative(x, z * upper, upper)


@helper
def clear(array, start, count):
    for i in range(count):
        put(array, start + i, 0.0)


@helper
def copy(target, at, source, start, count):
    """Nothing behind the end is touched: the last vector reaches back into the one before it."""
    for i in range(0, count - LANES + 1, LANES):
        store(target, at + i, load(source, start + i))
    if count < LANES:
        for i in range(count):
            put(target, at + i, get(source, start + i))
    elif count % LANES:
        store(target, at + count - LANES, load(source, start + count - LANES))


@helper
def accumulate(array, index, value):
    store(array, index, load(array, index) + value)
