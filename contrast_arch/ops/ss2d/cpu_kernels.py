"""SS2D on the CPU: two kernels, each for one image and one, two or all four of its directions.

Pixels are read where they lie, in the order of the direction: nothing is flipped, transposed or gathered. A chunk of T
steps is computed for one vector of channels at a time: its intermediates stay in the first cache, the state of these
channels in registers. The forward pass keeps the state that enters each chunk; the backward pass computes all else
again.

Arrays are flat and float32; shapes are those of ``reference.py``. ``span`` is D rounded up to whole vectors, and lanes
behind the end hold zeros. ``parameters`` (K, R + N + 2, span) are for each direction R rows of dt_w, dt_b, N rows of A,
and the skips of its group summed. A call does directions ``group``, ``group + groups``, ..., so that y and dx are sums
over the groups.
"""

import numpy as np

from contrast_arch.ops.simd import LANES
from contrast_arch.ops.simd.vectors import (
    accumulate,
    clear,
    copy,
    exp,
    helper,
    load,
    put,
    softplus,
    softplus_and_sigmoid,
    spread,
    store,
    total,
)


@helper
def _pixel(direction, step, height, width):
    """See ``reference.scan_order``."""
    if direction >= 2:
        step = height * width - 1 - step
    if direction % 2 == 1:
        step = step % height * width + step // height
    return step


@helper
def _dt_in(parameters, at, p, row, R, span):
    """The argument of the softplus for a vector of channels of one pixel; ``at`` is their column of the parameters."""
    value = load(parameters, at + R * span)
    for r in range(R):
        value = value + load(parameters, at + r * span) * spread(p, row + r)
    return value


def forward(x, p, parameters, y, states, scratch, height, width, dim, R, N, T, image, group, groups):
    """y, and with ``states`` not empty the states that enter each chunk."""
    length = height * width
    chunks = (length + T - 1) // T
    span = (dim + LANES - 1) // LANES * LANES
    rows = R + 2 * N
    block = T * LANES
    at_h = 0
    at_u = at_h + N * span
    at_y = at_u + T * span
    at_dt = at_y + T * span
    at_du = at_dt + block
    pixels = np.empty(T, np.int64)
    clear(scratch, at_u, 2 * T * span)

    for k in range(group, 4, groups):
        own = k * (R + N + 2) * span
        clear(scratch, at_h, N * span)
        for chunk in range(chunks):
            steps = min(T, length - chunk * T)
            if states.size > 0:
                for n in range(N):
                    kept = (((image * 4 + k) * N + n) * chunks + chunk) * dim
                    copy(states, kept, scratch, at_h + n * span, dim)
            for t in range(steps):
                pixels[t] = image * length + _pixel(k, chunk * T + t, height, width)
                copy(scratch, at_u + t * span, x, pixels[t] * dim, dim)
                if k > group:
                    copy(scratch, at_y + t * span, y, pixels[t] * dim, dim)

            for j in range(0, span, LANES):
                skip = load(parameters, own + (R + 1 + N) * span + j)
                for t in range(steps):
                    u = load(scratch, at_u + t * span + j)
                    dt = softplus(_dt_in(parameters, own + j, p, (pixels[t] * 4 + k) * rows, R, span))
                    store(scratch, at_dt + t * LANES, dt)
                    store(scratch, at_du + t * LANES, dt * u)
                    if k == group:
                        store(scratch, at_y + t * span + j, skip * u)
                for n in range(N):
                    A = load(parameters, own + (R + 1 + n) * span + j)
                    h = load(scratch, at_h + n * span + j)
                    for t in range(steps):
                        row = (pixels[t] * 4 + k) * rows + R + n
                        decay = exp(load(scratch, at_dt + t * LANES) * A)
                        h = decay * h + load(scratch, at_du + t * LANES) * spread(p, row)
                        accumulate(scratch, at_y + t * span + j, h * spread(p, row + N))
                    store(scratch, at_h + n * span + j, h)

            for t in range(steps):
                copy(y, pixels[t] * dim, scratch, at_y + t * span, dim)


def forward_scratch(T, dim, R, N):
    """See :func:`forward`."""
    span = -(-dim // LANES) * LANES
    return (N + 2 * T) * span + 2 * T * LANES


def backward(
    dy, states, x, p, parameters, dx, dp, shares, scratch,
    height, width, dim, R, N, T, image, group, groups,
):  # fmt: skip
    """Gradients; ``shares`` are those of the parameters for each image, (B, K, R + N + 2, span)."""
    length = height * width
    chunks = (length + T - 1) // T
    span = (dim + LANES - 1) // LANES * LANES
    rows = R + 2 * N
    block = T * LANES
    at_adjoint = 0
    at_h = at_adjoint + N * span
    at_u = at_h + N * span
    at_dy = at_u + T * span
    at_dx = at_dy + T * span
    at_dp = at_dx + T * span
    at_dt = at_dp + rows * block
    at_slope = at_dt + block
    at_decay = at_slope + block
    at_decayed = at_decay + block
    at_d_du = at_decayed + block
    at_d_dt = at_d_du + block
    pixels = np.empty(T, np.int64)
    clear(scratch, at_h, (N + 3 * T) * span)

    for k in range(group, 4, groups):
        own = k * (R + N + 2) * span
        sums = (image * 4 + k) * (R + N + 2) * span
        clear(shares, sums, (R + N + 2) * span)
        clear(scratch, at_adjoint, N * span)
        for chunk in range(chunks - 1, -1, -1):
            steps = min(T, length - chunk * T)
            for n in range(N):
                kept = (((image * 4 + k) * N + n) * chunks + chunk) * dim
                copy(scratch, at_h + n * span, states, kept, dim)
            for t in range(steps):
                pixels[t] = image * length + _pixel(k, chunk * T + t, height, width)
                copy(scratch, at_u + t * span, x, pixels[t] * dim, dim)
                copy(scratch, at_dy + t * span, dy, pixels[t] * dim, dim)
                if k > group:
                    copy(scratch, at_dx + t * span, dx, pixels[t] * dim, dim)
            clear(scratch, at_dp, steps * rows * LANES)

            for j in range(0, span, LANES):
                for t in range(steps):
                    dt_in = _dt_in(parameters, own + j, p, (pixels[t] * 4 + k) * rows, R, span)
                    dt, slope = softplus_and_sigmoid(dt_in)
                    store(scratch, at_dt + t * LANES, dt)
                    store(scratch, at_slope + t * LANES, slope)
                clear(scratch, at_d_du, steps * LANES)
                clear(scratch, at_d_dt, steps * LANES)

                for n in range(N):
                    A = load(parameters, own + (R + 1 + n) * span + j)
                    h = load(scratch, at_h + n * span + j)
                    for t in range(steps):
                        dt = load(scratch, at_dt + t * LANES)
                        decay = exp(dt * A)
                        # Kept apart from h: the difference h - du B would cancel where dt is large.
                        decayed = decay * h
                        B = spread(p, (pixels[t] * 4 + k) * rows + R + n)
                        h = decayed + dt * load(scratch, at_u + t * span + j) * B
                        store(scratch, at_decay + t * LANES, decay)
                        store(scratch, at_decayed + t * LANES, decayed)
                    adjoint = load(scratch, at_adjoint + n * span + j)
                    dA = load(shares, sums + (R + 1 + n) * span + j)
                    for t in range(steps - 1, -1, -1):
                        row = (pixels[t] * 4 + k) * rows + R + n
                        B, C = spread(p, row), spread(p, row + N)
                        dt = load(scratch, at_dt + t * LANES)
                        du = dt * load(scratch, at_u + t * span + j)
                        d_y = load(scratch, at_dy + t * span + j)
                        decayed = load(scratch, at_decayed + t * LANES)
                        d_h = d_y * C + adjoint
                        adjoint = d_h * load(scratch, at_decay + t * LANES)
                        accumulate(scratch, at_dp + (t * rows + R + n) * LANES, d_h * du)
                        accumulate(scratch, at_dp + (t * rows + R + N + n) * LANES, d_y * (decayed + du * B))
                        accumulate(scratch, at_d_du + t * LANES, d_h * B)
                        d_decay = d_h * decayed
                        accumulate(scratch, at_d_dt + t * LANES, d_decay * A)
                        dA = dA + d_decay * dt
                    store(scratch, at_adjoint + n * span + j, adjoint)
                    store(shares, sums + (R + 1 + n) * span + j, dA)

                skip = load(parameters, own + (R + 1 + N) * span + j)
                d_bias = load(shares, sums + R * span + j)
                d_skip = load(shares, sums + (R + 1 + N) * span + j)
                for t in range(steps):
                    u = load(scratch, at_u + t * span + j)
                    d_y = load(scratch, at_dy + t * span + j)
                    d_du = load(scratch, at_d_du + t * LANES)
                    d_x = d_du * load(scratch, at_dt + t * LANES)
                    if k == group:
                        store(scratch, at_dx + t * span + j, d_x + skip * d_y)
                    else:
                        accumulate(scratch, at_dx + t * span + j, d_x)
                    d_dt = load(scratch, at_d_dt + t * LANES) + d_du * u
                    d_dt = d_dt * load(scratch, at_slope + t * LANES)
                    store(scratch, at_d_dt + t * LANES, d_dt)
                    d_bias = d_bias + d_dt
                    d_skip = d_skip + d_y * u
                store(shares, sums + R * span + j, d_bias)
                store(shares, sums + (R + 1 + N) * span + j, d_skip)
                for r in range(R):
                    weight = load(parameters, own + r * span + j)
                    d_weight = load(shares, sums + r * span + j)
                    for t in range(steps):
                        d_dt = load(scratch, at_d_dt + t * LANES)
                        accumulate(scratch, at_dp + (t * rows + r) * LANES, d_dt * weight)
                        d_weight = d_weight + d_dt * spread(p, (pixels[t] * 4 + k) * rows + r)
                    store(shares, sums + r * span + j, d_weight)

            for t in range(steps):
                copy(dx, pixels[t] * dim, scratch, at_dx + t * span, dim)
                row = (pixels[t] * 4 + k) * rows
                for c in range(rows):
                    put(dp, row + c, total(load(scratch, at_dp + (t * rows + c) * LANES)))


def backward_scratch(T, dim, R, N):
    """See :func:`backward`."""
    span = -(-dim // LANES) * LANES
    return (2 * N + 3 * T) * span + (R + 2 * N + 6) * T * LANES
