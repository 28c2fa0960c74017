"""Whole and real numbers among arguments, whatever library they come from: made plain, or refused by name."""

import math
from numbers import Real
from operator import index
from typing import Any

import numpy as np

from lib.recipes.values import nearest_float, without_dimension


def integer(name: str, value: Any, *, at_least: int) -> int:
    """A plain integer from one of Python, NumPy or torch; True and False are none.

    Raises:
        TypeError: no integer.
        ValueError: one below `at_least`, or from 2^63 on.
    """
    try:
        whole = None if isinstance(value, bool | np.bool_) else index(value)
    except TypeError:
        whole = None
    if whole is None:
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if whole < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {whole}")
    if whole >= 2**63:
        raise ValueError(f"{name} must be below 2^63, got {whole}")
    return whole


def real(name: str, value: Any) -> float:
    """A plain finite number from one of Python, NumPy or torch (of no dimension); texts and truth values are none.

    Raises:
        TypeError: no number.
        ValueError: one that is not finite, as a float.
    """
    plain = without_dimension(value)
    if isinstance(plain, bool) or not isinstance(plain, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = nearest_float(plain)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return number
