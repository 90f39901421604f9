"""Calibrates the variances of a regression by one number, without changing its means."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.uncertainty import _checks


def variance_scaling(mean: ArrayLike, variance: ArrayLike, targets: ArrayLike) -> jax.Array:
    """Factor s for which the variances ``s * variance`` are most likely on held-out targets.

    For Gaussians it is ``s = 1/N sum_n (y_n - mean_n)^2 / variance_n``: the twin of
    `temperature_scaling`. Fit it on a validation set, then multiply every variance by it. The means
    stay, and so does the order of the variances. Predictions are overconfident if s is above 1. A
    variance over passes of dropout leaves out the noise of the data, so its s is often far above 1.

    Args:
        mean: predicted means, of the shape of ``targets``.
        variance: predicted variances, above 0: the shape of ``targets``, or one number. A traced
            one that is not above 0 gives NaN.
        targets: real numbers of any shape, at least one.

    Returns:
        Scalar of at least 0; float32, or float64 if an argument is.

    Raises:
        TypeError: an argument is not of real numbers.
        ValueError: the shapes differ, ``targets`` is empty, or known values are not finite or a
            variance is not above 0.

    Example:
        >>> mean, targets = jnp.zeros(4), jnp.array([-2.0, 2.0, 2.0, -2.0])
        >>> float(variance_scaling(mean, 1.0, targets))
        4.0

    References:
        Laves et al., "Well-calibrated regression uncertainty in medical imaging with deep
        learning", 2020, section 2.4.
    """
    return _variance_scaling(*_checks.check_gaussian(mean, variance, targets, positive=True))


@jax.jit
def _variance_scaling(mean: jax.Array, variance: jax.Array, targets: jax.Array) -> jax.Array:
    variance = jnp.where(variance > 0, variance, jnp.nan)
    return (jnp.square(targets - mean) / variance).mean()
