"""Additive Gaussian noise."""

import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdrop.functional._masked import Flag, Key, shared_shape
from jaxdrop.functional._noisy import apply_noise
from jaxdrop.masks import _internal as masks


def gaussian_noise(
    key: Key,
    x: ArrayLike,
    stddev: ArrayLike,
    *,
    deterministic: Flag = False,
    broadcast_dims: Sequence[int] = (),
) -> jax.Array:
    """Adds Gaussian noise of a given standard deviation.

    The noise is N(0, stddev**2), in float32 and the same for every dtype of ``x``; the mean over
    keys is ``x``. Its gradient by ``stddev`` is the standard normal noise, and 0 where ``stddev``
    is 0.

    Args:
        key: PRNG key; unused if ``deterministic`` is True.
        x: floating array of any shape.
        stddev: standard deviation, finite and at least 0, in the unit of ``x``; may be traced; a
            scalar, or an array that broadcasts to the shape of ``x`` (with 1 on the
            ``broadcast_dims``). A traced one below 0 gives NaN.
        deterministic: if true, returns ``x``; may be traced.
        broadcast_dims: axes that share their noise.

    Returns:
        Array with the shape and dtype of ``x``.

    Raises:
        TypeError: ``x`` is not a floating array, ``stddev`` is not a real number, or another
            argument is of the wrong type.
        ValueError: ``stddev`` is negative, infinite or NaN or does not broadcast, ``key`` is a
            batch of keys, or ``broadcast_dims`` names an axis that ``x`` lacks, or one twice.

    Example:
        >>> y = gaussian_noise(jax.random.key(0), jnp.ones(10_000), 0.5)
        >>> [round(float(v), 1) for v in (y.mean(), y.std())]
        [1.0, 0.5]

    References:
        Bishop, "Training with noise is equivalent to Tikhonov regularization", 1995.
    """
    x = masks.check_array(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"x: expected a floating array, got dtype {x.dtype}; "
            "add noise to x.real and x.imag, each with a key of its own"
        )
    ends, remedy = (0.0, np.finfo(np.float64).max), "a variance v is the stddev v ** 0.5"
    shape = shared_shape(x, masks.check_axes(broadcast_dims, x.ndim, "broadcast_dims"))
    meaning = "standard deviations"
    stddev = masks.check_real(stddev, "stddev", ends, "[0, inf)", meaning, remedy, shape, "noise")
    masks.check_flag(deterministic)
    if equal_rate(stddev) == 0:
        return x
    return apply_noise(key, x, (stddev,), shape, deterministic=deterministic, apply=_add)


def equal_rate(stddev: Any) -> int | None:
    """0 for a ``stddev`` of 0 that is known now; None otherwise: no rate of dropping equals it."""
    return 0 if isinstance(stddev, numbers.Real) and stddev == 0 else None


def _add(noise: jax.Array, x: jax.Array, stddev: jax.Array) -> jax.Array:
    known = jnp.where(stddev >= 0, stddev, np.nan)
    return jnp.where(known == 0, x, x + known * noise)
