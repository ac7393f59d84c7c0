"""The definition: a selective scan one step after the other, and the four-direction scan of SS2D made of it.

Slow and obvious on purpose. Every other backend is tested against this file, outputs and gradients.

Shapes, stated once and used under these names in all of ``ops/ss2d``:

=========  =====================  ==============================================================================
``x``      (B, H, W, D)           features, channels last
``p``      (B, H, W, K, R + 2N)   projection of ``x`` for each of the K = 4 directions: dt_rank R, then B_t, then C_t
``dt_w``   (K, D, R)              dt_projs_weight
``dt_b``   (K, D)                 dt_projs_bias
``A_logs`` (K * D, N)             A = -exp(A_logs); N is d_state
``Ds``     (K * D,)               skip weight
``y``      (B, H, W, D)           the four directions summed, in pixel order, before the output norm
=========  =====================  ==============================================================================

Source: VMamba (Liu et al., arXiv 2401.10166), ``SS2D`` of its second version; the recurrence is equation 2 of
Mamba (Gu and Dao, arXiv 2312.00752) with the input matrix discretised by Euler's rule.
"""

import torch
import torch.nn.functional as F

from contrast_arch.ops.modes import no_autocast
from contrast_arch.ops.operators import check_shapes, compute_dtype

DIRECTIONS = 4


def check_ss2d(x, p, dt_w, dt_b, A_logs, Ds) -> None:
    """Raise unless the shapes fit each other.

    Raises:
        ValueError: one does not.
    """
    if x.dim() != 4 or dt_w.dim() != 3 or A_logs.dim() != 2:
        raise ValueError(
            f"ss2d_scan: x {tuple(x.shape)} must be (B, H, W, D), dt_projs_weight {tuple(dt_w.shape)} "
            f"(K, D, R) and A_logs {tuple(A_logs.shape)} (K * D, N)"
        )
    dim, rank, state = x.shape[3], dt_w.shape[2], A_logs.shape[1]
    check_shapes(
        "ss2d_scan",
        {
            "p": (p, (*x.shape[:3], DIRECTIONS, rank + 2 * state)),
            "dt_projs_weight": (dt_w, (DIRECTIONS, dim, rank)),
            "dt_projs_bias": (dt_b, (DIRECTIONS, dim)),
            "A_logs": (A_logs, (DIRECTIONS * dim, state)),
            "Ds": (Ds, (DIRECTIONS * dim,)),
        },
    )


def states_shape(x, A_logs, chunks: int) -> tuple:
    """Shape of what a chunked backend keeps for backward, (B, K, N, chunks, D): the state that enters each chunk."""
    batch, _, _, dim = x.shape
    return batch, DIRECTIONS, A_logs.shape[1], chunks, dim


def scan_order(height: int, width: int, direction: int, device: torch.device | None = None) -> torch.Tensor:
    """Pixel (row-major index) that direction k visits at each step.

    Directions: 0 row by row, 1 column by column, 2 and 3 the same two backwards.

    Returns:
        (H * W,) int64, a permutation.
    """
    step = torch.arange(height * width, device=device)
    if direction >= 2:
        step = height * width - 1 - step
    if direction % 2 == 1:
        step = step % height * width + step // height
    return step


def unsupported_reason(device, double) -> None:
    """None: the definition runs everywhere."""


def selective_scan(u, delta, A, B, C, D=None, delta_bias=None, delta_softplus=False):
    """See :func:`contrast_arch.ops.selective_scan`."""
    dtype = compute_dtype(u, delta, A, B, C)
    out_dtype = u.dtype
    u, delta, A, B, C = (t.to(dtype) for t in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    batch, dim, length = u.shape
    if B.dim() == 3:
        B, C = B.unsqueeze(1), C.unsqueeze(1)
    B, C = (t.repeat_interleave(dim // t.shape[1], dim=1) for t in (B, C))

    h = u.new_zeros(batch, dim, A.shape[1])
    y = []
    for t in range(length):
        decay = torch.exp(delta[:, :, t, None] * A)
        h = decay * h + (delta[:, :, t] * u[:, :, t])[..., None] * B[..., t]
        y.append((h * C[..., t]).sum(-1))
    y = torch.stack(y, dim=2) if y else torch.zeros_like(u)
    if D is not None:
        y = y + D.to(dtype)[:, None] * u
    return y.to(out_dtype)


def ss2d(x, p, dt_w, dt_b, A_logs, Ds, keep=False):
    """See :func:`contrast_arch.ops.ss2d_scan`; autograd keeps what it needs, whatever ``keep`` says."""
    check_ss2d(x, p, dt_w, dt_b, A_logs, Ds)
    dtype = compute_dtype(x, p, dt_w, dt_b, A_logs, Ds)
    batch, height, width, dim = x.shape
    rank, state = dt_w.shape[2], A_logs.shape[1]
    pixels = x.reshape(batch, height * width, dim).to(dtype)
    projection = p.reshape(batch, height * width, DIRECTIONS, rank + 2 * state).to(dtype)
    A = -torch.exp(A_logs.to(dtype)).view(DIRECTIONS, dim, state)
    skip = Ds.view(DIRECTIONS, dim)

    y = torch.zeros_like(pixels)
    with no_autocast(x.device):
        for k in range(DIRECTIONS):
            order = scan_order(height, width, k, x.device)
            dt, B, C = projection[:, order, k].split([rank, state, state], dim=-1)
            out = selective_scan(
                pixels[:, order].transpose(1, 2),
                (dt @ dt_w[k].to(dtype).T).transpose(1, 2),
                A[k],
                B.transpose(1, 2),
                C.transpose(1, 2),
                skip[k],
                delta_bias=dt_b[k],
                delta_softplus=True,
            )
            y = y + torch.zeros_like(y).index_copy(1, order, out.transpose(1, 2))
    return y.view(batch, height, width, dim).to(x.dtype), None
