"""Zoneout inside a cell: new decisions at every step, from a key and a clock in the carry."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop.functional._cells import Effects
from jaxdrop.functional._zoneout import zoneout
from jaxdrop.masks import _internal as masks


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ZoneoutClock:
    """What the decisions of a step come from.

    The key travels as words, since every step uses it again, and with a leading axis of size 1,
    since every leaf of a carry begins with the axis of the examples, which share it.

    Attributes:
        words: of the key of the sequence, shape (1, words).
        step: number of the step, shape (1,).
        implementation: of the key.
    """

    words: jax.Array
    step: jax.Array
    implementation: Any = dataclasses.field(metadata={"static": True})

    def key(self):
        """The key of this step."""
        key = jax.random.wrap_key_data(self.words[0], impl=self.implementation)
        return jax.random.fold_in(key, self.step[0])


def start(key) -> ZoneoutClock:
    """The clock of a sequence; consumes the key."""
    masks.check_key(key)
    (own,) = jax.random.split(masks.typed(key), 1)
    words = jax.random.key_data(own)[None]
    return ZoneoutClock(words, jnp.zeros(1, jnp.uint32), jax.random.key_impl(own))


def tick(clock: ZoneoutClock) -> ZoneoutClock:
    """The clock of the next step."""
    return dataclasses.replace(clock, step=clock.step + np.uint32(1))


def rates_of(rate):
    """All rates of a pair, or the one."""
    return tuple(rate) if isinstance(rate, tuple | list) else (rate,)


def effects(clock: ZoneoutClock | None, rate, deterministic) -> Effects:
    """What zoneout does inside a step."""

    def update(old, new):
        rates = _spread(rate, new)
        keys = [None] * len(rates)
        if clock is not None:
            keys = list(jax.random.split(clock.key(), len(rates)))
        old, structure = jax.tree.flatten(old)
        return structure.unflatten(
            _zoneout(key, before, after, rate, deterministic)
            for key, before, after, rate in zip(keys, old, jax.tree.leaves(new), rates)
        )

    return Effects(update=update)


def _spread(rate, state):
    """A rate for each array of a state."""
    number = len(jax.tree.leaves(state))
    rates = rates_of(rate)
    if not isinstance(rate, tuple | list):
        return rates * number
    if len(rates) != number:
        raise ValueError(
            f"rate: expected one rate, or a pair for the memory and the hidden state of a cell "
            f"that has both, got {len(rates)} rates for {number} arrays of state; write one rate"
        )
    return rates


def _zoneout(key, old, new, rate, deterministic):
    if not jnp.issubdtype(new.dtype, jnp.inexact):  # a counter of a cell of one's own
        return new
    key = key if masks.draws(rate, deterministic) else None
    return zoneout(key, old, new, rate, deterministic=deterministic)
