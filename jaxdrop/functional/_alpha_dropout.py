"""Dropout that keeps the mean and the variance of SELU's activations."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.functional._masked import Flag, Key, Rule, apply_masked, mask_shape
from jaxdrop.masks import Mask
from jaxdrop.masks import _internal as masks

# alpha' of the paper: where SELU saturates, -lambda * alpha.
_SATURATION = -1.7580993408473766


def alpha_dropout(
    key: Key,
    x: ArrayLike,
    rate: ArrayLike,
    *,
    deterministic: Flag = False,
) -> jax.Array:
    """Sets elements to SELU's saturation at random and keeps mean 0 and variance 1.

    With q the keep probability that the random bits really have and alpha' = -1.758..., a
    surviving element becomes ``a x + b`` and a dropped one ``a alpha' + b``, where
    ``a = (q + alpha'**2 q (1 - q))**(-1/2)`` and ``b = -a (1 - q) alpha'``. Elements of mean 0 and
    variance 1 have that mean and variance afterwards. At rate 1 everything is 0, the limit of
    ``a alpha' + b``.

    Args:
        key: PRNG key; unused if ``deterministic`` is True.
        x: floating or complex array of any shape, of mean 0 and variance 1.
        rate: probability of dropping, in [0, 1]; may be traced; a scalar, or an array that
            broadcasts to the shape of ``x``.
        deterministic: if true, returns ``x``; may be traced.

    Returns:
        Array with the shape and dtype of ``x``.

    Raises:
        TypeError: ``x`` is not a floating or complex array, ``key`` is not a PRNG key, or another
            argument is of the wrong type.
        ValueError: ``rate`` lies outside [0, 1] or does not broadcast, or ``key`` is a batch of
            keys.

    Example:
        >>> y = alpha_dropout(jax.random.key(0), jnp.zeros((2, 8)), 0.5)
        >>> [round(float(v), 4) for v in jnp.unique(y)]
        [-0.7792, 0.7792]

    References:
        Klambauer et al., "Self-normalizing neural networks", 2017, section 3, "New dropout
        technique".
    """
    x = masks.check_array(x)
    return apply_masked(key, x, rate, x.shape, deterministic=deterministic, rule=_RULE)


def feature_alpha_dropout(
    key: Key,
    x: ArrayLike,
    rate: ArrayLike,
    *,
    deterministic: Flag = False,
    channel_axis: int = -1,
    batch_axis: int | None = 0,
) -> jax.Array:
    """Sets whole feature maps to SELU's saturation at random and keeps mean 0 and variance 1.

    As `alpha_dropout`, with one decision for each example and channel, shared by all positions in
    space.

    Args:
        key: PRNG key; unused if ``deterministic`` is True.
        x: floating or complex array of shape ``(B, *space, C)``, or with its axes elsewhere, of
            mean 0 and variance 1.
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
        >>> y = feature_alpha_dropout(jax.random.key(1), jnp.zeros((2, 5, 5, 8)), 0.5)
        >>> bool((y == y[:, :1, :1, :]).all())
        True

    References:
        Klambauer et al., "Self-normalizing neural networks", 2017, section 3, "New dropout
        technique"; whole maps as in Tompson et al., 2015.
    """
    x = masks.check_array(x)
    shape = mask_shape(x, masks.check_deciding_axes(x, channel_axis, batch_axis, "channel_axis"))
    return apply_masked(key, x, rate, shape, deterministic=deterministic, rule=_RULE)


def _saturate(mask: Mask, x: jax.Array) -> jax.Array:
    wide = masks.wide_dtype(x)
    real = jnp.finfo(wide).dtype
    keep_prob = jnp.asarray(masks.align(mask.keep_prob, x), real)
    some = jnp.where(keep_prob == 0, jnp.ones_like(keep_prob), keep_prob)  # a is infinite at 0
    # No product enters a sum: whether a compiler rounds in between would depend on what it fuses.
    spread = some * (real.type(1 + _SATURATION**-2) - some)
    scale = 1 / (real.type(-_SATURATION) * jnp.sqrt(spread))
    shift = jnp.where(keep_prob == 0, 0, real.type(-_SATURATION) * (1 - keep_prob))
    survivor = ((x.astype(wide) + shift.astype(wide)) * scale.astype(wide)).astype(x.dtype)
    survivor = jnp.where(keep_prob == 1, x, survivor)
    lost = jnp.where(keep_prob == 0, 0, real.type(_SATURATION) * keep_prob * scale)
    return masks.where_kept(mask, survivor, lost.astype(x.dtype))


_RULE = Rule(apply=_saturate)
