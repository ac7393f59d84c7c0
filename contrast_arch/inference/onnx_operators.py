"""The package's operators in ONNX, as ``torch.onnx.export`` takes them in its ``custom_translation_table``.

Needs the extra ``[onnx]``; imported by :mod:`contrast_arch.inference.onnx` alone. Functions receive the values of a
graph that is being made, and numbers as they are. No height, width or batch stands in a graph.
"""

import torch
from onnxscript import FLOAT, graph, ir, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

from contrast_arch.ops.ss2d.reference import DIRECTIONS

ANY = FLOAT[...]


def _scan(backward):
    """A function (decay, added) -> h_t = decay_t h_{t-1} + added_t, and the product of the decays up to t, all of shape
    (steps, ...); and the last of both. ``backward``: 1 to begin with the last step, else 0."""

    # A domain for each: functions of one name and domain are one.
    @script(Opset(f"contrast_arch.scan{backward}", 1), default_opset=op)
    def scan(decay: ANY, added: ANY) -> tuple[ANY, ANY, ANY, ANY]:
        @graph()
        def step(h_before: ANY, q_before: ANY, a: ANY, b: ANY):
            h = op.Add(op.Mul(a, h_before), b)
            q = op.Mul(a, q_before)
            h_all = op.Identity(h)
            q_all = op.Identity(q)
            return h, q, h_all, q_all

        h_end, q_end, h, q = op.Scan(
            op.Expand(op.Constant(value_float=0.0), op.Shape(decay, start=1)),
            op.Expand(op.Constant(value_float=1.0), op.Shape(decay, start=1)),
            decay,
            added,
            body=step,
            num_scan_inputs=2,
            scan_input_directions=[backward, backward],
            scan_output_directions=[backward, backward],
        )
        return h, q, h_end, q_end

    return scan


SCANS = _scan(0), _scan(1)


def _states(decay, added, backward):
    """States of lines that follow one another, (steps, B, lines, N, D).

    All lines at once are scanned from a state of zero, with the product of the decays; then, line by line, the states
    at their ends, which the next lines begin with; h + product * beginning is exact.
    """
    h, q, h_end, q_end = SCANS[backward](decay, added)
    swap = [1, 0, 2, 3]
    ends, *_ = SCANS[backward](op.Transpose(q_end, perm=swap), op.Transpose(h_end, perm=swap))
    # Negative numbers cut: the ends move on by a line.
    moved = [-1, 0, 0, 0, 1, 0, 0, 0] if backward else [1, 0, 0, 0, -1, 0, 0, 0]
    return op.Add(h, op.Mul(q, op.Transpose(op.Pad(ends, moved), perm=swap)))


def _softplus(x):
    """max(x, 0) + log1p(exp(-|x|)); onnxruntime's own Softplus took a quarter of a network's time on the CPU."""
    e = op.Exp(op.Neg(op.Abs(x)))
    wide = op.Add(e, 1.0)
    # The part that rounding to 1 + e lost: a small step keeps all its digits.
    lost = op.Sub(e, op.Sub(wide, 1.0))
    return op.Add(op.Relu(x), op.Add(op.Log(wide), op.Div(lost, wide)))


def ss2d(x, p, dt_w, dt_b, A_logs, Ds, keep=False):
    """SS2D's core, see :func:`contrast_arch.ops.ss2d_scan`; float32 inside."""
    dtype, dim, rank, state = x.dtype, x.shape[3], dt_w.shape[2], A_logs.shape[1]
    if dtype != ir.DataType.FLOAT:
        x, p, dt_w, dt_b, A_logs, Ds = (op.Cast(t, to=ir.DataType.FLOAT) for t in (x, p, dt_w, dt_b, A_logs, Ds))
    # (K, R, D), (K, N, D) and (K, D): computed once, when a runtime loads the graph.
    dt_w = op.Transpose(dt_w, perm=[0, 2, 1])
    A = op.Transpose(op.Neg(op.Exp(op.Reshape(A_logs, [DIRECTIONS, dim, state]))), perm=[0, 2, 1])
    Ds = op.Reshape(Ds, [DIRECTIONS, dim])
    y = None
    # Rows one after the other for directions 0 and 2, columns for 1 and 3: (B, H, W) -> (steps, B, lines).
    for axis, there, back in ((0, [2, 0, 1], [1, 2, 0]), (1, [1, 0, 2], [1, 0, 2])):
        u = op.Transpose(x, perm=[*there, 3])
        projections = op.Transpose(p, perm=[3, *there, 4])
        total = op.Mul(u, op.Add(op.Gather(Ds, axis), op.Gather(Ds, axis + 2)))
        for k, backward in ((axis, 0), (axis + 2, 1)):
            own = op.Gather(projections, k)
            low, B, C = (
                op.Slice(own, [start], [stop], [-1])
                for start, stop in ((0, rank), (rank, rank + state), (rank + state, rank + 2 * state))
            )
            dt = _softplus(op.Add(op.MatMul(low, op.Gather(dt_w, k)), op.Gather(dt_b, k)))
            decay = op.Exp(op.Mul(op.Unsqueeze(dt, [-2]), op.Gather(A, k)))
            added = op.Mul(op.Unsqueeze(op.Mul(dt, u), [-2]), op.Unsqueeze(B, [-1]))
            states = op.Mul(_states(decay, added, backward), op.Unsqueeze(C, [-1]))
            total = op.Add(total, op.ReduceSum(states, [-2], keepdims=0))
        total = op.Transpose(total, perm=[*back, 3])
        y = total if y is None else op.Add(y, total)
    return (y if dtype == ir.DataType.FLOAT else op.Cast(y, to=dtype)), x


def remainder(x, divisor):
    """x % divisor of whole numbers, whose divisor is computed from the size of the image."""
    return op.Mod(x, op.CastLike(divisor, x))


TRANSLATIONS = {torch.ops.contrast_arch.ss2d_torch.default: ss2d, torch.ops.aten.remainder.Scalar: remainder}
