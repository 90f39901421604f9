"""Dropout of single entries, in training and at inference."""

from collections.abc import Sequence

import jax
from jax.typing import ArrayLike

from jaxdrop.functional._drop import Flag, Key, check_axes, drop, mask_shape
from jaxdrop.masks import _mask


def dropout(
    key: Key,
    x: ArrayLike,
    rate: ArrayLike,
    *,
    deterministic: Flag = False,
    broadcast_dims: Sequence[int] = (),
) -> jax.Array:
    """Zeros entries of an array at random and rescales the rest.

    Each entry survives with probability ``1 - rate`` and is then divided by it, so the mean over
    keys is ``x``. The probability is the one that the random bits really have: within 2**-16 of
    the asked one, within 1 % of a rate from 1e-5 on, and exact for rates such as 0.5 or 0.25.

    Args:
        key: PRNG key that this call consumes; may be None where nothing is drawn: if
            ``deterministic`` is True or the rate a known 0 or 1.
        x: floating or complex array of any shape.
        rate: probability of dropping, in [0, 1]; may be traced; a scalar, or an array that
            broadcasts to the shape of ``x`` (with 1 on the ``broadcast_dims``).
        deterministic: if true, returns ``x``; may be traced.
        broadcast_dims: axes that share one decision.

    Returns:
        Array with the shape and dtype of ``x``.

    Raises:
        TypeError: ``x`` is an integer or boolean array, ``key`` is not a PRNG key, or another
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
    x = _mask.check_array(x)
    shared = check_axes(broadcast_dims, x.ndim, "broadcast_dims")
    own = [axis for axis in range(x.ndim) if axis not in shared]
    return drop(key, x, rate, mask_shape(x, own), deterministic=deterministic)


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
        key: PRNG key that this call consumes; may be None where nothing is drawn: if
            ``deterministic`` is True or the rate a known 0 or 1.
        x: floating or complex array of any shape.
        rate: probability of dropping, in [0, 1]; may be traced; a scalar, or an array that
            broadcasts to the shape of ``x`` (with 1 on the ``broadcast_dims``).
        deterministic: if true, returns ``x``; may be traced.
        broadcast_dims: axes that share one decision.

    Returns:
        Array with the shape and dtype of ``x``.

    Raises:
        TypeError: as `dropout`.
        ValueError: as `dropout`.

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
