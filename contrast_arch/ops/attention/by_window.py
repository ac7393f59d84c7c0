"""Attention with a position bias, one window at a time, the weights computed again in backward.

PyTorch's fused kernel for the CPU gives a bias no gradient, and three plain steps over all windows write, keep and read
(windows, M, queries, keys) several times over. The weights of a single window stay in the cache, and nothing but the
inputs and the output is kept. An operator of PyTorch's library, ``contrast_arch::window_attention``, so that a compiled
network holds one call in place of a loop.
"""

import torch

from contrast_arch.ops.attention.bias import define_attention
from contrast_arch.ops.operators import check_shapes, compute_dtype


def _wide(dtype, *tensors):
    """(B, w, M, n, d) -> (B * w, M, n, d), contiguous, in the dtype of the computation."""
    return [t.to(dtype).contiguous().flatten(0, 1) for t in tensors]


def _weights(q, k, bias, out):
    """softmax(q k^T + bias) of one window into ``out``, (M, queries, keys)."""
    torch.baddbmm(bias, q, k.transpose(1, 2), out=out)
    return torch.softmax(out, -1, out=out)


def _forward(q, k, v, bias):
    dtype, out_dtype = compute_dtype(q, k, v, bias), q.dtype
    shape, windows = q.shape, q.shape[1]
    bias = bias.to(dtype)
    q, k, v = _wide(dtype, q * shape[-1] ** -0.5, k, v)
    y = torch.empty_like(q)
    weights = q.new_empty(*q.shape[1:3], k.shape[2])
    for i in range(len(q)):
        own = bias if bias.dim() == 3 else bias[i % windows]
        torch.bmm(_weights(q[i], k[i], own, weights), v[i], out=y[i])
    return y.view(shape).to(out_dtype)


def _backward(dy, y, q, k, v, bias):
    dtype = compute_dtype(q, k, v, bias)
    inputs = q, k, v, bias
    scale, windows = q.shape[-1] ** -0.5, q.shape[1]
    bias = bias.to(dtype)
    dy, y, q, k, v = _wide(dtype, dy, y, q * scale, k, v)
    # One product gives dy v^T - sum(dy y), what the weights' gradient is before it is multiplied with them.
    dy_more = torch.cat([dy, -(dy * y).sum(-1, keepdim=True)], -1)
    v_more = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    dq, dk, dv, d_bias = (torch.empty_like(t) for t in (q, k, v, bias))
    d_bias.zero_()
    weights = q.new_empty(*q.shape[1:3], k.shape[2])
    d_logits = torch.empty_like(weights)
    for i in range(len(q)):
        own = slice(None) if bias.dim() == 3 else i % windows
        _weights(q[i], k[i], bias[own], weights)
        torch.bmm(weights.transpose(1, 2), dy[i], out=dv[i])
        torch.bmm(dy_more[i], v_more[i].transpose(1, 2), out=d_logits)
        d_logits.mul_(weights)
        torch.bmm(d_logits, k[i], out=dq[i])
        torch.bmm(d_logits.transpose(1, 2), q[i], out=dk[i])
        d_bias[own] += d_logits
    gradients = dq.mul_(scale), dk, dv, d_bias
    return tuple(g.view(t.shape).to(t.dtype) for g, t in zip(gradients, inputs, strict=True))


def _outputs(q, k, v, bias):
    if q.dim() != 5 or k.dim() != 5 or bias.dim() not in (3, 4):
        raise ValueError(
            f"window_attention: q {tuple(q.shape)} must be (B, windows, M, queries, d), k {tuple(k.shape)} "
            f"(B, windows, M, keys, d) and bias {tuple(bias.shape)} ([windows,] M, queries, keys)"
        )
    batch, windows, heads, queries, dim = q.shape
    keys = (batch, windows, heads, k.shape[3], dim)
    biases = (*[windows] * (bias.dim() == 4), heads, queries, k.shape[3])
    check_shapes("window_attention", {"k": (k, keys), "v": (v, keys), "bias": (bias, biases)})
    return ((q.shape, q.dtype),)


_operator, _table_operator = define_attention("window_attention", "q k v", "y", _forward, _backward, _outputs)


def attend_by_window(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, *rows: torch.Tensor
) -> torch.Tensor:
    """As :func:`contrast_arch.ops.attention.reference.attend`, with a bias; computed in float32, or float64.

    With ``rows``, ``bias`` is the table of :class:`~contrast_arch.ops.attention.bias.IndexedBias`, and they its rows.
    """
    return (_table_operator if rows else _operator)(q, k, v, bias, *rows)
