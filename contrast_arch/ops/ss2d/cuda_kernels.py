"""The kernels of ``cuda.py``, in Triton. This file, and triton with it, is imported for the first tensor on a GPU.

Names and shapes are those of ``reference.py``. An image of L = H W pixels is cut into chunks of ``BL`` steps, twice: in
row-major order (``ORDER`` 0: directions 0 forwards, 2 backwards) and in column-major order (1: directions 1 and 3). A
program holds one chunk of ``BD`` channels as a (BL, BD) tile and computes both directions on it, so that x is read once
for the two. Scans inside a tile are associative scans. No two programs write to the same place, so that results repeat
bit for bit. All values are float32 once they are loaded.
"""

import triton
import triton.language as tl

DIRECTIONS = tl.constexpr(4)
# Directions k and k + PAIR see the same steps in opposite order.
PAIR = tl.constexpr(2)


# Steps of the scans. The segment that is scanned first comes first; none of them commutes.
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


@triton.jit
def pixels_of(step, order, height, width):
    """Row-major pixel of a step, for the steps of both orders."""
    return tl.where(order == 1, (step % height) * width + step // height, step).to(tl.int64)


@triton.jit
def tile_of(chunk, image, order, height, width, BL: tl.constexpr, BD: tl.constexpr, D: tl.constexpr):
    """Channels (BD), pixels (BL) counted over the batch, the masks of both, and the mask of the tile."""
    channel = tl.program_id(1) * BD + tl.arange(0, BD)
    step = chunk * BL + tl.arange(0, BL)
    channel_mask, step_mask = channel < D, step < height * width
    pixel = pixels_of(step, order, height, width) + image * height * width
    return channel, pixel, channel_mask, step_mask, step_mask[:, None] & channel_mask[None, :]


@triton.jit
def load_row(pointer, mask):
    return tl.load(pointer, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def dt_in(p_k, pixel, step_mask, dt_w, dt_b, k, channel, mask, D: tl.constexpr, R: tl.constexpr, N: tl.constexpr):
    """The argument of the softplus, (BL, BD): dt_r dt_w^T + dt_b."""
    bias = load_row(dt_b + k * D + channel, mask)
    z = tl.broadcast_to(bias[None, :], [pixel.shape[0], channel.shape[0]])
    UNROLL: tl.constexpr = R if R <= 8 else (4 if R % 4 == 0 else 1)
    for first in range(0, R, UNROLL):
        for i in tl.static_range(UNROLL):
            r = first + i
            dt_r = load_row(p_k + pixel * DIRECTIONS * (R + 2 * N) + r, step_mask)
            z += dt_r[:, None] * load_row(dt_w + (k * D + channel) * R + r, mask)[None, :]
    return z


@triton.jit
def skip_weight(Ds, channel, mask, D: tl.constexpr):
    """The directions share u, so their skip weights add up."""
    skip = load_row(Ds + channel, mask)
    for k in tl.static_range(1, 4):
        skip += load_row(Ds + k * D + channel, mask)
    return skip


@triton.jit
def decay_rate(A_logs, k, n, channel, mask, D: tl.constexpr, N: tl.constexpr):
    return -tl.exp(load_row(A_logs + (k * D + channel) * N + n, mask))


@triton.jit(do_not_specialize=["height", "width", "chunks"])
def chunk_kernel(
    v, p, dt_w, dt_b, A_logs, leaving, total, height, width, chunks,
    D: tl.constexpr, R: tl.constexpr, N: tl.constexpr, BL: tl.constexpr, BD: tl.constexpr, EVEN: tl.constexpr,
    ADJOINT: tl.constexpr,
):  # fmt: skip
    """State that leaves each chunk when nothing enters it, for all four directions, and the chunk's sum of dt.

    v: x for the states, dy for their adjoints, which run the other way. leaving: (B, 4, N, chunks, D), total:
    (B, 4, chunks, D), float32. Grid: (B * 2 * chunks, blocks of channels). EVEN: L is a multiple of BL.
    """
    chunk = tl.program_id(0) % chunks
    image_order = tl.program_id(0) // chunks
    image, order = (image_order // 2).to(tl.int64), image_order % 2
    channel, pixel, channel_mask, step_mask, mask = tile_of(chunk, image, order, height, width, BL, BD, D)
    value = load_row(v + pixel[:, None] * D + channel[None, :], mask)
    for s in tl.static_range(2):
        k = order + PAIR * s
        p_k = p + k * (R + 2 * N)
        dt, _ = softplus(dt_in(p_k, pixel, step_mask, dt_w, dt_b, k, channel, channel_mask, D, R, N))
        if not EVEN:
            dt = tl.where(mask, dt, 0.0)
        row = (image * DIRECTIONS + k) * chunks + chunk
        tl.store(total + row * D + channel, tl.sum(dt, axis=0), mask=channel_mask)
        # The exponent of a step is the dt between it and the end of the chunk that is left: of the steps scanned after
        # it for a state, of itself and the steps scanned before it for an adjoint.
        if ADJOINT:
            between = tl.cumsum(dt, axis=0, reverse=(s == 1))
            weight = value
        else:
            _, between = tl.associative_scan((dt, tl.zeros_like(dt)), 0, combine_before, reverse=(s == 0))
            weight = dt * value
        for n in range(N):
            A = decay_rate(A_logs, k, n, channel, channel_mask, D, N)
            gate = load_row(p_k + pixel * DIRECTIONS * (R + 2 * N) + (R + n + N * ADJOINT), step_mask)
            state = tl.sum(tl.exp(A[None, :] * between) * weight * gate[:, None], axis=0)
            row_n = ((image * DIRECTIONS + k) * N + n) * chunks + chunk
            tl.store(leaving + row_n * D + channel, state, mask=channel_mask)


@triton.jit(do_not_specialize=["chunks"])
def carry_kernel(
    leaving, total, A_logs, entering, chunks,
    D: tl.constexpr, N: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """State that enters each chunk, from those that leave the others: (B, 4, N, chunks, D), BC chunks at a time.

    Grid: (B * 4 * N, blocks of channels). Position q in the order of the scan reads the chunk at q - 1, so that the
    inclusive scan gives what enters q.
    """
    sequence = tl.program_id(0).to(tl.int64)
    n, k = sequence % N, (sequence // N) % DIRECTIONS
    backwards = (k >= PAIR) != ADJOINT
    channel = tl.program_id(1) * BD + tl.arange(0, BD)
    channel_mask = channel < D
    A = decay_rate(A_logs, k, n, channel, channel_mask, D, N)
    lane = tl.arange(0, BC)
    carried = tl.zeros([BD], dtype=tl.float32)
    for first in range(0, chunks, BC):
        q = first + lane
        here = tl.where(backwards, chunks - 1 - q, q)
        before = tl.where(backwards, chunks - q, q - 1)
        mask = ((q > 0) & (q < chunks))[:, None] & channel_mask[None, :]
        dt = load_row(total + ((sequence // N) * chunks + before[:, None]) * D + channel[None, :], mask)
        value = load_row(leaving + (sequence * chunks + before[:, None]) * D + channel[None, :], mask)
        factor, state = tl.associative_scan((tl.exp(A[None, :] * dt), value), 0, combine_affine)
        state += factor * carried[None, :]
        tl.store(
            entering + (sequence * chunks + here[:, None]) * D + channel[None, :],
            state,
            mask=(q < chunks)[:, None] & channel_mask[None, :],
        )
        carried = tl.sum(tl.where((lane == BC - 1)[:, None], state, 0.0), axis=0)


@triton.jit(do_not_specialize=["height", "width", "chunks"])
def output_kernel(
    x, p, dt_w, dt_b, A_logs, Ds, entering, partial, y, height, width, chunks,
    D: tl.constexpr, R: tl.constexpr, N: tl.constexpr, BL: tl.constexpr, BD: tl.constexpr, EVEN: tl.constexpr,
    ORDER: tl.constexpr,
):  # fmt: skip
    """y of two directions. Order 0 writes its sum to ``partial`` (float32), order 1 adds it to its own and writes y.

    Grid: (B * chunks, blocks of channels).
    """
    chunk = tl.program_id(0) % chunks
    image = (tl.program_id(0) // chunks).to(tl.int64)
    channel, pixel, channel_mask, step_mask, mask = tile_of(chunk, image, ORDER, height, width, BL, BD, D)
    here = pixel[:, None] * D + channel[None, :]
    u = load_row(x + here, mask)
    if ORDER == 0:
        out = u * skip_weight(Ds, channel, channel_mask, D)[None, :]
    else:
        out = load_row(partial + here, mask)
    for s in tl.static_range(2):
        k = ORDER + PAIR * s
        p_k = p + k * (R + 2 * N)
        dt, _ = softplus(dt_in(p_k, pixel, step_mask, dt_w, dt_b, k, channel, channel_mask, D, R, N))
        if not EVEN:
            dt = tl.where(mask, dt, 0.0)
        for n in range(N):
            A = decay_rate(A_logs, k, n, channel, channel_mask, D, N)
            gates = p_k + pixel * DIRECTIONS * (R + 2 * N) + (R + n)
            drive = dt * u * load_row(gates, step_mask)[:, None]
            factor, state = tl.associative_scan((tl.exp(A[None, :] * dt), drive), 0, combine_affine, reverse=(s == 1))
            row = ((image * DIRECTIONS + k) * N + n) * chunks + chunk
            state += factor * load_row(entering + row * D + channel, channel_mask)[None, :]
            out += state * load_row(gates + N, step_mask)[:, None]
    if ORDER == 0:
        tl.store(partial + here, out, mask=mask)
    else:
        tl.store(y + here, out, mask=mask)


@triton.jit(do_not_specialize=["height", "width", "chunks", "pixels"])
def gradient_kernel(
    x, p, dt_w, dt_b, A_logs, Ds, entering, adjoint, dy, partial, dx, dp, sums, height, width, chunks, pixels,
    D: tl.constexpr, R: tl.constexpr, N: tl.constexpr, BL: tl.constexpr, BD: tl.constexpr, EVEN: tl.constexpr,
    ORDER: tl.constexpr,
):  # fmt: skip
    """Gradients of two directions, the states computed again from what entered the chunk.

    entering, adjoint: (B, 4, N, chunks, D), state and adjoint that enter each chunk. dx as y in :func:`output_kernel`.
    dp: (blocks of channels, B, H, W, 4, R + 2N), to be summed over the blocks. sums: (B, chunks, PARTS * 4 + 1, D)
    float32, the chunk's share of the gradients of dt_w, A_logs and dt_b for each direction, and of each row of Ds; see
    :func:`parameter_kernel`. pixels: B * H * W. Grid: (B * chunks, blocks of channels).
    """
    PARTS: tl.constexpr = R + N + 1
    UNROLL: tl.constexpr = R if R <= 8 else (4 if R % 4 == 0 else 1)
    chunk = tl.program_id(0) % chunks
    image = (tl.program_id(0) // chunks).to(tl.int64)
    channel, pixel, channel_mask, step_mask, mask = tile_of(chunk, image, ORDER, height, width, BL, BD, D)
    here = pixel[:, None] * D + channel[None, :]
    own_sums = sums + (image * chunks + chunk) * (DIRECTIONS * PARTS + 1) * D + channel
    u = load_row(x + here, mask)
    d_out = load_row(dy + here, mask)
    if ORDER == 0:
        d_u = d_out * skip_weight(Ds, channel, channel_mask, D)[None, :]
        tl.store(own_sums + DIRECTIONS * PARTS * D, tl.sum(d_out * u, axis=0), mask=channel_mask)
    else:
        d_u = load_row(partial + here, mask)
    for s in tl.static_range(2):
        k = ORDER + PAIR * s
        p_k = p + k * (R + 2 * N) + pixel * DIRECTIONS * (R + 2 * N)
        dp_k = dp + k * (R + 2 * N) + (tl.program_id(1).to(tl.int64) * pixels + pixel) * DIRECTIONS * (R + 2 * N)
        sums_k = own_sums + k * PARTS * D
        z = dt_in(p + k * (R + 2 * N), pixel, step_mask, dt_w, dt_b, k, channel, channel_mask, D, R, N)
        dt, slope = softplus(z)
        if not EVEN:
            dt = tl.where(mask, dt, 0.0)
        d_dt = tl.zeros([BL, BD], dtype=tl.float32)
        for n in range(N):
            A = decay_rate(A_logs, k, n, channel, channel_mask, D, N)
            B = load_row(p_k + R + n, step_mask)[:, None]
            C = load_row(p_k + R + N + n, step_mask)[:, None]
            row = ((image * DIRECTIONS + k) * N + n) * chunks + chunk
            factor = tl.exp(A[None, :] * dt)
            drive = dt * u * B
            # state - drive would cancel where the step is large.
            through, decayed, _ = tl.associative_scan(
                (factor, tl.zeros_like(drive), drive), 0, combine_split, reverse=(s == 1)
            )
            decayed += through * load_row(entering + row * D + channel, channel_mask)[None, :]
            _, through, g = tl.associative_scan(
                (factor, tl.full([BL, BD], 1.0, dtype=tl.float32), d_out * C), 0, combine_adjoint, reverse=(s == 0)
            )
            g += through * load_row(adjoint + row * D + channel, channel_mask)[None, :]
            if not EVEN:
                g = tl.where(mask, g, 0.0)
            tl.store(dp_k + R + N + n, tl.sum(d_out * (decayed + drive), axis=1), mask=step_mask)
            tl.store(dp_k + R + n, tl.sum(g * dt * u, axis=1), mask=step_mask)
            g_decayed = g * decayed
            tl.store(sums_k + (R + n) * D, tl.sum(g_decayed * dt, axis=0) * A, mask=channel_mask)
            d_u += g * dt * B
            d_dt += g_decayed * A[None, :] + g * u * B
        d_z = d_dt * slope
        tl.store(sums_k + (R + N) * D, tl.sum(d_z, axis=0), mask=channel_mask)
        for first in range(0, R, UNROLL):
            for i in tl.static_range(UNROLL):
                r = first + i
                dt_r = load_row(p_k + r, step_mask)[:, None]
                weight = load_row(dt_w + (k * D + channel) * R + r, channel_mask)[None, :]
                tl.store(sums_k + r * D, tl.sum(d_z * dt_r, axis=0), mask=channel_mask)
                tl.store(dp_k + r, tl.sum(d_z * weight, axis=1), mask=step_mask)
    if ORDER == 0:
        tl.store(partial + here, d_u, mask=mask)
    else:
        tl.store(dx + here, d_u, mask=mask)


@triton.jit(do_not_specialize=["rows"])
def parameter_kernel(
    sums, d_dt_w, d_dt_b, d_A_logs, d_Ds, rows,
    D: tl.constexpr, R: tl.constexpr, N: tl.constexpr, BR: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Gradients of the parameters, from the shares of all chunks.

    sums: (rows, 4 * (R + N + 1) + 1, D), see :func:`gradient_kernel`, BR rows at a time. Grid: (4 * (R + N + 1) + 1,
    blocks of channels).
    """
    PARTS: tl.constexpr = R + N + 1
    part = tl.program_id(0)
    k, i = part // PARTS, part % PARTS
    channel = tl.program_id(1) * BD + tl.arange(0, BD)
    channel_mask = channel < D
    total = tl.zeros([BR, BD], dtype=tl.float32)
    for first in range(0, rows, BR):
        row = (first + tl.arange(0, BR)).to(tl.int64)
        here = (row[:, None] * (DIRECTIONS * PARTS + 1) + part) * D + channel[None, :]
        total += load_row(sums + here, (row < rows)[:, None] & channel_mask[None, :])
    gradient = tl.sum(total, axis=0)
    if k == DIRECTIONS:
        for direction in tl.static_range(4):
            tl.store(d_Ds + direction * D + channel, gradient, mask=channel_mask)
    elif i < R:
        tl.store(d_dt_w + (k * D + channel) * R + i, gradient, mask=channel_mask)
    elif i < R + N:
        tl.store(d_A_logs + (k * D + channel) * N + (i - R), gradient, mask=channel_mask)
    else:
        tl.store(d_dt_b + k * D + channel, gradient, mask=channel_mask)
