"""Dropout of whole attention heads."""

import jax
from jax.typing import ArrayLike

from jaxdrop.functional._masked import Flag, Key, apply_masked, mask_shape
from jaxdrop.masks import _internal as masks


def drop_head(
    key: Key,
    x: ArrayLike,
    rate: ArrayLike,
    *,
    deterministic: Flag = False,
    head_axis: int = -2,
    batch_axis: int | None = 0,
) -> jax.Array:
    """Zeros whole attention heads of each example and rescales the rest.

    One decision for each example and head, shared by all positions and features; the mean over
    keys is ``x``. The paper rescales by the number of heads that survive instead, which is not
    the mean over keys: where all heads of an example are dropped nothing can make up for it.

    Args:
        key: PRNG key; unused if ``deterministic`` is True.
        x: outputs of the heads before they are joined, floating or complex, of shape
            ``(B, L, H, D)`` as in Flax, H heads, or with its axes elsewhere.
        rate: probability of dropping a head, in [0, 1]; may be traced; a scalar, or an array that
            broadcasts to the mask, ``(B, 1, H, 1)``.
        deterministic: if true, returns ``x``; may be traced.
        head_axis: axis of ``x`` that counts heads.
        batch_axis: axis of ``x`` that counts examples; None for a single example without one.

    Returns:
        Array with the shape and dtype of ``x``.

    Raises:
        TypeError: ``x`` is not a floating or complex array, ``key`` is not a PRNG key, or another
            argument is of the wrong type.
        ValueError: ``rate`` lies outside [0, 1] or does not broadcast, ``key`` is a batch of keys,
            or an axis is missing or named twice.

    Example:
        >>> y = drop_head(jax.random.key(0), jnp.ones((2, 5, 8, 4)), 0.5)
        >>> bool((y == y[:, :1, :, :1]).all())
        True

    References:
        Zhou et al., "Scheduled DropHead: a regularization method for transformer models", 2020.
    """
    x = masks.check_array(x)
    axes = masks.check_deciding_axes(x, head_axis, batch_axis, "head_axis")
    return apply_masked(key, x, rate, mask_shape(x, axes), deterministic=deterministic)
