"""Multipliers at their mean instead of random ones, for a variance without passes.

Inside `tapped` a mask holds one number per decision instead of a bit: the multiplier that the
decision is, bit over keep probability, at its mean of 1. In the program it comes from a tap, a call
that is found by its name and that also gives the variance of the multiplier.

A tap stands where the decisions are drawn. So the derivative of an output by one decision is that
by all that the decision multiplies, once or several times.
"""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp

from jaxdrop.masks import _keys, _noise, _rate
from jaxdrop.masks._mask import Mask, draw

# The name of a tap in a program. Its input of integers is from the key, its outputs are the means
# and the variances of the decisions.
TAP = "jaxdrop_tap"

# Whether decisions are at their mean; jit finds a function by it.
tapped = jax.make_user_context(default_value=False)


def draw_or_tap(
    key: jax.Array, rate: _rate.Rate, shape: tuple[int, ...], *, like: jax.Array | None = None
) -> Mask:
    """`draw`, or a mask of multipliers inside `tapped`, for results that are smooth in them."""
    if not tapped.value:
        return draw(key, rate, shape, like=like)
    kept = jnp.asarray(_rate.odds(rate.effective).keep_prob)
    wide = kept.astype(jnp.result_type(float))
    # At a traced rate of 1 the multiplier is always 0, and at an invalid one it is NaN.
    some = jnp.where(wide == 0, jnp.ones_like(wide), wide)
    return Mask(_tap(key, jnp.sign(wide), (1 - some) / some, shape), kept, shape)


def normal_or_tap(
    key: jax.Array, shape: tuple[int, ...], *, like: jax.Array | None = None
) -> jax.Array:
    """Standard normal numbers, or their mean of 0 inside `tapped`."""
    if not tapped.value:
        return _noise.normal(key, shape, like=like)
    return _tap(key, jnp.zeros((), float), jnp.ones((), float), shape)


def uniform_or_tap(
    key: jax.Array, shape: tuple[int, ...], *, like: jax.Array | None = None
) -> jax.Array:
    """Uniform numbers in (0, 1), or their mean of a half inside `tapped`."""
    if not tapped.value:
        return _noise.uniform(key, shape, like=like)
    half = jnp.full((), 0.5, float)
    return _tap(key, half, half / 6, shape)


def _tap(key: jax.Array, mean: jax.Array, variance: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Numbers of ``shape`` with a mean and a variance that broadcast to it: their mean."""
    words, consumed = _keys.key_words(key)
    moments = (jnp.broadcast_to(value, shape) for value in (mean, variance))
    return _moments(functools.reduce(operator.xor, words, consumed), *moments)[0]


def _named(word: jax.Array, mean: jax.Array, variance: jax.Array) -> tuple[Any, Any]:
    # Decisions are others where the key is another one: under vmap the results have to show it.
    zero = (word & jnp.uint32(0)).astype(mean.dtype)
    return mean + zero, variance + zero


_named.__name__ = TAP
_moments = jax.jit(_named)
