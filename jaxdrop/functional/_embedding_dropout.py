"""Dropout of the rows of an embedding table."""

import jax
from jax.typing import ArrayLike

from jaxdrop.functional._masked import Flag, Key, apply_masked
from jaxdrop.masks import _internal as masks


def embedding_dropout(
    key: Key, x: ArrayLike, rate: ArrayLike, *, deterministic: Flag = False
) -> jax.Array:
    """Zeros whole rows of an embedding table and rescales the rest.

    One decision for each word of the vocabulary, so a dropped word is gone wherever it occurs in
    the batch; the mean over keys is ``x``. Apply it to the table, before words are looked up.

    Args:
        key: PRNG key; unused if ``deterministic`` is True.
        x: embedding table, floating or complex, of shape ``(V, D)``, V words.
        rate: probability of dropping a word, in [0, 1]; may be traced; a scalar, or an array that
            broadcasts to the mask, ``(V, 1)``.
        deterministic: if true, returns ``x``; may be traced.

    Returns:
        Array with the shape and dtype of ``x``.

    Raises:
        TypeError: ``x`` is not a floating or complex array, ``key`` is not a PRNG key, or another
            argument is of the wrong type.
        ValueError: ``x`` is not of rank 2, ``rate`` lies outside [0, 1] or does not broadcast, or
            ``key`` is a batch of keys.

    Example:
        >>> table = embedding_dropout(jax.random.key(0), jnp.ones((100, 4)), 0.5)
        >>> table[jnp.array([[3, 7, 3]])].shape
        (1, 3, 4)

    References:
        Gal & Ghahramani, "A theoretically grounded application of dropout in recurrent neural
        networks", 2016, section 4.2.
    """
    x = masks.check_array(x)
    if x.ndim != 2:
        raise ValueError(
            f"x: expected an embedding table of shape (V, D), got shape {x.shape}; "
            f"drop from the table before words are looked up{masks.order_hint(x.ndim)}"
        )
    return apply_masked(key, x, rate, (x.shape[0], 1), deterministic=deterministic)
