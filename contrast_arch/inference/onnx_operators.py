"""The package's operators in ONNX, as ``torch.onnx.export`` takes them in its ``custom_translation_table``.

Needs the extra ``[onnx]``; imported by :mod:`contrast_arch.inference.onnx` alone. Functions receive the values of a
graph that is being made, and numbers as they are. No height, width or batch stands in a graph.
"""

import torch
from onnxscript import FLOAT, graph, ir, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

from contrast_arch.ops.ss2d.reference import DIRECTIONS

STATE, LINE = FLOAT[None, None, None, None], FLOAT[None, None, None]


def _ints(*values):
    return op.Constant(value_ints=list(values))


def _at(tensor, k):
    """Slice ``k`` of the first axis."""
    return op.Gather(tensor, op.Constant(value_int=k), axis=0)


def _last(tensor, start, stop):
    """A range of the last axis."""
    return op.Slice(tensor, _ints(start), _ints(stop), _ints(-1))


def _scan(backward):
    """A function (decay, added) -> states of h_t = decay_t h_{t-1} + added_t, all (steps, B, lines, N, D).

    The lines follow one another. All of them at once are scanned from a state of zero, with the product of the decays;
    then, line by line, the states that enter them; h + product * entering is exact.

    Args:
        backward: 1 to begin with the last step of the last line, else 0.
    """

    # A domain for each: functions of one name and domain are one.
    @script(Opset(f"contrast_arch.scan{backward}", 1), default_opset=op)
    def states(decay: FLOAT[...], added: FLOAT[...]) -> FLOAT[...]:
        @graph()
        def step(h_before: STATE, q_before: STATE, a: STATE, b: STATE):
            h = op.Add(op.Mul(a, h_before), b)
            q = op.Mul(a, q_before)
            h_all = op.Identity(h)
            q_all = op.Identity(q)
            return h, q, h_all, q_all

        @graph()
        def line(c: LINE, q: LINE, h: LINE):
            before = op.Identity(c)
            after = op.Add(op.Mul(q, c), h)
            return after, before

        zeros = op.Expand(op.Constant(value_float=0.0), op.Shape(decay, start=1))
        ones = op.Expand(op.Constant(value_float=1.0), op.Shape(decay, start=1))
        h_end, q_end, h, q = op.Scan(
            zeros,
            ones,
            decay,
            added,
            body=step,
            num_scan_inputs=2,
            scan_input_directions=[backward, backward],
            scan_output_directions=[backward, backward],
        )
        line_shape = op.Concat(op.Shape(decay, start=1, end=2), op.Shape(decay, start=3), axis=0)
        nothing = op.Expand(op.Constant(value_float=0.0), line_shape)
        _end, entering = op.Scan(
            nothing,
            q_end,
            h_end,
            body=line,
            num_scan_inputs=2,
            scan_input_axes=[1, 1],
            scan_output_axes=[1],
            scan_input_directions=[backward, backward],
            scan_output_directions=[backward],
        )
        return op.Add(h, op.Mul(q, entering))

    return states


_scan_forward, _scan_backward = _scan(0), _scan(1)


def _softplus(x):
    """max(x, 0) + log1p(exp(-|x|)); onnxruntime's own Softplus took a quarter of a network's time on the CPU."""
    one = op.Constant(value_float=1.0)
    e = op.Exp(op.Neg(op.Abs(x)))
    wide = op.Add(e, one)
    # The part that rounding to 1 + e lost: a small step keeps all its digits.
    lost = op.Sub(e, op.Sub(wide, one))
    return op.Add(op.Relu(x), op.Add(op.Log(wide), op.Div(lost, wide)))


def ss2d(x, p, dt_w, dt_b, A_logs, Ds, keep=False):
    """SS2D's core, see :func:`contrast_arch.ops.ss2d_scan`; float32 inside."""
    dtype, dim, rank, state = x.dtype, x.shape[3], dt_w.shape[2], A_logs.shape[1]
    if dtype != ir.DataType.FLOAT:
        x, p, dt_w, dt_b, A_logs, Ds = (op.Cast(t, to=ir.DataType.FLOAT) for t in (x, p, dt_w, dt_b, A_logs, Ds))
    # (K, R, D), (K, N, D) and (K, D): computed once, when a runtime loads the graph.
    dt_w = op.Transpose(dt_w, perm=[0, 2, 1])
    A = op.Transpose(op.Neg(op.Exp(op.Reshape(A_logs, _ints(DIRECTIONS, dim, state)))), perm=[0, 2, 1])
    Ds = op.Reshape(Ds, _ints(DIRECTIONS, dim))
    y = None
    # Rows one after the other for directions 0 and 2, columns for 1 and 3: (B, H, W) -> (steps, B, lines).
    for axis, there, back in ((0, [2, 0, 1], [1, 2, 0]), (1, [1, 0, 2], [1, 0, 2])):
        u = op.Transpose(x, perm=[*there, 3])
        projections = op.Transpose(p, perm=[3, *there, 4])
        total = op.Mul(u, op.Add(_at(Ds, axis), _at(Ds, axis + 2)))
        for k, scan in ((axis, _scan_forward), (axis + 2, _scan_backward)):
            own = _at(projections, k)
            dt = _softplus(op.Add(op.MatMul(_last(own, 0, rank), _at(dt_w, k)), _at(dt_b, k)))
            B = op.Unsqueeze(_last(own, rank, rank + state), _ints(-1))
            C = op.Unsqueeze(_last(own, rank + state, rank + 2 * state), _ints(-1))
            decay = op.Exp(op.Mul(op.Unsqueeze(dt, _ints(-2)), _at(A, k)))
            states = scan(decay, op.Mul(op.Unsqueeze(op.Mul(dt, u), _ints(-2)), B))
            total = op.Add(total, op.ReduceSum(op.Mul(states, C), _ints(-2), keepdims=0))
        total = op.Transpose(total, perm=[*back, 3])
        y = total if y is None else op.Add(y, total)
    return (y if dtype == ir.DataType.FLOAT else op.Cast(y, to=dtype)), x


def remainder(x, divisor):
    """x % divisor of whole numbers, whose divisor is computed from the size of the image."""
    return op.Mod(x, op.CastLike(divisor, x))


TRANSLATIONS = {torch.ops.contrast_arch.ss2d_torch.default: ss2d, torch.ops.aten.remainder.Scalar: remainder}
