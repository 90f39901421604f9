"""From a rate to an integer drop threshold, and from that to the exact keep probability.

A mask bit is set when a uniform 32-bit integer lies below the threshold, so the threshold over
2**32 is the probability that the bits really have. It is rounded to few significant bits,
because every one of them costs random words: 16 bits, and up to 24 for rates near 0 or 1, where 16
would leave a relative error above 1 %. With 24, float32 holds every keep probability exactly.
"""

import math
import numbers
import reprlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdrop.masks import _keys


def check_rate(rate, shape=None, of="mask"):
    """Returns a Python float for a rate known now and one for all entries, else an array.

    Args:
        rate: what was given.
        shape: what an array of rates has to broadcast to; None if that is open.
        of: what has this shape.

    Raises:
        TypeError: ``rate`` is a bool, or no real number.
        ValueError: a known ``rate`` lies outside [0, 1] or is NaN, or does not broadcast.
    """
    remedy = "a keep probability p is the rate 1 - p"
    meaning = "probabilities of dropping"
    return check_real(rate, "rate", (0.0, 1.0), "[0, 1]", meaning, remedy, shape, of)


def check_static_rate(rate, decided, otherwise="or pass float(rate)") -> float:
    """`check_rate` for a rate that decides a shape, which has to be known now.

    Args:
        rate: what was given.
        decided: what the rate decides, such as "the number of tokens that are kept".
        otherwise: the way out for a rate that is traced for good.

    Raises:
        TypeError: ``rate`` is traced, an array, or no real number.
        ValueError: ``rate`` lies outside [0, 1] or is NaN.
    """
    _keys.refuse_key(rate, "rate", "a Python number")
    if not isinstance(rate, numbers.Real):
        raise TypeError(
            f"rate: expected a Python number, since {decided} is a shape, got {rate!r}; "
            f"mark it static for jax.jit, with static_argnames, {otherwise}"
        )
    return float(check_rate(rate))


def check_real(value, name, ends, interval, meaning, remedy, shape=None, of="mask"):
    """`check_rate` for another quantity, which lies between both ``ends``, in ``interval``."""
    expected = f"a real number in {interval} or an array of them"
    _keys.refuse_key(value, name, expected)
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        value = _as_float(value)
        known = np.float64(value)
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
        value = value if known.ndim or isinstance(value, jax.Array) else float(known)
    if not np.all((known >= ends[0]) & (known <= ends[1])):  # false for NaN too
        raise ValueError(f"{name}: expected {meaning}, in {interval}, got {value}; {remedy}")
    return value


def check_finite(value, name, meaning, remedy, shape=None, of="layer"):
    """`check_real` for a quantity that may be any finite number."""
    ends = np.finfo(np.float64)
    interval = "(-inf, inf)"
    return check_real(value, name, (ends.min, ends.max), interval, meaning, remedy, shape, of)


def _as_float(value):
    """A real number as a float, and an infinite one if it is too large."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def check_broadcast(values, shape, name="rate", of="mask"):
    """Raises unless an array, such as one of rates, broadcasts to a shape."""
    if not broadcasts(values.shape, shape):
        hint = _keys.order_hint(len(shape)) if of in ("mask", "noise") else ""
        raise ValueError(
            f"{name}: expected a scalar or a shape that broadcasts to the {of}'s {shape}, "
            f"got {values.shape}; entries that share a decision share its {name}{hint}"
        )


def broadcasts(shape, target):
    """Whether an array of ``shape`` broadcasts to the shape ``target``, which may be symbolic."""
    aligned = target[len(target) - len(shape) :] if len(shape) <= len(target) else ()
    return len(aligned) == len(shape) and all(a in (1, b) for a, b in zip(shape, aligned))


def threshold(rate, xp=jnp, least_bits=16):
    """Drop threshold of ``rate``: ``(uint32 threshold, bool everything)``, shaped like ``rate``.

    The decision is taken in float32 and integers alone, so that NumPy (``xp=np``, at trace time)
    and XLA agree to the bit. ``everything`` stands for the threshold 2**32, which no uint32 holds.
    Rounded to a step of 2**-m with m = 7 - floor(log2(min(rate, 1 - rate))), but
    least_bits <= m <= 24.
    """
    rate = xp.asarray(rate, xp.float32)
    least = xp.minimum(rate, np.float32(1) - rate)
    bits = np.int32(least_bits)
    for more in range(least_bits + 1, 25):
        bits = bits + (least < np.float32(2.0 ** (8 - more))).astype(np.int32)
    steps = xp.round(rate * (np.int32(1) << bits).astype(np.float32))
    inside = (rate > np.float32(0)) & (rate < np.float32(1))
    steps = xp.where(inside, steps, np.float32(0))
    everything = rate == np.float32(1)
    return steps.astype(xp.uint32) << (np.int32(32) - bits).astype(xp.uint32), everything


def keep_probability(rate, xp=jnp, least_bits=16):
    """Probability in float32 that an entry of a mask drawn at ``rate`` survives.

    A rate outside [0, 1], which can only be a traced one here, gives NaN.
    """
    dropped, everything = threshold(rate, xp, least_bits)
    kept = ((~dropped).astype(xp.float32) + np.float32(1)) * np.float32(2**-32)
    kept = xp.where(everything, np.float32(0), kept)
    rate = xp.asarray(rate, xp.float32)
    valid = (rate >= np.float32(0)) & (rate <= np.float32(1))
    return xp.where(valid, kept, np.float32(np.nan))
