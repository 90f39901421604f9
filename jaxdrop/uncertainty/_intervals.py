"""The error of point predictions, and the coverage and width of intervals."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.uncertainty import _checks


def root_mean_squared_error(mean: ArrayLike, targets: ArrayLike) -> jax.Array:
    """Root of the mean squared error of point predictions.

    ``sqrt(1/N sum_n (mean_n - y_n)^2)``. Its gradient is 0 if all errors are 0.

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
    return _root_mean_squared_error(*_check_alike(mean=mean, targets=targets))


def interval_coverage(lower: ArrayLike, upper: ArrayLike, targets: ArrayLike) -> jax.Array:
    """Share of the targets that lie in their intervals, ends included.

    Intervals for 90 % are calibrated if this is 0.9. Look at `interval_width` too, because wide
    intervals cover everything.

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
    ends = {"lower": lower, "upper": upper}
    return _interval_coverage(*_check_ends(**ends, targets=targets, finite=False))


def interval_width(lower: ArrayLike, upper: ArrayLike) -> jax.Array:
    """Mean width of intervals: of intervals with the right coverage, narrower ones are better.

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
    return _interval_width(*_check_ends(lower=lower, upper=upper))


def _check_alike(*, finite: bool = True, **named: ArrayLike) -> list[jax.Array]:
    """Arrays of real numbers by name, of one shape, with at least one element."""
    arrays = _checks.check_real(finite=finite, **named)
    _checks.check_shapes(named, arrays)
    return arrays


def _check_ends(*, finite: bool = True, **named: ArrayLike) -> list[jax.Array]:
    """Lower and upper ends, and targets if there are any; no interval ends before it begins."""
    arrays = _check_alike(finite=finite, **named)
    ends = arrays[:2]
    if all(map(_checks.known, ends)):
        (swapped,) = _checks.read(lambda ends: [(ends[0] > ends[1]).sum()], ends)
        if swapped:
            raise ValueError(
                "lower and upper: expected lower <= upper everywhere, got the opposite for "
                f"{swapped} of {ends[0].size}; swap the two, or sort them with jnp.sort"
            )
    return arrays


@jax.jit
def _root_mean_squared_error(mean: jax.Array, targets: jax.Array) -> jax.Array:
    squared = jnp.square(mean - targets).mean()
    return jnp.where(squared == 0, 0, jnp.sqrt(jnp.where(squared == 0, 1, squared)))


@jax.jit
def _interval_coverage(lower: jax.Array, upper: jax.Array, targets: jax.Array) -> jax.Array:
    inside = ((lower <= targets) & (targets <= upper)).astype(targets.dtype)
    unknown = jnp.isnan(lower) | jnp.isnan(upper) | jnp.isnan(targets)
    return jnp.where(unknown, jnp.nan, inside).mean()


@jax.jit
def _interval_width(lower: jax.Array, upper: jax.Array) -> jax.Array:
    return (upper - lower).mean()
