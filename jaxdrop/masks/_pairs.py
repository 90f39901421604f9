"""Masks whose elements belong to unordered pairs of numbers: one decision per pair.

A pair takes the decisions of the word that has its smaller number as the low and its larger one as
the high half of its number, and of these 32 the first. So a decision depends on the key and the
pair alone: not on the order of its numbers, on its place in the mask, or on what other pairs there
are. Different pairs have different words.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop.masks import _rate, _sharding
from jaxdrop.masks._draw import decision_key, draw_planes
from jaxdrop.masks._layout import WORD, Layout, layout_of, pack
from jaxdrop.masks._mask import Mask


def draw_pairs(
    key: jax.Array,
    rate: _rate.Rate,
    shape: tuple[int, ...],
    first: jax.Array,
    second: jax.Array,
    *,
    like: jax.Array,
) -> Mask:
    """The mask of ``shape`` (E, 1, ...) whose element e belongs to ``{first[e], second[e]}``.

    Args:
        key: one PRNG key.
        rate: a scalar, or one that broadcasts to ``shape``.
        shape: of the mask, of size 1 on all axes but the first.
        first: integers of shape (E,), one number of each pair.
        second: the other one.
        like: array that the mask broadcasts to, whose sharding it takes.
    """
    size, layout = shape[0], layout_of(shape)
    each = Layout((size, WORD), 1, 2)  # a word per element, one bit of which is taken
    sharding = _sharding.mask_sharding(like, shape)
    if sharding is not None:
        spec = jax.P(*sharding.spec[:1], None)
        sharding = jax.NamedSharding(sharding.mesh, spec)

    def column(values: jax.Array) -> jax.Array:
        values = jnp.expand_dims(values.astype(jnp.uint32), 1)
        return values if sharding is None else jax.sharding.reshard(values, sharding)

    a, b = column(first), column(second)
    odds = _rate.odds(rate.effective)
    in_words = odds
    if odds.limit.ndim:
        flat = (odds.limit.size, 1)
        in_words = odds._replace(
            limit=odds.limit.reshape(flat), everything=odds.everything.reshape(flat)
        )
    numbers = jnp.minimum(a, b), jnp.maximum(a, b)
    words = draw_planes(decision_key(key, odds.known), numbers, in_words, each, sharding)
    keep = (words & np.uint32(1)).reshape(shape)
    return Mask(pack(_sharding.whole_runs(keep, layout), layout), odds.keep_prob, shape)
