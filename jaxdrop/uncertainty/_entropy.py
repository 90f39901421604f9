"""Entropies of class probabilities, in nats, and their split into two kinds of uncertainty."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.uncertainty import _checks


def entropy(probabilities: ArrayLike) -> jax.Array:
    """Shannon entropy of each row of class probabilities.

    ``H[p] = -sum_c p_c log p_c`` with ``0 log 0 = 0``. It lies between 0, if one class has
    probability 1, and ``log C``, if all are equal. A probability below the smallest normal number
    counts as 0, and its gradient is 0, the limit that a softmax gives.

    Args:
        probabilities: floating array of shape ``(..., C)``, its rows summing to 1.

    Returns:
        Array of shape ``(...)`` in nats; float32, or float64 if ``probabilities`` is.

    Raises:
        TypeError: ``probabilities`` is not floating.
        ValueError: it has fewer than two classes, or its values are known and are not
            probabilities.

    Example:
        >>> h = entropy(jnp.array([[0.5, 0.5], [1.0, 0.0]]))
        >>> np.round(h / np.log(2), 4).tolist()
        [1.0, 0.0]

    References:
        Shannon, "A mathematical theory of communication", 1948, section 6.
    """
    return entropy_of(_checks.check_probabilities(probabilities))


def predictive_entropy(probabilities: ArrayLike) -> jax.Array:
    """Entropy of the averaged prediction: the whole uncertainty about the class.

    ``H[1/S sum_s p_s]``. It is the sum of `expected_entropy` and `mutual_information`.

    Args:
        probabilities: floating array of shape ``(S, ..., C)``, samples on axis 0.

    Returns:
        Array of shape ``(...)`` in nats; float32, or float64 if ``probabilities`` is.

    Raises:
        TypeError: as `entropy`.
        ValueError: as `entropy`, or the axis of samples is missing or empty.

    Example:
        >>> sure_but_at_odds = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> round(float(predictive_entropy(sure_but_at_odds)), 4)
        0.6931

    References:
        Gal, "Uncertainty in deep learning", 2016, section 3.3.1.
    """
    return predictive_entropy_of(_checks.check_probabilities(probabilities, samples=True))


def expected_entropy(probabilities: ArrayLike) -> jax.Array:
    """Average entropy of the samples: the part that no knowledge of the weights removes.

    ``1/S sum_s H[p_s]``, often called aleatoric; at most the `predictive_entropy`.

    Args:
        probabilities: floating array of shape ``(S, ..., C)``, samples on axis 0.

    Returns:
        Array of shape ``(...)`` in nats; float32, or float64 if ``probabilities`` is.

    Raises:
        TypeError: as `entropy`.
        ValueError: as `predictive_entropy`.

    Example:
        >>> sure_but_at_odds = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> float(expected_entropy(sure_but_at_odds))
        0.0

    References:
        Houlsby et al., "Bayesian active learning for classification and preference learning",
        2011, eq. 2, second term.
    """
    return expected_entropy_of(_checks.check_probabilities(probabilities, samples=True))


def mutual_information(probabilities: ArrayLike) -> jax.Array:
    """Information that the class carries about the weights: how much the samples disagree.

    ``H[1/S sum_s p_s] - 1/S sum_s H[p_s]``, known as BALD and often called epistemic. It is never
    negative, at most ``log S``, and 0 if all samples agree. It is computed as the mean divergence
    of the samples from their average, ``1/S sum_s sum_c p_sc log(p_sc / mean_c)``, which is the
    same number and keeps small values that a difference of entropies rounds away.

    Args:
        probabilities: floating array of shape ``(S, ..., C)``, samples on axis 0.

    Returns:
        Array of shape ``(...)`` in nats; float32, or float64 if ``probabilities`` is.

    Raises:
        TypeError: as `entropy`.
        ValueError: as `predictive_entropy`.

    Example:
        >>> sure_but_at_odds = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> round(float(mutual_information(sure_but_at_odds)), 4)
        0.6931

    References:
        Houlsby et al., "Bayesian active learning for classification and preference learning",
        2011, eq. 2. Gal, "Uncertainty in deep learning", 2016, section 3.3.1.
    """
    return mutual_information_of(_checks.check_probabilities(probabilities, samples=True))


@jax.jit
def entropy_of(p: jax.Array) -> jax.Array:
    return jnp.sum(p * (0 - _safe_log(p)), axis=-1)  # 0 - x, because -x would give -0.0


@jax.jit
def predictive_entropy_of(p: jax.Array) -> jax.Array:
    return entropy_of(p.mean(0))


@jax.jit
def expected_entropy_of(p: jax.Array) -> jax.Array:
    return entropy_of(p).mean(0)


@jax.jit
def mutual_information_of(p: jax.Array) -> jax.Array:
    mean = p.mean(0, keepdims=True)
    gone = _vanishes(mean)
    deviation = jnp.where(gone, 0, p - mean)
    mean = jnp.where(gone, 1, mean)
    ratio = deviation / mean
    # log1p is exact if a sample is near the mean; far below the mean, 1 + ratio would lose p.
    near = (ratio > -0.5) & (p >= 0)
    far_log = _safe_log(p) - jnp.log(mean)
    log_ratio = jnp.where(near, jnp.log1p(jnp.where(near, ratio, 0)), far_log)
    # The deviations add up to 0 over the samples. Subtracting them makes every term positive, so
    # that rounding does not cancel digits.
    divergence = jnp.sum(p * log_ratio - deviation, axis=-1).mean(0)
    return jnp.maximum(divergence, 0)


def _safe_log(x: jax.Array) -> jax.Array:
    """``log x``, or 0 with a finite gradient if x vanishes."""
    return jnp.log(jnp.where(_vanishes(x), 1, x))


def _vanishes(x: jax.Array) -> jax.Array:
    # Below the smallest normal number, XLA may flush x to 0 and give log x = -inf. Negative numbers
    # and NaN, which a traced array can contain, do not vanish: they come out as NaN.
    return abs(x) < jnp.finfo(x.dtype).tiny
