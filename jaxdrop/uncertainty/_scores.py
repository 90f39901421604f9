"""Scores of predicted probabilities against the true labels."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdrop.uncertainty import _checks


def negative_log_likelihood(probabilities: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Mean of ``-log`` of the probability of the true class.

    ``-1/N sum_n log p_n[y_n]``; smaller is better. A probability below the smallest normal number
    of the dtype counts as that number: one such example adds 87.3 nats in float32, 708.4 in
    float64, and its gradient is 0.

    Args:
        probabilities: floating array of shape ``(B..., C)``, its rows summing to 1; for a
            Monte-Carlo prediction the average of the samples.
        labels: class numbers in [0, C), integers of shape ``(B...)``. A traced one that is
            not a class gives NaN.

    Returns:
        Scalar in nats; float32, or float64 if ``probabilities`` is.

    Raises:
        TypeError: ``probabilities`` is not floating, or ``labels`` are not integers.
        ValueError: the shapes do not fit, there is no example, or known values are not
            probabilities or not classes.

    Example:
        >>> p = jnp.array([[0.5, 0.5], [0.1, 0.9]])
        >>> round(float(negative_log_likelihood(p, jnp.array([0, 1]))), 4)
        0.3993

    References:
        Good, "Rational decisions", 1952.
    """
    return _negative_log_likelihood(*_checks.check_pair(probabilities, labels))


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Mean squared distance between the predicted probabilities and the one-hot labels.

    ``1/N sum_n sum_c (p_nc - [y_n = c])^2``, the original form, a sum over all classes. It lies
    between 0 and 2; smaller is better. For two classes it is twice the score of a single class.

    Args:
        probabilities: floating array of shape ``(B..., C)``, its rows summing to 1.
        labels: class numbers in [0, C), integers of shape ``(B...)``. A traced one that is
            not a class gives NaN.

    Returns:
        Scalar; float32, or float64 if ``probabilities`` is.

    Raises:
        TypeError: as `negative_log_likelihood`.
        ValueError: as `negative_log_likelihood`.

    Example:
        >>> p = jnp.array([[0.5, 0.5], [0.25, 0.75]])
        >>> float(brier_score(p, jnp.array([0, 1])))
        0.3125

    References:
        Brier, "Verification of forecasts expressed in terms of probability", 1950, eq. 2.
    """
    return _brier_score(*_checks.check_pair(probabilities, labels))


def accuracy(probabilities: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Share of examples whose most probable class, the first of equal ones, is the true one.

    Ties are decided as ``argmax`` decides them.

    Args:
        probabilities: floating array of shape ``(B..., C)``, its rows summing to 1.
        labels: class numbers in [0, C), integers of shape ``(B...)``. A traced one that is
            not a class gives NaN.

    Returns:
        Scalar in [0, 1]; float32, or float64 if ``probabilities`` is.

    Raises:
        TypeError: as `negative_log_likelihood`.
        ValueError: as `negative_log_likelihood`.

    Example:
        >>> p = jnp.array([[0.9, 0.1], [0.4, 0.6]])
        >>> float(accuracy(p, jnp.array([0, 0])))
        0.5
    """
    return _accuracy(*_checks.check_pair(probabilities, labels))


def joint_log_likelihood(probabilities: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Mean log probability that the samples give to the labels of T inputs together.

    ``log 1/S sum_s prod_t p_st[y_t]``, averaged over the groups of T inputs, if there are several.
    Larger is better. The labels of one input tell a mixture nothing of its samples, but those of
    many inputs do: a model whose samples differ in what they do not know gives them more than the
    product of its averaged predictions. For T of 1 it is minus the `negative_log_likelihood` of the
    average. It is a sum of T logarithms, so compare it only for equal T.

    A probability below the smallest normal number of the dtype counts as that number, and its
    gradient is 0. The sum over samples is taken from the logarithms, so T may be large.

    Args:
        probabilities: floating array of shape ``(S, B..., T, C)``, samples on axis 0.
        labels: class numbers in [0, C), integers of shape ``(B..., T)``. A traced one that is
            not a class gives NaN.

    Returns:
        Scalar in nats; float32, or float64 if ``probabilities`` is.

    Raises:
        TypeError: ``probabilities`` is not floating, or ``labels`` are not integers.
        ValueError: the shape is not ``(S, B..., T, C)``, the shapes do not fit, there is no
            example, or known values are not probabilities or not classes.

    Example:
        >>> bent_either_way = jnp.array([[[0.9, 0.1]] * 3, [[0.1, 0.9]] * 3])  # three throws
        >>> labels = jnp.array([1, 1, 1])
        >>> round(float(joint_log_likelihood(bent_either_way, labels)), 4)
        -1.0079
        >>> fair = jnp.full((1, 3, 2), 0.5)
        >>> round(float(joint_log_likelihood(fair, labels)), 4)
        -2.0794

    References:
        Osband et al., "The neural testbed: evaluating joint predictions", 2022, section 2.
    """
    p = _checks.check_probabilities(probabilities, samples=True)
    if p.ndim < 3:
        raise ValueError(
            f"probabilities: expected shape (S, B..., T, C), got {p.shape}; "
            "put samples, inputs and classes on one axis each, with reshape"
        )
    return _joint_log_likelihood(p, _checks.check_labels(labels, "probabilities[0]", p.shape[1:]))


def top_label(p: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Probability of the most probable class per row, and 1 if it is the true one, else 0."""
    confidence = p.max(-1)
    correct = (p.argmax(-1).astype(labels.dtype) == labels).astype(p.dtype)
    return confidence, jnp.where(_valid(p, labels), correct, jnp.nan)


def hits(p: jax.Array, labels: jax.Array) -> jax.Array:
    """Per class 1 if it is the true one, else 0; NaN if that is unknown."""
    true = one_hot(labels, p).astype(p.dtype)
    return jnp.where(_valid(p, labels)[..., None], true, jnp.nan)


def one_hot(labels: jax.Array, like: jax.Array) -> jax.Array:
    """Booleans of the shape of ``like``, true where the index on the last axis is the label."""
    # A comparison is partitioned as the arrays are, which a gather or a scatter is not.
    labels = jnp.expand_dims(labels, -1)
    return labels == jax.lax.broadcasted_iota(labels.dtype, like.shape, like.ndim - 1)


@jax.jit
def _negative_log_likelihood(p: jax.Array, labels: jax.Array) -> jax.Array:
    return (0 - _log_probability(p, labels)).mean()  # 0 - x, because -x would give -0.0


@jax.jit
def _joint_log_likelihood(p: jax.Array, labels: jax.Array) -> jax.Array:
    joint = _log_probability(p, labels[None]).sum(-1)
    log_sum = jax.scipy.special.logsumexp(joint, axis=0)
    return (log_sum - np.log(p.shape[0]).item()).mean()


@jax.jit
def _brier_score(p: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.square(p - hits(p, labels)).sum(-1).mean()


@jax.jit
def _accuracy(p: jax.Array, labels: jax.Array) -> jax.Array:
    return top_label(p, labels)[1].mean()


def _log_probability(p: jax.Array, labels: jax.Array) -> jax.Array:
    """Logarithm of the probability of the true class per row; NaN if that is unknown."""
    hit = jnp.where(one_hot(labels, p), p, 0).sum(-1)
    log = jnp.log(jnp.maximum(hit, jnp.finfo(p.dtype).tiny))
    return jnp.where(_valid(p, labels), log, jnp.nan)


def _valid(p: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether the label of a row is a class, and none of its probabilities is NaN."""
    return (labels >= 0) & (labels < p.shape[-1]) & ~jnp.isnan(p).any(-1)
