"""Dropout of integer tokens."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdrop.functional._masked import Flag, Key, Rule, apply_masked
from jaxdrop.masks import _internal as masks


def word_dropout(
    key: Key,
    x: ArrayLike,
    rate: ArrayLike,
    *,
    deterministic: Flag = False,
    unknown_id: int,
) -> jax.Array:
    """Replaces tokens at random by the one of an unknown word.

    Each token is dropped with probability ``rate``, independently of the others.

    Args:
        key: PRNG key; unused if ``deterministic`` is True.
        x: integer array of token ids, of any shape.
        rate: probability of dropping, in [0, 1]; may be traced; a scalar, or an array that
            broadcasts to the shape of ``x``. A traced rate outside [0, 1] drops nothing: integers
            hold no NaN.
        deterministic: if true, returns ``x``; may be traced.
        unknown_id: what a dropped token becomes, an integer that the dtype of ``x`` holds. A
            negative one is not a row of a table: JAX counts it from the end.

    Returns:
        Array with the shape and dtype of ``x``.

    Raises:
        TypeError: ``x`` is not an integer array, ``unknown_id`` is not an integer, ``key`` is not a
            PRNG key, or another argument is of the wrong type.
        ValueError: ``rate`` lies outside [0, 1] or does not broadcast, ``key`` is a batch of keys,
            or the dtype of ``x`` does not hold ``unknown_id``.

    Example:
        >>> tokens = jnp.array([[5, 6, 7, 8, 9, 5, 6, 7]])
        >>> y = word_dropout(jax.random.key(0), tokens, 0.5, unknown_id=1)
        >>> bool(((y == tokens) | (y == 1)).all())
        True

    References:
        Iyyer et al., "Deep unordered composition rivals syntactic methods for text classification",
        2015, section 3.1, which removes the words; here they keep their place.
    """
    x = _check_tokens(x)
    unknown = _as_token(unknown_id, x.dtype)
    return apply_masked(
        key, (x, unknown), rate, x.shape, deterministic=deterministic, rule=_REPLACED
    )


# Of a pair: the tokens, and the scalar that stands for a dropped one.
_REPLACED = Rule(
    apply=lambda mask, pair: masks.where_kept(mask, *pair),
    kept=lambda pair: pair[0],
    dropped=lambda pair: jnp.full_like(pair[0], pair[1]),
    draw=masks.draw,
)


def _check_tokens(x: Any) -> jax.Array:
    """``x`` as an array, refused if its dtype is not an integer one."""
    x = masks.as_array(x, "x")
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(
            f"x: expected an integer array of token ids, got dtype {x.dtype}; drop words before "
            f"they are embedded, or use dropout on the embeddings{masks.order_hint(x.ndim)}"
        )
    return x


def _as_token(unknown_id: int, dtype: Any) -> np.ndarray:
    """``unknown_id`` as a NumPy scalar of ``dtype``."""
    try:
        token = operator.index(unknown_id)
    except TypeError:
        token = None
    if token is None or isinstance(unknown_id, bool):
        raise TypeError(
            f"unknown_id: expected an integer, got {unknown_id!r}; "
            "write the id that the vocabulary gives to unknown words"
        )
    limits = jnp.iinfo(dtype)
    if not limits.min <= token <= limits.max:
        raise ValueError(
            f"unknown_id: expected an integer that {dtype} holds, in [{limits.min}, {limits.max}], "
            f"got {token}; choose another id or cast x"
        )
    return np.asarray(token, dtype)
