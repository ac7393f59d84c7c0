"""The selective scan in plain PyTorch: chunked, gradients by recomputing.

Made for the CPU; runs wherever PyTorch does. Shapes are those of :mod:`~contrast_arch.ops.ss2d.reference`.

A sequence of length L is cut into n chunks of T steps. Step t of every chunk and every image (G of them) is done in one
call on a (G, n, D) tensor, so that a scan costs about 2T calls instead of L:

1. run every chunk from a zero state to get its last state;
2. carry: combine (decay, last state) over the chunks in log2(n) steps (Hillis and Steele, 1986);
3. run every chunk again from the state carried in.

The decay of a chunk is exp(A * sum of its dt): a sum in the exponent cannot overflow. The state is done one of its N
components at a time. Of the forward pass only the carried states are kept, L / T of the size of ``x`` a direction.
"""

import torch
import torch.nn.functional as F

from contrast_arch.ops.operators import compute_dtype
from contrast_arch.ops.ss2d.operator import define_ss2d
from contrast_arch.ops.ss2d.reference import DIRECTIONS, scan_order

# Images are done together up to this many elements: with small ones alone, calls would cost more than arithmetic.
_IMAGES_TOGETHER_LIMIT = 1 << 19


def _chunk_length(length: int) -> int:
    """Steps in a chunk: the power of two near sqrt(L) / 4, 4 to 256, where the calls of steps 1 to 3 balance."""
    chunk = 4
    while chunk < 256 and length > (4 * chunk + 2) ** 2:
        chunk *= 2
    return chunk


def _exclusive_scan(decay, value):
    """States carried into each chunk: c[0] = 0, c[j] = decay[j - 1] * c[j - 1] + value[j - 1]; all (G, n, D)."""
    decay, carry = (F.pad(t[:, :-1], (0, 0, 1, 0)) for t in (decay, value))
    step = 1
    while step < carry.shape[1]:
        carry = torch.cat([carry[:, :step], torch.addcmul(carry[:, step:], decay[:, step:], carry[:, :-step])], 1)
        decay = torch.cat([decay[:, :step], decay[:, step:] * decay[:, :-step]], 1)
        step *= 2
    return carry


def _scan(dt, du, A, B, C):
    """y_t = C_t . h_t with h_t = exp(dt_t A) h_{t-1} + du_t B_t, everything in chunks.

    Args:
        dt, du: (T, G, n, D); du is dt * u and is overwritten.
        A: (D, N).
        B, C: (T, G, n, N).

    Returns:
        y (T, G, n, D) and the carried-in states (N, G, n, D).
    """
    total = dt.sum(0)
    y, carries = None, []
    for i in range(A.shape[1]):
        A_i = A[:, i]
        decay = torch.mul(dt, A_i).exp_()
        h = du.mul_(B[..., i : i + 1]) if i + 1 == A.shape[1] else du * B[..., i : i + 1]
        last = h[0].clone()
        for t in range(1, len(h)):
            torch.addcmul(h[t], decay[t], last, out=last)
        carry = _exclusive_scan((total * A_i).exp_(), last)
        h[0].addcmul_(decay[0], carry)
        for t in range(1, len(h)):
            h[t].addcmul_(decay[t], h[t - 1])
        h.mul_(C[..., i : i + 1])
        y = h if y is None else y.add_(h)
        carries.append(carry)
    return y, torch.stack(carries)


def _scan_backward(dy, dt, du, A, B, C, carries):
    """Gradients of :func:`_scan`, the states recomputed from what was carried in.

    The adjoint of the state runs backwards: g_t = C_t dy_t + exp(dt_{t+1} A) g_{t+1}, by the same three steps.

    Returns:
        Gradients of dt (through the decay only), du, A, B and C, in their shapes.
    """
    total = dt.sum(0)
    d_dt = d_du = None
    dA, dB, dC = (torch.empty_like(t) for t in (A, B, C))
    for i in range(A.shape[1]):
        A_i, B_i, C_i = A[:, i], B[..., i : i + 1], C[..., i : i + 1]
        decay = torch.mul(dt, A_i).exp_()
        drive = du * B_i
        h = torch.empty_like(drive)
        torch.addcmul(drive[0], decay[0], carries[i], out=h[0])
        for t in range(1, len(h)):
            torch.addcmul(drive[t], decay[t], h[t - 1], out=h[t])
        dC[..., i] = (dy * h).sum(-1)
        # exp(dt_t A) h_{t-1}; the difference h - drive would cancel where dt is large.
        decayed = torch.empty_like(h)
        torch.mul(decay[0], carries[i], out=decayed[0])
        torch.mul(decay[1:], h[:-1], out=decayed[1:])

        g = torch.mul(dy, C_i, out=drive)
        first = g[-1].clone()
        for t in range(len(g) - 2, -1, -1):
            torch.addcmul(g[t], decay[t + 1], first, out=first)
        first.mul_(decay[0])
        g[-1].add_(_exclusive_scan((total * A_i).exp_().flip(1), first.flip(1)).flip(1))
        for t in range(len(g) - 2, -1, -1):
            g[t].addcmul_(decay[t + 1], g[t + 1])

        dB[..., i] = torch.mul(g, du, out=decay).sum(-1)
        decayed.mul_(g)
        dA[:, i] = torch.mul(decayed, dt, out=decay).sum((0, 2)).sum(0)
        decayed.mul_(A_i)
        g.mul_(B_i)
        d_dt = decayed if d_dt is None else d_dt.add_(decayed)
        d_du = g if d_du is None else d_du.add_(g)
    return d_dt, d_du, dA, dB, dC


class _Direction:
    """A direction over G images of one size: the pixels of its chunked steps, and its parameters."""

    def __init__(self, k, x, dt_w, dt_b, A_logs):
        images, height, width, dim = x.shape
        length, device = height * width, x.device
        chunk = _chunk_length(length)
        chunks = -(-length // chunk)
        self.k, self.shape, self.last = k, (chunk, images, chunks), length - (chunks - 1) * chunk
        order, image = scan_order(height, width, k, device), torch.arange(images, device=device)[:, None]
        # Steps behind the end read the first pixel; `gather` clears them.
        pixel = F.pad(order, (0, -length % chunk)) + length * image
        self.pixel = pixel.view(images, chunks, chunk).permute(2, 0, 1).flatten()
        step = torch.empty_like(order).scatter_(0, order, torch.arange(length, device=device))
        self.row = ((step % chunk * images + image) * chunks + step // chunk).flatten()
        self.dt_w, self.dt_b, self.A = dt_w[k], dt_b[k], -A_logs.view(DIRECTIONS, dim, -1)[k].exp()

    def gather(self, rows, index=None):
        """(G, ..., C) -> (T, G, n, C), zeros behind the end (whatever the first pixel holds)."""
        rows = rows.reshape(-1, rows.shape[-1])
        chunks = rows.index_select(0, self.pixel if index is None else index).view(*self.shape, -1)
        chunks[self.last :, :, -1] = 0
        return chunks

    def gather_own(self, p):
        """(G, H, W, K, R + 2N) -> dt_r (T, G, n, R), the argument of the softplus, B and C of this direction."""
        sizes = self.dt_w.shape[1], self.A.shape[1], self.A.shape[1]
        dt_r, B, C = self.gather(p, self.pixel * DIRECTIONS + self.k).split(sizes, -1)
        return dt_r, F.linear(dt_r, self.dt_w, self.dt_b), B, C

    def scatter(self, chunks, image):
        """(T, G, n, C) -> (G, H, W, C), the inverse of :meth:`gather`; ``image`` has the first three sizes."""
        return chunks.flatten(0, 2).index_select(0, self.row).view(*image.shape[:3], -1)


def _forward_block(x, p, dt_w, dt_b, A_logs, Ds):
    """y and states (G, K, N, n, D) of some images, all in one dtype."""
    y, carries = x * Ds.view(DIRECTIONS, -1).sum(0), []
    for k in range(DIRECTIONS):
        direction = _Direction(k, x, dt_w, dt_b, A_logs)
        _, dt_in, B, C = direction.gather_own(p)
        dt = F.softplus(dt_in)
        chunks, carry = _scan(dt, direction.gather(x).mul_(dt), direction.A, B, C)
        y += direction.scatter(chunks, x)
        carries.append(carry.transpose(0, 1))
    return y, torch.stack(carries, 1)


def _backward_block(dy, states, x, p, dt_w, dt_b, A_logs, Ds):
    """Gradients of the inputs, those of the parameters summed over the images."""
    dx, d_skip, parts = dy * Ds.view(DIRECTIONS, -1).sum(0), (dy * x).sum((0, 1, 2)), []
    for k in range(DIRECTIONS):
        direction = _Direction(k, x, dt_w, dt_b, A_logs)
        dt_r, dt_in, B, C = direction.gather_own(p)
        dt, u = F.softplus(dt_in), direction.gather(x)
        d_dt, d_du, dA, dB, dC = _scan_backward(
            direction.gather(dy), dt, u * dt, direction.A, B, C, states[:, k].transpose(0, 1)
        )
        # softplus' is the sigmoid; 1 - exp(-dt) would cancel where dt is small.
        d_dt.addcmul_(d_du, u).mul_(dt_in.sigmoid_())
        dx += direction.scatter(d_du.mul_(dt), x)
        d_own = direction.scatter(torch.cat([d_dt @ direction.dt_w, dB, dC], -1), x)
        d_dt = d_dt.flatten(0, 2)
        parts.append((d_own, d_dt.T @ dt_r.flatten(0, 2), d_dt.sum(0), dA * direction.A))
    dp, d_dt_w, d_dt_b, dA_logs = zip(*parts, strict=True)
    shares = torch.stack(d_dt_w), torch.stack(d_dt_b), torch.cat(dA_logs), d_skip.repeat(DIRECTIONS)
    return dx, torch.stack(dp, 3), *shares


def _by_blocks(function, images, parameters):
    """Results of a function of some images, over blocks that bound the workspace."""
    dtype = compute_dtype(*images, *parameters)
    size = max(1, _IMAGES_TOGETHER_LIMIT // images[0][0].numel())
    parameters = [t.to(dtype) for t in parameters]
    blocks = zip(*(t.split(size) for t in images), strict=True)
    return zip(*[function(*(t.to(dtype).contiguous() for t in block), *parameters) for block in blocks], strict=True)


def forward(x, p, dt_w, dt_b, A_logs, Ds, keep):
    """See :mod:`contrast_arch.ops.ss2d.operator`."""
    y, states = map(torch.cat, _by_blocks(_forward_block, (x, p), (dt_w, dt_b, A_logs, Ds)))
    return y.to(x.dtype), states if keep else states.new_empty(0)


def backward(dy, states, x, p, *parameters):
    """See :mod:`contrast_arch.ops.ss2d.operator`."""
    if states.numel() == 0:
        states = forward(x, p, *parameters, keep=True)[1]
    dx, dp, *shares = _by_blocks(_backward_block, (dy, states, x, p), parameters)
    shares = (sum(share).to(t.dtype) for share, t in zip(shares, parameters, strict=True))
    return torch.cat(dx).to(x.dtype), torch.cat(dp).to(p.dtype), *shares


ss2d = define_ss2d("torch", forward, backward, _chunk_length)
