"""Continuous noise from the bits of floor 1: the same for every device, mesh and transform.

Nothing of it is worth keeping for a backward pass: a few operations draw it again from the key.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrop.masks import _sharding
from jaxdrop.masks._draw import entry_integers


def uniform(key, shape, *, like=None):
    """Uniform float32 numbers in (0, 1) of ``shape``: odd multiples of 2**-24.

    Args:
        key: one PRNG key, which this call consumes.
        shape: shape of the numbers.
        like: array that the numbers broadcast to; they are sharded like it.
    """
    sharding = None if like is None else _sharding.mask_sharding(like, shape)
    # The lowest bit is set, so that neither end occurs; 24 bits are what float32 holds.
    odd = entry_integers(key, shape, sharding) >> np.uint32(8) | np.uint32(1)
    return odd.astype(jnp.float32) * np.float32(2**-24)


def normal(key, shape, *, like=None):
    """Standard normal float32 numbers of ``shape``; arguments as `uniform`."""
    centred = np.float32(2) * uniform(key, shape, like=like) - np.float32(1)
    return np.float32(np.sqrt(2)) * lax.erf_inv(centred)
