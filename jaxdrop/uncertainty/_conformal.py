"""Split-conformal prediction: intervals that cover as promised, for every model."""

import math
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.uncertainty import _checks, _repr


class Interval(NamedTuple):
    """Intervals, each end of the shape of the predictions.

    Attributes:
        lower: lower ends; ``-inf`` if they are not bounded.
        upper: upper ends; ``inf`` if they are not bounded.
    """

    lower: jax.Array
    upper: jax.Array

    def __repr__(self) -> str:
        return _repr.short(self)


def conformal_quantile(scores: ArrayLike, alpha: ArrayLike) -> jax.Array:
    """Bound that the score of a new example exceeds with a probability of at most ``alpha``.

    It is the ``ceil((N + 1) (1 - alpha))``-th smallest of N scores of held-out examples, so their
    quantile at level ``ceil((N + 1) (1 - alpha)) / N``. It is infinite if that number is above N:
    if there are fewer than ``1 / alpha - 1`` examples. The bound holds on average over held-out and
    new examples if these are exchangeable, for every model, also a bad one. If scores are never
    equal, it is exceeded with a probability of more than ``alpha - 1 / (N + 1)``.

    A score says how wrong a prediction was: ``abs(targets - mean) / deviation`` for
    `conformal_interval`, or ``1 - p`` with the probability p of the label of a classifier, whose
    set of classes are then all with ``1 - p <= quantile``.

    Args:
        scores: real numbers of shape ``(N, ...)``, held-out examples on axis 0; infinite ones are
            allowed. Not those of examples that the model was trained or tuned with. A traced NaN
            gives NaN.
        alpha: share that may be missed, one number in (0, 1). A traced one is used in the
            precision of the scores, and gives NaN outside of (0, 1).

    Returns:
        Array of shape ``(...)``, a scalar for scores of shape ``(N,)``; float32, or float64 if
        ``scores`` are.

    Raises:
        TypeError: an argument is not of real numbers.
        ValueError: ``scores`` is empty, a known one is NaN, or ``alpha`` is not one number in
            (0, 1).

    Example:
        >>> float(conformal_quantile(jnp.arange(1.0, 20.0), 0.1))  # the 18th of 19
        18.0
        >>> float(conformal_quantile(jnp.arange(1.0, 9.0), 0.1))  # 8 are too few
        inf

    References:
        Lei et al., "Distribution-free predictive inference for regression", 2018, section 2.2.
        Angelopoulos & Bates, "A gentle introduction to conformal prediction", 2021, section 1.
    """
    (array,) = _checks.check_real(finite=False, scores=scores)
    if array.ndim < 1 or not array.size:
        raise ValueError(
            f"scores: expected shape (N, ...) with at least one example, got {array.shape}; put "
            "held-out examples on axis 0"
        )
    (level,) = _checks.check_real(alpha=alpha)
    is_known = _checks.known(level)
    if level.ndim or (is_known and not 0 < float(level) < 1):
        raise ValueError(
            f"alpha: expected one number in (0, 1), the share that may be missed, got {alpha}; "
            "write for example alpha=0.1 for 90 %"
        )
    if is_known:
        # By its digits: 100 times the float 0.29 is below 29.
        missed = math.floor((len(array) + 1) * Fraction(str(alpha)))
        return _smallest(array, jnp.int32(len(array) + 1 - missed))
    level = level.astype(array.dtype)
    # What is whole but for rounding counts as whole.
    missed = jnp.floor((len(array) + 1) * level * (1 + 4 * jnp.finfo(level.dtype).eps))
    rank = len(array) + 1 - missed.astype(jnp.int32)
    return jnp.where((level > 0) & (level < 1), _smallest(array, jnp.maximum(rank, 1)), jnp.nan)


def conformal_interval(
    mean: ArrayLike, quantile: ArrayLike, deviation: ArrayLike = 1.0
) -> Interval:
    """Interval that contains a new target with the probability that `conformal_quantile` promises.

    ``mean - quantile * deviation`` to ``mean + quantile * deviation``. The quantile is that of the
    scores ``abs(targets - mean) / deviation`` of held-out examples. With the deviations of a model
    the intervals are wide where it is uncertain; with 1 all have the same width. The promise is
    about all examples together, not about each kind of them.

    Args:
        mean: predicted means, of any shape with at least one element.
        quantile: from `conformal_quantile`, at least 0: one number, or the shape of ``mean``.
        deviation: what the errors were divided by, at least 0: the shape of ``mean``, or one
            number.

    Returns:
        The `Interval`, ends of the shape of ``mean``; float32, or float64 if an argument is.
        Without bounds if the quantile is infinite.

    Raises:
        TypeError: an argument is not of real numbers.
        ValueError: the shapes do not fit, or known values are NaN, infinite (but for the
            quantile) or negative.

    Example:
        >>> mean, targets = jnp.zeros(19), jnp.arange(1.0, 20.0)  # held-out
        >>> quantile = conformal_quantile(abs(targets - mean), 0.1)
        >>> [end.tolist() for end in conformal_interval(jnp.array([5.0]), quantile)]
        [[-13.0], [23.0]]

    References:
        Lei et al., "Distribution-free predictive inference for regression", 2018, sections 2.2 and
        5.2.
    """
    _checks.check_real(mean=mean, deviation=deviation)  # finite, whereas the quantile need not be
    named = {"mean": mean, "deviation": deviation, "quantile": quantile}
    centre, spread, bound = _checks.check_real(finite=False, **named)
    _checks.check_shapes(["mean"], [centre])
    spread = _checks.check_noise(spread, "deviation", centre.shape)
    bound = _checks.check_noise(bound, "quantile", centre.shape)
    return _interval(centre, bound, spread)


@jax.jit
def _smallest(scores: jax.Array, rank: jax.Array) -> jax.Array:
    """The score of a rank from 1 on; infinity after the last."""
    ordered = jnp.concatenate([jnp.sort(scores, 0), jnp.full_like(scores[:1], jnp.inf)])
    return jnp.where(jnp.isnan(scores).any(0), jnp.nan, ordered[rank - 1])


@jax.jit
def _interval(mean: jax.Array, quantile: jax.Array, deviation: jax.Array) -> Interval:
    is_negative = (quantile < 0) | (deviation < 0)
    infinite = jnp.isinf(quantile)  # times a deviation of 0, too
    half = jnp.where(infinite, quantile, jnp.where(infinite, 1, quantile) * deviation)
    half = jnp.where(is_negative | jnp.isnan(deviation), jnp.nan, half)
    return Interval(mean - half, mean + half)
