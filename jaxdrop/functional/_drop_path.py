"""Dropout of residual branches, and the schedule of its rates over the depth of a network."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdrop.functional._masked import Flag, Key, apply_masked, mask_shape
from jaxdrop.masks import _internal as masks

_MODES = ("row", "batch")


def drop_path(
    key: Key,
    x: ArrayLike,
    rate: ArrayLike,
    *,
    deterministic: Flag = False,
    mode: str = "row",
    batch_axis: int = 0,
) -> jax.Array:
    """Drops whole examples of a residual branch and rescales the rest.

    Each example survives with probability ``1 - rate`` and is then divided by it, so the mean over
    keys is ``x``. Every element of one example shares one decision. Add the input of the branch to
    the result: a dropped branch leaves the identity.

    Args:
        key: PRNG key; unused if ``deterministic`` is True.
        x: output of the branch, floating or complex, of shape ``(B, ...)`` or with its axis of
            examples elsewhere.
        rate: probability of dropping, in [0, 1]; may be traced; a scalar, or an array that
            broadcasts to the mask: ``(B, 1, ...)``, in mode ``"batch"`` ``(1, ..., 1)``.
        deterministic: if true, returns ``x``; may be traced.
        mode: ``"row"`` decides for each example, ``"batch"`` once for all.
        batch_axis: axis of ``x`` that counts examples.

    Returns:
        Array with the shape and dtype of ``x``.

    Raises:
        TypeError: ``x`` is not a floating or complex array, ``key`` is not a PRNG key, or another
            argument is of the wrong type.
        ValueError: ``mode`` is unknown, ``rate`` lies outside [0, 1] or does not broadcast, ``key``
            is a batch of keys, or ``x`` lacks the ``batch_axis``.

    Example:
        >>> y = drop_path(jax.random.key(0), jnp.ones((4, 3)), 0.5)
        >>> sorted({float(v) for v in y.ravel()})
        [0.0, 2.0]
        >>> bool((y == y[:, :1]).all())
        True

    References:
        Huang et al., "Deep networks with stochastic depth", 2016, eq. 2; rescaled in training
        where the paper scales at inference, eq. 5.
    """
    if mode not in _MODES:
        raise ValueError(
            f"mode: expected 'row' or 'batch', got {mode!r}; "
            "write mode='row' for one decision per example, mode='batch' for one in all"
        )
    x = masks.check_array(x)
    axes = masks.check_axes((batch_axis,), x.ndim, "batch_axis")
    shape = mask_shape(x, axes if mode == "row" else ())
    return apply_masked(key, x, rate, shape, deterministic=deterministic)


def drop_path_rates(rate: ArrayLike, depth: int) -> tuple[float, ...] | jax.Array:
    """Rates of `drop_path` that rise linearly over the blocks of a network.

    Block ``l = 1, ..., depth`` gets ``rate * l / depth``: the first is dropped least, the last
    exactly with ``rate``.

    Args:
        rate: rate of the last block, in [0, 1]; a scalar, may be traced.
        depth: number of blocks, at least 1.

    Returns:
        A tuple of ``depth`` floats, or a float32 array of shape ``(depth,)`` if ``rate`` is a jax
        array, to scan over.

    Raises:
        TypeError: ``rate`` is not a real number, or ``depth`` is not an integer.
        ValueError: ``rate`` lies outside [0, 1] or is not a scalar, or ``depth`` is below 1.

    Example:
        >>> drop_path_rates(0.5, 4)
        (0.125, 0.25, 0.375, 0.5)
        >>> drop_path_rates(jnp.float32(0.5), 2)
        Array([0.25, 0.5 ], dtype=float32)

    References:
        Huang et al., "Deep networks with stochastic depth", 2016, eq. 4.
    """
    checked = masks.check_rate(rate)
    depth = masks.check_count(depth, "depth", 12)
    shares = np.arange(1, depth + 1) / depth  # 1 for the last: its rate is exact
    if checked.known is not None:
        return tuple((checked.known * shares).tolist())
    rate = jnp.asarray(checked.traced, jnp.float32)
    if rate.ndim:
        raise ValueError(
            f"rate: expected a scalar, the rate of the last block, got shape {rate.shape}; "
            "write for example rate=0.1"
        )
    return rate * shares.astype(np.float32)
