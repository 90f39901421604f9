"""Dropout with one mask for all time steps."""

import jax
from jax.typing import ArrayLike

from jaxdrop.functional._masked import Flag, Key, apply_masked, mask_shape
from jaxdrop.masks import _internal as masks


def variational_dropout(
    key: Key,
    x: ArrayLike,
    rate: ArrayLike,
    *,
    deterministic: Flag = False,
    time_axis: int = 1,
) -> jax.Array:
    """Zeros the same elements at every time step of a sequence and rescales the rest.

    One decision for each example and feature, shared along ``time_axis``; independent between
    examples. The mean over keys is ``x``.

    Args:
        key: PRNG key; unused if ``deterministic`` is True.
        x: floating or complex array, of shape ``(B, L, C)`` or with its time axis elsewhere.
        rate: probability of dropping, in [0, 1]; may be traced; a scalar, or an array that
            broadcasts to the mask, ``(B, 1, C)``.
        deterministic: if true, returns ``x``; may be traced.
        time_axis: axis of ``x`` that counts time steps.

    Returns:
        Array with the shape and dtype of ``x``.

    Raises:
        TypeError: ``x`` is not a floating or complex array, ``key`` is not a PRNG key, or another
            argument is of the wrong type.
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
    x = masks.check_array(x)
    shared = masks.check_axes((time_axis,), x.ndim, "time_axis")
    deciding = [axis for axis in range(x.ndim) if axis not in shared]
    return apply_masked(key, x, rate, mask_shape(x, deciding), deterministic=deterministic)
