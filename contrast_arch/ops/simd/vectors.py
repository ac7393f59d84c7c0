"""Thirty-two float32 numbers as one value of numba's: kernels say what is to be a vector instead of hoping for it.

LLVM makes of it whatever the processor has: two AVX-512 registers, four of AVX, eight of SSE or NEON. ``+ - * /`` work
between vectors, and between a vector and a number, which goes to every lane. A product and a sum may be contracted into
one instruction and the sign of a zero is not kept; NaN and infinities are.

Memory is read and written past numba's arrays: nothing checks an index, and a negative one does not count from the end.
"""

import operator

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

from contrast_arch.ops.simd.threads import LANES

_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_BITS = ir.VectorType(ir.IntType(32), LANES)
_FLAGS = ("contract", "nsz")
_SIGN = -(2**31)
_ONE = 127 << 23  # the bits of 1.0


class Vector(types.Type):
    """Type of thirty-two float32 numbers."""

    def __init__(self):
        super().__init__("vector of 32 float32")


vector = Vector()


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _FLOATS)


def _all_lanes(number):
    return ir.Constant(_BITS, [number] * LANES)


def _spread(builder, value):
    first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, ir.Constant(_FLOATS, ir.Undefined), _all_lanes(0))


def _binary(emit):
    """A function of two vectors, or of a vector and a number."""

    @intrinsic
    def function(typing, a, b):
        def generate(context, builder, signature, args):
            both = (
                value if kind is vector else _spread(builder, context.cast(builder, value, kind, types.float32))
                for value, kind in zip(args, signature.args, strict=True)
            )
            return emit(builder, *both)

        return vector(a, b), generate

    return function


def _overload(symbol, emit):
    function = _binary(emit)

    @overload(symbol)
    def choose(a, b):
        kinds = (a, b)
        if vector in kinds and all(kind is vector or isinstance(kind, types.Float) for kind in kinds):
            return lambda a, b: function(a, b)


_overload(operator.add, lambda builder, a, b: builder.fadd(a, b, flags=_FLAGS))
_overload(operator.sub, lambda builder, a, b: builder.fsub(a, b, flags=_FLAGS))
_overload(operator.mul, lambda builder, a, b: builder.fmul(a, b, flags=_FLAGS))
_overload(operator.truediv, lambda builder, a, b: builder.fdiv(a, b, flags=_FLAGS))


def _larger(builder, a, b):
    return builder.select(builder.fcmp_ordered("<", a, b), b, a)


# at_least(a, b): the larger of the two; a where it is NaN.
at_least = _binary(_larger)


@intrinsic
def minus_abs(typing, a):
    """-|a|."""

    def generate(context, builder, signature, args):
        return builder.bitcast(builder.or_(builder.bitcast(args[0], _BITS), _all_lanes(_SIGN)), _FLOATS)

    return vector(vector), generate


@intrinsic
def power_of_two(typing, a):
    """2 to the integer that stands in the lowest bits of a; any number where a is NaN."""

    def generate(context, builder, signature, args):
        exponent = builder.shl(builder.bitcast(args[0], _BITS), _all_lanes(23))
        return builder.bitcast(builder.add(exponent, _all_lanes(_ONE)), _FLOATS)

    return vector(vector), generate


@intrinsic
def where_negative(typing, a, negative, other):
    """``negative`` in the lanes where a < 0, ``other`` elsewhere."""

    def generate(context, builder, signature, args):
        zero = ir.Constant(_FLOATS, [0.0] * LANES)
        return builder.select(builder.fcmp_ordered("<", args[0], zero), args[1], args[2])

    return vector(vector, vector, vector), generate


def _fold(combine):
    """A function of a vector that combines its lanes in halves, into one number."""

    @intrinsic
    def function(typing, a):
        def generate(context, builder, signature, args):
            value, lanes = args[0], LANES
            while lanes > 1:
                lanes //= 2
                kind = ir.VectorType(ir.IntType(32), lanes)
                low, high = (
                    builder.shuffle_vector(value, value, ir.Constant(kind, list(range(first, first + lanes))))
                    for first in (0, lanes)
                )
                value = combine(builder, low, high)
            return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

        return types.float32(vector), generate

    return function


total = _fold(lambda builder, a, b: builder.fadd(a, b))
largest = _fold(_larger)


def _address(context, builder, signature, args):
    array = context.make_array(signature.args[0])(context, builder, args[0])
    return builder.gep(array.data, [context.cast(builder, args[1], signature.args[1], types.intp)])


def _vector_address(context, builder, signature, args):
    return builder.bitcast(_address(context, builder, signature, args), _FLOATS.as_pointer())


@intrinsic
def load(typing, array, index):
    """Thirty-two numbers from ``index`` on."""

    def generate(context, builder, signature, args):
        value = builder.load(_vector_address(context, builder, signature, args))
        value.align = 4
        return value

    return vector(array, index), generate


@intrinsic
def store(typing, array, index, value):
    """Write thirty-two numbers from ``index`` on."""

    def generate(context, builder, signature, args):
        builder.store(args[2], _vector_address(context, builder, signature, args)).align = 4
        return context.get_dummy_value()

    return types.void(array, index, vector), generate


@intrinsic
def spread(typing, array, index):
    """The number at ``index``, in every lane."""

    def generate(context, builder, signature, args):
        return _spread(builder, builder.load(_address(context, builder, signature, args)))

    return vector(array, index), generate


@intrinsic
def get(typing, array, index):
    """The number at ``index``."""

    def generate(context, builder, signature, args):
        return builder.load(_address(context, builder, signature, args))

    return types.float32(array, index), generate


@intrinsic
def put(typing, array, index, value):
    """Write the number at ``index``."""

    def generate(context, builder, signature, args):
        number = context.cast(builder, args[2], signature.args[2], types.float32)
        builder.store(number, _address(context, builder, signature, args))
        return context.get_dummy_value()

    return types.void(array, index, value), generate
