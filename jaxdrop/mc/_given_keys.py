"""PRNG keys among the arguments of a model: each pass mixes its own key into them."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop.masks import _internal as masks
from jaxdrop.mc._site import given_to

_NAME = re.compile(r"(^|_)(key|rng|prng)s?(_|$)")


def mixed(key, call, args, kwargs):
    """The arguments of ``call`` with the key of the pass mixed into the keys among them.

    Keys that are equal stay so, and so does what the model ties by them. A legacy key is known by
    the name of its parameter, for example ``rng`` or ``dropout_key``.
    """

    def mix(others):
        words = jax.random.key_data(others)
        flat = words.reshape(-1, words.shape[-1])
        fold = functools.partial(functools.reduce, jax.random.fold_in)
        return jax.vmap(lambda words: fold(words, masks.typed(key)))(flat).reshape(others.shape)

    return _mapped(mix, call, args, kwargs)


def handed(path, kind, call, args, kwargs):
    """The arguments of ``call``, a method of a module, with the keys among them `noted`."""
    return _mapped(functools.partial(noted, path, kind), call, args, kwargs)


def noted(path, kind, keys):
    """Keys as they are, with a note of the module that has got them.

    So the audit knows whose draws by them are.
    """
    with given_to(path, kind):
        words = jax.random.key_data(keys)
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(keys))  # pyright: ignore


def takes_keys(call):
    """Whether a function has a parameter that is named as keys are."""
    return any(map(_NAME.search, inspect.signature(call).parameters))


def _mapped(function, call, args, kwargs):
    """The arguments of ``call`` with a function applied to the arrays of keys among them."""
    legacy = {id(x) for x in jax.tree.leaves(_named_as_keys(call, args, kwargs))}

    def change(leaf):
        if not isinstance(leaf, jax.Array | np.ndarray):
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return function(leaf)
        if id(leaf) in legacy and masks.is_legacy(leaf):
            return jax.random.key_data(function(jax.random.wrap_key_data(jnp.asarray(leaf))))
        return leaf

    leaves, structure = jax.tree.flatten((args, kwargs))
    changed = [change(leaf) for leaf in leaves]
    if all(a is b for a, b in zip(leaves, changed)):
        return args, kwargs
    return jax.tree.unflatten(structure, changed)


def _named_as_keys(call, args, kwargs):
    try:
        bound = inspect.signature(call).bind_partial(*args, **kwargs).arguments
    except TypeError:  # which the model itself says better
        bound = {}
    return [value for name, value in {**bound, **kwargs}.items() if _NAME.search(name)]
