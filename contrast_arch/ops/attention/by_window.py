"""Attention with a position bias, one window at a time, the weights computed again in backward.

PyTorch's fused kernel for the CPU gives a bias no gradient, and three plain steps over all windows write, keep and read
(windows, M, queries, keys) several times over. The weights of a single window stay in the cache.
"""

import torch

from contrast_arch.ops.attention.bias import IndexedBias
from contrast_arch.ops.operators import check_shapes, compute_dtype, define


def _wide(dtype, *tensors):
    """(B, w, M, n, d) -> (B * w, M, n, d), contiguous, in the dtype of the computation."""
    return [t.to(dtype).contiguous().flatten(0, 1) for t in tensors]


def _weights(q, k, bias, mask, out):
    """softmax(q k^T + bias + mask) of one window into ``out``, (M, queries, keys)."""
    torch.add(bias, 0 if mask is None else mask, out=out).baddbmm_(q, k.mT)
    return torch.softmax(out, -1, out=out)


def _prepared(q, k, v, *bias_and_mask):
    """Query, key, value, bias, the mask of each window and memory for the weights of one."""
    *bias, mask = bias_and_mask
    dtype, windows = compute_dtype(q, k, v, bias[0]), q.shape[1]
    bias = IndexedBias(*bias).wide().to(dtype)
    masks = [None] * len(q) * windows if mask is None else [*mask.to(dtype)] * len(q)
    q, k, v = _wide(dtype, q * q.shape[-1] ** -0.5, k, v)
    return q, k, v, bias, masks, torch.empty_like(bias)


def _forward(*inputs):
    q, k, v, bias, masks, weights = _prepared(*inputs)
    y = torch.empty_like(q)
    for i, mask in enumerate(masks):
        torch.bmm(_weights(q[i], k[i], bias, mask, weights), v[i], out=y[i])
    return y.view(inputs[0].shape).to(inputs[0].dtype)


def _backward(dy, y, *inputs):
    q, k, v, bias, masks, weights = _prepared(*inputs)
    dy, y = _wide(q.dtype, dy, y)
    # One product gives dy v^T - sum(dy y), the weights' gradient before it is multiplied with them.
    dy_more = torch.cat([dy, -(dy * y).sum(-1, keepdim=True)], -1)
    v_more = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    dq, dk, dv, d_logits = (torch.empty_like(t) for t in (q, k, v, weights))
    d_bias = torch.zeros_like(bias)
    for i, mask in enumerate(masks):
        _weights(q[i], k[i], bias, mask, weights)
        torch.bmm(weights.mT, dy[i], out=dv[i])
        torch.bmm(dy_more[i], v_more[i].mT, out=d_logits)
        d_logits.mul_(weights)
        torch.bmm(d_logits, k[i], out=dq[i])
        torch.bmm(d_logits.mT, q[i], out=dk[i])
        d_bias += d_logits
    dq.mul_(q.shape[-1] ** -0.5)
    gradients = (g.view(t.shape).to(t.dtype) for g, t in zip((dq, dk, dv), inputs, strict=False))
    return *gradients, IndexedBias(*inputs[3:6]).gradient(d_bias)


def _outputs(q, k, v, table, query_rows, key_rows, mask):
    sizes = IndexedBias(table, query_rows, key_rows).check("window_attention")
    if q.dim() != 5 or k.dim() != 5:
        raise ValueError(
            f"window_attention: q {tuple(q.shape)} must be (B, windows, M, queries, d) and k {tuple(k.shape)} (B, "
            "windows, M, keys, d)"
        )
    batch, windows, heads, queries, dim = q.shape
    keys = batch, windows, heads, k.shape[3], dim
    bias = table.new_empty(()).expand(sizes), (heads, queries, k.shape[3])
    expected = {"k": (k, keys), "v": (v, keys), "bias": bias}
    if mask is not None:
        expected["mask"] = mask, (windows, queries, k.shape[3])
    check_shapes("window_attention", expected)
    return ((q.shape, q.dtype),)


# As contrast_arch.ops.attention.reference.attend with the three tensors of an IndexedBias and a mask or None.
attend_by_window = define(
    "window_attention",
    "Tensor q, Tensor k, Tensor v, Tensor table, Tensor query_rows, Tensor key_rows, Tensor? mask",
    4,
    "Tensor y",
    slice(None),
    _forward,
    _backward,
    _outputs,
)
