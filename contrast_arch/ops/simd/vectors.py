"""Vectors of thirty-two float32 numbers for numba, so that kernels do not depend on automatic vectorization.

LLVM maps a vector to two AVX-512 registers, four of AVX, eight of SSE or NEON. ``+ - * /`` work between vectors, and
between a vector and a number, which goes to every lane. A product and a sum may be contracted into one instruction. The
sign of a zero is not kept; NaN and infinities are.

Indices are not checked, and a negative one does not count from the end.
"""

import operator

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, models, overload, register_model

from contrast_arch.ops.simd import LANES, OPTIONS

_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_BITS = ir.VectorType(ir.IntType(32), LANES)
_FLAGS = ("contract", "nsz")
_SIGN = -(2**31)
_ONE = 127 << 23  # the bits of 1.0

helper = njit(**OPTIONS)


class Vector(types.Type):
    """Type of thirty-two float32 numbers."""


vector = Vector("vector of 32 float32")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _FLOATS)


def _operation(result, emit):
    """Make a function for kernels.

    Args:
        result: its type.
        emit: takes LLVM's builder and the arguments' values, of an array the address; gives the result's value.
    """

    def define(*kinds):
        def generate(context, builder, signature, args):
            found = emit(builder, *(_lowered(context, builder, *each) for each in zip(args, kinds, strict=True)))
            return context.get_dummy_value() if result is types.void else found

        return result(*kinds), generate

    # numba asks for the number of arguments.
    arities = [lambda typing, a: define(a), lambda typing, a, b: define(a, b), lambda typing, a, b, c: define(a, b, c)]
    return intrinsic(arities[emit.__code__.co_argcount - 2])


def _lowered(context, builder, value, kind):
    if isinstance(kind, types.Array):
        return context.make_array(kind)(context, builder, value).data
    if kind is vector:
        return value
    return context.cast(builder, value, kind, types.intp if isinstance(kind, types.Integer) else types.float32)


def _all_lanes(number):
    return ir.Constant(_BITS, [number] * LANES)


def _spread(builder, value):
    """A number in every lane; a vector as it is."""
    if value.type == _FLOATS:
        return value
    first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, ir.Constant(_FLOATS, ir.Undefined), _all_lanes(0))


def _overload(symbol, method):
    def emit(builder, a, b):
        return getattr(builder, method)(_spread(builder, a), _spread(builder, b), flags=_FLAGS)

    function = _operation(vector, emit)

    @overload(symbol)
    def choose(a, b):
        if vector in (a, b) and all(kind is vector or isinstance(kind, types.Float) for kind in (a, b)):
            return lambda a, b: function(a, b)


for _symbol, _method in (("add", "fadd"), ("sub", "fsub"), ("mul", "fmul"), ("truediv", "fdiv")):
    _overload(getattr(operator, _symbol), _method)


def _larger(builder, a, b):
    a, b = _spread(builder, a), _spread(builder, b)
    return builder.select(builder.fcmp_ordered("<", a, b), b, a)


def _minus_abs(builder, a):
    return builder.bitcast(builder.or_(builder.bitcast(a, _BITS), _all_lanes(_SIGN)), _FLOATS)


def _power_of_two(builder, a):
    exponent = builder.shl(builder.bitcast(a, _BITS), _all_lanes(23))
    return builder.bitcast(builder.add(exponent, _all_lanes(_ONE)), _FLOATS)


def _where_negative(builder, a, negative, other):
    return builder.select(builder.fcmp_ordered("<", a, ir.Constant(_FLOATS, [0.0] * LANES)), negative, other)


def _fold(combine):
    """Combine the lanes of a vector in halves, into one number."""

    def emit(builder, value):
        lanes = LANES
        while lanes > 1:
            lanes //= 2
            kind = ir.VectorType(ir.IntType(32), lanes)
            low, high = (
                builder.shuffle_vector(value, value, ir.Constant(kind, list(range(first, first + lanes))))
                for first in (0, lanes)
            )
            value = combine(builder, low, high)
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return _operation(types.float32, emit)


def _vector_at(builder, array, index):
    return builder.bitcast(builder.gep(array, [index]), _FLOATS.as_pointer())


def _load(builder, array, index):
    value = builder.load(_vector_at(builder, array, index))
    value.align = 4
    return value


def _store(builder, array, index, value):
    builder.store(value, _vector_at(builder, array, index)).align = 4


# at_least(a, b): the larger of the two; a where it is NaN.
at_least = _operation(vector, _larger)
# -|a|.
minus_abs = _operation(vector, _minus_abs)
# 2 to the integer that stands in the lowest bits of a; any number where a is NaN.
power_of_two = _operation(vector, _power_of_two)
# where_negative(a, negative, other): ``negative`` in the lanes where a < 0, ``other`` elsewhere.
where_negative = _operation(vector, _where_negative)
# Of all lanes.
total = _fold(lambda builder, a, b: builder.fadd(a, b))
largest = _fold(lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), b, a))
# load(array, index), store(array, index, value): thirty-two numbers from ``index`` on; get and put: a single number;
# spread(array, index): a single number in every lane.
load, store = _operation(vector, _load), _operation(types.void, _store)
get = _operation(types.float32, lambda builder, array, index: builder.load(builder.gep(array, [index])))
put = _operation(types.void, lambda builder, array, index, value: builder.store(value, builder.gep(array, [index])))
spread = _operation(vector, lambda builder, array, index: _spread(builder, builder.load(builder.gep(array, [index]))))


@helper
def exp(x):
    """For -87 <= x <= 0 relative error 2e-7 near 0 and 4e-6 at the far end; below, about 1e-38."""
    x = at_least(x, -87.0)
    shifted = x * 1.442695 + 12582912.0  # 1.5 * 2^23: the nearest integer comes to stand in the lowest bits
    r = x * 1.442695 - (shifted - 12582912.0)
    # 2^r for |r| <= 1/2, minimax of the relative error (2e-9), in pairs: the chain of operations is what takes time.
    square = r * r
    low = (r * 0.055503286 + 0.24022646) * square + (r * 0.6931472 + 1.0)
    high = (square * 0.00015345811 + (r * 0.00133999309 + 0.009618489)) * (square * square)
    # A product, not bits added to bits: NaN has to stay NaN.
    return (low + high) * power_of_two(shifted)


@helper
def _log1p(s):
    """log(1 + z) for s = z / (z + 2), 0 <= z <= 1: twice the inverse hyperbolic tangent of s."""
    # 2 artanh(s) / s in s^2 up to 1/9, minimax of the relative error (4e-9).
    q = s * s
    low = q * 0.66666317 + 2.0
    high = (q * 0.28178334 + 0.27960601) * q + 0.4002491
    return (high * (q * q) + low) * s


@helper
def softplus(x):
    """log(1 + exp(x)), without cancellation on either side."""
    z = exp(minus_abs(x))
    return at_least(x, 0.0) + _log1p(z / (z + 2.0))


@helper
def softplus_and_sigmoid(x):
    """Softplus and its derivative, one division for both."""
    z = exp(minus_abs(x))
    inverse = 1.0 / ((z + 1.0) * (z + 2.0))
    upper = (z + 2.0) * inverse
    return at_least(x, 0.0) + _log1p(z * (z + 1.0) * inverse), where_negative(x, z * upper, upper)


@helper
def clear(array, start, count):
    for i in range(count):
        put(array, start + i, 0.0)


@helper
def copy(target, at, source, start, count):
    """Nothing behind the end is touched: the last vector reaches back into the one before it."""
    for i in range(0, count - LANES + 1, LANES):
        store(target, at + i, load(source, start + i))
    if count < LANES:
        for i in range(count):
            put(target, at + i, get(source, start + i))
    elif count % LANES:
        store(target, at + count - LANES, load(source, start + count - LANES))


@helper
def accumulate(array, index, value):
    store(array, index, load(array, index) + value)
