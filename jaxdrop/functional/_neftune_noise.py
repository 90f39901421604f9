"""Uniform noise on embeddings, of a size that depends on the length of a text."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdrop.functional._gaussian_noise import equal_rate
from jaxdrop.functional._masked import Flag, Key
from jaxdrop.functional._noisy import apply_noise
from jaxdrop.masks import _internal as masks


def neftune_noise(
    key: Key,
    x: ArrayLike,
    alpha: ArrayLike,
    *,
    deterministic: Flag = False,
    mask: ArrayLike | None = None,
) -> jax.Array:
    """Adds uniform noise to embedded tokens, smaller for longer texts and wider embeddings.

    The noise of each element is uniform between ``-alpha / sqrt(L * D)`` and ``alpha / sqrt(L *
    D)``, if a text has L tokens of D elements. So the noise of a whole text has about the norm
    ``alpha / sqrt(3)``, and the mean over keys is ``x``. L counts the tokens that ``mask`` marks,
    for each text. So the noise of a text does not depend on how far a batch is padded, and padding
    gets none.

    Args:
        key: PRNG key; unused if ``deterministic`` is True.
        x: embeddings, a floating array of shape ``(..., L, D)``.
        alpha: size of the noise, finite and at least 0; the paper takes 5, 10 and 15; may be
            traced; a scalar, or an array that broadcasts to the shape of ``x``, such as ``(B, 1,
            1)``. A traced one below 0 gives NaN.
        deterministic: if true, returns ``x``; may be traced.
        mask: booleans of shape ``(..., L)``, True for a token and False for padding; None if all
            are tokens. From numbers of tokens: ``jnp.arange(L)[None] < lengths[:, None]``.

    Returns:
        Array with the shape and dtype of ``x``.

    Raises:
        TypeError: ``x`` is not a floating array, ``alpha`` is not a real number, ``mask`` is not
            boolean, or another argument is of the wrong type.
        ValueError: ``x`` has a rank below 2, ``mask`` does not have the shape ``(..., L)``,
            ``alpha`` is negative, infinite or NaN or does not broadcast, or ``key`` is a batch of
            keys.

    Example:
        >>> lengths = jnp.array([4, 16])
        >>> mask = jnp.arange(16)[None] < lengths[:, None]
        >>> y = neftune_noise(jax.random.key(0), jnp.zeros((2, 16, 64)), 5.0, mask=mask)
        >>> [round(float(v), 2) for v in abs(y).max(axis=(1, 2))]  # 5 / (4 * 64)**0.5, and half
        [0.31, 0.16]

    References:
        Jain et al., "NEFTune: noisy embeddings improve instruction finetuning", 2024, algorithm 1.
    """
    masks.refuse_keys(alpha=alpha, mask=mask)
    x = masks.check_array(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"x: expected a floating array of embeddings, got dtype {x.dtype}; "
            "add noise to x.real and x.imag, each with a key of its own"
        )
    if x.ndim < 2:
        raise ValueError(
            f"x: expected embeddings of shape (..., L, D), got shape {x.shape}; give a text the "
            f"axes of its tokens and of their elements{masks.order_hint(x.ndim)}"
        )
    ends, remedy = (0.0, np.finfo(np.float64).max), "noise has no sign, so give its size"
    alpha = masks.check_real(alpha, "alpha", ends, "[0, inf)", "sizes", remedy, x.shape, "noise")
    tokens = None if mask is None else _check_mask(mask, x)
    masks.check_flag(deterministic)
    if equal_rate(alpha) == 0:
        return x
    levels = alpha, _unit_size(x, tokens)
    return apply_noise(
        key, x, levels, x.shape, deterministic=deterministic, draw=masks.uniform_or_tap, apply=_add
    )


def _unit_size(x: jax.Array, tokens: jax.Array | None) -> Any:
    """The size of noise for an alpha of 1, which is 0 for padding; broadcasts to ``x``."""
    *_, places, width = x.shape
    if tokens is None:
        if masks.is_known(places * width):
            return 1 / np.sqrt(max(1, places * width))
        return 1 / jnp.sqrt(jnp.maximum(_number(places) * _number(width), np.float32(1)))
    length = tokens.sum(axis=-1, keepdims=True, dtype=jnp.float32)
    # A text without tokens has no noise, and must not divide by 0 for that.
    size = 1 / jnp.sqrt(jnp.maximum(length, np.float32(1)) * _number(width))
    return jnp.where(tokens, size, np.float32(0))[..., None]


def _number(size: int) -> jax.Array:
    """A size, which may be symbolic, in float32."""
    return jnp.asarray(size).astype(jnp.float32)


def _check_mask(mask: Any, x: jax.Array) -> jax.Array:
    """The mask as an array, refused if it is not one boolean for each token."""
    tokens = masks.as_array(mask, "mask")
    if tokens.dtype != jnp.bool_:
        raise TypeError(
            f"mask: expected booleans, True for a token, got dtype {tokens.dtype}; write "
            "mask.astype(bool) for zeros and ones, or jnp.arange(L)[None] < lengths[:, None] for "
            "numbers of tokens"
        )
    if tokens.shape != x.shape[:-1]:
        raise ValueError(
            f"mask: expected one boolean for each token, shape {x.shape[:-1]} for x of shape "
            f"{x.shape}, got {tokens.shape}; leave out axes of heads or of queries"
        )
    return tokens


def _add(uniform: jax.Array, x: jax.Array, alpha: jax.Array, size: jax.Array) -> jax.Array:
    known = jnp.where(alpha >= 0, alpha, np.nan) * size
    # Uniform numbers are symmetric about 1/2, so the mean of the noise is exactly 0.
    return jnp.where(known == 0, x, x + known * (2 * uniform - 1))
