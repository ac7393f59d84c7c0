"""The definition: a selective scan one step after the other, and the four-direction scan of SS2D made of it.

All other backends are tested against it, outputs and gradients.

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

from contrast_arch.ops.operators import check_shapes, compute_dtype, no_autocast

DIRECTIONS = 4


def check_ss2d(x, p, dt_w, dt_b, A_logs, Ds) -> None:
    """Raise ValueError unless the shapes fit each other."""
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


def selective_scan(u, delta, A, B, C):
    """y_t = C_t . h_t with h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t, all in one dtype.

    Args:
        u, delta: (B, D, L).
        A: (D, N).
        B, C: (B, G, N, L), for G groups of D / G channels each.
    """
    batch, dim, length = u.shape
    B, C = (t.repeat_interleave(dim // t.shape[1], dim=1) for t in (B, C))
    h = u.new_zeros(batch, dim, A.shape[1])
    y = []
    for t in range(length):
        decay = torch.exp(delta[:, :, t, None] * A)
        h = decay * h + (delta[:, :, t] * u[:, :, t])[..., None] * B[..., t]
        y.append((h * C[..., t]).sum(-1))
    return torch.stack(y, dim=2) if y else torch.zeros_like(u)


def ss2d(x, p, dt_w, dt_b, A_logs, Ds, keep=False):
    """See :func:`contrast_arch.ops.ss2d_scan`; ``keep`` has no effect."""
    check_ss2d(x, p, dt_w, dt_b, A_logs, Ds)
    dtype = compute_dtype(x, p, dt_w, dt_b, A_logs, Ds)
    batch, height, width, dim = x.shape
    rank, state = dt_w.shape[2], A_logs.shape[1]
    pixels, projection = x.flatten(1, 2).to(dtype), p.flatten(1, 2).to(dtype)
    A = -torch.exp(A_logs.to(dtype)).view(DIRECTIONS, dim, state)
    skip = Ds.to(dtype).view(DIRECTIONS, dim)

    y = torch.zeros_like(pixels)
    with no_autocast(x.device):
        for k in range(DIRECTIONS):
            order = scan_order(height, width, k, x.device)
            dt_r, B, C = projection[:, order, k].split([rank, state, state], dim=-1)
            u, dt = pixels[:, order], F.softplus(dt_r @ dt_w[k].to(dtype).T + dt_b[k].to(dtype))
            out = selective_scan(*(t.transpose(1, 2) for t in (u, dt)), A[k], *(t.mT[:, None] for t in (B, C)))
            y = y + torch.zeros_like(y).index_copy(1, order, out.transpose(1, 2) + skip[k] * u)
    return y.view(batch, height, width, dim).to(x.dtype), None
