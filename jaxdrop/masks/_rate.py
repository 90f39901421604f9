"""From a rate to an integer limit, and from that to the exact keep probability.

An element drops if a uniform 32-bit integer lies below the limit, so the limit over 2**32 is the
probability that the bits really have. It is rounded to few significant bits, because each of them
costs random words: 16 bits, and up to 24 for rates near 0 or 1, where 16 would leave a relative
error above 1 %. With 24, float32 holds every keep probability exactly.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


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

    traced: Any
    off: Any
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
        """The rate with the flag worked in, once for many draws."""
        return self if self.off is None else Rate(self.effective, None, None)

    def with_rank(self, rank: int) -> "Rate":
        """The rate without the leading axes of size 1 that a mask of this rank lacks."""
        extra = getattr(self.traced, "ndim", 0) - rank
        if extra <= 0:
            return self
        return dataclasses.replace(self, traced=self.traced.reshape(self.traced.shape[extra:]))


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


def odds(rate: Any, least_bits: int = 16) -> Odds:
    """The `Odds` of a rate, a float or an array.

    The decision is taken in float32 and integers alone, so that NumPy, at trace time, and XLA
    agree to the bit. The limit is rounded to a step of 2**-m with
    m = 7 - floor(log2(min(rate, 1 - rate))), but least_bits <= m <= 24.
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
    # ~limit + 1 is 2**32 - limit, which does not fit uint32 if the limit is 0.
    kept = ((~limit).astype(xp.float32) + np.float32(1)) * np.float32(2**-32)
    kept = xp.where(everything, np.float32(0), kept)
    # Only a traced rate can be outside [0, 1] here: it cannot be refused, but has to show.
    valid = (rate >= np.float32(0)) & (rate <= np.float32(1))
    return Odds(limit, everything, xp.where(valid, kept, np.float32(np.nan)))


def namespace(rate: Any) -> Any:
    """NumPy for a rate that is known now, whose results are constants, else ``jax.numpy``."""
    return jnp if isinstance(rate, jax.Array) else np
