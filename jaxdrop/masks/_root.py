"""The rate of each of several decisions, where an entry survives if it survives all of them.

Found by bisection in integers and not by logarithms, whose last bits differ between backends: NumPy
at trace time and XLA agree to the bit, so that a static and a traced rate give the same mask.
"""

import numpy as np
from jax import lax

from jaxdrop.masks import _rate

_BITS = np.uint32(24)  # of the rate: what a threshold and a float32 can hold
_WHOLE = np.uint32(1 << 24)


def root(rate, count):
    """Rate of ``count`` independent decisions that all survive with probability ``1 - rate``.

    Args:
        rate: probability that one of them drops, a float or an array.
        count: number of decisions, a Python integer.

    Returns:
        ``(rate of each, keep probability)``, float32 arrays shaped like ``rate``. The first is the
        nearest multiple of 2**-24, the second the probability that all survive at that rate, to
        about ``count * 2**-32``; NaN for a rate outside [0, 1], which only a traced one can be.
    """
    xp = _rate.namespace(rate)
    rate = xp.asarray(rate, xp.float32)
    inside = (rate > np.float32(0)) & (rate < np.float32(1))
    asked = xp.where(inside, rate, np.float32(0))
    kept = ~(asked * np.float32(2**32)).astype(xp.uint32)  # in units of 2**-32, as all below

    def search(i, steps):
        # The largest number of steps that, less half a step, keeps what is asked.
        more = steps | (np.uint32(1) << (_BITS - np.uint32(1) - i))
        middle = ((_WHOLE - more) << np.uint32(8)) + np.uint32(128)
        return xp.where(_power(middle, count) >= kept, more, steps)

    steps = kept & np.uint32(0)
    if xp is np:
        for i in range(24):
            steps = search(np.uint32(i), steps)
    else:
        steps = lax.fori_loop(np.uint32(0), _BITS, search, steps, unroll=8)
    steps = xp.where(inside, steps, np.uint32(0))
    all_kept = _power((_WHOLE - steps) << np.uint32(8), count).astype(xp.float32)
    all_kept = xp.where(steps == np.uint32(0), np.float32(1), all_kept * np.float32(2**-32))
    everything, valid = rate == np.float32(1), (rate >= np.float32(0)) & (rate <= np.float32(1))
    each = xp.where(everything, np.float32(1), steps.astype(xp.float32) / np.float32(_WHOLE))
    all_kept = xp.where(everything, np.float32(0), all_kept)
    return xp.where(valid, each, np.float32(np.nan)), xp.where(valid, all_kept, np.float32(np.nan))


def _power(base, exponent):
    """``base**exponent`` of a fraction in units of 2**-32, in which 1 does not occur."""
    result = base
    for bit in bin(exponent)[3:]:
        result = _product(result, result)
        result = _product(result, base) if bit == "1" else result
    return result


def _product(a, b):
    """The high word of the product of two uint32, from products of their halves."""
    half, low = np.uint32(16), np.uint32(0xFFFF)
    first = (a >> half) * (b & low) + ((a & low) * (b & low) >> half)
    second = (a & low) * (b >> half) + (first & low)
    return (a >> half) * (b >> half) + (first >> half) + (second >> half)
