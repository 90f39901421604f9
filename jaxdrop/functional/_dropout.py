"""Dropout of single elements, in training and at inference."""

from collections.abc import Sequence

import jax
from jax.typing import ArrayLike

from jaxdrop.functional._masked import Flag, Key, apply_masked, mask_shape
from jaxdrop.masks import _internal as masks


def dropout(
    key: Key,
    x: ArrayLike,
    rate: ArrayLike,
    *,
    deterministic: Flag = False,
    broadcast_dims: Sequence[int] = (),
) -> jax.Array:
    """Zeros elements of an array at random and rescales the rest.

    Each element survives with probability ``1 - rate`` and is then divided by it, so the mean over
    keys is ``x``. The probability is the one that the random bits really have: within 2**-16 of
    the asked one, within 1 % of a rate from 1e-5 on, and exact for rates such as 0.5 or 0.25.

    Args:
        key: PRNG key; unused if ``deterministic`` is True.
        x: floating or complex array of any shape.
        rate: probability of dropping, in [0, 1]; may be traced; a scalar, or an array that
            broadcasts to the shape of ``x`` (with 1 on the ``broadcast_dims``).
        deterministic: if true, returns ``x``; may be traced.
        broadcast_dims: axes that share one decision.

    Returns:
        Array with the shape and dtype of ``x``.

    Raises:
        TypeError: ``x`` is not a floating or complex array, ``key`` is not a PRNG key, or another
            argument is of the wrong type.
        ValueError: ``rate`` lies outside [0, 1] or does not broadcast, ``key`` is a batch of keys,
            or ``broadcast_dims`` names an axis that ``x`` lacks, or one twice.

    Example:
        >>> y = dropout(jax.random.key(0), jnp.ones((2, 8)), 0.5)
        >>> sorted({float(v) for v in y.ravel()})
        [0.0, 2.0]

    References:
        Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
        2014, section 4; rescaled in training, section 10.
    """
    x = masks.check_array(x)
    shared = masks.check_axes(broadcast_dims, x.ndim, "broadcast_dims")
    deciding = [axis for axis in range(x.ndim) if axis not in shared]
    return apply_masked(key, x, rate, mask_shape(x, deciding), deterministic=deterministic)


def mc_dropout(
    key: Key,
    x: ArrayLike,
    rate: ArrayLike,
    *,
    deterministic: Flag = False,
    broadcast_dims: Sequence[int] = (),
) -> jax.Array:
    """Dropout that is meant to stay on at inference, where every pass samples a sub-network.

    The same values as `dropout` for the same arguments. The difference lies in the modules:
    ``MCDropout`` stays on when the model is put in evaluation mode.

    Args:
        key: PRNG key; unused if ``deterministic`` is True.
        x: floating or complex array of any shape.
        rate: probability of dropping, in [0, 1]; may be traced; a scalar, or an array that
            broadcasts to the shape of ``x`` (with 1 on the ``broadcast_dims``).
        deterministic: if true, returns ``x``; may be traced.
        broadcast_dims: axes that share one decision.

    Returns:
        Array with the shape and dtype of ``x``.

    Raises:
        TypeError: ``x`` is not a floating or complex array, ``key`` is not a PRNG key, or another
            argument is of the wrong type.
        ValueError: ``rate`` lies outside [0, 1] or does not broadcast, ``key`` is a batch of keys,
            or ``broadcast_dims`` names an axis that ``x`` lacks, or one twice.

    Example:
        >>> keys = jax.random.split(jax.random.key(0), 100)
        >>> samples = jax.vmap(lambda key: mc_dropout(key, jnp.ones(4), 0.5).sum())(keys)
        >>> samples.shape
        (100,)

    References:
        Gal & Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in
        deep learning", 2016, eq. 6.
    """
    return dropout(key, x, rate, deterministic=deterministic, broadcast_dims=broadcast_dims)
