"""One value of a recipe: a radius from its text, a TOML value as the type of its field, a word that nobody knows."""

import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, get_args, get_origin


def parse_eps(value: float | str, name: str = "eps") -> float:
    """A radius in raw pixel units, 0 < eps < 1, from a number of any library or a text such as "0.3" or "8/255".

    Raises:
        ValueError: naming `name` and the value where it is no number or lies outside (0, 1).
    """
    eps = number(value, name)
    if not 0.0 < eps < 1.0:
        raise ValueError(f"{name} is {value!r}, expected a radius in pixel units with 0 < {name} < 1")
    return eps


def number(value: object, name: str) -> float:
    """A number of any library, or that of a text such as "8/255"; ValueError naming `name` for anything else."""
    plain = without_dimension(value)
    try:
        if isinstance(plain, str):
            top, slash, bottom = plain.partition("/")
            if "_" not in plain and "-" not in bottom:
                return float(top) / float(bottom) if slash else float(top)
        if not isinstance(plain, bool) and isinstance(plain, Real):
            return float(plain)
    except (ValueError, ZeroDivisionError, OverflowError):
        pass
    raise ValueError(f'{name} is {value!r}, expected a number or a fraction such as "8/255"')


def typed(name: str, value: Any, hint: Any) -> Any:
    """`value` as the type of its field: real numbers become floats, integers of NumPy or torch plain ones and lists
    tuples, and "none" is None where a field may be.

    Raises ValueError, TypeError: naming `name`, the value and what was expected.
    """
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{name} is {value!r}, expected one of {', '.join(get_args(hint))}")
        return value
    if get_origin(hint) is UnionType:
        return None if is_none(value) else typed(name, value, get_args(hint)[0])
    if get_origin(hint) is tuple:
        return _typed_tuple(name, value, get_args(hint))
    if hint in (int, float):
        value = without_dimension(value)
    if hint is float and not isinstance(value, bool) and isinstance(value, Real):
        converted = nearest_float(value)
        if not math.isfinite(converted):
            raise ValueError(f"{name} is {value!r}, expected a finite number")
        return converted
    if hint is int and not isinstance(value, bool) and isinstance(value, Integral):
        whole = int(value)
        if abs(whole) >= 2**63:
            raise ValueError(f"{name} is {value!r}, expected a whole number between -2^63 and 2^63")
        return whole
    # bool is a subclass of int, and `epochs = true` is a mistake
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise TypeError(f"{name} is {value!r}, expected {hint.__name__}")
    return value


def without_dimension(value: Any) -> Any:
    """The entry of an array or a tensor without a dimension, as a plain object; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def is_none(value: object) -> bool:
    """Whether a value is None, or the word for it: TOML and the command line have no other."""
    return value is None or (isinstance(value, str) and value.lower() == "none")


def nearest_float(value: Real | float) -> float:
    """The float nearest to a number, infinity where it is larger than all of them."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _typed_tuple(name: str, value: Any, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    size = None if kinds[-1] is Ellipsis else len(kinds)
    if not isinstance(value, (list, tuple)) or (size is not None and len(value) != size):
        raise TypeError(f"{name} is {value!r}, expected a list of {size or 'one or more'} numbers")
    return tuple(typed(f"{name}[{i}]", entry, kinds[0]) for i, entry in enumerate(value))


def refuse_unknown(given: Iterable[str], known: Iterable[str], kind: str, expected: str | None = None) -> None:
    """Raises ValueError for the first word that is not known, with the nearest one that is, or with what is expected:
    one of them where nothing else is said."""
    known = list(known)
    for word in given:
        if word not in known:
            lower = {each.lower(): each for each in known}
            close = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.5) if isinstance(word, str) else []
            hint = (
                f"did you mean {lower[close[0]]!r}?"
                if close
                else f"expected {expected or 'one of ' + ', '.join(known)}"
            )
            raise ValueError(f"unknown {kind} {word!r}, {hint}")
