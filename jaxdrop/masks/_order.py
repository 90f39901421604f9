"""Random orders, whose first few places are a subset drawn without replacement."""

import jax.numpy as jnp
from jax import lax

from jaxdrop.masks import _draw


def random_orders(key, shape, sharding=None):
    """Random orders of the places along the last axis: int32 of ``shape``, each row its own.

    The places are sorted by uniform integers; of equal ones the earlier goes first.
    """
    integers = _draw.entry_integers(key, shape, sharding)
    axis = len(shape) - 1
    places = lax.broadcasted_iota(jnp.int32, shape, axis, out_sharding=sharding)
    return lax.sort((integers, places), dimension=axis, num_keys=1)[1]
