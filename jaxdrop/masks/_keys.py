"""Keys in any form, typed or legacy: what they are, and the words in them."""

import functools
import hashlib
import json
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_WORD = np.dtype(np.uint32)


def is_typed(x: Any) -> bool:
    """Whether an array holds keys of the new style."""
    # The dtype of a key is not one of NumPy. Asked first, because an eager call asks several times.
    return not isinstance(x.dtype, np.dtype) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def is_legacy(x: Any) -> bool:
    """Whether an array has the dtype and the last axis of legacy keys."""
    return x.dtype == _WORD and x.ndim >= 1 and x.shape[-1:] == _default_shape()


def typed(key: jax.Array) -> jax.Array:
    """The key as a typed one; a legacy key belongs to the default implementation."""
    return key if is_typed(key) else jax.random.wrap_key_data(key)


def key_words(key: jax.Array) -> tuple[list[jax.Array], Any]:
    """The words of the key as a list of uint32 scalars, and 0; uses the key up.

    The key-reuse checker does not count that words are read: drawing bits counts, even none of
    them. Their sum, 0, has to enter the result.
    """
    key = typed(key)
    data, consumed = jax.random.key_data(key).ravel(), np.uint32(0)
    if jax.config.jax_debug_key_reuse:  # pyright: ignore[reportAttributeAccessIssue]
        consumed = jax.random.bits(key, (0,)).sum(dtype=jnp.uint32)
    return [data[i] for i in range(data.size)], consumed


def fold_in_names(key: jax.Array, names: Iterable[object]) -> jax.Array:
    """A key for a sequence of names: sequences that differ in any name give different keys."""
    digest = hashlib.sha256(json.dumps([str(name) for name in names]).encode()).digest()
    for start in (0, 4):
        key = jax.random.fold_in(key, int.from_bytes(digest[start : start + 4], "little"))
    return key


def _default_shape() -> tuple[int, ...]:
    return _legacy_shape(jax.config.jax_default_prng_impl)  # pyright: ignore


@functools.cache
def _legacy_shape(implementation: str) -> tuple[int, ...]:
    """Shape of a legacy key; asking once, since an operation would burden every eager call."""
    key = jax.eval_shape(lambda: jax.random.key(0, impl=implementation))
    return jax.eval_shape(jax.random.key_data, key).shape
