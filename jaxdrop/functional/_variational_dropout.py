"""Dropout with one mask for all time steps."""

import jax
from jax.typing import ArrayLike

from jaxdrop.functional._drop import Flag, Key, check_axes, drop, mask_shape
from jaxdrop.masks import _mask


def variational_dropout(
    key: Key,
    x: ArrayLike,
    rate: ArrayLike,
    *,
    deterministic: Flag = False,
    time_axis: int = 1,
) -> jax.Array:
    """Zeros the same entries at every time step of a sequence and rescales the rest.

    One decision for each example and feature, shared along ``time_axis``; independent between
    examples. The mean over keys is ``x``.

    Args:
        key: PRNG key that this call consumes; may be None where nothing is drawn: if
            ``deterministic`` is True or the rate a known 0 or 1.
        x: floating or complex array, of shape ``(B, L, C)`` or with its time axis elsewhere.
        rate: probability of dropping, in [0, 1]; may be traced; a scalar, or an array that
            broadcasts to the mask, ``(B, 1, C)``.
        deterministic: if true, returns ``x``; may be traced.
        time_axis: axis of ``x`` that counts time steps.

    Returns:
        Array with the shape and dtype of ``x``.

    Raises:
        TypeError: as `dropout`.
        ValueError: ``rate`` lies outside [0, 1] or does not broadcast, ``key`` is a batch of keys,
            or ``x`` lacks the ``time_axis``.

    Example:
        >>> y = variational_dropout(jax.random.key(2), jnp.ones((3, 10, 4)), 0.5)
        >>> bool((y == y[:, :1]).all())
        True

    References:
        Gal & Ghahramani, "A theoretically grounded application of dropout in recurrent neural
        networks", 2016, section 4.
    """
    x = _mask.check_array(x)
    shared = check_axes((time_axis,), x.ndim, "time_axis")
    own = [axis for axis in range(x.ndim) if axis not in shared]
    return drop(key, x, rate, mask_shape(x, own), deterministic=deterministic)
