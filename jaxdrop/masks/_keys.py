"""What counts as a key: one typed PRNG key, or one legacy uint32 key."""

import functools
import hashlib
import json
import reprlib

import jax
import jax.numpy as jnp
import numpy as np

_REMEDY = "write jax.random.key(0), or take a fresh one from jax.random.split(key)"
_ORDER = "the key comes first, then the array, then the rate: dropout(key, x, 0.5)"


def check_key(key, name="key"):
    """Raises unless ``key`` is a single PRNG key, typed or legacy."""
    dtype = getattr(key, "dtype", None)
    if dtype is None or not hasattr(key, "ndim"):
        order = "" if key is None or isinstance(key, int) else f"; {_ORDER}"
        raise TypeError(
            f"{name}: expected one PRNG key, got {reprlib.repr(key)} of type "
            f"{type(key).__name__}; {_REMEDY}{order}"
        )
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        batch = key.shape
    elif is_legacy(key):
        batch = key.shape[:-1]
    else:
        raise TypeError(
            f"{name}: expected one PRNG key, got an array of dtype {dtype} and shape {key.shape}; "
            f"{_REMEDY}; {_ORDER}"
        )
    if batch:
        raise ValueError(
            f"{name}: expected one PRNG key, got a batch of shape {batch}; "
            "map over it with jax.vmap, or pass a single one such as keys[0]"
        )


def is_legacy(x):
    """Whether an array has the dtype and the last axis of legacy keys."""
    return x.dtype == jnp.uint32 and x.ndim >= 1 and x.shape[-1:] == _default_shape()


def refuse_key(value, name, expected, *, legacy=True):
    """Raises for a PRNG key where something else is expected: arguments in another order.

    Args:
        value: what came.
        name: of the argument.
        expected: what should have come.
        legacy: whether uint32 words of that shape can only be a key.
    """
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return
    legacy = legacy and is_legacy(value)
    if legacy or jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise TypeError(f"{name}: expected {expected}, got a PRNG key; {_ORDER}")


def refuse_keys(**following):
    """`refuse_key` of several arguments, by name, before any of them is looked at otherwise."""
    for name, value in following.items():
        refuse_key(value, name, "what follows the key")


def order_hint(rank):
    """What to add to the refusal of an array of this rank: without axes it may be the rate."""
    return "" if rank else f"; {_ORDER}"


def typed(key):
    """The key as a typed one; a legacy key belongs to the default implementation."""
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    return jax.random.wrap_key_data(key)


def words(key):
    """The words of the key as a list of uint32 scalars, and 0; uses the key up.

    Reading a key's words does not count as using it, for the key-reuse checker: drawing bits does,
    even none of them.
    """
    key = typed(key)
    data, used = jax.random.key_data(key).ravel(), np.uint32(0)
    if jax.config.jax_debug_key_reuse:  # pyright: ignore[reportAttributeAccessIssue]
        used = jax.random.bits(key, (0,)).sum(dtype=jnp.uint32)
    return [data[i] for i in range(data.size)], used


def fold_in_names(key, names):
    """A key for a sequence of names: sequences that differ in any name give different keys."""
    digest = hashlib.sha256(json.dumps([str(name) for name in names]).encode()).digest()
    for start in (0, 4):
        key = jax.random.fold_in(key, int.from_bytes(digest[start : start + 4], "little"))
    return key


def _default_shape():
    return _legacy_shape(jax.config.jax_default_prng_impl)  # pyright: ignore


@functools.cache
def _legacy_shape(implementation):
    """Shape of a legacy key; asking once, since an operation would burden every eager call."""
    key = jax.eval_shape(lambda: jax.random.key(0, impl=implementation))
    return jax.eval_shape(jax.random.key_data, key).shape
