"""What masks and functions refuse: keys, arrays, rates, flags, axes and numbers.

Each message says what was expected, what came and what to write instead. Checks take the place of
the argument: they return it in the form that the rest of the code relies on.
"""

import functools
import math
import numbers
import operator
import reprlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdrop.masks._keys import is_legacy, is_typed
from jaxdrop.masks._rate import Rate

_KEY_REMEDY = "write jax.random.key(0), or take a fresh one from jax.random.split(key)"
_ORDER = "the key comes first, then the array, then the rate: dropout(key, x, 0.5)"

Shape = tuple[int, ...]

# Keys.


def check_key(key: Any, name: str = "key") -> None:
    """Raises unless ``key`` is a single PRNG key, typed or legacy."""
    dtype = getattr(key, "dtype", None)
    if dtype is None or not hasattr(key, "ndim"):
        order = "" if key is None or isinstance(key, int) else f"; {_ORDER}"
        raise TypeError(
            f"{name}: expected one PRNG key, got {reprlib.repr(key)} of type "
            f"{type(key).__name__}; {_KEY_REMEDY}{order}"
        )
    if is_typed(key):
        batch = key.shape
    elif is_legacy(key):
        batch = key.shape[:-1]
    else:
        raise TypeError(
            f"{name}: expected one PRNG key, got an array of dtype {dtype} and shape {key.shape}; "
            f"{_KEY_REMEDY}; {_ORDER}"
        )
    if batch:
        raise ValueError(
            f"{name}: expected one PRNG key, got a batch of shape {batch}; "
            "map over it with jax.vmap, or pass a single one such as keys[0]"
        )


def refuse_key(value: Any, name: str, expected: str, *, legacy: bool = True) -> None:
    """Raises for a PRNG key where something else is expected: arguments in another order.

    Args:
        value: the argument.
        name: of the argument.
        expected: what the argument should be.
        legacy: whether uint32 words of the shape of a legacy key can only be a key.
    """
    if hasattr(value, "dtype") and (is_typed(value) or (legacy and is_legacy(value))):
        raise TypeError(f"{name}: expected {expected}, got a PRNG key; {_ORDER}")


def refuse_keys(**following: Any) -> None:
    """`refuse_key` of several arguments, by name, before any of them is looked at otherwise."""
    for name, value in following.items():
        refuse_key(value, name, "what follows the key")


def order_hint(rank: int) -> str:
    """What to add to the refusal of an array of this rank: without axes it may be the rate."""
    return "" if rank else f"; {_ORDER}"


# Arrays.


def check_array(x: Any, name: str = "x") -> jax.Array:
    """``x`` as a jax array, refused if its dtype is not floating or complex, or lacks 0."""
    array = as_array(x, name, "a floating or complex array", legacy=True)
    if not is_droppable(array.dtype):
        lacks = " of a dtype that holds 0" if jnp.issubdtype(array.dtype, jnp.inexact) else ""
        raise TypeError(
            f"{name}: expected a floating or complex array{lacks}, got dtype "
            f"{getattr(x, 'dtype', array.dtype)}; "
            f"cast it first, for example {name}.astype(jnp.float32)"
        )
    return array


def as_array(x: Any, name: str, expected: str = "an array", *, legacy: bool = False) -> jax.Array:
    """``x`` as the jax array that JAX makes of it: float64 is float32 there unless x64 is on.

    Args:
        x: the argument.
        name: of the argument.
        expected: what the argument should be.
        legacy: as in `refuse_key`.
    """
    refuse_key(x, name, expected, legacy=legacy)
    if isinstance(x, jax.Array):
        return x
    try:
        return jnp.asarray(x)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(
            f"{name}: expected an array, got {type(x).__name__}; give numbers of one shape and "
            "dtype, and map over a pytree with jax.tree.map"
        ) from None


def refuse_complex(x: Any, dtype: Any, name: str, expected: str) -> Any:
    """``x``, refused if it is complex where a cast to ``dtype`` would lose the imaginary part."""
    if jnp.iscomplexobj(x) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(
            f"{name}: expected {expected} for x of dtype {dtype}, got dtype {x.dtype}; "
            f"cast x first, for example x.astype(jnp.{x.dtype})"
        )
    return x


@functools.cache  # an eager call asks each time
def is_droppable(dtype: Any) -> bool:
    """Whether elements of a dtype can become 0 and be rescaled: float8_e8m0fnu has powers of 2."""
    return bool(jnp.issubdtype(dtype, jnp.inexact) and not np.zeros((), dtype))


# Rates and flags.


def check_rate(
    rate: Any, shape: Shape | None = None, of: str = "mask", deterministic: Any = False
) -> Rate:
    """The `Rate` of two arguments of a call: 0 for ``deterministic=True``.

    Args:
        rate: the argument.
        shape: what an array of rates has to broadcast to; None if that is open.
        of: what has this shape.
        deterministic: the flag.

    Raises:
        TypeError: ``rate`` is a bool or not a real number, or ``deterministic`` is not a boolean.
        ValueError: a known ``rate`` lies outside [0, 1] or is NaN, or does not broadcast.
    """
    remedy = "a keep probability p is the rate 1 - p"
    meaning = "probabilities of dropping"
    value = check_real(rate, "rate", (0.0, 1.0), "[0, 1]", meaning, remedy, shape, of)
    off = check_flag(deterministic)
    if off is True:
        return Rate(None, None, 0.0)
    return Rate(None, off, value) if isinstance(value, float) else Rate(value, off, None)


def check_static_rate(rate: Any, decided: str, otherwise: str = "or pass float(rate)") -> float:
    """`check_rate` for a rate that decides a shape, which has to be known now.

    Args:
        rate: the argument.
        decided: what the rate decides, such as "the number of tokens that are kept".
        otherwise: the way out for a rate that is traced for good.

    Raises:
        TypeError: ``rate`` is traced, an array, or not a real number.
        ValueError: ``rate`` lies outside [0, 1] or is NaN.
    """
    refuse_key(rate, "rate", "a Python number")
    if not isinstance(rate, numbers.Real):
        raise TypeError(
            f"rate: expected a Python number, since {decided} is a shape, got {rate!r}; "
            f"mark it static for jax.jit, with static_argnames, {otherwise}"
        )
    return check_rate(rate).value


def check_flag(deterministic: Any) -> Any:
    """True or None for a flag of True or False that is known now, else a traced boolean scalar.

    None, because a flag of False is not an operand of a program.
    """
    if is_bool(deterministic):
        return True if deterministic else None
    if getattr(deterministic, "dtype", None) == np.bool_ and deterministic.shape == ():
        return deterministic
    raise TypeError(
        f"deterministic: expected True, False or a boolean scalar, got {deterministic!r}; "
        "write deterministic=False to drop, deterministic=True to switch dropout off"
    )


def draws(rate: Any, deterministic: Any) -> bool:
    """Whether a call needs a key, for a module whose rate the function checks later."""
    off = check_flag(deterministic)
    settled = isinstance(rate, numbers.Real) and rate in (0, 1)
    return not (off is True or (off is None and settled))


# Axes and shapes.


def check_axes(axes: Sequence[int], ndim: int, name: str) -> Shape:
    """Axes of an array of rank ``ndim`` as a tuple of numbers in [0, ndim), each named once."""
    try:
        indices = tuple(operator.index(axis) for axis in axes if not is_bool(axis))
    except TypeError:
        indices = None
    if indices is None or len(indices) < len(axes):
        raise TypeError(
            f"{name}: expected axes as integers, got {axes!r}; write for example {name}=(1, 2)"
        )
    for axis in indices:
        if not -ndim <= axis < ndim:
            raise ValueError(
                f"{name}: expected an axis in [{-ndim}, {ndim}) for an array of rank {ndim}, "
                f"got {axis}; name an axis that x has{order_hint(ndim)}"
            )
    resolved = tuple(axis % ndim for axis in indices)
    if len(set(resolved)) < len(resolved):
        raise ValueError(
            f"{name}: expected each axis once, got {indices} for an array of rank {ndim}; "
            "remove the repeated one"
        )
    return resolved


def check_deciding_axes(x: jax.Array, axis: int, batch_axis: int | None, name: str) -> Shape:
    """Axes of ``x`` that decide each on its own: the named one, and that of examples if any."""
    if batch_axis is None:
        return check_axes((axis,), x.ndim, name)
    return check_axes((batch_axis, axis), x.ndim, f"(batch_axis, {name})")


def check_broadcast(values: Any, shape: Shape, name: str = "rate", of: str = "mask") -> None:
    """Raises unless an array, such as one of rates, broadcasts to a shape."""
    if not broadcasts(values.shape, shape):
        hint = order_hint(len(shape)) if of in ("mask", "noise") else ""
        raise ValueError(
            f"{name}: expected a scalar or a shape that broadcasts to the {of}'s {shape}, "
            f"got {values.shape}; elements that share a decision share its {name}{hint}"
        )


def broadcasts(shape: Shape, target: Shape) -> bool:
    """Whether an array of ``shape`` broadcasts to the shape ``target``, which may be symbolic."""
    aligned = target[len(target) - len(shape) :] if len(shape) <= len(target) else ()
    return len(aligned) == len(shape) and all(a in (1, b) for a, b in zip(shape, aligned))


# Numbers.


def check_count(value: Any, name: str, example: Any, expected: str = "an integer") -> int:
    """A number of things as a Python integer of at least 1."""
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name}: expected {expected}, got {value!r}; write for example {name}={example}"
        ) from None
    if is_bool(value) or count < 1:
        raise ValueError(
            f"{name}: expected at least 1, got {value}; write for example {name}={example}"
        )
    return count


def check_real(
    value: Any,
    name: str,
    ends: tuple[Any, Any],
    interval: str,
    meaning: str,
    remedy: str,
    shape: Shape | None = None,
    of: str = "mask",
) -> Any:
    """A real number as a Python float if it is known and not an array, else an array of them.

    Args:
        value: the argument.
        name: of the argument.
        ends: the smallest and the largest number that is taken.
        interval: how the message writes ``ends``.
        meaning: what the numbers are.
        remedy: what to write instead of a number outside.
        shape: what an array has to broadcast to; None if that is open.
        of: what has this shape.
    """
    expected = f"a real number in {interval} or an array of them"
    refuse_key(value, name, expected)
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        value = _as_float(value)
        inside = ends[0] <= value <= ends[1]  # false for NaN too
    else:
        dtype = getattr(value, "dtype", None)
        if dtype is None or not (
            jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
        ):
            several = isinstance(value, list | tuple)
            example = f"{name}=jnp.array({name})" if several else f"for example {name}=0.1"
            raise TypeError(
                f"{name}: expected {expected}, got {reprlib.repr(value)}; write {example}"
            )
        if shape is not None:
            check_broadcast(value, shape, name, of)
        if isinstance(value, Tracer):
            return value
        known = np.asarray(value, np.float64)
        # A scalar of NumPy is a constant, like a Python number; one of JAX may change every call.
        value = value if known.ndim or isinstance(value, jax.Array) else float(known)
        inside = ((known >= ends[0]) & (known <= ends[1])).all()
    if not inside:
        raise ValueError(f"{name}: expected {meaning}, in {interval}, got {value}; {remedy}")
    return value


def check_finite(
    value: Any, name: str, meaning: str, remedy: str, shape: Shape | None = None, of: str = "layer"
) -> Any:
    """`check_real` for a quantity that may be any finite number."""
    ends = np.finfo(np.float64)
    interval = "(-inf, inf)"
    return check_real(value, name, (ends.min, ends.max), interval, meaning, remedy, shape, of)


def is_bool(value: Any) -> bool:
    """Whether a value is a boolean, which Python counts as the integer 0 or 1."""
    return isinstance(value, bool | np.bool_)


def _as_float(value: Any) -> float:
    """A real number as a float, and an infinite one if it is too large."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
