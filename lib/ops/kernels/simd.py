"""Sixteen float32 lanes as one value in Numba code: one AVX-512 register, two of AVX2, four of NEON.

Numba vectorises loops, but keeps no vector in a register from one loop to the next, which a register tile needs. Here
each operation is the LLVM instruction of its name on <16 x float>; memory is a flat array and an offset into it.
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

from lib.ops.cpu_shapes import WIDTH

_LINE = 64  # bytes of a cache that move together

_INT = ir.IntType(32)
_FLOATS, _INTS = ir.VectorType(ir.FloatType(), WIDTH), ir.VectorType(_INT, WIDTH)
_BITS = ir.IntType(WIDTH)
_UNDEFINED = ir.Constant(_FLOATS, ir.Undefined)

# The step from one float32 exponent to the next, and the bits of sqrt(1/2): a mantissa in [sqrt(1/2), sqrt(2)).
_MANTISSA_BITS, _SQRT_HALF = 23, 0x3F3504F3


def kernel(**options: Any) -> Any:
    """njit with the options all kernels share; no fast-math, so that NaN, ties and the order of sums stay exact."""

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            return njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:  # Numba's word for having nowhere to write, as in a read-only installation
            return njit(nogil=True, **options)(function)

    return compiled


class _Lanes(types.Type):  # type: ignore[misc]
    """Numba's type of sixteen lanes."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


LANES = _Lanes()


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


def _of_lanes(arity: int, emit: Callable[..., Any], result: Any = LANES) -> Any:
    """An operation on lanes alone: emit(builder, *values)."""
    signature = result(*[LANES] * arity)

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        return emit(builder, *values)

    # Numba reads the number of operands from the function that types it.
    typed = {
        1: lambda typing, a: (signature, generate),
        2: lambda typing, a, b: (signature, generate),
        3: lambda typing, a, b, c: (signature, generate),
        4: lambda typing, a, b, c, d: (signature, generate),
    }
    return intrinsic(typed[arity])


def _spread(builder: Any, scalar: Any) -> Any:
    first = builder.insert_element(_UNDEFINED, scalar, _INT(0))
    return _shuffled(builder, first, _UNDEFINED, [0] * WIDTH)


def _address(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    if not array_type.is_contig:
        raise TypeError(f"array must be contiguous, got {array_type}")
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [offset])


def _lanes_at(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    address = _address(context, builder, array_type, array, offset)
    return builder.bitcast(address, _FLOATS.as_pointer())


def _shuffled(builder: Any, x: Any, y: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(_INT, len(lanes)), lanes))


def _llvm(name: str, builder: Any, *values: Any) -> Any:
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * len(values))
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{WIDTH}f32"), values)


# -- memory -----------------------------------------------------------------------------------------------------------


@intrinsic
def splat(typing: Any, scalar: Any) -> Any:
    """The scalar in every lane."""
    return LANES(types.float32), lambda context, builder, _, values: _spread(builder, values[0])


@intrinsic
def splat_at(typing: Any, array: Any, offset: Any) -> Any:
    """array[offset] in every lane."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _spread(builder, builder.load(_address(context, builder, signature.args[0], *values)))

    return LANES(array, types.intp), generate


@intrinsic
def load(typing: Any, array: Any, offset: Any) -> Any:
    """array[offset : offset + WIDTH]."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(_lanes_at(context, builder, signature.args[0], *values), align=4)

    return LANES(array, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, offset: Any, lanes: Any) -> Any:
    """array[offset : offset + WIDTH] = lanes."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[2], _lanes_at(context, builder, signature.args[0], *values[:2]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, LANES), generate


@intrinsic
def transpose(
    typing: Any, array: Any, at: Any, stride: Any, last: Any, scale: Any, out: Any, to: Any, step: Any
) -> Any:
    """out[to + step k + j] = scale array[at + min(j, last) stride + k] for all j, k < WIDTH."""

    def generate(context: Any, b: Any, signature: Any, values: Any) -> Any:
        array, at, stride, last, scale, out, to, step = values
        number, factor, rows = ir.IntType(64), _spread(b, scale), []
        for j in map(number, range(WIDTH)):
            row = b.select(b.icmp_signed("<", j, last), j, last)
            lanes = b.load(_lanes_at(context, b, signature.args[0], array, b.add(at, b.mul(row, stride))), align=4)
            rows.append(b.fmul(lanes, factor))
        for k, column in enumerate(_columns(b, rows)):
            here = b.add(to, b.mul(step, number(k)))
            b.store(column, _lanes_at(context, b, signature.args[5], out, here), align=4)
        return context.get_dummy_value()

    offsets = [types.intp] * 2
    return types.void(array, *offsets, types.intp, types.float32, out, *offsets), generate


def _columns(b: Any, rows: list[Any]) -> list[Any]:
    """The columns of a square: its quarters change places, then the quarters of each quarter, and so on."""
    span = WIDTH
    while span > 1:
        span //= 2
        left = [lane + WIDTH - span if lane & span else lane for lane in range(WIDTH)]
        right = [lane + WIDTH if lane & span else lane + span for lane in range(WIDTH)]
        for i in range(WIDTH):
            if not i & span:
                pair = rows[i], rows[i + span]
                rows[i], rows[i + span] = _shuffled(b, *pair, left), _shuffled(b, *pair, right)
    return rows


@intrinsic
def offset_at(typing: Any, array: Any, offset: Any) -> Any:
    """array[offset], an int32 that is itself an offset; Numba's own indexing would ask whether either is negative."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        here = builder.load(_address(context, builder, signature.args[0], *values))
        return builder.sext(here, ir.IntType(64))

    return types.int64(array, types.intp), generate


# -- arithmetic -------------------------------------------------------------------------------------------------------


def _operator(symbol: Any, operation: Any) -> None:
    overload(symbol)(lambda x, y: (lambda x, y: operation(x, y)) if x is LANES else None)


_operator(operator.add, _of_lanes(2, lambda b, x, y: b.fadd(x, y)))
_operator(operator.sub, _of_lanes(2, lambda b, x, y: b.fsub(x, y)))
_operator(operator.mul, _of_lanes(2, lambda b, x, y: b.fmul(x, y)))
_operator(operator.truediv, _of_lanes(2, lambda b, x, y: b.fdiv(x, y)))


def _larger_size(b: Any, x: Any, y: Any) -> Any:
    x, y = b.bitcast(x, _INTS), b.bitcast(y, _INTS)
    return b.bitcast(b.select(b.icmp_signed(">", x, y), x, y), _FLOATS)


def _smaller_size(b: Any, x: Any, y: Any) -> Any:
    x, y = b.bitcast(x, _INTS), b.bitcast(y, _INTS)
    return b.bitcast(b.select(b.icmp_signed("<", x, y), x, y), _FLOATS)


def _lower_depth(b: Any, x: Any, y: Any) -> Any:
    x, y = b.bitcast(x, _INTS), b.bitcast(y, _INTS)
    return b.bitcast(b.select(b.icmp_unsigned(">", x, y), x, y), _FLOATS)


# x y + z with one rounding where the machine has the instruction.
multiply_add = _of_lanes(3, lambda b, *xyz: _llvm("fmuladd", b, *xyz))
size = _of_lanes(1, lambda b, x: _llvm("fabs", b, x))
square_root = _of_lanes(1, lambda b, x: _llvm("sqrt", b, x))
with_sign = _of_lanes(2, lambda b, x, y: _llvm("copysign", b, x, y))
larger = _of_lanes(2, lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y))
# Compared as integers, which more execution units can do: right for the larger and the smaller of x >= +0 and any y,
# and for the smaller of x <= -0 and any y. NaN without a sign is the largest of all, any other is not allowed.
larger_size = _of_lanes(2, _larger_size)
smaller_size = _of_lanes(2, _smaller_size)
lower_depth = _of_lanes(2, _lower_depth)
# u where x > y, v elsewhere.
where_greater = _of_lanes(4, lambda b, x, y, u, v: b.select(b.fcmp_ordered(">", x, y), u, v))


# -- across lanes -----------------------------------------------------------------------------------------------------


def _mask(b: Any, x: Any, y: Any) -> Any:
    return b.zext(b.bitcast(b.fcmp_ordered(">=", x, y), _BITS), ir.IntType(64))


def _reduce(b: Any, lanes: Any, combine: Callable[[Any, Any], Any]) -> Any:
    width = WIDTH
    while width > 1:
        width //= 2
        lanes = combine(*(_shuffled(b, lanes, lanes, list(range(i, i + width))) for i in (0, width)))
    return b.extract_element(lanes, _INT(0))


def _largest(b: Any, x: Any) -> Any:
    bits = _reduce(b, b.bitcast(x, _INTS), lambda u, v: b.select(b.icmp_signed(">", u, v), u, v))
    return b.bitcast(bits, ir.FloatType())


# Bit j is set where x_j >= y_j.
at_least = _of_lanes(2, _mask, types.int64)
total = _of_lanes(1, lambda b, x: _reduce(b, x, b.fadd), types.float32)
# Of lanes >= +0; compared like their bits, so NaN stays NaN.
largest = _of_lanes(1, _largest, types.float32)


@intrinsic
def first_bit(typing: Any, mask: Any) -> Any:
    """The lowest bit that is set; the mask is not 0."""
    return types.int64(types.int64), lambda context, b, _, values: b.cttz(values[0], ir.Constant(ir.IntType(1), 1))


# -- the bits of a float ----------------------------------------------------------------------------------------------


def _whole_steps(b: Any, x: Any) -> Any:
    above = b.sub(b.bitcast(x, _INTS), ir.Constant(_INTS, [_SQRT_HALF] * WIDTH))
    return b.ashr(above, ir.Constant(_INTS, [_MANTISSA_BITS] * WIDTH))


def _mantissa(b: Any, x: Any) -> Any:
    steps = b.shl(_whole_steps(b, x), ir.Constant(_INTS, [_MANTISSA_BITS] * WIDTH))
    return b.bitcast(b.sub(b.bitcast(x, _INTS), steps), _FLOATS)


def _shift_exponent(b: Any, x: Any, rounded: Any) -> Any:
    steps = b.shl(b.bitcast(rounded, _INTS), ir.Constant(_INTS, [_MANTISSA_BITS] * WIDTH))
    return b.bitcast(b.add(b.bitcast(x, _INTS), steps), _FLOATS)


# x = 2^exponent(x) mantissa(x), sqrt(1/2) <= mantissa < sqrt(2), for normal x > 0.
exponent = _of_lanes(1, lambda b, x: b.sitofp(_whole_steps(b, x), _FLOATS))
mantissa = _of_lanes(1, _mantissa)
# x 2^k, where k is the integer in the low bits of the float `rounded`.
shift_exponent = _of_lanes(2, _shift_exponent)


@kernel()
def aligned(count: int) -> Any:
    """So many float32, where a vector lies in one line of the cache."""
    numbers = np.empty(count + WIDTH, np.float32)
    skipped = -numbers.ctypes.data % _LINE // numbers.itemsize
    return numbers[skipped : skipped + count]


@kernel()
def zeros(count: int) -> Any:
    """The same, of zeros."""
    numbers = aligned(count)
    numbers[:] = np.float32(0)
    return numbers
