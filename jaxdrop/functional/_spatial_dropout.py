"""Dropout of whole feature maps."""

import jax
from jax.typing import ArrayLike

from jaxdrop.functional._masked import Flag, Key, apply_masked, mask_shape
from jaxdrop.masks import _internal as masks


def spatial_dropout(
    key: Key,
    x: ArrayLike,
    rate: ArrayLike,
    *,
    deterministic: Flag = False,
    channel_axis: int = -1,
    batch_axis: int | None = 0,
) -> jax.Array:
    """Zeros whole feature maps of each example and rescales the rest.

    One decision for each example and channel, shared by all positions in space, in 1, 2, 3 or more
    dimensions; the mean over keys is ``x``.

    Args:
        key: PRNG key; unused if ``deterministic`` is True.
        x: floating or complex array of shape ``(B, *space, C)``, or with its axes elsewhere.
        rate: probability of dropping a feature map, in [0, 1]; may be traced; a scalar, or an
            array that broadcasts to the mask, ``(B, 1, ..., C)``.
        deterministic: if true, returns ``x``; may be traced.
        channel_axis: axis of ``x`` that counts feature maps.
        batch_axis: axis of ``x`` that counts examples; None for a single example without one.

    Returns:
        Array with the shape and dtype of ``x``.

    Raises:
        TypeError: ``x`` is not a floating or complex array, ``key`` is not a PRNG key, or another
            argument is of the wrong type.
        ValueError: ``rate`` lies outside [0, 1] or does not broadcast, ``key`` is a batch of keys,
            or an axis is missing or named twice.

    Example:
        >>> y = spatial_dropout(jax.random.key(1), jnp.ones((2, 5, 5, 8)), 0.5)
        >>> bool((y == y[:, :1, :1, :]).all())
        True

    References:
        Tompson et al., "Efficient object localization using convolutional networks", 2015,
        section 3.2.
    """
    x = masks.check_array(x)
    axes = masks.check_deciding_axes(x, channel_axis, batch_axis, "channel_axis")
    return apply_masked(key, x, rate, mask_shape(x, axes), deterministic=deterministic)
