"""Calibration of a regression: a predicted quantile of 0.8 lies above four targets in five."""

import functools
from statistics import NormalDist
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdrop.uncertainty import _checks, _repr


class QuantileCurve(NamedTuple):
    """Calibration of a regression, each array of shape ``(num_levels,)``.

    Attributes:
        level: levels of the predicted quantiles, ``1 / (M + 1), ..., M / (M + 1)``.
        frequency: share of targets at or below the quantile of that level.
    """

    level: jax.Array
    frequency: jax.Array

    def __repr__(self) -> str:
        return _repr.short(self)


def quantile_curve(
    mean: ArrayLike, variance: ArrayLike, targets: ArrayLike, *, num_levels: int = 19
) -> QuantileCurve:
    """How often targets fall below the quantiles of Gaussian predictions, by level.

    A calibrated model has ``frequency = level``. If the predicted deviations are too small, the
    curve lies above the diagonal at low levels and below it at high ones; if they are too large, it
    is the other way round.

    Args:
        mean: predicted means, of the shape of ``targets``.
        variance: predicted variances, at least 0: the shape of ``targets``, or one number. A
            traced negative one gives NaN.
        targets: real numbers of any shape, at least one.
        num_levels: number of levels M, a Python integer of at least 1.

    Returns:
        The `QuantileCurve`; float32, or float64 if an argument is.

    Raises:
        TypeError: an argument is not of real numbers, or ``num_levels`` is not a Python integer.
        ValueError: the shapes differ, there is no target, known values are not finite, a
            variance is negative, or ``num_levels`` is below 1.

    Example:
        >>> curve = quantile_curve(jnp.zeros(4), 1.0, jnp.array([-2, -0.1, 0.1, 2]), num_levels=3)
        >>> [part.tolist() for part in curve]
        [[0.25, 0.5, 0.75], [0.25, 0.5, 0.75]]

    References:
        Kuleshov et al., "Accurate uncertainties for deep learning using calibrated regression",
        2018.
    """
    gaussian = _checks.check_gaussian(mean, variance, targets)
    num_levels = _checks.check_count(num_levels, "num_levels", "level", 19)
    return _quantile_curve(*gaussian, num_levels)


def quantile_calibration_error(
    mean: ArrayLike, variance: ArrayLike, targets: ArrayLike, *, num_levels: int = 19
) -> jax.Array:
    """Mean gap between level and frequency over the levels of the `quantile_curve`.

    ``1/M sum_m |frequency_m - level_m|``: near 0 for a calibrated model, at most 1/2.

    Args:
        mean: predicted means, of the shape of ``targets``.
        variance: predicted variances, at least 0: the shape of ``targets``, or one number. A
            traced negative one gives NaN.
        targets: real numbers of any shape, at least one.
        num_levels: number of levels M, a Python integer of at least 1.

    Returns:
        Scalar in [0, 1/2]; float32, or float64 if an argument is.

    Raises:
        TypeError: as `quantile_curve`.
        ValueError: as `quantile_curve`.

    Example:
        >>> targets = jnp.array([-2, -0.1, 0.1, 2])
        >>> float(quantile_calibration_error(jnp.zeros(4), 1.0, targets, num_levels=3))
        0.0

    References:
        Kuleshov et al., "Accurate uncertainties for deep learning using calibrated regression",
        2018.
    """
    curve = quantile_curve(mean, variance, targets, num_levels=num_levels)
    return abs(curve.frequency - curve.level).mean()


@functools.partial(jax.jit, static_argnames="num_levels")
def _quantile_curve(
    mean: jax.Array, variance: jax.Array, targets: jax.Array, num_levels: int
) -> QuantileCurve:
    levels = np.arange(1, num_levels + 1) / (num_levels + 1)
    normal = [NormalDist().inv_cdf(level) for level in levels.tolist()]
    normal = jnp.asarray(normal, mean.dtype).reshape(-1, *[1] * mean.ndim)
    deviation = jnp.sqrt(jnp.where(variance >= 0, variance, jnp.nan))
    # Targets are compared with the quantile, not levels with the distribution function, which would
    # be 0 / 0 for a variance of 0 and rounded near 1.
    below = (targets - mean)[None] <= deviation[None] * normal
    frequency = below.astype(mean.dtype).mean(tuple(range(1, below.ndim)))
    unknown = jnp.isnan(deviation).any() | jnp.isnan(targets - mean).any()
    return QuantileCurve(jnp.asarray(levels, mean.dtype), jnp.where(unknown, jnp.nan, frequency))
