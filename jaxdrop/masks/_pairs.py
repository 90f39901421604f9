"""Masks whose elements belong to unordered pairs of numbers: one decision per pair.

A pair takes the decisions of the word that has its smaller number as the low and its larger one as
the high half of its number, and of these 32 the first. So a decision depends on the key and the
pair alone: not on the order of its numbers, on its place in the mask, or on what other pairs there
are. Different pairs have different words.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop.masks import _rate, _sharding
from jaxdrop.masks._draw import decision_key, draw_planes
from jaxdrop.masks._layout import WORD, Layout, layout_of, pack
from jaxdrop.masks._mask import Mask


def draw_pairs(key: jax.Array, rate: _rate.Rate, first: jax.Array, second: jax.Array) -> Mask:
    """The mask of shape (E,) whose element e belongs to ``{first[e], second[e]}``.

    Devices that hold whole words of it do not communicate.

    Args:
        key: one PRNG key.
        rate: a scalar, or an array of shape (E,) or (1,).
        first: integers of shape (E,), one number of each pair.
        second: the other one, sharded like the first.
    """
    each = Layout((*first.shape, WORD), 1, 2)  # a word per element, one bit of which is taken
    a, b = (jnp.expand_dims(n.astype(jnp.uint32), 1) for n in (first, second))
    numbers = jnp.minimum(a, b), jnp.maximum(a, b)
    cipher_key, odds = decision_key(key, rate.known is not None), _rate.odds(rate.effective)
    if jax.sharding.get_abstract_mesh().manual_axes:
        # Inside shard_map the words have to vary over the mesh axes that pairs vary over.
        low, high = cipher_key.words
        varying = (numbers[0] | numbers[1]).sum(dtype=jnp.uint32) & np.uint32(0)
        cipher_key = dataclasses.replace(cipher_key, words=(low ^ varying, high))
    columns = odds
    if odds.limit.ndim:
        limit, everything = (jnp.expand_dims(x, 1) for x in odds[:2])
        columns = odds._replace(limit=limit, everything=everything)
    words = draw_planes(cipher_key, numbers, columns, each, _sharding.explicit_sharding(a))
    keep, layout = (words & np.uint32(1))[:, 0], layout_of(first.shape)
    return Mask(pack(_sharding.whole_runs(keep, layout), layout), odds.keep_prob, first.shape)
