"""PRNG keys among the arguments of a model: each pass mixes its own key into them."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop.masks import _keys
from jaxdrop.mc._site import ARGUMENT

_NAME = re.compile(r"(^|_)(key|rng|prng)s?(_|$)")


def mixed(key, call, args, kwargs):
    """The arguments of ``call`` with the key of the pass mixed into the keys among them.

    Keys that are equal stay so, and so does what the model ties by them. A legacy key is known by
    the name of its parameter, for example ``rng`` or ``dropout_key``.
    """
    legacy = {id(x) for x in jax.tree.leaves(_named_as_keys(call, args, kwargs))}

    def mix(leaf):
        if not isinstance(leaf, jax.Array | np.ndarray):
            return leaf
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return _mix(key, leaf)
        if id(leaf) in legacy and _keys.is_legacy(leaf):
            return jax.random.key_data(_mix(key, jax.random.wrap_key_data(jnp.asarray(leaf))))
        return leaf

    with jax.named_scope(ARGUMENT):
        return jax.tree.map(mix, (args, kwargs))


def _named_as_keys(call, args, kwargs):
    try:
        bound = inspect.signature(call).bind(*args, **kwargs).arguments
    except TypeError:  # which the model itself says better
        bound = {}
    return [value for name, value in {**bound, **kwargs}.items() if _NAME.search(name)]


def _mix(key, other):
    """Keys of the shape of ``other``, each of which depends on it and on ``key``."""
    words = jax.random.key_data(other)
    flat = words.reshape(-1, words.shape[-1])
    fold = functools.partial(functools.reduce, jax.random.fold_in)
    return jax.vmap(lambda words: fold(words, _keys.typed(key)))(flat).reshape(other.shape)
