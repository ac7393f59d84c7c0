"""Arithmetic of ``cuda_kernels.py`` on single values, in Triton: the steps of its scans, and softplus.

Combine functions take the segment that is scanned first as their first arguments; none of them commutes.
"""

import triton
import triton.language as tl


@triton.jit
def combine_affine(f1, v1, f2, v2):
    """Segments h -> f h + v, one after the other."""
    return f1 * f2, v1 * f2 + v2


@triton.jit
def combine_before(own1, before1, own2, before2):
    """Sum of all steps before the last one, from pairs (own value, 0); no difference is taken, so no digit is lost."""
    return own2, before1 + own1 + before2


@triton.jit
def combine_split(f1, decayed1, own1, f2, decayed2, own2):
    """As :func:`combine_affine` from (f, 0, v), the last step's v kept apart: state = decayed + own."""
    return f1 * f2, decayed2 + f2 * (decayed1 + own1), own2


@triton.jit
def combine_adjoint(f1, q1, g1, f2, q2, g2):
    """g_t = v_t + f_{t'} g_{t'} with t' the step scanned before t, from (f, 1, v).

    f is the factor of the segment's last step, which acts on what comes after it, and q what a g entering the segment
    is multiplied with: reading the neighbour's factor would take a second softplus and exponential.
    """
    through = q2 * f1
    return f2, through * q1, g2 + through * g1


@triton.jit
def softplus(z):
    """softplus(z) and its slope sigmoid(z), from one exponential.

    log1p(e) on [0, 1] is e times a polynomial (relative error 2e-7): log(1 + e) would lose the digits of a small step,
    and 1 - exp(-dt) those of its slope.
    """
    e = tl.exp(-tl.abs(z))
    q = 0.00523262937
    q = q * e - 0.0295049865
    q = q * e + 0.0782255605
    q = q * e - 0.136632144
    q = q * e + 0.191059932
    q = q * e - 0.24842979
    q = q * e + 0.333190978
    q = q * e - 0.499994934
    q = q * e + 0.99999994
    return tl.maximum(z, 0.0) + q * e, tl.where(z >= 0, 1.0, e) / (1.0 + e)
