"""Calibration of a classifier: a confidence of 0.8 is right four times in five."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdrop.uncertainty import _checks, _repr, _scores


class ReliabilityCurve(NamedTuple):
    """Calibration per bin of confidence, each array of shape ``(num_bins,)``.

    An empty bin has ``share`` 0, and its centre as ``confidence`` and ``accuracy``. It lies on the
    diagonal, so it adds nothing to a summary of ``abs(accuracy - confidence)``. Plots leave it out
    by ``share > 0``.

    Attributes:
        confidence: mean confidence of the bin's examples.
        accuracy: share of the bin's examples that are classified right.
        share: share of all examples that fall into the bin; the shares sum to 1. NaN in every
            bin if a traced confidence is NaN.
    """

    confidence: jax.Array
    accuracy: jax.Array
    share: jax.Array

    def __repr__(self) -> str:
        return _repr.short(self)


def reliability_curve(
    probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15
) -> ReliabilityCurve:
    """Confidence and accuracy of the most probable class, the first of equal ones, per bin.

    Bin m of M holds the examples whose confidence, the largest of their probabilities, lies in
    ``((m - 1) / M, m / M]``: equal widths, closed on the right. A calibrated model has equal
    confidence and accuracy in every bin.

    Args:
        probabilities: floating array of shape ``(B..., C)``, its rows summing to 1.
        labels: class numbers in [0, C), integers of shape ``(B...)``. A traced one that is
            not a class gives NaN.
        num_bins: number of bins, a Python integer of at least 1.

    Returns:
        The `ReliabilityCurve`; float32, or float64 if ``probabilities`` is.

    Raises:
        TypeError: ``probabilities`` is not floating, ``labels`` are not integers, or ``num_bins``
            is not a Python integer.
        ValueError: the shapes do not fit, there is no example, known values are not probabilities
            or not classes, or ``num_bins`` is below 1.

    Example:
        >>> p = jnp.array([[0.75, 0.25], [0.75, 0.25], [0.0, 1.0], [0.0, 1.0]])
        >>> curve = reliability_curve(p, jnp.array([0, 1, 1, 1]), num_bins=2)
        >>> [part.tolist() for part in curve]  # the first bin is empty
        [[0.25, 0.875], [0.25, 0.75], [0.0, 1.0]]

    References:
        Guo et al., "On calibration of modern neural networks", 2017, section 2.
    """
    return _reliability_curve(*_check(probabilities, labels, num_bins))


def expected_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15
) -> jax.Array:
    """Mean gap between confidence and accuracy over the bins of the `reliability_curve`.

    ``ECE = sum_m share_m |accuracy_m - confidence_m|``. It is above 0 even for a calibrated model,
    and the more so with fewer examples. It depends on ``num_bins`` too, so compare errors only for
    equal numbers of bins and examples.

    Args:
        probabilities: floating array of shape ``(B..., C)``, its rows summing to 1.
        labels: class numbers in [0, C), integers of shape ``(B...)``. A traced one that is
            not a class gives NaN.
        num_bins: number of bins, a Python integer of at least 1.

    Returns:
        Scalar in [0, 1]; float32, or float64 if ``probabilities`` is.

    Raises:
        TypeError: as `reliability_curve`.
        ValueError: as `reliability_curve`.

    Example:
        >>> p = jnp.array([[0.75, 0.25], [0.75, 0.25]])
        >>> float(expected_calibration_error(p, jnp.array([0, 1])))
        0.25

    References:
        Guo et al., "On calibration of modern neural networks", 2017, eq. 3.
    """
    return _gap(reliability_curve(probabilities, labels, num_bins=num_bins))


def classwise_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15
) -> jax.Array:
    """Mean gap between the probability of a class and its frequency, over bins and classes.

    ``1/C sum_c sum_m share_cm |frequency_cm - mean_cm|``, with the probabilities of class c in the
    bins of the `reliability_curve`. It depends on all probabilities of a prediction,
    `expected_calibration_error` only on the largest. Both are above 0 even for a calibrated model.

    Args:
        probabilities: floating array of shape ``(B..., C)``, its rows summing to 1.
        labels: class numbers in [0, C), integers of shape ``(B...)``. A traced one that is
            not a class gives NaN.
        num_bins: number of bins, a Python integer of at least 1.

    Returns:
        Scalar in [0, 1]; float32, or float64 if ``probabilities`` is.

    Raises:
        TypeError: as `reliability_curve`.
        ValueError: as `reliability_curve`.

    Example:
        >>> p = jnp.array([[0.75, 0.25], [0.75, 0.25]])
        >>> float(classwise_calibration_error(p, jnp.array([0, 1])))
        0.25

    References:
        Kull et al., "Beyond temperature scaling: obtaining well-calibrated multi-class
        probabilities with Dirichlet calibration", 2019.
    """
    return _classwise_calibration_error(*_check(probabilities, labels, num_bins))


def _check(
    probabilities: ArrayLike, labels: ArrayLike, num_bins: int
) -> tuple[jax.Array, jax.Array, int]:
    pair = _checks.check_pair(probabilities, labels)
    return *pair, _checks.check_count(num_bins, "num_bins", "bin", 15)


@functools.partial(jax.jit, static_argnames="num_bins")
def _reliability_curve(p: jax.Array, labels: jax.Array, num_bins: int) -> ReliabilityCurve:
    return _bins(*_scores.top_label(p, labels), num_bins)


@functools.partial(jax.jit, static_argnames="num_bins")
def _classwise_calibration_error(p: jax.Array, labels: jax.Array, num_bins: int) -> jax.Array:
    hits = _scores.hits(p, labels)
    by_class = jnp.moveaxis(p, -1, 0), jnp.moveaxis(hits, -1, 0)
    # One class at a time, because all at once would hold one mask per bin and class.
    return jax.lax.map(lambda pair: _gap(_bins(pair[0], pair[1], num_bins)), by_class).mean()


def _gap(curve: ReliabilityCurve) -> jax.Array:
    return jnp.sum(curve.share * abs(curve.accuracy - curve.confidence))


def _bins(confidence: jax.Array, correct: jax.Array, num_bins: int) -> ReliabilityCurve:
    dtype = confidence.dtype
    edges = np.arange(num_bins + 1) / num_bins
    centres = jnp.asarray((edges[1:] + edges[:-1]) / 2, dtype)
    # The outermost bins are open to what rounding puts outside [0, 1].
    edges[[0, -1]] = -np.inf, np.inf
    ends = jnp.asarray([edges[:-1], edges[1:]], dtype)
    lower, upper = ends.reshape(2, num_bins, *confidence.ndim * [1])
    # Negated, so that NaN falls into every bin and shows. A masked sum per bin rather than a
    # scatter, which adds one element after another: in float32 that loses percents of a million.
    inside = ~(confidence[None] <= lower) & ~(confidence[None] > upper)
    axes = tuple(range(1, inside.ndim))
    count = inside.sum(axes, dtype=jnp.int32)

    def mean(values: jax.Array) -> jax.Array:
        total = jnp.where(inside, values[None], 0).sum(axes)
        return jnp.where(count == 0, centres, total / jnp.maximum(count, 1).astype(dtype))

    share = count.astype(dtype) / confidence.size
    share = jnp.where(jnp.isnan(confidence).any(), jnp.nan, share)
    return ReliabilityCurve(mean(confidence), mean(correct), share)
