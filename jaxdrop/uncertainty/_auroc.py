"""How well a score tells two kinds of examples apart."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.uncertainty import _checks
from jaxdrop.uncertainty._risk_coverage import runs_of_equals


def auroc(scores: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Area under the ROC curve: how often a positive example scores above a negative one.

    The share of the pairs of one positive and one negative example in which the positive has the
    larger score; equal scores count half. It is 1/2 for scores that are unrelated to the labels and
    1 for a perfect order. It is computed from ranks, so it is exact up to rounding. Its gradient is
    0.

    If the score is an uncertainty, the area measures how well it detects errors,
    ``auroc(entropy, wrong)``, or inputs that are not like the training data,
    ``auroc(concatenated, is_out_of_distribution)``.

    Args:
        scores: real numbers of shape ``(N,)``, larger means more likely positive. A traced NaN
            gives NaN.
        labels: shape ``(N,)``: booleans, or 0 and 1 as integers; both kinds must occur. Traced
            ones that lack a kind or contain other numbers give NaN.

    Returns:
        Scalar in [0, 1]; float32, or float64 if ``scores`` is.

    Raises:
        TypeError: ``scores`` is not of real numbers, or ``labels`` neither boolean nor integer.
        ValueError: a shape is not ``(N,)`` with N at least 1, the shapes differ, known scores are
            NaN, or known labels lack a kind or contain other numbers than 0 and 1.

    Example:
        >>> float(auroc(jnp.array([0.1, 0.4, 0.4, 0.9]), jnp.array([0, 0, 1, 1])))
        0.875

    References:
        Hanley & McNeil, "The meaning and use of the area under a receiver operating
        characteristic (ROC) curve", 1982.
    """
    (array,) = _checks.check_real(scores=scores, finite=False)
    return _auroc(array, _check_labels(array, labels))


def false_positive_rate(
    scores: ArrayLike, labels: ArrayLike, *, at_recall: ArrayLike = 0.95
) -> jax.Array:
    """Share of the negative examples that are taken for positive at a recall, FPR at 95 % TPR.

    An example is taken for positive if its score is not below a threshold: the largest score at
    which the share of the positive examples that are recognised, the recall, is ``at_recall`` or
    more. Of equal scores, the threshold takes all. The rate is 0 if the scores separate both kinds,
    and about ``at_recall`` if they are unrelated to the labels. Its gradient is 0.

    If the score is an uncertainty, ``false_positive_rate(concatenated, is_out_of_distribution)`` is
    the rate of false alarms. Papers that call familiar inputs the positive ones report
    ``false_positive_rate(-concatenated, ~is_out_of_distribution)``, which is another number.

    Args:
        scores: real numbers of shape ``(N,)``, larger means more likely positive. A traced NaN
            gives NaN.
        labels: shape ``(N,)``: booleans, or 0 and 1 as integers; both kinds must occur. Traced
            ones that lack a kind or contain other numbers give NaN.
        at_recall: number in (0, 1]. A traced one outside gives NaN.

    Returns:
        Scalar in [0, 1]; float32, or float64 if ``scores`` or ``at_recall`` is.

    Raises:
        TypeError: ``scores`` or ``at_recall`` is not of real numbers, or ``labels`` neither boolean
            nor integer.
        ValueError: as `auroc`, or ``at_recall`` is not one number or is known and outside (0, 1].

    Example:
        >>> scores = jnp.array([0.1, 0.4, 0.4, 0.9])
        >>> float(false_positive_rate(scores, jnp.array([0, 0, 1, 1])))
        0.5

    References:
        Liang et al., "Enhancing the reliability of out-of-distribution image detection in neural
        networks", 2018, section 4.
    """
    array, recall = _checks.check_real(scores=scores, at_recall=at_recall, finite=False)
    labels = _check_labels(array, labels)
    return _false_positive_rate(array, labels, _check_recall(recall))


def _check_recall(recall: jax.Array) -> jax.Array:
    if recall.ndim:
        raise ValueError(
            f"at_recall: expected one number, got shape {recall.shape}; "
            "take one of them, or use jax.vmap for each"
        )
    if _checks.known(recall):
        (value,) = _checks.read(lambda x: [x], recall)
        if not 0 < value <= 1:
            raise ValueError(
                f"at_recall: expected a number in (0, 1], got {value:.6g}; "
                "write for example at_recall=0.95"
            )
    return recall


def _check_labels(scores: jax.Array, labels: ArrayLike) -> jax.Array:
    positive = _checks.as_array(labels, "labels")
    if positive.dtype != jnp.bool_ and not jnp.issubdtype(positive.dtype, jnp.integer):
        raise TypeError(
            f"labels: expected booleans, or 0 and 1 as integers, got dtype {positive.dtype}; "
            "write for example predicted != labels"
        )
    if scores.ndim != 1 or scores.shape != positive.shape or not positive.size:
        raise ValueError(
            "scores and labels: expected the same shape (N,) with N of at least 1, got "
            f"{scores.shape} and {positive.shape}; flatten both with .ravel()"
        )
    positive = positive.astype(jnp.int32)
    if _checks.known(positive):
        low, high = _checks.read(_checks.extremes, positive)
        if (low, high) != (0, 1):
            raise ValueError(
                "labels: expected both 0 and 1 and nothing else, got values from "
                f"{low} to {high}; give examples of both kinds, for example labels == 2"
            )
    return positive


@jax.jit
def _false_positive_rate(scores: jax.Array, labels: jax.Array, recall: jax.Array) -> jax.Array:
    ranked, label = jax.lax.sort((scores, labels), num_keys=1)
    start, _ = runs_of_equals(ranked)

    def share_from_here_up(counted: jax.Array) -> jax.Array:
        count = jnp.cumsum(counted, dtype=jnp.int32)
        below = jnp.where(start == 0, 0, count[start - 1])
        return (count[-1] - below).astype(scores.dtype) / count[-1].astype(scores.dtype)

    # 19 of 20 reach 0.95, also where a device does not round a quotient to the nearest number.
    enough = recall * (1 - 4 * jnp.finfo(scores.dtype).eps.item())
    reached = share_from_here_up(label == 1) >= enough
    # The share falls with the threshold, so its minimum is that of the largest threshold.
    rate = jnp.where(reached, share_from_here_up(label == 0), 1).min()
    return jnp.where(_is_sound(ranked, labels) & (recall > 0) & (recall <= 1), rate, jnp.nan)


@jax.jit
def _auroc(scores: jax.Array, labels: jax.Array) -> jax.Array:
    ranked, label = jax.lax.sort((scores, labels), num_keys=1)
    positive = label == 1
    start, end = runs_of_equals(ranked)
    # A positive wins against the negatives below it, and half against those of equal score. That is
    # the mean of how many score lower and how many do not score higher; integers keep it exact.
    negatives = jnp.cumsum(~positive, dtype=jnp.int32)
    total = negatives[-1]
    below = jnp.where(start == 0, 0, negatives[start - 1])
    won = (below + negatives[end - 1]).astype(scores.dtype) / (2 * total).astype(scores.dtype)
    area = jnp.where(positive, won, 0).sum() / positive.sum(dtype=jnp.int32).astype(scores.dtype)
    return jnp.where(_is_sound(ranked, labels), area, jnp.nan)


def _is_sound(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether no score is NaN, and the labels are 0 and 1 and both occur."""
    both = (labels == 0).any() & (labels == 1).any()
    return ~jnp.isnan(scores).any() & ((labels == 0) | (labels == 1)).all() & both
