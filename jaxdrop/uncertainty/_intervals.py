"""Errors of point predictions, and whether intervals hold what they promise."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.uncertainty import _numbers


def root_mean_squared_error(mean: ArrayLike, targets: ArrayLike) -> jax.Array:
    """Root of the mean squared error of point predictions.

    ``sqrt(1/N sum_n (mean_n - y_n)^2)``; its gradient is 0 where there is no error at all.

    Args:
        mean: predictions, of the shape of ``targets``.
        targets: real numbers of any shape, at least one.

    Returns:
        Scalar in the unit of ``targets``; float32, or float64 if an argument is.

    Raises:
        TypeError: an argument is not of real numbers.
        ValueError: the shapes differ, there is no target, or known values are not finite.

    Example:
        >>> float(root_mean_squared_error(jnp.array([1.0, 2.0]), jnp.array([4.0, 6.0])))
        3.535533905029297
    """
    return _root_mean_squared_error(*_numbers.check_alike(mean=mean, targets=targets))


def interval_coverage(lower: ArrayLike, upper: ArrayLike, targets: ArrayLike) -> jax.Array:
    """Share of the targets that lie in their intervals, ends included.

    An interval for 90 % is calibrated where this is 0.9; look at `interval_width` too, for wide
    intervals hold everything.

    Args:
        lower: lower ends, of the shape of ``targets``; ``-inf`` for an open end.
        upper: upper ends, not below ``lower``; ``inf`` for an open end.
        targets: real numbers of any shape, at least one. A traced NaN gives NaN.

    Returns:
        Scalar in [0, 1]; float32, or float64 if an argument is.

    Raises:
        TypeError: an argument is not of real numbers.
        ValueError: the shapes differ, there is no target, known values are NaN, or a known
            interval ends before it begins.

    Example:
        >>> lower, upper = jnp.array([0.0, 0.0]), jnp.array([1.0, 1.0])
        >>> float(interval_coverage(lower, upper, jnp.array([1.0, 1.5])))
        0.5
    """
    given = _numbers.check_ends(lower=lower, upper=upper, targets=targets, finite=False)
    return _interval_coverage(*given)


def interval_width(lower: ArrayLike, upper: ArrayLike) -> jax.Array:
    """Mean width of intervals: among those with the coverage they promise, narrower is better.

    Args:
        lower: lower ends, of any shape.
        upper: upper ends, of the shape of ``lower`` and not below it.

    Returns:
        Scalar in the unit of the ends; float32, or float64 if an argument is.

    Raises:
        TypeError: an argument is not of real numbers.
        ValueError: the shapes differ, there is no interval, known values are not finite, or a
            known interval ends before it begins.

    Example:
        >>> float(interval_width(jnp.array([0.0, 1.0]), jnp.array([1.0, 4.0])))
        2.0
    """
    return _interval_width(*_numbers.check_ends(lower=lower, upper=upper))


@jax.jit
def _root_mean_squared_error(mean, targets):
    squared = jnp.square(mean - targets).mean()
    return jnp.where(squared == 0, 0, jnp.sqrt(jnp.where(squared == 0, 1, squared)))


@jax.jit
def _interval_coverage(lower, upper, targets):
    inside = ((lower <= targets) & (targets <= upper)).astype(targets.dtype)
    unknown = jnp.isnan(lower) | jnp.isnan(upper) | jnp.isnan(targets)
    return jnp.where(unknown, jnp.nan, inside).mean()


@jax.jit
def _interval_width(lower, upper):
    return (upper - lower).mean()
