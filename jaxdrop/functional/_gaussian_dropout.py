"""Multiplicative Gaussian noise instead of a mask."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxdrop.functional._masked import Flag, Key, shared_shape
from jaxdrop.functional._noisy import apply_noise
from jaxdrop.masks import _internal as masks


def gaussian_dropout(
    key: Key,
    x: ArrayLike,
    rate: ArrayLike,
    *,
    deterministic: Flag = False,
    broadcast_dims: Sequence[int] = (),
) -> jax.Array:
    """Multiplies elements by Gaussian noise with the mean and the variance of dropout.

    The noise is N(1, rate / (1 - rate)), in float32 and the same for every dtype of ``x``; the mean
    over keys is ``x``. The variance has no bound as the rate goes to 1: at 1 itself the result is
    zeros, as of `dropout`. Nothing but the key is kept for the backward pass. The rate has no
    gradient; `variational_gaussian_dropout` learns one.

    Args:
        key: PRNG key; unused if ``deterministic`` is True.
        x: floating or complex array of any shape.
        rate: rate of the dropout with the same variance, in [0, 1]; may be traced; a scalar, or
            an array that broadcasts to the shape of ``x`` (with 1 on the ``broadcast_dims``).
        deterministic: if true, returns ``x``; may be traced.
        broadcast_dims: axes that share their noise.

    Returns:
        Array with the shape and dtype of ``x``.

    Raises:
        TypeError: ``x`` is not a floating or complex array, ``key`` is not a PRNG key, or another
            argument is of the wrong type.
        ValueError: ``rate`` lies outside [0, 1] or does not broadcast, ``key`` is a batch of keys,
            or ``broadcast_dims`` names an axis that ``x`` lacks, or one twice.

    Example:
        >>> y = gaussian_dropout(jax.random.key(0), jnp.ones(10_000), 0.2)
        >>> [round(float(v), 1) for v in (y.mean(), y.std())]
        [1.0, 0.5]

    References:
        Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
        2014, section 10.
    """
    x = masks.check_array(x)
    shape = shared_shape(x, masks.check_axes(broadcast_dims, x.ndim, "broadcast_dims"))
    checked = masks.check_rate(rate, shape, "noise", deterministic)
    if checked.settled:
        return jnp.zeros_like(x) if checked.known else x
    return apply_noise(key, x, (checked.value,), shape, deterministic=deterministic, apply=_scale)


def _scale(noise: jax.Array, x: jax.Array, rate: jax.Array) -> jax.Array:
    rate = lax.stop_gradient(rate)
    everything = rate == 1
    some = jnp.where(everything, 0, rate)
    factor = 1 + jnp.sqrt(some / (1 - some)) * noise
    # Multiplying by 1 may still flush a denormal: at rate 0 the result is x, bit for bit.
    y = jnp.where(some == 0, x, x * factor.astype(x.dtype))
    return jnp.where(everything, jnp.zeros((), x.dtype), y)
