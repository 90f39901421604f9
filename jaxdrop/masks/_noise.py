"""Continuous noise from the bits of floor 1: the same for every device, mesh and transform.

Nothing of it is worth keeping for a backward pass: a few operations draw it again from the key.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrop.masks import _sharding
from jaxdrop.masks._draw import entries, word_at


def uniform(key, shape, *, like=None):
    """Uniform float32 numbers in (0, 1) of ``shape``: odd multiples of 2**-24.

    Args:
        key: one PRNG key, which this call consumes.
        shape: shape of the numbers.
        like: array that the numbers broadcast to; they are sharded like it.
    """
    return _entries(key, shape, like, lambda words, place: _unit(word_at(words, place)))


def normal(key, shape, *, like=None):
    """Standard normal float32 numbers of ``shape``; arguments as `uniform`.

    Two words of a block give two numbers, radius and angle being those of a point in the plane.

    References:
        Box & Muller, "A note on the generation of random normal deviates", 1958.
    """
    return _entries(key, shape, like, _normal)


def _normal(words, place):
    upper = place >= np.uint32(2)
    radius_word = jnp.where(upper, words[2], words[0])
    angle_word = jnp.where(upper, words[3], words[1])
    # A number above 0 with all 32 bits, which float32 rounds to one of 24 significant bits.
    share = radius_word.astype(jnp.float32) * np.float32(2**-32) + np.float32(2**-33)
    radius = jnp.sqrt(np.float32(-2) * jnp.log(share))
    return radius * _cosine_of_turns(angle_word + (place << np.uint32(30)))


# Of sin(2 pi v) / v in v**2, for v in [-1/4, 1/4]: what has the least largest error, 4e-9.
_SINE = (6.283185005, -41.34165573, 81.60100555, -76.54978180, 39.53670502)


def _cosine_of_turns(angle):
    """Cosine of a uint32 in units of 2**-32 turns, to 2e-7; ``jnp.cos`` costs three times that."""
    turns = lax.bitcast_convert_type(angle, jnp.int32).astype(jnp.float32) * np.float32(2**-32)
    v = np.float32(0.25) - jnp.abs(turns)
    square = v * v
    value = square * np.float32(_SINE[-1])
    for coefficient in _SINE[-2:0:-1]:
        value = (value + np.float32(coefficient)) * square
    return (value + np.float32(_SINE[0])) * v


def _unit(word):
    # The lowest bit is set, so that neither end occurs; 24 bits are what float32 holds.
    odd = word >> np.uint32(8) | np.uint32(1)
    return odd.astype(jnp.float32) * np.float32(2**-24)


def _entries(key, shape, like, value_of):
    sharding = None if like is None else _sharding.mask_sharding(like, shape)
    return entries(key, shape, sharding, value_of)
