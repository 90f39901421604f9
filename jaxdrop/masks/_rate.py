"""From a rate to an integer drop threshold, and from that to the exact keep probability.

A mask bit is set when a uniform 32-bit integer lies below the threshold, so the threshold over
2**32 is the probability that the bits really have. It is rounded to few significant bits,
because every one of them costs random words: 16 bits, and up to 24 for rates near 0 or 1, where 16
would leave a relative error above 1 %. With 24, float32 holds every keep probability exactly.
"""

import dataclasses
import math
import numbers
import reprlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdrop.masks import _keys


class Odds(NamedTuple):
    """What a draw needs of a rate: NumPy values if the rate is known, else traced ones.

    Attributes:
        limit: uint32, shaped like the rate; a uniform 32-bit integer below it drops an element.
        everything: True if all elements drop: the limit is 2**32, which no uint32 holds.
        keep_prob: float32, the exact probability to survive; NaN for a rate outside [0, 1].
    """

    limit: Any
    everything: Any
    keep_prob: Any

    @property
    def known(self) -> bool:
        """Whether the values are known when the program is made."""
        return not isinstance(self.limit, jax.Array)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rate:
    """A rate that has been checked, with the flag that may switch it off.

    A pytree: a known rate is part of the structure, so one jitted function takes both kinds. A
    known rate compiles a program of its own, all traced ones share one.

    Attributes:
        traced: an array of rates that broadcasts to the mask, or None.
        off: a traced flag, which makes the rate 0 where it is true, or None.
        known: the rate as a Python float, or None if it is traced.
    """

    traced: jax.Array | None
    off: jax.Array | None
    known: float | None = dataclasses.field(metadata={"static": True})

    @property
    def settled(self) -> bool:
        """Whether every decision is known now: nothing is drawn and no key is needed."""
        return self.known in (0.0, 1.0) and self.off is None

    @property
    def value(self) -> Any:
        """The rate without the flag: a Python float or an array."""
        return self.traced if self.known is None else self.known

    @property
    def effective(self) -> Any:
        """The rate, and 0 where the flag is true: a Python float or an array."""
        if self.off is None:
            return self.value
        return jnp.where(self.off, jnp.float32(0), jnp.asarray(self.value, jnp.float32))

    def resolved(self) -> "Rate":
        """The rate without a flag, once and for all: for several draws at one rate."""
        return self if self.off is None else Rate(self.effective, None, None)


def check_rate(rate: Any, shape=None, of="mask", deterministic: Any = False) -> Rate:
    """The `Rate` of two arguments of a call: 0 for ``deterministic=True``.

    Args:
        rate: what was given.
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


def check_flag(deterministic) -> Any:
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


def draws(rate, deterministic) -> bool:
    """Whether a call needs a key, for a module whose rate the function checks later."""
    off = check_flag(deterministic)
    settled = isinstance(rate, numbers.Real) and rate in (0, 1)
    return not (off is True or (off is None and settled))


def is_bool(value) -> bool:
    """Whether a value is a boolean, which Python counts as the integer 0 or 1."""
    return isinstance(value, bool | np.bool_)


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
    return check_rate(rate).value


def check_real(value, name, ends, interval, meaning, remedy, shape=None, of="mask") -> Any:
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


def odds(rate, least_bits=16) -> Odds:
    """The `Odds` of a rate, a float or an array.

    The decision is taken in float32 and integers alone, so that NumPy, at trace time, and XLA
    agree to the bit. Rounded to a step of 2**-m with m = 7 - floor(log2(min(rate, 1 - rate))),
    but least_bits <= m <= 24.
    """
    xp = namespace(rate)
    rate = xp.asarray(rate, xp.float32)
    least = xp.minimum(rate, np.float32(1) - rate)
    bits = np.int32(least_bits)
    for more in range(least_bits + 1, 25):
        bits = bits + (least < np.float32(2.0 ** (8 - more))).astype(np.int32)
    steps = xp.round(rate * (np.int32(1) << bits).astype(np.float32))
    inside = (rate > np.float32(0)) & (rate < np.float32(1))
    steps = xp.where(inside, steps, np.float32(0))
    everything = rate == np.float32(1)
    limit = steps.astype(xp.uint32) << (np.int32(32) - bits).astype(xp.uint32)
    kept = ((~limit).astype(xp.float32) + np.float32(1)) * np.float32(2**-32)
    kept = xp.where(everything, np.float32(0), kept)
    # Only a traced rate can be outside [0, 1] here: its result has to show it.
    valid = (rate >= np.float32(0)) & (rate <= np.float32(1))
    return Odds(limit, everything, xp.where(valid, kept, np.float32(np.nan)))


def namespace(rate) -> Any:
    """NumPy for a rate that is known now, whose results are constants; ``jax.numpy`` else."""
    return jnp if isinstance(rate, jax.Array) else np
