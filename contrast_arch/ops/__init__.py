"""Selective scans: the two public functions, and the one place that chooses a backend for them.

Backends are modules with the same two functions: ``reference`` is the sequential definition, ``torch`` the chunked
plain PyTorch path that networks use. Shapes are stated in :mod:`contrast_arch.ops.reference`.
"""

import torch

from contrast_arch.ops import cpu, reference

BACKENDS = {"torch": cpu, "reference": reference}

__all__ = ["BACKENDS", "selective_scan", "ss2d_scan"]


def _backend(name: str | None):
    if name is None:
        return cpu
    if name not in BACKENDS:
        raise ValueError(f"backend {name!r} is not one of {', '.join(BACKENDS)}; leave it out for the fastest")
    return BACKENDS[name]


def _check(function: str, expected: dict[str, tuple[torch.Tensor, tuple]]):
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{function}: {name} has shape {tuple(tensor.shape)}, expected {shape}")


def selective_scan(u, delta, A, B, C, D=None, delta_bias=None, delta_softplus=False, backend=None):
    """One selective scan along the last axis, with the arguments of mamba's ``selective_scan_fn``.

    With dt = softplus(delta + delta_bias) (the softplus if ``delta_softplus``):
    h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t and y_t = C_t . h_t + D u_t.

    Args:
        u, delta: (B, D, L).
        A: (D, N), negative for a stable scan.
        B, C: (B, N, L), or (B, G, N, L) for G groups of D / G channels each.
        D, delta_bias: (D,) or None.
        backend: a name of ``BACKENDS``; None takes the fastest.

    Returns:
        (B, D, L) in the dtype of u. State and exponentials are float32, float64 where an input is.

    Raises:
        ValueError: a shape does not fit, or the backend is unknown.

    Source: Mamba, arXiv 2312.00752, equation 2.
    """
    batch, dim, length = u.shape
    if A.dim() != 2 or B.dim() not in (3, 4) or (B.dim() == 4 and dim % B.shape[1]):
        raise ValueError(f"selective_scan: A {tuple(A.shape)} must be (D, N) and B {tuple(B.shape)} (B, [G,] N, L)")
    groups = (B.shape[1],) if B.dim() == 4 else ()
    state = (batch, *groups, A.shape[1], length)
    expected = {"delta": (delta, (batch, dim, length)), "A": (A, (dim, A.shape[1])), "B": (B, state), "C": (C, state)}
    expected |= {name: (t, (dim,)) for name, t in (("D", D), ("delta_bias", delta_bias)) if t is not None}
    _check("selective_scan", expected)
    return _backend(backend).selective_scan(u, delta, A, B, C, D, delta_bias, delta_softplus)


def ss2d_scan(x, p, dt_projs_weight, dt_projs_bias, A_logs, Ds, backend=None):
    """The core of SS2D: four scans over an image, their outputs put back in pixel order and summed.

    Args:
        x: (B, H, W, D).
        p: (B, H, W, K, R + 2N), K = 4: for each direction dt_r (R), B_t (N) and C_t (N) of every pixel. The
            projection does not depend on the order of the scan, so one matrix product makes it.
        dt_projs_weight: (K, D, R).
        dt_projs_bias: (K, D).
        A_logs: (K * D, N).
        Ds: (K * D,).
        backend: a name of ``BACKENDS``; None takes the fastest.

    Returns:
        (B, H, W, D) in the dtype of x. State and exponentials are float32, float64 where an input is.

    Raises:
        ValueError: a shape does not fit, or the backend is unknown.

    Source: VMamba, arXiv 2401.10166, section 4.2.
    """
    if x.dim() != 4 or dt_projs_weight.dim() != 3 or A_logs.dim() != 2:
        raise ValueError(
            f"ss2d_scan: x {tuple(x.shape)} must be (B, H, W, D), dt_projs_weight {tuple(dt_projs_weight.shape)} "
            f"(K, D, R) and A_logs {tuple(A_logs.shape)} (K * D, N)"
        )
    dim, rank, state = x.shape[3], dt_projs_weight.shape[2], A_logs.shape[1]
    k = reference.DIRECTIONS
    _check(
        "ss2d_scan",
        {
            "p": (p, (*x.shape[:3], k, rank + 2 * state)),
            "dt_projs_weight": (dt_projs_weight, (k, dim, rank)),
            "dt_projs_bias": (dt_projs_bias, (k, dim)),
            "A_logs": (A_logs, (k * dim, state)),
            "Ds": (Ds, (k * dim,)),
        },
    )
    return _backend(backend).ss2d_scan(x, p, dt_projs_weight, dt_projs_bias, A_logs, Ds)
