"""Selective scans: the two public functions, and the one place that chooses a backend for them.

``reference`` is the sequential definition; ``torch``, chunked and in plain PyTorch, runs wherever PyTorch does;
``numba`` and ``triton`` are the fused paths of the CPU and of GPUs, for SS2D only. Shapes are stated in
:mod:`contrast_arch.ops.reference`.

A call takes the backend it names, else the one that the environment variable ``CONTRAST_ARCH_BACKEND`` names, else the
fastest that the device and the dtype allow. Which one that is goes to the log once.
"""

import contextlib
import functools
import logging
import os

import torch

from contrast_arch.ops import cpu, library, numba, reference, triton

BACKENDS = {"torch": cpu, "numba": numba, "triton": triton, "reference": reference}
_FASTEST = {"cpu": "numba", "cuda": "triton"}
ENVIRONMENT = "CONTRAST_ARCH_BACKEND"

__all__ = ["BACKENDS", "ENVIRONMENT", "check_backend", "chosen_backend", "selective_scan", "ss2d_scan", "unannounced"]

_log = logging.getLogger(__name__)


def check_backend(name: str, device: torch.device, double: bool = False) -> None:
    """Raise unless the backend can compute SS2D for tensors of this device (and float64, where ``double``).

    Raises:
        ValueError: no backend has this name.
        RuntimeError: it cannot serve; the message says why.
    """
    if name not in BACKENDS:
        raise ValueError(
            f"backend {name!r} (of the call or of {ENVIRONMENT}) is not one of {', '.join(BACKENDS)}; leave it out "
            f"for the fastest"
        )
    # Nothing is computed on the meta device, and every backend knows its shapes.
    reason = None if device.type == "meta" else BACKENDS[name].why_not(device, double)
    if reason is not None:
        raise RuntimeError(f"backend {name!r} (of the call or of {ENVIRONMENT}) cannot serve: {reason}")


def _choose(backend, device_type, device_index, double):
    """Name of the backend for a device and, where it says so, float64. A constant of a compiled network."""
    return _chosen(backend or os.environ.get(ENVIRONMENT) or None, torch.device(device_type, device_index), double)


# As torch.compiler.assume_constant_result does, which imports torch._dynamo for it: 1.3 s of every program.
_choose._dynamo_marked_constant = True


@functools.cache
def _chosen(wanted, device, double):
    name, reason = wanted or "torch", None
    if wanted is not None:
        check_backend(wanted, device, double)
    elif device.type in _FASTEST:
        fastest = _FASTEST[device.type]
        reason = BACKENDS[fastest].why_not(device, double)
        name = fastest if reason is None else "torch"
    if device.type != "meta":
        _log.info("SS2D on %s: backend %s%s", device, name, " (float64)" if double else "")
    if reason is not None:
        level = logging.INFO if double else logging.WARNING
        _log.log(level, "SS2D on %s runs in plain PyTorch, slower: %s is not used because %s", device, fastest, reason)
    return name


@contextlib.contextmanager
def unannounced():
    """While it lasts, what is chosen is not logged; it is chosen, and logged, anew afterwards."""
    level = _log.level
    _log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        _log.setLevel(level)
        _chosen.cache_clear()


def exporting() -> bool:
    """True while torch.export records a network; PyTorch before 2.7 cannot say."""
    return getattr(torch.compiler, "is_exporting", bool)()


def recording() -> bool:
    """True while torch.export or torch.jit.trace records a network, for other sizes and perhaps other machines."""
    return exporting() or torch.jit.is_tracing()


def chosen_backend(*tensors: torch.Tensor, backend: str | None = None) -> str:
    """Name of the backend for these tensors: ``backend``, or what the environment names, or the fastest.

    Raises:
        ValueError, RuntimeError: see :func:`check_backend`.
    """
    device = tensors[0].device
    if recording() and device.type == "cpu":
        # A recorded network may be run where numba is not.
        backend = backend or os.environ.get(ENVIRONMENT) or "torch"
    return _choose(backend, device.type, device.index, reference.compute_dtype(*tensors) == torch.float64)


def selective_scan(u, delta, A, B, C, D=None, delta_bias=None, delta_softplus=False, backend=None):
    """One selective scan along the last axis, with the arguments of mamba's ``selective_scan_fn``.

    With dt = softplus(delta + delta_bias) (the softplus if ``delta_softplus``):
    h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t and y_t = C_t . h_t + D u_t.

    Args:
        u, delta: (B, D, L).
        A: (D, N), negative for a stable scan.
        B, C: (B, N, L), or (B, G, N, L) for G groups of D / G channels each.
        D, delta_bias: (D,) or None.
        backend: "torch" or "reference"; None takes "torch", whatever the environment says.

    Returns:
        (B, D, L) in the dtype of u. State and exponentials are float32, float64 where an input is.

    Raises:
        ValueError: a shape does not fit, or the backend is unknown or has no scan of one direction.

    Source: Mamba, arXiv 2312.00752, equation 2.
    """
    batch, dim, length = u.shape
    if A.dim() != 2 or B.dim() not in (3, 4) or (B.dim() == 4 and dim % B.shape[1]):
        raise ValueError(f"selective_scan: A {tuple(A.shape)} must be (D, N) and B {tuple(B.shape)} (B, [G,] N, L)")
    groups = (B.shape[1],) if B.dim() == 4 else ()
    state = (batch, *groups, A.shape[1], length)
    expected = {"delta": (delta, (batch, dim, length)), "A": (A, (dim, A.shape[1])), "B": (B, state), "C": (C, state)}
    expected |= {name: (t, (dim,)) for name, t in (("D", D), ("delta_bias", delta_bias)) if t is not None}
    reference.check_shapes("selective_scan", expected)
    function = getattr(BACKENDS.get(backend or "torch"), "selective_scan", None)
    if function is None:
        able = [name for name, module in BACKENDS.items() if hasattr(module, "selective_scan")]
        raise ValueError(f"selective_scan: backend {backend!r} is not one of {', '.join(able)}; leave it out")
    return function(u, delta, A, B, C, D, delta_bias, delta_softplus)


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
        backend: a name of ``BACKENDS``; None asks ``CONTRAST_ARCH_BACKEND``, then takes the fastest.

    Returns:
        (B, H, W, D) in the dtype of x. State and exponentials are float32, float64 where an input is.

    Raises:
        ValueError: a shape does not fit, or the backend is unknown.
        RuntimeError: the backend that was asked for cannot serve this device or dtype; the message says why.

    Source: VMamba, arXiv 2401.10166, section 4.2.
    """
    inputs = (x, p, dt_projs_weight, dt_projs_bias, A_logs, Ds)
    name = chosen_backend(*inputs, backend=backend)
    if name == "reference":
        return reference.ss2d_scan(*inputs)
    # A recorded network would otherwise have the shape of the states, and with it the size of the image, fixed.
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in inputs) and not recording()
    return library.OPERATORS[name](*inputs, keep)[0]
