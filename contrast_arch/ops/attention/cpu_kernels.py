"""Attention in windows on the CPU: two kernels, each for one head and some images, all their windows.

Queries, keys and values are read where they lie in the image. No weights are kept: the forward pass keeps the logarithm
of each query's sum of exponentials, the backward pass computes the weights again. A window's keys and values are first
laid out channel by channel, so that a vector is thirty-two keys of one channel; four queries at a time share its load.

Arrays are flat and float32. ``qkv`` is (B, H, W, 3, M, d), ``bias`` (M, queries, span) with ``span`` the number of keys
rounded up to whole vectors; behind the keys it is so low that its exponential is 0. A window has ``window`` by
``window`` queries; its keys are the ``overlap`` by ``overlap`` pixels around its centre, zeros beyond the border of the
image.
"""

import math

import numpy as np

from contrast_arch.ops.simd import LANES
from contrast_arch.ops.simd.vectors import (
    accumulate,
    at_least,
    clear,
    exp,
    get,
    helper,
    largest,
    load,
    put,
    spread,
    store,
    total,
)

# Queries at a time; the functions of four vectors below have as many.
QUERIES = 4


@helper
def _load4(array, at, stride):
    return load(array, at), load(array, at + stride), load(array, at + 2 * stride), load(array, at + 3 * stride)


@helper
def _store4(array, at, stride, values):
    store(array, at, values[0])
    store(array, at + stride, values[1])
    store(array, at + 2 * stride, values[2])
    store(array, at + 3 * stride, values[3])


@helper
def _add_spread(sums, value, array, at):
    """sums + value * four numbers that follow each other."""
    return (
        sums[0] + value * spread(array, at),
        sums[1] + value * spread(array, at + 1),
        sums[2] + value * spread(array, at + 2),
        sums[3] + value * spread(array, at + 3),
    )


@helper
def _add_loaded(sums, value, array, at, stride):
    """sums + value * four vectors."""
    return (
        sums[0] + value * load(array, at),
        sums[1] + value * load(array, at + stride),
        sums[2] + value * load(array, at + 2 * stride),
        sums[3] + value * load(array, at + 3 * stride),
    )


@helper
def _combine(value, array, at_vectors, stride, at_numbers):
    """value + four vectors, each times a number."""
    value = value + load(array, at_vectors) * spread(array, at_numbers)
    value = value + load(array, at_vectors + stride) * spread(array, at_numbers + 1)
    value = value + load(array, at_vectors + 2 * stride) * spread(array, at_numbers + 2)
    return value + load(array, at_vectors + 3 * stride) * spread(array, at_numbers + 3)


@helper
def _larger4(a, b):
    return at_least(a[0], b[0]), at_least(a[1], b[1]), at_least(a[2], b[2]), at_least(a[3], b[3])


@helper
def _totals(values):
    return total(values[0]), total(values[1]), total(values[2]), total(values[3])


@helper
def _find_pixels(queries, keys, image, place, height, width, window, overlap):
    """Pixels of a window's queries and keys, -1 for keys beyond the border; the last query again fills up the four."""
    columns = width // window
    above, left, margin = place // columns * window, place % columns * window, (overlap - window) // 2
    for index in range(queries.size):
        at = min(index, window * window - 1)
        queries[index] = (image * height + above + at // window) * width + left + at % window
    for index in range(keys.size):
        row, column = above - margin + index // overlap, left - margin + index % overlap
        inside = row >= 0 and row < height and column >= 0 and column < width
        keys[index] = (image * height + row) * width + column if inside else -1


@helper
def _lay_out(scratch, at, qkv, part, keys, heads, head, dim, span):
    """Keys (part 1) or values (part 2) of a head as (d, span)."""
    for index in range(keys.size):
        for c in range(dim):
            value = np.float32(0.0)
            if keys[index] >= 0:
                value = get(qkv, ((keys[index] * 3 + part) * heads + head) * dim + c)
            put(scratch, at + c * span + index, value)


@helper
def _lay_out_queries(scratch, at, source, stride, queries, start, heads, head, dim, scale):
    """Four queries of a head, or what belongs to them, times ``scale``, as (d, 4)."""
    for i in range(QUERIES):
        for c in range(dim):
            value = get(source, (queries[start + i] * stride * heads + head) * dim + c)
            put(scratch, at + c * QUERIES + i, scale * value)


@helper
def _bias_rows(bias, head, start, queries, span, j):
    """Four rows from ``start`` on; the last one again behind the end."""
    at, last = head * queries * span + j, queries - 1
    return (
        load(bias, at + start * span),
        load(bias, at + min(start + 1, last) * span),
        load(bias, at + min(start + 2, last) * span),
        load(bias, at + min(start + 3, last) * span),
    )


def forward(qkv, bias, y, sums, scratch, height, width, heads, dim, window, overlap, span, head, first, step):
    """y (B, H, W, M, d), and in ``sums`` (B, H, W, M) the logarithms of the sums of exponentials.

    The images are ``first``, ``first + step``, ...
    """
    images = sums.size // (height * width * heads)
    count = window * window
    scale = np.float32(1.0 / math.sqrt(dim))
    at_k = 0
    at_v = at_k + dim * span
    at_rows = at_v + dim * span
    at_q = at_rows + QUERIES * span
    queries = np.empty((count + QUERIES - 1) // QUERIES * QUERIES, np.int64)
    keys = np.empty(overlap * overlap, np.int64)
    clear(scratch, 0, at_rows)

    for image in range(first, images, step):
        for place in range((height // window) * (width // window)):
            _find_pixels(queries, keys, image, place, height, width, window, overlap)
            _lay_out(scratch, at_k, qkv, 1, keys, heads, head, dim, span)
            _lay_out(scratch, at_v, qkv, 2, keys, heads, head, dim, span)
            for start in range(0, count, QUERIES):
                _lay_out_queries(scratch, at_q, qkv, 3, queries, start, heads, head, dim, scale)
                top = _bias_rows(bias, head, start, count, span, 0)
                for j in range(0, span, LANES):
                    logits = _bias_rows(bias, head, start, count, span, j)
                    for c in range(dim):
                        logits = _add_spread(logits, load(scratch, at_k + c * span + j), scratch, at_q + c * QUERIES)
                    _store4(scratch, at_rows + j, span, logits)
                    top = logits if j == 0 else _larger4(top, logits)
                tops = (largest(top[0]), largest(top[1]), largest(top[2]), largest(top[3]))
                # The queries have been used; the reciprocals of their sums take their place.
                for i in range(QUERIES):
                    row = at_rows + i * span
                    weights = exp(load(scratch, row) - tops[i])
                    store(scratch, row, weights)
                    for j in range(LANES, span, LANES):
                        more = exp(load(scratch, row + j) - tops[i])
                        store(scratch, row + j, more)
                        weights = weights + more
                    weight = total(weights)
                    put(scratch, at_q + i, np.float32(1.0) / weight)
                    put(sums, queries[start + i] * heads + head, tops[i] + np.log(weight))
                for c in range(dim):
                    v = load(scratch, at_v + c * span)
                    rows = _load4(scratch, at_rows, span)
                    out = (v * rows[0], v * rows[1], v * rows[2], v * rows[3])
                    for j in range(LANES, span, LANES):
                        out = _add_loaded(out, load(scratch, at_v + c * span + j), scratch, at_rows + j, span)
                    outs = _totals(out)
                    for i in range(QUERIES):
                        at = (queries[start + i] * heads + head) * dim + c
                        put(y, at, outs[i] * get(scratch, at_q + i))


def forward_scratch(dim, span):
    """See :func:`forward`."""
    return (2 * dim + QUERIES) * span + dim * QUERIES


def backward(
    qkv, bias, dy, y, sums, d_qkv, d_bias, scratch,
    height, width, heads, dim, window, overlap, span, head, first, step,
):  # fmt: skip
    """Gradients, added to what ``d_qkv`` and ``d_bias`` hold; the latter is (step, M, queries, span)."""
    images = sums.size // (height * width * heads)
    count = window * window
    scale = np.float32(1.0 / math.sqrt(dim))
    at_k = 0
    at_v = at_k + dim * span
    at_dk = at_v + dim * span
    at_dv = at_dk + dim * span
    at_weights = at_dv + dim * span
    at_slopes = at_weights + QUERIES * span
    at_q = at_slopes + QUERIES * span
    at_dy = at_q + QUERIES * dim
    at_delta = at_dy + QUERIES * dim
    queries = np.empty((count + QUERIES - 1) // QUERIES * QUERIES, np.int64)
    keys = np.empty(overlap * overlap, np.int64)
    clear(scratch, 0, at_weights)

    for image in range(first, images, step):
        for place in range((height // window) * (width // window)):
            _find_pixels(queries, keys, image, place, height, width, window, overlap)
            _lay_out(scratch, at_k, qkv, 1, keys, heads, head, dim, span)
            _lay_out(scratch, at_v, qkv, 2, keys, heads, head, dim, span)
            clear(scratch, at_dk, 2 * dim * span)
            for start in range(0, count, QUERIES):
                present = min(QUERIES, count - start)
                _lay_out_queries(scratch, at_q, qkv, 3, queries, start, heads, head, dim, scale)
                _lay_out_queries(scratch, at_dy, dy, 1, queries, start, heads, head, dim, np.float32(1.0))
                # A query that only fills up has no gradient: nothing is added for it below.
                for i in range(present, QUERIES):
                    for c in range(dim):
                        put(scratch, at_dy + c * QUERIES + i, 0.0)
                for i in range(QUERIES):
                    pixel = queries[start + i] * heads + head
                    delta = np.float32(0.0)
                    for c in range(dim):
                        delta += get(scratch, at_dy + c * QUERIES + i) * get(y, pixel * dim + c)
                    put(scratch, at_delta + i, delta)
                    put(scratch, at_delta + QUERIES + i, get(sums, pixel))

                for j in range(0, span, LANES):
                    logits = _bias_rows(bias, head, start, count, span, j)
                    zero = load(scratch, at_v + j) * 0.0
                    d_weights = (zero, zero, zero, zero)
                    for c in range(dim):
                        logits = _add_spread(logits, load(scratch, at_k + c * span + j), scratch, at_q + c * QUERIES)
                        v = load(scratch, at_v + c * span + j)
                        d_weights = _add_spread(d_weights, v, scratch, at_dy + c * QUERIES)
                    _store4(scratch, at_weights + j, span, logits)
                    _store4(scratch, at_slopes + j, span, d_weights)
                for i in range(QUERIES):
                    delta, log_sum = get(scratch, at_delta + i), get(scratch, at_delta + QUERIES + i)
                    own = ((first * heads + head) * count + min(start + i, count - 1)) * span
                    for j in range(i * span, (i + 1) * span, LANES):
                        weights = exp(load(scratch, at_weights + j) - log_sum)
                        slopes = weights * (load(scratch, at_slopes + j) - delta)
                        store(scratch, at_weights + j, weights)
                        store(scratch, at_slopes + j, slopes)
                        accumulate(d_bias, own + j - i * span, slopes)

                for c in range(dim):
                    k = load(scratch, at_k + c * span)
                    rows = _load4(scratch, at_slopes, span)
                    d_q = (k * rows[0], k * rows[1], k * rows[2], k * rows[3])
                    for j in range(LANES, span, LANES):
                        d_q = _add_loaded(d_q, load(scratch, at_k + c * span + j), scratch, at_slopes + j, span)
                    d_qs = _totals(d_q)
                    for i in range(QUERIES):
                        at = (queries[start + i] * 3 * heads + head) * dim + c
                        put(d_qkv, at, get(d_qkv, at) + scale * d_qs[i])
                    for j in range(0, span, LANES):
                        at = at_dk + c * span + j
                        sums_k = _combine(load(scratch, at), scratch, at_slopes + j, span, at_q + c * QUERIES)
                        store(scratch, at, sums_k)
                        at = at_dv + c * span + j
                        sums_v = _combine(load(scratch, at), scratch, at_weights + j, span, at_dy + c * QUERIES)
                        store(scratch, at, sums_v)

            for index in range(keys.size):
                if keys[index] >= 0:
                    for part in range(2):
                        for c in range(dim):
                            at = ((keys[index] * 3 + 1 + part) * heads + head) * dim + c
                            share = get(scratch, at_dk + (part * dim + c) * span + index)
                            put(d_qkv, at, get(d_qkv, at) + share)


def backward_scratch(dim, span):
    """See :func:`backward`."""
    return (4 * dim + 2 * QUERIES) * span + (2 * dim + 2) * QUERIES
