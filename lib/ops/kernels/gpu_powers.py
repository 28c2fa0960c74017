"""|r|^p, and sign(r) |r|^(p - 1), in a Triton kernel: three ways, of which the compiler sees the one that is taken."""

import triton
import triton.language as tl

NAN = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit
def _natural_power(r, exponent: tl.constexpr):
    """r^exponent for an exponent of 1 or more, by squaring."""
    if exponent == 1:
        result = r
    elif exponent % 2 == 0:
        result = _natural_power(r * r, exponent // 2)
    else:
        result = r * _natural_power(r * r, exponent // 2)
    return result


@triton.jit
def _log2(r):
    """log2 of 0 < r < inf, off by at most 2^-24 near r = 1, where the hardware's own is off by 2^-22."""
    bits = r.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) & -0x800000  # leaves a mantissa in [sqrt(1/2), sqrt(2))
    f = (bits - exponent).to(tl.float32, bitcast=True) - 1.0
    # log2(1 + f) / f, minimax
    q = -0.2089337706565857 + 0.1292642056941986 * f
    q = 0.21521227061748505 + q * f
    q = -0.23867568373680115 + q * f
    q = 0.2879391014575958 + q * f
    q = -0.3607162535190582 + q * f
    q = 0.4809102714061737 + q * f
    q = -0.7213472127914429 + q * f
    q = 1.4426950216293335 + q * f
    return q * f + exponent.to(tl.float32) * 1.1920928955078125e-07


@triton.jit
def _fitted_power(size, fit, squarings: tl.constexpr):
    """size^e for 0 <= size <= 1 by the fit of `powers.py`: c_n .. c_0, then the least size - 1 that is told apart.

    A smaller size counts as that one, 2^-64 beside 1; NaN stays NaN.
    """
    t = tl.maximum(size - 1.0, fit[-1], propagate_nan=NAN)
    value = fit[0] * t + fit[1]
    for i in tl.static_range(2, len(fit) - 1):
        value = value * t + fit[i]
    for _ in tl.static_range(squarings):
        value = value * value
    return value


@triton.jit
def power(r, p, fit, natural_p: tl.constexpr, squarings: tl.constexpr):
    """|r|^p: by squaring where natural_p is not 0, by a fit where squarings is not negative, else by exp2 and log2."""
    if natural_p != 0:
        result = _natural_power(r if natural_p % 2 == 0 else tl.abs(r), natural_p)
    elif squarings >= 0:
        result = _fitted_power(tl.abs(r), fit, squarings)
    else:
        result = tl.exp2(p * _log2(tl.abs(r)))
    return result


@triton.jit
def signed_power(r, p, fit, natural_p: tl.constexpr, squarings: tl.constexpr):
    """sign(r) |r|^(p - 1) with sign(0) = 0; NaN stays NaN. The fit is that of the exponent p - 2."""
    if natural_p == 1:
        result = tl.where(r > 0, 1.0, tl.where(r < 0, -1.0, r))
    elif natural_p > 0 and natural_p % 2 == 0:
        result = _natural_power(r, natural_p - 1)
    elif natural_p > 0:
        result = tl.abs(r) * _natural_power(r, natural_p - 2)
    elif squarings >= 0:
        result = r * _fitted_power(tl.abs(r), fit, squarings)
    else:
        size = tl.exp2((p - 1.0) * _log2(tl.abs(r)))
        result = tl.where(r > 0, size, tl.where(r < 0, -size, r))
    return result
