"""The selective scan in plain PyTorch: chunked, gradients by recomputing.

Made for the CPU; runs wherever PyTorch does. Shapes are those of :mod:`~contrast_arch.ops.ss2d.reference`.

A sequence of length L is cut into n chunks of T steps. Step t of every chunk and every group (an image, or a sequence
of a batch) is done in one call on a (G, n, D) tensor, so that a scan costs about 2T calls instead of L:

1. run every chunk from a zero state to get its last state;
2. carry: combine (decay, last state) over the chunks in log2(n) steps (Hillis and Steele, 1986);
3. run every chunk again from the state carried in.

The decay of a chunk is exp(A * sum of its dt): a sum in the exponent cannot overflow. The state is done one of its N
components at a time. Of the forward pass only the carried states are kept, L / T of the size of ``x`` a direction.
"""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from contrast_arch.ops.operators import compute_dtype
from contrast_arch.ops.ss2d.operator import define_ss2d, states_shape
from contrast_arch.ops.ss2d.reference import DIRECTIONS, scan_order

# Images are done together up to this many elements: small ones alone would cost more in calls than in arithmetic.
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
        A: (G or 1, D, N).
        B, C: (T, G, n, N).

    Returns:
        y (T, G, n, D) and the carried-in states (N, G, n, D).
    """
    total = dt.sum(0)
    y, carries = None, []
    for i in range(A.shape[2]):
        A_i = A[:, None, :, i]
        decay = torch.mul(dt, A_i).exp_()
        h = du.mul_(B[..., i : i + 1]) if i + 1 == A.shape[2] else du * B[..., i : i + 1]
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
        Gradients of dt (through the decay only), du, A, B and C, in their shapes; that of A is (G, D, N).
    """
    total = dt.sum(0)
    d_dt = d_du = None
    dA = dt.new_empty(dt.shape[1], dt.shape[3], A.shape[2])
    dB, dC = torch.empty_like(B), torch.empty_like(C)
    for i in range(A.shape[2]):
        A_i, B_i, C_i = A[:, None, :, i], B[..., i : i + 1], C[..., i : i + 1]
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
        dA[:, :, i] = torch.mul(decayed, dt, out=decay).sum((0, 2))
        decayed.mul_(A_i)
        g.mul_(B_i)
        d_dt = decayed if d_dt is None else d_dt.add_(decayed)
        d_du = g if d_du is None else d_du.add_(g)
    return d_dt, d_du, dA, dB, dC


class _SelectiveScan(torch.autograd.Function):
    """dt, u: (G, L, D); A: (G, D, N); B, C: (G, L, N) -> y (G, L, D); one dtype throughout."""

    @staticmethod
    def _to_chunks(*sequences):
        """(G, L, C) -> (T, G, n, C), zeros behind the end."""
        length = sequences[0].shape[1]
        chunk = _chunk_length(length)
        padded = (F.pad(t, (0, 0, 0, -length % chunk)).unflatten(1, (-1, chunk)) for t in sequences)
        return [t.permute(2, 0, 1, 3).contiguous() for t in padded]

    @staticmethod
    def _from_chunks(chunks, length):
        return chunks.permute(1, 2, 0, 3).flatten(1, 2)[:, :length]

    @staticmethod
    def forward(ctx, dt, u, A, B, C):
        dt_, du, B_, C_ = _SelectiveScan._to_chunks(dt, dt * u, B, C)
        y, carries = _scan(dt_, du, A, B_, C_)
        ctx.save_for_backward(dt, u, A, B, C, carries)
        return _SelectiveScan._from_chunks(y, u.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        dt, u, A, B, C, carries = ctx.saved_tensors
        dy, dt_, du, B_, C_ = _SelectiveScan._to_chunks(dy, dt, dt * u, B, C)
        d_dt, d_du, dA, dB, dC = _scan_backward(dy, dt_, du, A, B_, C_, carries)
        d_dt, d_du, dB, dC = (_SelectiveScan._from_chunks(t, u.shape[1]) for t in (d_dt, d_du, dB, dC))
        return d_dt + d_du * u, d_du * dt, dA, dB, dC


def selective_scan(u, delta, A, B, C):
    """See :func:`contrast_arch.ops.ss2d.reference.selective_scan`."""
    (batch, dim, length), groups = u.shape, B.shape[1]
    A = A.view(groups, dim // groups, -1).repeat(batch, 1, 1)
    dt, u, B, C = (t.reshape(batch * groups, -1, length).transpose(1, 2) for t in (delta, u, B, C))
    return _SelectiveScan.apply(dt, u, A, B, C).transpose(1, 2).reshape(batch, dim, length)


class _Direction:
    """A direction over some images: where its chunked steps read their pixels, and its parameters.

    Groups are the images, G = I.
    """

    def __init__(self, k, images, height, width, dt_w, dt_b, A_logs):
        length, device = height * width, dt_w.device
        chunk = _chunk_length(length)
        chunks = -(-length // chunk)
        self.k, self.shape, self.last = k, (chunk, images, chunks), length - (chunks - 1) * chunk
        order, image = scan_order(height, width, k, device), torch.arange(images, device=device)[:, None]
        # Steps behind the end read the first pixel; `gather` clears them.
        pixel = F.pad(order, (0, -length % chunk)) + length * image
        self.pixel = pixel.view(images, chunks, chunk).permute(2, 0, 1).flatten()
        step = torch.empty_like(order).scatter_(0, order, torch.arange(length, device=device))
        self.row = ((step % chunk * images + image) * chunks + step // chunk).flatten()
        self.dt_w, self.dt_b = dt_w[k], dt_b[k]
        self.A = -A_logs.view(*dt_b.shape, -1)[k].exp()
        self.sizes = dt_w.shape[2], A_logs.shape[1], A_logs.shape[1]

    def gather(self, rows, index=None):
        """(I * L, C) -> (T, G, n, C), zeros behind the end (whatever the first pixel holds)."""
        chunks = rows.index_select(0, self.pixel if index is None else index).view(*self.shape, -1)
        chunks[self.last :, :, -1] = 0
        return chunks

    def gather_own(self, projections):
        """(I * L, K, R + 2N) -> dt_r (T, G, n, R), the argument of the softplus, B and C of this direction."""
        own = self.gather(projections.flatten(0, 1), self.pixel * DIRECTIONS + self.k)
        dt_r, B, C = own.split(self.sizes, -1)
        return dt_r, F.linear(dt_r, self.dt_w, self.dt_b), B, C

    def scatter(self, chunks):
        """(T, G, n, C) -> (I * L, C), the inverse of :meth:`gather`."""
        return chunks.flatten(0, 2).index_select(0, self.row)


def _blocks(x, p, dt_w, dt_b, A_logs):
    """Cut the batch into blocks, which bound the workspace: single images, or as many small ones as go together.

    Yields:
        The block's slice of the batch, its directions, pixels (I * L, D) and projections (I * L, K, R + 2N); the latter
        two in the dtype of the parameters.
    """
    batch, height, width, dim = x.shape
    size = max(1, _IMAGES_TOGETHER_LIMIT // max(1, height * width * dim))
    directions = {}
    for first in range(0, batch, size):
        block = slice(first, first + size)
        pixels, projections = (t[block].flatten(0, 2).to(dt_w.dtype) for t in (x, p))
        images = min(size, batch - first)
        if images not in directions:
            sizes = images, height, width
            directions[images] = [_Direction(k, *sizes, dt_w, dt_b, A_logs) for k in range(DIRECTIONS)]
        yield block, directions[images], pixels, projections


def forward(x, p, dt_w, dt_b, A_logs, Ds, keep):
    """See :mod:`contrast_arch.ops.ss2d.operator`."""
    dtype = compute_dtype(x, p, dt_w, dt_b, A_logs, Ds)
    _, height, width, dim = x.shape
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    shape = states_shape(x, A_logs, _chunk_length(height * width)) if keep else 0
    states = torch.empty(shape, dtype=dtype, device=x.device)
    skip = Ds.to(dtype).view(DIRECTIONS, dim).sum(0)
    for block, directions, pixels, projections in _blocks(x, p, *(t.to(dtype) for t in (dt_w, dt_b, A_logs))):
        out = pixels * skip
        for direction in directions:
            _, dt_in, B, C = direction.gather_own(projections)
            dt = F.softplus(dt_in)
            chunks, carry = _scan(dt, direction.gather(pixels).mul_(dt), direction.A[None], B, C)
            out += direction.scatter(chunks)
            if keep:
                states[block, direction.k] = carry.transpose(0, 1)
        y[block] = out.view_as(y[block])
    return y, states


def backward(dy, states, x, p, dt_w, dt_b, A_logs, Ds):
    """See :mod:`contrast_arch.ops.ss2d.operator`."""
    if states.numel() == 0:
        states = forward(x, p, dt_w, dt_b, A_logs, Ds, keep=True)[1]
    dim = x.shape[3]
    dx, dp = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (x, p))
    wide = [t.to(states.dtype) for t in (dt_w, dt_b, A_logs)]
    d_dt_w, d_dt_b, dA_logs = (torch.zeros_like(t) for t in wide)
    skip = Ds.to(states.dtype).view(DIRECTIONS, dim).sum(0)
    d_skip = torch.zeros_like(skip)
    for block, directions, pixels, projections in _blocks(x, p, *wide):
        d_out = dy[block].reshape(-1, dim).to(states.dtype)
        d_pixels = d_out * skip
        d_skip += (d_out * pixels).sum(0)
        for direction in directions:
            k = direction.k
            dt_r, dt_in, B, C = direction.gather_own(projections)
            dt, u = F.softplus(dt_in), direction.gather(pixels)
            d_dt, d_du, dA, dB, dC = _scan_backward(
                direction.gather(d_out), dt, u * dt, direction.A[None], B, C, states[block, k].transpose(0, 1)
            )
            # softplus' is the sigmoid; 1 - exp(-dt) would cancel where dt is small.
            d_dt.addcmul_(d_du, u).mul_(dt_in.sigmoid_())
            d_pixels += direction.scatter(d_du.mul_(dt))
            d_own = direction.scatter(torch.cat([d_dt @ direction.dt_w, dB, dC], -1))
            dp[block][..., k, :] = d_own.view(*dp[block].shape[:3], -1)
            d_dt = d_dt.flatten(0, 2)
            d_dt_w[k] += d_dt.T @ dt_r.flatten(0, 2)
            d_dt_b[k] += d_dt.sum(0)
            dA_logs.view(DIRECTIONS, dim, -1)[k] += dA.sum(0) * direction.A
        dx[block] = d_pixels.view_as(dx[block])
    grads = (dx, dp, d_dt_w.to(dt_w.dtype), d_dt_b.to(dt_b.dtype), dA_logs.to(A_logs.dtype))
    return *grads, d_skip.repeat(DIRECTIONS).to(Ds.dtype)


ss2d = define_ss2d("torch", forward, backward, _chunk_length)
