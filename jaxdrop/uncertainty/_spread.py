"""How much the samples differ: in their votes, in their probabilities, in their means."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.uncertainty import _checks, _repr, _scores


class VarianceSplit(NamedTuple):
    """Mean and variances of a prediction, each of the shape of one sample.

    Attributes:
        mean: mean of the predicted means.
        epistemic: variance of the predicted means, which more data would reduce.
        aleatoric: mean of the predicted variances, the noise of the data.
        total: sum of the two.
    """

    mean: jax.Array
    epistemic: jax.Array
    aleatoric: jax.Array
    total: jax.Array

    def __repr__(self) -> str:
        return _repr.short(self)


def variance_split(means: ArrayLike, variances: ArrayLike) -> VarianceSplit:
    """Splits the variance of a mixture of predictions into model and noise.

    ``total = 1/S sum_s (mean_s - mean)^2 + 1/S sum_s variance_s``. The first part is computed from
    deviations, not as a difference of squares, so it is accurate even if it is small beside the
    mean. It is 0 for one sample.

    Args:
        means: predicted means, shape ``(S, ...)``, samples on axis 0.
        variances: predicted variances, at least 0: the shape of ``means``, or one number for a
            known noise level, ``1 / precision``. A traced negative one gives NaN.

    Returns:
        The `VarianceSplit`; float32, or float64 if an argument is.

    Raises:
        TypeError: an argument is not of real numbers.
        ValueError: there is no sample, the shapes do not fit, or known values are not finite or
            a variance is negative.

    Example:
        >>> split = variance_split(jnp.array([[1.0], [3.0]]), jnp.array([[0.5], [1.5]]))
        >>> [float(part[0]) for part in split]
        [2.0, 1.0, 1.0, 2.0]

    References:
        Kendall & Gal, "What uncertainties do we need in Bayesian deep learning for computer
        vision?", 2017, eq. 9.
    """
    mu, noise = _checks.check_real(means=means, variances=variances)
    _checks.check_samples("means", mu)
    return _variance_split(mu, _checks.check_noise(noise, "variances", mu.shape))


def variation_ratio(probabilities: ArrayLike) -> jax.Array:
    """Share of the samples that do not vote for the class with most votes.

    ``1 - (votes for the mode) / S``. Each sample votes for its most probable class, the first of
    equal ones. The ratio is 0 if all samples agree and at most ``1 - 1 / C``. Its gradient is 0.

    Args:
        probabilities: floating array of shape ``(S, ..., C)``, samples on axis 0.

    Returns:
        Array of shape ``(...)``; float32, or float64 if ``probabilities`` is.

    Raises:
        TypeError: ``probabilities`` is not floating.
        ValueError: the axis of samples is missing or empty, there are fewer than two classes, or
            the values are known and are not probabilities.

    Example:
        >>> votes = jax.nn.one_hot(jnp.array([0, 0, 0, 2]), 3)
        >>> float(variation_ratio(votes))
        0.25

    References:
        Freeman, "Elementary applied statistics", 1965. Gal, "Uncertainty in deep learning", 2016,
        section 3.3.1.
    """
    return _variation_ratio(_checks.check_probabilities(probabilities, samples=True))


def mean_std(probabilities: ArrayLike) -> jax.Array:
    """Standard deviation of the probabilities over the samples, averaged over the classes.

    ``1/C sum_c sqrt(1/S sum_s (p_sc - mean_c)^2)`` is an acquisition score between 0, if all
    samples agree, and 1/2. A class without deviation has the gradient 0.

    Args:
        probabilities: floating array of shape ``(S, ..., C)``, samples on axis 0.

    Returns:
        Array of shape ``(...)``; float32, or float64 if ``probabilities`` is.

    Raises:
        TypeError: as `variation_ratio`.
        ValueError: as `variation_ratio`.

    Example:
        >>> sure_but_at_odds = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> float(mean_std(sure_but_at_odds))
        0.5

    References:
        Kampffmeyer et al., "Semantic segmentation of small objects and modeling of uncertainty in
        urban remote sensing images using deep convolutional neural networks", 2016. Gal et al.,
        "Deep Bayesian active learning with image data", 2017.
    """
    return _mean_std(_checks.check_probabilities(probabilities, samples=True))


def epistemic_by_class(probabilities: ArrayLike) -> jax.Array:
    """How much each class adds to the epistemic uncertainty.

    ``variance_c / (2 mean_c)`` of the probabilities of class c over the samples, 0 if all of them
    are 0. The sum over the classes is the `mutual_information` up to the third order in the
    deviations from the mean. The division makes rare and common classes comparable: a variance
    alone is small for every rare class.

    Args:
        probabilities: floating array of shape ``(S, ..., C)``, samples on axis 0.

    Returns:
        Array of shape ``(..., C)`` in nats; float32, or float64 if ``probabilities`` is.

    Raises:
        TypeError: as `variation_ratio`.
        ValueError: as `variation_ratio`.

    Example:
        >>> p = jnp.array([[0.25, 0.25, 0.5], [0.75, 0.25, 0.0]])
        >>> epistemic_by_class(p).tolist()
        [0.0625, 0.0, 0.125]

    References:
        Toure & Stephens, "Not just how much, but where: decomposing epistemic uncertainty into
        per-class contributions", 2026.
    """
    return _epistemic_by_class(_checks.check_probabilities(probabilities, samples=True))


@jax.jit
def _epistemic_by_class(p: jax.Array) -> jax.Array:
    mean = p.mean(0, keepdims=True)
    # Below the smallest normal number, XLA may flush the mean to 0.
    gone = abs(mean) < jnp.finfo(p.dtype).tiny
    deviation = jnp.where(gone, 0, p - mean)
    # Divided before it is squared: the square of a small number may vanish.
    shares = (deviation * (deviation / jnp.where(gone, 1, mean))).mean(0) / 2
    return jnp.where(jnp.isnan(p).any((0, -1))[..., None], jnp.nan, shares)


@jax.jit
def _mean_std(p: jax.Array) -> jax.Array:
    variance = jnp.square(p - p.mean(0, keepdims=True)).mean(0)
    same = variance == 0  # where the square root would have an infinite gradient
    return jnp.where(same, 0, jnp.sqrt(jnp.where(same, 1, variance))).mean(-1)


@jax.jit
def _variation_ratio(p: jax.Array) -> jax.Array:
    votes = jnp.sum(_scores.one_hot(p.argmax(-1), p), axis=0, dtype=jnp.int32)
    others = p.shape[0] - votes.max(-1)
    return jnp.where(jnp.isnan(p).any((0, -1)), jnp.nan, others.astype(p.dtype) / p.shape[0])


@jax.jit
def _variance_split(means: jax.Array, variances: jax.Array) -> VarianceSplit:
    first = means[0]
    # Differences of close numbers are exact, so those from the first sample lose no digit.
    shifted = means - first[None]
    shift = shifted.mean(0)
    epistemic = jnp.square(shifted - shift[None]).mean(0)
    aleatoric = jnp.where(variances >= 0, variances, jnp.nan).mean(0)
    return VarianceSplit(first + shift, epistemic, aleatoric, epistemic + aleatoric)
